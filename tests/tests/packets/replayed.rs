//! Each sequence number is accepted once, and only a packet that is true may take one.

use anyhow::Result;
use sigil_common::replay::{SEQ_LIMIT, WINDOW};
use sigil_common::verdict::DropReason;
use sigil_tests::packet::{Packet, Proof, Stamp};

use crate::*;

impl Node {
    fn arrives(&self, program: &str, seq: u64) -> Result<()> {
        self.accepts(program, &Packet::udp(INBOUND, 4000, b"data")?, &self.with_seq(seq))
    }

    fn fails(&self, program: &str, seq: u64, reason: DropReason) -> Result<()> {
        let packet = Packet::udp(INBOUND, 4000, b"data")?;
        self.refuses(program, &packet.stamped(&self.with_seq(seq))?, reason)
    }

    fn forges(&self, program: &str, seq: u64) -> Result<()> {
        let packet = Packet::udp(INBOUND, 4000, b"data")?;
        let forged = Proof { key: [9; 32], seq, ..self.proof() };
        self.refuses(program, &packet.stamped(&Stamp::proven(APP, forged))?, DropReason::BadIcv)
    }

    fn with_seq(&self, seq: u64) -> Stamp {
        Stamp::proven(APP, Proof { seq, ..self.proof() })
    }
}

#[test]
fn a_packet_arrives_once() -> Result<()> {
    for first in VERIFIERS {
        let node = Node::new()?;
        node.arrives(first, 5)?;
        for program in VERIFIERS {
            node.fails(program, 5, DropReason::Replay)?;
        }
    }
    Ok(())
}

#[test]
fn packets_out_of_order_arrive_within_the_window() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        let top = 3 * WINDOW - 1;
        node.arrives(program, top)?;
        for seq in [2 * WINDOW, top - 1, 2 * WINDOW + 77] {
            node.arrives(program, seq)?;
            node.fails(program, seq, DropReason::Replay)?;
        }
        // The low half of what lies below the window means a number 2^32 above it, for which the
        // ICV was not made.
        for seq in [1, WINDOW, top - WINDOW] {
            node.fails(program, seq, DropReason::BadIcv)?;
        }
    }
    Ok(())
}

/// Two CPUs may see the newest number late: the words of the window know better.
#[test]
fn a_number_whose_word_has_gone_on_is_too_old() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        // The window's words turn 32 numbers at a time, so its last word may be gone a bit early.
        let top = 2 * WINDOW + 40;
        node.arrives(program, top)?;
        node.fails(program, top - WINDOW + 1, DropReason::ReplayTooOld)?;
    }
    Ok(())
}

#[test]
fn the_high_half_of_the_number_is_inferred() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        let wrap = 1 << 32;
        for seq in
            [wrap - 2, wrap + 3, wrap - 1, wrap, wrap + (1 << 31), 2 * wrap, 3 * wrap - WINDOW]
        {
            node.arrives(program, seq)?;
            node.fails(program, seq, DropReason::Replay)?;
        }
    }
    Ok(())
}

/// Nothing that fails its ICV moves the window, wherever its number lies.
#[test]
fn a_forged_packet_takes_no_number() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        node.arrives(program, 2 * WINDOW)?;
        for seq in [2 * WINDOW + 1, 2 * WINDOW + 100, 9 * WINDOW, u64::from(u32::MAX), 5] {
            node.forges(program, seq)?;
        }
        for seq in [2 * WINDOW + 1, 2 * WINDOW - 5, WINDOW + 32, 2 * WINDOW + 100] {
            node.forges(program, seq)?;
            node.arrives(program, seq)?;
        }
    }
    Ok(())
}

#[test]
fn numbers_of_different_epochs_are_different() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        let packet = Packet::udp(INBOUND, 4000, b"data")?;
        for (key_id, suite) in EPOCHS {
            let stamp = Stamp::proven(APP, Proof { suite, key_id, seq: 5, ..node.proof() });
            node.accepts(program, &packet, &stamp)?;
            node.refuses(program, &packet.stamped(&stamp)?, DropReason::Replay)?;
        }
    }
    Ok(())
}

/// Reaching the limit takes 2^12 packets, each 2^32 - 1 numbers after the one before.
#[test]
fn a_key_has_a_last_number() -> Result<()> {
    for program in VERIFIERS {
        let node = Node::new()?;
        let mut seq = 0;
        while seq + u64::from(u32::MAX) < SEQ_LIMIT - 1000 {
            seq += u64::from(u32::MAX) - WINDOW;
            let frame = Packet::udp(INBOUND, 4000, b"data")?.stamped(&node.with_seq(seq))?;
            anyhow::ensure!(node.kernel.run(program, &frame, Skb::default())?.0, "{seq}");
        }
        node.arrives(program, SEQ_LIMIT - 128)?;
        node.fails(program, SEQ_LIMIT - 127, DropReason::KeyExhausted)?;
        node.fails(program, SEQ_LIMIT, DropReason::KeyExhausted)?;
    }
    Ok(())
}
