//! Five peers on loopback, of which some are dead, slow or lie; and who is no peer.

use chunk_store::MAX_BODY_LEN;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::erasure::{SHARDS, split};
use super::*;
use crate::chunks::tiers::counters::PeerStats;
use crate::config::Certificates;
use crate::pem::PemError;

/// Longer than any test.
pub(in crate::chunks::tiers) const PATIENT: Duration = Duration::from_secs(60);

/// What a peer is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chunks::tiers) enum Kind {
    Well,
    /// Nobody listens.
    Dead,
    /// Takes a connection and says nothing.
    Silent,
}

/// A peer as others see it.
#[derive(Debug)]
struct Other {
    address: SocketAddr,
    shelf: Arc<Shelf>,
    _dir: TempDir,
    _server: JoinSet<()>,
}

impl Other {
    async fn start(kind: Kind, tls: Option<Tls>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Arc::new(Shelf::open(dir.path(), 1 << 30).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        match kind {
            Kind::Well => drop(server.spawn(serve::serve(listener, Arc::clone(&shelf), tls))),
            Kind::Dead => drop(listener),
            Kind::Silent => drop(server.spawn(async move {
                let _listener = listener;
                std::future::pending().await
            })),
        }
        Self { address, shelf, _dir: dir, _server: server }
    }
}

/// Five peers and who asks them.
pub(in crate::chunks::tiers) struct Five {
    others: Vec<Other>,
    pub(in crate::chunks::tiers) peers: Peers,
}

const IDS: [&str; SHARDS] = ["a", "b", "c", "d", "e"];

impl Five {
    /// The first ones are of these kinds, by rank among the owners of [`name`].
    pub(in crate::chunks::tiers) async fn start(kinds: &[Kind], patience: Duration) -> Self {
        let ring = Ring::new(IDS);
        let mut others: Vec<Option<Other>> = (0..SHARDS).map(|_| None).collect();
        for (rank, owner) in ring.owners(&name()).into_iter().enumerate() {
            others[owner] = Some(Other::start(kinds.get(rank).copied().unwrap_or(Kind::Well), None).await);
        }
        let others: Vec<Other> = others.into_iter().flatten().collect();
        let there = |(other, id): (&Other, &str)| Node::There(Peer::new(id, other.address, None).unwrap());
        let nodes = others.iter().zip(IDS).map(there).collect();
        Self { peers: Peers::of(ring, nodes, patience), others }
    }

    /// The peer of that rank.
    fn shelf(&self, rank: usize) -> &Shelf {
        &self.others[self.peers.ring.owners(&name())[rank]].shelf
    }

    /// Has the peer of that rank give another body's shard.
    pub(in crate::chunks::tiers) fn turn(&self, rank: usize) {
        let mut lie = self.shelf(rank).get(&name()).unwrap().unwrap().to_vec();
        lie[100] ^= 1;
        self.shelf(rank).put(&name(), &lie).unwrap();
    }

    /// Gives each its shard.
    pub(in crate::chunks::tiers) fn fill(&self) {
        for (rank, shard) in split(&body()).unwrap().iter().enumerate() {
            self.shelf(rank).put(&name(), &shard.encode(&name())).unwrap();
        }
    }

    async fn fetch(&self) -> Gathered {
        self.peers.fetch(&name(), MAX_BODY_LEN).await
    }

    /// What was counted, once nothing is on its way any more.
    pub(in crate::chunks::tiers) async fn settled(&self, sent: u64) -> PeerStats {
        wait(|| self.peers.counters.stats().sent + self.peers.counters.stats().unsent == sent).await;
        self.peers.counters.stats()
    }
}

pub(in crate::chunks::tiers) async fn wait(until: impl Fn() -> bool) {
    let wait = async {
        while !until() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENT, wait).await.unwrap();
}

pub(in crate::chunks::tiers) fn body() -> Bytes {
    (0..20_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into()
}

pub(in crate::chunks::tiers) fn name() -> ChunkName {
    ChunkName::of(&body())
}

#[tokio::test]
async fn where_nobody_has_a_chunk_each_gets_its_shard_and_four_give_it() {
    let five = Five::start(&[], PATIENT).await;
    let gathered = five.fetch().await;
    assert!(gathered.body.is_none() && !gathered.is_settled());
    five.peers.settle(&name(), &body(), &gathered);
    assert_eq!(five.settled(5).await, PeerStats { misses: 1, sent: 5, ..PeerStats::default() });
    let gathered = five.fetch().await;
    assert!(gathered.body == Some(body()) && gathered.is_settled());
    assert_eq!(
        five.peers.counters.stats(),
        PeerStats { hits: 1, misses: 1, sent: 5, ..PeerStats::default() }
    );
}

#[tokio::test]
async fn one_that_is_dead_is_not_felt_and_not_asked_again() {
    let five = Five::start(&[Kind::Dead], PATIENT).await;
    five.fill();
    for _ in 0..20 {
        assert_eq!(five.fetch().await.body, Some(body()));
    }
    let stats = five.peers.counters.stats();
    assert!((stats.hits, stats.misses, stats.late) == (20, 0, 0) && stats.failed < 20, "{stats:?}");
}

#[tokio::test]
async fn one_that_never_answers_is_not_felt() {
    let five = Five::start(&[Kind::Silent], PATIENT).await;
    five.fill();
    for _ in 0..20 {
        assert_eq!(five.fetch().await.body, Some(body()));
    }
    assert_eq!(five.peers.counters.stats(), PeerStats { hits: 20, ..PeerStats::default() });
}

#[tokio::test]
async fn one_that_lies_is_told_apart_and_put_right() {
    let five = Five::start(&[], PATIENT).await;
    five.fill();
    let right = five.shelf(1).get(&name()).unwrap().unwrap();
    five.turn(1);
    // Its lie is among the first four sooner or later.
    while five.peers.counters.stats().liars == 0 {
        let gathered = five.fetch().await;
        assert_eq!(gathered.body, Some(body()));
        if !gathered.is_settled() {
            five.peers.settle(&name(), &body(), &gathered);
        }
    }
    let stats = five.settled(1).await;
    assert_eq!((stats.liars, stats.sent, stats.misses), (1, 1, 0));
    assert_eq!(five.shelf(1).get(&name()).unwrap().unwrap(), right);
}

#[tokio::test]
async fn bytes_that_are_no_shard_are_a_lie() {
    let five = Five::start(&[Kind::Dead], PATIENT).await;
    five.fill();
    five.shelf(2).put(&name(), b"no shard").unwrap();
    let gathered = five.fetch().await;
    assert_eq!(gathered.body, None);
    five.peers.settle(&name(), &body(), &gathered);
    let stats = five.peers.counters.stats();
    assert_eq!((stats.liars, stats.failed, stats.misses), (1, 1, 1));
}

#[tokio::test]
async fn two_that_are_dead_are_known_at_once() {
    let five = Five::start(&[Kind::Dead, Kind::Dead], PATIENT).await;
    five.fill();
    assert!(five.fetch().await.body.is_none());
    assert_eq!(five.peers.counters.stats(), PeerStats { misses: 1, failed: 2, ..PeerStats::default() });
}

#[tokio::test]
async fn two_that_never_answer_cost_no_more_than_the_patience() {
    let five = Five::start(&[Kind::Silent, Kind::Silent], Duration::from_millis(300)).await;
    five.fill();
    assert!(timeout(PATIENT, five.fetch()).await.unwrap().body.is_none());
    let stats = five.peers.counters.stats();
    assert!((stats.misses, stats.hits) == (1, 0) && stats.late >= 2, "{stats:?}");
}

#[tokio::test]
async fn a_node_that_is_an_owner_asks_itself() {
    let mut five = Five::start(&[], PATIENT).await;
    five.fill();
    five.peers.nodes[0] = Arc::new(Node::Here(Arc::clone(&five.others[0].shelf)));
    five.others[0] = Other::start(Kind::Dead, None).await;
    assert_eq!(five.fetch().await.body, Some(body()));
    assert_eq!(five.peers.counters.stats(), PeerStats { hits: 1, ..PeerStats::default() });
}

#[tokio::test]
async fn a_peer_takes_nothing_but_shards_of_the_chunk() {
    let other = Other::start(Kind::Well, None).await;
    let peer = Peer::new("a", other.address, None).unwrap();
    let shard = split(&body()).unwrap()[0].encode(&name());
    let refused = peer.put(&ChunkName::of(b"another"), shard.clone()).await;
    assert!(matches!(refused, Err(PeerError::Status(status)) if status == 422), "{refused:?}");
    let refused = peer.put(&name(), vec![0; erasure::MAX_SHARD_LEN + 1].into()).await;
    assert!(matches!(refused, Err(PeerError::Status(_) | PeerError::Http(_))), "{refused:?}");
    peer.put(&name(), shard.clone()).await.unwrap();
    assert_eq!(peer.get(&name()).await.unwrap(), Some(shard));
    assert_eq!(peer.get(&ChunkName::of(b"another")).await.unwrap(), None);
}

/// An authority of peers.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    /// What a node with that id has.
    fn tls(&self, id: &str) -> Tls {
        self.tls_that_believes(id, self)
    }

    /// The same, of a node that believes another authority.
    fn tls_that_believes(&self, id: &str, other: &Self) -> Tls {
        let path = |what: &str| self.dir.path().join(format!("{id}.{what}"));
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([id.to_owned()]).unwrap();
        std::fs::write(path("certificate"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        let ca = other.dir.path().join("ca");
        Tls::load(&Certificates { ca, certificate: path("certificate"), key: path("key") }).unwrap()
    }
}

#[tokio::test]
async fn a_peer_is_who_has_a_certificate_for_its_id() {
    let authority = Authority::new();
    let other = Other::start(Kind::Well, Some(authority.tls("other"))).await;
    let get = async |id: &str, tls: Option<&Tls>| {
        let peer = Peer::new(id, other.address, tls).unwrap();
        peer.get(&name()).await
    };
    let this = authority.tls("this");
    assert!(matches!(get("other", Some(&this)).await, Ok(None)));
    let refused = get("another", Some(&this)).await;
    assert!(matches!(refused, Err(PeerError::Connect(_))), "{refused:?}");
    // This node believes another authority; or the other one does not believe this node's.
    let strangers = Authority::new();
    let refused = get("other", Some(&authority.tls_that_believes("this", &strangers))).await;
    assert!(matches!(refused, Err(PeerError::Connect(_))), "{refused:?}");
    let refused = get("other", Some(&strangers.tls_that_believes("this", &authority))).await;
    assert!(matches!(refused, Err(PeerError::Http(_))), "{refused:?}");
    assert!(get("other", None).await.is_err());
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("nothing"), "nothing").unwrap();
    let load = |ca: &str| Tls::load(&Certificates { ca: path(ca), certificate: path("c"), key: path("k") });
    assert!(
        matches!(load("none"), Err(TlsError::Pem(PemError::Read { path: which, .. })) if which == path("none"))
    );
    assert!(
        matches!(load("nothing"), Err(TlsError::Pem(PemError::Absent { path: which, .. })) if which == path("nothing"))
    );
}
