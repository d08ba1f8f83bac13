//! Damage to bytes: what every reader of this crate is shown of what it reads.

/// Set to `1` for every bit of every byte, instead of a few changes of each byte of what is short and of some of what is long. The
/// tests take more than twice as long then.
const EXHAUSTIVE: &str = "TINDERBOX_EXHAUSTIVE";

/// Bytes of which each is changed, however few changes are asked for.
const EACH: usize = 4096;
/// Of all bytes behind them one in so many: odd, so that all places in a record have their turn.
const STRIDE: usize = 61;

/// Whether all changes are asked for.
fn is_exhaustive() -> bool {
    std::env::var_os(EXHAUSTIVE).is_some_and(|value| value == "1")
}

/// Which of `len` bytes are changed.
pub(crate) fn places(len: usize) -> impl Iterator<Item = usize> {
    let is_exhaustive = is_exhaustive();
    (0..len).filter(move |at| is_exhaustive || *at < EACH || at % STRIDE == 0 || at + 1 == len)
}

/// The same where each change takes long.
pub(crate) fn few_places(len: usize) -> impl Iterator<Item = usize> {
    let is_exhaustive = is_exhaustive();
    (0..len).filter(move |at| is_exhaustive || at % STRIDE == 0 || at + 1 == len)
}

/// What byte `at`, which is `byte`, is changed with (exclusive or): one bit or each of them, all of them, to zero.
pub(crate) fn changes(at: usize, byte: u8) -> Vec<u8> {
    let bits = if is_exhaustive() { 0..8 } else { at % 8..at % 8 + 1 };
    let mut changes: Vec<u8> = bits.map(|bit| 1 << bit).chain([0xff, byte]).collect();
    changes.retain(|change| *change != 0);
    changes
}

/// Each byte changed in turn; each shorter length, and one that is longer. Slow when each takes long.
pub(crate) fn every_damage(bytes: &[u8], refused: impl Fn(&[u8]) -> bool) {
    for at in places(bytes.len()) {
        for change in changes(at, bytes[at]) {
            let mut changed = bytes.to_vec();
            changed[at] ^= change;
            assert!(refused(&changed), "byte {at} ^ {change:#x} was not found out");
        }
        assert!(refused(&bytes[..at]), "cut to {at} bytes");
    }
    assert!(refused(&[bytes, &[0]].concat()), "a byte too many");
}
