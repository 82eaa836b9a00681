//! Golden packets: bytes in → action, bytes out, and the one counter that tells why. Each runs
//! through a program in the running kernel, by itself. Needs root.
#![expect(clippy::indexing_slicing, reason = "a frame that is too short fails the test")]

mod accepted;
mod delivered;
mod refused;
mod replaced;
mod replayed;
mod stamped;
mod super_frame;

use std::cell::Cell;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use sigil_common::abi::name;
use sigil_common::abi::policy::{PROTECTION_AUTHENTICATE, PROTECTION_INTEGRITY, PROTECTION_LABEL};
use sigil_common::abi::rule::mark;
use sigil_common::icv::Suite;
use sigil_common::label::{KERNEL_SCID, Label};
use sigil_common::verdict::DropReason;
use sigil_tests::kernel::{Kernel, Outcome, Skb};
use sigil_tests::packet::{Packet, Proof, Route, Stamp};

const POLICY: &str = include_str!("policy.xml");

/// The node under test, and the one it talks with.
const HERE: u32 = 1;
const THERE: u32 = 2;
const KEY: [u8; 32] = [0x51; 32];

const INBOUND: Route =
    Route { source: Ipv4Addr::new(10, 77, 0, 2), target: Ipv4Addr::new(10, 77, 0, 1) };
const OUTBOUND: Route = Route { source: INBOUND.target, target: INBOUND.source };
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

const WEB: u32 = 10;
const APP: Label = Label { snid: THERE, scid: 20 };
const ADMIN: Label = Label { snid: THERE, scid: 40 };
const SECRET: Label = Label { snid: THERE, scid: 50 };
const BARE: Label = Label { snid: THERE, scid: 60 };
const CLOSED: Label = Label { snid: THERE, scid: 70 };
const BANNED: Label = Label { snid: THERE, scid: 80 };
const OUTSIDE: Label = Label { snid: 900, scid: 90 };
const KERNEL: Label = Label { snid: THERE, scid: KERNEL_SCID };

/// One epoch for each suite.
const EPOCHS: [(u8, Suite); 3] =
    [(1, Suite::HmacSha256), (2, Suite::Blake3), (3, Suite::SipHash24)];

/// Both programs that verify: every expectation is about each of them.
const VERIFIERS: [&str; 2] = [name::XDP_VERIFY, name::TC_VERIFY];

/// A node with a policy and keys, and a peer with fresh sequence numbers.
struct Node {
    kernel: Kernel,
    seq: Cell<u64>,
}

impl Node {
    fn new() -> Result<Self> {
        Self::stamping_with(&EPOCHS)
    }

    /// The first epoch is the one to stamp with.
    fn stamping_with(epochs: &[(u8, Suite)]) -> Result<Self> {
        let mut kernel = Kernel::open(HERE)?;
        kernel.apply(POLICY, HERE)?;
        kernel.install(epochs, [HERE, THERE], KEY)?;
        Ok(Self { kernel, seq: Cell::new(0) })
    }

    fn next_seq(&self) -> u64 {
        self.seq.set(self.seq.get() + 1);
        self.seq.get()
    }

    /// A proof that holds, with a sequence number of its own.
    fn proof(&self) -> Proof {
        Proof {
            suite: Suite::SipHash24,
            key: KEY,
            key_id: 3,
            seq: self.next_seq(),
            covered: false,
            segments: 0,
        }
    }

    /// A label with a proof that holds.
    fn stamp(&self, label: Label) -> Stamp {
        Stamp::proven(label, self.proof())
    }

    /// The packet arrives, and is the original again.
    fn accepts(&self, program: &str, packet: &Packet, stamp: &Stamp) -> Result<()> {
        let outcome = self.kernel.judge(program, &packet.stamped(stamp)?, Skb::default())?;
        ensure!(outcome.dropped.is_none(), "{program}: {:?} for {stamp:?}", outcome.dropped);
        ensure!(
            outcome.frame == packet.frame()?,
            "{program}: not the original, {:x?}",
            outcome.frame
        );
        self.carries(&outcome, stamp.label, protection(stamp))
    }

    /// The mark names the sender and what protected the packet.
    fn carries(&self, outcome: &Outcome, label: Label, protection: u8) -> Result<()> {
        let named = self.kernel.label_of(mark::handle(outcome.mark))?;
        ensure!(named == label, "handed on as {named:?}, sent by {label:?}");
        let had = mark::protection(outcome.mark);
        ensure!(had == protection, "handed on with protection {had}, had {protection}");
        Ok(())
    }

    /// The frame is dropped for this reason, and is untouched.
    fn refuses(&self, program: &str, frame: &[u8], reason: DropReason) -> Result<()> {
        let outcome = self.kernel.judge(program, frame, Skb::default())?;
        ensure!(
            outcome.dropped == Some(reason),
            "{program}: {:?} instead of {reason} for {frame:02x?}",
            outcome.dropped
        );
        ensure!(outcome.frame == frame, "{program} changed a packet it dropped");
        Ok(())
    }

    /// [`Node::refuses`] for a stamped packet.
    fn refuses_packet(&self, packet: &Packet, stamp: &Stamp, reason: DropReason) -> Result<()> {
        VERIFIERS
            .iter()
            .try_for_each(|program| self.refuses(program, &packet.stamped(stamp)?, reason))
    }
}

fn protection(stamp: &Stamp) -> u8 {
    match stamp.proof {
        None => PROTECTION_LABEL,
        Some(proof) if proof.covered => PROTECTION_INTEGRITY,
        Some(_) => PROTECTION_AUTHENTICATE,
    }
}
