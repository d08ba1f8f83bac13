//! The disks of a driven guest: one that it may write and one that it may not, in this order.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use chunk_store::{ChunkSize, Kind, LocalContent};
use vmm_api::{DriveAccess, DriveConfig, Grant, Source};

/// Names of the two in the guest.
const WRITABLE: &str = "writable";
const READ_ONLY: &str = "read_only-2";

const SECTOR: usize = 512;

/// What the probe writes over the last sector of a disk that it may write.
const WRITTEN: u8 = 0xc3;

/// Sectors of the disk that may not be written.
const READ_ONLY_SECTORS: usize = 4;

/// Both disks, as files; and the second one as a content of the chunk store.
pub(crate) struct Disks {
    writable: File,
    read_only: File,
    content: LocalContent,
    /// The byte that each was filled with.
    fill: [u8; 2],
    sectors: usize,
}

impl Disks {
    /// Two files named after `name`; the one that may be written has so many sectors.
    pub(crate) fn make(folder: &Path, name: &str, fill: [u8; 2], sectors: usize) -> Result<Self> {
        let (writable, read_only) = (folder.join(name), folder.join(format!("{name}-read-only")));
        fs::write(&writable, vec![fill[0]; sectors * SECTOR])?;
        fs::write(&read_only, vec![fill[1]; READ_ONLY_SECTORS * SECTOR])?;
        let writable = File::options().read(true).write(true).open(&writable).context("open a disk")?;
        // Opened for both: that the guest cannot write it is the VMM's doing.
        let read_only = File::options().read(true).write(true).open(&read_only).context("open a disk")?;
        let slots = folder.join(format!("{name}-slots"));
        let slots = File::options().read(true).write(true).create(true).truncate(true).open(slots)?;
        let content = LocalContent::seal(&read_only, Kind::Image, ChunkSize::IMAGE, slots)?;
        Ok(Self { writable, read_only, content, fill, sectors })
    }

    /// In the order of [`configs`].
    pub(crate) fn files(&self) -> [&File; 2] {
        [&self.writable, &self.read_only]
    }

    /// In the order of [`configs_by_chunks`].
    pub(crate) fn files_by_chunks(&self) -> Result<[File; 4]> {
        let [table, slots, asks] = self.content.handed()?.map(File::from);
        Ok([self.writable.try_clone()?, table, slots, asks])
    }

    /// What the probe says of them.
    pub(crate) fn said(&self) -> String {
        let [first, second] = self.fill;
        format!("{WRITABLE}:{first:02x}/{}:rw,{READ_ONLY}:{second:02x}/{READ_ONLY_SECTORS}:ro", self.sectors)
    }

    /// The guest's writes are where they belong, and nowhere else.
    pub(crate) fn check(&self) -> Result<()> {
        let [first, second] = self.fill;
        let mut expected = vec![first; self.sectors * SECTOR];
        expected[(self.sectors - 1) * SECTOR..].fill(WRITTEN);
        ensure!(content(&self.writable)? == expected, "{WRITABLE} has something else than what was written");
        let untouched = vec![second; READ_ONLY_SECTORS * SECTOR];
        ensure!(content(&self.read_only)? == untouched, "{READ_ONLY} was written");
        Ok(())
    }
}

/// The drives, whose files are the descriptors from `first` on.
pub(crate) fn configs(first: usize) -> Vec<DriveConfig> {
    let config = |id: &str, fd, access| DriveConfig { id: id.into(), source: Source::Fd(fd), access };
    vec![config(WRITABLE, first, DriveAccess::ReadWrite), config(READ_ONLY, first + 1, DriveAccess::ReadOnly)]
}

/// The same, with the second one by chunks: four descriptors from `first` on.
pub(crate) fn configs_by_chunks(first: usize) -> Vec<DriveConfig> {
    let mut configs = configs(first);
    if let Some(config) = configs.last_mut() {
        config.source = Source::Chunks(Grant { table: first + 1, slots: first + 2, asks: first + 3 });
    }
    configs
}

fn content(file: &File) -> Result<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;

    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
