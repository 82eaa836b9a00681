//! From the kernel's rings to the log and to whoever watches.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sigil_control::{Endpoint, Event, EventKind, MAX_REPLY, Reply, encode};
use sigil_datapath::{Events, KernelLog};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{broadcast, oneshot, watch};

use crate::alarms::Samples;
use crate::names::Names;
use crate::report;

/// An event as the line that watchers get, made once for all of them.
pub(crate) type Line = Arc<[u8]>;

/// How many events wait for a slow watcher; then it loses the oldest, and is told how many.
pub(crate) const QUEUE: usize = 4096;

/// What the kernel tells.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) events: Events,
    /// Troubles that should never be; the programs themselves limit their rate.
    pub(crate) log: KernelLog,
}

/// Tells whoever wants to know: the log, those who watch, and the server by way of alarms.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    pub(crate) names: watch::Receiver<Arc<Names>>,
    pub(crate) watchers: broadcast::Sender<Line>,
    pub(crate) samples: Option<Samples>,
}

impl Teller {
    /// All but the log.
    pub(crate) fn tell(&self, event: Event) -> Result<()> {
        if let Some(samples) = &self.samples {
            samples.note(&event);
        }
        let line = encode(&Reply::Event(event), MAX_REPLY).context("an event")?;
        // That nobody watches is no failure.
        let _ = self.watchers.send(line.into());
        Ok(())
    }
}

/// Reads the rings on a thread of its own, for as long as the agent lives. Should that fail, the
/// error comes out of the receiver.
pub(crate) fn start(mut rings: Rings, teller: Teller) -> Result<oneshot::Receiver<Error>> {
    let (failure, failed) = oneshot::channel();
    let pump = move || {
        let mut valve = Valve::new(Instant::now());
        if let Err(error) = pump(&mut rings, &teller, &mut valve) {
            // The agent may be ending; then nobody needs to know.
            let _ = failure.send(error);
        }
    };
    thread::Builder::new()
        .name("events".to_owned())
        .spawn(pump)
        .context("cannot start a thread")?;
    Ok(failed)
}

/// Waits for events and hands them on.
fn pump(
    Rings { events, log: kernel }: &mut Rings,
    teller: &Teller,
    valve: &mut Valve,
) -> Result<()> {
    loop {
        let mut polled = [PollFd::new(events, PollFlags::IN), PollFd::new(kernel, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("the ring of events"),
        }
        for ready in &polled {
            ensure!(
                !ready.revents().intersects(PollFlags::ERR | PollFlags::NVAL),
                "the ring of events is gone"
            );
        }
        kernel.flush();
        while let Some(raw) = events.next() {
            let event = report::event(&raw, &teller.names.borrow(), micros());
            log(&event, valve);
            teller.tell(event)?;
        }
    }
}

/// Sends events to one watcher until it hangs up. It never holds up the agent or other watchers.
pub(crate) async fn follow(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut events: broadcast::Receiver<Line>,
) -> Result<()> {
    let mut ignored = [0; 64];
    loop {
        let line = tokio::select! {
            received = from.read(&mut ignored) => match received? {
                0 => return Ok(()),
                _ => continue,
            },
            event = events.recv() => match event {
                Ok(line) => line,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    encode(&Reply::Missed { count }, MAX_REPLY)?.into()
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
        };
        to.write_all(&line).await?;
    }
}

fn log(event: &Event, valve: &mut Valve) {
    match valve.pass(Instant::now()) {
        Passage::Held => return,
        Passage::Open { held: 0 } => {}
        Passage::Open { held } => tracing::info!(held, "events that were not logged"),
    }
    let Event { hook, reason, source, target, line, suppressed, .. } = event;
    let (source, target) = (end(source), end(target));
    let protocol = event.protocol.as_deref().unwrap_or("-");
    let process = event
        .process
        .as_ref()
        .map_or_else(|| "-".to_owned(), |of| format!("{} {}", of.pid, of.comm));
    let line = line.unwrap_or_default();
    match event.kind {
        EventKind::Alarm => tracing::warn!(hook, protocol, source, target, process, line, "alarm"),
        // Whoever ends them says so.
        EventKind::Revoked => {}
        EventKind::Drop | EventKind::Observed => tracing::info!(
            hook,
            reason,
            protocol,
            source,
            target,
            process,
            line,
            suppressed,
            "{}",
            event.kind.name()
        ),
    }
}

/// `two/web 10.77.0.2:80`; ids stand for names that are not known.
fn end(of: &Endpoint) -> String {
    let name = |name: &Option<String>, id: u32| name.clone().unwrap_or_else(|| id.to_string());
    let address = of.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let port = of.port.map_or_else(String::new, |port| format!(":{port}"));
    format!("{}/{} {address}{port}", name(&of.node, of.snid), name(&of.zone, of.scid))
}

/// Keeps a flood of made-up flows, which the kernel cannot tell from many flows, out of the log.
#[derive(Debug)]
struct Valve {
    since: Instant,
    passed: u32,
    held: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Passage {
    Open { held: u64 },
    Held,
}

impl Valve {
    const PERIOD: Duration = Duration::from_secs(1);
    const MOST: u32 = 50;

    const fn new(now: Instant) -> Self {
        Self { since: now, passed: 0, held: 0 }
    }

    fn pass(&mut self, now: Instant) -> Passage {
        if now.duration_since(self.since) >= Self::PERIOD {
            (self.since, self.passed) = (now, 0);
        }
        if self.passed == Self::MOST {
            self.held += 1;
            return Passage::Held;
        }
        self.passed += 1;
        Passage::Open { held: std::mem::take(&mut self.held) }
    }
}

/// Microseconds since 1970.
pub(crate) fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigil_control::{Lines, decode};
    use tokio::io::duplex;

    #[tokio::test]
    async fn a_slow_watcher_is_told_exactly_what_it_missed() {
        const SENT: u64 = 5000;
        let (sender, receiver) = broadcast::channel(64);
        let (ours, mut theirs) = duplex(256);
        let (read, write) = tokio::io::split(ours);
        let follower = tokio::spawn(follow(read, write, receiver));
        for time_ns in 0..SENT {
            let raw = sigil_common::abi::event::DropEvent { time_ns, ..Default::default() };
            let event = report::event(&raw, &Names::default(), 0);
            // The watcher reads nothing yet, and this must not wait for it.
            sender.send(encode(&Reply::Event(event), MAX_REPLY).unwrap().into()).unwrap();
            if time_ns % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(sender);
        let mut lines = Lines::new(MAX_REPLY);
        let (mut seen, mut missed, mut last) = (0, 0, None);
        let mut buffer = [0; 4096];
        loop {
            let length = theirs.read(&mut buffer).await.unwrap();
            if length == 0 {
                break;
            }
            lines.push(&buffer[..length]);
            while let Some(line) = lines.next().unwrap() {
                match decode(&line).unwrap() {
                    Reply::Event(event) => {
                        seen += 1;
                        last = last.max(Some(event.time_ns));
                    }
                    Reply::Missed { count } => missed += count,
                    other => panic!("{other:?}"),
                }
            }
        }
        follower.await.unwrap().unwrap();
        assert!(missed > 0, "nothing was missed: the test tests nothing");
        assert_eq!(seen + missed, SENT);
        assert_eq!(last, Some(SENT - 1), "the newest are kept");
    }

    #[tokio::test]
    async fn a_watcher_that_hangs_up_is_let_go() {
        let (_sender, receiver) = broadcast::channel(4);
        let (ours, theirs) = duplex(64);
        let (read, write) = tokio::io::split(ours);
        drop(theirs);
        follow(read, write, receiver).await.unwrap();
    }

    #[test]
    fn the_log_takes_so_many_a_second_and_says_how_many_it_did_not_take() {
        let start = Instant::now();
        let mut valve = Valve::new(start);
        let open = (0..80).filter(|_| valve.pass(start) != Passage::Held).count();
        assert_eq!(open, Valve::MOST as usize);
        assert_eq!(valve.pass(start + Valve::PERIOD), Passage::Open { held: 30 });
        assert_eq!(valve.pass(start + Valve::PERIOD), Passage::Open { held: 0 });
    }
}
