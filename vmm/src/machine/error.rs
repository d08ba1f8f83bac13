//! What can go wrong while a machine is put together, and which field of the configuration is to blame.

use std::error::Error;

use vmm_api::Refusal;

use crate::boot::BootError;
use crate::cpu::CpuError;
use crate::describe::describe;
use crate::memory::MemoryError;

/// A machine that cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// `/dev/kvm`.
    #[error("open /dev/kvm")]
    OpenKvm(#[source] kvm_ioctls::Error),
    /// `/dev/userfaultfd`.
    #[error("open /dev/userfaultfd, which fills memory when a snapshot is loaded")]
    OpenUserfault(#[source] std::io::Error),
    /// Anything asked of KVM about the whole machine.
    #[error("{what}")]
    Kvm {
        /// What was attempted.
        what: &'static str,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// The host's KVM lacks something that there is no way around.
    #[error("KVM of this host has no {0}")]
    MissingCapability(&'static str),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initrd, command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A vCPU.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A device.
    #[error("attach {device}")]
    Device {
        /// Which.
        device: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// More devices than interrupt lines.
    #[error("attach {0}: no interrupt line is left")]
    NoInterruptLine(String),
    /// An eventfd or epoll instance.
    #[error("set up event delivery")]
    Events(#[source] std::io::Error),
    /// The ACPI tables.
    #[error("write the ACPI tables")]
    Acpi(#[source] vm_memory::GuestMemoryError),
}

pub(super) fn kvm_failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { what, source }
}

pub(super) fn device_failed<E: Into<Box<dyn Error + Send + Sync>>>(
    device: &str,
) -> impl Fn(E) -> MachineError {
    move |source| MachineError::Device { device: device.to_owned(), source: source.into() }
}

impl MachineError {
    /// As the client is told.
    #[must_use]
    pub(crate) fn refusal(&self) -> Refusal {
        let field = match self {
            Self::Boot(error) => error.field().map(str::to_owned),
            Self::Memory(MemoryError::Map { .. }) => Some("mem_size_mib".to_owned()),
            _ => None,
        };
        Refusal { field, message: describe(self) }
    }
}
