//! The policies that the tests and the demo run under.

use anyhow::{Result, anyhow};

#[test]
fn the_documents_of_the_harness_compile_without_a_warning() -> Result<()> {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/harness/dsp"))? {
        let path = entry?.path();
        let name = path.display().to_string();
        let compiled = sigil_policy::compile(&name, &std::fs::read(&path)?, None)
            .map_err(|report| anyhow!("{report:?}"))?;
        assert_eq!(compiled.warnings.to_string(), "", "{name}");
    }
    Ok(())
}
