//! Alarms that nodes report. What a node says is its own word: bounded, cleaned, and never more than
//! about itself.

use sigil_cluster::chain::{CHAIN_LEN, Head, Place, REPORT_MAX};
use sigil_cluster::proto::{ALARM_KINDS, NODE_ALARM_KINDS, NodeAlarm, Party, Report};
use sigil_common::verdict::{DropReason, Hook};
use tonic::Status as Refusal;

use crate::record::{self, Alarm, Chain};
use crate::state::State;

/// Longest words and messages of a node that are kept, in bytes.
const WORD: usize = 64;
const MESSAGE: usize = 512;

/// Takes a report, up to the alarm whose number it says. It is not on disk yet.
pub(crate) fn take(state: &State, snid: u32, report: &Report) -> Result<u64, Refusal> {
    if report.chain.len() != CHAIN_LEN || report.alarms.len() > REPORT_MAX {
        return Err(Refusal::invalid_argument("the report is malformed"));
    }
    let before = state.chain(snid);
    let (after, alarms) = judge(snid, &before, report);
    let number = after.number;
    if after != before {
        state.raise(alarms, Some((snid, after)));
    }
    Ok(number)
}

/// How far the chain is then, and what is to be told.
fn judge(snid: u32, before: &Chain, report: &Report) -> (Chain, Vec<Alarm>) {
    let mut alarms = Vec::new();
    let own = |kind: &str, message: String| Alarm {
        snid,
        kind: kind.to_owned(),
        message,
        count: 1,
        ..Alarm::default()
    };
    let mut head =
        Head { chain: before.id.clone(), number: before.number, hash: before.hash.clone() };
    if head.chain != report.chain {
        if head.number > 0 {
            let message = format!(
                "the node lost its alarms after {}, or hides them: it begins another chain",
                head.number
            );
            alarms.push(own("alarms-lost", message));
        }
        head = Head { chain: report.chain.clone(), ..Head::default() };
    }
    for alarm in &report.alarms {
        match head.place(alarm) {
            Place::Again => continue,
            Place::Next => {}
            Place::Gap(count) => {
                let message = format!("{count} alarms after number {} never came", head.number);
                alarms.push(Alarm { count, ..own("alarms-missing", message) });
            }
            Place::Broken => {
                let message =
                    format!("alarm {} does not continue what was here before", alarm.number);
                alarms.push(own("alarms-broken", message));
            }
        }
        head.advance(alarm);
        alarms.push(of_node(snid, alarm));
    }
    (Chain { id: head.chain, number: head.number, hash: head.hash }, alarms)
}

fn of_node(snid: u32, alarm: &NodeAlarm) -> Alarm {
    // Only what there is: these become names of metrics.
    let hook = Hook::ALL.iter().map(|hook| hook.name()).find(|name| *name == alarm.hook);
    let reason = DropReason::ALL.iter().map(|reason| reason.name()).find(|n| *n == alarm.reason);
    let party = |party: &Party| record::Party {
        snid: party.snid,
        scid: party.scid,
        zone: clean(&party.zone, WORD),
    };
    let kind = ALARM_KINDS.into_iter().take(NODE_ALARM_KINDS).find(|kind| *kind == alarm.kind);
    Alarm {
        snid,
        kind: kind.unwrap_or("other").to_owned(),
        message: clean(&alarm.message, MESSAGE),
        count: alarm.count.clamp(1, u64::MAX >> 16),
        hook: hook.unwrap_or_default().to_owned(),
        reason: reason.unwrap_or_default().to_owned(),
        source: alarm.source.as_ref().map(party),
        target: alarm.target.as_ref().map(party),
        node_number: alarm.number,
        ..Alarm::default()
    }
}

/// Text of a node for terminals and logs: short, and nothing in it steers one.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let safe = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.get(..end).unwrap_or_default().chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(numbers: impl IntoIterator<Item = u64>, chain: u8) -> Report {
        let chain = vec![chain; CHAIN_LEN];
        let mut head = Head { chain: chain.clone(), ..Head::default() };
        let mut alarms = Vec::new();
        for number in numbers {
            let alarm = NodeAlarm {
                number,
                previous: head.hash.clone(),
                kind: "drop".into(),
                count: 3,
                ..NodeAlarm::default()
            };
            head.advance(&alarm);
            alarms.push(alarm);
        }
        Report { chain, alarms }
    }

    fn kinds(alarms: &[Alarm]) -> Vec<&str> {
        alarms.iter().map(|alarm| alarm.kind.as_str()).collect()
    }

    #[test]
    fn each_alarm_counts_once_however_often_it_comes() {
        let (held, alarms) = judge(1, &Chain::default(), &report(1..=3, 7));
        assert_eq!((kinds(&alarms), held.number), (vec!["drop"; 3], 3));
        let (again, alarms) = judge(1, &held, &report(1..=4, 7));
        assert_eq!((kinds(&alarms), again.number), (vec!["drop"], 4));
    }

    #[test]
    fn what_is_left_out_changed_or_begun_anew_is_an_alarm() {
        let (held, _) = judge(1, &Chain::default(), &report(1..=3, 7));
        let (_, alarms) = judge(1, &held, &report([1, 2, 3, 9], 7));
        assert_eq!(kinds(&alarms), ["alarms-missing", "drop"]);
        assert_eq!(alarms[0].count, 5);
        let mut forged = report([3, 4], 7);
        forged.alarms.remove(0);
        let (_, alarms) = judge(1, &held, &forged);
        assert_eq!(kinds(&alarms), ["alarms-broken", "drop"]);
        let (_, alarms) = judge(1, &held, &report([1], 8));
        assert_eq!(kinds(&alarms), ["alarms-lost", "drop"]);
    }

    #[test]
    fn a_node_chooses_neither_kinds_nor_names_nor_what_terminals_do() {
        let alarm = NodeAlarm {
            kind: "canary-reverted".into(),
            message: "\u{1b}[2J".to_owned() + &"ä".repeat(1000),
            hook: "ingress".into(),
            reason: "made-up".into(),
            count: u64::MAX,
            ..NodeAlarm::default()
        };
        let taken = of_node(4, &alarm);
        assert_eq!((taken.snid, taken.kind.as_str(), taken.reason.as_str()), (4, "other", ""));
        assert!(taken.message.len() < MESSAGE + 8 && !taken.message.contains('\u{1b}'));
        for (kind, kept) in [("revoked", "revoked"), ("admin-refused", "other")] {
            let alarm = NodeAlarm { kind: kind.into(), ..NodeAlarm::default() };
            assert_eq!(of_node(4, &alarm).kind, kept);
        }
    }
}
