//! Decides how fast a virtual machine can be: hardware KVM with virtualisation inside, or emulation. Not by looking at
//! /dev/kvm, which also exists where KVM emulates one instruction after the other: by running a guest against the clock.

use crate::cmd::Cmd;
use crate::context::Context;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How QEMU runs the processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Accelerator {
    /// The machine's own processor, and the guest may start guests of its own.
    Kvm,
    /// Emulated, as fast as it can be.
    Emulated,
    /// Emulated, one instruction is one virtual nanosecond: figures that repeat.
    Counted,
}

/// Emulated processors that work at the same time can run code that another one has rewritten long ago, and machines with
/// two of them broke about once an hour (docs/adr/0010). With one there is nobody to race with.
const EMULATED_CPUS: u32 = 1;

/// The processor where figures are counted, and where a node's defences for it are looked at.
const EMULATED_CPU: &str = "EPYC,+svm";

/// The same with a number that no processor has yet, so that Linux knows of nothing that it is open to: its defences bend every
/// return and every indirect call, and those are what emulation is slowest at (docs/adr/0010).
const UNKNOWN_CPU: &str = "EPYC,+svm,family=27,model=2";

/// Threads of the one core that a machine may have instead.
const THREADS: u32 = 2;

/// What a machine has for processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cores {
    /// As many as it is given, each a core; one where they are emulated.
    Whole,
    /// One, with two threads: what its kernel does to keep those apart can be looked at. Emulated ones take turns, which is slow.
    Shared,
}

/// The loop of the probe's guest: two instructions a turn. Real hardware needs some 20 ms, a KVM that emulates 25 s.
const PROBE_TURNS: u32 = 20_000_000;
/// Between the two, far from both; it includes QEMU's own start on a busy machine.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// QEMU maps the last bytes of a firmware image to where processors start, 16 bytes below 4 GiB.
const FIRMWARE_BYTES: usize = 1 << 16;
const RESET_VECTOR: usize = FIRMWARE_BYTES - 16;
/// The guest writes this to QEMU's exit device, which makes it the exit status `value << 1 | 1`.
const PROBE_VALUE: u8 = 0x10;
const PROBE_STATUS: &str = "33";

impl Accelerator {
    /// The best this machine has, and why not better.
    pub(crate) fn detect(ctx: &Context) -> Result<(Accelerator, String)> {
        if !Path::new("/dev/kvm").exists() {
            return Ok((Accelerator::Emulated, "no /dev/kvm".into()));
        }
        let dir = ctx.cache.dir("probe")?;
        let firmware = dir.join("firmware.bin");
        fs::write(&firmware, probe_firmware()).with_context(|| format!("write {}", firmware.display()))?;
        if let Err(reason) = run_probe(&firmware) {
            return Ok((Accelerator::Emulated, reason));
        }
        if !nested() {
            return Ok((Accelerator::Emulated, "KVM works, but gives its guests no virtualisation".into()));
        }
        Ok((Accelerator::Kvm, "KVM ran the probe's guest at full speed".into()))
    }

    /// QEMU's arguments for the accelerator, the processor model and the number of processors.
    pub(crate) fn args(self, cpus: u32, cores: Cores) -> Vec<String> {
        let (accel, cpu) = match (self, cores) {
            (Accelerator::Kvm, Cores::Whole) => ("kvm", "host"),
            // AMD's processors tell of threads by this, which Intel's do without.
            (Accelerator::Kvm, Cores::Shared) => ("kvm", "host,topoext=on"),
            (Accelerator::Emulated, Cores::Whole) => ("tcg,thread=multi", UNKNOWN_CPU),
            (Accelerator::Emulated, Cores::Shared) | (Accelerator::Counted, _) => {
                ("tcg,thread=single", EMULATED_CPU)
            }
        };
        let mut args: Vec<String> = ["-accel", accel, "-cpu", cpu, "-smp"].map(str::to_owned).into();
        args.push(match cores {
            Cores::Whole if self.is_slow() => EMULATED_CPUS.to_string(),
            Cores::Whole => cpus.to_string(),
            Cores::Shared => format!("{THREADS},sockets=1,cores=1,threads={THREADS}"),
        });
        if self == Accelerator::Counted {
            args.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
        }
        args
    }

    /// Whether time limits meant for hardware are too short.
    pub(crate) fn is_slow(self) -> bool {
        self != Accelerator::Kvm
    }

    /// For messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "hardware KVM",
            Accelerator::Emulated => "emulation",
            Accelerator::Counted => "counted emulation",
        }
    }
}

/// Runs the probe's guest under KVM; an error is the reason why KVM is of no use here.
fn run_probe(firmware: &Path) -> std::result::Result<(), String> {
    let started = Instant::now();
    // `timeout` ends a guest that crawls; the shell turns QEMU's status into text and keeps a crash's message quiet.
    let script = "ulimit -c 0; timeout --signal=KILL \"$1\" \"${@:2}\" 2>&1; echo \"status $?\"";
    let run = Cmd::new("bash").args(["-c", script, "probe"]).arg(PROBE_LIMIT.as_secs().to_string());
    let run = run.args([
        "qemu-system-x86_64",
        "-M",
        "pc,graphics=off",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "16",
    ]);
    let run = run.args(["-nodefaults", "-display", "none", "-bios"]).arg(firmware);
    let output = run.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]).read();
    let output = output.map_err(|error| format!("the probe did not start: {error:#}"))?;
    if output.trim_end().ends_with(&format!("status {PROBE_STATUS}")) {
        return Ok(());
    }
    if started.elapsed() >= PROBE_LIMIT {
        return Err(format!(
            "this KVM only emulates: it did not finish {} million instructions in {} s",
            PROBE_TURNS / 500_000,
            PROBE_LIMIT.as_secs()
        ));
    }
    let first = output
        .lines()
        .find(|line| line.contains("error") || line.contains("ould not"))
        .unwrap_or("QEMU failed");
    Err(format!("KVM cannot run a guest here: {}", first.trim()))
}

/// Whether a KVM guest gets SVM or VMX of its own.
fn nested() -> bool {
    ["kvm_amd", "kvm_intel"].iter().any(|module| {
        let value = fs::read_to_string(format!("/sys/module/{module}/parameters/nested"));
        value.is_ok_and(|value| matches!(value.trim(), "1" | "Y"))
    })
}

/// Real-mode code that counts down and leaves.
fn probe_firmware() -> Vec<u8> {
    let [a, b, c, d] = PROBE_TURNS.to_le_bytes();
    let code = [
        &[0x66, 0xb9, a, b, c, d][..],    // mov ecx, PROBE_TURNS
        &[0x66, 0x49],                    // dec ecx
        &[0x75, 0xfc],                    // jnz to the dec
        &[0xb0, PROBE_VALUE, 0xe6, 0xf4], // mov al, PROBE_VALUE; out 0xf4, al
        &[0xf4, 0xeb, 0xfd],              // hlt; jmp to the hlt
    ]
    .concat();
    let mut firmware = vec![0; FIRMWARE_BYTES];
    firmware[..code.len()].copy_from_slice(&code);
    // jmp f000:0000, where this image begins.
    firmware[RESET_VECTOR..RESET_VECTOR + 5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    firmware
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_needs_one_processor_and_no_sleep() {
        let args = Accelerator::Counted.args(4, Cores::Whole).join(" ");
        assert_eq!(args, "-accel tcg,thread=single -cpu EPYC,+svm -smp 1 -icount shift=0,sleep=off");
    }

    #[test]
    fn an_emulated_machine_has_one_processor_and_a_real_one_what_it_is_given() {
        let args = |accelerator: Accelerator| accelerator.args(4, Cores::Whole).join(" ");
        assert_eq!(
            args(Accelerator::Emulated),
            "-accel tcg,thread=multi -cpu EPYC,+svm,family=27,model=2 -smp 1"
        );
        assert_eq!(args(Accelerator::Kvm), "-accel kvm -cpu host -smp 4");
    }

    #[test]
    fn threads_of_an_emulated_core_take_turns() {
        let args = Accelerator::Emulated.args(4, Cores::Shared).join(" ");
        assert_eq!(args, "-accel tcg,thread=single -cpu EPYC,+svm -smp 2,sockets=1,cores=1,threads=2");
    }

    #[test]
    fn the_probe_starts_at_the_reset_vector_and_fits_below_it() {
        let firmware = probe_firmware();
        assert_eq!(firmware.len(), FIRMWARE_BYTES);
        assert_eq!(firmware[RESET_VECTOR], 0xea);
        assert!(firmware[17..RESET_VECTOR].iter().all(|byte| *byte == 0));
    }
}
