//! What the kernel's command line asks of dom0: words that begin with `basalt.`.

/// Asks for a shell on dom0's console.
pub(crate) const RESCUE: &str = "basalt.rescue";
/// What is behind its `=` names the node.
pub(crate) const NAME: &str = "basalt.name";

const FILE: &str = "/proc/cmdline";

/// Whether the word stands on the command line.
pub(crate) fn has(word: &str) -> bool {
    words(&read()).any(|found| found == word)
}

/// What is behind `key=`; the last one counts.
pub(crate) fn value(key: &str) -> Option<String> {
    words(&read()).filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')).last().map(str::to_owned)
}

fn read() -> String {
    // Without a command line nothing is asked.
    std::fs::read_to_string(FILE).unwrap_or_default()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_stand_between_spaces() {
        assert_eq!(
            words("  console=ttyS0\tbasalt.rescue\n").collect::<Vec<_>>(),
            ["console=ttyS0", "basalt.rescue"]
        );
    }
}
