//! The unsafe law, as `kernel/README.md` states it: where `unsafe` may be, and what must be said there.
//!
//! Clippy knows parts of it, but looks only at what is compiled for the host; this looks at the text.

use super::Violation;
use super::source::{SourceFile, code};

/// Folders in which `unsafe` may be used.
const UNSAFE_ROOMS: [&str; 3] = ["kernel/machine", "boot", "guest-images/selftest"];
/// A reason stands at most this many lines above what it is for.
const REACH: usize = 16;
/// In a macro, what is said comes from its caller.
const MACRO_DOCUMENTATION: &str = "$(#[$doc";

/// Everything in the Rust files that the law forbids.
pub(super) fn violations(files: &[SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let in_a_room = UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room));
        if !in_a_room && is_root(file) {
            violations.extend(root_violations(file));
        }
        let code = code(&file.lines);
        for (index, line) in code.iter().enumerate() {
            let found = if in_a_room { missing_reason(file, &code, index) } else { forbidden(line) };
            violations.extend(found.map(|what| Violation::new(&file.path, index + 1, what)));
        }
    }
    violations
}

fn is_root(file: &SourceFile) -> bool {
    file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs")
}

/// What the root of a safe crate must say.
fn root_violations(file: &SourceFile) -> Vec<Violation> {
    let has = |start: &str, text: &str| {
        file.lines.iter().any(|line| line.starts_with(start) && line.contains(text))
    };
    let mut violations = Vec::new();
    if !has("#![", "forbid(unsafe_code)") {
        violations.push(Violation::new(&file.path, 0, "the crate must say #![forbid(unsafe_code)]"));
    }
    if file.path.starts_with("kernel") && !has("#![", "no_std") {
        violations.push(Violation::new(&file.path, 0, "a crate of the kernel must be no_std"));
    }
    violations
}

fn forbidden(line: &str) -> Option<String> {
    let outside = "unsafe code belongs into kernel/machine or boot";
    words_after_unsafe(line).next().is_some().then(|| outside.to_owned())
}

fn missing_reason(file: &SourceFile, code: &[String], index: usize) -> Option<String> {
    let line = &code[index];
    let opts_in = line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
    if opts_in && !is_explained(file, code, index, &["UNSAFETY:"]) {
        return Some("say why the module needs unsafe code, in a line `// UNSAFETY: ...` above".to_owned());
    }
    for rest in words_after_unsafe(line) {
        let rest = if rest.is_empty() { code.get(index + 1).map_or("", |next| next.trim()) } else { rest };
        match Kind::of(rest) {
            Kind::Reasoned if !is_explained(file, code, index, &["SAFETY:"]) => {
                return Some("unsafe without its reason: add `// SAFETY: ...` above".to_owned());
            }
            Kind::Conditional
                if !implements_a_trait(code, index)
                    && !is_explained(file, code, index, &["# Safety", "SAFETY:"]) =>
            {
                return Some("an unsafe function or trait needs a section `# Safety`".to_owned());
            }
            _ => {}
        }
    }
    None
}

enum Kind {
    /// A block or an `impl`: needs a reason.
    Reasoned,
    /// A function or a trait: needs conditions.
    Conditional,
    /// An attribute, a type, or the declarations of an `extern` block, whose uses need reasons.
    Neither,
}

impl Kind {
    fn of(rest: &str) -> Self {
        // `extern "C" fn`: the string is blank in the code that we look at.
        let words: Vec<_> = rest.split_ascii_whitespace().collect();
        match words.as_slice() {
            [first, ..] if first.starts_with("fn(") => Self::Neither,
            ["fn" | "trait", ..] | ["extern", "fn", ..] => Self::Conditional,
            ["impl", ..] => Self::Reasoned,
            [first, ..] if first.starts_with('{') || first.starts_with("impl<") => Self::Reasoned,
            _ => Self::Neither,
        }
    }
}

/// For each word `unsafe` in a line of code, what follows it.
fn words_after_unsafe(line: &str) -> impl Iterator<Item = &str> {
    let is_word = |symbol: char| symbol.is_alphanumeric() || symbol == '_';
    line.match_indices("unsafe").filter_map(move |(place, word)| {
        let rest = &line[place + word.len()..];
        let alone = !line[..place].ends_with(is_word) && !rest.starts_with(is_word);
        alone.then(|| rest.trim())
    })
}

/// The conditions of a method stand at the trait. The item around a line is the nearest line above it that is
/// indented less.
fn implements_a_trait(code: &[String], index: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let own = indent(&code[index]);
    let outer = code[..index].iter().rev().find(|line| !line.trim().is_empty() && indent(line) < own);
    outer.is_some_and(|line| line.contains("impl") && line.contains(" for "))
}

/// Looks for one of the marks in the comments of the statement or item that the line belongs to: upwards
/// until the end of what comes before.
fn is_explained(file: &SourceFile, code: &[String], index: usize, marks: &[&str]) -> bool {
    for place in (index.saturating_sub(REACH)..=index).rev() {
        let line = &file.lines[place];
        if marks.iter().any(|mark| line.contains(mark)) || line.contains(MACRO_DOCUMENTATION) {
            return true;
        }
        let before = code[place].trim_end();
        let ends_something = before.ends_with([';', '{', '}']) || file.lines[place].trim().is_empty();
        if place < index && ends_something && !before.trim_start().starts_with("#[") {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<usize> {
        let lines = text.lines().map(str::to_owned).collect();
        violations(&[SourceFile { path: path.into(), lines }])
            .iter()
            .map(|violation| violation.line)
            .collect()
    }

    #[test]
    fn unsafe_code_has_its_rooms() {
        assert_eq!(found("kernel/loader/src/x.rs", "// unsafe\nunsafe { x() }\n"), [2]);
        assert_eq!(found("kernel/loader/src/x.rs", "let s = \"unsafe\"; not_unsafe();\n"), [0; 0]);
    }

    #[test]
    fn roots_of_safe_crates_say_so() {
        assert_eq!(found("kernel/loader/src/lib.rs", "#![no_std]\n").len(), 1);
        let good = "#![cfg_attr(not(test), no_std)]\n#![forbid(unsafe_code)]\n";
        assert!(found("kernel/loader/src/lib.rs", good).is_empty());
        assert_eq!(found("xtask/src/main.rs", "fn main() {}\n").len(), 1);
        assert!(found("kernel/machine/src/lib.rs", "#![no_std]\n").is_empty());
    }

    #[test]
    fn blocks_need_reasons() {
        let machine = "kernel/machine/src/x.rs";
        assert_eq!(found(machine, "a();\nlet x = unsafe { y() };\n"), [2]);
        assert!(found(machine, "// SAFETY: because.\nlet x = f(\n    unsafe { y() },\n);\n").is_empty());
        assert!(found(machine, "// SAFETY: because.\n#[inline]\nunsafe impl Send for X {}\n").is_empty());
        assert_eq!(found(machine, "// SAFETY: because.\na();\nb();\nunsafe { y() };\n"), [4]);
        assert!(found(machine, "unsafe extern \"C\" {\n    fn f();\n}\n").is_empty());
    }

    #[test]
    fn functions_need_conditions_and_types_need_nothing() {
        let boot = "boot/src/x.rs";
        assert_eq!(found(boot, "/// Does it.\npub unsafe fn f() {}\n"), [2]);
        assert!(found(boot, "/// # Safety\n/// 1. Only once.\n#[inline]\npub unsafe fn f() {}\n").is_empty());
        assert!(found(boot, "type F = unsafe extern \"C\" fn(u64);\n#[unsafe(no_mangle)]\n").is_empty());
        assert_eq!(found(boot, "pub unsafe extern \"C\" fn entry() {}\n"), [1]);
        let method = "// SAFETY: because.\nunsafe impl A for B {\n    fn a() {}\n\n    unsafe fn b() {}\n}\n";
        assert!(found(boot, method).is_empty());
    }

    #[test]
    fn modules_say_why_they_opt_in() {
        let machine = "kernel/machine/src/x.rs";
        assert_eq!(found(machine, "#![expect(unsafe_code)]\n"), [1]);
        assert!(found(machine, "// UNSAFETY: talks to the CPU.\n#![expect(unsafe_code)]\n").is_empty());
    }
}
