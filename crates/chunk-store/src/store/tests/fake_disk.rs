//! A disk in memory that ends where a test wants it to, or has something else happen in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::disk::{Disk, Draft, Folder, Place};
use super::super::root::{Label, Root};
use crate::name::ChunkName;

/// A disk in memory. When its time has come nothing works any more; then it is started again.
#[derive(Default)]
pub(super) struct FakeDisk(Mutex<Fake>);

#[derive(Default)]
pub(super) struct Fake {
    pub(super) files: HashMap<Place, Vec<u8>>,
    pub(super) drafts: HashMap<Draft, Vec<u8>>,
    /// Drafts that were written and not flushed.
    dirty: HashSet<Draft>,
    /// The next flush fails, and what was to be flushed is lost: the one after it finds nothing to do.
    pub(super) fails: bool,
    /// What happened to the names of a folder since it was flushed.
    unflushed: BTreeMap<Folder, Vec<Change>>,
    /// The next draft is written by half.
    pub(super) torn: bool,
    /// Steps until it ends, and how.
    pub(super) left: Option<(u32, End)>,
    pub(super) ended: Option<End>,
    /// Steps until something else happens in between.
    pub(super) interrupt: Option<(u32, Box<dyn FnOnce() + Send>)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// Of the process: what it did has happened, flushed or not.
    Process,
    /// Of the power: what was not flushed may not have happened.
    Power,
}

impl Place {
    fn folder(&self) -> Folder {
        match self {
            Self::Chunk(name) => Folder::Chunks(name.as_bytes()[0]),
            Self::Root(_) => Folder::Roots,
        }
    }
}

/// A file, and what it was before.
type Change = (Place, Option<Vec<u8>>);

impl Fake {
    fn rename(&mut self, place: &Place, content: Option<Vec<u8>>) {
        let before = match content {
            Some(content) => self.files.insert(place.clone(), content),
            None => self.files.remove(place),
        };
        self.unflushed.entry(place.folder()).or_default().push((place.clone(), before));
    }
}

impl FakeDisk {
    pub(super) fn look(&self) -> MutexGuard<'_, Fake> {
        self.0.lock().unwrap()
    }

    /// One step, if it comes to that.
    fn step(&self) -> io::Result<MutexGuard<'_, Fake>> {
        let interrupt = self.look().interrupt.take_if(|(left, _)| *left == 0);
        if let Some((_, interrupt)) = interrupt {
            interrupt();
        }
        self.step_alone()
    }

    /// One in which nothing else happens: everybody else who comes to it waits.
    fn step_alone(&self) -> io::Result<MutexGuard<'_, Fake>> {
        let mut fake = self.look();
        if let Some((left, _)) = &mut fake.interrupt {
            *left = left.saturating_sub(1);
        }
        if let Some((0, end)) = fake.left {
            fake.ended = Some(end);
        }
        if fake.ended.is_some() {
            return Err(io::Error::other("it is over"));
        }
        fake.left = fake.left.map(|(left, end)| (left - 1, end));
        Ok(fake)
    }

    /// The next start. After a loss of power each folder has kept the first few of the changes that were not flushed.
    pub(super) fn restart(&self, end: End, kept: usize) {
        let mut fake = self.look();
        fake.drafts.clear();
        fake.dirty.clear();
        (fake.left, fake.ended) = (None, None);
        if end == End::Process {
            return;
        }
        for (salt, (_, changes)) in std::mem::take(&mut fake.unflushed).into_iter().enumerate() {
            let kept = (kept + salt * 7) % (changes.len() + 1);
            for (place, before) in changes.into_iter().skip(kept).rev() {
                match before {
                    Some(content) => fake.files.insert(place, content),
                    None => fake.files.remove(&place),
                };
            }
        }
    }

    /// Every root that there is, with what it needs, all of which is there.
    pub(super) fn roots(&self) -> HashMap<Label, BTreeSet<ChunkName>> {
        let fake = self.look();
        let mut roots = HashMap::new();
        for (place, file) in &fake.files {
            let Place::Root(label) = place else { continue };
            let names = Root::decode(file).expect("a root is whole").names;
            for name in &names {
                let body = fake.files.get(&Place::Chunk(*name));
                assert!(body.is_some_and(|body| ChunkName::of(body) == *name), "root {label} lacks {name}");
            }
            roots.insert(label.clone(), names);
        }
        roots
    }
}

impl Disk for Arc<FakeDisk> {
    fn read(&self, place: &Place, _max_len: usize) -> io::Result<Vec<u8>> {
        self.step()?.files.get(place).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    fn holds(&self, place: &Place) -> io::Result<bool> {
        Ok(self.step()?.files.contains_key(place))
    }

    fn len(&self, place: &Place) -> io::Result<u64> {
        let fake = self.step()?;
        fake.files.get(place).map(|file| file.len() as u64).ok_or(io::ErrorKind::NotFound.into())
    }

    fn write(&self, draft: &Draft, content: &[u8]) -> io::Result<()> {
        let mut fake = self.step()?;
        let is_torn = std::mem::take(&mut fake.torn);
        let written = if is_torn { &content[..content.len() / 2] } else { content };
        fake.drafts.insert(draft.clone(), written.to_vec());
        fake.dirty.insert(draft.clone());
        if is_torn { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn flush(&self) -> io::Result<()> {
        let mut fake = self.step_alone()?;
        let dirty = std::mem::take(&mut fake.dirty);
        if std::mem::take(&mut fake.fails) {
            dirty.into_iter().for_each(|draft| _ = fake.drafts.insert(draft, b"lost".to_vec()));
            return Err(io::Error::other("it could not be written"));
        }
        fake.unflushed.clear();
        Ok(())
    }

    fn finish(&self, draft: &Draft) -> io::Result<()> {
        let mut fake = self.step()?;
        assert!(!fake.dirty.contains(draft), "flushed before it is named");
        let content = fake.drafts.remove(draft).expect("written before it is named");
        fake.rename(&draft.place, Some(content));
        Ok(())
    }

    fn discard(&self, draft: &Draft) -> io::Result<()> {
        let mut fake = self.step()?;
        fake.dirty.remove(draft);
        fake.drafts.remove(draft).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove(&self, place: &Place) -> io::Result<()> {
        self.step()?.rename(place, None);
        Ok(())
    }

    fn sync_roots(&self) -> io::Result<()> {
        self.step()?.unflushed.remove(&Folder::Roots);
        Ok(())
    }

    fn end(&self, publish: u64) {
        let fake = self.look();
        // What ended with the disk could not be discarded.
        let is_done = fake.ended.is_some() || !fake.drafts.keys().any(|draft| draft.publish == publish);
        assert!(is_done, "drafts are left of a publish that ended");
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Place>> {
        let places =
            |fake: &Fake| fake.files.keys().filter(|place| place.folder() == folder).cloned().collect();
        Ok(places(&*self.step()?))
    }
}
