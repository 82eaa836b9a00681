//! The lowered maps against the rules read one by one, over random policies; and no input panics.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;
use sigil_common::abi::policy::{
    CREATE, CREATE_ALARM, CREATE_DENIED, PEER_ANY, PEER_DENIED, PEER_KERNEL, PEER_PERIMETER,
    RECEIVE, RECEIVE_ALARM, RECEIVE_DENIED,
};
use sigil_common::label::{KERNEL_SCID, Label};
use sigil_policy::{
    Class, Decision, NodeRules, Outcome, Policy, UnsignedEntry, VerdictEntry, VerdictKey, compile,
};

/// Ids that a rule may name: two nodes, a perimeter host, four zones, the kernel, any.
const SNIDS: [&str; 5] = ["1", "2", "3", "900", "*"];
const SCIDS: [&str; 6] = ["10", "20", "30", "40", "kernel", "*"];
const SOCKET: [&str; 5] = ["CREATE", "CREATE", "CONNECT", "SEND", "RECEIVE"];
const LOCAL: [&str; 4] = ["CREATE", "BIND", "CONNECT", "SEND"];
const PROCESS: [&str; 2] = ["FORK", "EXECVE"];

#[derive(Clone, Debug)]
struct RandomRule {
    shape: u8,
    snids: (usize, usize),
    scids: (usize, usize),
    verb: u8,
    permission: usize,
}

fn rule() -> impl Strategy<Value = RandomRule> {
    (0u8..8, (0usize..5, 0usize..5), (0usize..6, 0usize..6), 0u8..8, 0usize..20).prop_map(
        |(shape, snids, scids, verb, permission)| RandomRule {
            shape,
            snids,
            scids,
            verb,
            permission,
        },
    )
}

fn text(rule: &RandomRule, to: &mut String) {
    let verb = match rule.verb {
        0..4 => "allow",
        4..7 => "deny",
        _ => "alarm",
    };
    let (class, permissions): (_, &[&str]) = match rule.shape {
        0..4 => ("SOCKET", &SOCKET),
        4..6 => ("NETWORK", &["RECEIVE"]),
        6 => ("SOCKET", &LOCAL),
        _ => ("PROCESS", &PROCESS),
    };
    let permission = permissions[rule.permission % permissions.len()];
    let mut ids =
        format!("<sSnID>{}</sSnID><sScID>{}</sScID>", SNIDS[rule.snids.0], SCIDS[rule.scids.0]);
    if rule.shape < 6 {
        write!(ids, "<tSnID>{}</tSnID><tScID>{}</tScID>", SNIDS[rule.snids.1], SCIDS[rule.scids.1])
            .unwrap();
    }
    writeln!(to, "<{class}_class_rule>{ids}<{verb}>{permission}</{verb}></{class}_class_rule>")
        .unwrap();
}

fn document(rules: &[RandomRule], own_kernel: bool) -> String {
    let mut text_of = r#"<DSP cluster="p" serial="1">
<node><SnID>1</SnID><address>10.0.0.1</address></node>
<zone><ScID>10</ScID></zone>
<zone><ScID>20</ScID><protection>integrity</protection></zone>
<zone><ScID>30</ScID><protection>label</protection></zone>
<zone><ScID>40</ScID></zone>
<pair><ScID>10</ScID><ScID>30</ScID><protection>integrity</protection></pair>
<node><SnID>3</SnID><address>10.0.0.3</address></node>
<perimeter><address>10.0.9.0/24</address><SnID>900</SnID><ScID>30</ScID></perimeter>
"#
    .to_owned();
    let kernel = if own_kernel { "<kernel>20</kernel>" } else { "" };
    writeln!(text_of, "<node><SnID>2</SnID><address>10.0.0.2</address>{kernel}</node>").unwrap();
    for rule in rules {
        text(rule, &mut text_of);
    }
    text_of.push_str("</DSP>");
    text_of
}

/// Rules on the same ids that contradict each other are refused: keep the first of them.
fn compiled(rules: &[RandomRule], own_kernel: bool) -> Policy {
    let mut kept: Vec<RandomRule> = Vec::new();
    for rule in rules {
        kept.push(rule.clone());
        if compile("random", document(&kept, own_kernel).as_bytes(), None).is_err() {
            kept.pop();
        }
    }
    compile("random", document(&kept, own_kernel).as_bytes(), None).unwrap().policy
}

fn universe() -> impl Iterator<Item = Label> + Clone {
    [1, 2, 3, 4, 900]
        .into_iter()
        .flat_map(|snid| [0, 10, 20, 30, 40, 50, KERNEL_SCID].map(|scid| Label { snid, scid }))
}

fn entry(rules: &NodeRules, peer: Label, scid: u32) -> VerdictEntry {
    let find = || {
        let at = rules.peers.binary_search_by_key(&peer, |(label, _)| *label).ok()?;
        let key = VerdictKey { class: rules.peers[at].1.class, scid };
        let at = rules.verdicts.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(rules.verdicts[at].1)
    };
    find().unwrap_or_default()
}

fn flags(outcome: Outcome, [allowed, denied, alarm]: [u32; 3]) -> (u32, u32) {
    let flag = match outcome.decision {
        Decision::Allow(_) => allowed,
        Decision::Deny(_) => denied,
        Decision::NoRule => 0,
    };
    (flag | if outcome.alarm { alarm } else { 0 }, outcome.decision.line().unwrap_or(0))
}

fn agree(policy: &Policy, snid: u32) {
    let rules = policy.rules_for(snid).unwrap();
    for peer in universe().filter(|label| label.scid != 0) {
        for local in universe().filter(|label| label.snid == snid && label.scid != 0) {
            let got = entry(&rules, peer, local.scid);
            let (create, create_line) =
                flags(policy.open(local, peer), [CREATE, CREATE_DENIED, CREATE_ALARM]);
            let (receive, receive_line) =
                flags(policy.receive(peer, local), [RECEIVE, RECEIVE_DENIED, RECEIVE_ALARM]);
            assert_eq!(got.flags, create | receive, "{peer} and local {local}");
            assert_eq!(
                (got.create_line, got.receive_line),
                (create_line, receive_line),
                "{peer} and local {local}"
            );
            let needed = if policy.is_perimeter(peer) {
                0
            } else {
                policy.protection(peer.scid, local.scid).number()
            };
            assert!(got.flags == 0 || got.protection == needed, "{peer} and local {local}");
        }
    }
    some_zone_is_the_union(policy, &rules);
    local_masks_agree(policy, &rules);
    assert!(
        rules.peers.is_sorted_by(|(a, _), (b, _)| a < b)
            && rules.verdicts.is_sorted_by(|(a, _), (b, _)| a < b)
    );
    for (peer, found) in &rules.peers {
        let kernel = policy.node(peer.snid).is_some_and(|node| node.kernel_scid == peer.scid);
        assert_eq!(found.flags & PEER_KERNEL != 0, kernel);
        assert_eq!(found.flags & PEER_PERIMETER != 0, policy.is_perimeter(*peer));
        assert_eq!(found.flags & PEER_ANY != 0, peer.scid == 0);
        let row = rules.verdicts.iter().filter(|(key, _)| key.class == found.class);
        let passes = row.clone().any(|(_, entry)| entry.flags & (CREATE | RECEIVE) != 0);
        assert_eq!(found.flags & PEER_DENIED != 0, !passes && row.count() > 0, "{peer}");
    }
}

fn some_zone_is_the_union(policy: &Policy, rules: &NodeRules) {
    for snid in policy.nodes.iter().map(|node| node.snid) {
        for local in [10, 20, 30, 40, KERNEL_SCID] {
            let zones = policy
                .zones
                .iter()
                .map(|zone| entry(rules, Label { snid, scid: zone.scid }, local));
            let granted = zones.filter(|entry| entry.flags & (CREATE | RECEIVE) != 0);
            let union = granted.fold((0, 0), |(flags, protection), entry| {
                (flags | entry.flags & (CREATE | RECEIVE), entry.protection.max(protection))
            });
            let any = entry(rules, Label { snid, scid: 0 }, local);
            assert_eq!(
                (any.flags, any.protection),
                union,
                "some zone of {snid}, local zone {local}"
            );
        }
    }
}

fn local_masks_agree(policy: &Policy, rules: &NodeRules) {
    for local in universe().filter(|label| label.snid == rules.snid && label.scid != 0) {
        let masks = |class: Class, outcome: &dyn Fn(u32) -> Outcome| {
            class.permissions().iter().fold((0, 0), |(allow, alarm), permission| {
                let outcome = outcome(permission.bit);
                let bit = |set: bool| if set { permission.bit } else { 0 };
                (allow | bit(outcome.decision.allows()), alarm | bit(outcome.alarm))
            })
        };
        let socket = rules.sockets.iter().find(|(scid, _)| *scid == local.scid);
        assert_eq!(
            socket.map_or((0, 0), |(_, entry)| (entry.allow, entry.alarm)),
            masks(Class::Socket, &|bit| policy.local(local, bit)),
            "sockets of {local}"
        );
        let process = rules.processes.iter().find(|(scid, _)| *scid == local.scid);
        assert_eq!(
            process.map_or((0, 0), |(_, entry)| (entry.allow, entry.alarm)),
            masks(Class::Process, &|bit| policy.process(local, bit)),
            "processes of {local}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn maps_and_rules_agree(rules in prop::collection::vec(rule(), 0..14), own_kernel: bool) {
        let policy = compiled(&rules, own_kernel);
        for snid in [1, 2] {
            agree(&policy, snid);
        }
    }

    /// Of a parent's own <unsigned> and that of `*`, the own one holds; no zone is left out or added.
    #[test]
    fn unsigned_files_agree(rows in prop::collection::vec((0usize..6, 0usize..5), 0..8)) {
        let rows: BTreeMap<&str, usize> =
            rows.into_iter().map(|(parent, binary)| (SCIDS[parent], binary)).collect();
        let mut text = document(&[], false);
        text.truncate(text.len() - "</DSP>".len());
        for (parent, binary) in &rows {
            let counts = match *binary {
                4 => "<deny>EXECVE</deny>".to_owned(),
                zone => format!("<binaryScID>{}</binaryScID>", SCIDS[zone]),
            };
            writeln!(text, "<unsigned><parentScID>{parent}</parentScID>{counts}</unsigned>").unwrap();
        }
        let policy = compile("random", (text + "</DSP>").as_bytes(), None).unwrap().policy;
        let mut expected = Vec::new();
        for zone in &SCIDS[..4] {
            if let Some(binary) = rows.get(zone).or(rows.get("*")) {
                let binary = SCIDS[*binary].parse().unwrap_or(0);
                expected.push(UnsignedEntry { parent: zone.parse().unwrap(), binary });
            }
        }
        prop_assert_eq!(policy.rules_for(1).unwrap().unsigned, expected);
    }

    #[test]
    fn equal_documents_give_equal_maps(rules in prop::collection::vec(rule(), 0..14)) {
        let policy = compiled(&rules, false);
        prop_assert_eq!(policy.rules_for(1), policy.rules_for(1));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = compile("bytes", &bytes, None);
    }

    #[test]
    fn no_markup_panics(parts in prop::collection::vec(prop::sample::select(PARTS), 0..60)) {
        let text = parts.concat();
        let report = match compile("markup", text.as_bytes(), Some(3)) {
            Ok(compiled) => {
                for node in &compiled.policy.nodes {
                    let _ = compiled.policy.rules_for(node.snid);
                }
                compiled.warnings
            }
            Err(report) => report,
        };
        let _ = report.to_string();
    }
}

const PARTS: &[&str] = &[
    "<DSP cluster='c' serial='4'>",
    "</DSP>",
    "<DSP>",
    "<node>",
    "</node>",
    "<SnID>1</SnID>",
    "<SnID>",
    "</SnID>",
    "<zone><ScID>2</ScID></zone>",
    "<ScID>2</ScID>",
    "<name>kernel</name>",
    "<name> é </name>",
    "*",
    "0",
    "1",
    "<node><SnID>1</SnID><address>10.0.0.1</address></node>",
    "<address>10.0.0.1/33</address>",
    "<address>10.0.0.0/0</address>",
    "<perimeter>",
    "</perimeter>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "&amp;",
    "&#0;",
    "<!DOCTYPE x>",
    "<?xml version='1.0'?>",
    "<SOCKET_class_rule>",
    "</SOCKET_class_rule>",
    "<sSnID>*</sSnID>",
    "<sScID>*</sScID>",
    "<tSnID>1</tSnID>",
    "<tScID>kernel</tScID>",
    "<signer>",
    "</signer>",
    "<key>d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a</key>",
    "<key>PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=</key>",
    "<revoked>",
    "</revoked>",
    "<unsigned>",
    "</unsigned>",
    "<deny>EXECVE</deny>",
    "<binaryScID>2</binaryScID>",
    "<allow>CREATE</allow>",
    "<deny>,SEND ,</deny>",
    "<allow>",
    "</allow>",
    "99999999999999999999999",
    "\u{feff}",
    "\r\n",
    " ",
    "<a xmlns='u'/>",
    "<x:y/>",
    "\"",
    "'",
    ">",
];
