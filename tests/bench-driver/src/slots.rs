//! What a network slot costs: made, assigned to a sandbox, removed. By a gateway of the driver's own in a network of its own, so that
//! the node's has nothing to do with it.

use std::{os::fd::OwnedFd, process::Command, time::Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use gateway_api::{Answer, Egress, MAX_ANSWER_LEN, Rate, Request};
use nix::sched::{CloneFlags, unshare};

use crate::{Figure, plan::Plan, server::Server};

/// Of RFC 6598, as the node's own.
const POOL: &str = "100.64.0.0/16";
const NFT: &str = "/usr/sbin/nft";
/// Nothing is sent.
const RATE: Rate = Rate { bytes_per_second: 1 << 20, burst_bytes: 1 << 20 };
/// Of RFC 5737.
const LISTED: &str = "192.0.2.0/24";

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    // The network is the thread's, and of the gateway that it starts.
    std::thread::scope(|scope| scope.spawn(|| in_a_network_of_its_own(plan)).join())
        .map_err(|_| anyhow!("the gateway's agent panicked"))?
}

fn in_a_network_of_its_own(plan: &Plan) -> Result<Vec<Figure>> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network")?;
    let command = &mut Command::new(&plan.gateway);
    let gateway =
        Gateway(Server::start(command.args(["--agent", "0", "--pool", POOL, "--nft", NFT]), "gateway")?);
    // The first one meets a page cache and caches of the kernel's that are cold.
    let (first, _tap) = gateway.make()?;
    gateway.done(&Request::Permit { slot: first, egress: Egress::Internet })?;
    let list = Egress::only(vec![LISTED.parse()?])?;
    let [mut make_us, mut assign_us, mut remove_us] = [const { Vec::new() }; 3];
    let mut slots = Vec::new();
    for _ in 0..plan.slots {
        let began = Instant::now();
        slots.push(gateway.make()?);
        make_us.push(us_since(began));
    }
    for ((slot, _), egress) in slots.iter().zip([Egress::Internet, list].iter().cycle()) {
        let request = Request::Permit { slot: *slot, egress: egress.clone() };
        let began = Instant::now();
        gateway.done(&request)?;
        assign_us.push(us_since(began));
    }
    for (slot, tap) in slots {
        // The sandbox has ended.
        drop(tap);
        let began = Instant::now();
        gateway.done(&Request::Remove { slot })?;
        remove_us.push(us_since(began));
    }
    Ok(vec![
        Figure::new("slot_make", "us", make_us),
        Figure::new("slot_assign", "us", assign_us),
        Figure::new("slot_remove", "us", remove_us),
    ])
}

fn us_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

struct Gateway(Server);

impl Gateway {
    /// Makes a slot, and hands over its tap.
    fn make(&self) -> Result<(u32, OwnedFd)> {
        match self.ask(&Request::Make { rate: RATE })? {
            (Answer::Made { slot }, Some(tap)) => Ok((slot, tap)),
            (other, _) => bail!("the gateway made nothing: {other:?}"),
        }
    }

    fn done(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            (Answer::Done, None) => Ok(()),
            (other, _) => bail!("the gateway did not do {request:?}: {other:?}"),
        }
    }

    fn ask(&self, request: &Request) -> Result<(Answer, Option<OwnedFd>)> {
        let (answer, tap) = self.0.ask(&request.to_packet(), &[], MAX_ANSWER_LEN)?;
        Ok((Answer::from_packet(&answer)?, tap.into_iter().next()))
    }
}
