//! Super-frames: one stamp for all segments, of which each is accepted once.

use anyhow::{Result, ensure};
use sigil_common::abi::name;
use sigil_common::verdict::DropReason;
use sigil_tests::packet::{Packet, Proof, Stamp};

use crate::*;

/// The segments as an interface cuts them: the option copied, the IP id rising by one.
struct SuperFrame {
    first: u64,
    stamp: Stamp,
}

impl SuperFrame {
    fn new(node: &Node, first: u64, segments: u8) -> Self {
        let proof = Proof { seq: first, segments, ..node.proof() };
        Self { first, stamp: Stamp::proven(APP, proof) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the IP id is the low half")]
    fn segment(&self, k: u64) -> Result<Packet> {
        let mut packet = Packet::tcp(INBOUND, 4000, &[3; 100][..100 - usize::try_from(k % 7)?])?;
        packet.ip.identification = (self.first + k) as u16;
        Ok(packet)
    }

    fn frame(&self, k: u64) -> Result<Vec<u8>> {
        self.segment(k)?.stamped(&self.stamp)
    }
}

/// Numbers of which the low half, and the IP id, wrap within the super-frame.
const FIRSTS: [u64; 4] = [1, 0xfff0, 0xffff_fff0, 0x1_0000_fff0];

#[test]
fn every_segment_arrives_once_and_no_other_does() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        for (first, segments) in FIRSTS.into_iter().zip([2_u8, 44, 127, 126]) {
            let whole = SuperFrame::new(&node, first, segments);
            for k in (0..u64::from(segments)).rev() {
                node.accepts(program, &whole.segment(k)?, &whole.stamp)?;
            }
            for k in 0..u64::from(segments) {
                node.refuses(program, &whole.frame(k)?, DropReason::Replay)?;
            }
            for k in [u64::from(segments), 127, 128, 0x8000, 0xffff] {
                node.refuses(program, &whole.frame(k)?, DropReason::BadSegment)?;
            }
        }
    }
    Ok(())
}

/// A segment takes its own number, not its neighbours'.
#[test]
fn a_segment_and_a_packet_of_the_same_number_are_one() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        let whole = SuperFrame::new(&node, 100, 10);
        node.accepts(program, &whole.segment(4)?, &whole.stamp)?;
        let single = |seq| Stamp::proven(APP, Proof { seq, ..node.proof() });
        let packet = Packet::udp(INBOUND, 4000, b"data")?;
        node.refuses(program, &packet.stamped(&single(104))?, DropReason::Replay)?;
        for seq in [103, 105] {
            node.accepts(program, &packet, &single(seq))?;
        }
        node.refuses(program, &whole.frame(3)?, DropReason::Replay)?;
        node.accepts(program, &whole.segment(0)?, &whole.stamp)?;
    }
    Ok(())
}

/// The count of segments is covered: it cannot be raised to make room for more.
#[test]
fn the_count_is_covered() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        let whole = SuperFrame::new(&node, 100, 10);
        let mut frame = whole.frame(12)?;
        frame[sigil_tests::packet::OPTIONS + 23] = 20;
        node.refuses(program, &frame, DropReason::BadIcv)?;
        let forged = SuperFrame { stamp: node.stamp(APP), ..whole };
        node.accepts(program, &forged.segment(0)?, &forged.stamp)?;
    }
    Ok(())
}

/// Where one segment was proven, its neighbours need no proof of their own; whatever differs from it
/// does. A key of the same id is another key.
#[test]
fn a_segment_proves_its_neighbours_and_nothing_else() -> Result<()> {
    for program in VERIFIERS {
        for (key_id, suite) in EPOCHS {
            let mut node = Node::new()?;
            let proof = Proof { suite, key_id, ..node.proof() };
            let first = 100;
            let stamp = Stamp::proven(APP, Proof { seq: first, segments: 40, ..proof });
            let whole = SuperFrame { first, stamp };
            node.accepts(program, &whole.segment(0)?, &whole.stamp)?;
            for k in 1..10 {
                for at in covered_bytes() {
                    let mut frame = whole.frame(k)?;
                    frame[at] ^= 1;
                    let outcome = node.kernel.judge(program, &frame, Skb::default())?;
                    ensure!(outcome.dropped.is_some(), "{program}: byte {at} of segment {k}");
                }
                node.accepts(program, &whole.segment(k)?, &whole.stamp)?;
            }
            node.kernel.install(&[(key_id, suite)], [HERE, THERE], [0x52; 32])?;
            for k in 0..20 {
                node.refuses(program, &whole.frame(k)?, DropReason::BadIcv)?;
            }
        }
    }
    Ok(())
}

/// Addresses, the whole option, ports.
fn covered_bytes() -> impl Iterator<Item = usize> {
    use sigil_tests::packet::OPTIONS;
    (OPTIONS - 8..OPTIONS + 40).chain(OPTIONS + 40..OPTIONS + 44)
}

/// At TC a super-frame may arrive whole, and takes all its numbers. That it then cannot lose its
/// option is the harness's doing: a run of a single program knows no kind of super-frame.
#[test]
fn a_super_frame_that_was_never_cut() -> Result<()> {
    let node = Node::new()?;
    let uncut = Skb { gso_size: 100, gso_segs: 10, ..Skb::default() };
    let whole = SuperFrame::new(&node, 100, 10);
    let run = |reason| {
        let outcome = node.kernel.judge(name::TC_VERIFY, &whole.frame(0)?, uncut)?;
        ensure!(outcome.dropped == Some(reason), "{:?}", outcome.dropped);
        Ok(())
    };
    run(DropReason::Resize)?;
    run(DropReason::Replay)?;
    for k in 0..10 {
        node.refuses(name::TC_VERIFY, &whole.frame(k)?, DropReason::Replay)?;
    }
    let packet = Packet::udp(INBOUND, 4000, b"data")?;
    for seq in [99, 110] {
        let stamp = Stamp::proven(APP, Proof { seq, ..node.proof() });
        node.accepts(name::TC_VERIFY, &packet, &stamp)?;
    }
    Ok(())
}

#[test]
fn a_super_frame_that_announces_none() -> Result<()> {
    let node = Node::new()?;
    let uncut = Skb { gso_size: 100, gso_segs: 10, ..Skb::default() };
    let packet = Packet::tcp(INBOUND, 4000, &[1; 1000])?;
    let outcome = node.kernel.judge(name::TC_VERIFY, &packet.stamped(&node.stamp(APP))?, uncut)?;
    ensure!(outcome.dropped == Some(DropReason::BadSegment), "{:?}", outcome.dropped);
    Ok(())
}
