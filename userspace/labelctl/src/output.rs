//! How answers and data leave the program.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::cli::{Color, Format, Global};

/// What a command that did its work has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Exit 0.
    Yes,
    /// Exit 1.
    No,
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl Global {
    /// Whether what goes to `stream` may have colours.
    pub(crate) fn colors(&self, stream: &impl IsTerminal) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                stream.is_terminal() && !unwanted
            }
        }
    }
}

/// A JSON document's version, first in it.
#[derive(Serialize)]
struct Versioned<'a, T> {
    schema: u32,
    #[serde(flatten)]
    data: &'a T,
}

/// Prints `data` with its schema: on lines for people and `diff`, or on one.
///
/// # Errors
/// When stdout cannot be written.
pub(crate) fn json<T: Serialize>(format: Format, data: &T) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let document = Versioned { schema: 1, data };
    if format == Format::Jsonl {
        serde_json::to_writer(&mut out, &document).map_err(io::Error::from)?;
    } else {
        document
            .serialize(&mut Serializer::with_formatter(&mut out, Lines::default()))
            .map_err(io::Error::from)?;
    }
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Lays JSON out with one line for each member of the document and each row of its arrays, so that
/// a row that changed is a line that changed.
#[derive(Default)]
struct Lines {
    depth: usize,
    rows: bool,
}

impl Lines {
    const DEEPEST: usize = 2;

    fn open(&mut self) {
        self.depth += 1;
        self.rows = false;
    }

    fn next<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if !first {
            to.write_all(b",")?;
        }
        if self.depth > Self::DEEPEST {
            return if first { Ok(()) } else { to.write_all(b" ") };
        }
        self.rows = true;
        to.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| to.write_all(b"  "))
    }

    fn close<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if self.rows && self.depth < Self::DEEPEST {
            to.write_all(b"\n")?;
            (0..self.depth).try_for_each(|_| to.write_all(b"  "))?;
        }
        self.rows = self.depth <= Self::DEEPEST;
        Ok(())
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.open();
        to.write_all(b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.close(to)?;
        to.write_all(b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.next(to, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.open();
        to.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.close(to)?;
        to.write_all(b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.next(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

/// Rows under headings, in columns as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// # Errors
    /// When `to` cannot be written.
    pub(crate) fn print(&self, to: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(to, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
