//! An origin that is slow, wrong, down or comes and goes, by a clock that only waiting moves; and one in a bucket.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use chunk_store::Label;
use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, memory::InMemory,
};

use super::super::counters::OriginStats;
use super::*;

mod bucket;

const BODY: &[u8] = b"the body of a chunk";
const MAX_LEN: usize = 100;

/// What an origin does when it is asked.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Gives what is there.
    Well,
    /// The same, this many milliseconds later.
    After(u64),
    Never,
    /// Gives another object.
    Gives(&'static str),
    /// Gives an object and says that it is one byte long.
    Understates(&'static str),
    Down,
}

/// An object store that does what it was told to, one deed a request, then the last one again.
#[derive(Debug)]
struct Fake {
    objects: InMemory,
    deeds: Mutex<VecDeque<Deed>>,
}

impl Fake {
    async fn obey(&self, deed: Deed, location: &Path, options: GetOptions) -> Result<GetResult> {
        match deed {
            Deed::Well => self.objects.get_opts(location, options).await,
            Deed::After(ms) => {
                sleep(Duration::from_millis(ms)).await;
                self.objects.get_opts(location, options).await
            }
            Deed::Never => std::future::pending().await,
            Deed::Gives(other) => self.objects.get_opts(&other.into(), options).await,
            Deed::Understates(other) => {
                let mut result = self.objects.get_opts(&other.into(), options).await?;
                result.meta.size = 1;
                Ok(result)
            }
            Deed::Down => Err(object_store::Error::Generic { store: "fake", source: "503".into() }),
        }
    }
}

impl fmt::Display for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fake")
    }
}

#[async_trait]
impl ObjectStore for Fake {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let deed = {
            let mut deeds = self.deeds.lock().unwrap();
            if deeds.len() > 1 { deeds.pop_front() } else { deeds.front().copied() }
        };
        self.obey(deed.unwrap(), location, options).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.objects.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

fn name() -> ChunkName {
    ChunkName::of(BODY)
}

/// An origin that has the chunk and, under other names, what it may give instead.
async fn origin(deeds: &[Deed]) -> Origin {
    let objects = InMemory::new();
    for (path, content) in [
        ("cut", &BODY[..BODY.len() / 2]),
        ("old", b"the body of a chunx"),
        ("another", b"of another name"),
        ("long", &[0; MAX_LEN + 1]),
        ("empty", b""),
    ] {
        objects.put(&path.into(), content.to_vec().into()).await.unwrap();
    }
    let fake = Fake { objects, deeds: Mutex::new(deeds.iter().copied().collect()) };
    let origin = Origin::of(Arc::new(fake), Path::default());
    origin.store.put(&origin.chunk(&name()), BODY.into()).await.unwrap();
    origin
}

/// What a read comes to, after how many milliseconds, and what was counted.
async fn check(deeds: &[Deed]) -> (std::result::Result<Bytes, OriginError>, u64, OriginStats) {
    let origin = origin(deeds).await;
    let begun = Instant::now();
    let answer = origin.fetch(&name(), MAX_LEN, ATTEMPTS).await;
    (answer, begun.elapsed().as_millis() as u64, origin.counters.stats())
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_is_well_is_asked_once() {
    let (answer, ms, stats) = check(&[Deed::Well]).await;
    assert_eq!((answer.unwrap(), ms), (BODY.into(), 0));
    assert_eq!(stats, OriginStats { hits: 1, ..OriginStats::default() });
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_chunk_is_asked_for_again() {
    let wrong = ["cut", "old", "another", "long", "empty"].map(Deed::Gives);
    for wrong in wrong.into_iter().chain([Deed::Understates("long")]) {
        let (answer, ms, stats) = check(&[wrong, Deed::Well]).await;
        assert_eq!(answer.unwrap(), BODY, "{wrong:?}");
        assert!((25..=50).contains(&ms), "{wrong:?}: {ms}");
        assert_eq!(
            stats,
            OriginStats { hits: 1, wrong: 1, retries: 1, ..OriginStats::default() },
            "{wrong:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_stays_wrong_is_an_error_that_says_so() {
    let (answer, ms, stats) = check(&[Deed::Gives("another")]).await;
    assert!(matches!(answer, Err(OriginError::Wrong(15))), "{answer:?}");
    assert!((75..=150).contains(&ms), "{ms}");
    assert_eq!(stats, OriginStats { wrong: 3, retries: 2, ..OriginStats::default() });
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_is_down_is_given_up_soon() {
    let (answer, ms, stats) = check(&[Deed::Down]).await;
    assert!(matches!(answer, Err(OriginError::Failed(_))), "{answer:?}");
    assert!((75..=150).contains(&ms), "{ms}");
    assert_eq!(stats, OriginStats { failed: 3, retries: 2, ..OriginStats::default() });
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_comes_and_goes_serves() {
    let (answer, _, stats) = check(&[Deed::Down, Deed::Gives("cut"), Deed::Well]).await;
    assert_eq!(answer.unwrap(), BODY);
    assert_eq!(stats, OriginStats { hits: 1, failed: 1, wrong: 1, retries: 2, ..OriginStats::default() });
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_lost_costs_the_time_that_most_take() {
    let (answer, ms, stats) = check(&[Deed::Never, Deed::Well]).await;
    assert_eq!((answer.unwrap(), ms), (BODY.into(), 100));
    assert_eq!(stats, OriginStats { hits: 1, hedges: 1, ..OriginStats::default() });
}

#[tokio::test(start_paused = true)]
async fn of_two_requests_the_one_that_is_good_counts() {
    let (answer, ms, stats) = check(&[Deed::After(300), Deed::Gives("another")]).await;
    assert_eq!((answer.unwrap(), ms), (BODY.into(), 300));
    assert_eq!(stats, OriginStats { hits: 1, hedges: 1, ..OriginStats::default() });
    let (answer, ms, _) = check(&[Deed::After(300), Deed::After(50)]).await;
    assert_eq!((answer.unwrap(), ms), (BODY.into(), 150));
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_never_answers_has_an_end() {
    let (answer, ms, stats) = check(&[Deed::Never]).await;
    assert!(matches!(answer, Err(OriginError::Late(_))), "{answer:?}");
    assert!((4575..=4650).contains(&ms), "{ms}");
    assert_eq!(stats, OriginStats { late: 3, retries: 2, hedges: 3, ..OriginStats::default() });
}

#[tokio::test(start_paused = true)]
async fn a_slow_origin_does_not_get_twice_the_load() {
    let origin = origin(&[Deed::After(200)]).await;
    for _ in 0..200 {
        origin.fetch(&name(), MAX_LEN, ATTEMPTS).await.unwrap();
    }
    // It learns that this is what it takes; and before that, there is a bound.
    assert!(origin.counters.stats().hedges <= 20, "{:?}", origin.counters.stats());
}

#[tokio::test(start_paused = true)]
async fn what_is_said_not_to_be_there_is_asked_for_again() {
    let (answer, _, stats) = check(&[Deed::Gives("none"), Deed::Well]).await;
    assert_eq!(answer.unwrap(), BODY);
    assert_eq!(stats, OriginStats { hits: 1, absent: 1, retries: 1, ..OriginStats::default() });
    let (answer, ms, stats) = check(&[Deed::Gives("none")]).await;
    assert!(matches!(answer, Err(OriginError::Absent)) && (75..=150).contains(&ms), "{answer:?} {ms}");
    assert_eq!(stats, OriginStats { absent: 3, retries: 2, ..OriginStats::default() });
}

#[test]
fn pauses_grow_and_have_an_end() {
    for (attempt, ms) in [(1, 50), (2, 100), (3, 200), (5, 800), (6, 1000), (1000, 1000)] {
        let pause = pause(attempt).as_millis();
        assert!((ms / 2..=ms).contains(&pause), "{attempt}: {pause}");
    }
}
