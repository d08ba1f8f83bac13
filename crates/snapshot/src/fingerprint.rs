//! The processor that a snapshot needs: its vendor, and every feature that its guest was told of. Pure; which features are
//! told at all, and their names, is the VMM's.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::SavedState;

/// Output registers of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// One bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// EAX as input.
    pub leaf: u32,
    /// ECX as input.
    pub index: u32,
    /// The output register.
    pub register: Register,
    /// 0 to 31.
    pub bit: u32,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf, index, register, bit } = self;
        write!(f, "CPUID {leaf:#x}.{index} {register:?} bit {bit}")
    }
}

/// The features of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureWord {
    /// EAX as input.
    pub leaf: u32,
    /// ECX as input.
    pub index: u32,
    /// The output register.
    pub register: Register,
    /// What the guest was told.
    pub bits: u32,
}

/// A processor as guests see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// `GenuineIntel`, `AuthenticAMD`, ...
    pub vendor: String,
    /// Name of the table of features that the guest was limited to.
    pub baseline: String,
    /// Width of physical addresses.
    pub physical_bits: u8,
    /// Features.
    pub words: Vec<FeatureWord>,
}

impl SavedState for Fingerprint {
    const NAME: &'static str = "cpu";
    const VERSION: u32 = 1;
}

/// Why a processor does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Kernels choose code by vendor, once.
    Vendor {
        /// The snapshot's.
        saved: String,
        /// This host's.
        host: String,
    },
    /// Addresses that the guest may use and this host has not.
    PhysicalBits {
        /// The snapshot's.
        saved: u8,
        /// This host's.
        host: u8,
    },
    /// The first feature that this host lacks.
    Missing(Feature),
}

impl Fingerprint {
    /// Whether a guest of this processor can go on with what `host` offers: the same vendor and at least the same
    /// features.
    ///
    /// # Errors
    /// What is missing.
    pub fn runs_on(&self, host: &Self) -> Result<(), Mismatch> {
        if self.vendor != host.vendor {
            return Err(Mismatch::Vendor { saved: self.vendor.clone(), host: host.vendor.clone() });
        }
        if self.physical_bits > host.physical_bits {
            return Err(Mismatch::PhysicalBits { saved: self.physical_bits, host: host.physical_bits });
        }
        for word in &self.words {
            let same = |other: &&FeatureWord| {
                (other.leaf, other.index, other.register) == (word.leaf, word.index, word.register)
            };
            let offered = host.words.iter().find(same).map_or(0, |word| word.bits);
            let missing = word.bits & !offered;
            if missing != 0 {
                return Err(Mismatch::Missing(Feature {
                    leaf: word.leaf,
                    index: word.index,
                    register: word.register,
                    bit: missing.trailing_zeros(),
                }));
            }
        }
        Ok(())
    }
}
