//! The policy of the two nodes.

use std::fmt::Write as _;

/// The zone of all that is measured.
pub const ZONE: u32 = 10;
/// The first of the zones that exist for their number alone, and the first such node.
const CROWD: u32 = 1000;

/// Into how many nodes and zones so many labels are divided.
fn crowd(rules: u32) -> (u32, u32) {
    // Few nodes: each pair of nodes has keys of its own.
    let zones = rules.div_ceil(10).clamp(1, 10_000);
    (rules / zones, zones)
}

/// How many nodes a policy of so many rules declares.
pub(super) fn nodes(rules: u32) -> u32 {
    2 + crowd(rules).0
}

/// The DSP document of two nodes, with rules for so many further labels that may reach node 1. Whoever
/// is in the zone may talk to its other members, if `open`.
#[must_use]
pub fn document(serial: u32, protection: &str, rules: u32, open: bool) -> String {
    let (nodes, zones) = if rules == 0 { (0, 0) } else { crowd(rules) };
    let mut text = format!(
        "<DSP cluster=\"bench\" serial=\"{serial}\">\n\
         <node><SnID>1</SnID><name>one</name><address>10.77.0.1</address></node>\n\
         <node><SnID>2</SnID><name>two</name><address>10.77.0.2</address></node>\n\
         <zone><ScID>1</ScID><name>kernel</name><protection>{protection}</protection></zone>\n\
         <zone><ScID>{ZONE}</ScID><name>bench</name><protection>{protection}</protection></zone>\n\
         <SOCKET_class_rule><sSnID>*</sSnID><sScID>bench</sScID>\
         <allow>CREATE BIND CONNECT LISTEN ACCEPT SEND RECEIVE</allow></SOCKET_class_rule>\n\
         <PROCESS_class_rule><sSnID>*</sSnID><sScID>bench</sScID>\
         <allow>FORK EXECVE</allow></PROCESS_class_rule>\n"
    );
    if open {
        text.push_str(
            "<SOCKET_class_rule><sSnID>*</sSnID><sScID>bench</sScID><tSnID>*</tSnID>\
             <tScID>bench</tScID><allow>CREATE</allow></SOCKET_class_rule>\n",
        );
    }
    // A line that cannot be written to a string is none that could fail.
    for node in CROWD..CROWD + nodes {
        let (high, low) = (node / 250, node % 250 + 1);
        let _ =
            writeln!(text, "<node><SnID>{node}</SnID><address>10.78.{high}.{low}</address></node>");
    }
    for zone in CROWD..CROWD + zones {
        let _ = writeln!(
            text,
            "<zone><ScID>{zone}</ScID><name>zone{zone}</name></zone>\n\
             <SOCKET_class_rule><sSnID>*</sSnID><sScID>{zone}</sScID><tSnID>one</tSnID>\
             <tScID>{zone}</tScID><allow>CREATE</allow></SOCKET_class_rule>"
        );
    }
    text.push_str("</DSP>\n");
    text
}

/// The DSP document of one node, where programs that a key signed may have the zone.
#[must_use]
pub fn signed_document(key: &[u8; 32]) -> String {
    let key = hex::encode(key);
    format!(
        "<DSP cluster=\"bench\" serial=\"1\">\n\
         <node><SnID>1</SnID><name>one</name><address>10.77.0.1</address></node>\n\
         <zone><ScID>1</ScID><name>kernel</name></zone>\n\
         <zone><ScID>{ZONE}</ScID><name>bench</name></zone>\n\
         <signer><name>bench</name><key>{key}</key><ScID>{ZONE}</ScID></signer>\n\
         </DSP>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_has_as_many_rules_as_it_says() {
        for rules in [0, 10, 1000, 100_000] {
            let text = document(1, "authenticate", rules, true);
            let compiled = sigil_policy::compile("bench.xml", text.as_bytes(), None).unwrap();
            let lowered = compiled.policy.rules_for(1).unwrap();
            let crowd = |(label, _): &&(sigil_common::label::Label, _)| {
                label.snid >= CROWD && label.scid >= CROWD && label.scid != u32::MAX
            };
            let count = lowered.peers.iter().filter(crowd).count();
            assert_eq!(count, usize::try_from(rules).unwrap(), "of {rules}");
        }
    }
}
