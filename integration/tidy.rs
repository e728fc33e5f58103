//! House rules that neither compiler nor clippy holds: every file says what lives in it, no
//! file grows beyond what can be read in one go, and every silenced lint gives its reason.
#![allow(clippy::expect_used, reason = "helpers of a test, outside its function")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a file may have.
const MAX_LINES: usize = 600;
/// Files that were longer when the rule came, and how long they may be. Only ever shrinks.
const RATCHET: [(&str, usize); 0] = [];

#[test]
fn every_file_opens_with_what_lives_there() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "no `//!` at the head of {silent:#?}");
}

#[test]
fn no_file_is_too_long() {
    let mut long = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        let allowed = RATCHET.iter().find(|(file, _)| *file == name).map_or(MAX_LINES, |(_, lines)| *lines);
        if lines > allowed {
            long.push(format!("{name}: {lines} lines, {allowed} allowed"));
        }
    }
    assert!(long.is_empty(), "give part of it a room of its own: {long:#?}");
}

#[test]
fn the_ratchet_names_only_what_still_needs_it() {
    let sources = sources();
    for (file, _) in RATCHET {
        let lines = sources.iter().find(|(name, _)| name == file).map_or(0, |(_, text)| text.lines().count());
        assert!(lines > MAX_LINES, "{file} has {lines} lines and needs no exception any more");
    }
}

#[test]
fn every_silenced_lint_gives_its_reason() {
    let mut silent = Vec::new();
    for (name, text) in sources() {
        for start in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
            for (at, _) in text.match_indices(start) {
                let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
                if !text[line_start..at].trim().is_empty() {
                    continue;
                }
                let attribute = text[at..].split_once(")]").map_or("", |(inside, _)| inside);
                if !attribute.contains("reason = \"") {
                    silent.push(format!("{name}:{}", text[..at].lines().count() + 1));
                }
            }
        }
    }
    assert!(silent.is_empty(), "lints are silenced without a reason at {silent:#?}");
}

/// All Rust files of the project: names relative to its root, and text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace");
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("the project can be listed") {
            let path = entry.expect("the project can be listed").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || name == "target" || name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                todo.push(path);
            } else if name.ends_with(".rs") {
                let relative = path.strip_prefix(root).expect("it lies below the root").to_string_lossy().into_owned();
                found.push((relative, fs::read_to_string(&path).expect("sources are text")));
            }
        }
    }
    assert!(found.len() > 20, "the project was not found");
    found
}
