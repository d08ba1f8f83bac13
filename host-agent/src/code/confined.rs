//! The confined helpers that make a code image, each a process of its own, started by `code::build` alone:
//!
//! ```text
//! host-agent unzip-code --dir DIR                zip on standard input ─► DIR/code.tar
//! host-agent unzip-code --dir DIR --layers N     the same zip and N of DIR/layer-0.zip, … ─► DIR/code.tar, `code::merge`
//! host-agent flatten-image --dir DIR --room LEN  OCI archive on standard input ─► DIR/code.tar, DIR/image.json, `code::image`
//! host-agent pack-code --mkfs FILE --dir DIR     DIR/code.tar ─► DIR/code.erofs, by becoming mkfs.erofs
//! ```
//!
//! The first ones read a hostile zip or archive: their jail has one directory, no `execve`, no thread and no process. The last one
//! runs a foreign program, but on a tar that we wrote. All enter their jail before they look at the first byte. A zip or an
//! archive that no function may have is said in one line of JSON on standard output with exit status [`EXIT_REFUSED`]; every
//! other failure is the node's and goes to standard error.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use jail::{Access, JailPlan, Limit, PathRule, Resource, SyscallFilter, SyscallRule, allow};

use super::{
    archive::{self, MAX_ENTRIES, MAX_UNZIPPED_LEN, RepackError},
    image::{self, FlattenError},
    merge::merge,
};

/// Exit status that says: the zip is refused, standard output says why.
pub(crate) const EXIT_REFUSED: u8 = 3;

/// Name of the image in the helpers' directory.
pub(crate) const IMAGE: &str = "code.erofs";

/// Name of the zip in the helpers' directory, which the first of them has on its standard input.
pub(crate) const UPLOAD: &str = "upload.zip";

/// Name of a layer's zip in the helpers' directory.
pub(crate) fn layer_name(index: usize) -> String {
    format!("layer-{index}.zip")
}

/// What is said of an image beside its files, in the helpers' directory.
pub(crate) const DESCRIPTION: &str = "image.json";

/// Name of the tar in the helpers' directory.
const TAR: &str = "code.tar";

/// Longest description that is read: what an image may say of how it is run, with escapes.
pub(crate) const MAX_DESCRIPTION_LEN: u64 = 1024 * 1024;

/// Headers and padding of one tar entry, in bytes: header, long name's header and name, padding.
const TAR_OVERHEAD: u64 = 4 * 512;

/// The images' UUID: none, so that the same zip makes the same image.
const UUID: &str = "00000000-0000-0000-0000-000000000000";

/// What an image is cut into (`docs/chunk-format.md`), and where the files of an aligned one begin.
const CHUNK_LEN: u64 = 64 * 1024;

/// Most chunks of files in an aligned image, 512 MiB: each is a file of the store's, a slot of the cache's and 64 bytes of a
/// manifest. What is allowed to be unpacked has 4,000, and one more for each file; packages of more files than that are small
/// ones almost only, and would be ten times as long.
const MAX_ALIGNED: u64 = 8192;

/// Equal files of different images are equal chunks: each begins on a multiple of 16 blocks, with its end there and not among
/// metadata, which is behind all of them (`docs/adr/0009-erofs-for-runtimes-and-code.md`).
const ALIGNED: &[&str] = &["--dsunit=16", "-Enoinline_data", "--sort=none"];

/// As short as it can be.
const PACKED: &[&str] = &[];

/// What mkfs.erofs is linked with; those that exist are readable.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

/// Is the first helper.
pub(crate) fn unzip(dir: &Path, layers: usize) -> ExitCode {
    let error = match unzip_confined(dir, layers) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    if let Some(RepackError::Refused(refusal)) = error.downcast_ref() {
        return refused(refusal);
    }
    eprintln!("unzip-code: {error:#}");
    ExitCode::FAILURE
}

fn refused(refusal: &impl serde::Serialize) -> ExitCode {
    let line = serde_json::to_string(refusal).unwrap_or_default();
    // The parent reads to the end; if it is gone there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
    ExitCode::from(EXIT_REFUSED)
}

fn unzip_confined(dir: &Path, layers: usize) -> anyhow::Result<()> {
    enter(&unzip_plan(dir), &unzip_filter())?;
    let zip = std::io::stdin().as_fd().try_clone_to_owned().context("cannot read the zip")?;
    let zip = BufReader::new(File::from(zip));
    let tar = BufWriter::new(File::create(dir.join(TAR)).context("cannot create the tar")?);
    if layers == 0 {
        return Ok(archive::repack(zip, tar)?);
    }
    let open = |index| File::open(dir.join(layer_name(index))).map(BufReader::new);
    let layers = (0..layers).map(open).collect::<Result<_, _>>().context("cannot open a layer")?;
    Ok(merge(zip, layers, tar)?)
}

/// Is the first helper of an image, whose tar may have so many bytes.
pub(crate) fn flatten(dir: &Path, room: u64) -> ExitCode {
    let error = match flatten_confined(dir, room) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    if let Some(FlattenError::Refused(refusal)) = error.downcast_ref() {
        return refused(refusal);
    }
    eprintln!("flatten-image: {error:#}");
    ExitCode::FAILURE
}

fn flatten_confined(dir: &Path, room: u64) -> anyhow::Result<()> {
    enter(&flatten_plan(dir, room), &unzip_filter())?;
    let archive = std::io::stdin().as_fd().try_clone_to_owned().context("cannot read the archive")?;
    let tar = BufWriter::new(File::create(dir.join(TAR)).context("cannot create the tar")?);
    let description = image::flatten(BufReader::new(File::from(archive)), room, tar)?;
    let text = serde_json::to_vec(&description).context("cannot describe the image")?;
    std::fs::write(dir.join(DESCRIPTION), text).context("cannot write what the image is")
}

/// Is the last helper; returns only when it cannot become mkfs.erofs.
pub(crate) fn pack(mkfs: &Path, dir: &Path) -> ExitCode {
    let image = dir.join(IMAGE);
    // mkfs.erofs would ask on which file system it is and remove it on some, by calls that it may not make.
    if image.exists() {
        eprintln!("pack-code: {} is there already", image.display());
        return ExitCode::FAILURE;
    }
    // An image was described; nobody but the helper before this one has written there.
    let limits = limits(if dir.join(DESCRIPTION).exists() { IMAGE_LIMITS } else { CODE_LIMITS });
    if let Err(error) = enter(&pack_plan(mkfs, dir, limits), &pack_filter()) {
        eprintln!("pack-code: {error:#}");
        return ExitCode::FAILURE;
    }
    let tar = dir.join(TAR);
    let arrangement = match arrangement(&tar) {
        Ok(arrangement) => arrangement,
        Err(error) => {
            eprintln!("pack-code: cannot read the tar: {error}");
            return ExitCode::FAILURE;
        }
    };
    let failed = Command::new(mkfs)
        .args(["--quiet", "-T0", "-U", UUID, "-x-1", "--workers=1"])
        .args(arrangement)
        .arg("--tar=f")
        .arg(image)
        .arg(tar)
        .env_clear()
        .exec();
    eprintln!("pack-code: cannot run {}: {failed}", mkfs.display());
    ExitCode::FAILURE
}

/// What mkfs.erofs is told of where to put the files of a tar of ours.
fn arrangement(tar: &Path) -> std::io::Result<&'static [&'static str]> {
    let mut archive = tar::Archive::new(File::open(tar)?);
    let chunks = archive.entries_with_seek()?.map(|entry| Ok(entry?.size().div_ceil(CHUNK_LEN)));
    let chunks: u64 = chunks.sum::<std::io::Result<_>>()?;
    Ok(if chunks > MAX_ALIGNED { PACKED } else { ALIGNED })
}

fn enter(plan: &JailPlan, filter: &SyscallFilter) -> anyhow::Result<()> {
    let filter = filter.compile().context("cannot compile the system call filter")?;
    plan.enter().context("cannot enter the jail")?;
    filter.apply().context("cannot apply the system call filter")
}

fn unzip_plan(dir: &Path) -> JailPlan {
    let tar_len = MAX_UNZIPPED_LEN + MAX_ENTRIES as u64 * TAR_OVERHEAD;
    let mut limits = limits(CODE_LIMITS);
    limits.extend(reader_limits(tar_len, "the largest tar that the rules for zips allow"));
    let paths = vec![PathRule { path: dir.to_owned(), access: Access::ReadWrite, reason: "layers, tar" }];
    JailPlan { limits, paths, ..JailPlan::default() }
}

/// The archive is read from standard input alone.
fn flatten_plan(dir: &Path, room: u64) -> JailPlan {
    let mut limits = limits(IMAGE_LIMITS);
    limits.extend(reader_limits(room.max(MAX_DESCRIPTION_LEN), "what the node has room for"));
    let paths =
        vec![PathRule { path: dir.to_owned(), access: Access::ReadWrite, reason: "tar, description" }];
    JailPlan { limits, paths, ..JailPlan::default() }
}

/// Of what parses hostile bytes.
fn reader_limits(file_len: u64, reason: &'static str) -> [Limit; 2] {
    let limit = |resource, value, reason| Limit { resource, value, reason };
    [
        limit(Resource::RLIMIT_FSIZE, file_len, reason),
        limit(Resource::RLIMIT_NPROC, 0, "makes no process and no thread"),
    ]
}

/// Where what the helpers are linked with is, as far as it exists.
pub(crate) fn libraries() -> impl Iterator<Item = PathBuf> {
    LIBRARIES.iter().map(PathBuf::from).filter(|path| path.exists())
}

/// No limit of file size: mkfs.erofs keeps its scratch data at 1 TiB of a sparse file, and a length says nothing about
/// blocks. What it writes is bounded by the tar.
fn pack_plan(mkfs: &Path, dir: &Path, limits: Vec<Limit>) -> JailPlan {
    let mut paths: Vec<_> = libraries()
        .map(|path| PathRule { path, access: Access::ReadExecute, reason: "what mkfs.erofs is linked with" })
        .collect();
    let cache = PathBuf::from("/etc/ld.so.cache");
    if cache.exists() {
        paths.push(PathRule { path: cache, access: Access::Read, reason: "the loader's index of libraries" });
    }
    paths.push(PathRule { path: mkfs.to_owned(), access: Access::ReadExecute, reason: "makes the image" });
    paths.push(PathRule { path: dir.to_owned(), access: Access::ReadWrite, reason: "tar and image" });
    JailPlan { limits, paths, ..JailPlan::default() }
}

/// What a helper may have of processors and memory.
struct Limits {
    cpu_s: (u64, &'static str),
    memory: (u64, &'static str),
}

const CODE_LIMITS: Limits = Limits {
    cpu_s: (120, "seconds; 250 MB inflate in two on hardware, in tens when emulated"),
    memory: (1 << 30, "bytes; 100,000 entries take a tenth of that"),
};

const IMAGE_LIMITS: Limits = Limits {
    cpu_s: (1500, "seconds; forty times as much as of a zip, and read twice"),
    memory: (2 << 30, "bytes; 500,000 paths take a fourth of that"),
};

/// Limits of all helpers.
fn limits(Limits { cpu_s, memory }: Limits) -> Vec<Limit> {
    let limit = |resource, value, reason| Limit { resource, value, reason };
    vec![
        limit(Resource::RLIMIT_CPU, cpu_s.0, cpu_s.1),
        limit(Resource::RLIMIT_AS, memory.0, memory.1),
        limit(Resource::RLIMIT_NOFILE, 64, "a handful are open"),
        limit(Resource::RLIMIT_CORE, 0, "a dump would hold a customer's code"),
    ]
}

fn unzip_filter() -> SyscallFilter {
    SyscallFilter::new("unzip-code", common_rules())
}

/// The loader, libc and mkfs.erofs. `clone3` hides its flags in memory: that a process could be made is bounded by
/// landlock, which this filter is not alone with.
fn pack_filter() -> SyscallFilter {
    let mut rules = common_rules();
    rules.extend([
        allow!(SYS_execve, "becoming mkfs.erofs; landlock allows that file and its libraries"),
        allow!(SYS_arch_prctl, "thread-local storage at start"),
        allow!(SYS_set_tid_address, "libc's start"),
        allow!(SYS_set_robust_list, "libc's start of a thread"),
        allow!(SYS_rseq, "libc's start of a thread"),
        allow!(SYS_prlimit64, "libc asks for the stack's size"),
        allow!(SYS_rt_sigaction, "libc's handler for cancelled threads"),
        allow!(SYS_mprotect, "the loader's relocations, stacks, arenas"),
        allow!(SYS_madvise, "libc gives an ended thread's stack back"),
        allow!(SYS_access, "the loader looks for its preload list"),
        allow!(SYS_readlink, "the loader finds out where it is"),
        allow!(SYS_statfs, "libselinux looks for its file system when it is loaded"),
        allow!(SYS_fstat, "lengths of libraries and of the tar"),
        allow!(SYS_newfstatat, "an older libc asks for lengths by it"),
        allow!(SYS_pread64, "libraries, the image's superblock for its checksum"),
        allow!(SYS_pwrite64, "the image's metadata"),
        allow!(SYS_ftruncate, "the image's length"),
        allow!(SYS_fallocate, "blocks of zeros in the image"),
        allow!(SYS_copy_file_range, "data from the tar to the image"),
        allow!(SYS_sendfile, "the same, where the file system cannot copy ranges"),
        allow!(SYS_fadvise64, "the tar is read in order"),
        allow!(SYS_dup, "scratch data lies in the image's file"),
        allow!(SYS_sched_getaffinity, "the number of processors"),
        allow!(SYS_ioctl, arg 1 = jail::libc::TCGETS, "libc asks whether its output is a terminal"),
        allow!(SYS_clone3, "mkfs.erofs writes from a thread of its own"),
        allow!(
            SYS_clone,
            arg 0 without jail::libc::CLONE_NEWUSER,
            "the same in the agent's unit, where systemd's filter for namespaces answers that there is no clone3"
        ),
        allow!(SYS_futex, "mkfs.erofs and that thread wait for each other"),
        allow!(SYS_exit, "that thread's end"),
        allow!(SYS_clock_gettime, "where the clock cannot be read without the kernel"),
        allow!(SYS_gettimeofday, "where the clock cannot be read without the kernel"),
    ]);
    SyscallFilter::new("pack-code", rules)
}

/// What both need.
fn common_rules() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_read, "zip, tar, libraries"),
        allow!(SYS_write, "tar, image, the refusal"),
        allow!(SYS_lseek, "zips are read out of order"),
        allow!(SYS_openat, "tar, image, libraries; landlock says which"),
        allow!(SYS_close, "what was opened"),
        allow!(
            SYS_fcntl,
            "duplicating standard input; in debug builds the standard library looks whether what it closes is open"
        ),
        allow!(SYS_mmap, "libc's allocator, libraries"),
        allow!(SYS_munmap, "libc's allocator"),
        allow!(SYS_mremap, "growing large buffers"),
        allow!(SYS_brk, "libc's allocator"),
        allow!(SYS_getrandom, "seeds of hash tables"),
        allow!(
            SYS_rt_sigprocmask,
            "libc blocks signals while it makes a thread or sets up its random generator"
        ),
        allow!(
            SYS_sigaltstack,
            "Rust takes its stack guard down at the end, that of what could not become mkfs.erofs, too"
        ),
        allow!(SYS_exit_group, "the end of the process"),
    ]
}

/// What the helpers may call.
#[cfg(test)]
pub(crate) fn filters() -> [SyscallFilter; 2] {
    [unzip_filter(), pack_filter()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_helper_has_a_network() {
        for filter in filters() {
            let mut names = filter.rules.iter().map(|rule| rule.name);
            assert!(
                !names.any(|name| name.contains("socket") || name.contains("connect")),
                "{}",
                filter.name
            );
        }
    }

    #[test]
    fn files_that_would_take_too_many_chunks_are_packed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TAR);
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        let mut append = |name: String, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content).unwrap();
        };
        append("empty".into(), b"");
        append("two chunks".into(), &[1; CHUNK_LEN as usize + 1]);
        for index in 2..MAX_ALIGNED {
            append(index.to_string(), b"1");
        }
        assert_eq!(arrangement(&path).unwrap(), ALIGNED);
        append("one more".into(), b"1");
        assert_eq!(arrangement(&path).unwrap(), PACKED);
    }
}
