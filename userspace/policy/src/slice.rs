//! A node's part of a document: rules that are about other nodes alone are blanked out, line by
//! line, so that what is left compiles to the same maps for the node, with the same line numbers.

use std::collections::{BTreeSet, HashMap};

use roxmltree::{Document, Node};

use crate::model::Policy;

/// A document, and which of its rules are about whom.
#[derive(Clone, Debug)]
pub struct Slicer {
    /// The document with lines left empty where its rules are about some nodes alone.
    common: String,
    /// Those rules, in the order of the document.
    rules: Vec<Rule>,
    /// Each node's among them, by their places there.
    of_node: HashMap<u32, Vec<usize>>,
}

#[derive(Clone, Debug)]
struct Rule {
    text: String,
    /// Where it belongs in what is common, instead of as many ends of lines as it has.
    at: usize,
    lines: usize,
}

impl Slicer {
    /// Reads a document, given the policy that it compiled to. Of one that cannot be read every part
    /// is the whole.
    #[must_use]
    pub fn new(document: &str, policy: &Policy) -> Self {
        let mut slicer = Self {
            common: String::with_capacity(document.len() / 4),
            rules: Vec::new(),
            of_node: HashMap::new(),
        };
        let mut done = 0;
        if let Ok(parsed) = Document::parse(document) {
            let names = names(policy);
            for rule in parsed.root_element().children().filter(|child| is_rule(*child)) {
                let Some(nodes) = about(rule, &names) else { continue };
                let range = rule.range();
                slicer.common.push_str(document.get(done..range.start).unwrap_or_default());
                done = range.end;
                for snid in nodes {
                    slicer.of_node.entry(snid).or_default().push(slicer.rules.len());
                }
                let text = document.get(range).unwrap_or_default().to_owned();
                let (at, lines) = (slicer.common.len(), text.matches('\n').count());
                slicer.common.extend(std::iter::repeat_n('\n', lines));
                slicer.rules.push(Rule { text, at, lines });
            }
        }
        slicer.common.push_str(document.get(done..).unwrap_or_default());
        slicer
    }

    /// The part that concerns a node.
    #[must_use]
    pub fn part(&self, snid: u32) -> String {
        let own = self.of_node.get(&snid).map(Vec::as_slice).unwrap_or_default();
        let own = || own.iter().filter_map(|at| self.rules.get(*at));
        let length = self.common.len() + own().map(|rule| rule.text.len()).sum::<usize>();
        let mut part = String::with_capacity(length);
        let mut done = 0;
        for rule in own() {
            part.push_str(self.common.get(done..rule.at).unwrap_or_default());
            part.push_str(&rule.text);
            done = rule.at + rule.lines;
        }
        part.push_str(self.common.get(done..).unwrap_or_default());
        part
    }
}

/// What nodes and hosts of the perimeter are called; a node's name counts first.
fn names(policy: &Policy) -> HashMap<&str, u32> {
    let hosts =
        policy.perimeter.iter().filter_map(|host| Some((host.name.as_deref()?, host.label.snid)));
    hosts.chain(policy.nodes.iter().map(|node| (node.name.as_str(), node.snid))).collect()
}

fn is_rule(node: Node<'_, '_>) -> bool {
    ["SOCKET_class_rule", "NETWORK_class_rule", "PROCESS_class_rule"]
        .iter()
        .any(|name| node.has_tag_name(*name))
}

/// The nodes on both sides; nothing where one may be any, or cannot be told, or none is named.
fn about(rule: Node<'_, '_>, names: &HashMap<&str, u32>) -> Option<BTreeSet<u32>> {
    let is_side = |child: &Node<'_, '_>| child.has_tag_name("sSnID") || child.has_tag_name("tSnID");
    let snid = |side: Node<'_, '_>| {
        let word = side.text().unwrap_or_default().trim();
        word.parse().ok().or_else(|| names.get(word).copied())
    };
    let nodes: Option<BTreeSet<u32>> = rule.children().filter(is_side).map(snid).collect();
    nodes.filter(|nodes| !nodes.is_empty())
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
