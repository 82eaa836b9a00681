//! Reading the kernel's counters.

use std::collections::BTreeMap;

use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use sigil_common::abi::{event::event_slot, name};
use sigil_common::verdict::{DropReason, Hook, SLOT_ACCEPTED, SLOT_OBSERVED, SLOT_SEEN, SLOTS};

use crate::error::Error;
use crate::load::Datapath;

/// All counters, summed over CPUs.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// One row a hook.
    pub rows: Vec<(Hook, Row)>,
    /// Drops by the node they came from (on the way out: this node).
    pub pairs: Vec<PairDrop>,
    /// Events.
    pub events: EventCounters,
}

/// A hook's counters. Once no packet is under way, `seen = accepted + sum(dropped)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Packets or operations that came to the hook.
    pub seen: u64,
    /// Those that passed.
    pub accepted: u64,
    /// Those of the accepted that passed only because the agent was told to observe.
    pub observed: u64,
    /// Those that did not; reasons that never occurred included.
    pub dropped: Vec<(DropReason, u64)>,
}

/// Drops of one reason by one hook that came from one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairDrop {
    /// The source node; 0 where it is not known.
    pub snid: u32,
    /// Where.
    pub hook: Hook,
    /// Why.
    pub reason: DropReason,
    /// How many.
    pub count: u64,
}

/// What became of the reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounters {
    /// Handed to the ring.
    pub sent: u64,
    /// The ring had no room.
    pub lost: u64,
    /// Not reported, because their flow just was.
    pub suppressed: u64,
}

impl Datapath {
    /// Reads all counters.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn counters(&self) -> Result<Counters, Error> {
        let stats: PerCpuArray<&MapData, u64> = self.view(name::STATS)?;
        let sum = |hook: Hook, slot: u32| {
            let values = stats.get(&(hook as u32 * SLOTS + slot), 0);
            values.map(|cpus| cpus.iter().sum::<u64>()).map_err(Error::map(name::STATS))
        };
        let mut counters = Counters::default();
        for hook in Hook::ALL {
            let mut row = Row {
                seen: sum(hook, SLOT_SEEN)?,
                accepted: sum(hook, SLOT_ACCEPTED)?,
                observed: sum(hook, SLOT_OBSERVED)?,
                dropped: Vec::new(),
            };
            for reason in DropReason::ALL {
                row.dropped.push((*reason, sum(hook, *reason as u32)?));
            }
            counters.rows.push((hook, row));
        }
        counters.pairs = self.pairs()?;
        let events: PerCpuArray<&MapData, u64> = self.view(name::EVENT_STATS)?;
        let sum = |slot: u32| {
            let values = events.get(&slot, 0);
            values.map(|cpus| cpus.iter().sum::<u64>()).map_err(Error::map(name::EVENT_STATS))
        };
        counters.events = EventCounters {
            sent: sum(event_slot::SENT)?,
            lost: sum(event_slot::LOST)?,
            suppressed: sum(event_slot::SUPPRESSED)?,
        };
        Ok(counters)
    }

    fn pairs(&self) -> Result<Vec<PairDrop>, Error> {
        let map: PerCpuHashMap<&MapData, u64, u64> = self.view(name::PAIR_STATS)?;
        let mut pairs = BTreeMap::new();
        for entry in &map {
            let (key, values) = entry.map_err(Error::map(name::PAIR_STATS))?;
            pairs.insert(key, values.iter().sum::<u64>());
        }
        let pairs = pairs.into_iter().filter_map(|(key, count)| {
            #[expect(clippy::cast_possible_truncation, reason = "the fields of the key")]
            let (snid, hook, reason) = ((key >> 32) as u32, (key >> 8) as u8, key as u8);
            Some(PairDrop {
                snid,
                hook: Hook::ALL.into_iter().find(|h| *h as u32 == u32::from(hook))?,
                reason: DropReason::try_from(u32::from(reason)).ok()?,
                count,
            })
        });
        Ok(pairs.collect())
    }
}
