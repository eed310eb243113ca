//! `cargo xtask check`: the laws that keep the source readable and the kernel safe. What is wrong is printed
//! as `file:line: what`.

mod dependencies;
mod source;
mod tidiness;
mod unsafety;

use std::fmt;
use std::path::PathBuf;

use crate::failure::{Failure, Result};
use crate::{paths, process, progress, toolchain};

/// Something that a law forbids.
#[derive(Debug, Eq, PartialEq)]
struct Violation {
    /// The file, from the root of the tree.
    file: PathBuf,
    /// Its line, counted from one; 0 is the file as a whole.
    line: usize,
    /// What is wrong, and what would be right.
    what: String,
}

impl Violation {
    fn new(file: impl Into<PathBuf>, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.into(), line, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(formatter, "{}: {}", self.file.display(), self.what),
            line => write!(formatter, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

/// Looks at everything, and fails at the end if anything is wrong.
pub(crate) fn run() -> Result<()> {
    let files = source::files(&paths::root())?;
    let mut violations = Vec::new();
    for warning in tidiness::long_files(&files, &mut violations) {
        println!("warning: {warning}");
    }
    violations.extend(tidiness::foreign_paths(&files));
    violations.extend(unsafety::violations(&files));
    violations.extend(dependencies::violations()?);
    let mut failed: Vec<&str> = Vec::new();
    if !violations.is_empty() {
        violations.iter().for_each(|violation| println!("error: {violation}"));
        failed.push("the laws of the source (above)");
    }
    let format = ["fmt", "--all", "--", "--check", "-l"];
    if !passes("rustfmt", &format) {
        failed.push("rustfmt (`cargo fmt --all` mends it)");
    }
    let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    if !passes("clippy", &lints) {
        failed.push("clippy (above)");
    }
    // What only a kernel for tests has. Cargo lints the packages that are named.
    let of_faults = ["clippy", "--quiet", "-p", "machine", "-p", "basalt", "--features", "basalt/faults"];
    if !passes("clippy with boot faults", &[&of_faults[..], &["--", "-D", "warnings"]].concat()) {
        failed.push("clippy with boot faults (above)");
    }
    match failed.as_slice() {
        [] => {
            println!("check: all is well");
            Ok(())
        }
        failed => Err(Failure::new(format!("the check found faults: {}", failed.join(", ")))),
    }
}

fn passes(name: &str, arguments: &[&str]) -> bool {
    progress::step(name, || process::run(toolchain::cargo().args(arguments))).is_ok()
}
