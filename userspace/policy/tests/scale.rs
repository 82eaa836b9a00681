//! Large policies stay affordable. `--release` runs the full size.

use std::fmt::Write;
use std::time::{Duration, Instant};

use sigil_policy::{Class, Node, Pattern, Policy, Protection, Rule, Span, Zone, compile};

const RULES: u32 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
/// Several times what the development machine needs, so that only a change of order fails.
const BOUND: Duration = Duration::from_secs(30);

fn policy(nodes: u32, zones: u32) -> Policy {
    let node = |snid: u32| Node {
        snid,
        name: snid.to_string(),
        addresses: vec![(0x0a00_0000 + snid).into()],
        kernel_scid: u32::MAX,
        default_scid: 0,
    };
    let zone = |scid: u32| Zone {
        scid,
        name: scid.to_string(),
        protection: Protection::default(),
        signed_code: false,
        span: Span::default(),
    };
    Policy {
        cluster: "scale".to_owned(),
        serial: 1,
        nodes: (1..=nodes).map(node).collect(),
        zones: (1..=zones).map(zone).collect(),
        ..Policy::default()
    }
}

fn allow(line: u32, source: (u32, u32), target: (u32, u32)) -> Rule {
    let pattern = |(snid, scid)| Pattern { snid, scid };
    Rule {
        class: Class::Socket,
        source: pattern(source),
        target: Some(pattern(target)),
        allow: 1,
        deny: 0,
        alarm: 0,
        line,
        span: Span::default(),
    }
}

fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    let took = start.elapsed();
    println!("{what}: {took:?}");
    assert!(took < BOUND, "{what} took {took:?}");
    done
}

#[test]
fn distinct_rules_towards_one_node() {
    let mut policy = policy(10_000, 100);
    policy.rules =
        (0..RULES).map(|n| allow(n + 1, (1 + n / 100, 1 + n % 100), (1, 1 + n % 100))).collect();
    let rules = in_time(&format!("{RULES} rules"), || policy.rules_for(1)).unwrap();
    let synthetic =
        rules.peers.iter().filter(|(label, _)| label.scid == 0 || label.scid == u32::MAX).count();
    assert_eq!(rules.peers.len() - synthetic, RULES as usize);
}

#[test]
fn one_rule_for_everybody_takes_one_class() {
    let mut policy = policy(1_000, 100);
    policy.rules = vec![allow(1, (0, 0), (0, 0))];
    let rules = in_time("1000 nodes of 100 zones", || policy.rules_for(1)).unwrap();
    assert_eq!(rules.peers.len(), 1_000 * (100 + 2));
    assert_eq!(rules.verdicts.len(), 100, "all peers share one row");
}

#[test]
fn a_document_as_large_as_allowed() {
    let mut text = "<DSP cluster='scale' serial='1'>".to_owned();
    for id in 1..=300 {
        write!(
            text,
            "<node><SnID>{id}</SnID><address>10.0.{}.{}</address></node>",
            id / 200,
            id % 200
        )
        .unwrap();
        write!(text, "<zone><ScID>{id}</ScID></zone>").unwrap();
    }
    let target = if cfg!(debug_assertions) { 4 << 20 } else { sigil_policy::MAX_BYTES - 400 };
    let mut n = 0;
    while text.len() < target {
        writeln!(
            text,
            "<SOCKET_class_rule><sSnID>{}</sSnID><sScID>{}</sScID><tSnID>1</tSnID><tScID>{}</tScID><allow>CREATE</allow></SOCKET_class_rule>",
            1 + n % 300,
            1 + n / 300 % 300,
            1 + n / 90_000
        )
        .unwrap();
        n += 1;
    }
    text.push_str("</DSP>");
    let compiled =
        in_time(&format!("{n} rules as text"), || compile("scale", text.as_bytes(), None)).unwrap();
    in_time("lowering them", || compiled.policy.rules_for(1)).unwrap();
}

#[test]
fn a_hostile_document_is_refused_in_time() {
    let attributes = (0..200_000).map(|n| format!(" a{n}=''")).collect::<Vec<_>>().concat();
    for (what, body) in [
        ("elements", "<a/>".repeat(1 << 20)),
        ("nesting", "<node>".repeat(1 << 20)),
        ("attributes", format!("<node{attributes}/>")),
        ("entities", "&a;".repeat(1 << 20)),
        ("text", format!("<zone><ScID>{}</ScID></zone>", "9".repeat(1 << 20))),
        (
            "permissions",
            format!(
                "<PROCESS_class_rule><sSnID>*</sSnID><sScID>*</sScID><allow>{}</allow></PROCESS_class_rule>",
                "FROK ".repeat(1 << 20)
            ),
        ),
    ] {
        let text = format!("<DSP cluster='scale' serial='1'>{body}</DSP>");
        let report = in_time(what, || compile("hostile", text.as_bytes(), None)).unwrap_err();
        in_time("its report", || report.to_string());
    }
}

#[test]
fn products_of_nodes_and_zones_are_refused_not_built() {
    let mut policy = policy(100_000, 100_000);
    policy.rules = vec![allow(1, (0, 0), (0, 0))];
    let refused = in_time("10^10 labels", || policy.rules_for(1)).unwrap_err();
    assert!(refused.to_string().contains("peers"), "{refused}");
}
