//! What the checks want to know of a `Cargo.toml`: whose it is, and what it depends on.
//!
//! Reads the part of TOML that manifests are written in here: one dependency per line, or one table
//! per dependency.

/// A crate's manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The crate's name; empty for a workspace without a package of its own.
    pub package: String,
    /// What it depends on, in the order of the file.
    pub dependencies: Vec<Dependency>,
}

/// One dependency of a crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// As it is called in the manifest.
    pub name: String,
    /// Only for tests, examples and benchmarks.
    pub for_tests: bool,
    /// Takes its version from the workspace.
    pub from_workspace: bool,
    /// Where it stands, counted from 1.
    pub line: usize,
}

/// Reads a manifest. `[workspace.dependencies]` is not what a crate depends on, and is left out.
pub fn parse(text: &str) -> Manifest {
    let mut manifest = Manifest::default();
    let mut section = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = header.trim_matches(['[', ']']).to_owned();
            // [dependencies.name]
            if let Some((kind, name)) = section.rsplit_once('.')
                && let Some(for_tests) = dependencies_kind(kind)
            {
                manifest.dependencies.push(Dependency {
                    name: name.trim_matches('"').to_owned(),
                    for_tests,
                    from_workspace: false,
                    line: index + 1,
                });
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        if section == "package" && key == "name" {
            manifest.package = value.trim_matches('"').to_owned();
        } else if let Some(for_tests) = dependencies_kind(&section) {
            let (name, dotted) = key
                .split_once('.')
                .map_or((key, false), |(name, rest)| (name, rest == "workspace"));
            let inherits = dotted || value.replace(' ', "").contains("workspace=true");
            manifest.dependencies.push(Dependency {
                name: name.trim_matches('"').to_owned(),
                for_tests,
                from_workspace: inherits && value.contains("true"),
                line: index + 1,
            });
        } else if let Some((kind, _)) = section.rsplit_once('.')
            && dependencies_kind(kind).is_some()
            && key == "workspace"
            && value == "true"
            && let Some(dependency) = manifest.dependencies.last_mut()
        {
            dependency.from_workspace = true;
        }
    }
    manifest
}

/// Whether a section lists dependencies and, if so, whether they are for tests only.
fn dependencies_kind(section: &str) -> Option<bool> {
    let own = match section.strip_prefix("target.") {
        Some(conditional) => conditional.rsplit('.').next().unwrap_or_default(),
        None => section,
    };
    match own {
        "dependencies" | "build-dependencies" => Some(false),
        "dev-dependencies" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_dependency_is_seen() {
        let manifest = parse(
            "[package]\nname = \"it\"\nversion.workspace = true\n\n[dependencies]\na.workspace = true # why\n\
             b = { workspace = true, features = [\"x\"] }\nc = \"1\"\n\n[dev-dependencies]\nd = { \
              path = \"../d\" }\n\n\
             [dependencies.e]\nworkspace = true\n\n[dependencies.f]\nversion = \"1\"\n\n\
             [target.'cfg(unix)'.dependencies]\ng = \"2\"\n\n[features]\nh = []\n",
        );
        assert_eq!(manifest.package, "it");
        let seen: Vec<(&str, bool, bool)> = manifest
            .dependencies
            .iter()
            .map(|d| (d.name.as_str(), d.for_tests, d.from_workspace))
            .collect();
        let expected = [
            ("a", false, true),
            ("b", false, true),
            ("c", false, false),
            ("d", true, false),
            ("e", false, true),
            ("f", false, false),
            ("g", false, false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_workspace_s_own_list_is_not_a_crate_s() {
        assert_eq!(parse("[workspace.dependencies]\na = \"1\"\n"), Manifest::default());
    }
}
