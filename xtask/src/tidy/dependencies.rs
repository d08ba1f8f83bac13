//! Which of our crates may know which, what must not be linked into which, and where dependencies are declared.

use std::path::Path;

use super::{Finding, tree::Tree};
use crate::metadata::Metadata;

/// The crates that only define a boundary: they know nothing else of ours, and tests may use them.
const LIBRARIES: &[&str] = &[
    "chunk-store",
    "cluster-store",
    "devices",
    "gateway-api",
    "guest-protocol",
    "inner-network",
    "jail",
    "snapshot",
    "vmm-api",
];

/// Every crate of ours and what of ours it may depend on, in any section of its manifest.
const EDGES: &[(&str, &[&str])] = &[
    ("api-bench", LIBRARIES),
    ("attempts", &[]),
    ("bench-driver", LIBRARIES),
    ("chunk-bench", LIBRARIES),
    ("chunk-store", &[]),
    ("cli", &[]),
    ("cluster-store", &[]),
    ("confined-libc", &["jail"]),
    ("devices", &["snapshot"]),
    ("fuzz", LIBRARIES),
    ("gateway", &["gateway-api", "inner-network", "jail"]),
    ("gateway-api", &[]),
    ("guest-init", &["guest-protocol", "inner-network"]),
    ("guest-probe", &[]),
    ("guest-protocol", &[]),
    (
        "host-agent",
        &["chunk-store", "cluster-store", "gateway-api", "guest-protocol", "jail", "snapshot", "vmm-api"],
    ),
    ("inner-network", &[]),
    ("jail", &[]),
    ("jail-probe", &["attempts", "chunk-store", "jail", "tiny-guest", "vmm-api"]),
    ("launcher", &["jail"]),
    ("plain-rust", &[]),
    ("registry", &[]),
    ("rust-hello", &[]),
    ("snapshot", &[]),
    ("step-killer", &[]),
    ("stock-extension", &[]),
    ("tests", LIBRARIES),
    ("tiny-guest", &[]),
    ("unique-rust", &[]),
    ("vm-driver", LIBRARIES),
    // Attempts only in the build that turns hostile.
    ("vmm", &["attempts", "chunk-store", "devices", "inner-network", "jail", "snapshot", "vmm-api"]),
    ("vmm-api", &[]),
    // The payload carries packs of chunks.
    ("xtask", &["chunk-store"]),
];

const KVM: &[&str] = &["kvm-bindings", "kvm-ioctls"];
/// What any crate's tests may use.
const FOR_TESTS: &[&str] = &["confined-libc", "tiny-guest"];

const ASYNC_AND_HTTP: &[&str] = &["async-std", "axum", "h2", "http", "hyper", "reqwest", "smol", "tokio"];

const PARSERS: &[&str] = &["postcard", "serde", "serde_json", "toml"];

/// What must not be linked into a program or library, not even through others, and why.
const FORBIDDEN_TREES: &[(&str, &[&str], &str)] = &[
    ("chunk-store", ASYNC_AND_HTTP, "the jailed VMM is to link it"),
    ("chunk-store", KVM, "storage knows no virtualisation"),
    ("cluster-store", KVM, "storage knows no virtualisation"),
    ("devices", ASYNC_AND_HTTP, "a device is plain code over guest memory"),
    ("devices", KVM, "devices run over guest memory alone, so that they can be tested and fuzzed"),
    ("gateway", ASYNC_AND_HTTP, "what is root does one thing after the other"),
    ("gateway", KVM, "it knows links, not machines"),
    ("gateway", PARSERS, "what is root parses nothing"),
    ("guest-protocol", ASYNC_AND_HTTP, "both ends bring their own I/O"),
    ("guest-protocol", KVM, "the guest links it"),
    ("host-agent", KVM, "the agent never touches KVM: it has a VMM spawned"),
    ("jail", ASYNC_AND_HTTP, "the jail is built before anything runs in it"),
    ("launcher", ASYNC_AND_HTTP, "what is root does one thing after the other"),
    ("launcher", KVM, "it hands over a descriptor and asks nothing of it"),
    ("launcher", PARSERS, "what is root parses nothing"),
    ("vmm", ASYNC_AND_HTTP, "no async runtime and no HTTP beside a guest"),
    ("vmm-api", KVM, "the agent links it"),
];

/// Dependencies among our crates that the architecture does not have.
pub(super) fn edges(metadata: &Metadata) -> Vec<Finding> {
    let ours: Vec<&str> = metadata.members().map(|package| package.name.as_str()).collect();
    let mut findings = Vec::new();
    for package in metadata.members() {
        let manifest = metadata.manifest(package);
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == package.name) else {
            let message =
                format!("{} is not in tidy's table of edges; decide what it may know", package.name);
            findings.push(Finding::error(manifest, None, message));
            continue;
        };
        let dependencies = package.dependencies.iter();
        let known = dependencies.filter(|one| !(one.is_of_tests() && FOR_TESTS.contains(&one.name.as_str())));
        let names = known.map(|dependency| dependency.name.as_str());
        for name in names.filter(|name| ours.contains(name) && !allowed.contains(name)) {
            let message = format!("{} must not depend on {name}", package.name);
            findings.push(Finding::error(&manifest, None, message));
        }
    }
    findings
}

/// Packages that are linked where they must not be.
pub(super) fn trees(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata.members() {
        let linked = metadata.linked_into(package);
        for (_, forbidden, reason) in FORBIDDEN_TREES.iter().filter(|(name, ..)| *name == package.name) {
            for (name, by) in linked.iter().filter(|(name, _)| forbidden.contains(name)) {
                let message = format!("{} links {name} (through {by}): {reason}", package.name);
                findings.push(Finding::error(metadata.manifest(package), None, message));
            }
        }
    }
    findings
}

/// Dependencies that a member declares by itself, and workspace dependencies that no member uses.
pub(super) fn declarations(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = Vec::new();
    let mut declared = Vec::new();
    for (path, text) in
        tree.files().filter(|(path, _)| path.file_name().is_some_and(|name| name == "Cargo.toml"))
    {
        let manifest: toml::Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.push(Finding::error(path, None, error.message().to_owned()));
                continue;
            }
        };
        if path == Path::new("Cargo.toml") {
            let workspace = manifest.get("workspace").and_then(toml::Value::as_table);
            declared.extend(workspace.and_then(|table| names(table, "dependencies")).unwrap_or_default());
            continue;
        }
        for (name, value) in dependency_tables(&manifest).into_iter().flatten() {
            used.push(name.clone());
            let inherited = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
            if !inherited {
                let message =
                    format!("{name}: declare it in the workspace and say `{name}.workspace = true`");
                findings.push(Finding::error(path, None, message));
            }
        }
    }
    for name in declared.iter().filter(|name| !used.contains(name)) {
        let message = format!("{name} is declared but no member uses it");
        findings.push(Finding::error("Cargo.toml", None, message));
    }
    findings
}

fn names(table: &toml::Table, key: &str) -> Option<Vec<String>> {
    Some(table.get(key)?.as_table()?.keys().cloned().collect())
}

/// The dependency sections of a manifest, those of `[target.…]` included.
fn dependency_tables(manifest: &toml::Table) -> Vec<&toml::Table> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let per_target = targets.into_iter().flat_map(|table| table.values()).filter_map(toml::Value::as_table);
    std::iter::once(manifest)
        .chain(per_target)
        .flat_map(|table| {
            ["dependencies", "dev-dependencies", "build-dependencies"].map(|key| table.get(key))
        })
        .filter_map(|section| section?.as_table())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata of a workspace whose members are `edges`' left sides; what is not a member is from elsewhere.
    fn metadata(members: &[&str], edges: &[(&str, &str)]) -> Metadata {
        let all: std::collections::BTreeSet<&str> =
            members.iter().copied().chain(edges.iter().flat_map(|(from, to)| [*from, *to])).collect();
        let dependencies = |name: &str| -> Vec<&str> {
            edges.iter().filter(|(from, _)| *from == name).map(|(_, to)| *to).collect()
        };
        let packages: Vec<_> = all
            .iter()
            .map(|name| {
                let dependencies: Vec<_> =
                    dependencies(name).iter().map(|to| serde_json::json!({ "name": to })).collect();
                let manifest = format!("/w/{name}/Cargo.toml");
                serde_json::json!({ "id": name, "name": name, "manifest_path": manifest, "targets": [],
                    "dependencies": dependencies })
            })
            .collect();
        let nodes: Vec<_> = all
            .iter()
            .map(|name| {
                let kind = serde_json::json!([{ "kind": null }]);
                let deps: Vec<_> = dependencies(name)
                    .iter()
                    .map(|to| serde_json::json!({ "pkg": to, "dep_kinds": kind }))
                    .collect();
                serde_json::json!({ "id": name, "deps": deps })
            })
            .collect();
        let json = serde_json::json!({ "packages": packages, "workspace_members": members, "workspace_root": "/w",
            "resolve": { "nodes": nodes } });
        Metadata::parse(json.to_string().as_bytes()).unwrap()
    }

    fn messages(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn an_edge_that_the_architecture_lacks_is_found() {
        let found = edges(&metadata(&["vmm", "host-agent"], &[("host-agent", "vmm")]));
        assert_eq!(messages(found), ["host-agent must not depend on vmm"]);
        let found = edges(&metadata(&["vmm", "devices"], &[("vmm", "devices"), ("vmm", "libc")]));
        assert_eq!(messages(found), [""; 0]);
    }

    #[test]
    fn what_is_for_tests_is_for_tests_alone() {
        let mut metadata = metadata(&["vmm", "confined-libc"], &[("vmm", "confined-libc")]);
        assert_eq!(messages(edges(&metadata)), ["vmm must not depend on confined-libc"]);
        let all = metadata.packages.iter_mut().flat_map(|package| &mut package.dependencies);
        all.for_each(|dependency| dependency.kind = Some("dev".into()));
        assert_eq!(messages(edges(&metadata)), [""; 0]);
    }

    #[test]
    fn an_unknown_crate_must_be_decided() {
        let found = messages(edges(&metadata(&["util"], &[])));
        assert_eq!(found, ["util is not in tidy's table of edges; decide what it may know"]);
    }

    #[test]
    fn a_forbidden_package_is_found_behind_others() {
        let found = trees(&metadata(&["vmm"], &[("vmm", "a"), ("a", "b"), ("b", "tokio")]));
        assert_eq!(
            messages(found),
            ["vmm links tokio (through b): no async runtime and no HTTP beside a guest"]
        );
        assert_eq!(messages(trees(&metadata(&["host-agent"], &[("host-agent", "tokio")]))), [""; 0]);
    }

    fn check_declarations(member: &str) -> Vec<String> {
        let root = "[workspace.dependencies]\nserde = \"1\"\n";
        messages(declarations(&Tree::of(&[("Cargo.toml", root), ("a/Cargo.toml", member)])))
    }

    #[test]
    fn a_member_inherits_its_dependencies() {
        assert_eq!(check_declarations("[dependencies]\nserde.workspace = true\n"), [""; 0]);
        assert_eq!(
            check_declarations("[dependencies]\nserde = \"1\"\n"),
            ["serde: declare it in the workspace and say `serde.workspace = true`"]
        );
        assert_eq!(
            check_declarations("[target.'cfg(unix)'.dev-dependencies]\nserde = { version = \"1\" }\n"),
            ["serde: declare it in the workspace and say `serde.workspace = true`"]
        );
    }

    #[test]
    fn a_workspace_dependency_is_used() {
        assert_eq!(check_declarations("[package]\n"), ["serde is declared but no member uses it"]);
    }
}
