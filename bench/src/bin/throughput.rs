//! How much a TCP stream carries, and how long a UDP round trip takes, with Sigil and without.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use serde::Serialize;
use sigil_bench::bed::{Bed, Setup};
use sigil_bench::machine::{self, Machine};
use sigil_bench::numbers::Summary;
use sigil_bench::peer;
use sigil_bench::table::Table;
use sigil_datapath::Mode;

const METHOD: &str = "\
One veth pair between two namespaces for each row, all alike but for what is attached to both ends;
congestion control reno. The rows are measured in turn, round after round. Stream: one TCP connection,
client on CPU 0, server on CPU 1, 64 KiB a write, Gbit/s of payload. Round trip: UDP, 32 bytes, both
ends on CPU 0, microseconds; its median and minimum are of the rounds' medians. The ratio is the median
of the rounds' own ratios. An XDP program on a veth end has every frame of its peer cut into segments,
so each way of verifying is held against a pair that cuts, or does not cut, as it does. The ratio of
the fastest rounds is what is left of the difference when the machine's other work steps aside.";

/// Measures a TCP stream and UDP round trips with Sigil and without.
#[derive(Parser)]
struct Arguments {
    /// Fewer and shorter rounds.
    #[arg(long)]
    quick: bool,
    /// Where to write throughput.json and throughput.md.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What is compared: its name, what is attached, and the row that it is held against and how.
const ROWS: [Row; 4] = [
    Row { name: "plain veth", setup: Setup::Plain, against: None },
    Row { name: "XDP that passes everything", setup: Setup::PassingXdp, against: None },
    Row { name: "Sigil, TC", setup: Setup::Sigil(Mode::Tc, 10), against: Some((0, 0.85)) },
    Row { name: "Sigil, XDP", setup: Setup::Sigil(Mode::Xdp, 10), against: Some((1, 0.90)) },
];

struct Row {
    name: &'static str,
    setup: Setup,
    /// A row of the same table, and the ratio of streams that is aimed at.
    against: Option<(usize, f64)>,
}

#[derive(Serialize)]
struct Results {
    schema: u32,
    machine: Machine,
    method: &'static str,
    rows: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    name: &'static str,
    against: Option<&'static str>,
    /// Bits per second; `min` is the slowest round.
    stream: Summary,
    stream_best: f64,
    stream_ratio: Option<f64>,
    stream_best_ratio: Option<f64>,
    aim: Option<f64>,
    /// Nanoseconds.
    round_trip: Summary,
    round_trip_least: f64,
    round_trip_ratio: Option<f64>,
}

/// A row's pairs and rounds.
struct Runner {
    streams: Bed,
    pings: Bed,
    rates: Vec<f64>,
    times: Vec<f64>,
    least: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let machine = Machine::here();
    let (rounds, milliseconds, pings) =
        if arguments.quick { (5, 400, 3000) } else { (15, 800, 10_000) };
    let mut runners = Vec::new();
    for (index, row) in ROWS.iter().enumerate() {
        let mut streams = Bed::new(&format!("s{index}"), row.setup)?;
        streams.serve(peer::Server::Sink, 1)?;
        let mut pings = Bed::new(&format!("p{index}"), row.setup)?;
        pings.serve(peer::Server::Echo, 0)?;
        let (rates, times) = (Vec::new(), Vec::new());
        runners.push(Runner { streams, pings, rates, times, least: f64::MAX });
    }
    for _ in 0..rounds {
        for runner in &mut runners {
            let stream = runner.streams.exchange(peer::Client::Stream, 0, milliseconds)?;
            runner.rates.push(stream.rate);
        }
        for runner in &mut runners {
            let ping = runner.pings.exchange(peer::Client::Ping, 0, pings)?;
            ensure!(ping.lost == 0, "{} datagrams lost", ping.lost);
            runner.times.push(ping.median);
            runner.least = runner.least.min(ping.min);
        }
    }
    let rows = ROWS.iter().zip(&runners).map(|(row, runner)| {
        let other = row.against.and_then(|(index, _)| runners.get(index));
        Measured {
            name: row.name,
            against: row.against.and_then(|(index, _)| ROWS.get(index)).map(|row| row.name),
            stream: Summary::of(&runner.rates),
            stream_best: Summary::largest(&runner.rates),
            stream_ratio: other.map(|other| ratio(&runner.rates, &other.rates)),
            stream_best_ratio: other
                .map(|other| Summary::largest(&runner.rates) / Summary::largest(&other.rates)),
            aim: row.against.map(|(_, aim)| aim),
            round_trip: Summary::of(&runner.times),
            round_trip_least: runner.least,
            round_trip_ratio: other.map(|other| ratio(&runner.times, &other.times)),
        }
    });
    let results = Results { schema: 1, machine, method: METHOD, rows: rows.collect() };
    let tables = tables(&results)?;
    print!("{tables}");
    if let Some(out) = &arguments.out {
        machine::write(out, "throughput", &results, &tables)?;
    }
    Ok(())
}

/// The median of the rounds' ratios: what slowed one round down slowed down both.
fn ratio(rounds: &[f64], others: &[f64]) -> f64 {
    let ratios: Vec<_> = rounds.iter().zip(others).map(|(a, b)| a / b).collect();
    Summary::of(&ratios).median
}

fn tables(results: &Results) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "## Streams and round trips\n\n{METHOD}\n")?;
    let mut table = Table::new([
        "pair",
        "stream, Gbit/s",
        "slowest",
        "fastest",
        "against",
        "ratio",
        "of fastest",
        "aim",
        "UDP, us",
        "least",
        "ratio of UDP",
    ]);
    let optional = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
    for row in &results.rows {
        let rate = |bits: f64| format!("{:.2}", bits / 1e9);
        let time = |ns: f64| format!("{:.2}", ns / 1e3);
        table.row([
            row.name.to_owned(),
            rate(row.stream.median),
            rate(row.stream.min),
            rate(row.stream_best),
            row.against.unwrap_or_default().to_owned(),
            optional(row.stream_ratio),
            optional(row.stream_best_ratio),
            optional(row.aim),
            time(row.round_trip.median),
            time(row.round_trip_least),
            optional(row.round_trip_ratio),
        ]);
    }
    writeln!(text, "{table}")?;
    Ok(text)
}
