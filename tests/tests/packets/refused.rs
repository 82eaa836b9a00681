//! What a verifier drops, one packet for every reason that it has.

use anyhow::{Result, ensure};
use etherparse::IpNumber;
use sigil_common::icv::Suite;
use sigil_common::label::Label;
use sigil_common::verdict::{DropReason, Hook};
use sigil_tests::packet::{ETHERNET, OPTIONS, Packet, Proof, Stamp, ethernet};

use crate::*;

fn datagram() -> Result<Packet> {
    Packet::udp(INBOUND, 4000, b"data")
}

#[test]
fn frames_that_are_no_ipv4_packet() -> Result<()> {
    let node = Node::new()?;
    let whole = datagram()?.stamped(&node.stamp(APP))?;
    let with = |at: usize, byte: u8| {
        let mut frame = whole.clone();
        frame[at] = byte;
        frame
    };
    let cases = [
        (whole[..OPTIONS].to_vec(), DropReason::BadHeader),
        (whole[..whole.len() - 1].to_vec(), DropReason::BadHeader),
        (with(ETHERNET, 0x5f), DropReason::BadHeader),
        (with(ETHERNET, 0x44), DropReason::BadHeader),
        (with(ETHERNET + 3, 59), DropReason::BadHeader),
        (with(12, 0x81), DropReason::EtherType),
        ([ethernet(0x8100).as_slice(), &whole].concat(), DropReason::EtherType),
        ([ethernet(0x86dd).as_slice(), &[0x60; 40]].concat(), DropReason::Ipv6),
    ];
    for (program, (frame, reason)) in
        VERIFIERS.iter().flat_map(|program| cases.iter().map(move |case| (program, case)))
    {
        node.refuses(program, frame, *reason)?;
    }
    // The kernel runs no TC program on so little.
    node.refuses(name::XDP_VERIFY, &whole[..ETHERNET], DropReason::Truncated)?;
    node.refuses(name::XDP_VERIFY, &whole[..OPTIONS - 1], DropReason::Truncated)
}

#[test]
fn packets_without_a_label() -> Result<()> {
    let node = Node::new()?;
    let plain = datagram()?;
    let stranger = Packet::udp(Route { source: [10, 99, 0, 1].into(), ..INBOUND }, 4000, b"data")?;
    let mut other_option = datagram()?;
    other_option.ip.options = [0x94, 4, 0, 0].into();
    // The label is the first option, or it is none.
    let mut late = datagram()?.stamped(&Stamp::bare(APP))?;
    late[OPTIONS..OPTIONS + 20].rotate_right(1);
    late[OPTIONS] = 1;
    for program in VERIFIERS {
        for frame in [plain.frame()?, stranger.frame()?, other_option.frame()?, late.clone()] {
            node.refuses(program, &frame, DropReason::Unlabelled)?;
        }
    }
    Ok(())
}

#[test]
fn options_that_are_no_label() -> Result<()> {
    let node = Node::new()?;
    let bytes = [
        (1, 39, "length"),
        (1, 20, "length of a label-only option"),
        (6, 1, "tag"),
        (7, 33, "tag length"),
        (8, 4, "ScID's TLV"),
        (9, 7, "ScID's length"),
        (14, 5, "SnID's TLV"),
        (15, 5, "SnID's length"),
        (20, 8, "authentication's TLV"),
        (21, 19, "authentication's length"),
        (23, 1, "a super-frame of one segment"),
    ];
    let words = [(2, "DOI"), (10, "ScID"), (16, "SnID")];
    for program in VERIFIERS {
        for (at, byte, _) in bytes {
            let mut frame = datagram()?.stamped(&node.stamp(APP))?;
            frame[OPTIONS + at] = byte;
            node.refuses(program, &frame, DropReason::BadOption)?;
        }
        for (at, _) in words {
            let mut frame = datagram()?.stamped(&node.stamp(APP))?;
            frame[OPTIONS + at..OPTIONS + at + 4].fill(0);
            node.refuses(program, &frame, DropReason::BadOption)?;
        }
        // An option longer than the header it stands in.
        let mut frame = datagram()?.stamped(&Stamp::bare(APP))?;
        (frame[OPTIONS + 1], frame[OPTIONS + 7]) = (40, 34);
        node.refuses(program, &frame, DropReason::BadOption)?;
    }
    Ok(())
}

#[test]
fn labels_that_are_not_the_senders() -> Result<()> {
    let node = Node::new()?;
    let own = Label { snid: HERE, scid: WEB };
    let nobody = Label { snid: 77, scid: 10 };
    let another = Label { snid: 3, scid: 20 };
    let from =
        |source: [u8; 4]| Packet::udp(Route { source: source.into(), ..INBOUND }, 4000, b"data");
    let cases = [
        (INBOUND.source.octets(), own, DropReason::UnknownNode),
        (INBOUND.target.octets(), own, DropReason::UnknownNode),
        ([10, 99, 0, 1], nobody, DropReason::UnknownNode),
        (GATEWAY.octets(), OUTSIDE, DropReason::UnknownNode),
        (INBOUND.source.octets(), nobody, DropReason::AddressMismatch),
        (INBOUND.source.octets(), another, DropReason::AddressMismatch),
        ([10, 77, 0, 3], APP, DropReason::AddressMismatch),
        ([10, 77, 0, 3], CLOSED, DropReason::AddressMismatch),
        ([10, 99, 0, 1], APP, DropReason::AddressMismatch),
        (GATEWAY.octets(), APP, DropReason::AddressMismatch),
        ([0, 0, 0, 0], APP, DropReason::AddressMismatch),
    ];
    for (source, label, reason) in cases {
        node.refuses_packet(&from(source)?, &Stamp::bare(label), reason)?;
        node.refuses_packet(&from(source)?, &node.stamp(label), reason)?;
    }
    let doi = [0x10, 0, 0x10, 1];
    node.refuses_packet(&datagram()?, &Stamp { doi, ..Stamp::bare(APP) }, DropReason::BadDoi)?;
    node.refuses_packet(&datagram()?, &Stamp { doi, ..node.stamp(APP) }, DropReason::BadDoi)
}

#[test]
fn keys_that_are_not_held() -> Result<()> {
    let node = Node::new()?;
    // 4 shares no slot with an epoch in force, 7 does.
    for key_id in [0, 4, 7, 255] {
        let proof = Proof { key_id, ..node.proof() };
        node.refuses_packet(&datagram()?, &Stamp::proven(APP, proof), DropReason::UnknownKey)?;
    }
    let keyless = Packet::udp(Route { source: [10, 77, 0, 3].into(), ..INBOUND }, 4000, b"data")?;
    let label = Label { snid: 3, scid: 20 };
    node.refuses_packet(&keyless, &node.stamp(label), DropReason::UnknownKey)
}

/// Whatever the ICV binds, changed in one bit; and every bit of the ICV itself.
#[test]
fn whatever_the_icv_covers() -> Result<()> {
    let node = Node::new()?;
    let mut runs = 0;
    let option = OPTIONS;
    let transport = ETHERNET + 60;
    let fields = [
        (ETHERNET + 4, "IP id"),
        (ETHERNET + 9, "protocol"),
        (ETHERNET + 19, "destination"),
        (option + 13, "ScID"),
        (transport, "source port"),
        (transport + 3, "destination port"),
    ];
    for program in VERIFIERS {
        for (key_id, suite) in EPOCHS {
            for covered in [false, true] {
                let proof = Proof { suite, key_id, covered, ..node.proof() };
                let packet = Packet::tcp(INBOUND, 4000, b"data")?;
                let frame = packet.stamped(&Stamp::proven(APP, proof))?;
                let icv = (option + 28..option + 40).map(|at| (at, "ICV"));
                for (at, what) in fields.into_iter().chain(icv) {
                    for bit in 0..8 {
                        let mut forged = frame.clone();
                        forged[at] ^= 1 << bit;
                        let (passed, ..) = node.kernel.run(program, &forged, Skb::default())?;
                        ensure!(!passed, "{program}, {suite}: {what}, bit {bit}");
                        runs += 1;
                    }
                }
                // None of these has used the packet's number up.
                node.accepts(program, &packet, &Stamp::proven(APP, proof))?;
            }
        }
    }
    let row = node.kernel.row(Hook::Ingress)?;
    ensure!(row.dropped.contains(&(DropReason::BadIcv, runs)), "{runs} forged, {row:?}");
    Ok(())
}

#[test]
fn a_covered_payload() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        for (key_id, suite) in EPOCHS {
            let proof = Proof { suite, key_id, covered: true, ..node.proof() };
            let packet = Packet::udp(INBOUND, 4000, &[7; 300])?;
            let frame = packet.stamped(&Stamp::proven(APP, proof))?;
            let payload = ETHERNET + 60..frame.len();
            for at in payload.filter(|at| ![6, 7].contains(&(at - ETHERNET - 60))) {
                let mut forged = frame.clone();
                forged[at] ^= 0x40;
                node.refuses(program, &forged, DropReason::BadIcv)?;
            }
            // The flag itself is covered: the payload cannot be set free.
            let mut forged = frame.clone();
            forged[OPTIONS + 23] ^= 0x80;
            node.refuses(program, &forged, DropReason::BadIcv)?;
            node.accepts(program, &packet, &Stamp::proven(APP, proof))?;
        }
    }
    Ok(())
}

#[test]
fn icvs_of_another_key_or_suite() -> Result<()> {
    let node = Node::new()?;
    let other_key = Proof { key: [9; 32], ..node.proof() };
    let other_suite = Proof { suite: Suite::Blake3, ..node.proof() };
    let other_seq = Proof { seq: 1 << 32, ..node.proof() };
    for proof in [other_key, other_suite, other_seq] {
        node.refuses_packet(&datagram()?, &Stamp::proven(APP, proof), DropReason::BadIcv)?;
    }
    Ok(())
}

#[test]
fn labels_without_a_rule() -> Result<()> {
    let node = Node::new()?;
    node.refuses_packet(&datagram()?, &Stamp::bare(CLOSED), DropReason::NoRule)?;
    for program in VERIFIERS {
        // It is judged only when it is true: forged or merely not allowed are two things.
        let stamp = node.stamp(CLOSED);
        node.refuses(program, &datagram()?.stamped(&stamp)?, DropReason::NoRule)?;
        node.refuses(program, &datagram()?.stamped(&stamp)?, DropReason::Replay)?;
        let forged = Stamp::proven(CLOSED, Proof { key: [9; 32], ..node.proof() });
        node.refuses(program, &datagram()?.stamped(&forged)?, DropReason::BadIcv)?;
    }
    Ok(())
}

#[test]
fn what_the_kernel_itself_would_take() -> Result<()> {
    let node = Node::new()?;
    let gre = Packet::new(INBOUND, IpNumber::GRE, vec![0; 8])?;
    for program in VERIFIERS {
        for kind in [8, 13, 15, 17, 9, 10, 42] {
            let packet = Packet::icmp(INBOUND, kind, 0)?;
            node.refuses(program, &packet.stamped(&node.stamp(APP))?, DropReason::NoRule)?;
        }
        node.refuses(program, &gre.stamped(&node.stamp(APP))?, DropReason::NoRule)?;
        node.refuses(program, &gre.stamped(&node.stamp(KERNEL))?, DropReason::NoRule)?;
        // A process must not tell this node where its routes lead, not even one that may ping it.
        for kind in [3, 4, 5, 11, 12] {
            let packet = Packet::icmp(INBOUND, kind, 1)?;
            for label in [APP, ADMIN] {
                node.refuses(program, &packet.stamped(&node.stamp(label))?, DropReason::NoRule)?;
            }
            let forged = packet.stamped(&Stamp::bare(KERNEL))?;
            node.refuses(program, &forged, DropReason::Protection)?;
        }
        let outside = Packet::icmp(Route { source: GATEWAY, ..INBOUND }, 5, 1)?;
        node.refuses(program, &outside.frame()?, DropReason::NoRule)?;
    }
    Ok(())
}

#[test]
fn less_protection_than_the_zones_ask_for() -> Result<()> {
    let node = Node::new()?;
    let ping = Packet::icmp(INBOUND, 8, 0)?;
    for program in VERIFIERS {
        let weak = [Stamp::bare(ADMIN), Stamp::bare(SECRET), node.stamp(SECRET)];
        for stamp in weak {
            node.refuses(program, &ping.stamped(&stamp)?, DropReason::Protection)?;
        }
    }
    Ok(())
}

/// No zone slips a piece into another's datagram.
#[test]
fn a_fragment_of_another_sender() -> Result<()> {
    let node = Node::new()?;
    for (program, id) in VERIFIERS.iter().zip(1..) {
        let (first, last) = pieces(id)?;
        node.accepts(program, &first, &node.stamp(APP))?;
        let foreign = last.stamped(&node.stamp(BARE))?;
        node.refuses(program, &foreign, DropReason::FragmentMismatch)?;
        node.accepts(program, &last, &node.stamp(APP))?;
    }
    Ok(())
}

/// Nor does anybody who has no key: a datagram counts as protected as its first piece.
/// It could do nothing in any conversation of this label, and much harm in the stack.
#[test]
fn less_protection_than_any_conversation_asks_for() -> Result<()> {
    let node = Node::new()?;
    let packet = Packet::udp(INBOUND, 4000, b"data")?;
    for program in VERIFIERS {
        for weak in [Stamp::bare(APP), Stamp::bare(KERNEL), node.stamp(SECRET)] {
            node.refuses(program, &packet.stamped(&weak)?, DropReason::Protection)?;
        }
    }
    Ok(())
}

#[test]
fn a_fragment_with_less_protection_than_the_first() -> Result<()> {
    let node = Node::new()?;
    let covered = || Stamp::proven(SECRET, Proof { covered: true, ..node.proof() });
    for (program, id) in VERIFIERS.iter().zip([10, 20]) {
        let (first, last) = pieces(id)?;
        node.accepts(program, &first, &covered())?;
        for weaker in [Stamp::bare(SECRET), node.stamp(SECRET)] {
            node.refuses(program, &last.stamped(&weaker)?, DropReason::Protection)?;
        }
        node.accepts(program, &last, &covered())?;
        // Of a label that may have less, every piece has what the first had.
        let (first, last) = pieces(id + 1)?;
        let covered = || Stamp::proven(BARE, Proof { covered: true, ..node.proof() });
        node.accepts(program, &first, &covered())?;
        for weaker in [Stamp::bare(BARE), node.stamp(BARE)] {
            node.refuses(program, &last.stamped(&weaker)?, DropReason::FragmentMismatch)?;
        }
        // Whichever comes first.
        let (first, last) = pieces(id + 2)?;
        node.accepts(program, &last, &Stamp::bare(BARE))?;
        node.refuses(program, &first.stamped(&covered())?, DropReason::FragmentMismatch)?;
        // More is no harm.
        let (first, last) = pieces(id + 3)?;
        node.accepts(program, &first, &node.stamp(BARE))?;
        node.accepts(program, &last, &covered())?;
        node.accepts(program, &last, &node.stamp(BARE))?;
    }
    Ok(())
}

/// A datagram in two pieces.
fn pieces(id: u16) -> Result<(Packet, Packet)> {
    let mut first = Packet::udp(INBOUND, 4000, &[1; 24])?;
    (first.ip.more_fragments, first.ip.identification) = (true, id);
    let mut last = Packet::new(INBOUND, IpNumber::UDP, vec![2; 3])?;
    last.ip.fragment_offset = etherparse::IpFragOffset::try_new(4)?;
    last.ip.identification = id;
    Ok((first, last))
}
