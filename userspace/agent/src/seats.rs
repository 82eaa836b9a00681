//! How many clients are served at once. No user takes another's place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sigil_control::{MAX_REQUEST, MAX_SMALL_REQUEST};

/// Whom a client counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Guest {
    Root,
    /// A user of some `[[run]]`.
    Listed(u32),
    /// Anybody else: served with refusals, few at a time.
    Stranger,
}

impl Guest {
    /// A process that is confined to a zone counts as nobody, for nothing is granted to it: else one
    /// with root's uid could take root's places, and the memory that root's requests may.
    pub(crate) const fn of(uid: u32, listed: bool, free: bool) -> Self {
        match uid {
            _ if !free => Self::Stranger,
            0 => Self::Root,
            uid if listed => Self::Listed(uid),
            _ => Self::Stranger,
        }
    }

    /// The longest request that is read of such a guest, in bytes.
    pub(crate) const fn longest(self) -> usize {
        match self {
            Self::Root => MAX_REQUEST,
            Self::Listed(_) | Self::Stranger => MAX_SMALL_REQUEST,
        }
    }

    const fn most(self) -> usize {
        match self {
            Self::Root => 64,
            Self::Listed(_) => 8,
            Self::Stranger => 4,
        }
    }
}

type Taken = Arc<Mutex<BTreeMap<Guest, usize>>>;

/// The seats that are taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seats(Taken);

/// One seat, free again on drop.
#[derive(Debug)]
pub(crate) struct Seat {
    taken: Taken,
    guest: Guest,
}

impl Seats {
    /// A seat, if one is free for such a guest.
    pub(crate) fn take(&self, guest: Guest) -> Option<Seat> {
        let mut taken = lock(&self.0);
        let count = taken.entry(guest).or_default();
        if *count == guest.most() {
            return None;
        }
        *count += 1;
        Some(Seat { taken: Arc::clone(&self.0), guest })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        match taken.get_mut(&self.guest) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.guest);
            }
        }
    }
}

/// A panic ends the process, so nobody sees a poisoned lock.
fn lock(taken: &Taken) -> MutexGuard<'_, BTreeMap<Guest, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_anothers_seat() {
        let seats = Seats::default();
        let alice = Guest::of(1000, true, true);
        let mut held: Vec<_> = std::iter::from_fn(|| seats.take(alice)).collect();
        assert_eq!(held.len(), alice.most());
        assert!(seats.take(Guest::of(1001, true, true)).is_some());
        assert!(seats.take(Guest::of(0, false, true)).is_some());
        held.pop();
        assert!(seats.take(alice).is_some());
    }

    #[test]
    fn a_confined_root_takes_no_seat_of_roots() {
        let seats = Seats::default();
        let confined = Guest::of(0, true, false);
        let held: Vec<_> = std::iter::from_fn(|| seats.take(confined)).collect();
        assert_eq!(held.len(), Guest::Stranger.most());
        assert!(seats.take(Guest::of(0, false, true)).is_some());
        assert_eq!(confined.longest(), MAX_SMALL_REQUEST);
        assert_eq!(Guest::of(1000, true, false), Guest::Stranger);
    }

    #[test]
    fn strangers_share_theirs() {
        let seats = Seats::default();
        let held: Vec<_> =
            (2000..).map_while(|uid| seats.take(Guest::of(uid, false, true))).collect();
        assert_eq!(held.len(), Guest::Stranger.most());
        drop(held);
        assert!(lock(&seats.0).is_empty());
    }
}
