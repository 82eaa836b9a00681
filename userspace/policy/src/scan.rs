//! What is refused before the XML parser sees it: size, encoding, DTD, entities, depth.
//!
//! The parser recurses per level, so depth is counted here, in a loop, over the same tokens. A text
//! that is no XML at all may pass; the parser then says where it breaks.

use crate::diagnostic::{Diagnostic, Findings, Span};

/// The largest document.
pub const MAX_BYTES: usize = 16 << 20;
/// The deepest element, the root being 1.
pub const MAX_DEPTH: usize = 32;

/// The longest start tag: the XML parser compares each attribute with all before it.
const MAX_TAG: usize = 4096;

/// The document as text, unless it is refused.
pub(crate) fn scan<'a>(bytes: &'a [u8], found: &mut Findings) -> Option<&'a str> {
    if bytes.len() > MAX_BYTES {
        let message = format!(
            "the document has {} bytes; at most {MAX_BYTES} (16 MiB) are read",
            bytes.len()
        );
        let hint = "write groups of rules with `*`, or give labels that share their rules one zone";
        found.push(Diagnostic::error("dsp::too-large", Span::new(0, 0), message).hint(hint));
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => structure(text, found).then_some(text),
        Err(error) => {
            let at = error.valid_up_to();
            let message = format!("byte {at} is not UTF-8");
            found.push(
                Diagnostic::error("dsp::encoding", Span::new(at, at), message)
                    .hint("convert it: iconv -t UTF-8 -f ISO-8859-1 FILE"),
            );
            None
        }
    }
}

fn structure(text: &str, found: &mut Findings) -> bool {
    let mut rest = Cursor { text, at: 0 };
    let mut depth = 0usize;
    let mut clean = true;
    while let Some(start) = rest.next_of(&['<', '&']) {
        if rest.take("&") {
            found.push(entity(text, start));
            clean = false;
        } else if rest.take("<!--") {
            rest.skip_past("-->");
        } else if rest.take("<![CDATA[") {
            rest.skip_past("]]>");
        } else if rest.take("<?") {
            rest.skip_past("?>");
        } else if rest.take("<!") {
            let message = "a document type definition (DTD) is refused";
            let hint = "delete the <!DOCTYPE …> and write what its entities stand for; the schema is `labelctl policy schema`";
            found
                .push(Diagnostic::error("dsp::dtd", Span::new(start, rest.at), message).hint(hint));
            return false;
        } else if rest.take("</") {
            rest.skip_past(">");
            depth = depth.saturating_sub(1);
        } else {
            rest.take("<");
            let Some(tag) = rest.tag() else { return clean };
            for (offset, _) in tag.match_indices('&') {
                found.push(entity(text, start + 1 + offset));
                clean = false;
            }
            if tag.len() > MAX_TAG {
                let message = format!("this start tag is longer than {MAX_TAG} bytes");
                let hint = "a DSP has two attributes, `cluster` and `serial`";
                let span = Span::new(start, start + 1);
                found.push(Diagnostic::error("dsp::tag", span, message).hint(hint));
                return false;
            }
            if depth == MAX_DEPTH {
                let message = format!("elements are nested more than {MAX_DEPTH} deep");
                let span = Span::new(start, start + 1 + tag.len());
                found.push(
                    Diagnostic::error("dsp::depth", span, message)
                        .hint("no element of a DSP needs more than 4"),
                );
                return false;
            }
            if !tag.ends_with('/') {
                depth += 1;
            }
        }
    }
    clean
}

fn entity(text: &str, at: usize) -> Diagnostic {
    let rest = text.get(at..).unwrap_or_default();
    let length = rest.bytes().take(32).position(|byte| byte == b';').map_or(1, |end| end + 1);
    Diagnostic::error(
        "dsp::entity",
        Span::new(at, at + length),
        "entities and character references are refused",
    )
    .hint("write the character itself; no id, name or address needs `&`")
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Moves to the next of these characters and gives its place.
    fn next_of(&mut self, these: &[char]) -> Option<usize> {
        self.at += self.rest().find(these)?;
        Some(self.at)
    }

    fn take(&mut self, token: &str) -> bool {
        let taken = self.rest().starts_with(token);
        if taken {
            self.at += token.len();
        }
        taken
    }

    /// Moves behind `end`, or to the end of the text.
    fn skip_past(&mut self, end: &str) {
        self.at =
            self.rest().find(end).map_or(self.text.len(), |found| self.at + found + end.len());
    }

    /// The inside of a start tag; a `>` in a quoted value does not end it.
    fn tag(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let mut quote = None;
        for (at, byte) in rest.bytes().enumerate() {
            match (quote, byte) {
                (None, b'>') => {
                    self.at += at + 1;
                    return rest.get(..at);
                }
                (None, b'"' | b'\'') => quote = Some(byte),
                (Some(open), _) if open == byte => quote = None,
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &[u8]) -> Vec<&'static str> {
        let mut found = Findings::default();
        scan(text, &mut found);
        let report = found.into_report(&crate::Source::new("t", text));
        report.diagnostics.iter().map(|one| one.code).collect()
    }

    #[test]
    fn depth_32_passes_and_33_does_not() {
        let nest = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(codes(nest(32).as_bytes()).is_empty());
        assert_eq!(codes(nest(33).as_bytes()), ["dsp::depth"]);
        assert_eq!(codes("<a>".repeat(300_000).as_bytes()), ["dsp::depth"]);
        assert!(codes("<a/>".repeat(100).as_bytes()).is_empty(), "siblings are not nested");
        assert!(codes("<a b='>'/>".repeat(100).as_bytes()).is_empty(), "a quoted > ends no tag");
    }

    #[test]
    fn what_a_comment_or_cdata_holds_is_text() {
        assert!(codes(b"<!-- <!DOCTYPE a> &x; --><a><![CDATA[<b>&amp;]]></a>").is_empty());
    }

    #[test]
    fn dtd_and_entities_are_refused() {
        assert_eq!(codes(b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>"), ["dsp::dtd"]);
        assert_eq!(codes(b"<a b='&lt;'>&#49;</a>"), ["dsp::entity", "dsp::entity"]);
    }

    #[test]
    fn size_and_encoding() {
        assert_eq!(codes(&vec![b' '; MAX_BYTES + 1]), ["dsp::too-large"]);
        assert!(codes(&vec![b' '; MAX_BYTES]).is_empty());
        assert_eq!(codes(b"<a>\xff</a>"), ["dsp::encoding"]);
    }
}
