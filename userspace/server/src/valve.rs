//! Keeps alarms that others can cause at will from becoming a flood.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One alarm of a kind about a node in so long.
const PERIOD: Duration = Duration::from_secs(1);

/// Alarms of one kind about one node: the first is told at once, what follows is counted, and told
/// together when the time has passed. Nothing is lost but the words of all but the last.
#[derive(Default)]
pub(crate) struct Valve(BTreeMap<(u32, &'static str), Held>);

struct Held {
    since: Instant,
    count: u64,
    message: String,
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) snid: u32,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) count: u64,
}

impl Valve {
    /// The alarm, if it may be told now.
    pub(crate) fn pass(
        &mut self,
        snid: u32,
        kind: &'static str,
        message: String,
        now: Instant,
    ) -> Option<Told> {
        if let Some(held) = self.0.get_mut(&(snid, kind)) {
            held.count += 1;
            held.message = message;
            return None;
        }
        self.0.insert((snid, kind), Held { since: now, count: 0, message: String::new() });
        Some(Told { snid, kind, message, count: 1 })
    }

    /// What was held long enough.
    pub(crate) fn release(&mut self, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        self.0.retain(|(snid, kind), held| {
            if now.duration_since(held.since) < PERIOD {
                return true;
            }
            let (count, message) = (held.count, std::mem::take(&mut held.message));
            if count > 0 {
                told.push(Told { snid: *snid, kind, message, count });
            }
            *held = Held { since: now, count: 0, message: String::new() };
            count > 0
        });
        told
    }

    /// What is held, at the end.
    pub(crate) fn drain(&mut self) -> Vec<Told> {
        let held = std::mem::take(&mut self.0).into_iter().filter(|(_, held)| held.count > 0);
        held.map(|((snid, kind), Held { count, message, .. })| Told { snid, kind, message, count })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second_and_adds_up() {
        let start = Instant::now();
        let mut valve = Valve::default();
        let (mut alarms, mut sum) = (0, 0);
        let mut tell = |told: Told| {
            alarms += 1;
            sum += told.count;
        };
        for at in 0..10_000u32 {
            let now = start + Duration::from_millis(u64::from(at));
            valve.release(now).into_iter().for_each(&mut tell);
            valve.pass(0, "flood", at.to_string(), now).into_iter().for_each(&mut tell);
        }
        valve.drain().into_iter().for_each(&mut tell);
        assert_eq!((alarms, sum), (11, 10_000));
    }

    #[test]
    fn nodes_and_kinds_do_not_hold_up_each_other_and_calm_ends() {
        let start = Instant::now();
        let mut valve = Valve::default();
        for (snid, kind) in [(1, "a"), (1, "b"), (2, "a")] {
            assert!(valve.pass(snid, kind, String::new(), start).is_some());
        }
        assert!(valve.pass(1, "a", "last".into(), start).is_none());
        assert!(valve.release(start).is_empty());
        let told = valve.release(start + PERIOD);
        assert_eq!(told, [Told { snid: 1, kind: "a", message: "last".into(), count: 1 }]);
        assert!(valve.release(start + 2 * PERIOD).is_empty() && valve.0.is_empty());
    }
}
