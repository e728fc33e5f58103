//! Generates the code for the messages and services; needs no protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["zone_transport.proto", "zone_api.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    // `Bytes` are slices of the message that came in, not copies of it.
    tonic_prost_build::configure().bytes(".nexus.zone.v1").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
