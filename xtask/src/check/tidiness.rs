//! File lengths, and paths of somebody's own machine.

use super::Violation;
use super::source::SourceFile;

/// A file that is longer than this is reported; a reader should be able to hold it whole.
const LONG: usize = 400;
/// A file that is longer than this is an error.
const TOO_LONG: usize = 600;
/// Home and work folders of a single machine, in two pieces so that this file does not hold them.
const FOREIGN: [(&str, &str); 3] = [("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/")];

/// Long Rust files: reported, or violations when they are far too long.
pub(super) fn long_files(files: &[SourceFile], violations: &mut Vec<Violation>) -> Vec<Violation> {
    let mut warnings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && file.lines.len() > LONG) {
        let length = file.lines.len();
        let violation =
            Violation::new(&file.path, 0, format!("{length} lines; aim at {LONG}, {TOO_LONG} at most"));
        if length > TOO_LONG { &mut *violations } else { &mut warnings }.push(violation);
    }
    warnings
}

/// Absolute paths that exist on one machine only.
pub(super) fn foreign_paths(files: &[SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files {
        for (index, line) in file.lines.iter().enumerate() {
            for (start, end) in FOREIGN {
                let path = format!("{start}{end}");
                if line.match_indices(&path).any(|(place, _)| begins_a_path(&line[..place])) {
                    violations.push(Violation::new(
                        &file.path,
                        index + 1,
                        format!("names {path}, which exists on one machine only"),
                    ));
                }
            }
        }
    }
    violations
}

fn begins_a_path(before: &str) -> bool {
    !before.ends_with(|symbol: char| symbol.is_alphanumeric() || "-_.".contains(symbol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, lines: Vec<String>) -> SourceFile {
        SourceFile { path: path.into(), lines }
    }

    #[test]
    fn lengths() {
        let files = [401, 601, 400].map(|length| file("x.rs", vec![String::new(); length]));
        let mut violations = Vec::new();
        assert_eq!(long_files(&files, &mut violations).len(), 1);
        assert_eq!(violations.len(), 1);
    }

    #[test]
    fn only_paths_from_the_root_are_foreign() {
        let lines = vec![format!("cd {}rk/x", "/wo"), format!("net{}rk/x", "/wo"), "a/work/b".to_owned()];
        let found: Vec<_> =
            foreign_paths(&[file("x.md", lines)]).iter().map(|violation| violation.line).collect();
        assert_eq!(found, [1]);
    }
}
