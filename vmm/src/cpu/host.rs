//! Whether a saved vCPU can go on here: what can be known of it before anything of a machine is changed.

use std::sync::Arc;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_msr_entry};
use snapshot::{Fingerprint, Mismatch};

use super::state::VcpuState;
use super::{baseline, msr};

/// A rate within so many millionths of the host's is as good as the host's: KVM's `tsc_tolerance_ppm`, unless somebody has
/// set it. What KVM then refuses all the same ends the load.
const TSC_TOLERANCE_PPM: u64 = 250;

/// Processors scale to less than so many times their own rate: the ratio of AMD's has eight bits before the point (APM 2
/// §15.30.5), that of Intel's sixteen.
const MAX_TSC_RATIO: u32 = 1 << 8;

/// What this host gives its vCPUs.
#[derive(Debug)]
pub(crate) struct Host {
    /// Features.
    pub(crate) fingerprint: Fingerprint,
    /// Rates of the TSC.
    pub(crate) tsc: Tsc,
    /// Of a vCPU that has not run, as far as they were asked for.
    pub(crate) msrs: Arc<[kvm_msr_entry]>,
}

/// At which rates vCPUs can run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tsc {
    /// The host's own; zero when it does not say.
    pub(crate) khz: u32,
    pub(crate) scaling: TscScaling,
}

/// Who brings another rate about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TscScaling {
    /// The processor.
    Hardware,
    /// KVM, which pushes a counter that is too slow ahead at each entry. It holds none back.
    CatchUp,
}

/// Why a saved vCPU cannot go on here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The snapshot contradicts itself.
    #[error("its vCPUs do not have the processor that it was taken on")]
    Contradiction,
    /// Another processor.
    #[error("{} (baseline {baseline})", baseline::describe(mismatch))]
    Processor {
        /// What it lacks.
        mismatch: Mismatch,
        /// What the guest was limited to.
        baseline: String,
    },
    /// A rate that this host does not scale to.
    #[error("its TSC runs at {saved} kHz, which this host of {host} kHz cannot scale to")]
    TscRate {
        /// The snapshot's.
        saved: u32,
        /// This host's.
        host: u32,
    },
    /// An MSR that matters and that this host's KVM does not have.
    #[error("its MSR {0:#x} is set, which this host's KVM does not have")]
    Msr(u32),
    /// More of something than any KVM has.
    #[error("{count} {what} are more than a vCPU has")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
    },
}

impl Host {
    /// Whether a vCPU of a guest that was told of `fingerprint` can go on.
    ///
    /// # Errors
    /// The first reason why not.
    pub(crate) fn check(&self, fingerprint: &Fingerprint, vcpu: &VcpuState) -> Result<(), Unfit> {
        for (what, count, most) in [
            ("CPUID entries", vcpu.cpuid.0.len(), KVM_MAX_CPUID_ENTRIES),
            ("MSRs", vcpu.msrs.0.len(), msr::MOST),
        ] {
            if count > most {
                return Err(Unfit::TooMany { what, count });
            }
        }
        if baseline::fingerprint(&vcpu.cpuid.0) != *fingerprint {
            return Err(Unfit::Contradiction);
        }
        fingerprint
            .runs_on(&self.fingerprint)
            .map_err(|mismatch| Unfit::Processor { mismatch, baseline: fingerprint.baseline.clone() })?;
        if !self.tsc.runs_at(vcpu.tsc_khz) {
            return Err(Unfit::TscRate { saved: vcpu.tsc_khz, host: self.tsc.khz });
        }
        msr::missing(&vcpu.msrs.0, &self.msrs).map_or(Ok(()), |index| Err(Unfit::Msr(index)))
    }
}

impl Tsc {
    /// As KVM decides it (`kvm_set_tsc_khz`). What nobody knows does not keep a vCPU away.
    fn runs_at(self, saved_khz: u32) -> bool {
        let Self { khz, scaling } = self;
        if saved_khz == 0 || khz == 0 {
            return true;
        }
        let off_ppm = u64::from(saved_khz.abs_diff(khz)) * 1_000_000 / u64::from(khz);
        let scales = match scaling {
            TscScaling::Hardware => saved_khz / khz < MAX_TSC_RATIO,
            TscScaling::CatchUp => saved_khz > khz,
        };
        off_ppm <= TSC_TOLERANCE_PPM || scales
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_taken_as_kvm_takes_it() {
        const GHZ: u32 = 1_000_000;
        let check = |scaling, saved_khz, taken: bool| {
            let tsc = Tsc { khz: 2 * GHZ, scaling };
            assert_eq!(tsc.runs_at(saved_khz), taken, "{scaling:?} to {saved_khz} kHz");
        };
        for scaling in [TscScaling::Hardware, TscScaling::CatchUp] {
            for same in [0, 2 * GHZ, 2 * GHZ + 500, 2 * GHZ - 500] {
                check(scaling, same, true);
            }
            check(scaling, 3 * GHZ, true);
        }
        check(TscScaling::Hardware, GHZ, true);
        check(TscScaling::Hardware, 600 * GHZ, false);
        check(TscScaling::CatchUp, 2 * GHZ - 502, false);
        assert!(Tsc { khz: 0, scaling: TscScaling::CatchUp }.runs_at(GHZ), "a host that does not say");
    }
}
