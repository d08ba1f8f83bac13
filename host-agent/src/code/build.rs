//! Starts the confined helpers on a zip, with those of layers beside it, and waits for the image.
//!
//! The agent never parses a zip: it hands the open file to a helper, and takes an image or a refusal back.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{io::AsyncReadExt as _, process::Command};

use super::{
    archive::Refusal,
    confined::{DESCRIPTION, EXIT_REFUSED, IMAGE, MAX_DESCRIPTION_LEN, UPLOAD},
    image::{Description, ImageRefusal, documents::is_sha256},
};

/// Longest time for one zip. The helpers' own limits of CPU time end them before, unless they wait for the disk.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The same for one container image, which may be forty times as long.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Most bytes that are read of what the helper says.
const MAX_OUTPUT: u64 = 16 * 1024;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// The zip's fault.
    #[error("the zip is refused: {0}")]
    Refused(#[from] Refusal),
    /// The container image's fault.
    #[error("the image is refused: {0}")]
    Image(#[from] ImageRefusal),
    /// A file of the build could not be made or read.
    #[error("cannot {attempted} {}", path.display())]
    File {
        /// What was attempted.
        attempted: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A helper could not be started or waited for.
    #[error("cannot run a helper")]
    Run(#[source] std::io::Error),
    /// A helper ended otherwise than by its protocol.
    #[error("a helper ended with {status}: {stderr}")]
    Helper {
        /// How.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The helpers took too long.
    #[error("the helpers took longer than {0:?}")]
    Timeout(Duration),
}

/// Makes images.
#[derive(Clone, Debug)]
pub(crate) enum Builder {
    /// Through the confined helpers.
    Helper {
        /// `mkfs.erofs`.
        mkfs: PathBuf,
    },
    /// In this process, and the image is the tar: for tests of what is around it.
    #[cfg(test)]
    InProcess,
}

impl Builder {
    /// Makes the image of what lies in `dir`, a directory of its own, and returns its path: the zip [`UPLOAD`], and so many
    /// layers under their `layer_name`s.
    pub(crate) async fn build(&self, dir: &Path, layers: usize) -> Result<PathBuf, BuildError> {
        let image = dir.join(IMAGE);
        match self {
            Self::Helper { mkfs } => {
                let both = async {
                    unzip(dir, layers).await?;
                    pack(mkfs, dir).await
                };
                within(TIMEOUT, both).await?;
            }
            #[cfg(test)]
            Self::InProcess => in_process::unzip(dir, layers, &image)?,
        }
        Ok(image)
    }

    /// Reads a container image's archive and flattens it in `dir`, in at most `room` bytes; [`Self::pack_image`] makes the image of it.
    pub(crate) async fn flatten_image(
        &self,
        dir: &Path,
        archive: std::fs::File,
        room: u64,
    ) -> Result<Description, BuildError> {
        match self {
            Self::Helper { .. } => within(IMAGE_TIMEOUT, flatten(dir, archive, room)).await,
            #[cfg(test)]
            Self::InProcess => in_process::flatten(archive, room, &dir.join(IMAGE)),
        }
    }

    /// Makes the image of what was flattened in `dir`, and returns its path.
    pub(crate) async fn pack_image(&self, dir: &Path) -> Result<PathBuf, BuildError> {
        match self {
            Self::Helper { mkfs } => within(IMAGE_TIMEOUT, pack(mkfs, dir)).await?,
            // The image is the tar.
            #[cfg(test)]
            Self::InProcess => {}
        }
        Ok(dir.join(IMAGE))
    }

    /// Checks the zip [`UPLOAD`] in `dir` as [`Self::build`] does.
    pub(crate) async fn check(&self, dir: &Path) -> Result<(), BuildError> {
        match self {
            Self::Helper { .. } => within(TIMEOUT, unzip(dir, 0)).await,
            #[cfg(test)]
            Self::InProcess => in_process::unzip(dir, 0, &dir.join(IMAGE)),
        }
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, BuildError>>,
) -> Result<T, BuildError> {
    tokio::time::timeout(limit, work).await.map_err(|_| BuildError::Timeout(limit))?
}

async fn pack(mkfs: &Path, dir: &Path) -> Result<(), BuildError> {
    let mut pack = command("pack-code", dir);
    pack.arg("--mkfs").arg(mkfs).stdin(Stdio::null());
    run::<Refusal>(pack).await?;
    // Durable before anything names it.
    let image = dir.join(IMAGE);
    let built = tokio::fs::File::open(&image).await.map_err(file("open", &image))?;
    built.sync_all().await.map_err(file("sync", &image))
}

async fn flatten(dir: &Path, archive: std::fs::File, room: u64) -> Result<Description, BuildError> {
    let mut flatten = command("flatten-image", dir);
    flatten.arg("--room").arg(room.to_string()).stdin(Stdio::from(archive));
    run::<ImageRefusal>(flatten).await.map_err(|error| match killed(&error) {
        Some(how) => ImageRefusal::Unusable(format!("unpacking it ended with {how}")).into(),
        None => error,
    })?;
    // What has read hostile bytes may have written anything.
    let path = dir.join(DESCRIPTION);
    let described = tokio::fs::File::open(&path).await.map_err(file("open", &path))?;
    let mut text = Vec::new();
    described.take(MAX_DESCRIPTION_LEN).read_to_end(&mut text).await.map_err(file("read", &path))?;
    let described: Option<Description> = serde_json::from_slice(&text).ok();
    let described = described.filter(|described| is_sha256(&described.digest));
    described.ok_or_else(|| ImageRefusal::Unusable("what it is cannot be understood".into()).into())
}

async fn unzip(dir: &Path, layers: usize) -> Result<(), BuildError> {
    let zip = dir.join(UPLOAD);
    let zip = std::fs::File::open(&zip).map_err(file("open", &zip))?;
    let mut unzip = command("unzip-code", dir);
    unzip.arg("--layers").arg(layers.to_string()).stdin(Stdio::from(zip));
    run::<Refusal>(unzip).await.map_err(|error| match killed(&error) {
        Some(how) => Refusal::Unusable(format!("unpacking it ended with {how}")).into(),
        None => error,
    })
}

/// How a helper was killed that does nothing but read what is hostile: what kills it (a limit, a call that its filter refuses) is
/// that.
fn killed(error: &BuildError) -> Option<ExitStatus> {
    match error {
        BuildError::Helper { status, stderr } if status.signal().is_some() => {
            tracing::warn!("an upload ended its helper with {status}: {stderr}");
            Some(*status)
        }
        _ => None,
    }
}

fn command(name: &str, dir: &Path) -> Command {
    // The running program, whatever its file is called by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg(name).arg("--dir").arg(dir).current_dir(dir).env_clear();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a helper to its end; what it refuses it says as `R`.
async fn run<R: serde::de::DeserializeOwned + Into<BuildError>>(
    mut command: Command,
) -> Result<(), BuildError> {
    let mut child = command.spawn().map_err(BuildError::Run)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let said = tokio::try_join!(read(stdout), read(stderr));
    let (out, err) = said.map_err(BuildError::Run)?;
    let status = child.wait().await.map_err(BuildError::Run)?;
    if status.success() {
        return Ok(());
    }
    if status.code() == Some(EXIT_REFUSED.into())
        && let Ok(refusal) = serde_json::from_slice::<R>(&out)
    {
        return Err(refusal.into());
    }
    Err(BuildError::Helper { status, stderr: String::from_utf8_lossy(&err).trim().into() })
}

/// What a helper says, cut at [`MAX_OUTPUT`].
async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut said = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT).read_to_end(&mut said).await?;
    }
    Ok(said)
}

fn file(attempted: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::File { attempted, path, source }
}

#[cfg(test)]
mod in_process {
    use std::fs::File;

    use super::*;
    use crate::code::{
        archive::{RepackError, repack},
        confined::layer_name,
        image::{self, FlattenError},
        merge::merge,
    };

    /// The same of an image.
    pub(super) fn flatten(archive: File, room: u64, tar: &Path) -> Result<Description, BuildError> {
        match image::flatten(archive, room, File::create(tar).unwrap()) {
            Ok(description) => Ok(description),
            Err(FlattenError::Refused(refusal)) => Err(refusal.into()),
            Err(error) => panic!("{error}"),
        }
    }

    /// What the helper does, without its jail.
    pub(super) fn unzip(dir: &Path, layers: usize, tar: &Path) -> Result<(), BuildError> {
        let (zip, tar) = (File::open(dir.join(UPLOAD)).unwrap(), File::create(tar).unwrap());
        let opened = (0..layers).map(|index| File::open(dir.join(layer_name(index))).unwrap()).collect();
        match if layers == 0 { repack(zip, tar) } else { merge(zip, opened, tar) } {
            Ok(()) => Ok(()),
            Err(RepackError::Refused(refusal)) => Err(refusal.into()),
            Err(error) => panic!("{error}"),
        }
    }
}
