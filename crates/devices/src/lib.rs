//! The guest's devices over guest memory: virtio-mmio transport, block, network, vsock, entropy, serial port, reset port, and the
//! generation that tells a clone from its original.
//!
//! Not here: KVM, threads, HTTP, files by path. `vmm` opens the files, maps the memory, registers the eventfds and
//! runs the threads.
//!
//! # Who calls what
//!
//! ```text
//!  vCPU threads                              the I/O thread (one for all devices)
//!  Bus::get(address)                         epoll over kicks() and backend() of every device
//!    └ Mutex<MmioTransport>::read/write        └ Mutex<device>::handle(Event)
//!         │ activate, reset, config space           │ used buffers, then DeviceInterrupt
//!         └────────► Mutex<device> ◄────────────────┘
//! ```
//!
//! Locks are taken in one order, transport before device. A device never calls its transport: it raises its
//! [`DeviceInterrupt`], which is atomics and the VMM's [`Interrupt`]. So register accesses of a running device,
//! interrupt status and acknowledgement above all, never wait for the I/O thread.

mod block;
mod bus;
mod generation;
mod guest_io;
mod interrupt;
mod net;
mod reset_port;
mod rng;
mod serial;
mod virtio;
mod vsock;

pub use block::{Access, Block, BlockError, BlockRestoreError, BlockState, DriveId, Storage};
pub use bus::{Bus, BusDevice, BusError};
pub use generation::{
    GENERATION_ID_LEN, Generation, GenerationError, GenerationPlace, GenerationResources, GenerationState,
    VMCLOCK_LEN,
};
pub use interrupt::{DeviceInterrupt, Interrupt};
pub use net::{Link, MAX_FRAME_LEN, Net, NetRestoreError, NetState, RateLimit, Uplink};
pub use reset_port::{RESET_PORT_REGION_SIZE, ResetPort};
pub use rng::Rng;
pub use serial::{SERIAL_REGION_SIZE, Serial, SerialRestoreError, SerialSink, SerialState};
pub use virtio::chain::ChainError;
pub use virtio::device::{Activation, Event, VirtioDevice};
pub use virtio::mmio::{MMIO_REGION_SIZE, MmioTransport, QUEUE_NOTIFY_OFFSET, TransportResources};
pub use virtio::segments::Segments;
pub use virtio::service::DeviceError;
pub use virtio::state::{QueueState, RestoreError, TransportState};
pub use vsock::{Accepted, Broker, SocketBroker, Vsock, VsockRestoreError, VsockState};

/// Guest memory as every device sees it. It remembers which pages the host writes, for incremental snapshots: KVM does so
/// for the guest's writes only.
pub type Memory = vm_memory::GuestMemoryMmap<vm_memory::bitmap::AtomicBitmap>;

/// A piece of it.
pub(crate) type Slice<'m> = vm_memory::VolatileSlice<'m, vm_memory::bitmap::MS<'m, Memory>>;
