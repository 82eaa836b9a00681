//! What is committed of results agrees with its samples.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sigil_bench::environment::Environment;
use sigil_bench::report;
use sigil_bench::samples::Samples;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_readme_says_what_was_measured() -> Result<()> {
    let text = fs::read_to_string(root().join("README.md"))?;
    let (folder, block) = report::readme::block(&text)?;
    let rendered = report::readme::render(&root().join(folder), folder)?;
    assert_eq!(block, rendered, "`sigil-bench report {folder} --readme README.md` makes it");
    Ok(())
}

#[test]
fn summaries_are_made_of_their_samples() -> Result<()> {
    let results = root().join("bench/results");
    let mut folders = 0;
    for folder in fs::read_dir(&results).context("no results")? {
        let folder = folder?.path();
        let (samples, environment) = (Samples::read(&folder)?, Environment::read(&folder)?);
        let summary = fs::read_to_string(folder.join(report::SUMMARY))?;
        assert_eq!(summary, report::summary(&samples, Some(&environment)), "{}", folder.display());
        folders += 1;
    }
    assert!(folders > 0, "no results");
    Ok(())
}
