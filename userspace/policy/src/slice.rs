//! A node's part of a document: rules that are about other nodes alone are blanked out, line by
//! line, so that what is left compiles to the same maps for the node, with the same line numbers.

use roxmltree::{Document, Node};

use crate::model::Policy;

/// The part of `document` that concerns the node, given the policy that it compiled to. A document
/// that cannot be read comes back whole.
#[must_use]
pub fn slice(document: &str, policy: &Policy, snid: u32) -> String {
    let Ok(parsed) = Document::parse(document) else { return document.to_owned() };
    let mut part = String::with_capacity(document.len());
    let mut done = 0;
    for rule in parsed.root_element().children().filter(|child| is_rule(*child)) {
        let range = rule.range();
        if concerns(rule, policy, snid) {
            continue;
        }
        let (before, gone) = (document.get(done..range.start), document.get(range.clone()));
        let (Some(before), Some(gone)) = (before, gone) else { return document.to_owned() };
        part.push_str(before);
        part.extend(gone.chars().filter(|character| *character == '\n'));
        done = range.end;
    }
    part.push_str(document.get(done..).unwrap_or_default());
    part
}

fn is_rule(node: Node<'_, '_>) -> bool {
    ["SOCKET_class_rule", "NETWORK_class_rule", "PROCESS_class_rule"]
        .iter()
        .any(|name| node.has_tag_name(*name))
}

/// Whether one side is the node, or may be. What cannot be told is kept.
fn concerns(rule: Node<'_, '_>, policy: &Policy, snid: u32) -> bool {
    let sides =
        rule.children().filter(|child| child.has_tag_name("sSnID") || child.has_tag_name("tSnID"));
    let mut others = 0;
    for side in sides {
        let word = side.text().unwrap_or_default().trim();
        match word.parse().ok().or_else(|| policy.snid(word)) {
            Some(other) if other != snid => others += 1,
            _ => return true,
        }
    }
    others == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    #[test]
    fn a_part_compiles_to_the_same_maps_and_hides_the_rest() {
        for document in
            [include_str!("../examples/telecom.xml"), include_str!("../examples/figure3.xml")]
        {
            let policy = compile("whole", document.as_bytes(), None).unwrap().policy;
            for node in &policy.nodes {
                let part = slice(document, &policy, node.snid);
                assert_eq!(part.lines().count(), document.lines().count());
                let again = compile("part", part.as_bytes(), None).unwrap().policy;
                assert_eq!(again.rules_for(node.snid), policy.rules_for(node.snid));
            }
        }
    }

    #[test]
    fn rules_between_others_are_gone() {
        let document = r#"<DSP cluster="lab" serial="1">
<node><SnID>1</SnID><name>a</name><address>10.0.0.1</address></node>
<node><SnID>2</SnID><name>b</name><address>10.0.0.2</address></node>
<node><SnID>3</SnID><name>c</name><address>10.0.0.3</address></node>
<zone><ScID>7</ScID><name>z</name></zone>
<SOCKET_class_rule><sSnID>a</sSnID><sScID>z</sScID><tSnID>2</tSnID><tScID>z</tScID>
<allow>CREATE</allow></SOCKET_class_rule>
<SOCKET_class_rule><sSnID>a</sSnID><sScID>z</sScID><tSnID>*</tSnID><tScID>z</tScID><allow>RECEIVE</allow></SOCKET_class_rule>
</DSP>"#;
        let policy = compile("whole", document.as_bytes(), None).unwrap().policy;
        let part = slice(document, &policy, 3);
        assert!(!part.contains("CREATE") && part.contains("RECEIVE"), "{part}");
        assert!(slice(document, &policy, 1).contains("CREATE"));
        assert_eq!(slice("<", &policy, 1), "<");
    }
}
