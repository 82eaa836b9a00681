//! Compiles etcd's messages; protox stands in for protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/etcd.proto");
    // Tests that need etcd are counted as skipped where there is none.
    println!("cargo::rustc-check-cfg=cfg(has_etcd)");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-changed=/usr/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join("etcd").is_file()) {
        println!("cargo::rustc-cfg=has_etcd");
    }
    let files = protox::compile(["proto/etcd.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
