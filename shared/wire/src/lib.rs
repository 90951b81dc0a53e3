//! What goes over the wire and onto the disk, and its conversion to the core's types.
//!
//! Bytes become validated core types once, here; what is inside needs no second check. Generated code
//! comes from `proto/`, whose comments are the reference of the interface.

/// The public interface, package `handfast.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("handfast.v1");
}

/// What is stored, package `handfast.storage.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod storage {
    tonic::include_proto!("handfast.storage.v1");
}

/// The compiled interface, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod codec;
pub mod convert;
pub mod fields;
pub mod frames;
pub mod record;
pub mod site;
pub mod site_record;
