//! Labels' handles, by which marks name them.
//!
//! A handle stays with its label while that is in the rules in force. Afterwards packets may still be
//! under way with it, and pieces of a datagram wait: it is another label's only when [`QUARANTINE`] is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sigil_common::label::Label;

use crate::error::Error;

/// Twice as long as the kernel waits for the rest of a datagram, longer than anything is queued.
const QUARANTINE: Duration = Duration::from_mins(1);

/// The labels that have a handle, as `HANDLES` holds them.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    of: BTreeMap<Label, u32>,
    /// The highest that was ever given out; 0 is none.
    last: u32,
    /// Since when a label is in no rules in force.
    left: BTreeMap<Label, Instant>,
}

impl Handles {
    /// Takes note of what the map holds, one by one in their order.
    pub(crate) fn held(&mut self, label: Label) {
        self.last += 1;
        self.of.insert(label, self.last);
    }

    /// A label's handle; 0 for none.
    pub(crate) fn of(&self, label: Label) -> u32 {
        self.of.get(&label).copied().unwrap_or(0)
    }

    /// Which labels are to get which handles below `limit`, for all of them to have one; nothing is
    /// given out by this.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub(crate) fn place(
        &self,
        wanted: &BTreeSet<Label>,
        limit: u32,
        now: Instant,
    ) -> Result<Vec<(u32, Label)>, Error> {
        let new: Vec<_> =
            wanted.iter().copied().filter(|label| !self.of.contains_key(label)).collect();
        let is_over = |since: &Instant| now.saturating_duration_since(*since) >= QUARANTINE;
        let left = self.left.iter();
        let left = left.filter(|(label, since)| !wanted.contains(label) && is_over(since));
        let left = left.filter_map(|(label, _)| self.of.get(label)).copied();
        let places: Vec<_> = left.chain(self.last + 1..limit).zip(new.iter().copied()).collect();
        if places.len() < new.len() {
            let needed = limit as usize + new.len() - places.len();
            return Err(Error::Limit { what: "handles", needed, limit });
        }
        Ok(places)
    }

    /// Gives a label a handle that [`Self::place`] found, once the map says so.
    pub(crate) fn give(&mut self, handle: u32, label: Label) {
        if handle > self.last {
            self.last = handle;
        } else if let Some(former) = self.of.iter().find(|(_, held)| **held == handle) {
            let former = *former.0;
            self.of.remove(&former);
            self.left.remove(&former);
        }
        self.of.insert(label, handle);
    }

    /// Takes note of the labels in the rules that are in force from now on.
    pub(crate) fn in_force(&mut self, wanted: &BTreeSet<Label>, now: Instant) {
        self.left.retain(|label, _| !wanted.contains(label));
        for label in self.of.keys().filter(|label| !wanted.contains(label)) {
            self.left.entry(*label).or_insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scids: std::ops::Range<u32>) -> BTreeSet<Label> {
        scids.map(|scid| Label { snid: 1, scid }).collect()
    }

    fn all(handles: &mut Handles, wanted: &BTreeSet<Label>, now: Instant) -> Option<Vec<u32>> {
        let given = handles.place(wanted, 5, now).ok()?;
        for (handle, label) in &given {
            handles.give(*handle, *label);
        }
        Some(given.into_iter().map(|(handle, _)| handle).collect())
    }

    #[test]
    fn a_handle_is_anothers_only_when_nothing_can_carry_it_any_more() {
        let mut handles = Handles::default();
        let began = Instant::now();
        assert_eq!(all(&mut handles, &labels(1..4), began), Some(vec![1, 2, 3]));
        handles.in_force(&labels(1..4), began);
        handles.in_force(&labels(3..4), began);
        // One is left, and the labels that went keep theirs.
        assert_eq!(all(&mut handles, &labels(3..7), began), None);
        assert_eq!(handles.of(Label { snid: 1, scid: 1 }), 1);
        let given = all(&mut handles, &labels(3..7), began + QUARANTINE);
        assert_eq!(given, Some(vec![1, 2, 4]));
        assert_eq!(handles.of(Label { snid: 1, scid: 1 }), 0);
        assert_eq!(handles.of(Label { snid: 1, scid: 3 }), 3);
    }

    #[test]
    fn a_label_that_comes_back_has_the_handle_it_had() {
        let mut handles = Handles::default();
        let began = Instant::now();
        all(&mut handles, &labels(1..5), began).unwrap();
        handles.in_force(&labels(1..2), began);
        assert_eq!(all(&mut handles, &labels(1..5), began + QUARANTINE), Some(vec![]));
        handles.in_force(&labels(1..5), began);
        assert_eq!(all(&mut handles, &labels(1..6), began + 2 * QUARANTINE), None);
    }
}
