//! What a verifier lets in: the packet as it was before it got its label, byte for byte.

use anyhow::{Result, ensure};
use etherparse::{IpDscp, IpFragOffset, IpNumber};
use sigil_common::abi::policy::PROTECTION_INTEGRITY;
use sigil_common::icv::Suite;
use sigil_tests::kernel::Skb;
use sigil_tests::packet::{ETHERNET, Packet, Proof, Stamp, ethernet, repair_checksum};

use crate::*;

/// Sizes of payload around the MACs' blocks.
const SIZES: [usize; 6] = [0, 1, 24, 63, 64, 1400];

fn every_protocol(size: usize) -> Result<[Packet; 4]> {
    let data: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
    Ok([
        Packet::udp(INBOUND, 4000, &data)?,
        Packet::tcp(INBOUND, 4000, &data)?,
        Packet::icmp(INBOUND, 0, 0)?,
        Packet::new(INBOUND, IpNumber::SCTP, data)?,
    ])
}

#[test]
fn a_labelled_packet_of_every_suite_protection_and_protocol() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        for packet in SIZES.map(every_protocol).into_iter().collect::<Result<Vec<_>>>()?.concat() {
            node.accepts(program, &packet, &Stamp::bare(BARE))?;
            for (key_id, suite) in EPOCHS {
                for covered in [false, true] {
                    let proof = Proof { suite, key_id, covered, ..node.proof() };
                    node.accepts(program, &packet, &Stamp::proven(APP, proof))?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn any_address_of_the_node_is_its_own() -> Result<()> {
    let node = Node::new()?;
    let route = Route { source: [10, 78, 0, 2].into(), ..INBOUND };
    for program in VERIFIERS {
        node.accepts(program, &Packet::udp(route, 4000, b"data")?, &node.stamp(APP))?;
    }
    Ok(())
}

/// What the network may change is not covered; that, and nothing else, arrives changed.
#[test]
fn what_routers_change() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        for covered in [false, true] {
            let proof = Proof { covered, ..node.proof() };
            let mut packet = Packet::udp(INBOUND, 4000, b"data")?;
            let frame = packet.stamped(&Stamp::proven(APP, proof))?;
            let mut changed = frame.clone();
            changed[ETHERNET + 1] = 0xb8 | 1;
            changed[ETHERNET + 8] = 9;
            changed[ETHERNET + 6] |= 0x40;
            repair_checksum(&mut changed);
            packet.ip.dscp = IpDscp::EF;
            packet.ip.ecn = etherparse::IpEcn::ONE;
            packet.ip.time_to_live = 9;
            packet.ip.dont_fragment = true;
            let outcome = node.kernel.judge(program, &changed, Skb::default())?;
            ensure!(outcome.frame == packet.frame()?, "{program}: {:x?}", outcome.frame);
        }
    }
    Ok(())
}

/// The card computes it, after the stamp or before.
#[test]
fn a_transport_checksum_that_is_not_there_yet() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        let field =
            [(Packet::udp(INBOUND, 4000, b"data")?, 6), (Packet::tcp(INBOUND, 4000, b"data")?, 16)];
        for (mut packet, at) in field {
            let stamp = Stamp::proven(APP, Proof { covered: true, ..node.proof() });
            let mut frame = packet.stamped(&stamp)?;
            for byte in 0..2 {
                frame[ETHERNET + 60 + at + byte] ^= 0xa5;
                packet.payload[at + byte] ^= 0xa5;
            }
            let outcome = node.kernel.judge(program, &frame, Skb::default())?;
            ensure!(outcome.frame == packet.frame()?, "{program}: {:?}", outcome.dropped);
        }
    }
    Ok(())
}

/// A wrong header checksum stays as wrong as it was: the stack is to see it.
#[test]
fn an_error_in_the_header_checksum_stays() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        let packet = Packet::udp(INBOUND, 4000, b"data")?;
        let mut frame = packet.stamped(&node.stamp(APP))?;
        frame[ETHERNET + 10] ^= 0x10;
        let outcome = node.kernel.judge(program, &frame, Skb::default())?;
        ensure!(outcome.dropped.is_none(), "{program}: {:?}", outcome.dropped);
        let (mut repaired, mut original) = (outcome.frame.clone(), packet.frame()?);
        ensure!(outcome.frame != original, "{program} repaired the checksum");
        repair_checksum(&mut repaired);
        repair_checksum(&mut original);
        ensure!(repaired == original, "{program}: {:x?}", outcome.frame);
    }
    Ok(())
}

#[test]
fn an_applications_own_options_stay() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        let mut packet = Packet::udp(INBOUND, 4000, b"data")?;
        packet.ip.options = [0x94, 4, 0, 0].into();
        node.accepts(program, &packet, &Stamp::bare(BARE))?;
    }
    Ok(())
}

/// Short frames are padded on the wire.
#[test]
fn padding_behind_the_packet() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        for covered in [false, true] {
            let packet = Packet::udp(INBOUND, 4000, b"")?;
            let stamp = Stamp::proven(APP, Proof { covered, ..node.proof() });
            let padded = [packet.stamped(&stamp)?, vec![0; 18]].concat();
            let outcome = node.kernel.judge(program, &padded, Skb::default())?;
            let original = [packet.frame()?, vec![0; 18]].concat();
            ensure!(outcome.frame == original, "{program}: {:?}", outcome.dropped);
        }
    }
    Ok(())
}

#[test]
fn fragments_of_one_sender() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        for ((key_id, suite), covered) in EPOCHS.into_iter().zip([true, false, true]) {
            let mut first = Packet::udp(INBOUND, 4000, &[1; 24])?;
            first.ip.more_fragments = true;
            let mut last = Packet::new(INBOUND, IpNumber::UDP, vec![2; 3])?;
            last.ip.fragment_offset = IpFragOffset::try_new(4)?;
            for mut piece in [first, last] {
                piece.ip.identification = key_id.into();
                let proof = Proof { suite, key_id, covered, ..node.proof() };
                node.accepts(program, &piece, &Stamp::proven(APP, proof))?;
            }
        }
    }
    Ok(())
}

/// Packets that are never cut into pieces may all have the same IP id.
#[test]
fn whole_datagrams_of_different_senders_do_not_collide() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        for dont_fragment in [true, false] {
            for label in [APP, BARE, ADMIN] {
                let mut packet = Packet::udp(INBOUND, 4000, b"data")?;
                (packet.ip.dont_fragment, packet.ip.identification) = (dont_fragment, 0);
                node.accepts(program, &packet, &node.stamp(label))?;
            }
        }
    }
    Ok(())
}

#[test]
fn arp_passes_as_it_is() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        let arp = [ethernet(0x0806).as_slice(), &[0x42; 28]].concat();
        let outcome = node.kernel.judge(program, &arp, Skb { mark: 7, ..Skb::default() })?;
        assert_eq!((outcome.dropped, outcome.frame, outcome.mark), (None, arp, 0));
    }
    Ok(())
}

#[test]
fn a_host_of_the_perimeter_needs_no_label() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        let packet = Packet::udp(Route { source: GATEWAY, ..INBOUND }, 4000, b"data")?;
        let outcome = node.kernel.judge(program, &packet.frame()?, Skb::default())?;
        assert_eq!((outcome.dropped, &outcome.frame), (None, &packet.frame()?));
        node.carries(&outcome, OUTSIDE, PROTECTION_INTEGRITY)?;
    }
    Ok(())
}

#[test]
fn a_ping_that_a_rule_allows() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        let ping = Packet::icmp(INBOUND, 8, 0)?;
        node.accepts(program, &ping, &node.stamp(ADMIN))?;
        let proof = Proof { covered: true, suite: Suite::SipHash24, ..node.proof() };
        node.accepts(program, &ping, &Stamp::proven(SECRET, proof))?;
    }
    Ok(())
}

/// Its kernel speaks for a node that may talk with this one: no rule is needed.
#[test]
fn an_icmp_error_of_the_peers_kernel() -> Result<()> {
    let node = Node::new()?;
    for program in VERIFIERS {
        for kind in [3, 4, 5, 11, 12] {
            node.accepts(program, &Packet::icmp(INBOUND, kind, 1)?, &node.stamp(KERNEL))?;
        }
    }
    Ok(())
}
