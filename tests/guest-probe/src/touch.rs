//! A guest that holds much and touches little of it, over and over: what a clone of it waits for is known.

use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;

const PAGE_LEN: usize = 4096;

/// Pages that hold something, 64 MiB.
const HELD: usize = 16_384;

/// What is in them but for their numbers.
const FILLING: u8 = 0x5a;

/// Of so many, one is touched in each round: 2,048 of them, far from each other.
const STRIDE: usize = 8;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(1);

/// Never returns. Says when it holds what it holds, and then after each round.
pub(crate) fn run() -> ! {
    let mut held = vec![FILLING; HELD * PAGE_LEN];
    // No two are the same.
    for (number, page) in held.chunks_exact_mut(PAGE_LEN).enumerate() {
        page[..size_of::<usize>()].copy_from_slice(&number.to_le_bytes());
    }
    println!("probe: resting");
    loop {
        let touched: usize =
            black_box(&held).iter().step_by(STRIDE * PAGE_LEN).copied().map(usize::from).sum();
        black_box(touched);
        println!("probe: a round");
        sleep(PAUSE);
    }
}
