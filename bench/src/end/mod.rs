//! The two ends of what is measured: processes of their own, so that each is in its node's namespace,
//! control group and security zone.
//!
//! The server answers every loop at once, on ports of its own for pinned and for free placement. The
//! driver reads [`Command`]s, a JSON object a line, from a named pipe, and answers on standard output.

mod bulk;
mod exchange;
mod rpc;
mod serve;
mod task;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use serve::serve;

use crate::environment;
use crate::samples::{float, median};

/// How long one answer may take before the question is repeated: longer than a virtual machine stalls.
const PATIENCE: Duration = Duration::from_secs(1);
/// Repetitions without an answer before a loop gives up.
const REPEATS: u64 = 20;
/// What is done before the clock starts.
const WARM: usize = 20;

/// A loop of `LMBench`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// `lat_syscall stat`.
    Stat,
    /// `lat_syscall open`: open and close.
    OpenClose,
    /// `lat_proc fork`: fork, exit, wait.
    Fork,
    /// `lat_proc exec`: fork, exec, exit, wait.
    Exec,
    /// `lat_proc shell`: the same by way of `/bin/sh -c`.
    Sh,
    /// `lat_udp`: 4 bytes there and back.
    Udp,
    /// `lat_rpc -p udp`: one byte as an XDR word there and back, by ONC RPC.
    RpcUdp,
    /// `lat_tcp`: 4 bytes there and back.
    Tcp,
    /// `lat_rpc -p tcp`.
    RpcTcp,
    /// `lat_connect`: socket and connect.
    Connect,
}

impl Row {
    /// As commands and files name it.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Where the two ends run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Both on CPU 0; connections and streams across CPUs 0 and 1.
    Pinned,
    /// Wherever the scheduler puts them.
    Free,
}

impl Placement {
    /// As commands and files name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Free => "free",
        }
    }

    const fn client(self) -> Option<usize> {
        match self {
            Self::Pinned => Some(0),
            Self::Free => None,
        }
    }

    /// The CPU of a server that works hand in hand with the client.
    const fn near(self) -> Option<usize> {
        self.client()
    }

    /// The CPU of a server that works beside the client.
    const fn far(self) -> Option<usize> {
        match self {
            Self::Pinned => Some(1),
            Self::Free => None,
        }
    }

    /// The ports of the servers.
    const fn port(self, service: Service) -> u16 {
        let base = match self {
            Self::Pinned => 9000,
            Self::Free => 9100,
        };
        base + service as u16
    }

    /// The version under which the ONC RPC program is registered.
    const fn version(self) -> u32 {
        match self {
            Self::Pinned => 1,
            Self::Free => 2,
        }
    }
}

/// What the server offers beside ONC RPC.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
enum Service {
    UdpEcho = 0,
    TcpEcho = 1,
    Greet = 2,
    Stream = 3,
    Packets = 4,
    Count = 5,
}

/// What a driver is to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A loop; answers with nanoseconds.
    Loop(Row, Placement),
    /// So many TCP streams at once; answers with bits per second.
    Stream(usize),
    /// Datagrams of so many bytes on so many flows; answers with those delivered per second.
    Packets(usize, usize),
    /// Connections one after the other; answers with connections per second.
    Connections,
    /// Datagrams until one is answered; answers with the seconds of the clock when it was.
    FirstAnswer,
}

/// A line to a driver.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Command {
    /// Comes back with the answer.
    pub id: u64,
    /// What to do.
    pub work: Work,
    /// The server.
    pub server: Ipv4Addr,
    /// For how long.
    pub milliseconds: u64,
}

/// A driver's answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The command's.
    pub id: u64,
    /// The median of a loop's times, or a rate.
    pub value: f64,
    /// How often the loop went round.
    pub count: u64,
    /// How often a question had to be repeated.
    pub repeated: u64,
    /// How many took how many nanoseconds, to 1 %.
    pub histogram: Vec<(u64, u64)>,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// Reads commands from a pipe and answers them until it is closed.
///
/// # Errors
/// The pipe is none, or standard output is closed.
pub fn drive(commands: &Path) -> Result<()> {
    for line in BufReader::new(File::open(commands)?).lines() {
        let command: Command = serde_json::from_str(&line?)?;
        let answer = work(&command).unwrap_or_else(|error| Answer {
            error: Some(format!("{error:#}")),
            ..Answer::default()
        });
        let answer = Answer { id: command.id, ..answer };
        // The id comes first: whoever waits for the answer looks for it there.
        println!("{} {}", command.id, serde_json::to_string(&answer)?);
    }
    Ok(())
}

fn work(command: &Command) -> Result<Answer> {
    let time = Duration::from_millis(command.milliseconds);
    let server = command.server;
    match command.work {
        Work::Loop(row, placement) => {
            environment::pin(placement.client())?;
            match row {
                Row::Stat => timed(time, task::stat),
                Row::OpenClose => timed(time, task::open_close),
                Row::Fork => timed(time, task::fork),
                Row::Exec => timed(time, task::exec),
                Row::Sh => timed(time, task::sh),
                Row::Udp => exchange::udp(server, placement, time),
                Row::Tcp => exchange::tcp(server, placement, time),
                Row::Connect => exchange::connect(server, placement, time),
                Row::RpcUdp => rpc::udp(server, placement, time),
                Row::RpcTcp => rpc::tcp(server, placement, time),
            }
        }
        Work::Stream(flows) => bulk::stream(server, flows, time),
        Work::Packets(flows, size) => bulk::packets(server, flows, size, time),
        Work::Connections => {
            environment::pin(Placement::Pinned.client())?;
            exchange::connections(server, time)
        }
        Work::FirstAnswer => exchange::first_answer(server, time),
    }
}

/// Goes round a loop for some time, and times each round with one reading of the clock.
fn timed(time: Duration, mut once: impl FnMut() -> Result<()>) -> Result<Answer> {
    for _ in 0..WARM {
        once()?;
    }
    let mut times = Vec::with_capacity(1 << 14);
    let mut before = Instant::now();
    let end = before + time;
    while before < end {
        once()?;
        let after = Instant::now();
        times.push(u64::try_from((after - before).as_nanos())?);
        before = after;
    }
    answer(times)
}

fn answer(times: Vec<u64>) -> Result<Answer> {
    let mut histogram = Histogram::<u64>::new(2)?;
    times.iter().try_for_each(|time| histogram.record(*time))?;
    let recorded = histogram.iter_recorded();
    Ok(Answer {
        count: u64::try_from(times.len())?,
        value: median(times.into_iter().map(float).collect()),
        histogram: recorded.map(|bar| (bar.value_iterated_to(), bar.count_at_value())).collect(),
        ..Answer::default()
    })
}
