//! The lines of the list.

use crate::ArchiveError;

/// A line that is neither empty nor a remark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Line<'a> {
    /// The kernel's options.
    Options(&'a str),
    /// A module.
    Module {
        /// The member's name.
        name: &'a str,
        /// What follows it.
        line: &'a str,
    },
}

/// The lines of a list.
pub(crate) fn lines(list: &str) -> impl Iterator<Item = Result<Line<'_>, ArchiveError<'_>>> {
    let told = |line: &&str| !line.is_empty() && !line.starts_with('#');
    list.lines()
        .map(str::trim_ascii)
        .filter(told)
        .map(|line| parse(line).ok_or(ArchiveError::BadLine { line }))
}

fn parse(line: &str) -> Option<Line<'_>> {
    let (word, rest) = split_word(line);
    match word {
        "options" => Some(Line::Options(rest)),
        "module" if !rest.is_empty() => {
            let (name, line) = split_word(rest);
            Some(Line::Module { name: crate::newc::plain_name(name), line })
        }
        _ => None,
    }
}

/// The first word, and what follows it.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(|symbol: char| symbol.is_ascii_whitespace()) {
        Some((word, rest)) => (word, rest.trim_ascii()),
        None => (text, ""),
    }
}
