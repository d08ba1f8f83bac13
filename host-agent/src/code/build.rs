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
    confined::{EXIT_REFUSED, IMAGE, UPLOAD},
};

/// Longest time for one zip. The helpers' own limits of CPU time end them before, unless they wait for the disk.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Most bytes that are read of what the helper says.
const MAX_OUTPUT: u64 = 16 * 1024;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// The zip's fault.
    #[error("the zip is refused: {0}")]
    Refused(#[from] Refusal),
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
    #[error("the helpers took longer than {TIMEOUT:?}")]
    Timeout,
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
                    let mut pack = command("pack-code", dir);
                    pack.arg("--mkfs").arg(mkfs).stdin(Stdio::null());
                    run(pack).await
                };
                tokio::time::timeout(TIMEOUT, both).await.map_err(|_| BuildError::Timeout)??;
                // Durable before anything names it.
                let built = tokio::fs::File::open(&image).await.map_err(file("open", &image))?;
                built.sync_all().await.map_err(file("sync", &image))?;
            }
            #[cfg(test)]
            Self::InProcess => in_process::unzip(dir, layers, &image)?,
        }
        Ok(image)
    }

    /// Checks the zip [`UPLOAD`] in `dir` as [`Self::build`] does.
    pub(crate) async fn check(&self, dir: &Path) -> Result<(), BuildError> {
        match self {
            Self::Helper { .. } => {
                tokio::time::timeout(TIMEOUT, unzip(dir, 0)).await.map_err(|_| BuildError::Timeout)?
            }
            #[cfg(test)]
            Self::InProcess => in_process::unzip(dir, 0, &dir.join(IMAGE)),
        }
    }
}

async fn unzip(dir: &Path, layers: usize) -> Result<(), BuildError> {
    let zip = dir.join(UPLOAD);
    let zip = std::fs::File::open(&zip).map_err(file("open", &zip))?;
    let mut unzip = command("unzip-code", dir);
    unzip.arg("--layers").arg(layers.to_string()).stdin(Stdio::from(zip));
    run(unzip).await.map_err(blame_zip)
}

/// The helper that reads the zip does nothing else: what kills it (a limit, a call that its filter refuses) is the zip.
fn blame_zip(error: BuildError) -> BuildError {
    match error {
        BuildError::Helper { status, stderr } if status.signal().is_some() => {
            tracing::warn!("a zip ended its helper with {status}: {stderr}");
            Refusal::Unusable(format!("unpacking it ended with {status}")).into()
        }
        other => other,
    }
}

fn command(name: &str, dir: &Path) -> Command {
    // The running program, whatever its file is called by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg(name).arg("--dir").arg(dir).current_dir(dir).env_clear();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a helper to its end.
async fn run(mut command: Command) -> Result<(), BuildError> {
    let mut child = command.spawn().map_err(BuildError::Run)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let said = tokio::try_join!(read(stdout), read(stderr));
    let (out, err) = said.map_err(BuildError::Run)?;
    let status = child.wait().await.map_err(BuildError::Run)?;
    if status.success() {
        return Ok(());
    }
    if status.code() == Some(EXIT_REFUSED.into())
        && let Ok(refusal) = serde_json::from_slice::<Refusal>(&out)
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
        merge::merge,
    };

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
