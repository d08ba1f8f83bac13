//! The one task that talks to the gateway: keeps slots ready, says where the guest behind one may go when it is taken, and has it
//! removed when its sandbox is gone.

use std::{
    collections::VecDeque,
    io,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use gateway_api::{Answer, AnswerError, Egress, MAX_ANSWER_LEN, Rate, Request};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use vmm_api::{NetConfig, RateLimit};

use crate::{config, sandbox::packet::PacketSocket};

/// What systemd's networkd knows of the node's uplinks.
const NETWORKD_STATE: &str = "/run/systemd/netif/state";

/// How long a gateway that made no slot is left alone, unless somebody wants one.
const RETRY: Duration = Duration::from_secs(5);

/// What the gateway lets through of what a `vmm` does by itself, which keeps to its rate but for the moment at which it looks: only one that was
/// taken over comes to this.
const SPARE: Spare = Spare { rate_percent: 125, bursts: 2 };

struct Spare {
    rate_percent: u64,
    bursts: u64,
}

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The gateway does not run, or not for this user.
    #[error("connect to the gateway at {}", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke off.
    #[error("talk to the gateway")]
    Talk(#[source] io::Error),
    /// It ended before it answered.
    #[error("the gateway ended")]
    Gone,
    /// It says something else.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A step failed.
    #[error("the gateway did nothing: {0}")]
    Refused(String),
}

/// A slot's number and which of the agent's connections it was made on: another one's are gone.
pub(super) type Name = (u32, u64);

/// What the task is asked.
#[derive(Debug)]
pub(super) enum Order {
    Take { egress: Egress, reply: oneshot::Sender<Result<(u32, u64, OwnedFd), NetworkError>> },
    Remove(Name),
}

/// A slot of one sandbox. When this is dropped nothing is left of it.
#[derive(Debug)]
pub(crate) struct Slot {
    name: Name,
    tap: Option<OwnedFd>,
    rate: RateLimit,
    orders: mpsc::UnboundedSender<Order>,
}

impl Slot {
    pub(super) fn new(
        name: Name,
        tap: OwnedFd,
        rate: RateLimit,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        Self { name, tap: Some(tap), rate, orders }
    }

    /// Adds the tap to what a `vmm` is handed, which has it alone then.
    pub(crate) fn hand(&mut self, fds: &mut Vec<OwnedFd>) -> Option<NetConfig> {
        let tap_fd = fds.len();
        fds.push(self.tap.take()?);
        Some(NetConfig { tap_fd, receive: self.rate, transmit: self.rate })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A task that is gone has taken all slots with it.
        drop(self.orders.send(Order::Remove(self.name)));
    }
}

/// A little faster than a `vmm` is told to be.
fn beyond(RateLimit { bytes_per_second, burst_bytes }: RateLimit) -> Rate {
    Rate {
        bytes_per_second: bytes_per_second.saturating_mul(SPARE.rate_percent) / 100,
        burst_bytes: u32::try_from(burst_bytes.saturating_mul(SPARE.bursts)).unwrap_or(u32::MAX),
    }
}

/// The task.
pub(super) struct Gateway {
    path: PathBuf,
    resolver: Option<Ipv4Addr>,
    rate: Rate,
    ready_slots: usize,
    connection: Option<PacketSocket>,
    /// How many connections there were.
    connections: u64,
    ready: VecDeque<(u32, OwnedFd)>,
    /// Who answers for the gateway, as it was told last.
    resolves: Option<Ipv4Addr>,
}

impl Gateway {
    pub(super) fn new(path: PathBuf, config: &config::Network) -> Self {
        let config::Network { resolver, rate, ready_slots, .. } = *config;
        let rate = beyond(rate);
        let (connection, connections, ready, resolves) = (None, 0, VecDeque::new(), None);
        Self { path, resolver, rate, ready_slots, connection, connections, ready, resolves }
    }

    pub(super) async fn serve(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        let mut is_stuck = false;
        loop {
            let wants_more = self.ready.len() < self.ready_slots;
            let order = tokio::select! {
                biased;
                order = inbox.recv() => order,
                () = sleep(if is_stuck { RETRY } else { Duration::ZERO }), if wants_more => {
                    is_stuck = !self.make_ready(is_stuck).await;
                    continue;
                }
            };
            match order {
                None => return,
                Some(Order::Take { egress, reply }) => {
                    let taken = self.take(&egress).await;
                    is_stuck = taken.is_err();
                    if let Err(Ok((number, connection, _))) = reply.send(taken) {
                        self.remove((number, connection)).await;
                    }
                }
                Some(Order::Remove(name)) => self.remove(name).await,
            }
        }
    }

    /// Makes one ahead of time; whether it could be made. That it could not is said once.
    async fn make_ready(&mut self, is_known: bool) -> bool {
        match self.make().await {
            Ok(slot) => {
                self.ready.push_back(slot);
                true
            }
            Err(error) => {
                if !is_known {
                    tracing::warn!("no network slot is ready: {}", crate::sandbox::describe(&error));
                }
                false
            }
        }
    }

    async fn take(&mut self, egress: &Egress) -> Result<(u32, u64, OwnedFd), NetworkError> {
        let had_connection = self.connection.is_some();
        match self.try_take(egress).await {
            // The gateway was started anew since it was asked last: with it went every slot that was there.
            Err(NetworkError::Gone | NetworkError::Talk(_)) if had_connection => self.try_take(egress).await,
            taken => taken,
        }
    }

    async fn try_take(&mut self, egress: &Egress) -> Result<(u32, u64, OwnedFd), NetworkError> {
        self.resolve().await?;
        let (slot, tap) = match self.ready.pop_front() {
            Some(slot) => slot,
            None => self.make().await?,
        };
        match self.ask(&Request::Permit { slot, egress: egress.clone() }).await? {
            (Answer::Done, _) => Ok((slot, self.connections, tap)),
            answer => Err(unexpected(answer)),
        }
    }

    async fn make(&mut self) -> Result<(u32, OwnedFd), NetworkError> {
        match self.ask(&Request::Make { rate: self.rate }).await? {
            (Answer::Made { slot }, Some(tap)) => Ok((slot, tap)),
            answer => Err(unexpected(answer)),
        }
    }

    async fn remove(&mut self, (slot, connection): Name) {
        if connection != self.connections || self.connection.is_none() {
            return;
        }
        let problem = match self.ask(&Request::Remove { slot }).await {
            Ok((Answer::Done, _)) => return,
            Ok(answer) => unexpected(answer),
            Err(error) => error,
        };
        tracing::error!(slot, "a network slot is left: {}", crate::sandbox::describe(&problem));
    }

    /// Tells the gateway who answers for it, if that is somebody else than before: leases are renewed.
    async fn resolve(&mut self) -> Result<(), NetworkError> {
        let named = || {
            let state = std::fs::read_to_string(NETWORKD_STATE).ok()?;
            first_name_server(&state)
        };
        let Some(server) = self.resolver.or_else(named) else { return Ok(()) };
        if self.connection.is_some() && self.resolves == Some(server) {
            return Ok(());
        }
        match self.ask(&Request::Resolve { server }).await? {
            (Answer::Done, _) => {
                self.resolves = Some(server);
                Ok(())
            }
            answer => Err(unexpected(answer)),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<(Answer, Option<OwnedFd>), NetworkError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.connections += 1;
                self.resolves = None;
                self.ready.clear();
                connect(&self.path)?
            }
        };
        connection.send(&request.to_packet(), &[]).await.map_err(NetworkError::Talk)?;
        let mut buffer = [0; MAX_ANSWER_LEN];
        let (len, fds) = connection.receive(&mut buffer).await.map_err(NetworkError::Talk)?;
        if len == 0 {
            return Err(NetworkError::Gone);
        }
        // One that makes no sense is the last one of its connection.
        let answer = Answer::from_packet(&buffer[..len])?;
        self.connection = Some(connection);
        Ok((answer, fds.into_iter().next()))
    }
}

fn connect(path: &Path) -> Result<PacketSocket, NetworkError> {
    let connected = PacketSocket::connect(path);
    connected.map_err(|source| NetworkError::Connect { path: path.to_owned(), source })
}

fn unexpected((answer, _): (Answer, Option<OwnedFd>)) -> NetworkError {
    match answer {
        Answer::Failed { text } => NetworkError::Refused(text),
        other => NetworkError::Refused(format!("it answers {other:?}")),
    }
}

/// The first IPv4 name server of all uplinks.
fn first_name_server(state: &str) -> Option<Ipv4Addr> {
    let servers = state.lines().find_map(|line| line.strip_prefix("DNS="))?;
    let mut servers = servers.split_whitespace().filter_map(|server| server.parse().ok());
    servers.find(|server: &Ipv4Addr| !server.is_loopback() && !server.is_unspecified())
}

#[cfg(test)]
mod uplinks {
    use super::*;

    #[test]
    fn a_name_server_is_one_that_guests_can_ask() {
        let check = |line: &str, expected: Option<[u8; 4]>| {
            assert_eq!(first_name_server(line), expected.map(Ipv4Addr::from), "{line}");
        };
        check(
            "OPER_STATE=routable\nDNS=fe80::1 127.0.0.53 10.0.0.2 9.9.9.9\nNTP=1.2.3.4",
            Some([10, 0, 0, 2]),
        );
        check("DNS=", None);
        check("OPER_STATE=off", None);
    }
}
