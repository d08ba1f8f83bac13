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
mod tests {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };

    use super::*;

    const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
    const IF_ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;

    struct Call {
        number: u32,
        architecture: u32,
        arguments: [u64; 6],
    }

    impl Call {
        fn word(&self, offset: u32) -> u32 {
            let Some(at) = offset.checked_sub(ARGUMENTS) else {
                return if offset == NUMBER { self.number } else { self.architecture };
            };
            let argument = self.arguments[(at / ARGUMENT_LEN) as usize];
            if at % ARGUMENT_LEN == 0 { argument as u32 } else { (argument >> 32) as u32 }
        }
    }

    /// What the kernel does with a program.
    fn run(program: &[sock_filter], call: &Call) -> u32 {
        let (mut accumulator, mut at) = (0u32, 0usize);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            let branch = |yes: bool| usize::from(if yes { jt } else { jf });
            at += 1;
            match code {
                LOAD => accumulator = call.word(k),
                AND => accumulator &= k,
                JUMP => at += k as usize,
                IF_EQUAL => at += branch(accumulator == k),
                IF_ABOVE => at += branch(accumulator > k),
                IF_NOT_BELOW => at += branch(accumulator >= k),
                IF_ANY_BIT => at += branch(accumulator & k != 0),
                RETURN => return k,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    fn oracle(calls: &BTreeMap<u32, Alternatives>) -> BpfProgram {
        let condition = |test: &ArgTest| match *test {
            ArgTest::Equals { index, value } => {
                SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
            }
            ArgTest::NoneOf { index, mask } => {
                SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask.into()), 0)
            }
        };
        let rule = |tests: &Vec<ArgTest>| {
            SeccompRule::new(tests.iter().map(|test| condition(test).expect("condition")).collect())
                .expect("rule")
        };
        let table = calls.iter().map(|(number, any)| (i64::from(*number), any.iter().map(rule).collect()));
        let arch = std::env::consts::ARCH.try_into().expect("architecture");
        SeccompFilter::new(table.collect(), SeccompAction::KillProcess, SeccompAction::Allow, arch)
            .and_then(BpfProgram::try_from)
            .expect("compiles")
    }

    /// Calls of every kind, next to each other and apart, at both ends of the numbers.
    fn sample(number: u32) -> Option<Alternatives> {
        let equals = |index, value| ArgTest::Equals { index, value };
        let none = |index, mask| ArgTest::NoneOf { index, mask };
        match number {
            0..=3 | 10 | 12..=14 | 400 => Some(vec![]),
            9 | 17 => Some(vec![vec![none(2, 4)]]),
            16 => Some(vec![
                vec![equals(1, 7)],
                vec![equals(1, 9), none(5, 6)],
                vec![equals(0, 1), equals(1, 2)],
            ]),
            200..=250 if number.is_multiple_of(3) => Some(vec![]),
            462 => Some(vec![vec![equals(0, 0)]]),
            _ => None,
        }
    }

    fn allowed(calls: &BTreeMap<u32, Alternatives>) -> BTreeMap<u32, Known> {
        calls.iter().map(|(number, when)| (*number, Known::Allowed(when.clone()))).collect()
    }

    #[test]
    fn every_verdict_is_the_one_of_seccompiler() {
        let some = |numbers: std::ops::Range<u32>| -> BTreeMap<u32, Alternatives> {
            numbers.filter_map(|number| Some((number, sample(number)?))).collect()
        };
        for calls in [some(0..500), some(0..1), some(16..17), some(9..18), BTreeMap::new()] {
            let (ours, theirs) =
                (assemble(&allowed(&calls), Unknown::Refused).expect("short"), oracle(&calls));
            for number in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                for pattern in 0..6u64.pow(4) {
                    let pick =
                        |place: u32| [0, 1, 2, 4, 7, 9 | 1 << 40][(pattern / 6u64.pow(place) % 6) as usize];
                    if calls.get(&number).is_none_or(Vec::is_empty) && pattern > 0 {
                        break;
                    }
                    let arguments = [pick(0), pick(1), pick(2), 0, 0, pick(3)];
                    for architecture in [OUR_ARCHITECTURE, 0x4000_0003] {
                        let call = Call { number, architecture, arguments };
                        assert_eq!(run(&ours, &call), run(&theirs, &call), "call {number} {arguments:x?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_filter_without_rules_allows_nothing() {
        let program = assemble(&BTreeMap::new(), Unknown::Refused).expect("short");
        let call = Call { number: 0, architecture: OUR_ARCHITECTURE, arguments: [0; 6] };
        assert_eq!(run(&program, &call), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn a_filter_that_jumps_cannot_span_is_refused() {
        let calls = (0..400).map(|number| (number * 2, Known::Allowed(vec![]))).collect();
        assert_eq!(assemble(&calls, Unknown::Refused), Err(TooLong));
    }

    #[test]
    fn an_absent_call_answers_so_and_its_neighbours_do_not() {
        let calls = [(7, Known::Allowed(vec![])), (8, Known::Absent), (10, Known::Absent)].into();
        let program = assemble(&calls, Unknown::Refused).expect("short");
        let verdict =
            |number| run(&program, &Call { number, architecture: OUR_ARCHITECTURE, arguments: [0; 6] });
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let killed = libc::SECCOMP_RET_KILL_PROCESS;
        let expected = [killed, libc::SECCOMP_RET_ALLOW, absent, killed, absent, killed];
        assert_eq!([6, 7, 8, 9, 10, 11].map(verdict), expected);
    }

    #[test]
    fn what_is_refused_elsewhere_takes_no_room_and_is_refused_here_where_that_is_as_short() {
        let known = |number: u32| match number {
            20 | 40..=45 | 60 => Known::Refused,
            _ => Known::Allowed(vec![]),
        };
        let calls = (10..80).step_by(5).map(|number| (number, known(number))).collect();
        let program = assemble(&calls, Unknown::RefusedElsewhere).expect("short");
        let allowed = |number| {
            let call = Call { number, architecture: OUR_ARCHITECTURE, arguments: [0; 6] };
            run(&program, &call) == libc::SECCOMP_RET_ALLOW
        };
        let refused: Vec<_> = (0..90).filter(|number| !allowed(*number)).collect();
        let expected: Vec<_> = [16..=24, 36..=49, 56..=64, 76..=89].into_iter().flatten().collect();
        assert_eq!(refused, expected);
        // Architecture, number, a jump for each border, three verdicts.
        assert_eq!(program.len(), 3 + 7 + 3);
    }

    /// For each call the stricter of two verdicts, as the kernel has it: it ends the process, or it is not there, or it is made.
    #[test]
    fn a_difference_and_what_is_below_it_say_what_the_whole_says() {
        let any = || Known::Allowed(vec![]);
        let of = |known: fn(u32) -> Option<Known>| -> BTreeMap<u32, Known> {
            (0..470).filter_map(|number| Some((number, known(number)?))).collect()
        };
        let below = of(|number| match number {
            435 | 440 => Some(Known::Absent),
            _ => sample(number).map(Known::Allowed),
        });
        let whole = of(|number| match number {
            2 | 14 | 17 | 201..=230 | 440 => None,
            0 => Some(Known::Allowed(vec![vec![ArgTest::Equals { index: 0, value: 4 }]])),
            12 => Some(Known::Absent),
            435 => Some(Known::Absent),
            _ => sample(number).map(Known::Allowed),
        });
        assert_eq!(difference(&whole, &whole).into_values().find(|known| *known != any()), None);
        let short = |calls: &_, others| assemble(calls, others).expect("short");
        let left = short(&difference(&whole, &below), Unknown::RefusedElsewhere);
        let (below, whole) = (short(&below, Unknown::Refused), short(&whole, Unknown::Refused));
        assert!(left.len() < whole.len() / 2, "{} and {}", left.len(), whole.len());
        let strictness = |verdict| match verdict {
            libc::SECCOMP_RET_KILL_PROCESS => 2,
            libc::SECCOMP_RET_ALLOW => 0,
            _ => 1,
        };
        for number in (0..600).chain([0x4000_0000, u32::MAX]) {
            for pattern in 0..4_usize.pow(4) {
                let pick = |place: u32| [0, 4, 7, 9][pattern / 4_usize.pow(place) % 4];
                let arguments = [pick(0), pick(1), pick(2), 0, 0, pick(3)];
                for architecture in [OUR_ARCHITECTURE, 0x4000_0003] {
                    let call = Call { number, architecture, arguments };
                    let both = [&left, &below].map(|program| strictness(run(program, &call)));
                    let expected = strictness(run(&whole, &call));
                    assert_eq!(both.into_iter().max(), Some(expected), "call {number} {arguments:x?}");
                }
            }
        }
    }
}
