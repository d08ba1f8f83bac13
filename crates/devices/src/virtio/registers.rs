//! Names and offsets of the virtio-mmio registers, virtio 1.3 §4.2.2 table 4.1. What they do is in `mmio.rs`.

/// Where the device's own configuration begins.
pub(crate) const CONFIG_SPACE: u64 = 0x100;

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $offset:literal,)*) => {
        /// A 32-bit register, by its offset.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Register {
            $($(#[$doc])* $name = $offset,)*
        }

        impl Register {
            /// The register at an offset; none between registers or across two.
            pub(crate) fn at(offset: u64) -> Option<Self> {
                match offset {
                    $($offset => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

registers! {
    /// R: "virt".
    MagicValue = 0x000,
    /// R: 2.
    Version = 0x004,
    /// R: device type.
    DeviceId = 0x008,
    /// R.
    VendorId = 0x00c,
    /// R: page of the offered features.
    DeviceFeatures = 0x010,
    /// W: which page.
    DeviceFeaturesSel = 0x014,
    /// W, between DRIVER and FEATURES_OK: page of the accepted features.
    DriverFeatures = 0x020,
    /// W: which page.
    DriverFeaturesSel = 0x024,
    /// W: which queue the Queue registers mean.
    QueueSel = 0x030,
    /// R: largest size, 0 for no such queue.
    QueueSizeMax = 0x034,
    /// W, between FEATURES_OK and DRIVER_OK, as are the following.
    QueueSize = 0x038,
    /// RW.
    QueueReady = 0x044,
    /// W, from DRIVER_OK.
    QueueNotify = 0x050,
    /// R.
    InterruptStatus = 0x060,
    /// W.
    InterruptAck = 0x064,
    /// RW.
    Status = 0x070,
    /// W: descriptor table.
    QueueDescLow = 0x080,
    /// W.
    QueueDescHigh = 0x084,
    /// W: available ring.
    QueueDriverLow = 0x090,
    /// W.
    QueueDriverHigh = 0x094,
    /// W: used ring.
    QueueDeviceLow = 0x0a0,
    /// W.
    QueueDeviceHigh = 0x0a4,
    /// W: which shared memory region; there is none.
    ShmSel = 0x0ac,
    /// R.
    ShmLenLow = 0x0b0,
    /// R.
    ShmLenHigh = 0x0b4,
    /// R.
    ShmBaseLow = 0x0b8,
    /// R.
    ShmBaseHigh = 0x0bc,
    /// RW with VIRTIO_F_RING_RESET, which is not offered.
    QueueReset = 0x0c0,
    /// R.
    ConfigGeneration = 0x0fc,
}
