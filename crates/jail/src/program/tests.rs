//! Programs, run as the kernel runs them, against those of `seccompiler` and against each other.

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
        16 => {
            Some(vec![vec![equals(1, 7)], vec![equals(1, 9), none(5, 6)], vec![equals(0, 1), equals(1, 2)]])
        }
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
        let (ours, theirs) = (assemble(&allowed(&calls), Unknown::Refused).expect("short"), oracle(&calls));
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
    let verdict = |number| run(&program, &Call { number, architecture: OUR_ARCHITECTURE, arguments: [0; 6] });
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
