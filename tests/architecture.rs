//! The dependency law: imports point one way, from the daemon down to the kernel, and the
//! kernel builds with no driver and no server library in its tree.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests, outside their functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// What each crate of the workspace may import of the others.
const LAW: [(&str, &[&str]); 12] = [
    ("nexus-kernel", &[]),
    ("nexus-proto", &[]),
    ("nexus-drivers", &["nexus-kernel"]),
    ("nexus-content", &["nexus-kernel"]),
    ("nexus-zone", &["nexus-kernel", "nexus-proto"]),
    ("nexus-services", &["nexus-kernel"]),
    ("nexus", &["nexus-kernel", "nexus-drivers", "nexus-content", "nexus-zone", "nexus-services"]),
    // The FUSE protocol and its transports know nothing of Nexus.
    ("nexus-fuse-transport", &[]),
    ("nexus-fuse", &["nexus", "nexus-kernel", "nexus-fuse-transport"]),
    // Programs that meet the daemon only through its command line and its mount.
    ("nexus-integration", &[]),
    ("nexus-s3-server", &[]),
    // The floor is served by the same transports.
    ("nexus-bench", &["nexus-fuse-transport"]),
];

/// Crates that the kernel must never need.
const FOREIGN_TO_KERNEL: [&str; 8] =
    ["redb", "openraft", "fuser", "tonic", "tokio", "object_store", "rusqlite", "redis"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names of the crates that `package` is built from, itself included.
fn tree(package: &str) -> BTreeSet<String> {
    let args = ["tree", "--package", package, "--edges", "normal,build", "--all-features", "--prefix", "none"];
    let output = Command::new(env!("CARGO")).current_dir(root()).args(args).output().unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_kernel_builds_alone() {
    let crates = tree("nexus-kernel");
    assert!(crates.contains("nexus-kernel") && crates.contains("serde"), "not a tree of the kernel: {crates:?}");
    let foreign: Vec<_> = FOREIGN_TO_KERNEL.iter().filter(|name| crates.contains(**name)).collect();
    assert!(foreign.is_empty(), "the kernel tier needs {foreign:?}");
    let others: Vec<_> = crates.iter().filter(|name| name.starts_with("nexus") && *name != "nexus-kernel").collect();
    assert!(others.is_empty(), "the kernel tier needs {others:?}");
}

/// The manifest of every member of the workspace, by package name.
fn members() -> BTreeMap<String, toml::Table> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
    let workspace = read(&root().join("Cargo.toml"));
    let listed = workspace["workspace"]["members"].as_array().unwrap();
    let manifests = listed.iter().map(|member| read(&root().join(member.as_str().unwrap()).join("Cargo.toml")));
    manifests.map(|manifest| (manifest["package"]["name"].as_str().unwrap().to_owned(), manifest)).collect()
}

/// Crates named `nexus…` among a manifest's dependencies of all kinds but those for tests.
fn imports(manifest: &toml::Table) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables =
        std::iter::once(manifest).chain(targets.into_iter().flat_map(|t| t.values().filter_map(|v| v.as_table())));
    let kinds = tables.flat_map(|table| ["dependencies", "build-dependencies"].map(|kind| table.get(kind)));
    let named = kinds.flatten().filter_map(toml::Value::as_table).flat_map(|dependencies| {
        dependencies.iter().map(|(name, value)| value.get("package").and_then(toml::Value::as_str).unwrap_or(name))
    });
    named.filter(|name| name.starts_with("nexus")).map(str::to_owned).collect()
}

#[test]
fn imports_point_one_way() {
    let members = members();
    let law: BTreeMap<&str, &[&str]> = LAW.into_iter().collect();
    let known: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    assert_eq!(known, law.keys().copied().collect(), "every crate has its line in the law");
    for (name, manifest) in &members {
        let against: Vec<_> = imports(manifest).into_iter().filter(|to| !law[name.as_str()].contains(&&**to)).collect();
        assert!(against.is_empty(), "{name} imports {against:?}, against the tiers");
    }
    assert!(imports(&members["nexus"]).len() >= 5, "the check reads manifests");
}

/// Only the composition root may choose drivers: everything above it sees traits.
#[test]
fn nobody_above_the_root_reaches_for_a_driver() {
    for (name, manifest) in members() {
        let reaches =
            ["nexus-drivers", "nexus-content", "nexus-zone"].iter().any(|driver| imports(&manifest).contains(*driver));
        assert_eq!(reaches, name == "nexus", "{name}");
    }
}
