//! A million mutations of labelled packets: none is delivered that says anything else than its
//! sender did. Runs through the kernel's programs, so needs root.
#![expect(clippy::indexing_slicing, reason = "a mutation that is out of bounds fails the test")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Result, ensure};
use etherparse::IpNumber;
use sigil_common::abi::name;
use sigil_common::abi::policy::PROTECTION_LABEL;
use sigil_common::abi::rule::mark;
use sigil_common::icv::Suite;
use sigil_common::label::Label;
use sigil_common::verdict::{DropReason, Hook};
use sigil_tests::kernel::{Kernel, Skb};
use sigil_tests::packet::{ETHERNET, OPTIONS, Packet, Proof, Route, Stamp, repair_checksum};
use sigil_tests::random::Random;

const POLICY: &str = r#"<DSP cluster="mutations" serial="1">
  <node><SnID> 1 </SnID><address> 10.77.0.1 </address><default> 10 </default></node>
  <node><SnID> 2 </SnID><address> 10.77.0.2 </address></node>
  <node><SnID> 3 </SnID><address> 10.77.0.3 </address></node>
  <zone><ScID> 10 </ScID></zone>
  <zone><ScID> 20 </ScID></zone>
  <zone><ScID> 21 </ScID></zone>
  <NETWORK_class_rule>
    <sSnID> * </sSnID><sScID> * </sScID><tSnID> 1 </tSnID><tScID> 10 </tScID>
    <allow> RECEIVE </allow>
  </NETWORK_class_rule>
</DSP>"#;
const SENDER: Label = Label { snid: 2, scid: 20 };
const KEY: [u8; 32] = [0x51; 32];
const EPOCHS: [(u8, Suite); 3] =
    [(1, Suite::HmacSha256), (2, Suite::Blake3), (3, Suite::SipHash24)];
/// Mutations of one packet; each packet has a number of its own, so that ICVs are what is judged.
const BATCH: usize = 50;
/// Where the payload of an authenticated packet begins.
const TRANSPORT: usize = ETHERNET + 60;

/// A packet with its label, and what it says.
#[derive(Clone)]
struct Sent {
    frame: Vec<u8>,
    original: Vec<u8>,
    covered: bool,
    segment: bool,
}

impl Sent {
    /// Any suite, protocol and payload; a quarter with the payload covered, a quarter segments.
    fn random(random: &mut Random, seq: u64) -> Result<Self> {
        let route =
            Route { source: Ipv4Addr::new(10, 77, 0, 2), target: Ipv4Addr::new(10, 77, 0, 1) };
        let (key_id, suite) = EPOCHS[random.below(EPOCHS.len())];
        let (covered, segment) = match random.below(4) {
            0 => (true, false),
            1 => (false, true),
            _ => (false, false),
        };
        let data: Vec<u8> = (0..random.below(100)).map(|_| random.byte()).collect();
        let mut packet = match random.below(4) {
            0 => Packet::tcp(route, 4000, &data)?,
            1 => Packet::icmp(route, 0, 0)?,
            2 => Packet::new(route, IpNumber::SCTP, [&[9; 12], data.as_slice()].concat())?,
            _ => Packet::udp(route, 4000, &data)?,
        };
        packet.ip.identification = u16::try_from(seq & 0xffff)?;
        let segments = if segment { 2 } else { 0 };
        let proof = Proof { suite, key: KEY, key_id, seq, covered, segments };
        let frame = packet.stamped(&Stamp::proven(SENDER, proof))?;
        Ok(Self { frame, original: packet.frame()?, covered, segment })
    }

    /// Whether a frame that came through says the same. What the ICV leaves open may differ: the
    /// Ethernet header; TOS, TTL, DF and both checksums; bytes behind the packet; the payload where
    /// it is not covered; length and id of a segment.
    fn says(&self, frame: &[u8]) -> bool {
        self.essence(frame) == self.essence(&self.original)
    }

    fn essence(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let packet = frame.get(ETHERNET..)?;
        let total = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
        let mut packet = packet.get(..total)?.to_vec();
        let (protocol, header) = (*packet.get(9)?, usize::from(packet.first()? & 0x0f) * 4);
        let checksum = match protocol {
            6 => 16..18,
            17 => 6..8,
            132 => 8..12,
            _ => 0..0,
        };
        let open = [1, 8, 10, 11].into_iter().chain(checksum.map(|at| header + at));
        open.for_each(|at| packet.iter_mut().skip(at).take(1).for_each(|byte| *byte = 0));
        *packet.get_mut(6)? &= 0x3f;
        if self.segment {
            packet.get_mut(2..6)?.fill(0);
        }
        if !self.covered {
            packet.truncate(header + 4);
        }
        Some(packet)
    }
}

/// Fields that attackers like: offset and length.
const FIELDS: [(usize, usize); 18] = [
    (12, 2),
    (ETHERNET, 1),
    (ETHERNET + 2, 2),
    (ETHERNET + 4, 2),
    (ETHERNET + 6, 2),
    (ETHERNET + 9, 1),
    (ETHERNET + 12, 4),
    (ETHERNET + 16, 4),
    (OPTIONS + 1, 1),
    (OPTIONS + 7, 1),
    (OPTIONS + 10, 4),
    (OPTIONS + 16, 4),
    (OPTIONS + 22, 1),
    (OPTIONS + 23, 1),
    (OPTIONS + 24, 4),
    (OPTIONS + 28, 4),
    (TRANSPORT, 2),
    (TRANSPORT + 2, 2),
];

/// Values that break boundaries.
const EDGES: [u8; 12] = [0, 1, 2, 14, 20, 21, 34, 40, 60, 0x7f, 0x80, 0xff];

/// Changes a frame; `another` is a packet of the same sender.
fn mutate(random: &mut Random, frame: &mut Vec<u8>, another: &[u8]) {
    for _ in 0..=random.below(3) {
        mutate_once(random, frame, another);
    }
    if random.below(2) == 0 {
        repair_checksum(frame);
    }
}

fn mutate_once(random: &mut Random, frame: &mut Vec<u8>, another: &[u8]) {
    let headers = frame.len().min(TRANSPORT + 20);
    let anywhere = random.below(4) == 0;
    let at = random.below(if anywhere { frame.len() } else { headers });
    let (field, len) = FIELDS[random.below(FIELDS.len())];
    let field = field.min(frame.len())..(field + len).min(frame.len());
    match random.below(9) {
        0 => frame[at] ^= 1 << random.below(8),
        1 => frame[at] = random.byte(),
        // A field set, moved by one, or taken from another packet.
        2 => frame[field].iter_mut().for_each(|byte| *byte = EDGES[random.below(EDGES.len())]),
        3 => frame[field].iter_mut().rev().take(1).for_each(|byte| {
            *byte = byte.wrapping_add(if random.below(2) == 0 { 1 } else { 0xff });
        }),
        4 if field.end <= another.len() => frame[field.clone()].copy_from_slice(&another[field]),
        // Two fields swapped: addresses, ids, ports.
        5 => {
            let (a, b, len) = [(26, 30, 4), (44, 50, 4), (74, 76, 2), (58, 62, 4)][random.below(4)];
            (0..len.min(frame.len().saturating_sub(b))).for_each(|k| frame.swap(a + k, b + k));
        }
        // A piece of another packet.
        6 => {
            let end = (at + 1 + random.below(40)).min(frame.len()).min(another.len());
            if at < end {
                frame[at..end].copy_from_slice(&another[at..end]);
            }
        }
        7 => resize(random, frame),
        _ => options(random, frame),
    }
}

/// Another length of the frame, with or without the packet's own following.
fn resize(random: &mut Random, frame: &mut Vec<u8>) {
    let len = if random.below(2) == 0 {
        frame.len().saturating_sub(1 + random.below(80))
    } else {
        frame.len() + 1 + random.below(80)
    };
    frame.resize(len.max(TRANSPORT), random.byte());
    if random.below(2) == 0
        && let Ok(total) = u16::try_from(frame.len() - ETHERNET)
    {
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
    }
}

/// Length games: the header's, the option's, its tag's.
fn options(random: &mut Random, frame: &mut [u8]) {
    match random.below(5) {
        0 => frame[ETHERNET] = 0x40 | random.byte() & 0x0f,
        1 => frame[OPTIONS + 1] = EDGES[random.below(EDGES.len())],
        // The proof taken off: a label without one, in a header of either length.
        2 => (frame[OPTIONS + 1], frame[OPTIONS + 7]) = (20, 14),
        3 => {
            (frame[OPTIONS + 1], frame[OPTIONS + 7]) = (20, 14);
            frame[ETHERNET] = 0x4a;
        }
        _ => frame[OPTIONS] = random.byte(),
    }
}

struct Node {
    kernel: Kernel,
    sender: u32,
    tally: BTreeMap<&'static str, u64>,
}

impl Node {
    fn new() -> Result<Self> {
        let mut kernel = Kernel::open(1)?;
        kernel.apply(POLICY, 1)?;
        kernel.install(&EPOCHS, [1, 2], KEY)?;
        Ok(Self { kernel, sender: 0, tally: BTreeMap::new() })
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// The packet as it was sent arrives, so no mutation has taken its number.
    fn arrives(&mut self, program: &str, sent: &Sent) -> Result<()> {
        let (passed, frame, mark) = self.kernel.run(program, &sent.frame, Skb::default())?;
        ensure!(passed && frame == sent.original, "no longer accepted: {:02x?}", sent.frame);
        ensure!(self.kernel.label_of(mark::handle(mark))? == SENDER, "not its sender");
        self.sender = mark::handle(mark);
        self.count("as it was sent");
        Ok(())
    }

    /// Whether the first packet's number is used up. Where the two were mixed, the other may have
    /// come out: the second segment of its super-frame.
    fn endures(&mut self, program: &str, sent: [&Sent; 2], mutated: &[u8]) -> Result<bool> {
        let (passed, frame, mark) = self.kernel.run(program, mutated, Skb::default())?;
        if !passed {
            return Ok(false);
        }
        if frame.get(12..14) != Some(&[8, 0]) {
            ensure!(mark == 0 && frame == mutated, "labelled, and no IPv4: {mutated:02x?}");
            self.count("passed as what is not IPv4");
            return Ok(false);
        }
        if mark::protection(mark) == PROTECTION_LABEL {
            let skb = Skb { mark, ..Skb::default() };
            let (delivered, ..) = self.kernel.run(name::SKB_DELIVER, &frame, skb)?;
            ensure!(!delivered, "delivered without proof: {mutated:02x?}");
            self.count("without proof: refused before the socket");
            return Ok(false);
        }
        ensure!(mark::handle(mark) == self.sender, "of another sender: {mutated:02x?}");
        // Its number is proven: it tells which packet this claims to be.
        let number = OPTIONS + 24..OPTIONS + 28;
        let claimed = sent
            .iter()
            .position(|sent| sent.frame.get(number.clone()) == mutated.get(number.clone()));
        let says_the_same =
            claimed.and_then(|at| sent.get(at)).is_some_and(|sent| sent.says(&frame));
        ensure!(says_the_same, "delivered changed: {mutated:02x?} as {frame:02x?}");
        self.count("passed, says the same");
        Ok(claimed == Some(0))
    }

    fn attack(&mut self, program: &str, mutations: usize, random: &mut Random) -> Result<()> {
        let before = self.kernel.row(Hook::Ingress)?;
        let (mut left, mut seq, mut runs) = (mutations, 1, 1_u64);
        let mut another = Sent::random(random, seq)?;
        self.arrives(program, &another)?;
        while left > 0 {
            seq += 2;
            let sent = Sent::random(random, seq)?;
            let mut used = false;
            for _ in 0..BATCH.min(left) {
                let mut mutated = sent.frame.clone();
                mutate(random, &mut mutated, &another.frame);
                if mutated == sent.frame {
                    continue;
                }
                left -= 1;
                runs += 1;
                used = self.endures(program, [&sent, &another], &mutated)?;
                if used {
                    break;
                }
            }
            if !used {
                self.arrives(program, &sent)?;
                runs += 1;
            }
            another = sent;
        }
        let after = self.kernel.row(Hook::Ingress)?;
        ensure!(after.seen - before.seen == runs, "{runs} runs, {after:?}");
        for ((reason, then), (_, now)) in before.dropped.iter().zip(&after.dropped) {
            if now > then {
                self.tally.insert(reason.name(), now - then);
            }
        }
        Ok(())
    }
}

fn attack(program: &str, mutations: usize, seed: u64) -> Result<()> {
    let start = Instant::now();
    let mut node = Node::new()?;
    node.attack(program, mutations, &mut Random(seed))?;
    println!("{mutations} mutations through {program} in {:.1?}:", start.elapsed());
    node.tally.iter().for_each(|(what, count)| println!("{count:>8} {what}"));
    for reason in [DropReason::BadIcv, DropReason::BadOption, DropReason::AddressMismatch] {
        ensure!(node.tally.contains_key(reason.name()), "{reason} was never the reason");
    }
    Ok(())
}

#[test]
fn a_million_mutations_before_xdp() -> Result<()> {
    attack(name::XDP_VERIFY, 1_000_000, 0x5167_1100_0000_0001)
}

#[test]
fn mutations_before_tc() -> Result<()> {
    attack(name::TC_VERIFY, 200_000, 0x5167_1100_0000_0002)
}
