//! Tests of the store as its users see it, and of what a kill leaves at every byte.

use std::{fs, path::PathBuf};

use guest_protocol::{LogChunk, LogFormat, LogSource};
use proptest::prelude::*;

use super::{
    group::{DAY_MS, Line},
    *,
};

const MIB: u64 = 1 << 20;
const NOW: u64 = 1_764_000_000_000;

/// A store in a directory, with room for what tests print.
pub(crate) fn logs_in(dir: &Path) -> Arc<LogStore> {
    LogStore::open(dir, limits(64 * MIB, 16 * MIB), 64 * MIB, Disk::of(dir)).unwrap()
}

fn limits(total: u64, group: u64) -> Limits {
    Limits { total, group, retention_days: Some(30) }
}

fn group(name: &str) -> GroupName {
    GroupName { region: "us-east-1".into(), name: name.into() }
}

fn all() -> Query {
    Query { streams: Streams::All, times: 0..=u64::MAX, pattern: Pattern::all(), limit: 10_000 }
}

/// Groups without a thread.
struct Bare {
    groups: Groups,
    dir: tempfile::TempDir,
}

impl Bare {
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { groups: Groups::open(dir.path().join("logs"), limits).unwrap(), dir }
    }

    fn print(&mut self, name: &str, stream: &str, at_ms: u64, messages: &[impl AsRef<[u8]>]) {
        let lines = messages.iter().map(|message| Line { stream, at_ms, message: message.as_ref() });
        self.groups.append(&group(name), &lines.collect::<Vec<_>>(), at_ms).unwrap();
    }

    fn read(&self, name: &str) -> Vec<String> {
        messages(&self.groups, name, NOW)
    }

    /// The file of a group that was written last.
    fn last_segment(&self) -> PathBuf {
        let group = fs::read_dir(self.dir.path().join("logs")).unwrap().next().unwrap().unwrap();
        let files = fs::read_dir(group.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
    }
}

fn messages(groups: &Groups, name: &str, now_ms: u64) -> Vec<String> {
    let view = groups.view(&group(name), now_ms).unwrap();
    let (mut found, mut from) = (Vec::new(), Position::FIRST);
    loop {
        let page = query::forwards(&view, &all(), from).unwrap();
        found.extend(page.events.into_iter().map(|event| event.message));
        match page.next {
            Some(next) => from = next,
            None => return found,
        }
    }
}

fn texts(messages: &[Vec<u8>]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(message).into_owned()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_kill_at_any_byte_leaves_the_lines_before_it_and_a_group_that_goes_on(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..5)
    ) {
        let mut bare = Bare::new(limits(MIB, MIB));
        bare.print("g", "a", NOW, &messages);
        let path = bare.last_segment();
        let whole = fs::read(&path).unwrap();
        for cut in segment::MAGIC.len()..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let limits = limits(MIB, MIB);
            let mut groups = Groups::open(bare.dir.path().join("logs"), limits).unwrap();
            let left = super::tests::messages(&groups, "g", NOW);
            prop_assert_eq!(&left[..], &texts(&messages)[..left.len()]);
            prop_assert!(left.len() < messages.len());
            let line = Line { stream: "b", at_ms: NOW, message: b"after\n" };
            groups.append(&group("g"), &[line], NOW).unwrap();
            // Once more, and not only in memory.
            let groups = Groups::open(bare.dir.path().join("logs"), limits).unwrap();
            let later = super::tests::messages(&groups, "g", NOW);
            prop_assert_eq!(later, [&left[..], &["after\n".to_owned()]].concat());
        }
    }

    #[test]
    fn a_group_keeps_its_last_lines_within_its_bound(
        lens in prop::collection::vec((0usize..3000, 0u8..4), 1..120)
    ) {
        let bound = 64 * 1024;
        let mut bare = Bare::new(limits(MIB, bound));
        let mut printed = Vec::new();
        for (number, (len, stream)) in lens.into_iter().enumerate() {
            let message = format!("{number}:{}", "x".repeat(len));
            bare.print("g", &stream.to_string(), NOW, &[&message]);
            printed.push(message);
            prop_assert!(bare.groups.list("us-east-1", |_| true, "")[0].stored_bytes <= bound);
        }
        let left = bare.read("g");
        prop_assert_eq!(&left[..], &printed[printed.len() - left.len()..]);
        prop_assert!(left.len() == printed.len() || left.iter().map(String::len).sum::<usize>() > bound as usize / 2);
    }

    #[test]
    fn pages_of_any_length_are_all_lines_once_and_in_order_either_way(
        count in 1usize..60, limit in 1usize..20, segment in 1u64..8
    ) {
        let mut bare = Bare::new(limits(MIB, 16 * 256 * segment));
        for number in 0..count {
            bare.print("g", if number % 3 == 0 { "other" } else { "s" }, NOW, &[number.to_string()]);
        }
        let kept = bare.read("g");
        let view = bare.groups.view(&group("g"), NOW).unwrap();
        let query = Query { limit, streams: Streams::Named(vec!["s".into()]), ..all() };
        let expected: Vec<_> = kept.iter().filter(|text| text.parse::<usize>().unwrap() % 3 != 0).cloned().collect();

        let (mut forwards, mut from) = (Vec::new(), Position::FIRST);
        loop {
            let page = query::forwards(&view, &query, from).unwrap();
            if page.events.is_empty() {
                prop_assert_eq!(page.end, from, "the token of the end is the same again");
                break;
            }
            prop_assert!(page.events.len() <= limit);
            from = page.end;
            forwards.extend(page.events.into_iter().map(|event| event.message));
        }
        prop_assert_eq!(&forwards, &expected);

        let (mut backwards, mut before) = (Vec::new(), Position::LAST);
        loop {
            let page = query::backwards(&view, &query, before).unwrap();
            if page.events.is_empty() {
                prop_assert_eq!(page.begin, before.min(view.end()), "so is that of the beginning");
                break;
            }
            prop_assert!(page.events.len() <= limit);
            before = page.begin;
            let later = std::mem::take(&mut backwards);
            backwards = page.events.into_iter().map(|event| event.message).chain(later).collect();
        }
        prop_assert_eq!(backwards, expected);
    }
}

#[test]
fn who_prints_a_lot_forgets_its_own_lines_and_nobody_elses() {
    let mut bare = Bare::new(limits(256 * 1024, 192 * 1024));
    bare.print("quiet", "s", NOW, &["kept"]);
    for number in 0..200u32 {
        for noisy in ["loud", "louder"] {
            bare.print(noisy, "s", NOW, &[format!("{number}:{}", "x".repeat(2000))]);
        }
    }
    assert_eq!(bare.read("quiet"), ["kept"]);
    let stored: u64 =
        bare.groups.list("us-east-1", |_| true, "").iter().map(|group| group.stored_bytes).sum();
    assert!((128 * 1024..=256 * 1024).contains(&stored), "{stored}");
    assert!(bare.read("loud").last().unwrap().starts_with("199:"));
}

#[test]
fn old_lines_are_hidden_at_once_and_gone_with_their_segment() {
    let mut bare = Bare::new(limits(MIB, MIB));
    bare.print("g", "old", NOW - 8 * DAY_MS, &["old"]);
    bare.print("g", "new", NOW, &["new"]);
    assert_eq!(bare.read("g"), ["old", "new"]);
    bare.groups.set_retention(&group("g"), Some(7)).unwrap();
    assert_eq!(bare.read("g"), ["new"]);
    let before = bare.groups.list("us-east-1", |_| true, "")[0].clone();
    bare.groups.expire(NOW);
    let after = bare.groups.list("us-east-1", |_| true, "")[0].clone();
    assert!(after.stored_bytes < before.stored_bytes);
    assert_eq!(after.retention_days, Some(7));
    let view = bare.groups.view(&group("g"), NOW).unwrap();
    let names: Vec<_> = query::streams(&view).unwrap().into_iter().map(|stream| stream.name).collect();
    assert_eq!(names, ["new"]);
    // It outlives the agent, and can be taken back.
    let mut groups = Groups::open(bare.dir.path().join("logs"), limits(MIB, MIB)).unwrap();
    assert_eq!(groups.list("us-east-1", |_| true, "")[0].retention_days, Some(7));
    groups.set_retention(&group("g"), None).unwrap();
    assert_eq!(groups.list("us-east-1", |_| true, "")[0].retention_days, Some(30));
}

#[test]
fn what_is_deleted_is_not_shown_again_and_may_come_anew() {
    let mut bare = Bare::new(limits(MIB, MIB));
    bare.print("g", "a", NOW, &["a1"]);
    bare.print("g", "b", NOW, &["b1"]);
    bare.groups.delete_stream(&group("g"), "a").unwrap();
    assert_eq!(bare.read("g"), ["b1"]);
    bare.print("g", "a", NOW, &["a2"]);
    assert_eq!(bare.read("g"), ["b1", "a2"]);
    let groups = Groups::open(bare.dir.path().join("logs"), limits(MIB, MIB)).unwrap();
    assert_eq!(messages(&groups, "g", NOW), ["b1", "a2"]);
    bare.groups.delete(&group("g")).unwrap();
    assert!(matches!(bare.groups.view(&group("g"), NOW), Err(LogsError::NoGroup)));
    assert!(bare.groups.delete(&group("g")).is_err());
    bare.print("g", "a", NOW, &["a3"]);
    assert_eq!(bare.read("g"), ["a3"]);
}

/// An agent was killed between the removal of a segment and that of its table, and the number comes again.
#[test]
fn a_table_without_its_segment_hides_no_line_of_the_next_one() {
    let mut bare = Bare::new(limits(MIB, MIB));
    bare.print("g", "s", NOW - 40 * DAY_MS, &["old"]);
    let index = bare.last_segment().with_extension("index");
    bare.groups.delete_stream(&group("g"), "other").unwrap();
    let left = fs::read(&index).unwrap();
    bare.groups.expire(NOW);
    fs::write(&index, left).unwrap();
    let reopened = || Groups::open(bare.dir.path().join("logs"), limits(MIB, MIB)).unwrap();
    let line = Line { stream: "s", at_ms: NOW, message: b"new" };
    reopened().append(&group("g"), &[line], NOW).unwrap();
    assert_eq!(messages(&reopened(), "g", NOW), ["new"]);
}

/// Each deletion ends a segment.
#[test]
fn who_deletes_what_it_prints_has_no_more_files_than_others() {
    let mut bare = Bare::new(limits(MIB, 16 * 4096));
    for _ in 0..40 {
        bare.print("g", "s", NOW, &["x"]);
        bare.groups.delete_stream(&group("g"), "s").unwrap();
    }
    let folder = bare.last_segment().parent().unwrap().to_owned();
    // With their tables, and the group's record.
    assert!(fs::read_dir(folder).unwrap().count() <= 2 * 17 + 1);
}

#[test]
fn a_new_group_takes_the_place_of_one_that_has_nothing_left() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..groups::MAX_GROUPS {
        let folder = dir.path().join(number.to_string());
        fs::create_dir(&folder).unwrap();
        let days = if number == 0 { Some(7) } else { None };
        let record = serde_json::json!({ "region": "us-east-1", "name": number.to_string(), "created_ms": number, "retention_days": days, "is_made": number == 2 });
        fs::write(folder.join("group.json"), record.to_string()).unwrap();
    }
    let mut groups = Groups::open(dir.path().to_owned(), limits(64 * MIB, MIB)).unwrap();
    let line = Line { stream: "s", at_ms: NOW, message: b"x" };
    groups.append(&group("1"), &[line], NOW).unwrap();
    groups.append(&group("new"), &[line], NOW).unwrap();
    assert_eq!(messages(&groups, "new", NOW), ["x"]);
    let there = |name: &str| groups.view(&group(name), NOW).is_ok();
    assert_eq!(["0", "1", "2", "3"].map(there), [true, true, true, false]);
}

#[test]
fn a_made_group_is_there_after_a_restart_and_leaves_room_for_those_of_functions() {
    let bare = Bare::new(limits(64 * MIB, MIB));
    let dir = bare.dir.path().join("logs");
    let mut groups = bare.groups;
    groups.create(&group("made"), NOW).unwrap();
    assert!(matches!(groups.create(&group("made"), NOW), Err(LogsError::GroupExists)));
    for number in 1..groups::MAX_MADE {
        let folder = dir.join(number.to_string());
        fs::create_dir(&folder).unwrap();
        let record = serde_json::json!({ "region": "us-east-1", "name": number.to_string(), "created_ms": number, "retention_days": null, "is_made": true });
        fs::write(folder.join("group.json"), record.to_string()).unwrap();
    }
    let mut groups = Groups::open(dir, limits(64 * MIB, MIB)).unwrap();
    assert!(messages(&groups, "made", NOW).is_empty());
    assert!(matches!(groups.create(&group("more"), NOW), Err(LogsError::TooManyGroups)));
    groups.append(&group("more"), &[Line { stream: "s", at_ms: NOW, message: b"x" }], NOW).unwrap();
    groups.delete(&group("1")).unwrap();
    groups.create(&group("again"), NOW).unwrap();
}

#[test]
fn a_stream_that_goes_through_segments_is_one_stream() {
    let mut bare = Bare::new(limits(MIB, 16 * 4096));
    for number in 0..12 {
        bare.print("g", "s", NOW + number, &["x".repeat(1000)]);
    }
    let view = bare.groups.view(&group("g"), NOW).unwrap();
    assert!(view.parts().len() > 2);
    let streams = query::streams(&view).unwrap();
    let [StreamInfo { first_ms, last_ms, .. }] = &streams[..] else { panic!("{streams:?}") };
    assert_eq!((*first_ms, *last_ms), (NOW, NOW + 11));
}

fn source(store: &LogStore, stream: &str) -> Source {
    store.source(StreamId { group: group("g"), stream: stream.into(), format: LogFormat::Text })
}

fn says(source: &mut Source, text: &str) {
    source.write(&LogChunk { source: LogSource::Function, bytes: text.into() });
}

async fn found(store: &Arc<LogStore>) -> Vec<String> {
    let page = store.find(group("g"), all(), Position::FIRST).await.unwrap();
    page.events.into_iter().map(|event| event.message).collect()
}

#[tokio::test]
async fn what_was_printed_is_found_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = logs_in(dir.path());
    let mut first = source(&store, "a");
    says(&mut first, "one\ntwo\nthr");
    says(&mut first, "ee\n");
    assert_eq!(found(&store).await, ["one\n", "two\n", "three\n"]);
    drop((first, store));
    let store = logs_in(dir.path());
    says(&mut source(&store, "b"), "four\n");
    assert_eq!(found(&store).await, ["one\n", "two\n", "three\n", "four\n"]);
}

#[tokio::test]
async fn a_full_disk_loses_lines_and_says_so_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::pretended(0);
    let store = LogStore::open(dir.path(), limits(64 * MIB, 16 * MIB), MIB, Arc::clone(&disk)).unwrap();
    let mut source = source(&store, "a");
    for _ in 0..3 {
        // What says of the others what was lost is lost itself.
        says(&mut source, "lost\n");
        assert!(matches!(store.streams(group("g")).await, Err(LogsError::NoGroup)));
    }
    disk.pretend(1 << 40);
    says(&mut source, "kept\n");
    let found = found(&store).await;
    assert!(found[0].starts_with("LOGS_DROPPED Lines: 3\tBytes: 15\t"), "{found:?}");
    assert_eq!(found[1..], ["kept\n"]);
}

/// Run by hand, in a release build: how many lines a second, and what a line costs.
#[test]
fn lines_are_written_faster_than_functions_print_them() {
    let count = if std::env::var_os("TINDERBOX_EXHAUSTIVE").is_some() { 2_000_000u32 } else { 2_000 };
    let dir = tempfile::tempdir().unwrap();
    let store =
        LogStore::open(dir.path(), limits(1 << 30, 64 * MIB), 1 << 40, Disk::pretended(1 << 40)).unwrap();
    let begun = std::time::Instant::now();
    let mut source = source(&store, "a");
    let chunk = "a line of a function's that is as long as most of them are, 100 bytes or so, and a newline beside..\n".repeat(100);
    for _ in 0..count / 100 {
        says(&mut source, &chunk);
        while store.waiting.load(std::sync::atomic::Ordering::Relaxed) > 1 << 20 {
            std::thread::yield_now();
        }
    }
    store.settle(Flush::No, Duration::from_secs(600));
    let took = begun.elapsed();
    let cpu = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let view = store.view(&group("g")).unwrap();
    assert!(query::has_stream(&view, "a").unwrap());
    eprintln!("{count} lines in {took:?}, user {}, system {}", cpu.user_time(), cpu.system_time());
}
