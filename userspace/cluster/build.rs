//! Compiles the messages; protox stands in for protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/sigil.proto");
    let files = protox::compile(["proto/sigil.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Keys are wiped, and never printed.
        .skip_debug([".sigil.v1.Pair", ".sigil.v1.EnrolRequest", ".sigil.v1.DrawTokenReply"])
        .compile_fds(files)?;
    Ok(())
}
