//! Who signs programs, with `labelctl binary`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sigil_harness::binary;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The key that the policies name: of RFC 8032, for the operator's own.
const NOBODYS: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

pub(crate) struct Operator {
    directory: TempDir,
    public_key: String,
}

impl Operator {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let key = key(directory.path());
        let said = labelctl(&["keygen", "--output", "json", "--out", text(&key)?])?;
        let said: Value = serde_json::from_str(&said)?;
        let public_key = said.get("public_key").and_then(Value::as_str).context("no public key")?;
        Ok(Self { directory, public_key: public_key.to_owned() })
    }

    /// A policy that trusts this operator.
    pub(crate) fn named_in(&self, policy: &str) -> String {
        policy.replace(NOBODYS, &self.public_key)
    }

    /// Signs a program for a zone.
    pub(crate) fn sign(&self, program: &Path, scid: u32) -> Result<()> {
        let (key, scid) = (key(self.directory.path()), scid.to_string());
        let (key, program) = (text(&key)?, text(program)?);
        labelctl(&["label", "--scid", &scid, "--serial", "1", "--key", key, program]).map(drop)
    }
}

fn key(directory: &Path) -> PathBuf {
    directory.join("operator.key")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path")
}

fn labelctl(arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary("labelctl")?).arg("binary").args(arguments).output()?;
    ensure!(output.status.success(), "labelctl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
