//! Puts the root folder of a runtime image together: packages' files, PyPI packages, overlays, minus what is not wanted.
//! No maintainer script runs, so equal inputs give an equal folder. Owners do not matter here: the image has root only.

use super::java;
use super::spec::{Python, Spec, below};
use crate::apt::{Apt, KEYRING};
use crate::cmd::Cmd;
use crate::context::Context;
use crate::progress::Step;
use crate::toolbox::{self, Toolbox};
use anyhow::{Context as _, Result, bail};
use std::borrow::Borrow;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// A merged /usr, which Debian's installer makes, not its packages.
const MERGED: &[&str] = &["bin", "lib", "lib64", "sbin"];
/// What the extraction itself leaves behind: apt's state names the mirror, device nodes come from the guest's kernel.
const LEFTOVERS: &[&str] =
    &["/dev", "/etc/apt", "/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/log", "/run", "/etc/dpkg"];
/// Where the certificates' package puts them, and the one file that all of them are concatenated to: by Debian's
/// maintainer script usually. OpenSSL looks for the last path when nobody names a file.
const CERTIFICATES: &str = "/usr/share/ca-certificates/mozilla";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const OPENSSL_DEFAULT: &str = "/usr/lib/ssl/cert.pem";
/// What a wheel for our image may demand of the C library: trixie's is newer.
const PLATFORMS: &[&str] = &["manylinux_2_28_x86_64", "manylinux2014_x86_64"];

/// Fills the empty folder `root`. `runtimes` is `image/runtimes`, `name` one of its folders.
pub(crate) fn assemble(
    ctx: &Context,
    step: &Step,
    spec: &Spec,
    runtimes: &Path,
    name: &str,
    root: &Path,
) -> Result<()> {
    step.note("extracting Debian packages");
    extract_packages(ctx, step, &spec.packages, root)?;
    for leftover in LEFTOVERS {
        remove(&below(root, leftover))?;
    }
    for pattern in &spec.files.remove {
        remove_matching(root, pattern)?;
    }
    trust_certificates(root)?;
    if let Some(python) = &spec.python {
        step.note("installing Python packages");
        install_wheels(ctx, step, python, &runtimes.join(name), root)?;
    }
    for overlay in &spec.files.overlays {
        copy_tree(&runtimes.join(overlay), root)?;
    }
    for folder in spec.files.directories.iter().chain(&spec.files.sticky) {
        fs::create_dir_all(below(root, folder)).with_context(|| format!("create {folder}"))?;
    }
    for program in &spec.files.executable {
        let made = fs::set_permissions(below(root, program), Permissions::from_mode(0o755));
        made.with_context(|| format!("make {program} executable"))?;
    }
    if let Some(python) = &spec.python {
        step.note("byte-compiling");
        compile(ctx, step, python, root)?;
        try_imports(ctx, step, python, root)?;
    }
    if !spec.probe.is_empty() {
        step.note("probing");
        run_inside(ctx, step, root, &spec.probe).context("run the runtime's probe in its image")?;
    }
    if let Some(java) = &spec.java {
        step.note("compiling the Java runtime");
        java::make(ctx, step, java, &runtimes.join(name), root)?;
    }
    normalise_modes(root)?;
    for folder in &spec.files.sticky {
        fs::set_permissions(below(root, folder), Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

/// Unpacks Debian packages and what they depend on into the empty folder `root`.
pub(crate) fn extract_packages<S: Borrow<str>>(
    ctx: &Context,
    step: &Step,
    packages: &[S],
    root: &Path,
) -> Result<()> {
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    let archive = root.with_extension("tar");
    let sources = toolbox::sources(&Apt::of_host()?)?;
    let cmd = Cmd::privileged("mmdebstrap").args(["--variant=extract", "--mode=root", "--format=tar"]);
    let cmd = cmd.arg(format!("--include={}", packages.join(","))).arg(format!("--keyring={KEYRING}"));
    let cmd = cmd.arg(toolbox::SUITE).arg(&archive).arg("-").stdin(sources);
    cmd.log(ctx.cache.log("runtimes")).step(step).run().context("extract Debian packages")?;
    // Through the symlinks above, should a package still use the old paths.
    let untar =
        ctx.cmd("tar", "runtimes", step).args(["--extract", "--no-same-owner", "--keep-directory-symlink"]);
    untar.args(["--exclude=./dev/*", "--directory"]).arg(root).arg("--file").arg(&archive).run()?;
    crate::cache::remove_tree(&archive)
}

/// One file with every certificate that Debian trusts.
fn trust_certificates(root: &Path) -> Result<()> {
    let mut bundle = Vec::new();
    for path in sorted(&below(root, CERTIFICATES))? {
        bundle.extend(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    for path in [BUNDLE, OPENSSL_DEFAULT] {
        let parent = below(root, path);
        fs::create_dir_all(parent.parent().context("a file has a folder")?)?;
    }
    fs::write(below(root, BUNDLE), bundle)?;
    remove(&below(root, OPENSSL_DEFAULT))?;
    symlink(BUNDLE, below(root, OPENSSL_DEFAULT)).context("link the certificates")
}

fn install_wheels(ctx: &Context, step: &Step, python: &Python, home: &Path, root: &Path) -> Result<()> {
    let venv = root.with_extension("venv");
    ctx.cmd("/usr/bin/python3", "runtimes", step).args(["-m", "venv"]).arg(&venv).run()?;
    let pip = ctx
        .cmd(venv.join("bin/pip"), "runtimes", step)
        .arg("install")
        .arg("--target")
        .arg(below(root, &python.target));
    let pip = pip.args([
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-compile",
        "--disable-pip-version-check",
    ]);
    let pip = pip.args(["--implementation", "cp", "--python-version", &python.version]);
    let pip = pip.args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]));
    pip.arg("--requirement").arg(home.join(&python.requirements)).run().context("install Python packages")?;
    let target = below(root, &python.target);
    // Command-line programs of the packages: their first lines name the build host's interpreter. RECORD, which only an
    // uninstall would read, holds their hashes.
    remove(&target.join("bin"))?;
    for package in
        sorted(&target)?.iter().filter(|path| path.extension().is_some_and(|end| end == "dist-info"))
    {
        remove(&package.join("RECORD"))?;
    }
    crate::cache::remove_tree(&venv)
}

/// The image is read-only: what is not compiled now is compiled at every start.
fn compile(ctx: &Context, step: &Step, python: &Python, root: &Path) -> Result<()> {
    let toolbox = Toolbox::ensure(ctx)?;
    let interpreter = python.interpreter.rsplit('/').next().unwrap_or_default();
    let root_text = root.to_str().context("the cache's path is not UTF-8")?;
    let mut args = vec!["PYTHONHASHSEED=0".to_owned(), interpreter.to_owned()];
    args.extend(
        ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", root_text, "-p", "/"]
            .map(str::to_owned),
    );
    for folder in &python.compile {
        args.push(below(root, folder).to_str().context("a path is not UTF-8")?.to_owned());
    }
    let cmd = toolbox.cmd("env", &args, &[root]);
    cmd.log(ctx.cache.log("runtimes")).step(step).run().context("byte-compile")
}

/// Runs the image's own interpreter in the image.
fn try_imports(ctx: &Context, step: &Step, python: &Python, root: &Path) -> Result<()> {
    let program =
        format!("import sys; sys.path.insert(0, '{}'); import {}", python.target, python.imports.join(", "));
    // -B: leave no byte code behind.
    let command = [python.interpreter.clone(), "-B".into(), "-c".into(), program];
    run_inside(ctx, step, root, &command).context("import the runtime's modules in its image")
}

/// Runs a program of the image in the image.
fn run_inside(ctx: &Context, step: &Step, root: &Path, command: &[String]) -> Result<()> {
    let root_text = root.to_str().context("the cache's path is not UTF-8")?;
    let args: Vec<&str> = [root_text].into_iter().chain(command.iter().map(String::as_str)).collect();
    let cmd = Toolbox::ensure(ctx)?.cmd("chroot", &args, &[root]);
    cmd.log(ctx.cache.log("runtimes")).step(step).run()
}

/// Only two kinds of file: programs and data; no set-uid, nothing that its owner alone can read.
fn normalise_modes(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    for path in sorted(folder)? {
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            normalise_modes(&path)?;
        } else if meta.is_file() {
            let mode = if meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        } else if !meta.is_symlink() {
            bail!("{} is neither file, folder nor symlink", path.display());
        }
    }
    Ok(())
}

pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for path in sorted(from)? {
        let target = to.join(path.file_name().context("an entry has a name")?);
        if path.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&path, &target)?;
        } else {
            remove(&target)?;
            fs::copy(&path, &target).with_context(|| format!("copy {}", path.display()))?;
            fs::set_permissions(&target, Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

/// `pattern` as in [`super::spec::Files::remove`]. Matching nothing is fine: one list serves several package sets.
pub(super) fn remove_matching(root: &Path, pattern: &str) -> Result<()> {
    let Some(prefix) = pattern.strip_suffix('*') else {
        return remove(&below(root, pattern));
    };
    let prefix = below(root, prefix);
    let (Some(folder), Some(start)) = (prefix.parent(), prefix.file_name()) else {
        bail!("{pattern} names no file");
    };
    if !folder.is_dir() {
        return Ok(());
    }
    for path in sorted(folder)? {
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(start.as_encoded_bytes()) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    gone.with_context(|| format!("remove {}", path.display()))
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries: std::io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
    let entries = entries.with_context(|| format!("list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_follows_the_pattern_and_touches_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        for name in ["perl", "perl5.40", "python3.13", "pe"] {
            fs::write(root.join("usr/bin").join(name), "").unwrap();
        }
        for pattern in ["/usr/bin/perl*", "/usr/sbin/x*", "/nowhere"] {
            remove_matching(root, pattern).unwrap();
        }
        let left: Vec<_> = sorted(&root.join("usr/bin")).unwrap();
        assert_eq!(left, [root.join("usr/bin/pe"), root.join("usr/bin/python3.13")]);
    }

    #[test]
    fn modes_become_one_of_two() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("setuid", 0o4711), ("secret", 0o600)] {
            fs::write(dir.path().join(name), "").unwrap();
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        normalise_modes(dir.path()).unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("setuid"), mode("secret")), (0o755, 0o644));
    }
}
