//! A node's part of a document: rules that are about other nodes alone are blanked out, line by
//! line, so that what is left compiles to the same maps for the node, with the same line numbers.

use std::ops::Range;

use roxmltree::{Document, Node};

use crate::model::Policy;

/// A document, and which of its rules are about whom.
#[derive(Clone, Debug)]
pub struct Slicer {
    document: String,
    /// Rules in the order of the document, and the nodes that they are about; nothing where that may
    /// be any.
    rules: Vec<(Range<usize>, Option<[u32; 2]>)>,
}

impl Slicer {
    /// Reads a document, given the policy that it compiled to. Of one that cannot be read every part
    /// is the whole.
    #[must_use]
    pub fn new(document: &str, policy: &Policy) -> Self {
        let rules = Document::parse(document).map_or_else(
            |_| Vec::new(),
            |parsed| {
                let rules = parsed.root_element().children().filter(|child| is_rule(*child));
                rules.map(|rule| (rule.range(), about(rule, policy))).collect()
            },
        );
        Self { document: document.to_owned(), rules }
    }

    /// The part that concerns a node.
    #[must_use]
    pub fn part(&self, snid: u32) -> String {
        let document = &self.document;
        let mut part = String::with_capacity(document.len() / 4);
        let mut done = 0;
        for (range, about) in &self.rules {
            if about.is_none_or(|nodes| nodes.contains(&snid)) {
                continue;
            }
            let (before, gone) = (document.get(done..range.start), document.get(range.clone()));
            let (Some(before), Some(gone)) = (before, gone) else { return document.clone() };
            part.push_str(before);
            part.extend(gone.chars().filter(|character| *character == '\n'));
            done = range.end;
        }
        part.push_str(document.get(done..).unwrap_or_default());
        part
    }
}

fn is_rule(node: Node<'_, '_>) -> bool {
    ["SOCKET_class_rule", "NETWORK_class_rule", "PROCESS_class_rule"]
        .iter()
        .any(|name| node.has_tag_name(*name))
}

/// The nodes on both sides, twice the same where there is one side; nothing where one may be any, or
/// cannot be told.
fn about(rule: Node<'_, '_>, policy: &Policy) -> Option<[u32; 2]> {
    let mut nodes: Option<[u32; 2]> = None;
    for side in
        rule.children().filter(|child| child.has_tag_name("sSnID") || child.has_tag_name("tSnID"))
    {
        let word = side.text().unwrap_or_default().trim();
        let snid = word.parse().ok().or_else(|| policy.snid(word))?;
        nodes = Some(nodes.map_or([snid, snid], |[first, _]| [first, snid]));
    }
    nodes
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
                let part = Slicer::new(document, &policy).part(node.snid);
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
        let part = Slicer::new(document, &policy).part(3);
        assert!(!part.contains("CREATE") && part.contains("RECEIVE"), "{part}");
        assert!(Slicer::new(document, &policy).part(1).contains("CREATE"));
        assert_eq!(Slicer::new("<", &policy).part(1), "<");
    }
}
