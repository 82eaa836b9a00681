//! Documents: compiling them for this node, and keeping the one in force.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use miette::{GraphicalReportHandler, GraphicalTheme};
use serde::{Deserialize, Serialize};
use sigil_control::Change;
use sigil_policy::{NodeRules, Policy, Report, compile, difference};

use crate::config::read_trusted;

/// A document and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// It came by `labelctl load FILE`, not from the configured file.
    pub(crate) given: bool,
}

impl Document {
    /// Reads the configured file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = read_trusted(path).context("cannot read the policy")?;
        Ok(Self { name: path.display().to_string(), bytes, given: false })
    }
}

/// What a new document is held against: what is in force now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InForce<'a> {
    pub(crate) serial: u64,
    /// Not known after the state directory was lost.
    pub(crate) bytes: Option<&'a [u8]>,
}

/// A document that may be put in force.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) policy: Policy,
    pub(crate) rules: NodeRules,
    /// The compiler's warnings, for people.
    pub(crate) warnings: String,
    /// Whether it is another document than the one in force.
    pub(crate) changed: bool,
}

/// Compiles a document for a node. The one in force is admitted again; any other has to have a
/// higher serial.
///
/// # Errors
/// What is wrong with the document, for people.
pub(crate) fn admit(
    document: &Document,
    snid: u32,
    in_force: Option<InForce<'_>>,
) -> Result<Admitted, String> {
    let same = in_force.is_some_and(|now| now.bytes == Some(&document.bytes));
    let floor = match in_force {
        Some(_) if same => None,
        Some(InForce { serial, bytes: Some(_) }) => Some(serial),
        // It may be the same document: let it be applied again.
        Some(InForce { serial, bytes: None }) => serial.checked_sub(1),
        None => None,
    };
    let compiled =
        compile(&document.name, &document.bytes, floor).map_err(|report| render(&report))?;
    let rules =
        compiled.policy.rules_for(snid).map_err(|error| format!("{}: {error}", document.name))?;
    let (policy, warnings) = (compiled.policy, render(&compiled.warnings));
    Ok(Admitted { policy, rules, warnings, changed: !same })
}

/// The serial of a document, if it is any good.
pub(crate) fn serial(document: &Document) -> Option<u64> {
    compile(&document.name, &document.bytes, None).ok().map(|compiled| compiled.policy.serial)
}

/// Diagnostics with the lines they are about.
fn render(report: &Report) -> String {
    const WIDTH: usize = 100;
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(WIDTH)
        .with_links(false);
    let mut parts: Vec<String> = Vec::new();
    for diagnostic in &report.diagnostics {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = handler.render_report(&mut text, diagnostic);
        parts.push(text.trim_matches('\n').to_owned());
    }
    for (more, what) in [(report.more_errors, "errors"), (report.more_warnings, "warnings")] {
        if more > 0 {
            parts.push(format!("and {more} more {what}"));
        }
    }
    parts.join("\n\n")
}

/// The document in force, as it is kept in the state directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) serial: u64,
    given: bool,
    name: String,
    document: String,
}

impl Kept {
    const FILE: &str = "policy.json";

    pub(crate) fn new(document: &Document, serial: u64) -> Self {
        Self {
            serial,
            given: document.given,
            name: document.name.clone(),
            // What compiled is UTF-8.
            document: String::from_utf8_lossy(&document.bytes).into_owned(),
        }
    }

    /// No document at all.
    pub(crate) fn none() -> Self {
        Self { serial: 0, given: false, name: "none yet".to_owned(), document: String::new() }
    }

    /// What was kept, if anything was.
    pub(crate) fn read(state: &Path) -> Option<Self> {
        let path = state.join(Self::FILE);
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(anyhow::Error::from),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => Err(error.into()),
        };
        kept.inspect_err(|error: &anyhow::Error| {
            tracing::warn!("{} is not used: {error:#}", path.display());
        })
        .ok()
    }

    /// Replaces what was kept, whole or not at all.
    pub(crate) fn write(&self, state: &Path) -> Result<()> {
        let path = state.join(Self::FILE);
        let next = state.join(format!("{}.next", Self::FILE));
        let written = || -> Result<()> {
            let mut file = File::create(&next)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            Ok(fs::rename(&next, &path)?)
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    /// What a new policy gives to a node and takes from it, and how many changes are not listed.
    pub(crate) fn changes(&self, new: &Policy, snid: u32) -> Result<(Vec<Change>, u64)> {
        const LISTED: usize = 1000;
        let old = compile(&self.name, self.bytes(), None).ok().map(|compiled| compiled.policy);
        let (changes, more) = difference(old.as_ref(), new, Some(snid), LISTED)?;
        let told = |one: sigil_policy::Change| Change { gained: one.gained, text: one.text };
        Ok((changes.into_iter().map(told).collect(), more))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.document.as_bytes()
    }

    pub(crate) fn document(&self) -> Document {
        let bytes = self.bytes().to_owned();
        Document { name: self.name.clone(), bytes, given: self.given }
    }
}

/// Which document an agent starts with: the configured one, unless `labelctl load FILE` brought a
/// newer one since.
pub(crate) fn newest(configured: Document, kept: Option<&Kept>) -> Document {
    let Some(kept) = kept.filter(|kept| kept.given) else { return configured };
    match serial(&configured) {
        Some(serial) if serial < kept.serial => {
            tracing::warn!(
                "{} has serial {serial}, and `labelctl load` brought serial {} since ({}): going \
                 on with that; copy it over the file",
                configured.name,
                kept.serial,
                kept.name,
            );
            kept.document()
        }
        _ => configured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(serial: u64, more: &str) -> Document {
        let text = format!(
            r#"<DSP cluster="lab" serial="{serial}">
  <node><SnID> 1 </SnID><name> one </name><address> 10.77.0.1 </address></node>
  <zone><ScID> 10 </ScID><name> web </name></zone>
  <zone><ScID> 20 </ScID><name> app </name></zone>
  <SOCKET_class_rule><sSnID>*</sSnID><sScID>web</sScID><tSnID>*</tSnID><tScID>app</tScID><allow>CREATE</allow></SOCKET_class_rule>
{more}</DSP>
"#
        );
        Document { name: "policy.xml".to_owned(), bytes: text.into_bytes(), given: false }
    }

    fn in_force(document: &Document, serial: u64) -> InForce<'_> {
        InForce { serial, bytes: Some(&document.bytes) }
    }

    #[test]
    fn the_first_document_is_admitted_whatever_its_serial() {
        let admitted = admit(&document(3, ""), 1, None).unwrap();
        assert!(admitted.changed);
        assert_eq!(admitted.rules.serial, 3);
    }

    #[test]
    fn the_same_document_changes_nothing() {
        let now = document(3, "");
        assert!(!admit(&now, 1, Some(in_force(&now, 3))).unwrap().changed);
    }

    #[test]
    fn another_document_needs_a_higher_serial() {
        let now = document(3, "");
        let edited = document(3, "<!-- edited -->");
        let older = document(2, "");
        let newer = document(4, "");
        assert!(admit(&edited, 1, Some(in_force(&now, 3))).is_err());
        assert!(admit(&older, 1, Some(in_force(&now, 3))).is_err());
        assert!(admit(&newer, 1, Some(in_force(&now, 3))).unwrap().changed);
    }

    #[test]
    fn with_its_text_lost_the_serial_in_force_may_come_again() {
        let lost = Some(InForce { serial: 3, bytes: None });
        assert!(admit(&document(3, ""), 1, lost).unwrap().changed);
        assert!(admit(&document(2, ""), 1, lost).is_err());
    }

    #[test]
    fn refusals_say_where_and_what_to_do() {
        let now = document(3, "");
        let said = [
            admit(&document(2, ""), 1, Some(in_force(&now, 3))).unwrap_err(),
            admit(&document(4, "  <zone><ScID> 10 </ScID></zone>\n"), 1, Some(in_force(&now, 3)))
                .unwrap_err(),
            admit(&document(4, ""), 9, Some(in_force(&now, 3))).unwrap_err(),
        ];
        insta::assert_snapshot!(said.join("\n---\n"));
    }

    #[test]
    fn what_is_kept_comes_back() {
        let state = tempfile::tempdir().unwrap();
        assert!(Kept::read(state.path()).is_none());
        let given = Document { given: true, ..document(3, "<!-- é -->") };
        Kept::new(&given, 3).write(state.path()).unwrap();
        let kept = Kept::read(state.path()).unwrap();
        assert_eq!((kept.serial, kept.document()), (3, given));
        fs::write(state.path().join(Kept::FILE), "{").unwrap();
        assert!(Kept::read(state.path()).is_none());
    }

    #[test]
    fn a_loaded_document_outlives_the_agent_until_the_file_is_as_new() {
        let file = document(3, "");
        let given = Document { given: true, ..document(4, "") };
        let kept = Kept::new(&given, 4);
        assert_eq!(newest(file.clone(), Some(&kept)), given);
        assert_eq!(newest(document(4, ""), Some(&kept)), document(4, ""));
        let from_file = Kept::new(&document(4, ""), 4);
        assert_eq!(
            newest(file.clone(), Some(&from_file)),
            file,
            "a rolled back file is refused later"
        );
        assert_eq!(newest(file.clone(), None), file);
    }
}
