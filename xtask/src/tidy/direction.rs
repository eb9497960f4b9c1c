//! Which crate may know which, and that every crate takes the workspace's lints.

use toml::{Table, Value};

use super::Violation;
use super::tree::{File, Tree};

/// Each crate with those it may depend on. Crates for developers (`testkit`, `xtask`, `fuzz`) may use any.
const CRATES: [(&str, &[&str]); 9] = [
    ("kernels", &[]),
    ("tensor", &["kernels"]),
    ("models", &["tensor"]),
    ("engine", &["models", "tensor"]),
    ("train", &["engine", "models", "tensor"]),
    ("hub", &[]),
    ("mlxengine", &["hub", "train", "engine", "models", "tensor", "kernels"]),
    ("server", &["mlxengine"]),
    ("cli", &["server", "mlxengine"]),
];

/// Dependencies against the direction, and crates without the workspace's lints.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let manifests = tree.files.iter().filter(|file| file.name() == "Cargo.toml");
    manifests
        .flat_map(|file| manifest(file).unwrap_or_else(|message| vec![at(file, "", "manifest", message)]))
        .collect()
}

fn manifest(file: &File) -> Result<Vec<Violation>, String> {
    let manifest: Table = file.text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let Some(own) = file.path.strip_prefix("crates/").and_then(|path| path.strip_suffix("/Cargo.toml")) else {
        return Ok(Vec::new());
    };
    let mut violations = Vec::new();
    let inherits = |lints: &Value| lints.get("workspace").and_then(Value::as_bool) == Some(true);
    if !manifest.get("lints").is_some_and(inherits) {
        violations.push(at(file, "[lints]", "lints", "`[lints] workspace = true` is missing".to_owned()));
    }
    if own == "testkit" {
        return Ok(violations);
    }
    let Some((_, allowed)) = CRATES.iter().find(|(name, _)| *name == own) else {
        let message = format!("`{own}` has no place in the order of crates yet");
        violations.push(at(file, "name", "direction", message));
        return Ok(violations);
    };
    for (name, dev) in dependencies(&manifest) {
        let Some(other) = member(&name) else { continue };
        if !allowed.contains(&other) && !(dev && (other == "testkit" || other == own)) {
            let message = format!("`{own}` may not know `{other}`, only {allowed:?}");
            violations.push(at(file, &name, "direction", message));
        }
    }
    Ok(violations)
}

/// Folder of the member that is called `package`.
fn member(package: &str) -> Option<&str> {
    package.strip_prefix("mlxengine-").or_else(|| Some(package).filter(|name| *name == "mlxengine"))
}

/// Names of the packages in all tables of dependencies, and whether it is one for tests.
fn dependencies(manifest: &Table) -> Vec<(String, bool)> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    let tables = targets.filter_map(|(_, target)| target.as_table()).chain([manifest]);
    let kinds = [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)];
    let lists = tables.flat_map(|table| kinds.map(|(kind, dev)| (table.get(kind).and_then(Value::as_table), dev)));
    let entries = lists.flat_map(|(list, dev)| list.into_iter().flatten().map(move |entry| (entry, dev)));
    entries
        .map(|((name, value), dev)| {
            let renamed = value.get("package").and_then(Value::as_str);
            (renamed.unwrap_or(name).to_owned(), dev)
        })
        .collect()
}

/// A violation at the first line that starts with `text`.
fn at(file: &File, text: &str, rule: &'static str, message: String) -> Violation {
    let line = file.lines().find(|(_, line)| line.starts_with(text)).map_or(1, |(number, _)| number);
    Violation::new(&file.path, line, rule, message)
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    fn rules(own: &str, dependencies: &str) -> Vec<String> {
        let text = format!("[package]\nname = \"a\"\n[lints]\nworkspace = true\n{dependencies}");
        said(check, &[(&format!("crates/{own}/Cargo.toml"), &text)])
    }

    #[test]
    fn lower_crates_may_be_known() {
        for (own, dependencies) in [
            ("tensor", "[dependencies]\nmlxengine-kernels.workspace = true\nhalf = \"2\""),
            ("kernels", "[dev-dependencies]\nmlxengine-testkit.workspace = true"),
            ("testkit", "[dependencies]\nmlxengine-engine.workspace = true"),
            ("cli", "[dependencies]\nmlxengine.workspace = true"),
        ] {
            assert_eq!(rules(own, dependencies), [""; 0], "{own}");
        }
    }

    #[test]
    fn upper_crates_may_not() {
        let expected = "crates/kernels/Cargo.toml:6: direction: `kernels` may not know `tensor`, only []";
        assert_eq!(rules("kernels", "[dependencies]\nmlxengine-tensor.workspace = true"), [expected]);
        for (own, dependencies) in [
            ("engine", "[target.'cfg(unix)'.dependencies]\nmlxengine.workspace = true"),
            ("cli", "[dev-dependencies]\nmlxengine-tensor.workspace = true"),
            ("models", "[dependencies]\nx = { package = \"mlxengine-engine\", path = \"../engine\" }"),
            ("engine", "[dependencies]\nmlxengine-testkit.workspace = true"),
            ("novel", ""),
        ] {
            assert_eq!(rules(own, dependencies).len(), 1, "{own} {dependencies}");
        }
    }

    #[test]
    fn lints_are_inherited() {
        let said = said(check, &[("crates/hub/Cargo.toml", "[package]\nname = \"mlxengine-hub\"\n")]);
        assert_eq!(said, ["crates/hub/Cargo.toml:1: lints: `[lints] workspace = true` is missing"]);
    }
}
