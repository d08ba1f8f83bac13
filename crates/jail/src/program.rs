//! A system call filter as a BPF program that finds a call's number by halving. Pure; called by `syscalls` only.
//!
//! `seccompiler` tests one number after the other. When a filter is applied, the kernel runs it once for each of some 460
//! numbers to learn which calls need no further look, and compiles it: a chain costs several times what this costs,
//! and it is the largest part of starting a microVM that is not copying its kernel. The tests hold every verdict
//! against `seccompiler`'s.
//!
//! ```text
//! load the architecture; another one than ours: KILL
//! load the number; number >= k ? right half : left half ...
//! per call with conditions: load the argument, test, ...
//! KILL
//! ALLOW
//! ENOSYS
//! ```

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

use crate::syscalls::ArgTest;

/// Which conditions allow a call: one of the lists, all of it. No list at all: any arguments.
pub(crate) type Alternatives = Vec<Vec<ArgTest>>;

/// What is known of a call that has rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is allowed under these conditions.
    Allowed(Alternatives),
    /// It answers that there is no such call.
    Absent,
    /// It ends the process.
    Refused,
}

/// What happens to calls of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// They end the process.
    Refused,
    /// Another filter ends the process, so it does not matter what this one says: whatever makes it short.
    RefusedElsewhere,
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_NOT_BELOW: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data` of `linux/seccomp.h`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT_LEN: u32 = 8;

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const OUR_ARCHITECTURE: u32 = 0xc000_003e;

/// A filter too long for the jumps of BPF, which have 8 bits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Where a jump leads; always forward.
#[derive(Clone, Copy, Debug)]
enum Target {
    At(usize),
    Kill,
    Allow,
    Absent,
}

enum Instruction {
    Load(u32),
    Jump { code: u16, value: u32, yes: Target, no: Target },
}

enum Verdict<'a> {
    Kill,
    Allow,
    Absent,
    Test(&'a Alternatives),
}

/// What happens to the numbers from `start` to the next range's.
struct Range<'a> {
    start: u32,
    verdict: Verdict<'a>,
}

/// What is left to say of `own` where `below`, which allows all of it, is asked as well. Of what is not in it, nothing.
pub(crate) fn difference(own: &BTreeMap<u32, Known>, below: &BTreeMap<u32, Known>) -> BTreeMap<u32, Known> {
    let left = below.iter().map(|(number, below)| match own.get(number) {
        Some(known) if known == below => (*number, Known::Allowed(Vec::new())),
        Some(known) => (*number, known.clone()),
        None => (*number, Known::Refused),
    });
    left.collect()
}

/// # Errors
/// Too many rules; several hundred are not.
pub(crate) fn assemble(calls: &BTreeMap<u32, Known>, others: Unknown) -> Result<BpfProgram, TooLong> {
    let mut code = Code(vec![
        Instruction::Load(ARCHITECTURE),
        Instruction::Jump { code: IF_EQUAL, value: OUR_ARCHITECTURE, yes: Target::At(2), no: Target::Kill },
        Instruction::Load(NUMBER),
    ]);
    // Without any rule there is one range and no instruction for it: what follows then is KILL.
    code.search(&ranges(calls, others));
    code.finish()
}

fn ranges(calls: &BTreeMap<u32, Known>, others: Unknown) -> Vec<Range<'_>> {
    let mut ranges = Vec::new();
    let mut next = 0;
    for (number, known) in calls {
        let verdict = match known {
            Known::Allowed(alternatives) if alternatives.is_empty() => Verdict::Allow,
            Known::Allowed(alternatives) => Verdict::Test(alternatives),
            Known::Absent => Verdict::Absent,
            Known::Refused => Verdict::Kill,
        };
        let start = match (others, &verdict) {
            (Unknown::Refused, _) => {
                if *number > next {
                    append(&mut ranges, next, Verdict::Kill);
                }
                *number
            }
            // Where it makes no difference they are refused here, too.
            (Unknown::RefusedElsewhere, Verdict::Kill) => next,
            (Unknown::RefusedElsewhere, _) => *number,
        };
        append(&mut ranges, start, verdict);
        next = number.saturating_add(1);
    }
    append(&mut ranges, next, Verdict::Kill);
    ranges
}

/// A range more, unless the last one goes on.
fn append<'a>(ranges: &mut Vec<Range<'a>>, start: u32, verdict: Verdict<'a>) {
    let last = ranges.last().map(|range| &range.verdict);
    if !matches!(
        (last, &verdict),
        (Some(Verdict::Allow), Verdict::Allow) | (Some(Verdict::Kill), Verdict::Kill)
    ) {
        ranges.push(Range { start, verdict });
    }
}

struct Code(Vec<Instruction>);

impl Code {
    /// Decides among `ranges`, of which there is at least one.
    fn search(&mut self, ranges: &[Range<'_>]) -> Target {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let [first, ..] = right else { return Target::Kill };
        if left.is_empty() {
            return match first.verdict {
                Verdict::Kill => Target::Kill,
                Verdict::Allow => Target::Allow,
                Verdict::Absent => Target::Absent,
                Verdict::Test(alternatives) => self.test(alternatives),
            };
        }
        let here = self.0.len();
        self.0.push(Instruction::Load(NUMBER));
        let no = self.search(left);
        let yes = self.search(right);
        self.0[here] = Instruction::Jump { code: IF_NOT_BELOW, value: first.start, yes, no };
        Target::At(here)
    }

    fn test(&mut self, alternatives: &Alternatives) -> Target {
        let here = self.0.len();
        for (index, tests) in alternatives.iter().enumerate() {
            let end = self.0.len() + 2 * tests.len();
            let failed = if index + 1 == alternatives.len() { Target::Kill } else { Target::At(end) };
            for (nth, test) in tests.iter().enumerate() {
                let passed =
                    if nth + 1 == tests.len() { Target::Allow } else { Target::At(self.0.len() + 2) };
                self.0.push(Instruction::Load(ARGUMENTS + ARGUMENT_LEN * u32::from(test.index())));
                self.0.push(match *test {
                    ArgTest::Equals { value, .. } => {
                        Instruction::Jump { code: IF_EQUAL, value, yes: passed, no: failed }
                    }
                    ArgTest::NoneOf { mask, .. } => {
                        Instruction::Jump { code: IF_ANY_BIT, value: mask, yes: failed, no: passed }
                    }
                });
            }
        }
        Target::At(here)
    }

    fn finish(self) -> Result<BpfProgram, TooLong> {
        let kill = self.0.len();
        let mut program = Vec::with_capacity(kill + 3);
        for (here, instruction) in self.0.into_iter().enumerate() {
            let skip = |target| {
                let index = match target {
                    Target::At(index) => index,
                    Target::Kill => kill,
                    Target::Allow => kill + 1,
                    Target::Absent => kill + 2,
                };
                index.checked_sub(here + 1).and_then(|skip| u8::try_from(skip).ok()).ok_or(TooLong)
            };
            program.push(match instruction {
                Instruction::Load(offset) => sock_filter { code: LOAD, jt: 0, jf: 0, k: offset },
                Instruction::Jump { code, value, yes, no } => {
                    sock_filter { code, jt: skip(yes)?, jf: skip(no)?, k: value }
                }
            });
        }
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for verdict in [libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_ALLOW, absent] {
            program.push(sock_filter { code: RETURN, jt: 0, jf: 0, k: verdict });
        }
        Ok(program)
    }
}

#[cfg(test)]
mod tests;
