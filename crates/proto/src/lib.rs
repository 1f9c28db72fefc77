//! The wire types of package `granary.v1`, generated from `proto/`.
//!
//! Nothing else lives here. Only `granary-server` and `granary-client` see
//! these types; everything between works on Arrow columns and on
//! `granary-model`.

#![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]

tonic::include_proto!("granary.v1");

/// The encoded descriptor set, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/granary_descriptor.bin"));
