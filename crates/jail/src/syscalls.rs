//! Which system calls one thread may make: a list of rules with a reason each, compiled to BPF by `program`. A call that no rule allows ends the whole process by `SIGSYS`.

use std::collections::BTreeMap;

use seccompiler::BpfProgram;

use crate::program::{self, Known, Unknown};

/// What one thread may call.
#[derive(Clone, Debug)]
pub struct SyscallFilter {
    /// The thread's name, for messages.
    pub name: &'static str,
    /// Rules for one call are alternatives.
    pub rules: Vec<SyscallRule>,
}

/// One call; [`allow!`](crate::allow) and [`absent!`](crate::absent) write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyscallRule {
    /// As in `libc`: `SYS_read`.
    pub name: &'static str,
    /// Its number.
    pub number: i64,
    /// What happens when it is called.
    pub verdict: Verdict,
    /// Why the thread needs it.
    pub reason: &'static str,
}

/// What happens to a call that has a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made, if all of these conditions on arguments hold; none: any arguments.
    Allowed(Vec<ArgTest>),
    /// It answers `ENOSYS`: whoever calls it has another way, which can be filtered.
    Absent,
}

/// A condition on the low 32 bits of an argument: what the kernel looks at for the ioctl numbers, flags, signals
/// and protections that rules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgTest {
    /// The argument at `index` (0 to 5) is `value`.
    Equals {
        /// Position of the argument.
        index: u8,
        /// Its low 32 bits.
        value: u32,
    },
    /// The argument at `index` has none of the bits of `mask`.
    NoneOf {
        /// Position of the argument.
        index: u8,
        /// Forbidden bits.
        mask: u32,
    },
}

/// A [`SyscallFilter`] as the kernel takes it. Made before the jail is entered, applied inside.
#[derive(Debug)]
pub struct CompiledFilter {
    name: &'static str,
    program: BpfProgram,
}

/// A filter that cannot be compiled or applied.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A rule allows a call with and without conditions, or one that is not there: one of them is void.
    #[error("filter {filter}: {call} has rules of which one makes another void")]
    Redundant {
        /// The filter's name.
        filter: &'static str,
        /// The call's name.
        call: &'static str,
    },
    /// An argument that no system call has.
    #[error("filter {filter}: {call} has no argument {index}")]
    NoArgument {
        /// The filter's name.
        filter: &'static str,
        /// The call's name.
        call: &'static str,
        /// The position asked for.
        index: u8,
    },
    /// A negative system call number.
    #[error("filter {filter}: {call} is no system call")]
    NoCall {
        /// The filter's name.
        filter: &'static str,
        /// The call's name.
        call: &'static str,
    },
    /// What is in force already refuses what this one would allow.
    #[error("filter {filter} allows {call}, which {inherited} below it does not, or not always")]
    Narrower {
        /// The filter's name.
        filter: &'static str,
        /// The other one's.
        inherited: &'static str,
        /// The call's name.
        call: &'static str,
    },
    /// Too many rules for one BPF program's jumps.
    #[error("filter {filter} has too many rules")]
    TooLong {
        /// The filter's name.
        filter: &'static str,
    },
    /// The kernel refused it.
    #[error("apply system call filter {filter}")]
    Apply {
        /// The filter's name.
        filter: &'static str,
        /// Why.
        source: seccompiler::Error,
    },
}

/// A [`SyscallRule`]: `allow!(SYS_read, "why")`, `allow!(SYS_ioctl, arg 1 = KVM_RUN, "why")`,
/// `allow!(SYS_mmap, arg 2 without libc::PROT_EXEC, "why")`.
#[macro_export]
macro_rules! allow {
    ($call:ident, $reason:literal) => {
        $crate::SyscallRule {
            name: stringify!($call),
            number: $crate::libc::$call,
            verdict: $crate::Verdict::Allowed(Vec::new()),
            reason: $reason,
        }
    };
    ($call:ident, arg $index:literal = $value:expr, $reason:literal) => {
        $crate::SyscallRule {
            name: stringify!($call),
            number: $crate::libc::$call,
            verdict: $crate::Verdict::Allowed(vec![$crate::ArgTest::Equals {
                index: $index,
                value: $value as u32,
            }]),
            reason: $reason,
        }
    };
    ($call:ident, arg $index:literal without $mask:expr, $reason:literal) => {
        $crate::SyscallRule {
            name: stringify!($call),
            number: $crate::libc::$call,
            verdict: $crate::Verdict::Allowed(vec![$crate::ArgTest::NoneOf {
                index: $index,
                mask: $mask as u32,
            }]),
            reason: $reason,
        }
    };
}

/// A [`SyscallRule`] for a call that is not there: `absent!(SYS_clone3, "why")`.
#[macro_export]
macro_rules! absent {
    ($call:ident, $reason:literal) => {
        $crate::SyscallRule {
            name: stringify!($call),
            number: $crate::libc::$call,
            verdict: $crate::Verdict::Absent,
            reason: $reason,
        }
    };
}

/// Arguments of a system call, on every architecture.
const ARGUMENTS: u8 = 6;

impl ArgTest {
    pub(crate) fn index(self) -> u8 {
        match self {
            Self::Equals { index, .. } | Self::NoneOf { index, .. } => index,
        }
    }
}

impl SyscallFilter {
    /// A filter of these rules.
    #[cfg(not(without_rule))]
    #[must_use]
    pub fn new(name: &'static str, rules: Vec<SyscallRule>) -> Self {
        Self { name, rules }
    }

    /// A filter of these rules but one, or with `*` of none, as `cargo xtask seccomp` says: it alone builds with this, to see whether a
    /// test misses it.
    #[cfg(without_rule)]
    #[must_use]
    pub fn new(name: &'static str, mut rules: Vec<SyscallRule>) -> Self {
        let left_out = std::env::var("TINDERBOX_WITHOUT_RULE").unwrap_or_default();
        if let Some((filter, index)) = left_out.split_once(':')
            && filter == name
        {
            match index.parse::<usize>() {
                Ok(index) if index < rules.len() => drop(rules.remove(index)),
                Ok(_) => {}
                Err(_) => rules.clear(),
            }
        }
        Self { name, rules }
    }

    /// For `cargo xtask seccomp`, a line for each rule.
    #[cfg(without_rule)]
    pub fn print(&self) {
        for (index, rule) in self.rules.iter().enumerate() {
            println!("rule\t{}:{index}\t{}\t{}", self.name, rule.name, rule.reason);
        }
    }

    /// Compiles for the machine that this runs on.
    ///
    /// # Errors
    /// A call allowed both with and without conditions; a malformed condition; too many rules.
    pub fn compile(&self) -> Result<CompiledFilter, FilterError> {
        self.assemble(&self.table()?, Unknown::Refused)
    }

    /// Compiles for threads on which `inherited` is in force, which is compiled and applied elsewhere. The kernel asks both and takes
    /// the stricter answer, so both together allow exactly what this one says, while what is compiled is the difference: what
    /// a filter costs when it is applied grows with the square of its length where the kernel blinds constants.
    ///
    /// # Errors
    /// Those of [`compile`](Self::compile), of either; `inherited` refuses something that this one allows.
    pub fn compile_upon(&self, inherited: &Self) -> Result<CompiledFilter, FilterError> {
        let (own, theirs) = (self.table()?, inherited.table()?);
        let any = Known::Allowed(Vec::new());
        for rule in &self.rules {
            let number = rule.number as u32;
            let below = theirs.get(&number);
            if below != Some(&any) && below != own.get(&number) {
                let (filter, call) = (self.name, rule.name);
                return Err(FilterError::Narrower { filter, inherited: inherited.name, call });
            }
        }
        self.assemble(&program::difference(&own, &theirs), Unknown::RefusedElsewhere)
    }

    fn assemble(&self, table: &BTreeMap<u32, Known>, others: Unknown) -> Result<CompiledFilter, FilterError> {
        let filter = self.name;
        let program =
            program::assemble(table, others).map_err(|program::TooLong| FilterError::TooLong { filter })?;
        Ok(CompiledFilter { name: filter, program })
    }

    /// What is known of each call.
    fn table(&self) -> Result<BTreeMap<u32, Known>, FilterError> {
        let filter = self.name;
        let mut table: BTreeMap<u32, Known> = BTreeMap::new();
        for rule in &self.rules {
            let call = rule.name;
            let number = u32::try_from(rule.number).map_err(|_| FilterError::NoCall { filter, call })?;
            let Verdict::Allowed(when) = &rule.verdict else {
                if table.insert(number, Known::Absent).is_some() {
                    return Err(FilterError::Redundant { filter, call });
                }
                continue;
            };
            if let Some(test) = when.iter().find(|test| test.index() >= ARGUMENTS) {
                return Err(FilterError::NoArgument { filter, call, index: test.index() });
            }
            let first = !table.contains_key(&number);
            let known = table.entry(number).or_insert(Known::Allowed(Vec::new()));
            match known {
                // An empty list means "whatever the arguments".
                Known::Allowed(known) if first || !(when.is_empty() || known.is_empty()) => {
                    known.extend((!when.is_empty()).then(|| when.clone()));
                }
                _ => return Err(FilterError::Redundant { filter, call }),
            }
        }
        Ok(table)
    }
}

impl CompiledFilter {
    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Confines the calling thread, and the threads and processes it makes, for good.
    ///
    /// # Errors
    /// The kernel refused the filter; it does so for a thread without `no_new_privs` (see
    /// [`JailPlan`](crate::JailPlan)), but `seccompiler` sets that flag itself.
    pub fn apply(&self) -> Result<(), FilterError> {
        seccompiler::apply_filter(&self.program)
            .map_err(|source| FilterError::Apply { filter: self.name, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_allowed_with_and_without_conditions_is_a_mistake() {
        let conditional = allow!(SYS_ioctl, arg 1 = 7, "one command");
        let any = allow!(SYS_ioctl, "any command");
        for rules in
            [vec![conditional.clone(), any.clone()], vec![any.clone(), conditional], vec![any.clone(), any]]
        {
            let result = SyscallFilter { name: "test", rules }.compile();
            assert!(matches!(result, Err(FilterError::Redundant { .. })), "{result:?}");
        }
    }

    #[test]
    fn a_call_that_is_there_and_is_not_is_a_mistake() {
        let (absent, there) = (absent!(SYS_clone3, "none"), allow!(SYS_clone3, arg 1 = 88, "some"));
        for rules in
            [vec![absent.clone(), there.clone()], vec![there, absent.clone()], vec![absent.clone(), absent]]
        {
            let result = SyscallFilter { name: "test", rules }.compile();
            assert!(matches!(result, Err(FilterError::Redundant { .. })), "{result:?}");
        }
    }

    #[test]
    fn a_seventh_argument_is_a_mistake() {
        let rules = vec![allow!(SYS_ioctl, arg 6 = 1, "no such argument")];
        let result = SyscallFilter { name: "test", rules }.compile();
        assert!(matches!(result, Err(FilterError::NoArgument { index: 6, .. })), "{result:?}");
    }

    #[test]
    fn alternatives_for_one_call_compile() {
        let rules = vec![
            allow!(SYS_ioctl, arg 1 = 1, "first"),
            allow!(SYS_ioctl, arg 1 = 2, "second"),
            allow!(SYS_mmap, arg 2 without libc::PROT_EXEC, "heap"),
        ];
        SyscallFilter { name: "test", rules }.compile().expect("compiles");
    }

    #[test]
    fn what_is_below_a_filter_allows_what_it_allows() {
        let filter = |name, rules| SyscallFilter { name, rules };
        let low = filter(
            "low",
            vec![allow!(SYS_read, "any"), allow!(SYS_ioctl, arg 1 = 7, "one"), absent!(SYS_clone3, "none")],
        );
        let same = |rule: &SyscallRule| filter("high", vec![rule.clone()]).compile_upon(&low).map(drop);
        low.rules.iter().for_each(|rule| same(rule).expect("as below"));
        same(&allow!(SYS_read, arg 0 = 1, "fewer")).expect("a part");
        for wider in [
            allow!(SYS_write, "not below"),
            allow!(SYS_ioctl, "more"),
            allow!(SYS_ioctl, arg 1 = 8, "another"),
            allow!(SYS_clone3, "not there below"),
        ] {
            let result = same(&wider);
            assert!(matches!(result, Err(FilterError::Narrower { .. })), "{result:?}");
        }
    }
}
