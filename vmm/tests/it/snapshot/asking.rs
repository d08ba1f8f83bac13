//! Copies that are damaged, lost or forged under a guest: what is wrong is asked for, what cannot be had ends the machine, and
//! the guest sees neither.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use chunk_store::Answer;
use vmm_api::{Exit, LoadConfig, Request, Response, SerialConfig};

use super::{COUNTER, Snapshot, assert_counts, load_config, prepared, read_more};
use crate::process::Vmm;
use crate::store::somebody;

/// The chunks that the guest's code and its counter are in.
const CODE_CHUNK: u32 = 0x10_0000 >> 14;
const COUNTER_CHUNK: u32 = COUNTER >> 14;

/// Fails unless the process ends for a chunk, after a load or a resume that may have been answered before; what it says.
#[track_caller]
fn end_of(vmm: Vmm, answer: &Response) -> String {
    match answer {
        Response::Loaded(_) | Response::Ok => {
            assert_eq!(vmm.client.next().unwrap(), Response::Exited(Exit::Failed));
        }
        other => assert_eq!(*other, Response::Exited(Exit::Failed)),
    }
    let (status, log) = vmm.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    log
}

#[test]
fn a_damaged_chunk_that_nobody_has_ends_the_machine_and_says_which() {
    let (snapshot, _) = Snapshot::of_counter();
    snapshot.content().damage(COUNTER_CHUNK);
    let vmm = prepared();
    let answer = snapshot.load(&vmm, LoadConfig { serial: SerialConfig::Null, ..load_config() }, &[]);
    let log = end_of(vmm, &answer);
    assert!(log.contains("the guest's memory cannot be restored: read the snapshot's memory: "), "{log}");
    assert!(log.contains("ask for chunk 128: "), "{log}");
}

#[test]
fn copies_that_are_gone_under_a_paused_guest_end_it_when_it_runs() {
    let (snapshot, _) = Snapshot::of_counter();
    let vmm = prepared();
    let paused = LoadConfig { serial: SerialConfig::Null, resume: false, ..load_config() };
    assert!(matches!(snapshot.load(&vmm, paused, &[]), Response::Loaded(_)));
    snapshot.content().slots().set_len(0).unwrap();
    let answer = vmm.call(&Request::Resume);
    let log = end_of(vmm, &answer);
    assert!(log.contains("ask for chunk "), "{log}");
}

#[test]
fn what_was_overwritten_is_asked_for_and_the_guest_goes_on() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let content = snapshot.content();
    let answers = content.answers();
    // Another content's copies, as after an eviction.
    content.damage(CODE_CHUNK);
    content.damage(COUNTER_CHUNK);
    let (asks, asked) = somebody(answers);
    let vmm = prepared();
    let (mut console, writer) = std::io::pipe().unwrap();
    let writer: OwnedFd = writer.into();
    let loaded = snapshot.load_from(content.handed_with(asks), &vmm, load_config(), &[writer.as_fd()]);
    drop(writer);
    assert!(matches!(loaded, Response::Loaded(_)), "{loaded:?}");
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    let (status, log) = vmm.wait();
    assert!(status.success() && log.is_empty(), "{status}, {log}");
    let asked = asked.join().unwrap();
    assert!(asked.contains(&CODE_CHUNK) && asked.contains(&COUNTER_CHUNK), "{asked:?}");
}

/// What is answered to who asks for a chunk.
type Answers = Box<dyn Fn(u32) -> Vec<u8> + Send>;

/// What a guest prints and how its process ends, when all copies are lost and these are the answers.
fn answered(snapshot: &Snapshot, answer: Answers) -> (Vec<u8>, String) {
    let (asks, asked) = somebody(answer);
    let vmm = prepared();
    let (mut console, writer) = std::io::pipe().unwrap();
    let writer: OwnedFd = writer.into();
    let answer =
        snapshot.load_from(snapshot.content().handed_with(asks), &vmm, load_config(), &[writer.as_fd()]);
    drop(writer);
    let log = end_of(vmm, &answer);
    let mut printed = Vec::new();
    console.read_to_end(&mut printed).unwrap();
    assert_eq!(asked.join().unwrap().len(), 1, "nobody asks again");
    (printed, log)
}

#[test]
fn a_wrong_answer_ends_the_machine_and_nothing_of_it_is_run() {
    let (snapshot, _) = Snapshot::of_counter();
    let (flipped, swapped) = (snapshot.content().answers(), snapshot.content().answers());
    snapshot.content().slots().set_len(0).unwrap();
    let flipped = move |index| {
        let mut answer = flipped(index);
        *answer.last_mut().unwrap() ^= 1;
        answer
    };
    // Another chunk of the same memory.
    let swapped = move |index| swapped(if index == COUNTER_CHUNK { CODE_CHUNK } else { COUNTER_CHUNK });
    let long = |_| Answer::Copy { tag: [0; 16], copy: &[0; 16_385] }.encode();
    let wrong: [(&str, Answers); 5] = [
        ("the copy is damaged", Box::new(flipped)),
        ("the copy is damaged", Box::new(swapped)),
        ("a copy of 16385 bytes cannot be of a chunk of 16384", Box::new(long)),
        ("was answered wrong", Box::new(|_| vec![0x77; 100])),
        ("is not to be had: no node has it", Box::new(|_| Answer::Failed("no node has it").encode())),
    ];
    for (why, answer) in wrong {
        let (printed, log) = answered(&snapshot, answer);
        assert!(log.contains("the guest's memory cannot be restored") && log.contains(why), "{why}: {log}");
        assert!(printed.is_empty(), "{why}: {printed:?}");
    }
}
