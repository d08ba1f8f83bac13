//! What the layers of an image make of each other: paths, and what is at each. Pure.
//!
//! The rules are those of the OCI image specification ("Representing Changes", "Applying Changesets"): what a layer brings takes the
//! place of what was there, folders of one name are one, `.wh.NAME` takes NAME of the layers below away, and `.wh..wh..opq` all that
//! a folder had of them. Nothing here touches a file system. A path that leads over links is followed within the tree, whose root
//! nothing climbs over, so that a layer can name nothing that is not the image's own.

use std::collections::{BTreeMap, VecDeque};

use super::{ImageRefusal, attributes::Attributes, refuse};

/// Most paths of an image. Lambda names no limit; images of 10 GiB have some 100,000 files, and each costs the helper's memory and
/// an inode.
pub(crate) const MAX_PATHS: usize = 500_000;

/// Most bytes of all names, links' targets and attributes that layers may bring, taken away ones included: the helper's memory.
const MAX_NAMES_LEN: usize = 256 * 1024 * 1024;

/// Longest path in bytes, as Linux limits it.
const MAX_PATH_LEN: usize = 4096;

/// Longest name of one file in bytes, as Linux limits it.
const MAX_NAME_LEN: usize = 255;

/// Most links that a path leads over, as Linux limits them.
const MAX_LINKS: usize = 40;

/// Folders that the platform mounts something at: they are there, and they are no links. A link in their place would lead guest-init
/// out of the function's root.
const PLACES: &[&str] = &["dev", "etc", "proc", "run", "sys", "tmp"];

/// Files that the platform puts its own over: they are there, as containers have them, and they are no links.
const FILES: &[&str] = &["etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf"];

/// Mode of a file of [`FILES`] that the image has not.
const EMPTY_MODE: u32 = 0o644;

/// Mode of a folder that only its content names.
const IMPLIED_MODE: u32 = 0o755;

/// A path without a slash at either end, in components that are none of `.` and `..`. The root is empty.
pub(super) type TreePath = Vec<u8>;

/// Which of the layers' entries a file's bytes are: layer and entry, each counted from 0.
pub(super) type Position = (usize, usize);

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Dir,
    /// With its target, which only the guest follows.
    Link(Vec<u8>),
    /// A file of no layer's, without content.
    Empty,
    /// A file, which may be at several paths (hard links).
    File(Position),
}

/// A path's entry, as a layer has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) what: What,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) attributes: Attributes,
}

impl Node {
    /// Root's, without attributes.
    fn plain(what: What, mode: u32) -> Self {
        Self { what, mode, uid: 0, gid: 0, attributes: Attributes::new() }
    }

    fn implied() -> Self {
        Self::plain(What::Dir, IMPLIED_MODE)
    }
}

/// The tree so far.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// With the last layer that has brought the path, or anything below it.
    nodes: BTreeMap<TreePath, (usize, Node)>,
    layer: usize,
    names_len: usize,
}

impl Tree {
    /// What comes from here on is of that layer.
    pub(super) fn begin(&mut self, layer: usize) {
        self.layer = layer;
    }

    /// Puts an entry at a path.
    pub(super) fn put(&mut self, path: &[u8], node: Node) -> Result<(), ImageRefusal> {
        let Some(path) = self.place(path)? else {
            // The root itself, which is ours.
            return Ok(());
        };
        let both_are_folders =
            |(_, there): &(usize, Node)| (&there.what, &node.what) == (&What::Dir, &What::Dir);
        if !self.nodes.get(&path).is_some_and(both_are_folders) {
            self.remove(&path, |_| true);
        }
        self.insert(path, node)
    }

    /// Takes away what is at a path: the entry there is none that an image may have.
    pub(super) fn leave_out(&mut self, path: &[u8]) -> Result<(), ImageRefusal> {
        if let Some(path) = self.place(path)? {
            self.remove(&path, |_| true);
        }
        Ok(())
    }

    /// Puts what is at `target` at a path, too.
    pub(super) fn put_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ImageRefusal> {
        let found = self.find(target)?.and_then(|target| self.nodes.get(&target));
        let node = match found {
            Some((_, node)) if node.what != What::Dir => node.clone(),
            _ => return Err(refuse(path, "is a hard link to what is no file of the image")),
        };
        self.put(path, node)
    }

    /// `.wh.NAME`: takes away what the layers below have at a path.
    pub(super) fn hide(&mut self, path: &[u8]) -> Result<(), ImageRefusal> {
        if let Some(path) = self.find(path)? {
            let layer = self.layer;
            self.remove(&path, |of| of < layer);
        }
        Ok(())
    }

    /// `.wh..wh..opq`: takes away all that the layers below have in a folder.
    pub(super) fn hide_content(&mut self, folder: &[u8]) -> Result<(), ImageRefusal> {
        let Some(folder) = self.walk(folder, Missing::Stop)? else { return Ok(()) };
        let layer = self.layer;
        self.remove_below(&folder, |of| of < layer);
        Ok(())
    }

    /// All paths, a folder before what is in it. What the platform mounts something over is an empty folder or file if it was none.
    pub(super) fn finish(mut self) -> Result<BTreeMap<TreePath, Node>, ImageRefusal> {
        for place in PLACES.iter().map(|place| place.as_bytes()) {
            if !self.nodes.get(place).is_some_and(|(_, node)| node.what == What::Dir) {
                self.insert(place.to_vec(), Node::implied())?;
            }
        }
        for file in FILES.iter().map(|file| file.as_bytes()) {
            if !self.nodes.get(file).is_some_and(|(_, node)| matches!(node.what, What::File(_))) {
                self.remove(file, |_| true);
                self.insert(file.to_vec(), Node::plain(What::Empty, EMPTY_MODE))?;
            }
        }
        Ok(self.nodes.into_iter().map(|(path, (_, node))| (path, node)).collect())
    }

    /// Where an entry comes to be: its folders, made where they are missing, are this layer's as well. `None`: the root.
    fn place(&mut self, path: &[u8]) -> Result<Option<TreePath>, ImageRefusal> {
        let Some((folder, name)) = split(path)? else { return Ok(None) };
        let Some(folder) = self.walk(&folder, Missing::Make)? else { return Ok(None) };
        let (mut at, layer) = (0, self.layer);
        while at < folder.len() {
            at = folder[at + 1..]
                .iter()
                .position(|byte| *byte == b'/')
                .map_or(folder.len(), |next| at + 1 + next);
            if let Some((of, _)) = self.nodes.get_mut(&folder[..at]) {
                *of = layer;
            }
        }
        Ok(Some(join(&folder, &name)))
    }

    /// Where an entry would be, if its folder exists.
    fn find(&mut self, path: &[u8]) -> Result<Option<TreePath>, ImageRefusal> {
        let Some((folder, name)) = split(path)? else { return Ok(None) };
        Ok(self.walk(&folder, Missing::Stop)?.map(|folder| join(&folder, &name)))
    }

    /// The folder that a path leads to, over links, all within the tree.
    fn walk(&mut self, path: &[u8], missing: Missing) -> Result<Option<TreePath>, ImageRefusal> {
        let (mut at, mut links) = (TreePath::new(), 0);
        let mut rest: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                let parent = at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                at.truncate(parent);
                continue;
            }
            let next = join(&at, &name);
            match self.nodes.get(&next).map(|(_, node)| &node.what) {
                Some(What::Dir) => at = next,
                Some(What::Link(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(refuse(path, "leads over too many links"));
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    components(target).rev().for_each(|name| rest.push_front(name.to_vec()));
                }
                Some(What::File(_) | What::Empty) => {
                    return Err(refuse(path, "is inside something that is no folder"));
                }
                None if missing == Missing::Stop => return Ok(None),
                None => {
                    self.insert(next.clone(), Node::implied())?;
                    at = next;
                }
            }
        }
        Ok(Some(at))
    }

    fn insert(&mut self, path: TreePath, node: Node) -> Result<(), ImageRefusal> {
        if path.len() >= MAX_PATH_LEN {
            return Err(refuse(&path, "is longer than 4095 bytes"));
        }
        let target_len = if let What::Link(target) = &node.what { target.len() } else { 0 };
        let attributes_len: usize =
            node.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.names_len = self.names_len.saturating_add(path.len() + target_len + attributes_len);
        if self.names_len > MAX_NAMES_LEN {
            return Err(ImageRefusal::Unusable(format!("its names have more than {MAX_NAMES_LEN} bytes")));
        }
        self.nodes.insert(path, (self.layer, node));
        if self.nodes.len() > MAX_PATHS {
            return Err(ImageRefusal::Unusable(format!("it has more than {MAX_PATHS} paths")));
        }
        Ok(())
    }

    /// Removes a path, and all that is below it, of layers that `of` says.
    fn remove(&mut self, path: &[u8], of: impl Fn(usize) -> bool) {
        self.remove_below(path, &of);
        if self.nodes.get(path).is_some_and(|(layer, _)| of(*layer)) {
            self.nodes.remove(path);
        }
    }

    fn remove_below(&mut self, folder: &[u8], of: impl Fn(usize) -> bool) {
        let within = if folder.is_empty() { TreePath::new() } else { [folder, b"/"].concat() };
        let below = self.nodes.range(within.clone()..).take_while(|(path, _)| path.starts_with(&within));
        let gone: Vec<_> = below.filter(|(_, (layer, _))| of(*layer)).map(|(path, _)| path.clone()).collect();
        for path in gone {
            self.nodes.remove(&path);
        }
    }
}

/// What to do about a folder that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Make,
    Stop,
}

/// The names that a path consists of, `..` among them.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// An entry's folder and its name; `None`: it is the root. One that begins with a slash is taken from the root on.
pub(super) fn split(path: &[u8]) -> Result<Option<(TreePath, Vec<u8>)>, ImageRefusal> {
    if path.contains(&0) {
        return Err(refuse(path, "has a NUL in it"));
    }
    if components(path).any(|name| name == b"..") {
        return Err(refuse(path, "climbs"));
    }
    if components(path).any(|name| name.len() > MAX_NAME_LEN) {
        return Err(refuse(path, "has a name longer than 255 bytes"));
    }
    let names: Vec<_> = components(path).collect();
    Ok(names.split_last().map(|(name, folder)| (folder.join(&b'/'), name.to_vec())))
}

fn join(folder: &[u8], name: &[u8]) -> TreePath {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
