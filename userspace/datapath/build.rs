//! Builds the eBPF object with whatever compiler on this machine can, and only when it changed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";

fn main() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for path in
        ["ebpf/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "common/src", "common/Cargo.toml"]
    {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo:rerun-if-env-changed=PATH");

    let linker = linker()?;
    let mut cargo = compiler()?;
    let target_dir = out.join("ebpf");
    let flags = [
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        &format!("-Clinker={}", linker.display()),
    ];
    let status = cargo
        .current_dir(root.join("ebpf"))
        .args(["build", "--release", "--locked", "--quiet", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .status()
        .context("cannot run cargo for the eBPF object")?;
    ensure!(status.success(), "the eBPF object does not build");
    fs::copy(target_dir.join(TARGET).join("release/sigil"), out.join("sigil.o"))?;
    Ok(())
}

/// A compiler that has `core` for BPF: Debian's, which ships it, or a nightly that can build it.
fn compiler() -> Result<Command> {
    let debian = Path::new("/usr/lib/rustlib").join(TARGET);
    if debian.exists() && Path::new("/usr/bin/cargo").exists() {
        let mut cargo = clean("/usr/bin/cargo");
        cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        return Ok(cargo);
    }
    let sysroot = Command::new("rustc").args(["+nightly", "--print", "sysroot"]).output();
    if let Ok(output) = sysroot
        && output.status.success()
    {
        let sysroot = String::from_utf8(output.stdout)?;
        if Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").exists() {
            let mut cargo = clean("cargo");
            cargo.env("RUSTUP_TOOLCHAIN", "nightly").arg("-Zbuild-std=core");
            return Ok(cargo);
        }
    }
    bail!(
        "no Rust compiler for {TARGET}: run scripts/setup, or install a rustup nightly with \
         rust-src (rustup toolchain install nightly --component rust-src)"
    )
}

/// Cargo without what the outer cargo set for its own target.
fn clean(cargo: &str) -> Command {
    let mut command = Command::new(cargo);
    for (name, _) in env::vars() {
        if name.starts_with("CARGO_") && name != "CARGO_HOME"
            || name.starts_with("RUSTUP_TOOLCHAIN")
        {
            command.env_remove(name);
        }
    }
    command.env_remove("RUSTC").env_remove("RUSTDOC").env_remove("CARGO").env_remove("TARGET");
    command
}

/// `bpf-linker` from the path, or from where `cargo install` puts it.
fn linker() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(home)
        .map(|dir| dir.join("bpf-linker"))
        .find(|file| file.is_file())
        .context("bpf-linker is not installed: run scripts/setup")
}
