//! The document's shape: which elements, how often, and where each text stands.

use roxmltree::{Document as Xml, Node as XmlNode, ParsingOptions};

use crate::diagnostic::{Diagnostic, Findings, Span};
use crate::permission::Class;
use crate::suggest::closest;

/// A text and its place, blanks around it removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    pub(crate) span: Span,
}

/// An element of the root and the texts of its children.
#[derive(Debug)]
pub(crate) struct Element<'a> {
    pub(crate) shape: &'static Shape,
    pub(crate) span: Span,
    children: Vec<(&'static str, Text<'a>)>,
}

impl<'a> Element<'a> {
    /// The first child of this name.
    pub(crate) fn one(&self, name: &str) -> Option<Text<'a>> {
        self.all(name).next()
    }

    /// The children of this name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = Text<'a>> {
        self.children.iter().filter(move |(child, _)| *child == name).map(|(_, text)| *text)
    }
}

/// A document whose elements are known, with nothing resolved.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    pub(crate) cluster: Option<Text<'a>>,
    pub(crate) serial: Option<Text<'a>>,
    pub(crate) elements: Vec<Element<'a>>,
}

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Node,
    Zone,
    Pair,
    Port,
    Perimeter,
    Signer,
    Revoked,
    Unsigned,
    Rule(Class),
}

/// An element's name, and its children with their least and greatest number.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) name: &'static str,
    children: &'static [(&'static str, usize, usize)],
}

const SHAPES: &[Shape] = &[
    Shape {
        kind: Kind::Node,
        name: "node",
        children: &[
            ("SnID", 1, 1),
            ("name", 0, 1),
            ("address", 1, crate::Node::MAX_ADDRESSES),
            ("kernel", 0, 1),
            ("default", 0, 1),
        ],
    },
    Shape {
        kind: Kind::Zone,
        name: "zone",
        children: &[("ScID", 1, 1), ("name", 0, 1), ("protection", 0, 1), ("code", 0, 1)],
    },
    Shape { kind: Kind::Pair, name: "pair", children: &[("ScID", 2, 2), ("protection", 1, 1)] },
    Shape {
        kind: Kind::Port,
        name: "port",
        children: &[
            ("SnID", 1, 1),
            ("protocol", 1, 1),
            ("number", 1, 1),
            ("ScID", 1, 1),
            ("name", 0, 1),
        ],
    },
    Shape {
        kind: Kind::Perimeter,
        name: "perimeter",
        children: &[("address", 1, 1), ("SnID", 1, 1), ("ScID", 1, 1), ("name", 0, 1)],
    },
    Shape {
        kind: Kind::Signer,
        name: "signer",
        children: &[
            ("name", 1, 1),
            ("key", 1, 1),
            ("ScID", 1, crate::Signer::MAX_SCIDS),
            ("serial", 0, 1),
        ],
    },
    Shape { kind: Kind::Revoked, name: "revoked", children: &[("key", 0, 1), ("signature", 0, 1)] },
    Shape {
        kind: Kind::Unsigned,
        name: "unsigned",
        children: &[("parentScID", 0, 1), ("binaryScID", 0, 1), ("deny", 0, 1)],
    },
    Shape {
        kind: Kind::Rule(Class::Socket),
        name: Class::Socket.element(),
        children: &[
            ("name", 0, 1),
            ("sSnID", 1, 1),
            ("sScID", 1, 1),
            ("tSnID", 0, 1),
            ("tScID", 0, 1),
            ("allow", 0, 1),
            ("deny", 0, 1),
            ("alarm", 0, 1),
        ],
    },
    Shape {
        kind: Kind::Rule(Class::Network),
        name: Class::Network.element(),
        children: &[
            ("name", 0, 1),
            ("sSnID", 1, 1),
            ("sScID", 1, 1),
            ("tSnID", 1, 1),
            ("tScID", 1, 1),
            ("allow", 0, 1),
            ("deny", 0, 1),
            ("alarm", 0, 1),
        ],
    },
    Shape {
        kind: Kind::Rule(Class::Process),
        name: Class::Process.element(),
        children: &[
            ("name", 0, 1),
            ("sSnID", 1, 1),
            ("sScID", 1, 1),
            ("allow", 0, 1),
            ("deny", 0, 1),
            ("alarm", 0, 1),
        ],
    },
    Shape {
        kind: Kind::Rule(Class::Transition),
        name: Class::Transition.element(),
        children: &[("name", 0, 1), ("parentScID", 1, 1), ("binaryScID", 1, 1), ("newScID", 1, 1)],
    },
    Shape {
        kind: Kind::Rule(Class::Relabel),
        name: Class::Relabel.element(),
        children: &[("name", 0, 1), ("ownerScID", 1, 1), ("userScID", 1, 1)],
    },
];

/// Reads the document's elements; nothing when it is no XML or no DSP.
pub(crate) fn parse<'a>(text: &'a str, found: &mut Findings) -> Option<Document<'a>> {
    let xml = match Xml::parse_with_options(
        text,
        ParsingOptions { allow_dtd: false, ..ParsingOptions::default() },
    ) {
        Ok(xml) => xml,
        Err(error) => {
            let at = offset(text, error.pos());
            found.push(
                Diagnostic::error(
                    "dsp::xml",
                    Span::new(at, at),
                    format!("this is not well-formed XML: {error}"),
                )
                .hint("`xmllint --noout FILE` tells more"),
            );
            return None;
        }
    };
    let root = xml.root_element();
    if !is(root, "DSP") {
        let message = format!("the root element is <{}>, not <DSP>", root.tag_name().name());
        let hint = r#"begin with <DSP cluster="…" serial="1">"#;
        found.push(Diagnostic::error("dsp::unknown-element", name_span(root), message).hint(hint));
        return None;
    }
    attributes(root, &["cluster", "serial"], found);
    stray_text(text, root, found);
    let elements = root.children().filter(XmlNode::is_element);
    Some(Document {
        cluster: attribute(text, root, "cluster", found),
        serial: attribute(text, root, "serial", found),
        elements: elements.filter_map(|child| element(text, child, found)).collect(),
    })
}

fn element<'a>(text: &'a str, node: XmlNode<'_, 'a>, found: &mut Findings) -> Option<Element<'a>> {
    let Some(shape) = SHAPES.iter().find(|shape| is(node, shape.name)) else {
        found.error(|| unknown(node, "DSP", SHAPES.iter().map(|shape| shape.name)));
        return None;
    };
    attributes(node, &[], found);
    stray_text(text, node, found);
    let mut children: Vec<(&'static str, Text<'a>)> = Vec::with_capacity(shape.children.len());
    for child in node.children().filter(XmlNode::is_element) {
        let Some((name, _, most)) = shape.children.iter().find(|(name, ..)| is(child, name)) else {
            found.error(|| {
                unknown(child, shape.name, shape.children.iter().map(|(name, ..)| *name))
            });
            continue;
        };
        attributes(child, &[], found);
        let value = content(text, child, found);
        let mut same = children.iter().filter(|(other, _)| other == name);
        if let Some((_, first)) = same.next()
            && same.count() + 2 > *most
        {
            let message = match most {
                1 => format!("<{name}> stands twice in this <{}>", shape.name),
                _ => format!("<{name}> stands more than {most} times in this <{}>", shape.name),
            };
            found.push(
                Diagnostic::error("dsp::repeated-element", name_span(child), message)
                    .here("one too many")
                    .also(first.span, "the first")
                    .hint(format!("keep {most}")),
            );
            continue;
        }
        children.push((name, value));
    }
    let span = name_span(node);
    for (name, least, _) in shape.children {
        let count = children.iter().filter(|(child, _)| child == name).count();
        if count < *least {
            let message = match least {
                1 => format!("this <{}> has no <{name}>", shape.name),
                _ => format!("this <{}> needs {least} <{name}>, and has {count}", shape.name),
            };
            let hint = format!("add <{name}> … </{name}>");
            found.push(Diagnostic::error("dsp::missing-element", span, message).hint(hint));
        }
    }
    Some(Element { shape, span, children })
}

/// The text of an element that holds nothing but text.
fn content<'a>(text: &'a str, node: XmlNode<'_, 'a>, found: &mut Findings) -> Text<'a> {
    let mut only: Option<Text<'a>> = None;
    for child in node.children() {
        if child.is_element() {
            let message = format!("<{}> holds text, not elements", node.tag_name().name());
            found.push(
                Diagnostic::error("dsp::unknown-element", name_span(child), message)
                    .hint("delete it"),
            );
        } else if child.is_text() {
            let part = trimmed(text, child);
            if part.text.is_empty() {
                continue;
            }
            if only.is_some() {
                let message = format!("the text of <{}> is in two parts", node.tag_name().name());
                found.push(
                    Diagnostic::error("dsp::stray-text", part.span, message)
                        .hint("move the comment out of the text"),
                );
            }
            only = only.or(Some(part));
        }
    }
    only.unwrap_or_else(|| Text { text: "", span: name_span(node) })
}

fn trimmed<'a>(text: &'a str, node: XmlNode<'_, 'a>) -> Text<'a> {
    let range = node.range();
    let raw = text.get(range.clone()).unwrap_or_default();
    let inner =
        raw.strip_prefix("<![CDATA[").and_then(|raw| raw.strip_suffix("]]>")).unwrap_or(raw);
    let blank = |c: char| c.is_ascii_whitespace();
    let inner_start = range.start + if inner.len() == raw.len() { 0 } else { "<![CDATA[".len() };
    let start = inner_start + (inner.len() - inner.trim_start_matches(blank).len());
    let value = inner.trim_matches(blank);
    Text { text: value, span: Span::new(start, start + value.len()) }
}

fn stray_text(text: &str, node: XmlNode<'_, '_>, found: &mut Findings) {
    for child in node.children().filter(XmlNode::is_text) {
        let range = child.range();
        let raw = text.get(range.clone()).unwrap_or_default();
        let value = raw.trim();
        if !value.is_empty() {
            let start = range.start + (raw.len() - raw.trim_start().len());
            let message = format!("text stands directly in <{}>", node.tag_name().name());
            found.push(
                Diagnostic::error(
                    "dsp::stray-text",
                    Span::new(start, start + value.len()),
                    message,
                )
                .hint("put it in an element, or in a comment: <!-- … -->"),
            );
        }
    }
}

/// Whether the element has this name, and no namespace.
fn is(node: XmlNode<'_, '_>, name: &str) -> bool {
    node.tag_name().name() == name && node.tag_name().namespace().is_none()
}

/// The name in an element's start tag.
fn name_span(node: XmlNode<'_, '_>) -> Span {
    let start = node.range().start;
    Span::new(start, start + 1 + node.tag_name().name().len())
}

fn unknown<'a>(
    node: XmlNode<'_, '_>,
    parent: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Diagnostic {
    let name = node.tag_name().name();
    let message = format!("<{parent}> has no element <{name}>");
    let hint = match closest(name, known.clone()) {
        Some(_) if node.tag_name().namespace().is_some() => {
            "a DSP has no XML namespace: delete the xmlns".to_owned()
        }
        Some(close) => format!("did you mean <{close}>?"),
        None => format!("it may hold: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::error("dsp::unknown-element", name_span(node), message).hint(hint)
}

fn attributes(node: XmlNode<'_, '_>, known: &[&str], found: &mut Findings) {
    const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
    for attribute in node.attributes() {
        let ours = attribute.namespace().is_none() && known.contains(&attribute.name());
        if ours || attribute.namespace() == Some(XSI) {
            continue;
        }
        let range = attribute.range();
        let message =
            format!("<{}> has no attribute `{}`", node.tag_name().name(), attribute.name());
        let hint = match closest(attribute.name(), known.iter().copied()) {
            Some(close) => format!("did you mean `{close}`?"),
            None if known.is_empty() => "ids, names and the like are child elements".to_owned(),
            None => format!("it may have: {}", known.join(", ")),
        };
        let span = Span::new(range.start, range.end);
        found.push(Diagnostic::error("dsp::unknown-attribute", span, message).hint(hint));
    }
}

fn attribute<'a>(
    text: &'a str,
    node: XmlNode<'_, 'a>,
    name: &str,
    found: &mut Findings,
) -> Option<Text<'a>> {
    let Some(attribute) = node.attribute_node(name) else {
        let message = format!("<{}> has no attribute `{name}`", node.tag_name().name());
        let hint = match name {
            "serial" => r#"number the versions of the document: serial="1""#.to_owned(),
            _ => format!(r#"name the cluster that the document is for: {name}="…""#),
        };
        found
            .push(Diagnostic::error("dsp::missing-attribute", name_span(node), message).hint(hint));
        return None;
    };
    let range = attribute.range_value();
    let raw = text.get(range.clone()).unwrap_or_default();
    let start = range.start + (raw.len() - raw.trim_start().len());
    Some(Text { text: raw.trim(), span: Span::new(start, start + raw.trim().len()) })
}

/// The byte that a row and a column of the XML parser stand for.
fn offset(text: &str, at: roxmltree::TextPos) -> usize {
    let row = (at.row as usize).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(row).map(str::len).sum();
    let line = text.get(start..).unwrap_or_default();
    let column = (at.col as usize).saturating_sub(1);
    start + line.char_indices().nth(column).map_or(line.len(), |(byte, _)| byte)
}
