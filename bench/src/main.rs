//! `sigil-bench`: measures what Sigil costs, and reports it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use sigil_bench::environment::Environment;
use sigil_bench::measure::{self, Distributions, Pace};
use sigil_bench::mode::{self, Mode, WIREGUARD};
use sigil_bench::samples::Samples;
use sigil_bench::{bed, end, kernel, report};

/// Measures what Sigil costs, and reports it. Needs root; all traffic stays in namespaces of its own.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Measure, and write a results folder
    Run(Run),
    /// Add what emulated machines measured to a results folder, in place of what they measured before
    Add {
        /// The results folder
        folder: PathBuf,
        /// The folders that those machines wrote
        #[arg(required = true)]
        from: Vec<PathBuf>,
    },
    /// Make the tables and plots of a results folder anew
    Report {
        /// The results folder
        folder: PathBuf,
        /// A document whose block between the marks `<!-- measured -->` is replaced as well
        #[arg(long)]
        readme: Option<PathBuf>,
    },
    /// One end of what is measured; started by `run`
    #[command(hide = true, subcommand)]
    End(End),
}

#[derive(clap::Args)]
struct Run {
    /// Where to write; printed alone where it is missing
    #[arg(long)]
    out: Option<PathBuf>,
    /// A first table, within a minute
    #[arg(long)]
    quick: bool,
    /// What to measure; all but kernel-peers where nothing is named
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// The code's revision, for the record
    #[arg(long, default_value = "unknown")]
    revision: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The paper's loops of processes and files
    Tasks,
    /// Signed programs, the first time and again
    Verify,
    /// The paper's loops over the network
    Latency,
    /// The programs' own cost in the kernel
    Kernel,
    /// Streams, datagrams and connections per second
    Throughput,
    /// Round trips by number of rules, beside nftables
    Rules,
    /// Compiling, loading and memory by number of rules
    Scale,
    /// What a stock kernel has beside Sigil, on an emulated machine whose clock counts instructions
    KernelPeers,
}

#[derive(Subcommand)]
enum End {
    /// Answer all loops
    Serve {
        /// Register with this node's rpcbind
        #[arg(long)]
        rpcbind: bool,
    },
    /// Run loops as a pipe says
    Drive {
        /// The pipe
        commands: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Action::Run(arguments) => run(&arguments),
        Action::Add { folder, from } => add(&folder, &from),
        Action::Report { folder, readme } => {
            report::write(&folder)?;
            if let Some(readme) = readme {
                report::readme::update(&readme, &folder)?;
            }
            Ok(())
        }
        Action::End(End::Serve { rpcbind }) => end::serve(rpcbind),
        Action::End(End::Drive { commands }) => end::drive(&commands),
    }
}

fn run(arguments: &Run) -> Result<()> {
    let Run { quick, .. } = *arguments;
    let parts = match arguments.parts.as_slice() {
        [] if quick => vec![Part::Tasks, Part::Latency],
        [] => Part::value_variants().iter().copied().filter(|part| part.is_here()).collect(),
        parts => parts.to_vec(),
    };
    let mut environment = Environment::here(&today()?, &arguments.revision);
    let (mut samples, mut distributions) = (Samples::default(), Distributions::default());
    for part in parts {
        let start = Instant::now();
        let pace = part.pace(quick);
        let measured = match part {
            Part::Tasks => distributions.take(measure::tasks(pace)?),
            Part::Verify => measure::verify(pace)?,
            Part::Latency => distributions.take(measure::latency(&modes(quick), pace, !quick)?),
            Part::Kernel => kernel::kernel(pace.rounds, quick)?,
            Part::Throughput => measure::throughput(&modes(quick), pace)?,
            Part::Rules => measure::rules(pace, quick)?,
            Part::Scale => measure::scale(pace, quick)?,
            Part::KernelPeers => measure::peers(pace)?,
        };
        samples.append(measured);
        let name =
            part.to_possible_value().map_or_else(String::new, |value| value.get_name().into());
        eprintln!("{name}: {:.0} s", start.elapsed().as_secs_f64());
        // Part by part, so that what a later part fails at does not lose the earlier ones.
        if let Some(out) = &arguments.out {
            fs::create_dir_all(out).with_context(|| out.display().to_string())?;
            samples.write(out)?;
            distributions.write(out)?;
            environment.close();
            environment.write(out)?;
        }
    }
    let Some(out) = &arguments.out else {
        print!("{}", report::summary(&samples, None));
        return Ok(());
    };
    report::write(out)?;
    println!("{}", Path::new(out).join(report::SUMMARY).display());
    Ok(())
}

/// Takes over what the emulated machines measured.
fn add(folder: &Path, from: &[PathBuf]) -> Result<()> {
    let (mut samples, mut environment) = (Samples::read(folder)?, Environment::read(folder)?);
    for from in from {
        let measured = Samples::read(from)?;
        let at = measure::circumstances_of(&measured).map(str::to_owned);
        let at = at.with_context(|| format!("{}: not of kernel-peers", from.display()))?;
        let mut guest = Environment::read(from)?;
        let emulator = from.join("emulator");
        let said = fs::read_to_string(&emulator).with_context(|| emulator.display().to_string())?;
        said.trim().clone_into(&mut guest.emulator);
        environment.guests.insert(at, guest);
        samples.replace(measured);
    }
    samples.write(folder)?;
    environment.write(folder)?;
    report::write(folder)
}

impl Part {
    /// Whether it is measured on this machine, rather than on an emulated one.
    fn is_here(self) -> bool {
        self != Self::KernelPeers
    }

    fn pace(self, quick: bool) -> Pace {
        let (rounds, milliseconds) = match (self, quick) {
            (Self::Tasks, true) => (6, 40),
            (Self::Tasks, false) => (15, 200),
            (Self::Latency, true) => (7, 40),
            (Self::Latency, false) => (11, 120),
            (Self::Kernel, true) | (Self::Verify, _) => (15, 0),
            (Self::Kernel, false) => (60, 0),
            (Self::Throughput, true) => (6, 100),
            (Self::Throughput, false) => (7, 250),
            (Self::Rules, true) | (Self::KernelPeers, _) => (11, 20),
            (Self::Rules, false) => (25, 40),
            (Self::Scale, _) => (6, 0),
        };
        Pace { rounds, time: Duration::from_millis(milliseconds) }
    }
}

/// The modes that this machine can take.
fn modes(quick: bool) -> Vec<Mode> {
    if quick {
        return mode::QUICK.into();
    }
    let mut modes = Vec::from(mode::ALL);
    if let Err(error) = bed::tunnel::program() {
        eprintln!("left out: {}: {error:#}", WIREGUARD.title);
        modes.retain(|mode| *mode != WIREGUARD);
    }
    modes
}

fn today() -> Result<String> {
    let output = Command::new("date").arg("+%F").output().context("date")?;
    ensure!(output.status.success(), "date failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
