//! Programs that another one interprets, and the ways to have one interpreted.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

use crate::{Bench, SECURE, WAIT, ready, text};

/// The kernel follows up to five `#!` lines. The outermost script's label counts, as long as nobody but root
/// could have changed what stands between it and the kernel.
#[test]
fn a_script_that_interprets_a_script_adds_and_takes_nothing() -> Result<()> {
    let bench = Bench::start("nested")?;
    let shell = bench.shell("sh", false)?;
    // A shell reads its script's first line as a comment.
    let inner = bench.programs.script("inner", &format!("#!{}\n{WAIT}\n", text(&shell)?))?;
    let outer = bench.programs.script("outer", &format!("#!{}\n", text(&inner)?))?;
    let label = |program: &Path| -> Result<u32> {
        bench.label_of(&ready(bench.node()?.spawn(&[text(program)?])?)?)
    };
    assert_eq!(label(&outer)?, 0, "nobody signed anything");
    bench.sign(&outer)?;
    for _ in 0..2 {
        assert_eq!(label(&outer)?, SECURE);
        assert_eq!(label(&inner)?, 0, "the signature is the outer one's");
    }
    // Who may write the inner script decides what happens.
    fs::set_permissions(&inner, Permissions::from_mode(0o777))?;
    assert_eq!(label(&outer)?, 0);
    fs::set_permissions(&inner, Permissions::from_mode(0o755))?;
    assert_eq!(label(&outer)?, SECURE);
    Ok(())
}

/// An interpreter that is registered for a magic number (`binfmt_misc`), in a user namespace of its own: what
/// is registered there goes with it.
#[test]
fn a_registered_interpreter_is_as_one_that_the_file_names() -> Result<()> {
    const MAGIC: &str = "#sigil-test-of-binfmt-misc";
    let bench = Bench::start("binfmt")?;
    let shell = bench.shell("sh", false)?;
    let file = bench.programs.script("file", &format!("{MAGIC}\n{WAIT}\n"))?;
    bench.sign(&file)?;
    let label = |flags: &str| -> Result<u32> {
        let register = format!(
            "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && \
             echo ':sigil:M::{MAGIC}::{}:{flags}' > /proc/sys/fs/binfmt_misc/register && \
             [ $(ls /proc/sys/fs/binfmt_misc | wc -l) = 3 ] && exec {}",
            text(&shell)?,
            text(&file)?,
        );
        let argv = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", &register];
        bench.label_of(&ready(bench.node()?.spawn(&argv)?)?)
    };
    for _ in 0..2 {
        assert_eq!(label("")?, SECURE);
        assert_eq!(label("F")?, SECURE, "opened beforehand, and again for each exec");
    }
    fs::set_permissions(&shell, Permissions::from_mode(0o777))?;
    for flags in ["", "F"] {
        assert_eq!(label(flags)?, 0, "an interpreter that others may write to");
    }
    Ok(())
}
