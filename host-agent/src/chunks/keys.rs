//! The node's keys for chunks, each a file of random bytes that only the agent's user may read.
//!
//! ```text
//! STATE/chunks/keys/root           root keys, each a number u32 and 32 bytes, the newest last
//! STATE/chunks/keys/node           seals this node's copies; without it the cache is empty
//! STATE/chunks/keys/salts          what salts are derived from; with another one nothing is found twice
//! STATE/chunks/keys/tenants/NAME   a tenant's key, wrapped by a root key
//! ```
//!
//! A root key that is appended to the file wraps all tenants' keys anew at the next start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use chunk_store::{KeyError, NodeSecret, RootId, RootKey, TenantKey, WRAPPED_LEN, root_of};

const KEY_LEN: usize = 32;
/// Number and key.
const ROOT_LEN: usize = 4 + KEY_LEN;
/// Root keys that are kept: those before wrap nothing any more.
const MAX_ROOTS: usize = 64;

/// Keys that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// A file.
    #[error("keep keys in {}", path.display())]
    File {
        /// The file, or its folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has not the length of what it is to hold. It is left alone: who replaces it loses what it was for.
    #[error("{} holds no keys", .0.display())]
    Damaged(PathBuf),
    /// A tenant's key.
    #[error("use the key of the tenant {tenant}")]
    Tenant {
        /// Whose.
        tenant: String,
        /// Why not.
        source: KeyError,
    },
}

/// The node's root keys, by number, the newest last. One at least.
pub(crate) struct Roots(Vec<(RootId, RootKey)>);

/// The keys of a node.
pub(super) struct Keys {
    dir: PathBuf,
    /// What wraps other keys.
    pub(super) roots: Arc<Roots>,
    /// What salts are derived from.
    pub(super) salts: [u8; KEY_LEN],
    node: [u8; KEY_LEN],
}

impl Roots {
    /// A key as it is kept, wrapped by the newest root key. `name` says what it is; under no other name it is unwrapped.
    pub(crate) fn wrap(&self, key: &TenantKey, name: &str) -> Result<Vec<u8>, KeyError> {
        self.newest().1.wrap(key, name.as_bytes())
    }

    /// The key that [`Self::wrap`] made a record of, and whether a newer root key has come since.
    pub(crate) fn unwrap(&self, record: &[u8], name: &str) -> Result<(TenantKey, Age), KeyError> {
        let wrapped_by = root_of(record)?;
        let (newest, _) = self.newest();
        let other = KeyError::OtherRoot { found: wrapped_by, ours: *newest };
        let (_, root) = self.0.iter().find(|(id, _)| *id == wrapped_by).ok_or(other)?;
        let age = if *newest == wrapped_by { Age::Newest } else { Age::Old };
        Ok((root.unwrap(record, name.as_bytes())?, age))
    }

    fn newest(&self) -> &(RootId, RootKey) {
        match self.0.last() {
            Some(newest) => newest,
            None => unreachable!("a file without root keys is refused"),
        }
    }
}

/// Which root key wrapped a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// The newest.
    Newest,
    /// One that another has replaced since: the record is to be wrapped again.
    Old,
}

impl Keys {
    /// Those in `dir`; what is not there is made.
    pub(super) fn open(dir: &Path) -> Result<Self, KeysError> {
        let tenants = dir.join("tenants");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&tenants);
        made.map_err(file(&tenants))?;
        let roots = Arc::new(roots(&dir.join("root"))?);
        let (node, salts) = (secret(&dir.join("node"))?, secret(&dir.join("salts"))?);
        Ok(Self { dir: dir.to_owned(), roots, salts, node })
    }

    /// What this node's copies are sealed with.
    pub(super) fn node(&self) -> NodeSecret {
        NodeSecret::new(self.node)
    }

    /// A tenant's key, made when there is none; wrapped by the newest root key when this returns.
    pub(super) fn tenant(&self, name: &str) -> Result<TenantKey, KeysError> {
        let failed = |source| KeysError::Tenant { tenant: name.to_owned(), source };
        let path = self.dir.join("tenants").join(name);
        let Some(record) = read(&path, WRAPPED_LEN)? else {
            let key = TenantKey::generate().map_err(failed)?;
            write(&path, &self.roots.wrap(&key, name).map_err(failed)?)?;
            return Ok(key);
        };
        let (key, age) = self.roots.unwrap(&record, name).map_err(failed)?;
        if age == Age::Old {
            write(&path, &self.roots.wrap(&key, name).map_err(failed)?)?;
        }
        Ok(key)
    }
}

fn roots(path: &Path) -> Result<Roots, KeysError> {
    let bytes = match read(path, MAX_ROOTS * ROOT_LEN)? {
        Some(bytes) => bytes,
        None => {
            let mut first = 1u32.to_le_bytes().to_vec();
            first.extend(random().map_err(file(path))?);
            write(path, &first)?;
            first
        }
    };
    let (roots, rest) = bytes.as_chunks::<ROOT_LEN>();
    if roots.is_empty() || !rest.is_empty() {
        return Err(KeysError::Damaged(path.to_owned()));
    }
    let root = |bytes: &[u8; ROOT_LEN]| {
        let (id, key) = bytes.split_first_chunk::<4>()?;
        let id = u32::from_le_bytes(*id);
        Some((id, RootKey::new(id, key.try_into().ok()?)))
    };
    roots
        .iter()
        .map(root)
        .collect::<Option<_>>()
        .map(Roots)
        .ok_or_else(|| KeysError::Damaged(path.to_owned()))
}

fn secret(path: &Path) -> Result<[u8; KEY_LEN], KeysError> {
    match read(path, KEY_LEN)? {
        Some(bytes) => bytes.try_into().map_err(|_| KeysError::Damaged(path.to_owned())),
        None => {
            let secret = random().map_err(file(path))?;
            write(path, &secret)?;
            Ok(secret)
        }
    }
}

fn random() -> io::Result<[u8; KEY_LEN]> {
    let mut bytes = [0; KEY_LEN];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// All of a file of at most `max_len` bytes; none when there is no such file.
fn read(path: &Path, max_len: usize) -> Result<Option<Vec<u8>>, KeysError> {
    let opened = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(file(path))?,
    };
    let mut bytes = Vec::new();
    opened.take(max_len as u64 + 1).read_to_end(&mut bytes).map_err(file(path))?;
    if bytes.len() > max_len { Err(KeysError::Damaged(path.to_owned())) } else { Ok(Some(bytes)) }
}

/// Makes a file beside its place and moves it there when it is on the disk.
fn write(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    let unfinished = path.with_extension("new");
    let written = || {
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    written().map_err(file(path))
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    let path = path.to_owned();
    move |source| KeysError::File { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_made_once_and_for_the_agent_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let tenant = keys.tenant("a").unwrap();
        let again = Keys::open(dir.path()).unwrap();
        assert!(again.tenant("a").unwrap() == tenant && again.tenant("b").unwrap() != tenant);
        assert_eq!((again.salts, again.node), (keys.salts, keys.node));
        for name in ["root", "node", "salts", "tenants/a"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_new_root_key_wraps_a_tenants_key_anew() {
        let dir = tempfile::tempdir().unwrap();
        let tenant = Keys::open(dir.path()).unwrap().tenant("a").unwrap();
        let path = dir.path().join("root");
        let mut roots = fs::read(&path).unwrap();
        roots.extend(2u32.to_le_bytes());
        roots.extend([7; KEY_LEN]);
        fs::write(&path, &roots).unwrap();
        assert!(Keys::open(dir.path()).unwrap().tenant("a").unwrap() == tenant);
        fs::write(&path, &roots[ROOT_LEN..]).unwrap();
        assert!(Keys::open(dir.path()).unwrap().tenant("a").unwrap() == tenant, "the old one is not needed");
    }

    #[test]
    fn damaged_keys_are_said_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open(dir.path()).unwrap().tenant("a").unwrap();
        for name in ["root", "node", "salts"] {
            let path = dir.path().join(name);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[1..]).unwrap();
            assert!(matches!(Keys::open(dir.path()), Err(KeysError::Damaged(damaged)) if damaged == path));
            fs::write(&path, whole).unwrap();
        }
        fs::write(dir.path().join("tenants/a"), [0; 12]).unwrap();
        let refused = Keys::open(dir.path()).unwrap().tenant("a").err().unwrap();
        assert!(matches!(refused, KeysError::Tenant { tenant, .. } if tenant == "a"));
    }
}
