//! The slots that there are: from a tap that nobody has had to the last trace of who had it. One agent's at a time; when it is
//! gone, so are they.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use gateway_api::{Egress, NUMBERS, Prefixes, Rate};
use nix::errno::Errno;

use crate::netlink::Netlink;
use crate::rules::{Connections, INTERNET, Rules};
use crate::tap::Taps;
use crate::wires::{self, Pool};

/// Slots at a time: more than sandboxes fit on any node.
const MAX_SLOTS: usize = 8192;

/// Why something is not so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlotError {
    /// There are as many as there may be.
    #[error("there are {MAX_SLOTS} slots")]
    Full,
    /// None of that number.
    #[error("there is no slot {0}")]
    Absent(u32),
    /// What a guest may do does not change while it runs.
    #[error("slot {0} has its egress")]
    Settled(u32),
    /// A link, its addresses or routes.
    #[error("make the slot's link")]
    Link(#[source] Errno),
    /// An element of the filters.
    #[error("change the filters")]
    Rules(#[source] Errno),
    /// What is remembered of connections.
    #[error("forget the slot's connections")]
    Connections(#[source] Errno),
    /// Its link.
    #[error("remove the slot's link")]
    Unlink(#[source] Errno),
}

/// What slots are made with: sockets into the guests' network, and one into the node's.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) pool: Pool,
    pub(crate) taps: Taps,
    pub(crate) links: Netlink,
    pub(crate) rules: Rules,
    /// Of the guests' network, and of the node's, where they are masqueraded.
    pub(crate) connections: [Connections; 2],
}

/// A list that some slots have.
#[derive(Debug)]
struct List {
    mark: u32,
    slots: BTreeSet<u32>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Slots {
    tools: Tools,
    /// With what each one was permitted, once it was.
    slots: BTreeMap<u32, Option<Egress>>,
    lists: BTreeMap<Prefixes, List>,
    /// Where the search for a free number begins: one is not used again soon.
    next: u32,
    resolver: Option<Ipv4Addr>,
}

impl Slots {
    pub(crate) fn new(tools: Tools) -> Self {
        Self { tools, slots: BTreeMap::new(), lists: BTreeMap::new(), next: 0, resolver: None }
    }

    /// Makes one; nothing is left of one that fails.
    pub(crate) fn make(&mut self, rate: Rate) -> Result<(u32, OwnedFd), SlotError> {
        let slot = self.free_number()?;
        let Tools { pool, taps, links, rules, .. } = &mut self.tools;
        let tap = taps.make(slot).map_err(SlotError::Link)?;
        // The tap goes with its descriptor.
        wires::attach(links, *pool, slot).map_err(SlotError::Link)?;
        rules.name(slot, pool.outer(slot), rate).map_err(SlotError::Rules)?;
        self.slots.insert(slot, None);
        self.next = (slot + 1) % NUMBERS;
        Ok((slot, tap))
    }

    /// Says where the guest behind a slot may go, once.
    pub(crate) fn permit(&mut self, slot: u32, egress: Egress) -> Result<(), SlotError> {
        match self.slots.get(&slot) {
            None => return Err(SlotError::Absent(slot)),
            Some(Some(_)) => return Err(SlotError::Settled(slot)),
            Some(None) => {}
        }
        let rules = &mut self.tools.rules;
        match &egress {
            Egress::Nowhere => {}
            Egress::Internet => rules.permit(slot, INTERNET, None).map_err(SlotError::Rules)?,
            Egress::Only(list) => match self.lists.get_mut(list) {
                Some(List { mark, slots }) => {
                    rules.permit(slot, *mark, None).map_err(SlotError::Rules)?;
                    slots.insert(slot);
                }
                None => {
                    let mark = free_mark(&self.lists);
                    rules.permit(slot, mark, Some(list)).map_err(SlotError::Rules)?;
                    self.lists.insert(list.clone(), List { mark, slots: BTreeSet::from([slot]) });
                }
            },
        }
        self.slots.insert(slot, Some(egress));
        Ok(())
    }

    /// Removes one: first nothing goes through, then nothing is left. Where a step fails the number stays taken, and the steps can be
    /// gone through again.
    pub(crate) fn remove(&mut self, slot: u32) -> Result<(), SlotError> {
        let egress = self.slots.get(&slot).ok_or(SlotError::Absent(slot))?;
        let Tools { pool, links, rules, connections, .. } = &mut self.tools;
        rules.forget(slot).map_err(SlotError::Rules)?;
        wires::detach(links, slot).map_err(SlotError::Unlink)?;
        for memory in connections {
            memory.forget(pool.outer(slot)).map_err(SlotError::Connections)?;
        }
        if let Some(Egress::Only(list)) = egress
            && let Some(List { mark, slots }) = self.lists.get_mut(list)
        {
            slots.remove(&slot);
            if slots.is_empty() {
                rules.forget_list(*mark, list).map_err(SlotError::Rules)?;
                self.lists.remove(list);
            }
        }
        self.slots.remove(&slot);
        Ok(())
    }

    /// Removes all of them.
    pub(crate) fn clear(&mut self) -> Result<(), SlotError> {
        wires::detach_all(&mut self.tools.links).map_err(SlotError::Unlink)?;
        while let Some((&slot, _)) = self.slots.first_key_value() {
            self.remove(slot)?;
        }
        Ok(())
    }

    /// Says who answers when guests ask for names.
    pub(crate) fn resolve(&mut self, server: Ipv4Addr) -> Result<(), SlotError> {
        if self.resolver != Some(server) {
            self.tools.rules.resolve(self.resolver, server).map_err(SlotError::Rules)?;
            self.resolver = Some(server);
        }
        Ok(())
    }

    fn free_number(&self) -> Result<u32, SlotError> {
        if self.slots.len() >= MAX_SLOTS {
            return Err(SlotError::Full);
        }
        let mut candidates = (self.next..NUMBERS).chain(0..self.next);
        candidates.find(|slot| !self.slots.contains_key(slot)).ok_or(SlotError::Full)
    }
}

/// A mark that no list has. There are fewer lists than marks.
fn free_mark(lists: &BTreeMap<Prefixes, List>) -> u32 {
    let taken: BTreeSet<u32> = lists.values().map(|list| list.mark).collect();
    (INTERNET + 1..).find(|mark| !taken.contains(mark)).unwrap_or(u32::MAX)
}
