//! What rules mean, case by case.

use sigil_common::label::{KERNEL_SCID, Label};
use sigil_policy::{Class, Explanation, Policy, Question, RelabelEntry, compile};

fn policy(rules: &str) -> Policy {
    let document = format!(
        "<DSP cluster='c' serial='1'>
<node><SnID>1</SnID><address>10.0.0.1</address></node><node><SnID>2</SnID><address>10.0.0.2</address></node>
<zone><ScID>10</ScID></zone><zone><ScID>20</ScID></zone>
<perimeter><address>10.9.0.0/16</address><SnID>900</SnID><ScID>10</ScID></perimeter>
{rules}
</DSP>"
    );
    compile("semantics", document.as_bytes(), None)
        .unwrap_or_else(|report| panic!("{report}"))
        .policy
}

fn rule(class: &str, ids: &str, verbs: &str) -> String {
    let names = ["sSnID", "sScID", "tSnID", "tScID"];
    let ids = ids.split(' ').zip(names).map(|(id, name)| format!("<{name}>{id}</{name}>"));
    let ids = ids.collect::<Vec<_>>().concat();
    format!("<{class}_class_rule>{ids}{verbs}</{class}_class_rule>\n")
}

fn socket(ids: &str, verbs: &str) -> String {
    rule("SOCKET", ids, verbs)
}

const ALLOW: &str = "<allow>CREATE</allow>";
const DENY: &str = "<deny>CREATE</deny>";
const A: Label = Label { snid: 1, scid: 10 };
const B: Label = Label { snid: 2, scid: 20 };
const HOST: Label = Label { snid: 900, scid: 10 };
const KERNEL: Label = Label { snid: 2, scid: KERNEL_SCID };

fn ask(
    policy: &Policy,
    class: Class,
    permission: &str,
    source: Label,
    target: Option<Label>,
) -> Explanation {
    policy.explain(Question { class, source, target, permission: class.permission(permission) })
}

fn opens(policy: &Policy, source: Label, target: Label) -> bool {
    ask(policy, Class::Socket, "CREATE", source, Some(target)).allows()
}

fn admits(policy: &Policy, source: Label, target: Label) -> bool {
    ask(policy, Class::Network, "RECEIVE", source, Some(target)).allows()
}

#[test]
fn nothing_is_allowed_by_default() {
    let policy = policy("");
    assert!(!opens(&policy, A, B) && !admits(&policy, A, B) && !opens(&policy, A, A));
    let nothing = ask(&policy, Class::Socket, "CREATE", A, Some(B));
    assert_eq!((nothing.rule, nothing.verdict), (None, "deny"));
}

#[test]
fn the_more_specific_rule_wins_and_a_denial_among_equals() {
    let specific = policy(&(socket("* * 2 20", DENY) + &socket("1 10 2 20", ALLOW)));
    assert!(opens(&specific, A, B));
    let equal = policy(&(socket("1 10 * 20", ALLOW) + &socket("1 * 2 20", DENY)));
    assert!(!opens(&equal, A, B));
}

#[test]
fn one_rule_serves_both_ends_and_either_class_may_deny() {
    let one = policy(&socket("1 10 2 20", ALLOW));
    assert!(opens(&one, A, B) && admits(&one, A, B));
    assert!(!opens(&one, B, A) && !admits(&one, B, A), "replies are no conversation of their own");
    let network = policy(
        &(socket("1 10 2 20", ALLOW) + &rule("NETWORK", "* * 2 20", "<deny>RECEIVE</deny>")),
    );
    assert!(!opens(&network, A, B) && !admits(&network, A, B), "it would be dropped at the target");
    let said = ask(&network, Class::Socket, "CREATE", A, Some(B));
    assert!(said.reason.ends_with("is denied by the NETWORK rule at line 6"), "{said:?}");
    assert!(network.open(A, B).decision.allows(), "the source's own node lets it go");
    let ping = policy(&rule("NETWORK", "1 10 2 kernel", "<allow>RECEIVE</allow>"));
    assert!(!opens(&ping, A, KERNEL) && admits(&ping, A, KERNEL));
}

#[test]
fn all_that_opening_needs_must_be_granted() {
    for step in ["CONNECT", "SEND", "RECEIVE"] {
        let denied = policy(
            &(socket("1 10 2 20", ALLOW) + &socket("* * 2 20", &format!("<deny>{step}</deny>"))),
        );
        assert!(!opens(&denied, A, B) && !admits(&denied, A, B), "{step}");
    }
    let any_bit = policy(&socket("1 10 2 20", "<allow>CONNECT SEND RECEIVE</allow>"));
    assert!(!opens(&any_bit, A, B));
}

#[test]
fn a_wildcard_is_any_declared_one() {
    let all = policy(&socket("* * * *", ALLOW));
    assert!(opens(&all, A, B));
    for stranger in [
        HOST,
        KERNEL,
        Label { snid: 2, scid: 0 },
        Label { snid: 3, scid: 20 },
        Label { snid: 2, scid: 30 },
    ] {
        assert!(!opens(&all, A, stranger) && !opens(&all, stranger, A), "{stranger}");
    }
    let named = policy(&(socket("900 * 2 20", ALLOW) + &socket("1 10 * kernel", ALLOW)));
    assert!(admits(&named, HOST, B) && opens(&named, A, KERNEL));
}

#[test]
fn local_permissions() {
    let may =
        |policy: &Policy, permission| ask(policy, Class::Socket, permission, A, None).allows();
    let client = policy(&socket("1 10 2 20", ALLOW));
    assert!(["CREATE", "CONNECT", "SEND"].into_iter().all(|permission| may(&client, permission)));
    assert!(["BIND", "LISTEN", "ACCEPT"].into_iter().all(|permission| !may(&client, permission)));
    let barred = policy(&(socket("1 10 2 20", ALLOW) + &socket("* 10", "<deny>CONNECT</deny>")));
    assert!(!may(&barred, "CONNECT") && may(&barred, "SEND"));
    let reason = ask(&barred, Class::Socket, "CREATE", A, Some(B));
    assert!(!reason.allows() && reason.rule.is_some(), "{}", reason.reason);
}

#[test]
fn an_alarm_decides_nothing() {
    let watched =
        policy(&(socket("1 10 2 20", ALLOW) + &socket("* * * *", "<alarm>CREATE</alarm>")));
    assert!(opens(&watched, A, B) && watched.open(A, B).alarm && watched.receive(A, B).alarm);
    assert!(!opens(&watched, B, A) && watched.open(B, A).alarm, "an attempt raises it too");
}

#[test]
fn transitions() {
    let of = |parent: &str, binary: &str, new: &str| {
        format!(
            "<TRANSITION_class_rule><parentScID>{parent}</parentScID><binaryScID>{binary}</binaryScID><newScID>{new}</newScID></TRANSITION_class_rule>"
        )
    };
    let policy = policy(&(of("*", "20", "20") + &of("10", "20", "10")));
    let becomes = |parent, binary| policy.transition(parent, binary).map(|rule| rule.new);
    assert_eq!(
        (becomes(10, 20), becomes(20, 20), becomes(20, 10), becomes(0, 20)),
        (Some(10), Some(20), None, None)
    );
    let lowered: Vec<_> = policy.rules_for(1).map(|rules| rules.transitions).unwrap_or_default();
    for (key, new) in &lowered {
        assert_eq!(becomes(key.parent, key.binary), Some(*new));
    }
    assert_eq!(lowered.len(), 2);
}

#[test]
fn sockets_change_hands_one_way_and_between_named_zones() {
    let policy = policy(
        "<RELABEL_class_rule><ownerScID>10</ownerScID><userScID>20</userScID></RELABEL_class_rule>",
    );
    assert!(policy.relabel(10, 20).is_some());
    for (owner, user) in [(20, 10), (10, 10), (0, 20), (10, 0), (10, KERNEL_SCID)] {
        assert!(policy.relabel(owner, user).is_none(), "{owner} {user}");
    }
    let lowered = policy.rules_for(1).map(|rules| rules.relabels).unwrap_or_default();
    assert!(matches!(lowered[..], [RelabelEntry { owner: 10, user: 20, .. }]), "{lowered:?}");
}

#[test]
fn a_zone_demands_signed_code_with_and_without_rules_of_its_own() {
    let zones = "<zone><ScID>30</ScID><code> signed </code></zone><zone><ScID>40</ScID><code>any</code></zone>";
    let demands = |rules: &str| {
        let rules = policy(&format!("{zones}{rules}")).rules_for(1).unwrap();
        let strict: Vec<_> = rules.signed_code_zones().collect();
        (strict, rules.governs_processes)
    };
    assert_eq!(demands(""), (vec![30], false));
    assert_eq!(demands(&rule("PROCESS", "* *", "<allow>FORK</allow>")), (vec![30], true));
    assert!(!policy("").rules_for(1).unwrap().demands_signed_code());
    // The demand grants nothing.
    let rules = policy(&format!("{zones}{}", rule("PROCESS", "* 10", "<allow>FORK</allow>")));
    let rules = rules.rules_for(1).unwrap();
    let vault = rules.processes.iter().find(|(scid, _)| *scid == 30).unwrap();
    assert_eq!((vault.1.allow, vault.1.alarm), (0, 0));
}

#[test]
fn what_unsigned_files_count_as() {
    let silent = policy("");
    assert_eq!(silent.unsigned_for(10), None);
    let policy = policy(
        "<unsigned><binaryScID>20</binaryScID></unsigned>
         <unsigned><parentScID>20</parentScID><deny>EXECVE</deny></unsigned>",
    );
    assert_eq!(policy.unsigned_for(10), Some(20));
    assert_eq!(policy.unsigned_for(20), Some(0), "the parent's own word beats that of `*`");
    for undeclared in [0, 30, KERNEL_SCID] {
        assert_eq!(policy.unsigned_for(undeclared), None, "`*` is any declared zone");
    }
}

#[test]
fn signers_speak_for_declared_zones() {
    let key = |at: &str| at.repeat(32);
    let policy = policy(&format!(
        "<signer><name>b</name><key>{}</key><ScID>20</ScID><ScID>*</ScID></signer>
         <signer><name>a</name><key>{}</key><ScID>20</ScID><ScID>10</ScID><ScID>20</ScID><serial>4</serial></signer>
         <revoked><key>{}</key><signature>{}</signature></revoked>",
        key("22"), key("11"), key("33"), key("44"),
    ));
    let rules = policy.rules_for(1).unwrap();
    let signers: Vec<_> = rules
        .signers
        .iter()
        .map(|one| (one.name.as_str(), &*one.scids, one.least_serial))
        .collect();
    assert_eq!(signers, [("a", &[10, 20][..], 4), ("b", &[10, 20], 0)]);
    assert_eq!(rules.revoked_keys, [[0x33; 32]]);
    assert_eq!(rules.revoked_signatures, [[0x44; 32]]);
}
