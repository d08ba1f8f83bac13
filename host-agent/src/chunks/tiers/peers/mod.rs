//! The peers: nodes that keep the shards of chunks that some of them have read, four of five of which give a chunk.
//!
//! ```text
//! fetch ─► all five owners at once (ring.rs), but for those put aside (standing.rs)
//!            four shards ─► joined, the name is right ─► body        the fifth request is taken back
//!                           another name ─► with the fifth, each four of the five (erasure.rs)
//!            fewer, late ─► the origin ─► settle: who lied is told apart, who has none gets one, behind the caller's back
//! ```
//!
//! All five are asked, not four and then one more: what a peer costs that has just died or got slow is a quarter of the bytes, paid
//! always, and no time at all. An owner gives whatever shard it has, so that nothing moves when owners change.

mod erasure;
mod gathered;
mod peer;
mod ring;
mod serve;
mod shelf;
mod standing;
#[cfg(test)]
pub(super) mod tests;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chunk_store::ChunkName;
use rustls::pki_types::InvalidDnsNameError;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::counters::PeerCounters;
use crate::config::Cluster;
use erasure::{NEEDED, Shard};
use gathered::{Answer, Gathered};
use peer::{Peer, PeerError};
use ring::Ring;
use shelf::Shelf;
use tls::Tls;

pub(crate) use tls::TlsError;

/// How long peers have for a chunk before it is the origin's. A peer that is well has it in memory or on a local disk, a
/// millisecond away.
const PATIENCE: Duration = Duration::from_millis(100);

/// Shards that wait to be put where they are missing, a quarter of a megabyte each at most. What does not fit is put after a later
/// read.
const MAX_WAITING: usize = 256;

/// Shards on their way to peers at a time.
const AT_A_TIME: usize = 16;

/// Longest time for one.
const PUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there are no peers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeersError {
    /// The directory for this node's shards is of no use.
    #[error("cannot open the shards of peers")]
    Shelf(#[source] io::Error),
    /// The certificates are of no use.
    #[error("cannot speak to peers")]
    Tls(#[from] TlsError),
    /// There is no certificate for such an id.
    #[error("peer id {id} is no DNS name")]
    Id {
        /// Which.
        id: String,
        /// Why not.
        source: InvalidDnsNameError,
    },
    /// The address for peers is taken, or not this node's.
    #[error("cannot listen for peers on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A node that keeps shards.
#[derive(Debug)]
enum Node {
    /// This one.
    Here(Arc<Shelf>),
    There(Peer),
}

/// All nodes that keep shards, this one included. What serves them ends with it.
#[derive(Debug)]
pub(crate) struct Peers {
    ring: Ring,
    nodes: Vec<Arc<Node>>,
    pub(super) patience: Duration,
    outbox: mpsc::Sender<Parcel>,
    pub(super) counters: Arc<PeerCounters>,
    tasks: JoinSet<()>,
}

/// A shard that is to be put somewhere.
#[derive(Debug)]
struct Parcel {
    to: Arc<Node>,
    name: ChunkName,
    shard: Bytes,
}

impl Peers {
    /// Begins to serve `cluster`'s peers, and to know them. Called in a runtime.
    ///
    /// # Errors
    /// Directory, certificates or address are of no use.
    pub(crate) async fn start(cluster: &Cluster, shards: &Path, capacity: u64) -> Result<Self, PeersError> {
        let shelf = Arc::new(Shelf::open(shards, capacity).map_err(PeersError::Shelf)?);
        let tls = cluster.certificates.as_ref().map(Tls::load).transpose()?;
        let mut nodes = Vec::with_capacity(cluster.peers.len());
        for other in &cluster.peers {
            let node = if other.id == cluster.id {
                Node::Here(Arc::clone(&shelf))
            } else {
                let peer = Peer::new(&other.id, other.address, tls.as_ref());
                Node::There(peer.map_err(|source| PeersError::Id { id: other.id.clone(), source })?)
            };
            nodes.push(node);
        }
        let address = cluster.listen;
        let listen = |source| PeersError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let ring = Ring::new(cluster.peers.iter().map(|peer| peer.id.as_str()));
        let mut peers = Self::of(ring, nodes, PATIENCE);
        peers.tasks.spawn(serve::serve(listener, shelf, tls));
        Ok(peers)
    }

    /// Nodes in the order of the ring's.
    fn of(ring: Ring, nodes: Vec<Node>, patience: Duration) -> Self {
        let (outbox, parcels) = mpsc::channel(MAX_WAITING);
        let counters = Arc::new(PeerCounters::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(deliver(parcels, Arc::clone(&counters)));
        let nodes = nodes.into_iter().map(Arc::new).collect();
        Self { ring, nodes, patience, outbox, counters, tasks }
    }

    /// A chunk, whose body has at most `max_len` bytes, from its shards. With its body, or without: what was said is to be
    /// [settled](Self::settle) once there is one.
    pub(super) async fn fetch(&self, name: &ChunkName, max_len: usize) -> Gathered {
        let deadline = Instant::now() + self.patience;
        let owners = self.owners(name);
        let mut asked = JoinSet::new();
        let mut silent = Vec::new();
        for (rank, owner) in owners.iter().enumerate().filter(|(_, owner)| !owner.is_aside()) {
            let (owner, name) = (Arc::clone(owner), *name);
            silent.push(rank);
            asked.spawn(async move { (rank, owner.get(&name).await) });
        }
        let mut gathered = Gathered::default();
        while gathered.body.is_none() && gathered.shards() + asked.len() >= NEEDED {
            match timeout_at(deadline, asked.join_next()).await {
                Ok(Some(Ok((rank, answer)))) => {
                    silent.retain(|other| *other != rank);
                    if let Some(answer) = self.hear(&owners[rank], answer, name, max_len) {
                        gathered.add(rank, answer, name);
                    }
                }
                // One panicked.
                Ok(Some(Err(_))) => self.counters.failed.count(),
                Ok(None) => break,
                Err(_) => {
                    for rank in silent.drain(..) {
                        self.counters.late.count();
                        owners[rank].failed();
                    }
                    break;
                }
            }
        }
        if gathered.body.is_none() {
            silent.into_iter().for_each(|rank| gathered.add(rank, Answer::Unheard, name));
        }
        if gathered.body.is_some() { &self.counters.hits } else { &self.counters.misses }.count();
        if gathered.is_settled() {
            gathered.givers().for_each(|rank| owners[rank].answered());
        }
        gathered
    }

    /// Now that the chunk's body is known: who lied is put aside, and who has no shard of it, or another one, gets one later.
    pub(super) fn settle(&self, name: &ChunkName, body: &Bytes, gathered: &Gathered) {
        let owners = self.owners(name);
        let settled = gathered.settle(body);
        for rank in &settled.liars {
            self.counters.liars.count();
            owners[*rank].failed();
        }
        let honest = gathered.givers().filter(|rank| !settled.liars.contains(rank));
        honest.for_each(|rank| owners[rank].answered());
        for (rank, shard) in settled.missing {
            let parcel = Parcel { to: Arc::clone(&owners[rank]), name: *name, shard: shard.encode(name) };
            if self.outbox.try_send(parcel).is_err() {
                self.counters.unsent.count();
            }
        }
    }

    fn owners(&self, name: &ChunkName) -> Vec<Arc<Node>> {
        self.ring.owners(name).into_iter().map(|node| Arc::clone(&self.nodes[node])).collect()
    }

    /// What an owner's answer comes to; none if it is no answer.
    fn hear(
        &self,
        owner: &Node,
        answer: Result<Option<Bytes>, PeerError>,
        name: &ChunkName,
        max_len: usize,
    ) -> Option<Answer> {
        match answer {
            Ok(Some(file)) => Some(Shard::decode(&file, name, max_len).map_or(Answer::Lie, Answer::Shard)),
            Ok(None) => {
                owner.answered();
                Some(Answer::Nothing)
            }
            Err(error) => {
                tracing::debug!("a peer gave no shard of {name}: {error}");
                self.counters.failed.count();
                // That is this node's doing.
                if !matches!(error, PeerError::Busy) {
                    owner.failed();
                }
                None
            }
        }
    }
}

impl Node {
    async fn get(&self, name: &ChunkName) -> Result<Option<Bytes>, PeerError> {
        match self {
            Self::Here(shelf) => {
                let (shelf, name) = (Arc::clone(shelf), *name);
                on_disk(move || shelf.get(&name)).await
            }
            Self::There(peer) => peer.get(name).await,
        }
    }

    async fn put(&self, name: &ChunkName, shard: Bytes) -> Result<(), PeerError> {
        match self {
            Self::Here(shelf) => {
                let (shelf, name) = (Arc::clone(shelf), *name);
                on_disk(move || shelf.put(&name, &shard)).await
            }
            Self::There(peer) => peer.put(name, shard).await,
        }
    }

    fn is_aside(&self) -> bool {
        match self {
            Self::Here(_) => false,
            Self::There(peer) => peer.is_aside(),
        }
    }

    fn answered(&self) {
        if let Self::There(peer) = self {
            peer.answered();
        }
    }

    fn failed(&self) {
        if let Self::There(peer) = self {
            peer.failed();
        }
    }
}

async fn on_disk<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PeerError> {
    let done = tokio::task::spawn_blocking(act).await.map_err(io::Error::from).flatten();
    done.map_err(PeerError::Shelf)
}

/// Puts shards where they are missing, a few at a time, until nobody can send any more.
async fn deliver(mut parcels: mpsc::Receiver<Parcel>, counters: Arc<PeerCounters>) {
    let mut under_way = JoinSet::new();
    while let Some(Parcel { to, name, shard }) = parcels.recv().await {
        if under_way.len() == AT_A_TIME {
            under_way.join_next().await;
        }
        let counters = Arc::clone(&counters);
        under_way.spawn(async move {
            match timeout(PUT_TIMEOUT, to.put(&name, shard)).await {
                Ok(Ok(())) => counters.sent.count(),
                Ok(Err(error)) => {
                    tracing::debug!("a peer took no shard of {name}: {error}");
                    counters.unsent.count();
                }
                Err(_) => counters.unsent.count(),
            }
        });
    }
}
