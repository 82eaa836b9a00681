//! Other keys come into the same slots while packets are on their way: none is judged or stamped by
//! halves of two keys, and none takes a number of one key to another.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sigil_common::abi::name;
use sigil_common::icv::Suite;
use sigil_common::label::Label;
use sigil_common::wire::option::LabelOption;
use sigil_datapath::{EpochKeys, Pair};
use sigil_tests::packet::{OPTIONS, Packet, Proof, Stamp};

use zeroize::Zeroizing;

use crate::*;

/// Each key's numbers start at 1, and go on from this times the key's.
const FAR: u64 = 5_000_000;
const ROUNDS: u8 = 40;
const ID: u8 = 3;
/// With one key.
const PATIENCE: Duration = Duration::from_secs(10);

fn proof(round: u8, seq: u64) -> Proof {
    let (suite, key, key_id) = (Suite::SipHash24, [round; 32], ID);
    Proof { suite, key, key_id, seq, covered: false, segments: 0 }
}

fn install(node: &mut Node, round: u8) -> Result<()> {
    node.kernel.install(&[(ID, Suite::SipHash24)], [HERE, THERE], [round; 32])
}

/// Runs `packets` on a thread of its own while `rounds` runs, and until both are through.
fn while_running(
    packets: impl FnOnce(&AtomicBool) -> Result<()> + Send,
    rounds: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let running = scope.spawn(|| packets(&stop));
        let outcome = rounds();
        stop.store(true, Ordering::Relaxed);
        running.join().ok().context("the thread has panicked")?.and(outcome)
    })
}

#[test]
fn under_a_verifier() -> Result<()> {
    let mut node = Node::stamping_with(&[])?;
    install(&mut node, 1)?;
    let beside = node.kernel.beside(HERE)?;
    let round = AtomicU8::new(1);
    let packet = Packet::udp(INBOUND, 4000, b"data")?;
    let context = Skb::default().context();
    let packets = |stop: &AtomicBool| {
        for seq in FAR.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let proof = proof(round.load(Ordering::Relaxed), seq);
            let frame = packet.stamped(&Stamp::proven(APP, proof))?;
            beside.run(name::TC_VERIFY, &frame, &context, 1)?;
        }
        Ok(())
    };
    while_running(packets, || {
        for next in 2..=ROUNDS {
            let patience = Instant::now() + PATIENCE;
            while node.kernel.newest()? < FAR {
                ensure!(Instant::now() < patience, "round {next}: nothing is accepted");
            }
            install(&mut node, next)?;
            let newest = node.kernel.newest()?;
            ensure!(newest == 0, "round {next}: {newest} before any packet");
            let stamp = Stamp::proven(APP, proof(next, 1));
            let (passed, ..) =
                node.kernel.run(name::TC_VERIFY, &packet.stamped(&stamp)?, Skb::default())?;
            ensure!(passed, "round {next}: the first packet");
            round.store(next, Ordering::Relaxed);
        }
        Ok(())
    })
}

#[test]
fn under_a_sender() -> Result<()> {
    const TO_APP: u16 = 2000;
    let mut node = Node::stamping_with(&[])?;
    install(&mut node, 1)?;
    let beside = node.kernel.beside(HERE)?;
    let round = AtomicU8::new(1);
    let packet = Packet::udp(OUTBOUND, TO_APP, b"data")?;
    let (plain, context) = (packet.frame()?, Skb::default().context());
    let sender = Label { snid: HERE, scid: WEB };
    let packets = |stop: &AtomicBool| {
        let mut key = 1;
        while !stop.load(Ordering::Relaxed) {
            let frame = beside.run(name::TC_STAMP, &plain, &context, 1)?.packet;
            if frame == plain {
                // There was no key for a moment.
                continue;
            }
            let option = frame.get(OPTIONS..OPTIONS + 40).context("a short frame")?;
            let seq = u64::from(LabelOption::parse(option)?.auth.context("no proof")?.seq_low);
            let is_of = |key| -> Result<bool> {
                Ok(packet.stamped(&Stamp::proven(sender, proof(key, seq)))? == frame)
            };
            if !is_of(key)? {
                ensure!(is_of(key + 1)?, "number {seq} after key {key}: of no key");
                key += 1;
            }
            let far = seq / FAR;
            ensure!(far == 0 || far == u64::from(key), "key {key} with number {seq}");
            round.store(key, Ordering::Relaxed);
        }
        Ok(())
    };
    while_running(packets, || {
        for next in 2..=ROUNDS {
            // Every key stamps before the next comes.
            let patience = Instant::now() + PATIENCE;
            while round.load(Ordering::Relaxed) != next - 1 {
                ensure!(Instant::now() < patience, "round {next}: nothing is stamped");
            }
            node.kernel.advance_keys(FAR * u64::from(next - 1))?;
            install(&mut node, next)?;
        }
        Ok(())
    })
}

/// More nodes come and go than there is room for at once. Whoever has an index now is judged by its
/// own keys and addresses, and whoever had it before is a stranger.
#[test]
fn nodes_that_come_and_go() -> Result<()> {
    let mut kernel = Kernel::open(HERE)?;
    let mut former: Option<Vec<u8>> = None;
    for other in 11..=29 {
        let snid = u32::from(other);
        let pair = |source, target| Pair { source, target, key: Zeroizing::new([other; 32]) };
        let pairs = vec![pair(HERE, snid), pair(snid, HERE)];
        let epochs = [EpochKeys { key_id: ID, suite: Suite::SipHash24, pairs }];
        kernel.datapath.install_keys(&epochs)?;
        kernel.datapath.retire_keys(&epochs)?;
        let address = Ipv4Addr::new(10, 77, 0, other);
        let mut policy = POLICY.replace("<SnID> 2 </SnID>", &format!("<SnID> {snid} </SnID>"));
        policy = policy.replace("10.77.0.2 ", &format!("{address} "));
        kernel.apply(&policy, HERE)?;

        let inbound = Route { source: address, ..INBOUND };
        let label = Label { snid, ..APP };
        let frame = |seq| {
            Packet::udp(inbound, 4000, b"data")?.stamped(&Stamp::proven(label, proof(other, seq)))
        };
        let outcome = kernel.judge(name::TC_VERIFY, &frame(1)?, Skb::default())?;
        assert_eq!(outcome.dropped, None, "from node {snid}");
        let outbound = Packet::udp(Route { target: address, ..OUTBOUND }, 2000, b"data")?;
        let sent = kernel.judge(name::TC_STAMP, &outbound.frame()?, Skb::default())?;
        let sender = Label { snid: HERE, scid: WEB };
        let expected = outbound.stamped(&Stamp::proven(sender, proof(other, 1)))?;
        ensure!(sent.frame == expected, "to node {snid}: {:02x?}", sent.frame);
        if let Some(frame) = former.replace(frame(2)?) {
            let outcome = kernel.judge(name::TC_VERIFY, &frame, Skb::default())?;
            assert_eq!(outcome.dropped, Some(DropReason::UnknownNode), "the one before {snid}");
        }
    }
    Ok(())
}
