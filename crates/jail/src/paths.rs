//! Landlock: which paths can be opened, and which TCP ports used. Called by `plan` only.

use std::path::PathBuf;

use landlock::Access as _;
use landlock::{
    ABI, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::plan::JailError;

/// The newest landlock version whose rights are asked for (Linux 6.12). An older kernel enforces what it knows; one
/// without landlock is refused.
const NEWEST: ABI = ABI::V6;

/// A file or a directory with everything beneath it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// Must exist when the plan is entered.
    pub path: PathBuf,
    /// What can be done there.
    pub access: Access,
    /// Why it is needed.
    pub reason: &'static str,
}

/// What can be done beneath a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read files and list directories.
    Read,
    /// [`Access::Read`], and run files as programs.
    ReadExecute,
    /// Read, create, write, truncate and remove; no device nodes, no execution.
    ReadWrite,
}

/// A TCP port, whatever the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// Which; to listen at 0 is to listen at any that is free.
    pub port: u16,
    /// What can be done with it.
    pub access: PortAccess,
    /// Why it is needed.
    pub reason: &'static str,
}

/// What can be done with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortAccess {
    /// Listen there.
    Listen,
    /// Connect to it.
    Connect,
}

impl PortAccess {
    fn right(self) -> AccessNet {
        match self {
            Self::Listen => AccessNet::BindTcp,
            Self::Connect => AccessNet::ConnectTcp,
        }
    }
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Self::ReadExecute => AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute,
            Self::ReadWrite => {
                AccessFs::ReadFile
                    | AccessFs::ReadDir
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeDir
                    | AccessFs::MakeSym
                    | AccessFs::RemoveFile
                    | AccessFs::RemoveDir
                    | AccessFs::Refer
            }
        }
    }
}

/// Refuses every file system, TCP and signal access that landlock knows, except what is named; the version that is enforced.
pub(crate) fn restrict(paths: &[PathRule], ports: &[PortRule]) -> Result<u32, JailError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|r| r.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp))
        .and_then(|r| r.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(JailError::Landlock)?;
    for rule in paths {
        let target = PathFd::new(&rule.path)
            .map_err(|source| JailError::Path { path: rule.path.display().to_string(), source })?;
        let file_only = !rule.path.is_dir();
        let rights =
            if file_only { rule.access.rights() & AccessFs::from_file(NEWEST) } else { rule.access.rights() };
        ruleset = ruleset.add_rule(PathBeneath::new(target, rights)).map_err(JailError::Landlock)?;
    }
    for rule in ports {
        ruleset =
            ruleset.add_rule(NetPort::new(rule.port, rule.access.right())).map_err(JailError::Landlock)?;
    }
    let status = ruleset.restrict_self().map_err(JailError::Landlock)?;
    match (status.ruleset, status.landlock) {
        (
            RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced,
            LandlockStatus::Available { effective_abi, .. },
        ) => Ok(effective_abi.min(NEWEST) as u32),
        _ => Err(JailError::NoLandlock),
    }
}
