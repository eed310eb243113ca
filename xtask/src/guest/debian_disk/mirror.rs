//! Where packages come from: what this machine's own apt knows, so that no mirror has a name here.

use std::process::Command;

use crate::failure::{Failure, Result};
use crate::process;

/// Debian's keys, as its package `debian-archive-keyring` has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Who made a list, where it is, its release and component: what we have apt tell.
const FORMAT: &str = "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)";
/// What Debian adds to a release.
const ADDITIONS: [&str; 2] = ["updates", "security"];

/// The lines of a `sources.list` for a release.
pub(super) fn sources(suite: &str) -> Result<String> {
    let targets = process::text(Command::new("apt-get").args([
        "indextargets",
        "--format",
        FORMAT,
        "Created-By: Packages",
    ]))?;
    let lines = lines(&targets, suite);
    if lines.is_empty() {
        return Err(Failure::new(format!("apt on this machine has no lists of Debian's {suite}"))
            .next("sudo apt-get update, and on another system than that add it to apt's sources"));
    }
    Ok(lines.concat())
}

fn lines(targets: &str, suite: &str) -> Vec<String> {
    let wanted = |release: &str| match release.strip_prefix(suite) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('-').is_some_and(|addition| ADDITIONS.contains(&addition)),
        None => false,
    };
    let lines = targets.lines().filter_map(|line| match *line.split(' ').collect::<Vec<_>>() {
        ["Debian", uri, release, component] if wanted(release) => {
            Some(format!("deb [signed-by={KEYRING}] {uri} {release} {component}\n"))
        }
        _ => None,
    });
    lines.collect()
}

/// What apt has been told of the way to its mirrors.
pub(super) fn proxies() -> Result<Vec<String>> {
    let arguments = ["dump", "--format", "%f \"%v\";%n", "Acquire::http", "Acquire::https"];
    let dump = process::text(Command::new("apt-config").args(arguments))?;
    Ok(dump.lines().filter(|line| !line.ends_with(" \"\";")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_releases_own_lists_count() {
        let targets = "Debian http://mirror/debian/ bookworm main\n\
            Debian http://mirror/debian/ bookworm-updates main\n\
            Debian http://mirror/debian/ bookworm-backports main\n\
            Debian http://mirror/security/ bookworm-security main\n\
            Debian http://mirror/debian/ trixie main\n\
            Somebody http://elsewhere/ bookworm stable\n\
            $(ORIGIN) http://mirror/never-fetched/ bookworm main\n";
        let lines = lines(targets, "bookworm");
        let tail = |line: &String| line.split_once("] ").expect("signed").1.to_owned();
        assert_eq!(
            lines.iter().map(tail).collect::<Vec<_>>(),
            [
                "http://mirror/debian/ bookworm main\n",
                "http://mirror/debian/ bookworm-updates main\n",
                "http://mirror/security/ bookworm-security main\n"
            ]
        );
    }
}
