//! The exact check before a socket, and the hand-over that leads to it. A run of a single program
//! delivers to an unconnected socket that no hook has seen: it has the node's default ScID.

use anyhow::{Result, ensure};
use sigil_common::abi::name;
use sigil_common::verdict::DropReason;
use sigil_tests::packet::{Packet, Proof, Stamp};

use crate::*;

/// A mark that no verifier gave.
const MADE_UP: u32 = 200;

impl Node {
    /// The mark that a verifier gives to packets with this label.
    fn mark(&self, stamp: &Stamp) -> Result<u32> {
        let frame = Packet::udp(INBOUND, 4000, b"data")?.stamped(stamp)?;
        Ok(self.kernel.judge(name::XDP_VERIFY, &frame, Skb::default())?.mark)
    }

    fn delivers(&self, port: u16, mark: u32) -> Result<Option<DropReason>> {
        let frame = Packet::udp(INBOUND, port, b"data")?.frame()?;
        let skb = Skb { mark, ..Skb::default() };
        Ok(self.kernel.judge(name::SKB_DELIVER, &frame, skb)?.dropped)
    }
}

#[test]
fn the_rules_between_the_label_and_the_socket() -> Result<()> {
    let node = Node::new()?;
    let covered = Stamp::proven(SECRET, Proof { covered: true, ..node.proof() });
    let cases = [
        (node.stamp(APP), None),
        (Stamp::bare(BARE), None),
        (covered, None),
        (node.stamp(ADMIN), Some(DropReason::NoRule)),
        (node.stamp(KERNEL), Some(DropReason::NoRule)),
        (node.stamp(BANNED), Some(DropReason::Denied)),
    ];
    for (stamp, dropped) in cases {
        let mark = node.mark(&stamp)?;
        ensure!(mark != 0, "{stamp:?} did not arrive");
        assert_eq!(node.delivers(4000, mark)?, dropped, "{stamp:?}");
    }
    Ok(())
}

/// The verifier lets in what some conversation of the label may be; the socket is more exact.
#[test]
fn less_protection_than_the_two_zones_ask_for() -> Result<()> {
    let node = Node::new()?;
    let covered = Stamp::proven(SECRET, Proof { covered: true, ..node.proof() });
    for (stamp, weaker) in [(node.stamp(APP), PROTECTION_LABEL), (covered, PROTECTION_AUTHENTICATE)]
    {
        let mark = mark::pack(mark::handle(node.mark(&stamp)?), weaker);
        assert_eq!(node.delivers(4000, mark)?, Some(DropReason::Protection), "{stamp:?}");
    }
    Ok(())
}

/// A declared port belongs to its zone, whoever listens on it.
#[test]
fn a_port_of_another_zone() -> Result<()> {
    let node = Node::new()?;
    let mark = node.mark(&node.stamp(APP))?;
    assert_eq!(node.delivers(7000, mark)?, Some(DropReason::NoRule));
    Ok(())
}

#[test]
fn marks_that_no_verifier_gave() -> Result<()> {
    let node = Node::new()?;
    for protection in [PROTECTION_LABEL, PROTECTION_AUTHENTICATE, PROTECTION_INTEGRITY] {
        let made_up = mark::pack(MADE_UP, protection);
        assert_eq!(node.delivers(4000, made_up)?, Some(DropReason::NotVerified));
    }
    // Handle 0 is never given out, whatever protection goes with it.
    let unlabelled = mark::pack(0, PROTECTION_INTEGRITY);
    assert_eq!(node.delivers(4000, unlabelled)?, Some(DropReason::NotVerified));
    Ok(())
}

#[test]
fn a_socket_without_scid_gets_no_labelled_packet() -> Result<()> {
    let mut node = Node::new()?;
    let mark = node.mark(&node.stamp(APP))?;
    let without = POLICY.replace("<default> web </default>", "");
    node.kernel.apply(&without.replace("serial=\"1\"", "serial=\"2\""), HERE)?;
    assert_eq!(node.delivers(4000, mark)?, Some(DropReason::NoScid));
    // What no verifier saw is for sockets that Sigil does not govern, and for no others.
    assert_eq!(node.delivers(4000, 0)?, None);
    Ok(())
}

/// Behind XDP, what has no metadata came past the verifier. Its mark is not believed.
#[test]
fn what_came_past_the_verifier_is_not_handed_over() -> Result<()> {
    let node = Node::new()?;
    let mark = node.mark(&node.stamp(APP))?;
    let frame = Packet::udp(INBOUND, 4000, b"data")?.frame()?;
    let skb = Skb { mark, ..Skb::default() };
    let outcome = node.kernel.judge(name::TC_HANDOVER, &frame, skb)?;
    assert_eq!((outcome.dropped, outcome.mark), (Some(DropReason::NotVerified), 0));
    Ok(())
}
