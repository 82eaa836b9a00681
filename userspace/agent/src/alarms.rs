//! What the node tells its server: drops as the kernel counts them, rules with `<alarm>`, and what is
//! not as it was set up.
//!
//! Drops are taken from the counters, never from events, which may be lost: what the server adds up is
//! what the kernel counted. Each hook and reason is told at once, and then ever more seldom for as long
//! as it goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use sigil_cluster::proto::{NodeAlarm, Party, Report, Reported};
use sigil_control::{Endpoint, Event, EventKind};
use sigil_datapath::Counters;

use crate::spool::Spool;

/// Between two alarms of one hook and reason: at first, and at most.
const SOON: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_mins(1);
/// Events of rules with `<alarm>` that wait to be told; more are counted.
const RULES: usize = 64;
/// Bytes of a message at most.
const MESSAGE: usize = 1024;

/// The newest events, from the thread that reads the kernel's ring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Arc<Mutex<Sampled>>);

#[derive(Debug, Default)]
struct Sampled {
    /// By hook and reason.
    drops: BTreeMap<(String, String), Event>,
    rules: Vec<Event>,
    more: u64,
    revoked: Revoked,
}

/// Processes that were ended because their signature is revoked, by zone: the last, and how many.
type Revoked = BTreeMap<u32, (Event, u64)>;

fn add(to: &mut Revoked, event: Event, count: u64) {
    let (last, sum) = to.entry(event.source.scid).or_insert((event.clone(), 0));
    (*last, *sum) = (event, *sum + count);
}

impl Samples {
    /// Takes note of an event.
    pub(crate) fn note(&self, event: &Event) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            EventKind::Drop => {
                let of = (event.hook.clone(), event.reason.clone());
                held.drops.insert(of, event.clone());
            }
            EventKind::Alarm if held.rules.len() < RULES => held.rules.push(event.clone()),
            EventKind::Alarm => held.more += 1 + u64::from(event.suppressed),
            EventKind::Revoked => add(&mut held.revoked, event.clone(), 1),
            EventKind::Observed => {}
        }
    }

    fn take(&self) -> Sampled {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// When one hook and reason may be told again.
#[derive(Clone, Copy, Debug)]
struct Pace {
    next: Instant,
    wait: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Alarms {
    spool: Spool,
    samples: Samples,
    drops: BTreeMap<(String, String), Event>,
    paces: BTreeMap<(String, String), Pace>,
    /// Uses of rules with `<alarm>` that are counted and not told.
    more: u64,
    revoked: Revoked,
}

impl Alarms {
    pub(crate) fn open(state: &Path, fresh: bool) -> Result<Self> {
        let spool = Spool::open(state, fresh)?;
        let samples = Samples::default();
        Ok(Self {
            spool,
            samples,
            drops: BTreeMap::new(),
            paces: BTreeMap::new(),
            more: 0,
            revoked: Revoked::new(),
        })
    }

    /// Where events are noted.
    pub(crate) fn samples(&self) -> Samples {
        self.samples.clone()
    }

    /// Raises an alarm.
    pub(crate) fn raise(&mut self, kind: &str, mut message: String) {
        message.truncate(message.floor_char_boundary(MESSAGE));
        let alarm = NodeAlarm { message, ..blank(kind) };
        self.spool.push(vec![(alarm, None)]);
    }

    /// Raises what happened since the last time. Where much waits for the server it is counted alone:
    /// drops by the kernel, which has counted them anyway, uses of rules here.
    pub(crate) fn look(&mut self, counters: &Counters, now: Instant) {
        let Sampled { mut drops, rules, more, revoked } = self.samples.take();
        self.drops.append(&mut drops);
        for (event, count) in revoked.into_values() {
            add(&mut self.revoked, event, count);
        }
        self.more += more;
        if self.spool.is_crowded() {
            self.more += rules.iter().map(|event| 1 + u64::from(event.suppressed)).sum::<u64>();
            return;
        }
        let mut alarms: Vec<_> = rules.iter().map(|event| (of_rule(event), None)).collect();
        let revoked = std::mem::take(&mut self.revoked).into_values();
        alarms.extend(revoked.map(|(last, count)| (of_revoked(&last, count), None)));
        if self.more > 0 {
            let message = "further uses of rules with <alarm>".to_owned();
            let count = std::mem::take(&mut self.more);
            alarms.push((NodeAlarm { message, count, ..blank("rule") }, None));
        }
        for (hook, row) in &counters.rows {
            for (reason, total) in &row.dropped {
                let (hook, reason) = (hook.name(), reason.name());
                let held = self.spool.reported(hook, reason);
                // Counters that are behind began anew.
                let count = if *total >= held { *total - held } else { *total };
                if count == 0 || !self.may(hook, reason, now) {
                    continue;
                }
                let of = (hook.to_owned(), reason.to_owned());
                let alarm = of_drop(&of, count, self.drops.remove(&of).as_ref());
                let (hook, reason) = of;
                alarms.push((alarm, Some(Reported { hook, reason, total: *total })));
            }
        }
        self.spool.push(alarms);
    }

    fn may(&mut self, hook: &str, reason: &str, now: Instant) -> bool {
        let of = (hook.to_owned(), reason.to_owned());
        let pace = self.paces.entry(of).or_insert(Pace { next: now, wait: SOON });
        if now < pace.next {
            return false;
        }
        // Quiet for so long: it begins anew.
        let quiet = now.duration_since(pace.next) > pace.wait;
        pace.wait = if quiet { SOON } else { (pace.wait * 2).min(SELDOM) };
        pace.next = now + pace.wait;
        true
    }

    /// What to report next, if anything waits.
    pub(crate) fn report(&self) -> Option<Report> {
        self.spool.report()
    }

    /// The server has all up to a number.
    pub(crate) fn heard(&mut self, number: u64) {
        self.spool.heard(number);
    }

    /// How many the server has not heard.
    pub(crate) fn waiting(&self) -> usize {
        self.spool.waiting()
    }
}

fn blank(kind: &str) -> NodeAlarm {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    NodeAlarm { time, kind: kind.to_owned(), count: 1, ..NodeAlarm::default() }
}

fn party(of: &Endpoint) -> Party {
    Party { snid: of.snid, scid: of.scid, zone: of.zone.clone().unwrap_or_default() }
}

/// `web1/web 10.77.0.1:80`
fn end(of: &Endpoint) -> String {
    let name = |name: &Option<String>, id: u32| name.clone().unwrap_or_else(|| id.to_string());
    let address = of.address.map(|address| format!(" {address}")).unwrap_or_default();
    let port = of.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}/{}{address}{port}", name(&of.node, of.snid), name(&of.zone, of.scid))
}

fn between(event: &Event) -> String {
    let process = event.process.as_ref().map(|of| format!(", process {} {}", of.pid, of.comm));
    let line = event.line.map(|line| format!(", line {line}")).unwrap_or_default();
    let (source, target) = (end(&event.source), end(&event.target));
    format!("{source} to {target}{}{line}", process.unwrap_or_default())
}

fn of_rule(event: &Event) -> NodeAlarm {
    NodeAlarm {
        message: between(event),
        hook: event.hook.clone(),
        source: Some(party(&event.source)),
        target: Some(party(&event.target)),
        count: 1 + u64::from(event.suppressed),
        ..blank("rule")
    }
}

fn of_revoked(last: &Event, count: u64) -> NodeAlarm {
    let process = last.process.as_ref().map(|of| format!(", last {} {}", of.pid, of.comm));
    let (source, process) = (end(&last.source), process.unwrap_or_default());
    NodeAlarm {
        message: format!("processes of {source} ended: their signature is revoked{process}"),
        hook: last.hook.clone(),
        source: Some(party(&last.source)),
        target: Some(party(&last.target)),
        count,
        ..blank("revoked")
    }
}

fn of_drop((hook, reason): &(String, String), count: u64, last: Option<&Event>) -> NodeAlarm {
    let last_one = last.map(|event| format!(", last {}", between(event))).unwrap_or_default();
    NodeAlarm {
        message: format!("{reason} at {hook}{last_one}"),
        hook: hook.clone(),
        reason: reason.clone(),
        source: last.map(|event| party(&event.source)),
        target: last.map(|event| party(&event.target)),
        count,
        ..blank("drop")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigil_common::verdict::{DropReason, Hook};
    use sigil_datapath::Row;

    fn counters(total: u64) -> Counters {
        let row = Row { dropped: vec![(DropReason::NoRule, total)], ..Row::default() };
        Counters { rows: vec![(Hook::Ingress, row)], ..Counters::default() }
    }

    fn told(alarms: &Alarms) -> Vec<u64> {
        alarms.report().unwrap_or_default().alarms.iter().map(|alarm| alarm.count).collect()
    }

    #[test]
    fn what_is_told_adds_up_to_what_was_counted_however_seldom() {
        let state = tempfile::tempdir().unwrap();
        let mut alarms = Alarms::open(state.path(), true).unwrap();
        let start = Instant::now();
        for second in 0..300u32 {
            alarms.look(&counters(10 * u64::from(second + 1)), start + SOON * second);
        }
        alarms.look(&counters(3000), start + SOON * 400);
        let counts = told(&alarms);
        assert!(counts.len() < 15, "{counts:?}");
        assert_eq!(counts.iter().sum::<u64>(), 3000);
    }

    /// A server that is away for long, and rules with `<alarm>` that are used all the time.
    #[test]
    fn what_waits_for_long_is_bounded_and_adds_up_all_the_same() {
        const SECONDS: u32 = 1000;
        let state = tempfile::tempdir().unwrap();
        let mut alarms = Alarms::open(state.path(), true).unwrap();
        let samples = alarms.samples();
        let raw = sigil_common::abi::event::DropEvent::default();
        let event = crate::report::event(&raw, &crate::names::Names::default(), 0);
        let event = Event { kind: EventKind::Alarm, suppressed: 1, ..event };
        let start = Instant::now();
        for second in 0..SECONDS {
            for _ in 0..100 {
                samples.note(&event);
            }
            alarms.look(&counters(10 * u64::from(second + 1)), start + SOON * second);
        }
        assert!(alarms.waiting() < 4096);
        let (mut drops, mut rules, mut next) = (0, 0, 1);
        for second in SECONDS.. {
            let Some(report) = alarms.report() else { break };
            for alarm in &report.alarms {
                assert_eq!(alarm.number, next, "a gap");
                next += 1;
                *(if alarm.kind == "drop" { &mut drops } else { &mut rules }) += alarm.count;
            }
            alarms.heard(next - 1);
            alarms.look(&counters(10 * u64::from(SECONDS)), start + SOON * second);
        }
        assert_eq!((drops, rules), (10 * u64::from(SECONDS), 200 * u64::from(SECONDS)));
    }

    #[test]
    fn ends_by_revocation_are_told_for_each_zone_with_their_number() {
        let state = tempfile::tempdir().unwrap();
        let mut alarms = Alarms::open(state.path(), true).unwrap();
        let samples = alarms.samples();
        let names = crate::names::Names { snid: 1, ..Default::default() };
        for (pid, scid) in [(7, 20), (8, 20), (9, 30)] {
            samples.note(&crate::report::revoked(1, pid, "nginx", scid, &names));
        }
        alarms.look(&Counters::default(), Instant::now());
        let told = alarms.report().unwrap().alarms;
        let seen: Vec<_> = told.iter().map(|of| (of.kind.as_str(), of.count)).collect();
        assert_eq!(seen, [("revoked", 2), ("revoked", 1)]);
        assert!(told[0].message.contains("last 8 nginx"), "{}", told[0].message);
        alarms.look(&Counters::default(), Instant::now());
        assert_eq!(alarms.waiting(), 2, "nothing twice");
    }

    #[test]
    fn another_agent_tells_nothing_twice_and_counters_that_began_anew_are_told() {
        let state = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut alarms = Alarms::open(state.path(), true).unwrap();
        alarms.look(&counters(7), now);
        let mut next = Alarms::open(state.path(), false).unwrap();
        next.look(&counters(7), now);
        assert_eq!(told(&next), [7]);
        next.look(&counters(9), now);
        assert_eq!(told(&next), [7, 2]);
        let mut rebooted = Alarms::open(state.path(), true).unwrap();
        rebooted.look(&counters(7), now);
        assert_eq!(told(&rebooted), [7, 2, 7]);
    }
}
