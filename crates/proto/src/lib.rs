//! The wire types of package `granary.v1`, generated from `proto/`, and their
//! one conversion to and from Arrow ([`columns`]), which server and client share.
//!
//! Nothing else lives here. Only `granary-server` and `granary-client` see
//! these types; everything between works on Arrow columns and on
//! `granary-model`.

pub mod columns;

pub use columns::ColumnError;
pub use generated::*;

mod generated {
    #![allow(
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        missing_docs,
        reason = "generated code"
    )]

    tonic::include_proto!("granary.v1");
}

/// The encoded descriptor set, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/granary_descriptor.bin"));
