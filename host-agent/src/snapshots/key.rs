//! The key that authenticates this node's snapshots: 32 random bytes in a file that only the agent's user may read.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use vmm_api::{KEY_LEN, Key};

/// Name of the file in the state directory.
const FILE: &str = "snapshot.key";

/// Reads the node's key; makes one when there is none, or none that is whole.
pub(super) fn load(state_dir: &Path) -> io::Result<Key> {
    let path = state_dir.join(FILE);
    match fs::File::open(&path) {
        Ok(file) => {
            let mut bytes = Vec::with_capacity(KEY_LEN);
            // One byte more than a key has tells a file that is none.
            file.take(KEY_LEN as u64 + 1).read_to_end(&mut bytes)?;
            match <[u8; KEY_LEN]>::try_from(bytes) {
                Ok(bytes) => return Ok(Key::new(bytes)),
                Err(_) => tracing::warn!(
                    "{} holds no key: a new one is made, snapshots are made again",
                    path.display()
                ),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    make(state_dir, &path)
}

/// Makes a key beside its place and moves it there when it is on the disk.
fn make(state_dir: &Path, path: &Path) -> io::Result<Key> {
    let mut bytes = [0; KEY_LEN];
    getrandom::fill(&mut bytes)?;
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::File::open(state_dir)?.sync_all()?;
    Ok(Key::new(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_the_agent_alone() {
        let dir = tempfile::tempdir().unwrap();
        let key = load(dir.path()).unwrap();
        assert!(load(dir.path()).unwrap() == key);
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert!(load(other.path()).unwrap() != key);
        for damaged in [&[7; KEY_LEN - 1][..], &[7; KEY_LEN + 1], &[]] {
            fs::write(&path, damaged).unwrap();
            let fresh = load(dir.path()).unwrap();
            assert!(fresh != key && fresh == load(dir.path()).unwrap());
        }
    }
}
