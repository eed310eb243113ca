//! The text files of the tree, and Rust source with its comments and strings taken out, so that words in
//! them are not mistaken for code.

use std::path::{Path, PathBuf};

use crate::failure::{Context, Result};
use crate::paths;

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// A text file of the tree.
pub(super) struct SourceFile {
    /// From the root of the tree.
    pub(super) path: PathBuf,
    /// Its lines.
    pub(super) lines: Vec<String>,
}

impl SourceFile {
    pub(super) fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }
}

/// All text files below `root`, sorted.
pub(super) fn files(root: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    walk(root, root, &mut files)?;
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    let entries = std::fs::read_dir(folder).context(format_args!("reading {}", paths::shown(folder)))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if SKIPPED.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, files)?;
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let lines = text.lines().map(str::to_owned).collect();
            files.push(SourceFile { path: path.strip_prefix(root).unwrap_or(&path).to_path_buf(), lines });
        }
    }
    Ok(())
}

enum State {
    Code,
    LineComment,
    BlockComment(usize),
    Text,
    RawText(usize),
}

/// The same lines with spaces in the place of comments, strings and characters.
pub(super) fn code(lines: &[String]) -> Vec<String> {
    let mut state = State::Code;
    lines.iter().map(|line| blank(line, &mut state)).collect()
}

fn blank(line: &str, state: &mut State) -> String {
    let symbols: Vec<char> = line.chars().collect();
    let at = |index: usize| symbols.get(index).copied().unwrap_or('\n');
    let mut code = String::new();
    let mut index = 0;
    if matches!(state, State::LineComment) {
        *state = State::Code;
    }
    while index < symbols.len() {
        let (next, width) = match (&*state, at(index), at(index + 1)) {
            (State::Code, '/', '/') => (Some(State::LineComment), 2),
            (State::Code, '/', '*') => (Some(State::BlockComment(1)), 2),
            (State::Code, '"', _) => (Some(State::Text), 1),
            (State::Code, 'r', '"' | '#') if !ends_in_word(&code) => raw_start(&symbols, index),
            (State::Code, '\'', '\\') => (None, character_width(&symbols, index)),
            (State::Code, '\'', _) if at(index + 2) == '\'' => (None, 3),
            (State::Code, symbol, _) => {
                code.push(symbol);
                index += 1;
                continue;
            }
            (State::BlockComment(depth), '/', '*') => (Some(State::BlockComment(depth + 1)), 2),
            (State::BlockComment(1), '*', '/') => (Some(State::Code), 2),
            (State::BlockComment(depth), '*', '/') => (Some(State::BlockComment(depth - 1)), 2),
            (State::Text, '\\', _) => (None, 2),
            (State::Text, '"', _) => (Some(State::Code), 1),
            (State::RawText(marks), '"', _) if (0..*marks).all(|mark| at(index + 1 + mark) == '#') => {
                (Some(State::Code), 1 + marks)
            }
            _ => (None, 1),
        };
        if let Some(next) = next {
            *state = next;
        }
        code.extend(std::iter::repeat_n(' ', width));
        index += width;
    }
    code
}

/// `r"`, `r#"` and so on begin a raw string; `r#name` is an identifier.
fn raw_start(symbols: &[char], index: usize) -> (Option<State>, usize) {
    let marks = symbols[index + 1..].iter().take_while(|symbol| **symbol == '#').count();
    match symbols.get(index + 1 + marks) {
        Some('"') => (Some(State::RawText(marks)), 2 + marks),
        _ => (None, 1),
    }
}

/// The width of a character such as `'\n'` or `'\u{1f}'`.
fn character_width(symbols: &[char], index: usize) -> usize {
    let rest = symbols[index + 3..].iter();
    3 + rest.take_while(|symbol| **symbol != '\'').count() + 1
}

fn ends_in_word(code: &str) -> bool {
    code.ends_with(|symbol: char| symbol.is_alphanumeric() || symbol == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blanked(text: &str) -> String {
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        code(&lines).iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn comments_and_strings_are_taken_out() {
        assert_eq!(blanked("a // unsafe"), "a");
        assert_eq!(blanked("a /* unsafe\n unsafe /* x */ */ b"), "a\n                   b");
        assert_eq!(blanked(r#"f("unsafe \" x", y)"#), "f(             , y)");
        assert_eq!(blanked("f(r#\"unsafe \" x\"#, y)"), "f(               , y)");
        assert_eq!(blanked("a\"one\ntwo\" b"), "a\n     b");
    }

    #[test]
    fn lifetimes_and_characters_are_told_apart() {
        assert_eq!(blanked("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
        assert_eq!(blanked(r"let q = '\''; let r = '{'; x"), "let q =     ; let r =    ; x");
        assert_eq!(blanked(r"let q = '\u{7f}'; x"), "let q =         ; x");
    }
}
