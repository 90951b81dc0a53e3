//! Compiles `proto/` to Rust, without `protoc`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files = [
        "handfast/v1/types.proto",
        "handfast/v1/transaction.proto",
        "handfast/v1/site.proto",
        "handfast/v1/participant.proto",
        "handfast/v1/coordinator.proto",
        "handfast/v1/key_value.proto",
        "handfast/storage/v1/record.proto",
    ];
    println!("cargo:rerun-if-changed={}", root.display());
    let mut descriptors = protox::compile(files.iter().map(|file| root.join(file)), [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // For gRPC reflection.
    std::fs::write(out.join("descriptors.bin"), prost_bytes(&descriptors))?;
    let mut config = tonic_prost_build::Config::new();
    // The codec asks a message what it is called.
    config.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".handfast.v1")
        // It is rarely there, and every answer to a client has room for a transaction.
        .boxed(".handfast.v1.Transaction.site")
        // Everybody's type for a status in a message, and so the one that the RPC library has.
        .extern_path(".google.rpc.Status", "::tonic_types::pb::Status")
        .build_transport(false)
        .codec_path("crate::codec::BoundedCodec")
        .compile_fds_with_config(descriptors.clone(), config)?;
    // The services whose streams carry every transaction once more, with those frames as their bytes.
    let frames = out.join("frames");
    std::fs::create_dir_all(&frames)?;
    for file in &mut descriptors.file {
        file.service.retain(|service| {
            ["ParticipantService", "TransactionService"].contains(&service.name())
        });
    }
    let mut services = tonic_prost_build::configure()
        .out_dir(frames)
        .extern_path(".handfast.v1", "crate::v1")
        .extern_path(".handfast.storage.v1", "crate::storage")
        .extern_path(".google.rpc.Status", "::tonic_types::pb::Status")
        .codec_path("crate::frames::Codec")
        .build_transport(false);
    for frame in [
        "SessionRequest",
        "SessionResponse",
        "StreamTransactionsRequest",
        "StreamTransactionsResponse",
    ] {
        services = services
            .extern_path(format!(".handfast.v1.{frame}"), format!("crate::frames::{frame}"));
    }
    services.compile_fds(descriptors)?;
    Ok(())
}

fn prost_bytes(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
