//! How often a node may have the whole cluster, or the certificate authority, work for it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::state::lock;

/// So often at once.
const BURST: u32 = 8;

/// A few times at once, and then once in a while, for each node by itself.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    nodes: Mutex<HashMap<u32, (u32, Instant)>>,
}

impl Pace {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every: every.max(Duration::from_millis(1)), nodes: Mutex::default() }
    }

    /// May a node once more? Counts it if so.
    pub(crate) fn may(&self, snid: u32, now: Instant) -> bool {
        let mut nodes = lock(&self.nodes);
        let (left, since) = nodes.entry(snid).or_insert((BURST, now));
        let passed = now.saturating_duration_since(*since).as_nanos() / self.every.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed >= BURST - *left {
            (*left, *since) = (BURST, now);
        } else {
            *left += passed;
            *since += self.every * passed;
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_never_rests_is_held_back_and_no_other() {
        let every = Duration::from_mins(1);
        let (pace, began) = (Pace::new(every), Instant::now());
        let count = |snid, at| (0..100).filter(|_| pace.may(snid, at)).count();
        assert_eq!(count(1, began), 8);
        assert_eq!(count(2, began), 8);
        assert_eq!(count(1, began + every / 2), 0);
        assert_eq!(count(1, began + every * 3 / 2), 1, "one for each that passed");
        assert_eq!(count(1, began + every * 2), 1, "and what was left of it counts");
        assert_eq!(count(1, began + every * 1000), 8, "but no more are saved up");
    }
}
