//! What `cargo metadata` says of the workspace, reduced to the members that the checks and the builds use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The workspace's packages and the resolved graph of everything they depend on.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    workspace_root: PathBuf,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// As a [`DependencyKind`]'s.
    pub(crate) kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Debug, Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// Absent for what ends up in the program; `dev` and `build` otherwise.
    kind: Option<String>,
}

impl Dependency {
    /// Whether tests alone have it.
    pub(crate) fn is_of_tests(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

impl Package {
    /// The names of its programs.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &str> {
        let programs = self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "bin"));
        programs.map(|target| target.name.as_str())
    }
}

impl Metadata {
    pub(crate) fn of_workspace(root: &Path) -> Result<Self> {
        let output = Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--all-features", "--filter-platform"])
            .arg("x86_64-unknown-linux-gnu")
            .current_dir(root)
            .output()
            .context("start cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Self::parse(&output.stdout)
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).context("parse cargo metadata")
    }

    /// Our own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The root file of every target of ours, from the top of the checkout.
    pub(crate) fn target_roots(&self) -> Vec<PathBuf> {
        let targets = self.members().flat_map(|package| &package.targets);
        targets
            .filter_map(|target| target.src_path.strip_prefix(&self.workspace_root).ok())
            .map(Path::to_path_buf)
            .collect()
    }

    /// Our package of this name.
    pub(crate) fn member(&self, name: &str) -> Result<&Package> {
        self.members().find(|package| package.name == name).with_context(|| format!("no package {name} here"))
    }

    /// A package's manifest, from the top of the checkout.
    pub(crate) fn manifest(&self, package: &Package) -> PathBuf {
        let path = &package.manifest_path;
        path.strip_prefix(&self.workspace_root).unwrap_or(path).to_path_buf()
    }

    /// Everything that becomes part of `package`'s program, by name, with the package that pulls it in.
    pub(crate) fn linked_into(&self, package: &Package) -> BTreeMap<&str, &str> {
        let names: BTreeMap<&str, &str> =
            self.packages.iter().map(|each| (each.id.as_str(), each.name.as_str())).collect();
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut linked = BTreeMap::new();
        let mut pending = vec![package.id.as_str()];
        while let Some(id) = pending.pop() {
            let Some(node) = nodes.get(id) else { continue };
            let normal = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|each| each.kind.is_none()));
            for dep in normal {
                let (Some(name), Some(by)) = (names.get(dep.pkg.as_str()), names.get(id)) else { continue };
                if linked.insert(*name, *by).is_none() {
                    pending.push(&dep.pkg);
                }
            }
        }
        linked
    }
}
