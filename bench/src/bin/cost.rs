//! What Sigil's programs cost per packet in the kernel, against programs that do nothing.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde::Serialize;
use sigil_bench::bed::{Bed, Hook, Setup};
use sigil_bench::machine::{self, Machine};
use sigil_bench::numbers::{Shuffle, Summary, float};
use sigil_bench::program::{self, Lookup, TC_GO_ON, WithSocket, XDP_PASS};
use sigil_bench::rules::{self, CROWD, FIRST_SCID, PORT, SENDERS, ZONE};
use sigil_bench::table::Table;
use sigil_bench::{frame, peer, sys};
use sigil_common::abi::name;
use sigil_common::abi::policy::{PROTECTION_AUTHENTICATE, PROTECTION_INTEGRITY, PROTECTION_LABEL};
use sigil_common::abi::socket::{SocketState, way};
use sigil_common::icv::Suite;
use sigil_common::label::Label;
use sigil_datapath::Mode;

/// Rule counts that are compared.
const FEW: u32 = 10;
const MANY: u32 = 1_000_000;
/// Bytes of a datagram of which the header alone is covered, and of one that is covered whole.
const SMALL: usize = 72;
const LARGE: usize = 1400;
/// Runs in a row, of which the first few warm the caches up and are left out.
const BURST: usize = 24;
const WARM: usize = 4;
/// How much slower 1,000,000 rules may make an established flow.
const FLAT: f64 = 1.05;

const METHOD: &str = "\
Each run is one BPF_PROG_TEST_RUN with repeat=1 on a fresh packet, for a run changes its packet and the
replay window. Times are the kernel's own run-time statistics of each run (BPF_ENABLE_STATS), which
include two readings of its clock, in the empty programs' times as in all others. Programs are
interleaved; a round is the median of 20 runs in a row behind 4 that warm caches up; medians and
minima are those of all rounds.
A test packet's socket is anonymous, and Sigil refuses it. tc_stamp therefore runs behind a program
that gives the socket its state and goes on by a tail call; what that program costs with an empty
program behind it is taken off. Test packets have room in front: real UDP packets have not, and the
table of real traffic shows what the kernel's reallocation adds.";

const TRAFFIC: &str = "\
Run-time statistics of the attached programs while one client exchanges datagrams with one server,
both on one CPU, over a veth pair; each round is the mean of all its packets. The statistics' own
two clock readings are in all columns.";

/// Measures what Sigil's programs cost per packet in the kernel.
#[derive(Parser)]
struct Arguments {
    /// Fewer rounds.
    #[arg(long)]
    quick: bool,
    /// Where to write cost.json and cost.md.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Results {
    schema: u32,
    machine: Machine,
    method: &'static str,
    programs: Vec<Program>,
    single: Vec<Single>,
    first: Vec<First>,
    traffic: Vec<Traffic>,
}

#[derive(Serialize)]
struct Program {
    name: String,
    verified_instructions: u32,
    translated_instructions: u32,
    jited_bytes: u32,
}

/// A program on single packets. Nanoseconds.
#[derive(Serialize)]
struct Single {
    program: &'static str,
    suite: &'static str,
    covered: bool,
    few: Summary,
    many: Summary,
    empty: Summary,
    /// Medians, with few rules.
    times_empty: f64,
    aim: Option<f64>,
    /// Medians.
    many_by_few: f64,
}

/// A program on packets that need a look into the rules. Nanoseconds.
#[derive(Serialize)]
struct First {
    what: &'static str,
    few: Summary,
    many: Summary,
    /// Difference of the medians.
    more: f64,
}

/// A program on real packets of established flows. Nanoseconds.
#[derive(Serialize)]
struct Traffic {
    mode: &'static str,
    program: &'static str,
    empty: Summary,
    few: Summary,
    many: Summary,
    many_by_few: f64,
    many_by_few_of_minima: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let machine = Machine::here();
    machine::pin(0)?;
    let mut beds = Beds::new()?;
    let _statistics = sys::statistics().context("run-time statistics")?;

    let rounds = if arguments.quick { 40 } else { 300 };
    let (single, first) = beds.single(rounds)?;
    let (rounds, pings) = if arguments.quick { (5, 2000) } else { (15, 5000) };
    let traffic = beds.traffic(rounds, pings)?;
    let programs = beds.programs()?;
    let results = Results { schema: 1, machine, method: METHOD, programs, single, first, traffic };
    let tables = tables(&results)?;
    print!("{tables}");
    if let Some(out) = &arguments.out {
        machine::write(out, "cost", &results, &tables)?;
    }
    Ok(())
}

/// The pairs of nodes.
struct Beds {
    few: Bed,
    many: Bed,
    few_xdp: Bed,
    many_xdp: Bed,
    empty: Bed,
}

impl Beds {
    fn new() -> Result<Self> {
        let start = Instant::now();
        let beds = Self {
            few: Bed::new("few", Setup::Sigil(Mode::Tc, FEW))?,
            many: Bed::new("many", Setup::Sigil(Mode::Tc, MANY))?,
            few_xdp: Bed::new("fewx", Setup::Sigil(Mode::Xdp, FEW))?,
            many_xdp: Bed::new("manyx", Setup::Sigil(Mode::Xdp, MANY))?,
            empty: Bed::new("empty", Setup::Empty)?,
        };
        eprintln!("{:.1} s to set up, {MANY} rules twice", start.elapsed().as_secs_f64());
        Ok(beds)
    }

    fn programs(&mut self) -> Result<Vec<Program>> {
        let sizes = self.few.sigil()?.sizes.iter();
        let program = |(name, size): &(String, sigil_datapath::probe::Size)| Program {
            name: name.clone(),
            verified_instructions: size.verified,
            translated_instructions: size.translated,
            jited_bytes: size.jited,
        };
        Ok(sizes.map(program).collect())
    }

    /// Single packets, one program after the other.
    fn single(&mut self, count: usize) -> Result<(Vec<Single>, Vec<First>)> {
        let (empty_xdp, empty_tc) = (program::empty_xdp()?, program::empty_tc()?);
        let (few, many) = (Stamper::new(&mut self.few)?, Stamper::new(&mut self.many)?);
        let sockets = self.few.sigil()?.map(name::SOCKETS)?;
        let nothing = Rc::new(WithSocket::new(sockets.as_fd(), empty_tc.as_fd())?);
        let (few_rules, many_rules) = (self.few.sigil()?, self.many.sigil()?);
        let lookups = [Lookup::new(FEW)?, Lookup::new(MANY)?];
        let seq = Rc::new(Cell::new(0));

        let mut cases = Cases::default();
        let plain = frame::plain(1, CROWD, SMALL)?;
        let fixed = |packet: &[u8]| {
            let packet = packet.to_vec();
            move || Ok(packet.clone())
        };
        let xdp = cases.add(empty_xdp.as_fd(), XDP_PASS, fixed(&plain));
        let tc = cases.add(empty_tc.as_fd(), TC_GO_ON, fixed(&plain));
        let socket = cases.add(nothing.program(), TC_GO_ON, fixed(&plain));

        let mut rows: Vec<Rows> = Vec::new();
        for (program, action, empty) in
            [(name::XDP_VERIFY, XDP_PASS, xdp), (name::TC_VERIFY, TC_GO_ON, tc)]
        {
            for (sender, suite, covered) in kinds() {
                let mut verify = |of: BorrowedFd<'static>| {
                    let seq = Rc::clone(&seq);
                    let label = Label { snid: sender, scid: ZONE };
                    cases.add(of, action, move || labelled(label, suite, covered, &seq))
                };
                let few = verify(leak(few_rules.program(program)?.as_fd())?);
                let many = verify(leak(many_rules.program(program)?.as_fd())?);
                let ids = [few, many];
                rows.push(Rows { program, suite, covered, ids, empty, around: None });
            }
        }
        for (target, suite, covered) in kinds() {
            let mut stamp = |of: &Stamper| {
                let of = of.clone();
                let program = leak(of.program.program())?;
                let packet = frame::plain(1, target, if covered { LARGE } else { SMALL })?;
                Ok::<_, anyhow::Error>(cases.add(program, TC_GO_ON, move || {
                    of.established(target, suite, covered)?;
                    Ok(packet.clone())
                }))
            };
            let ids = [stamp(&few)?, stamp(&many)?];
            let (program, around) = (name::TC_STAMP, Some(socket));
            rows.push(Rows { program, suite, covered, ids, empty: tc, around });
        }

        // What the first packets of flows add, to a different label each time.
        let shuffle = Rc::new(RefCell::new(Shuffle(0x5161_1a6e_1234_5678)));
        let mut firsts = Vec::new();
        let counts = [FEW, MANY];
        let mut ids = Vec::new();
        for lookup in &lookups {
            let (shuffle, packet) = (Rc::clone(&shuffle), plain.clone());
            ids.push(cases.add(lookup.program(), TC_GO_ON, move || {
                lookup.choose(&mut shuffle.borrow_mut())?;
                Ok(packet.clone())
            }));
        }
        firsts.push(("one hash lookup, the yardstick", ids, tc, None));
        for (what, program, action, empty) in [
            ("xdp_verify, another label each time", name::XDP_VERIFY, XDP_PASS, xdp),
            ("tc_verify, another label each time", name::TC_VERIFY, TC_GO_ON, tc),
        ] {
            let mut ids = Vec::new();
            for (sigil, count) in [&few_rules, &many_rules].into_iter().zip(counts) {
                let (seq, shuffle) = (Rc::clone(&seq), Rc::clone(&shuffle));
                let fd = leak(sigil.program(program)?.as_fd())?;
                ids.push(cases.add(fd, action, move || {
                    let scid = FIRST_SCID + shuffle.borrow_mut().below(count);
                    let label = Label { snid: CROWD, scid };
                    labelled(label, Some(Suite::SipHash24), false, &seq)
                }));
            }
            firsts.push((what, ids, empty, None));
        }
        let mut ids = Vec::new();
        for (stamper, count) in [&few, &many].into_iter().zip(counts) {
            let (of, shuffle, packet) = (stamper.clone(), Rc::clone(&shuffle), plain.clone());
            ids.push(cases.add(leak(stamper.program.program())?, TC_GO_ON, move || {
                of.first(FIRST_SCID + shuffle.borrow_mut().below(count))?;
                Ok(packet.clone())
            }));
        }
        firsts.push(("tc_stamp, first packet of a socket", ids, tc, Some(socket)));

        for _ in 0..count {
            cases.round()?;
        }
        Ok((singles(&cases, rows)?, first_packets(&cases, firsts)?))
    }

    /// Real packets of established flows.
    fn traffic(&mut self, rounds: usize, pings: u64) -> Result<Vec<Traffic>> {
        const TC: [(&str, Hook); 3] = [
            (name::TC_STAMP, Hook::Tc),
            (name::TC_VERIFY, Hook::Tc),
            (name::SKB_DELIVER, Hook::Cgroup),
        ];
        const XDP: [(&str, Hook); 4] = [
            (name::TC_STAMP, Hook::Tc),
            (name::XDP_VERIFY, Hook::Xdp),
            (name::TC_HANDOVER, Hook::Tc),
            (name::SKB_DELIVER, Hook::Cgroup),
        ];
        let Self { few, many, few_xdp, many_xdp, empty } = self;
        for bed in [&mut *few, many, few_xdp, many_xdp, empty] {
            bed.serve(peer::Server::Echo, 0)?;
        }
        let mut measured = Vec::new();
        for (bed, programs) in [(&*few, &TC[..]), (many, &TC), (few_xdp, &XDP), (many_xdp, &XDP)] {
            for (name, _) in programs {
                let sigil = bed.sigil.as_ref().context("no Sigil")?;
                measured.push((bed, sigil.program(name)?.as_fd(), Vec::new()));
            }
        }
        for (_, program) in empty.empty.iter().take(3) {
            measured.push((&*empty, program.as_fd(), Vec::new()));
        }
        for _ in 0..rounds {
            for bed in [&*few, many, few_xdp, many_xdp, empty] {
                let read = |of: &[(&Bed, BorrowedFd, Vec<f64>)]| {
                    of.iter()
                        .map(|(_, program, _)| sys::runs(*program))
                        .collect::<Result<Vec<_>, _>>()
                };
                let before = read(&measured)?;
                let answer = bed.exchange(peer::Client::Ping, 0, pings)?;
                ensure!(answer.lost == 0, "{} datagrams lost", answer.lost);
                let after = read(&measured)?;
                let both = before.into_iter().zip(after);
                for ((own, _, samples), (before, after)) in measured.iter_mut().zip(both) {
                    let runs = after.since(before);
                    if std::ptr::eq(*own, bed) {
                        ensure!(runs.count >= pings, "a program saw {} of {pings}", runs.count);
                        samples.push(float(runs.time) / float(runs.count));
                    }
                }
            }
        }
        let summaries: Vec<_> =
            measured.iter().map(|(_, _, samples)| Summary::of(samples)).collect();
        let at = |index: usize| summaries.get(index).copied().context("a program's samples");
        let empties = TC.len() * 2 + XDP.len() * 2;
        let mut rows = Vec::new();
        for (mode, programs, few, many) in
            [("tc", &TC[..], 0, TC.len()), ("xdp", &XDP, TC.len() * 2, TC.len() * 2 + XDP.len())]
        {
            for (index, (program, hook)) in programs.iter().enumerate() {
                let (few, many) = (at(few + index)?, at(many + index)?);
                let hooks = [Hook::Xdp, Hook::Tc, Hook::Cgroup];
                let empty = hooks.iter().position(|known| known == hook).unwrap_or(0);
                rows.push(Traffic {
                    mode,
                    program,
                    empty: at(empties + empty)?,
                    few,
                    many,
                    many_by_few: many.median / few.median,
                    many_by_few_of_minima: many.min / few.min,
                });
            }
        }
        Ok(rows)
    }
}

/// The cases behind a row: with few rules and with many.
struct Rows {
    program: &'static str,
    suite: Option<Suite>,
    covered: bool,
    ids: [usize; 2],
    empty: usize,
    around: Option<usize>,
}

fn singles(cases: &Cases, rows: Vec<Rows>) -> Result<Vec<Single>> {
    let single = |row: Rows| {
        let [few, many] = row.ids.map(|id| cases.summary(id, row.empty, row.around));
        let (few, many, empty) = (few?, many?, cases.summary(row.empty, row.empty, None)?);
        Ok(Single {
            program: row.program,
            suite: row.suite.map_or("label only", Suite::name),
            covered: row.covered,
            few,
            many,
            empty,
            times_empty: few.median / empty.median,
            aim: if row.covered { None } else { row.suite.map(aim) },
            many_by_few: many.median / few.median,
        })
    };
    rows.into_iter().map(single).collect()
}

/// What is measured, its cases, the empty program and the one around it.
type FirstCases = (&'static str, Vec<usize>, usize, Option<usize>);

fn first_packets(cases: &Cases, firsts: Vec<FirstCases>) -> Result<Vec<First>> {
    let first = |(what, ids, empty, around): FirstCases| {
        let [few, many] = *ids.as_slice() else { bail!("two rule counts") };
        let (few, many) = (cases.summary(few, empty, around)?, cases.summary(many, empty, around)?);
        Ok(First { what, few, many, more: many.median - few.median })
    };
    firsts.into_iter().map(first).collect()
}

/// Who sends or is sent to, with which suite, and whether the payload is covered.
fn kinds() -> impl Iterator<Item = (u32, Option<Suite>, bool)> {
    let authenticated = SENDERS.into_iter().filter(|(_, suite)| suite.is_some());
    let header = SENDERS.into_iter().map(|(sender, suite)| (sender, suite, false));
    header.chain(authenticated.map(|(sender, suite)| (sender, suite, true)))
}

const fn aim(suite: Suite) -> f64 {
    match suite {
        Suite::SipHash24 => 6.0,
        Suite::Blake3 => 12.0,
        Suite::HmacSha256 => 40.0,
    }
}

fn labelled(label: Label, suite: Option<Suite>, covered: bool, seq: &Cell<u64>) -> Result<Vec<u8>> {
    seq.set(seq.get() + 1);
    frame::labelled(label, 1, suite, covered, seq.get(), if covered { LARGE } else { SMALL })
}

/// Programs that are held for as long as the process lives.
fn leak(program: BorrowedFd) -> Result<BorrowedFd<'static>> {
    let own: &'static _ = Box::leak(Box::new(program.try_clone_to_owned()?));
    Ok(own.as_fd())
}

/// Runs `tc_stamp` for sockets in a state of our choice.
#[derive(Clone)]
struct Stamper {
    program: Rc<WithSocket>,
    generation: u32,
}

impl Stamper {
    fn new(bed: &mut Bed) -> Result<Self> {
        let sigil = bed.sigil()?;
        let sockets = sigil.map(name::SOCKETS)?;
        let stamp = sigil.program(name::TC_STAMP)?.as_fd();
        let program = Rc::new(WithSocket::new(sockets.as_fd(), stamp)?);
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

type Packet<'a> = Box<dyn FnMut() -> Result<Vec<u8>> + 'a>;

/// A program, its packets, and the rounds so far.
struct Case<'a> {
    program: BorrowedFd<'a>,
    action: u32,
    packet: Packet<'a>,
    medians: Vec<f64>,
    least: f64,
}

#[derive(Default)]
struct Cases<'a> {
    cases: Vec<Case<'a>>,
}

impl<'a> Cases<'a> {
    fn add(
        &mut self,
        program: BorrowedFd<'a>,
        action: u32,
        packet: impl FnMut() -> Result<Vec<u8>> + 'a,
    ) -> usize {
        let (packet, medians) = (Box::new(packet), Vec::new());
        self.cases.push(Case { program, action, packet, medians, least: f64::MAX });
        self.cases.len() - 1
    }

    /// Runs every program in turn.
    fn round(&mut self) -> Result<()> {
        for (number, case) in self.cases.iter_mut().enumerate() {
            let mut samples = Vec::with_capacity(BURST);
            for run in 0..BURST {
                let packet = (case.packet)()?;
                let before = sys::runs(case.program)?;
                let action = sys::run(case.program, &packet)?;
                let runs = sys::runs(case.program)?.since(before);
                ensure!(action == case.action, "case {number} run {run} returned {action:#x}");
                // A packet of a node's own, in between, spoils the sample.
                if run >= WARM && runs.count == 1 {
                    samples.push(float(runs.time));
                }
            }
            let round = Summary::of(&samples);
            case.medians.push(round.median);
            case.least = case.least.min(round.min);
        }
        Ok(())
    }

    /// A case's time; one that runs inside of a program (`around`) without that.
    fn summary(&self, id: usize, empty: usize, around: Option<usize>) -> Result<Summary> {
        let of = |id: usize| {
            let case = self.cases.get(id).context("a case")?;
            Ok::<_, anyhow::Error>(Summary { min: case.least, ..Summary::of(&case.medians) })
        };
        let mut summary = of(id)?;
        if let Some(around) = around {
            let (around, empty) = (of(around)?, of(empty)?);
            summary.min += empty.min - around.min;
            summary.median += empty.median - around.median;
        }
        Ok(summary)
    }
}

fn tables(results: &Results) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "## Cost of the programs per packet\n\n{METHOD}\n")?;
    let mut table = Table::new([
        "program",
        "suite",
        "covers",
        "min ns",
        "median ns",
        "min, 10^6",
        "median, 10^6",
        "x empty",
        "aim",
        "10^6 / 10",
    ]);
    let ns = |value: f64| format!("{value:.0}");
    let mut shown: Vec<&str> = Vec::new();
    for row in &results.single {
        let kind = if row.program == name::XDP_VERIFY { "empty XDP" } else { "empty TC" };
        if !shown.contains(&kind) {
            shown.push(kind);
            let empty = row.empty;
            let none = String::new;
            let (min, median) = (ns(empty.min), ns(empty.median));
            let one = format!("{:.1}", 1.0);
            let kind = kind.to_owned();
            table.row([kind, none(), none(), min, median, none(), none(), one, none(), none()]);
        }
        table.row([
            row.program.to_owned(),
            row.suite.to_owned(),
            if row.covered { "1400 B".to_owned() } else { "header".to_owned() },
            ns(row.few.min),
            ns(row.few.median),
            ns(row.many.min),
            ns(row.many.median),
            format!("{:.1}", row.times_empty),
            row.aim.map_or(String::new(), |aim| format!("{aim:.0}")),
            format!("{:.2}", row.many_by_few),
        ]);
    }
    writeln!(text, "{table}")?;

    writeln!(text, "## First packets, with 10 and with 1,000,000 rules\n")?;
    writeln!(
        text,
        "The worst case: every packet is of another label, at random, and of rules of its own.\n"
    )?;
    let mut table =
        Table::new(["what", "min ns", "median ns", "min, 10^6", "median, 10^6", "more ns"]);
    for row in &results.first {
        let what = row.what.to_owned();
        let (few, many) = (row.few, row.many);
        let more = ns(row.more);
        table.row([what, ns(few.min), ns(few.median), ns(many.min), ns(many.median), more]);
    }
    writeln!(text, "{table}")?;

    writeln!(text, "## Established flows of real traffic\n\n{TRAFFIC}\n")?;
    writeln!(text, "An established flow pays nothing for the number of rules: aim {FLAT}.\n")?;
    let mut table = Table::new([
        "mode",
        "program",
        "empty",
        "min ns",
        "median ns",
        "min, 10^6",
        "median, 10^6",
        "10^6 / 10",
        "of minima",
    ]);
    for row in &results.traffic {
        table.row([
            row.mode.to_owned(),
            row.program.to_owned(),
            ns(row.empty.median),
            ns(row.few.min),
            ns(row.few.median),
            ns(row.many.min),
            ns(row.many.median),
            format!("{:.2}", row.many_by_few),
            format!("{:.2}", row.many_by_few_of_minima),
        ]);
    }
    writeln!(text, "{table}")?;

    writeln!(text, "## Sizes of the programs\n")?;
    let mut table = Table::new(["program", "verified", "instructions", "machine code, bytes"]);
    for program in &results.programs {
        let count = |number: u32| number.to_string();
        table.row([
            program.name.clone(),
            count(program.verified_instructions),
            count(program.translated_instructions),
            count(program.jited_bytes),
        ]);
    }
    writeln!(text, "{table}")?;
    Ok(text)
}
