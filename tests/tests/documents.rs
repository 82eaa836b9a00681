//! The policies that the tests and the demo run under, and the examples.

use anyhow::{Result, anyhow};

#[test]
fn they_compile_without_a_warning() -> Result<()> {
    let folders = ["harness/dsp", "../userspace/policy/examples"].map(std::fs::read_dir);
    for entry in folders.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        let path = entry?.path();
        let name = path.display().to_string();
        let compiled = sigil_policy::compile(&name, &std::fs::read(&path)?, None)
            .map_err(|report| anyhow!("{report:?}"))?;
        assert_eq!(compiled.warnings.to_string(), "", "{name}");
    }
    Ok(())
}
