//! Diagnostics: what is wrong, where, and what to do about it.

use std::fmt;
use std::sync::Arc;

use miette::{LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;

/// How many diagnostics of one kind of severity a report holds; the rest are counted.
const MAX_FINDINGS: usize = 100;

/// Bytes `start..end` of the document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let clip = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: clip(start), end: clip(end) }
    }
}

/// Whether a diagnostic keeps the document from being loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
}

/// A document's name and text, with an index of its lines.
#[derive(Clone, Debug)]
pub struct Source {
    named: Arc<NamedSource<String>>,
    lines: Arc<Vec<u32>>,
}

impl Source {
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        // Of a document that is not read at all, its beginning is enough to tell it by.
        let most = if bytes.len() > crate::MAX_BYTES { 64 } else { bytes.len() };
        let shown = bytes.get(..most).unwrap_or_default();
        let text = String::from_utf8_lossy(shown).into_owned();
        let after = shown.iter().zip(1u32..).filter(|(byte, _)| **byte == b'\n').map(|(_, at)| at);
        let lines = std::iter::once(0).chain(after).collect();
        Self { named: Arc::new(NamedSource::new(name, text)), lines: Arc::new(lines) }
    }

    /// The document's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.named.name()
    }

    /// The line of a byte, from 1.
    #[must_use]
    pub fn line(&self, at: u32) -> u32 {
        u32::try_from(self.lines.partition_point(|start| *start <= at)).unwrap_or(u32::MAX)
    }

    /// The line and column of a byte, both from 1; columns count characters.
    #[must_use]
    pub fn position(&self, at: u32) -> (u32, u32) {
        let line = self.line(at);
        let start = line
            .checked_sub(1)
            .and_then(|line| self.lines.get(line as usize))
            .copied()
            .unwrap_or(0);
        let before = self.named.inner().get(start as usize..at as usize).unwrap_or_default();
        (line, u32::try_from(before.chars().count()).unwrap_or(u32::MAX).saturating_add(1))
    }
}

/// One thing to mend.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Whether it stops the document.
    pub severity: Severity,
    /// A stable name, `dsp::` and a word or two.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where: the first place is the one to mend, the others are related.
    pub places: Vec<(Span, String)>,
    /// What to do.
    pub hint: Option<String>,
    /// The document; set when the report is made.
    source: Option<Source>,
}

impl Diagnostic {
    fn new(severity: Severity, code: &'static str, at: Span, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            places: vec![(at, String::new())],
            hint: None,
            source: None,
        }
    }

    pub(crate) fn error(code: &'static str, at: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, at, message)
    }

    pub(crate) fn warning(code: &'static str, at: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, at, message)
    }

    /// The words under the first place.
    pub(crate) fn here(mut self, words: impl Into<String>) -> Self {
        if let Some((_, text)) = self.places.first_mut() {
            *text = words.into();
        }
        self
    }

    pub(crate) fn also(mut self, at: Span, words: impl Into<String>) -> Self {
        self.places.push((at, words.into()));
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn start(&self) -> u32 {
        self.places.first().map_or(0, |(span, _)| span.start)
    }

    /// The line and column of the first place, both from 1.
    #[must_use]
    pub fn position(&self) -> (u32, u32) {
        self.source.as_ref().map_or((1, 1), |source| source.position(self.start()))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| &*source.named as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.places.iter().enumerate().map(|(nth, (span, words))| {
            let words = (!words.is_empty()).then(|| words.clone());
            let (start, length) =
                (span.start as usize, span.end.saturating_sub(span.start) as usize);
            if nth == 0 {
                LabeledSpan::new_primary_with_span(words, (start, length))
            } else {
                LabeledSpan::new(words, start, length)
            }
        })))
    }
}

/// What one run found, in the order of the document.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The diagnostics; errors and warnings mixed, sorted by place.
    pub diagnostics: Vec<Diagnostic>,
    /// How many more errors there were.
    pub more_errors: usize,
    /// How many more warnings there were.
    pub more_warnings: usize,
}

impl Report {
    /// How many diagnostics have this severity, those not kept included.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let more = match severity {
            Severity::Error => self.more_errors,
            Severity::Warning => self.more_warnings,
        };
        self.diagnostics.iter().filter(|one| one.severity == severity).count() + more
    }
}

/// One line for each diagnostic: `name:line:column: severity: message (hint) [code]`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, one) in self.diagnostics.iter().enumerate() {
            let (line, column) = one.position();
            let name = one.source.as_ref().map_or("DSP", Source::name);
            let severity = match one.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            if nth > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{name}:{line}:{column}: {severity}: {}", one.message)?;
            if let Some(hint) = &one.hint {
                write!(f, " ({hint})")?;
            }
            write!(f, " [{}]", one.code)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// Where the stages put what they find.
#[derive(Default)]
pub(crate) struct Findings {
    report: Report,
    errors: usize,
    warnings: usize,
}

impl Findings {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        let count = match diagnostic.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count <= MAX_FINDINGS {
            self.report.diagnostics.push(diagnostic);
        }
    }

    /// Adds an error that is dear to make, unless it would only be counted.
    pub(crate) fn error(&mut self, make: impl FnOnce() -> Diagnostic) {
        if self.errors < MAX_FINDINGS {
            self.push(make());
        } else {
            self.errors += 1;
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    pub(crate) fn into_report(self, source: &Source) -> Report {
        let mut report = self.report;
        report.more_errors = self.errors.saturating_sub(MAX_FINDINGS);
        report.more_warnings = self.warnings.saturating_sub(MAX_FINDINGS);
        report.diagnostics.sort_by_key(Diagnostic::start);
        for one in &mut report.diagnostics {
            one.source = Some(source.clone());
        }
        report
    }
}
