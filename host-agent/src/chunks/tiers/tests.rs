//! All tiers together, as the cache uses them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use chunk_store::{Cache, ChunkSize, Entry, MAX_BODY_LEN, NodeSecret, Salt, Sealed, Store, Wanted, seal};
use tempfile::TempDir;
use tokio::time::timeout;

use super::counters::OriginStats;
use super::peers::tests::{Five, Kind, PATIENT, body, name, wait};
use super::*;
use crate::config::{Bucket, Chunks, Cluster, PeerAddress};

/// A store with some chunks, as a node has it that published them.
pub(super) struct Published {
    pub(super) dir: TempDir,
    pub(super) store: Arc<Store>,
}

impl Published {
    pub(super) fn new(bodies: &[&[u8]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The store takes over what an older one has left, and does not look into it.
        for body in bodies {
            let name = ChunkName::of(body).to_string();
            let folder = dir.path().join("chunks").join(&name[..2]);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), body).unwrap();
        }
        let store = Arc::new(Store::open(dir.path()).unwrap());
        Self { dir, store }
    }

    /// The one file that has the chunks.
    fn segment(&self) -> PathBuf {
        let files = std::fs::read_dir(self.dir.path().join("chunks")).unwrap();
        let mut paths = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_none());
        paths.next().unwrap()
    }

    /// Changes the first byte.
    pub(super) fn damage(&self) {
        let mut content = std::fs::read(self.segment()).unwrap();
        content[0] ^= 1;
        std::fs::write(self.segment(), content).unwrap();
    }

    /// Takes away everything but the first byte.
    pub(super) fn cut(&self) {
        std::fs::File::options().write(true).open(self.segment()).unwrap().set_len(1).unwrap();
    }
}

fn tiers(published: &Published, peers: Option<Peers>) -> Tiers {
    Tiers {
        directory: Directory::new(Arc::clone(&published.store)),
        bucket: None,
        peers,
        runtime: Handle::current(),
    }
}

/// What reading the chunk comes to with peers of these kinds, all of which have their shards: what was counted, once as many
/// shards as told were put where they were missing.
async fn check(kinds: &[Kind], liars: &[usize], sent: u64) -> TierStats {
    let published = Published::new(&[&body()]);
    // Who is well is waited for, however busy this machine is.
    let silence = kinds.contains(&Kind::Silent) && kinds.len() > 1;
    let five = Five::start(kinds, if silence { Duration::from_millis(500) } else { PATIENT }).await;
    five.fill();
    liars.iter().for_each(|rank| five.turn(*rank));
    let tiers = tiers(&published, Some(five.peers));
    let read = timeout(PATIENT, tiers.fetch(&name(), MAX_BODY_LEN)).await.unwrap();
    assert!(read.unwrap() == body());
    wait(|| tiers.stats().peers.sent + tiers.stats().peers.unsent >= sent).await;
    tiers.stats()
}

#[tokio::test]
async fn while_four_peers_are_well_the_origin_is_not_asked() {
    for kind in [Kind::Well, Kind::Dead, Kind::Silent] {
        let stats = check(&[kind], &[], 0).await;
        assert_eq!((stats.peers.hits, stats.origin), (1, OriginStats::default()), "{kind:?}");
    }
    let stats = check(&[], &[3], 0).await;
    assert_eq!((stats.peers.hits, stats.origin), (1, OriginStats::default()));
}

#[tokio::test]
async fn without_two_peers_the_origin_serves() {
    let stats = check(&[Kind::Dead, Kind::Dead], &[], 0).await;
    assert_eq!((stats.peers.misses, stats.peers.failed, stats.origin.hits), (1, 2, 1));
    let stats = check(&[], &[1, 2], 2).await;
    assert_eq!((stats.peers.misses, stats.peers.liars, stats.peers.sent, stats.origin.hits), (1, 2, 2, 1));
}

#[tokio::test]
async fn one_dead_one_slow_and_one_that_lies_cost_the_origin_once() {
    let stats = check(&[Kind::Dead, Kind::Silent], &[4], 0).await;
    assert_eq!((stats.peers.misses, stats.origin.hits), (1, 1));
    assert!(stats.peers.liars <= 1 && (1..=5).contains(&stats.peers.late), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_want_a_chunk_at_the_same_time_cost_one_fetch() {
    const READERS: usize = 8;
    let Sealed::Chunk { entry, body } = seal(b"plaintext", &Salt::new([1; 16], [1; 32])).unwrap() else {
        panic!("no zeros")
    };
    let published = Published::new(&[&body]);
    let tiers = Arc::new(tiers(&published, None));
    let cache_dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(cache_dir.path(), NodeSecret::new([1; 32]), 1 << 20).unwrap();
    let source = Arc::clone(&tiers);
    let read = move || {
        let together = Barrier::new(READERS);
        let get = |entry: &Entry| {
            together.wait();
            let wanted = Wanted { entry, len: 9, size: ChunkSize::MEMORY };
            cache.get(wanted, &*source).unwrap().plaintext.clone()
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| get(&entry))).collect();
            readers.into_iter().for_each(|reader| assert_eq!(reader.join().unwrap(), b"plaintext"));
        });
    };
    tokio::task::spawn_blocking(read).await.unwrap();
    assert_eq!(tiers.stats().origin, OriginStats { hits: 1, ..OriginStats::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_is_the_origins_and_errors_say_why() {
    let published = Published::new(&[&body()]);
    let five = Five::start(&[], PATIENT).await;
    five.fill();
    let tiers = Arc::new(tiers(&published, Some(five.peers)));
    let source = Arc::clone(&tiers);
    let fetch = async |name: ChunkName, attempt: u32| {
        let source = Arc::clone(&source);
        let fetch = move || Source::fetch(&*source, &name, MAX_BODY_LEN, attempt);
        tokio::task::spawn_blocking(fetch).await.unwrap()
    };
    assert!(fetch(name(), 0).await.unwrap() == body());
    assert!(fetch(name(), 1).await.unwrap() == body());
    let stats = tiers.stats();
    assert_eq!((stats.peers.hits, stats.origin.hits, stats.origin.retries), (1, 1, 0));
    assert!(matches!(fetch(ChunkName::of(b"none"), 0).await, Err(SourceError::Absent)));
    published.damage();
    let error = fetch(name(), 1).await.unwrap_err().to_string();
    let expected = format!(
        "the source failed: the origin does not give chunk {}: what it gave, {} bytes, has another name",
        name(),
        body().len()
    );
    assert_eq!(error, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_here_is_not_asked_for_elsewhere() {
    let published = Published::new(&[&body()]);
    let nowhere = Bucket {
        endpoint: Some("http://127.0.0.1:1".into()),
        bucket: "chunks".into(),
        region: "us-east-1".into(),
        access_key_id: "a".into(),
        secret_access_key: "s".into(),
        prefix: String::new(),
        allow_http: true,
        ca: "none".into(),
    };
    let tiers = Tiers { bucket: Some(Origin::bucket(&nowhere).unwrap()), ..tiers(&published, None) };
    let read = move || {
        assert!(Source::fetch(&tiers, &name(), MAX_BODY_LEN, 0).unwrap() == body());
        assert!(Source::fetch(&tiers, &name(), body().len() - 1, 0).is_err());
        tiers.stats()
    };
    let stats = tokio::task::spawn_blocking(read).await.unwrap();
    assert_eq!(stats.directory, OriginStats { hits: 1, ..OriginStats::default() });
    assert_eq!(stats.origin, OriginStats { failed: 3, retries: 2, ..OriginStats::default() });
}

/// Five nodes on addresses that no other process of this machine uses.
fn cluster() -> Vec<Chunks> {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = |node: u8| SocketAddr::from((Ipv4Addr::new(127, high | 1, low, node), 9001));
    let peers: Vec<PeerAddress> =
        (1..=5).map(|node| PeerAddress { id: format!("node-{node}"), address: address(node) }).collect();
    let node = |peer: &PeerAddress| Chunks {
        cache_bytes: 1 << 20,
        shards_bytes: 1 << 20,
        origin: None,
        cluster: Some(Cluster {
            id: peer.id.clone(),
            listen: peer.address,
            peers: peers.clone(),
            certificates: None,
        }),
    };
    peers.iter().map(node).collect()
}

#[tokio::test]
async fn what_one_node_has_read_the_others_have_from_its_peers() {
    let (published, shards) = (Published::new(&[&body()]), tempfile::tempdir().unwrap());
    let mut nodes = Vec::new();
    for (node, config) in cluster().iter().enumerate() {
        let mut tiers =
            Tiers::open(config, Arc::clone(&published.store), &shards.path().join(node.to_string()))
                .await
                .unwrap();
        // This machine may be busy.
        tiers.peers.iter_mut().for_each(|peers| peers.patience = PATIENT);
        nodes.push(tiers);
    }
    assert!(nodes[0].fetch(&name(), MAX_BODY_LEN).await.unwrap() == body());
    wait(|| nodes[0].stats().peers.sent == 5).await;
    published.store.collect().unwrap();
    drop(nodes.remove(0));
    for node in &nodes {
        assert!(node.fetch(&name(), MAX_BODY_LEN).await.unwrap() == body());
        assert_eq!((node.stats().peers.hits, node.stats().origin), (1, OriginStats::default()));
    }
    drop(nodes.remove(0));
    let absent = nodes[0].fetch(&name(), MAX_BODY_LEN).await;
    assert!(matches!(absent, Err(TierError::Absent(_))), "{absent:?}");
}
