//! The crates that `cargo build` is measured with: a workspace without outside dependencies, of
//! libraries that need one another and a program on top.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// A workspace of generated crates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrateTree {
    /// Libraries; each but the first needs the one at half its number.
    pub libraries: usize,
    /// Modules of each.
    pub modules: usize,
}

impl CrateTree {
    /// What the program on top is called.
    pub const PROGRAM: &'static str = "app";
    /// Types of a module, each with a function.
    const TYPES: usize = 6;

    /// Writes the workspace to `root`.
    pub fn write(self, root: &Path) -> io::Result<()> {
        fs::create_dir_all(root)?;
        let libraries = 0..self.libraries;
        let members: Vec<String> = libraries.clone().map(|i| format!("\"lib{i:02}\"")).collect();
        let list = members.join(", ");
        let program = Self::PROGRAM;
        let manifest = format!("[workspace]\nresolver = \"2\"\nmembers = [\"{program}\", {list}]\n");
        fs::write(root.join("Cargo.toml"), manifest)?;
        for i in libraries.clone() {
            let needed = if i == 0 { vec![] } else { vec![i / 2] };
            let dir = root.join(format!("lib{i:02}"));
            package(&dir, &format!("lib{i:02}"), &needed)?;
            let mut top = String::new();
            for module in 0..self.modules {
                let _ = writeln!(top, "pub mod m{module};");
                fs::write(dir.join(format!("src/m{module}.rs")), Self::module(needed.first().copied(), module))?;
            }
            let sum: Vec<String> = (0..self.modules).map(|module| format!("m{module}::all(x)")).collect();
            let _ = writeln!(top, "pub fn all(x: u64) -> u64 {{\n    [{}].iter().sum()\n}}", sum.join(", "));
            fs::write(dir.join("src/lib.rs"), top)?;
        }
        let all: Vec<usize> = libraries.collect();
        let dir = root.join(program);
        package(&dir, program, &all)?;
        let calls: Vec<String> = all.iter().map(|i| format!("lib{i:02}::all({i} % 3)")).collect();
        let main = format!(
            "fn main() {{\n    let all: [u64; {}] = [{}];\n    println!(\"{{}}\", all.iter().sum::<u64>());\n}}\n",
            all.len(),
            calls.join(", ")
        );
        fs::write(dir.join("src/main.rs"), main)
    }

    /// A module's source: types that derive what types derive, and functions on them.
    fn module(needed: Option<usize>, module: usize) -> String {
        let mut source = String::from("use std::collections::BTreeMap;\n\n");
        let below = needed.map_or("x".to_owned(), |i| format!("lib{i:02}::m{module}::work0(x % 2)"));
        for kind in 0..Self::TYPES {
            let _ = write!(
                source,
                "#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]\n\
                 pub struct Kind{kind} {{\n    pub id: u64,\n    pub name: String,\n    pub parts: Vec<(u32, String)>,\n}}\n\n\
                 pub fn work{kind}(x: u64) -> u64 {{\n    \
                 let mut map: BTreeMap<String, Kind{kind}> = BTreeMap::new();\n    \
                 for i in 0..x % 7 {{\n        \
                 let kind = Kind{kind} {{ id: i + {kind}, name: format!(\"{{i}}-{{x}}\"), parts: vec![(i as u32, i.to_string())] }};\n        \
                 map.insert(format!(\"{{kind:?}}\"), kind);\n    }}\n    \
                 map.values().map(|kind| kind.id + kind.parts.len() as u64).sum::<u64>() + {}\n}}\n\n",
                if kind == 0 { below.as_str() } else { "x" },
            );
        }
        let sum: Vec<String> = (0..Self::TYPES).map(|kind| format!("work{kind}(x)")).collect();
        let _ = writeln!(source, "pub fn all(x: u64) -> u64 {{\n    [{}].iter().sum()\n}}", sum.join(", "));
        source
    }
}

fn package(dir: &Path, name: &str, needed: &[usize]) -> io::Result<()> {
    fs::create_dir_all(dir.join("src"))?;
    let mut manifest =
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\n");
    for i in needed {
        let _ = writeln!(manifest, "lib{i:02} = {{ path = \"../lib{i:02}\" }}");
    }
    fs::write(dir.join("Cargo.toml"), manifest)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_workspace_compiles() {
        let dir = tempfile::tempdir().unwrap();
        CrateTree { libraries: 3, modules: 2 }.write(dir.path()).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let output = Command::new(cargo)
            .args(["check", "--offline", "--quiet", "--target-dir", "target"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
