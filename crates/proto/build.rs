//! Compiles `proto/` without protoc.

#![allow(
    clippy::disallowed_methods,
    reason = "cargo tells build scripts their folders by the environment"
)]

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = [
        "types",
        "features",
        "catalog",
        "materialization",
        "historical",
        "streams",
    ]
    .map(|name| root.join(format!("granary/v1/{name}.proto")));
    let descriptors = protox::compile(files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("granary_descriptor.bin");
    std::fs::write(out, protox::prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
