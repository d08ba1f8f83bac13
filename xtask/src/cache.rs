//! `~/.cache/tinderbox` (or `$TINDERBOX_CACHE`): what was built, under `<kind>/<key>`, where the key is the hash of the
//! inputs. An artefact is made in a scratch folder beside its place and renamed into it: it is whole or it is not there.
//! A lock per kind makes concurrent runs wait instead of building the same thing twice.

use crate::progress::Step;
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Artefacts that nobody asked for in this long are removed when a newer one of their kind is published.
const KEEP_UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long what a process left in its own folder is kept: logs that somebody may want to read.
const KEEP_ENDED: Duration = Duration::from_secs(24 * 3600);
/// Name prefix of artefacts being made, and of the lock: never a key.
const SCRATCH: &str = ".making-";
const LOCK: &str = ".lock";

/// Where artefacts live.
pub(crate) struct Cache {
    root: PathBuf,
}

/// Held while it exists; the kernel drops it with the process, however that ends.
pub(crate) struct Lock {
    _file: File,
}

impl Cache {
    pub(crate) fn open() -> Result<Cache> {
        let root = match (std::env::var_os("TINDERBOX_CACHE"), std::env::var_os("HOME")) {
            (Some(dir), _) => PathBuf::from(dir),
            (None, Some(home)) => Path::new(&home).join(".cache/tinderbox"),
            (None, None) => bail!("neither TINDERBOX_CACHE nor HOME is set: nowhere to keep artefacts"),
        };
        Cache::at(&root)
    }

    /// A cache in this folder.
    pub(crate) fn at(root: &Path) -> Result<Cache> {
        fs::create_dir_all(root.join("log")).with_context(|| format!("create {}", root.display()))?;
        Ok(Cache { root: fs::canonicalize(root)? })
    }

    /// A folder of the cache that is no artefact (state of a running node, sockets, downloads).
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }

    /// A folder `kind/ID` for this process alone. Those of processes that ended are removed when they are a day old: what a
    /// failed run left in its own is read until then.
    pub(crate) fn process_dir(&self, kind: &str) -> Result<PathBuf> {
        for entry in fs::read_dir(self.dir(kind)?)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_process = name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
            let runs = Path::new("/proc").join(&name).exists();
            // Whoever removed it first did what was to be done.
            let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
            if is_process && !runs && modified.elapsed().unwrap_or_default() > KEEP_ENDED {
                remove_tree(&entry.path())?;
            }
        }
        self.dir(&format!("{kind}/{}", std::process::id()))
    }

    /// Where the output of the programs of one step goes.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// Waits for the lock `name`, telling the user when somebody else holds it.
    pub(crate) fn lock(&self, name: &str, step: &Step) -> Result<Lock> {
        let path = self.dir(name)?.join(LOCK);
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                step.note("waiting for another xtask");
                file.lock().with_context(|| format!("lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        Ok(Lock { _file: file })
    }

    /// The artefact `kind/key` if it has been made already.
    pub(crate) fn find(&self, kind: &str, key: &str) -> Option<PathBuf> {
        let path = self.root.join(kind).join(key);
        let dir = File::open(&path).ok()?;
        // Only keeps it from being pruned: not worth failing for.
        let _ = dir.set_modified(SystemTime::now());
        Some(path)
    }

    /// The folder `kind/key`; `make` fills an empty folder with its content when it is not there yet.
    pub(crate) fn artefact(
        &self,
        kind: &str,
        key: &str,
        step: &Step,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(path) = self.find(kind, key) {
            return Ok(path);
        }
        let _lock = self.lock(kind, step)?;
        if let Some(path) = self.find(kind, key) {
            return Ok(path);
        }
        self.remove_leftovers(kind)?;
        let home = self.dir(kind)?;
        let scratch = home.join(format!("{SCRATCH}{key}"));
        fs::create_dir(&scratch).with_context(|| format!("create {}", scratch.display()))?;
        make(&scratch)?;
        let path = home.join(key);
        fs::rename(&scratch, &path).with_context(|| format!("publish {}", path.display()))?;
        Ok(path)
    }

    /// Points `kind/latest` at an artefact, for people and for tools outside of xtask. Nothing of ours reads it.
    pub(crate) fn link_latest(&self, kind: &str, artefact: &Path) -> Result<()> {
        let home = self.dir(kind)?;
        let (link, fresh) =
            (home.join("latest"), home.join(format!("{SCRATCH}latest-{}", std::process::id())));
        if fs::read_link(&link).is_ok_and(|target| target == artefact) {
            return Ok(());
        }
        symlink(artefact, &fresh).with_context(|| format!("link {}", fresh.display()))?;
        fs::rename(&fresh, &link).with_context(|| format!("link {}", link.display()))
    }

    /// Scratch folders of runs that died (the lock is ours, so nobody works in them) and artefacts long unused.
    fn remove_leftovers(&self, kind: &str) -> Result<()> {
        for entry in fs::read_dir(self.dir(kind)?)? {
            let entry = entry?;
            let scratch = entry.file_name().to_string_lossy().starts_with(SCRATCH);
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if entry.file_type()?.is_dir() && (scratch || age > KEEP_UNUSED) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Removes a folder even when files in it belong to root (a chroot made with sudo).
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    crate::cmd::Cmd::privileged("rm").args(["-rf", "--one-file-system", "--"]).arg(path).run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    #[test]
    fn an_artefact_is_made_once_and_a_failed_one_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let step = Progress::new().step("test");
        let failed = cache.artefact("kind", "key", &step, |out| {
            fs::write(out.join("half"), "").unwrap();
            bail!("broken")
        });
        assert!(failed.is_err());
        assert!(cache.find("kind", "key").is_none());
        let made = cache.artefact("kind", "key", &step, |out| Ok(fs::write(out.join("file"), "1")?)).unwrap();
        assert!(!made.join("half").exists());
        let again = cache.artefact("kind", "key", &step, |_| bail!("must not be made again")).unwrap();
        assert_eq!(made, again);
        assert_eq!(fs::read_to_string(again.join("file")).unwrap(), "1");
    }

    #[test]
    fn folders_of_processes_that_ended_long_ago_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        // No process has a number of ten digits.
        let [ended, fresh] = ["4294967295", "4294967294"].map(|id| cache.dir(&format!("node/{id}")).unwrap());
        let other = cache.dir("node/notes").unwrap();
        let own = cache.process_dir("node").unwrap();
        let long_ago = SystemTime::now() - KEEP_ENDED - Duration::from_secs(1);
        for old in [&ended, &other, &own] {
            File::open(old).unwrap().set_modified(long_ago).unwrap();
        }
        assert_eq!(cache.process_dir("node").unwrap(), own);
        assert!(!ended.exists());
        assert!(fresh.exists() && other.exists() && own.exists());
    }

    #[test]
    fn artefacts_unused_for_long_are_removed_and_fresh_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let step = Progress::new().step("test");
        let old = cache.artefact("kind", "old", &step, |_| Ok(())).unwrap();
        let fresh = cache.artefact("kind", "fresh", &step, |_| Ok(())).unwrap();
        let long_ago = SystemTime::now() - KEEP_UNUSED - Duration::from_secs(1);
        File::open(&old).unwrap().set_modified(long_ago).unwrap();
        cache.artefact("kind", "new", &step, |_| Ok(())).unwrap();
        assert!(!old.exists());
        assert!(fresh.exists());
    }
}
