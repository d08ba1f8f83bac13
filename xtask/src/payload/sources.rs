//! What programs of ours are built from. Cargo goes by the times of files: a fresh clone is new to it as a whole, and what is
//! older than another checkout's build it takes for that. Content knows better.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};

use crate::cmd::Cmd;
use crate::context::Context;
use crate::hash::Inputs;
use crate::metadata::Metadata;

/// What every build of the workspace depends on.
const COMMON: &[&str] = &["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "rust-toolchain.toml"];

/// The file of a target folder that tells of the checkout which built there last.
const LAST: &str = "checkout.json";

/// Files that a package includes and that are another's, or nobody's.
const ELSEWHERE: &[(&str, &str)] = &[("vm-driver", "tests/functions/unique/app.py")];

/// Everything of this checkout that some packages' programs are built from.
pub(super) struct Sources {
    /// Folders of packages, and files.
    paths: BTreeSet<PathBuf>,
    /// The programs of the packages themselves.
    pub(super) programs: Vec<String>,
}

impl Sources {
    /// Those of these packages and of all of ours that are linked into them.
    pub(super) fn of(ctx: &Context, packages: &[&str]) -> Result<Sources> {
        let metadata = Metadata::of_workspace(&ctx.root)?;
        let mut paths: BTreeSet<PathBuf> =
            COMMON.iter().map(|name| ctx.path(name)).filter(|path| path.exists()).collect();
        let mut programs = Vec::new();
        for name in packages {
            let package = metadata.member(name)?;
            programs.extend(package.programs().map(str::to_owned));
            let linked = metadata.linked_into(package);
            let ours =
                metadata.members().filter(|each| each.id == package.id || linked.contains_key(&*each.name));
            for each in ours {
                paths.insert(each.manifest_path.parent().context("a manifest is in a folder")?.to_owned());
            }
            let elsewhere = ELSEWHERE.iter().filter(|(includes, _)| includes == name);
            paths.extend(elsewhere.map(|(_, path)| ctx.path(path)));
        }
        Ok(Sources { paths, programs })
    }

    /// Their content and the compiler, added to what else tells one build from another.
    pub(super) fn hash_into(&self, ctx: &Context, mut inputs: Inputs) -> Result<Inputs> {
        inputs = inputs.text("compiler", &Cmd::new("rustc").arg("-vV").dir(&ctx.root).read()?);
        for path in &self.paths {
            let place = path.strip_prefix(&ctx.root).unwrap_or(path).to_string_lossy().into_owned();
            inputs = inputs.text("place", &place).tree(path)?;
        }
        Ok(inputs)
    }

    /// Makes those newer than all that is in this target folder that were not built there since another checkout was.
    pub(super) fn renew_for(&self, ctx: &Context, target_dir: &Path) -> Result<()> {
        let path = target_dir.join(LAST);
        let mut last =
            Last::read(&path).filter(|last| last.root == ctx.root).unwrap_or_else(|| Last::of(ctx));
        let now = SystemTime::now();
        for source in self.paths.difference(&last.renewed) {
            renew(source, now)?;
        }
        last.renewed.extend(self.paths.iter().cloned());
        std::fs::create_dir_all(target_dir).with_context(|| format!("create {}", target_dir.display()))?;
        let text = serde_json::to_string(&last).context("name the checkout")?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// That a program was built from nothing else of this checkout, by what cargo wrote down beside it.
    pub(super) fn check(&self, ctx: &Context, built: &Path) -> Result<()> {
        let path = built.with_extension("d");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for file in listed(&text).filter(|file| file.starts_with(&ctx.root)) {
            ensure!(
                self.paths.iter().any(|path| file.starts_with(path)) || file.starts_with(ctx.target_dir()),
                "{} is built from {}, which is in none of its packages: say so in {}",
                built.display(),
                file.display(),
                file!()
            );
        }
        Ok(())
    }
}

/// The checkout that built last in a target folder, and what it was built from there: one program's sources are not another's.
#[derive(serde::Serialize, serde::Deserialize)]
struct Last {
    root: PathBuf,
    renewed: BTreeSet<PathBuf>,
}

impl Last {
    fn of(ctx: &Context) -> Self {
        Self { root: ctx.root.clone(), renewed: BTreeSet::new() }
    }

    /// None when there is none, or another program's.
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
    }
}

/// Gives all files at a path this time.
fn renew(path: &Path, time: SystemTime) -> Result<()> {
    let what = || format!("renew {}", path.display());
    let kind = std::fs::symlink_metadata(path).with_context(what)?.file_type();
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).with_context(what)? {
            renew(&entry.with_context(what)?.path(), time)?;
        }
    } else if kind.is_file() {
        File::open(path).and_then(|file| file.set_modified(time)).with_context(what)?;
    }
    Ok(())
}

/// The files after the colon of a makefile's rule; a space in a name has a backslash before it.
fn listed(rule: &str) -> impl Iterator<Item = PathBuf> {
    let files = rule.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, files)| files);
    let mut names = vec![String::new()];
    let mut characters = files.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.next_if_eq(&' ').is_some() => {
                names.last_mut().into_iter().for_each(|name| name.push(' '))
            }
            ' ' => names.push(String::new()),
            other => names.last_mut().into_iter().for_each(|name| name.push(other)),
        }
    }
    names.into_iter().filter(|name| !name.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_files_of_a_rule_are_read_with_the_spaces_in_their_names() {
        let rule = "/t/release/vmm: /w/vmm/src/main.rs /w/a\\ b/lib.rs\n\n/t/other: /w/c.rs\n";
        let found: Vec<PathBuf> = listed(rule).collect();
        assert_eq!(found, [PathBuf::from("/w/vmm/src/main.rs"), PathBuf::from("/w/a b/lib.rs")]);
    }

    #[test]
    fn what_was_not_built_since_another_checkouts_build_is_made_new() {
        let (ctx, target) = (Context::new().unwrap(), tempfile::tempdir().unwrap());
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let [one, other] = ["one.rs", "other.rs"].map(|name| target.path().join(name));
        for path in [&one, &other] {
            File::create_new(path).unwrap();
        }
        let is_renewed = |ctx: &Context, path: &PathBuf| {
            File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
            let sources = Sources { paths: [path.clone()].into(), programs: Vec::new() };
            sources.renew_for(ctx, target.path()).unwrap();
            path.metadata().unwrap().modified().unwrap() > old
        };
        assert!(is_renewed(&ctx, &one), "nobody has built");
        assert!(!is_renewed(&ctx, &one));
        assert!(is_renewed(&ctx, &other), "another program's sources, with the folder built in already");
        assert!(!is_renewed(&ctx, &one) && !is_renewed(&ctx, &other));
        let elsewhere = Context { root: "/elsewhere".into(), ..Context::new().unwrap() };
        assert!(is_renewed(&elsewhere, &one));
        assert!(is_renewed(&ctx, &one) && is_renewed(&ctx, &other));
        std::fs::write(target.path().join(LAST), "/an/older/programs").unwrap();
        assert!(is_renewed(&ctx, &one));
    }

    #[test]
    fn a_program_is_of_its_package_and_of_what_is_linked_into_it() {
        let ctx = Context::new().unwrap();
        let sources = Sources::of(&ctx, &["vm-driver"]).unwrap();
        assert_eq!(sources.programs, ["vm-driver"]);
        for inside in ["tests/vm-driver", "crates/vmm-api", "Cargo.lock", "tests/functions/unique/app.py"] {
            assert!(sources.paths.contains(&ctx.path(inside)), "{inside}: {:?}", sources.paths);
        }
        assert!(!sources.paths.contains(&ctx.path("host-agent")), "{:?}", sources.paths);
    }
}
