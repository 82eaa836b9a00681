//! A node's alarms as a chain: each holds the hash of the one before. What a node has reported cannot
//! be changed or left out later without a trace, and what never came is seen as a gap.

use prost::Message as _;
use ring::digest::{Context, SHA256};

use crate::proto::NodeAlarm;

/// Length of [`Head::chain`] and of a hash, in bytes.
pub const CHAIN_LEN: usize = 16;
/// Alarms in one report, at most.
pub const REPORT_MAX: usize = 100;

const DOMAIN: &[u8] = b"sigil alarm chain v1\0";

/// The end of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Which chain.
    pub chain: Vec<u8>,
    /// The last alarm's number; 0 for none.
    pub number: u64,
    /// The last alarm's hash; empty for none.
    pub hash: Vec<u8>,
}

/// Where an alarm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was here before.
    Again,
    /// It is the next.
    Next,
    /// So many before it never came.
    Gap(u64),
    /// It is the next by its number, and does not continue what was here before.
    Broken,
}

impl Head {
    /// Where an alarm of this chain stands.
    #[must_use]
    pub fn place(&self, alarm: &NodeAlarm) -> Place {
        match alarm.number.checked_sub(self.number) {
            None | Some(0) => Place::Again,
            Some(1) if alarm.previous == self.hash => Place::Next,
            Some(1) => Place::Broken,
            Some(by) => Place::Gap(by - 1),
        }
    }

    /// Goes on to an alarm.
    pub fn advance(&mut self, alarm: &NodeAlarm) {
        self.number = alarm.number;
        self.hash = hash(&self.chain, alarm);
    }
}

/// An alarm's hash.
#[must_use]
pub fn hash(chain: &[u8], alarm: &NodeAlarm) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(DOMAIN);
    context.update(chain);
    context.update(&alarm.encode_to_vec());
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(count: u64) -> (Head, Vec<NodeAlarm>) {
        let start = Head { chain: vec![7; CHAIN_LEN], ..Head::default() };
        let mut head = start.clone();
        let mut alarms = Vec::new();
        for number in 1..=count {
            let alarm = NodeAlarm {
                number,
                previous: head.hash.clone(),
                count: number,
                ..NodeAlarm::default()
            };
            head.advance(&alarm);
            alarms.push(alarm);
        }
        (start, alarms)
    }

    #[test]
    fn what_came_again_and_what_never_came_is_told() {
        let (mut head, alarms) = chain(5);
        assert_eq!(head.place(&alarms[0]), Place::Next);
        head.advance(&alarms[0]);
        assert_eq!(head.place(&alarms[0]), Place::Again);
        assert_eq!(head.place(&alarms[3]), Place::Gap(2));
        assert_eq!(head.place(&alarms[1]), Place::Next);
    }

    #[test]
    fn a_changed_past_is_found_out() {
        let (mut head, mut alarms) = chain(2);
        alarms[0].count = 9;
        head.advance(&alarms[0]);
        assert_eq!(head.place(&alarms[1]), Place::Broken);
        let mut other = Head { chain: vec![8; CHAIN_LEN], ..Head::default() };
        let (_, alarms) = chain(2);
        other.advance(&alarms[0]);
        assert_eq!(other.place(&alarms[1]), Place::Broken, "of another chain");
    }
}
