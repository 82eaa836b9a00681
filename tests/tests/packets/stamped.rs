//! What leaves: the label on it, and the packets that may not go. A run of a single program gives
//! a packet to a socket that no hook has seen: it has the node's default ScID.

use anyhow::{Context as _, Result, ensure};
use sigil_common::abi::name;
use sigil_common::label::Label;
use sigil_common::verdict::DropReason;
use sigil_common::wire::option::{AuthTag, LabelOption};
use sigil_tests::packet::{ETHERNET, OPTIONS, Packet, Proof, Stamp, ethernet};

use crate::*;

const SENDER: Label = Label { snid: HERE, scid: WEB };
/// The ports of zones on node 2, see the policy.
const TO_APP: u16 = 2000;
const TO_SECRET: u16 = 5000;
const TO_BARE: u16 = 6000;
const TO_CLOSED: u16 = 7000;
const TO_BANNED: u16 = 8000;

impl Node {
    fn sends(&self, packet: &Packet) -> Result<Vec<u8>> {
        let outcome = self.kernel.judge(name::TC_STAMP, &packet.frame()?, Skb::default())?;
        ensure!(outcome.dropped.is_none(), "{:?}", outcome.dropped);
        Ok(outcome.frame)
    }

    fn keeps_back(&self, packet: &Packet, reason: DropReason) -> Result<()> {
        self.refuses(name::TC_STAMP, &packet.frame()?, reason)
    }
}

fn auth(frame: &[u8]) -> Result<AuthTag> {
    let option = frame.get(OPTIONS..OPTIONS + 40).context("a short frame")?;
    LabelOption::parse(option)?.auth.context("no proof")
}

/// Byte for byte what user space makes of it, for every suite and with rising numbers.
#[test]
fn packets_of_every_suite_and_protection() -> Result<()> {
    for start in 0..EPOCHS.len() {
        let mut epochs = EPOCHS;
        epochs.rotate_left(start);
        let (key_id, suite) = epochs[0];
        let node = Node::stamping_with(&epochs)?;
        let mut seq = 1;
        for size in [0, 1, 24, 63, 64, 1400] {
            let data = vec![0x33; size];
            for (port, covered) in [(TO_APP, false), (TO_SECRET, true)] {
                for packet in
                    [Packet::udp(OUTBOUND, port, &data)?, Packet::tcp(OUTBOUND, port, &data)?]
                {
                    let proof = Proof { suite, key: KEY, key_id, seq, covered, segments: 0 };
                    let expected = packet.stamped(&Stamp::proven(SENDER, proof))?;
                    let frame = node.sends(&packet)?;
                    ensure!(frame == expected, "{suite} {size} {port}: {frame:02x?}");
                    seq += 1;
                }
            }
        }
    }
    Ok(())
}

/// What one node's kernel stamps, another's verifies, and strips to the original.
#[test]
fn the_peers_kernel_verifies() -> Result<()> {
    for (key_id, suite) in EPOCHS {
        let here = Node::stamping_with(&[(key_id, suite)])?;
        let mut there = Kernel::open(THERE)?;
        there.apply(POLICY, THERE)?;
        there.install(&[(key_id, suite)], [HERE, THERE], KEY)?;
        for port in [TO_APP, TO_SECRET, TO_BARE] {
            for program in VERIFIERS {
                let packet = Packet::udp(OUTBOUND, port, b"data")?;
                let frame = here.sends(&packet)?;
                let outcome = there.judge(program, &frame, Skb::default())?;
                assert_eq!((outcome.dropped, outcome.frame), (None, packet.frame()?));
                assert_eq!(there.label_of(mark::handle(outcome.mark))?, SENDER);
            }
        }
    }
    Ok(())
}

#[test]
fn a_label_without_proof_keeps_the_applications_options() -> Result<()> {
    let node = Node::new()?;
    let mut packet = Packet::udp(OUTBOUND, TO_BARE, b"data")?;
    for own in
        [&[][..], &[0x94, 4, 0, 0], &[7, 19, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    {
        packet.ip.options = own.try_into()?;
        let frame = node.sends(&packet)?;
        ensure!(frame == packet.stamped(&Stamp::bare(SENDER))?, "{own:?}: {frame:02x?}");
    }
    Ok(())
}

#[test]
fn options_that_leave_no_room() -> Result<()> {
    let node = Node::new()?;
    let mut packet = Packet::udp(OUTBOUND, TO_APP, b"data")?;
    packet.ip.options = [0x94, 4, 0, 0].into();
    node.keeps_back(&packet, DropReason::OptionSpace)?;
    let mut packet = Packet::udp(OUTBOUND, TO_BARE, b"data")?;
    packet.ip.options = [1; 24].into();
    node.keeps_back(&packet, DropReason::OptionSpace)
}

#[test]
fn a_label_that_an_application_wrote() -> Result<()> {
    let node = Node::new()?;
    let mut packet = Packet::udp(OUTBOUND, TO_BARE, b"data")?;
    let label = packet.stamped(&Stamp::bare(APP))?[OPTIONS..OPTIONS + 20].to_vec();
    let behind_another = [&[0x94, 4, 0, 0][..], &[0x86, 4, 0, 0]].concat();
    let behind_padding = [&[1, 1, 1][..], &[0x86]].concat();
    for own in [label, behind_another, behind_padding] {
        packet.ip.options = own.as_slice().try_into()?;
        node.keeps_back(&packet, DropReason::ForeignOption)?;
    }
    Ok(())
}

#[test]
fn options_whose_lengths_do_not_add_up() -> Result<()> {
    let node = Node::new()?;
    let mut packet = Packet::udp(OUTBOUND, TO_BARE, b"data")?;
    for own in [[0x94, 0, 0, 0], [0x94, 1, 0, 0], [0x94, 5, 0, 0], [1, 1, 1, 0x94]] {
        packet.ip.options = own.into();
        node.keeps_back(&packet, DropReason::BadHeader)?;
    }
    Ok(())
}

#[test]
fn destinations_that_no_rule_allows() -> Result<()> {
    let node = Node::new()?;
    let to = |target: [u8; 4], port| {
        Packet::udp(Route { target: target.into(), ..OUTBOUND }, port, b"data")
    };
    let there = INBOUND.source.octets();
    let cases = [
        (to([10, 99, 0, 1], TO_APP)?, DropReason::NoPeer),
        (to(there, TO_CLOSED)?, DropReason::NoRule),
        (to(there, TO_BANNED)?, DropReason::Denied),
        (to([10, 77, 0, 3], TO_APP)?, DropReason::NoKey),
    ];
    cases.iter().try_for_each(|(packet, reason)| node.keeps_back(packet, *reason))
}

#[test]
fn a_sender_without_scid() -> Result<()> {
    let mut kernel = Kernel::open(HERE)?;
    kernel.apply(&POLICY.replace("<default> web </default>", ""), HERE)?;
    let node = Node { kernel, seq: 0.into() };
    node.keeps_back(&Packet::udp(OUTBOUND, TO_APP, b"data")?, DropReason::NoScid)
}

#[test]
fn nothing_leaves_without_a_policy() -> Result<()> {
    let node = Node { kernel: Kernel::open(HERE)?, seq: 0.into() };
    let packet = Packet::udp(OUTBOUND, TO_APP, b"data")?;
    node.keeps_back(&packet, DropReason::NoPolicy)?;
    node.refuses_packet(&packet, &Stamp::bare(APP), DropReason::NoPolicy)
}

#[test]
fn to_a_host_of_the_perimeter_no_label_goes() -> Result<()> {
    let node = Node::new()?;
    let packet = Packet::udp(Route { target: GATEWAY, ..OUTBOUND }, 53, b"data")?;
    assert_eq!(node.sends(&packet)?, packet.frame()?);
    Ok(())
}

#[test]
fn frames_that_are_no_ipv4_packet() -> Result<()> {
    let node = Node::new()?;
    let packet = Packet::udp(OUTBOUND, TO_APP, b"data")?.frame()?;
    let ipv6 = [ethernet(0x86dd).as_slice(), &[0x60; 40]].concat();
    let other = [ethernet(0x88cc).as_slice(), &[0; 40]].concat();
    let mut long = packet.clone();
    long[ETHERNET + 2] = 0x7f;
    node.refuses(name::TC_STAMP, &ipv6, DropReason::Ipv6)?;
    node.refuses(name::TC_STAMP, &other, DropReason::EtherType)?;
    node.refuses(name::TC_STAMP, &long, DropReason::BadHeader)?;
    let arp = [ethernet(0x0806).as_slice(), &[0x42; 28]].concat();
    assert_eq!(node.kernel.judge(name::TC_STAMP, &arp, Skb::default())?.frame, arp);
    Ok(())
}

/// The last number goes out; after it, nothing under this key ever does.
#[test]
fn numbers_that_are_used_up() -> Result<()> {
    let node = Node::new()?;
    node.kernel.exhaust_keys(3)?;
    let packet = Packet::udp(OUTBOUND, TO_APP, b"data")?;
    for seq in [1, 2] {
        assert_eq!(auth(&node.sends(&packet)?)?.seq_low, seq);
    }
    for _ in 0..3 {
        node.keeps_back(&packet, DropReason::KeyExhausted)?;
    }
    // What needs no number still goes.
    node.sends(&Packet::udp(OUTBOUND, TO_BARE, b"data")?)?;
    Ok(())
}

#[test]
fn super_frames_that_no_label_serves() -> Result<()> {
    let node = Node::new()?;
    let run = |port, gso_segs| {
        let skb = Skb { gso_size: 100, gso_segs, ..Skb::default() };
        let frame = Packet::tcp(OUTBOUND, port, &[1; 1000])?.frame()?;
        anyhow::Ok(node.kernel.judge(name::TC_STAMP, &frame, skb)?.dropped)
    };
    assert_eq!(run(TO_APP, 128)?, Some(DropReason::SuperFrame));
    assert_eq!(run(TO_APP, 0)?, Some(DropReason::SuperFrame));
    assert_eq!(run(TO_SECRET, 10)?, Some(DropReason::SuperFrame));
    Ok(())
}

/// Loopback, where the test runs, has an MTU of 65,536. What fits is refused after that: the kernel
/// knows no type of this super-frame, and lengthens none.
#[test]
fn segments_that_a_label_makes_too_long() -> Result<()> {
    const HEADERS: u32 = 20 + 20 + 40;
    let node = Node::new()?;
    let run = |gso_size| {
        let skb = Skb { gso_size, gso_segs: 2, ..Skb::default() };
        let frame = Packet::tcp(OUTBOUND, TO_APP, &[1; 2000])?.frame()?;
        anyhow::Ok(node.kernel.judge(name::TC_STAMP, &frame, skb)?.dropped)
    };
    assert_eq!(run(65_536 - HEADERS)?, Some(DropReason::Resize));
    assert_eq!(run(65_536 - HEADERS + 1)?, Some(DropReason::TooBig));
    Ok(())
}
