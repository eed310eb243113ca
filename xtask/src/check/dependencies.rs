//! The dependency law: the table in `kernel/README.md` against what cargo knows of the workspace.

use std::path::Path;

use serde_json::Value;

use super::Violation;
use crate::failure::{Failure, Result};
use crate::{build, paths};

const README: &str = "kernel/README.md";
/// The heading of the table's second column tells it from the other tables.
const HEADING: &str = "may depend on";
const FOLDERS: [&str; 2] = ["kernel", "boot"];

/// A line of the table.
#[derive(Debug, Eq, PartialEq)]
struct Allowed {
    name: String,
    ours: Vec<String>,
    outside: Vec<String>,
}

/// A crate and what it depends on.
struct Crate {
    name: String,
    manifest: String,
    ours: Vec<String>,
    outside: Vec<String>,
}

/// The dependencies that the table does not have, crates that it does not know, and lines without a crate.
pub(super) fn violations() -> Result<Vec<Violation>> {
    let table = table(&paths::read(&paths::root().join(README))?);
    if table.is_empty() {
        return Err(Failure::new(format!("{README} has no table with a column `{HEADING}`")));
    }
    Ok(compare(&table, &crates(&build::metadata()?, &paths::root())))
}

fn compare(table: &[Allowed], crates: &[Crate]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for found in crates {
        let Some(allowed) = table.iter().find(|allowed| allowed.name == found.name) else {
            violations.push(Violation::new(&found.manifest, 0, format!("{README} does not know this crate")));
            continue;
        };
        for name in found.ours.iter().filter(|name| !allowed.ours.contains(name)) {
            let what = format!("`{}` must not depend on `{name}` ({README} says on what it may)", found.name);
            violations.push(Violation::new(&found.manifest, 0, what));
        }
        for name in found.outside.iter().filter(|name| !allowed.outside.contains(name)) {
            let what = format!("`{}` uses `{name}` from outside; {README} must allow it", found.name);
            violations.push(Violation::new(&found.manifest, 0, what));
        }
    }
    for allowed in table.iter().filter(|allowed| !crates.iter().any(|found| found.name == allowed.name)) {
        violations.push(Violation::new(README, 0, format!("there is no crate `{}`", allowed.name)));
    }
    violations
}

/// Reads the table: each name stands between backticks.
fn table(readme: &str) -> Vec<Allowed> {
    let rows = readme.lines().skip_while(|line| !(line.starts_with('|') && line.contains(HEADING)));
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    rows.take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').collect();
            let name = names(cells.first()?).into_iter().next()?;
            let column = |index: usize| cells.get(index).map(|cell| names(cell)).unwrap_or_default();
            Some(Allowed { name, ours: column(1), outside: column(2) })
        })
        .collect()
}

/// The crates that the law is about. A dependency with a path is ours.
fn crates(packages: &[Value], root: &Path) -> Vec<Crate> {
    let mut crates = Vec::new();
    for package in packages {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let manifest = manifest.strip_prefix(root).unwrap_or(manifest);
        if !FOLDERS.iter().any(|folder| manifest.starts_with(folder)) {
            continue;
        }
        let mut found = Crate {
            name: package["name"].as_str().unwrap_or_default().to_owned(),
            manifest: manifest.display().to_string(),
            ours: Vec::new(),
            outside: Vec::new(),
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let name = dependency["name"].as_str().unwrap_or_default().to_owned();
            match (dependency["path"].is_string(), dependency["kind"].as_str()) {
                (true, _) if name != found.name => found.ours.push(name),
                (true, _) | (false, Some("dev")) => {}
                (false, _) => found.outside.push(name),
            }
        }
        crates.push(found);
    }
    crates
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TABLE: &str = "| crate | its job |\n|---|---|\n| `x` | `y` |\n\n\
        | crate | may depend on | outside |\n|---|---|---|\n| `top` | `low`, `mid` | `log` |\n| `low` | | |\n\nend\n";

    fn package(name: &str, dependencies: &Value) -> Value {
        json!({ "name": name, "manifest_path": format!("/tree/kernel/{name}/Cargo.toml"), "dependencies": dependencies })
    }

    #[test]
    fn the_table_is_read() {
        let table = table(TABLE);
        assert_eq!(table.len(), 2);
        assert_eq!((table[0].ours.len(), table[0].outside.as_slice()), (2, &["log".to_owned()][..]));
        assert!(table[1].ours.is_empty());
    }

    #[test]
    fn what_the_table_does_not_have_is_found() {
        let packages = [
            package("top", &json!([{ "name": "low", "path": "/tree/kernel/low" }, { "name": "rand" }])),
            package(
                "low",
                &json!([{ "name": "top", "path": "/tree/kernel/top", "kind": "dev" }, { "name": "proptest", "kind": "dev" }]),
            ),
            package("new", &json!([])),
        ];
        let violations = compare(&table(TABLE), &crates(&packages, Path::new("/tree")));
        let all: Vec<_> = violations.iter().map(ToString::to_string).collect();
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].contains("`rand`") && all[1].contains("must not depend on `top`"));
        assert!(all[2].starts_with("kernel/new/Cargo.toml"));
    }

    #[test]
    fn the_real_table_is_there() {
        let readme = paths::read(&paths::root().join(README)).expect("readable");
        assert!(table(&readme).iter().any(|allowed| allowed.name == "hypervisor"));
    }
}
