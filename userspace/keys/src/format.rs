//! The key file as text.
//!
//! ```toml
//! cluster = "lab"
//! snid = 1
//!
//! [[epoch]]
//! id = 1
//! suite = "siphash-2-4-96"
//!
//! [[epoch.pair]]
//! source = 1
//! target = 2
//! key = "00112233…"
//! ```
//!
//! The document is walked by hand. Deserializers quote what they did not expect, and that may be a
//! key; here an error names a line and a field. Values are borrowed from the text, so that wiping the
//! text wipes the keys.

use std::fmt::Write as _;

use sigil_common::icv::Suite;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use crate::node::{check_cluster, check_pair};
use crate::{Epoch, NodeKeys, Pair, PairKey, ParseError, Problem};

/// Bytes of a pair's text at most, by which the buffer never moves and leaves no copy.
const PAIR_LEN: usize = 160;
const EPOCH_LEN: usize = 64;

type Value<'t> = Spanned<DeValue<'t>>;

impl NodeKeys {
    /// Reads a key file's text.
    ///
    /// # Errors
    /// Names the first line that is wrong. A copy of text that is no TOML stays in memory, in the
    /// parser's own error, until its place is used again.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let reader = Reader { text };
        let root = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            reader.fail(at, Problem::Syntax(error.message().to_owned()))
        })?;
        reader.node(root.get_ref())
    }

    /// The text of a key file.
    #[must_use]
    pub fn emit(&self) -> Zeroizing<String> {
        let pairs: usize = self.epochs().iter().map(|epoch| epoch.pairs.len()).sum();
        let len = 256 + self.epochs().len() * EPOCH_LEN + pairs * PAIR_LEN;
        let mut text = Zeroizing::new(String::with_capacity(len));
        let cluster = self.cluster().replace('\\', r"\\").replace('"', "\\\"");
        let _ = writeln!(text, "cluster = \"{cluster}\"\nsnid = {}", self.snid());
        for Epoch { id, suite, pairs } in self.epochs() {
            let _ = writeln!(text, "\n[[epoch]]\nid = {id}\nsuite = \"{suite}\"");
            for Pair { source, target, key } in pairs {
                let _ = write!(text, "\n[[epoch.pair]]\nsource = {source}\ntarget = {target}\n");
                text.push_str("key = \"");
                key.push_hex(&mut text);
                text.push_str("\"\n");
            }
        }
        debug_assert!(text.capacity() == len || text.len() <= len, "the text was copied");
        text
    }
}

struct Reader<'t> {
    text: &'t str,
}

impl Reader<'_> {
    fn node(&self, table: &DeTable<'_>) -> Result<NodeKeys, ParseError> {
        let (mut cluster, mut snid, mut epoch) = (None, None, None);
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "cluster" => cluster = Some(value),
                "snid" => snid = Some(value),
                "epoch" => epoch = Some(value),
                _ => return Err(self.unknown(name, "cluster, snid, epoch")),
            }
        }
        let value = self.have(0, "cluster", cluster)?;
        let cluster = self.string("cluster", value)?;
        check_cluster(cluster).map_err(|problem| self.fail(value.span().start, problem))?;
        let snid = self.id("snid", self.have(0, "snid", snid)?)?;
        let value = self.have(0, "epoch", epoch)?;
        let mut epochs = Vec::new();
        for epoch in self.tables("epoch", value)? {
            epochs.push(self.epoch(snid, epoch)?);
        }
        NodeKeys::new(cluster.to_owned(), snid, epochs)
            .map_err(|problem| self.fail(value.span().start, problem))
    }

    fn epoch(&self, snid: u32, value: &Value<'_>) -> Result<Epoch, ParseError> {
        let at = value.span().start;
        let (mut id, mut suite, mut pair) = (None, None, None);
        for (name, value) in self.table("epoch", value)? {
            match name.get_ref().as_ref() {
                "id" => id = Some(value),
                "suite" => suite = Some(value),
                "pair" => pair = Some(value),
                _ => return Err(self.unknown(name, "id, suite, pair")),
            }
        }
        let id = self.number("id", self.have(at, "id", id)?, "a key id, 0 to 255")?;
        let suite = self.suite(self.have(at, "suite", suite)?)?;
        let mut pairs = Vec::<Pair>::new();
        for value in pair.map_or(Ok(&[][..]), |pair| self.tables("pair", pair))? {
            let pair = self.pair(snid, value)?;
            pairs.push(pair);
        }
        Ok(Epoch { id, suite, pairs })
    }

    fn pair(&self, snid: u32, value: &Value<'_>) -> Result<Pair, ParseError> {
        let at = value.span().start;
        let (mut source, mut target, mut key) = (None, None, None);
        for (name, value) in self.table("pair", value)? {
            match name.get_ref().as_ref() {
                "source" => source = Some(value),
                "target" => target = Some(value),
                "key" => key = Some(value),
                _ => return Err(self.unknown(name, "source, target, key")),
            }
        }
        let source = self.id("source", self.have(at, "source", source)?)?;
        let target = self.id("target", self.have(at, "target", target)?)?;
        check_pair(snid, source, target).map_err(|problem| self.fail(at, problem))?;
        let key = self.have(at, "key", key)?;
        let text = self.string("key", key)?;
        let key = PairKey::from_hex(text).ok_or(self.fail(key.span().start, Problem::Key))?;
        Ok(Pair { source, target, key })
    }

    fn suite(&self, value: &Value<'_>) -> Result<Suite, ParseError> {
        let expected = "hmac-sha256-96, blake3-96 or siphash-2-4-96";
        let problem = Problem::Type { field: "suite", expected };
        let name = self.string("suite", value)?;
        name.parse().map_err(|_| self.fail(value.span().start, problem))
    }

    fn id(&self, field: &'static str, value: &Value<'_>) -> Result<u32, ParseError> {
        let id = self.number(field, value, "a SnID, 1 to 4294967295")?;
        if id == 0 {
            return Err(self.fail(value.span().start, Problem::Zero { field }));
        }
        Ok(id)
    }

    fn number<N: TryFrom<u64>>(
        &self,
        field: &'static str,
        value: &Value<'_>,
        expected: &'static str,
    ) -> Result<N, ParseError> {
        let number = value.get_ref().as_integer().and_then(|number| {
            u64::from_str_radix(number.as_str(), number.radix()).ok()?.try_into().ok()
        });
        number.ok_or(self.fail(value.span().start, Problem::Type { field, expected }))
    }

    fn string<'v>(&self, field: &'static str, value: &'v Value<'_>) -> Result<&'v str, ParseError> {
        let problem = Problem::Type { field, expected: "a string" };
        value.get_ref().as_str().ok_or(self.fail(value.span().start, problem))
    }

    fn table<'v, 't>(
        &self,
        field: &'static str,
        value: &'v Value<'t>,
    ) -> Result<&'v DeTable<'t>, ParseError> {
        let problem = Problem::Type { field, expected: "a table" };
        value.get_ref().as_table().ok_or(self.fail(value.span().start, problem))
    }

    fn tables<'v, 't>(
        &self,
        field: &'static str,
        value: &'v Value<'t>,
    ) -> Result<&'v [Value<'t>], ParseError> {
        let problem = Problem::Type { field, expected: "an array of tables" };
        let array = value.get_ref().as_array().map(|array| &**array);
        array.ok_or(self.fail(value.span().start, problem))
    }

    fn have<T>(&self, at: usize, field: &'static str, value: Option<T>) -> Result<T, ParseError> {
        value.ok_or(self.fail(at, Problem::Missing { field }))
    }

    fn unknown<T>(&self, name: &Spanned<T>, known: &'static str) -> ParseError {
        self.fail(name.span().start, Problem::Unknown { known })
    }

    fn fail(&self, at: usize, problem: Problem) -> ParseError {
        let before = self.text.bytes().take(at);
        ParseError { line: before.filter(|byte| *byte == b'\n').count() + 1, problem }
    }
}

#[cfg(test)]
mod tests;
