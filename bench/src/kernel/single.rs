//! Programs on single packets (`BPF_PROG_TEST_RUN`).
//!
//! Each run has a fresh packet, for a run changes its packet and the replay window, and its time is the
//! kernel's own statistic of it, with two readings of the clock in it, in the empty programs' times as in
//! all others. A test packet's socket is anonymous, and Sigil refuses it: `tc_stamp` runs behind a
//! program that gives the socket its state.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd as _;
use std::rc::Rc;

use anyhow::{Context, Result};
use sigil_common::abi::name;
use sigil_common::abi::policy::{PROTECTION_AUTHENTICATE, PROTECTION_INTEGRITY, PROTECTION_LABEL};
use sigil_common::abi::socket::{SocketState, way};
use sigil_common::icv::Suite;
use sigil_common::label::Label;

use super::bed::Bed;
use super::case::Cases;
use super::frame;
use super::program::{self, Lookup, Shuffle, TC_GO_ON, WithSocket, XDP_PASS};
use super::rules::{self, CROWD, FIRST_SCID, PORT, SENDERS, ZONE};
use crate::samples::Samples;

/// Bytes of a datagram of which the header alone is covered.
const SMALL: usize = 72;
/// Those of datagrams that are covered whole.
const COVERED: [usize; 3] = [72, 512, 1400];

/// A case and how results name it.
struct Row {
    series: &'static str,
    program: &'static str,
    mode: &'static str,
    at: String,
    id: usize,
    empty: usize,
    around: Option<usize>,
}

/// Measures the programs of beds with so many rules each.
pub(super) fn measure(
    beds: &mut [Bed],
    counts: &[u32],
    rounds: usize,
    samples: &mut Samples,
) -> Result<()> {
    let (empty_xdp, empty_tc) = (program::empty_xdp()?, program::empty_tc()?);
    let mut stampers = Vec::new();
    for bed in &mut *beds {
        stampers.push(Stamper::new(bed)?);
    }
    let sockets = beds.first().context("a bed")?.sigil()?.map(name::SOCKETS)?;
    let nothing = WithSocket::new(sockets.as_fd(), empty_tc.as_fd())?;
    let lookups = counts.iter().map(|count| Lookup::new(*count)).collect::<Result<Vec<_>, _>>()?;
    let (seq, shuffle) =
        (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Shuffle(0x5161_1a6e_1234_5678))));

    let (mut cases, mut rows) = (Cases::default(), Vec::new());
    let plain = frame::plain(1, CROWD, SMALL)?;
    let fixed = || {
        let packet = plain.clone();
        move || Ok(packet.clone())
    };
    let xdp = cases.add(empty_xdp.as_fd(), XDP_PASS, fixed());
    let tc = cases.add(empty_tc.as_fd(), TC_GO_ON, fixed());
    let socket = cases.add(nothing.program(), TC_GO_ON, fixed());
    for (program, id) in [("empty XDP", xdp), ("empty TC", tc)] {
        let at = String::new();
        rows.push(Row {
            series: "program",
            program,
            mode: "empty",
            at,
            id,
            empty: id,
            around: None,
        });
    }
    let verifiers = [(name::XDP_VERIFY, XDP_PASS, xdp), (name::TC_VERIFY, TC_GO_ON, tc)];
    for (((bed, stamper), count), lookup) in beds.iter().zip(&stampers).zip(counts).zip(&lookups) {
        let (sigil, count) = (bed.sigil()?, *count);
        for (sender, suite, covered) in kinds(count) {
            let mode = suite.map_or("label only", Suite::name);
            let length = covered.unwrap_or(SMALL);
            let at = match covered {
                None => format!("rules={count}"),
                Some(covered) => format!("covered={covered}"),
            };
            for (program, action, empty) in verifiers {
                let (seq, covered) = (Rc::clone(&seq), covered.is_some());
                let id = cases.add(sigil.program(program)?.as_fd(), action, move || {
                    let label = Label { snid: sender, scid: ZONE };
                    frame::labelled(label, 1, suite, covered, next(&seq), length)
                });
                let at = at.clone();
                rows.push(Row { series: "program", program, mode, at, id, empty, around: None });
            }
            let packet = frame::plain(1, sender, length)?;
            let id = cases.add(stamper.program.program(), TC_GO_ON, move || {
                stamper.established(sender, suite, covered.is_some())?;
                Ok(packet.clone())
            });
            let (program, around) = (name::TC_STAMP, Some(socket));
            rows.push(Row { series: "program", program, mode, at, id, empty: tc, around });
        }
        // What the first packets of flows cost, of a different label each time.
        let mut first = |program, mode, id, empty, around| {
            let at = format!("rules={count}");
            rows.push(Row { series: "first packet", program, mode, at, id, empty, around });
        };
        let (of, packet) = (Rc::clone(&shuffle), plain.clone());
        let id = cases.add(lookup.program(), TC_GO_ON, move || {
            lookup.choose(&mut of.borrow_mut())?;
            Ok(packet.clone())
        });
        first("one hash look-up", "yardstick", id, tc, None);
        for (program, action, empty) in verifiers {
            let (seq, of) = (Rc::clone(&seq), Rc::clone(&shuffle));
            let id = cases.add(sigil.program(program)?.as_fd(), action, move || {
                let scid = FIRST_SCID + of.borrow_mut().below(count);
                let label = Label { snid: CROWD, scid };
                frame::labelled(label, 1, Some(Suite::SipHash24), false, next(&seq), SMALL)
            });
            first(program, Suite::SipHash24.name(), id, empty, None);
        }
        let (of, packet) = (Rc::clone(&shuffle), plain.clone());
        let id = cases.add(stamper.program.program(), TC_GO_ON, move || {
            stamper.first(FIRST_SCID + of.borrow_mut().below(count))?;
            Ok(packet.clone())
        });
        first(name::TC_STAMP, Suite::SipHash24.name(), id, tc, Some(socket));
    }

    for _ in 0..rounds {
        cases.round()?;
    }
    for row in rows {
        let times = cases.times(row.id, row.empty, row.around)?;
        for (round, time) in times.into_iter().enumerate() {
            samples.push([row.series, row.program, row.mode, &row.at], round, time, "ns");
        }
    }
    Ok(())
}

/// Who sends or is sent to, with which suite, and how many bytes are covered beside the header.
fn kinds(count: u32) -> Vec<(u32, Option<Suite>, Option<usize>)> {
    let header = SENDERS.into_iter().map(|(sender, suite)| (sender, suite, None));
    let few = count == 10;
    let covered = SENDERS.into_iter().filter(move |(_, suite)| few && suite.is_some());
    let covered =
        covered.flat_map(|(sender, suite)| COVERED.map(|covered| (sender, suite, Some(covered))));
    header.chain(covered).collect()
}

/// A sequence number that was not used before.
fn next(seq: &Cell<u64>) -> u64 {
    seq.set(seq.get() + 1);
    seq.get()
}

/// Runs `tc_stamp` for sockets in a state of our choice.
struct Stamper {
    program: WithSocket,
    generation: u32,
}

impl Stamper {
    fn new(bed: &mut Bed) -> Result<Self> {
        let sigil = bed.sigil_mut()?;
        let sockets = sigil.map(name::SOCKETS)?;
        let program = WithSocket::new(sockets.as_fd(), sigil.program(name::TC_STAMP)?.as_fd())?;
        let generation = sigil.datapath.in_force()?.context("no rules")?.generation;
        Ok(Self { program, generation })
    }

    /// The socket has sent to this node before.
    fn established(&self, target: u32, suite: Option<Suite>, covered: bool) -> Result<()> {
        let address = u64::from(u32::from(rules::address(target)));
        let protection = match (suite, covered) {
            (None, _) => PROTECTION_LABEL,
            (_, false) => PROTECTION_AUTHENTICATE,
            (_, true) => PROTECTION_INTEGRITY,
        };
        let egress = address << 32 | u64::from(PORT) << 16 | u64::from(self.generation & 0xffff);
        let way = way::pack(egress, rules::index(target), protection);
        let state = SocketState { scid: ZONE, egress, way, ..SocketState::default() };
        Ok(self.program.set_state(&state)?)
    }

    /// The socket sends for the first time, to a peer of this ScID.
    fn first(&self, scid: u32) -> Result<()> {
        let peer = Label { snid: CROWD, scid }.word();
        Ok(self.program.set_state(&SocketState { scid: ZONE, peer, ..SocketState::default() })?)
    }
}
