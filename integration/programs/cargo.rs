//! cargo: a crate is built and tested on the mount, and what is fresh stays fresh.

use std::fs;

use crate::failure::{Check, During, ensure};
use crate::lab::Lab;
use crate::tool::Tool;

const MODULES: u32 = 40;

/// Builds, tests, touches one file, builds again.
pub fn run(lab: &Lab) -> Check {
    let place = lab.place("cargo")?;
    let root = place.root().join("sums");
    fs::create_dir_all(root.join("src"))?;
    fs::write(root.join("Cargo.toml"), "[package]\nname = \"sums\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")?;
    let mut main = String::new();
    for module in 0..MODULES {
        main.push_str(&format!("mod m{module};\n"));
        let text = format!(
            "pub fn sum(n: u64) -> u64 {{ (0..n).map(|v| v * {module}).sum() }}\n\
             #[test]\nfn adds() {{ assert_eq!(sum(3), 3 * {module}); }}\n"
        );
        fs::write(root.join(format!("src/m{module}.rs")), text)?;
    }
    let calls: Vec<String> = (0..MODULES).map(|module| format!("m{module}::sum(9)")).collect();
    main.push_str(&format!("fn main() {{ println!(\"{{}}\", {}); }}\n", calls.join(" + ")));
    fs::write(root.join("src/main.rs"), main)?;

    let cargo = |args: &[&str]| {
        let target = root.join("target");
        Tool::new("cargo").args(args).arg("--offline").within(&root).env("CARGO_TARGET_DIR", target).run()
    };
    let built = cargo(&["build"])?;
    built.check().during("the first build")?;
    let tested = cargo(&["test"])?;
    tested.check()?;
    ensure!(tested.out.contains(&format!("{MODULES} passed")), "not all tests ran: {}", tested.tail());
    let said = Tool::new(root.join("target/debug/sums")).ok()?;
    ensure!(said.trim() == (0..MODULES).map(|module| 36 * module).sum::<u32>().to_string(), "it answers {said}");

    ensure!(cargo(&["build", "-v"])?.err.contains("Fresh sums"), "a second build is not fresh");
    let old = fs::read_to_string(root.join("src/m7.rs"))?;
    fs::write(root.join("src/m7.rs"), format!("{old}// changed\n"))?;
    let again = cargo(&["build", "-v"])?;
    ensure!(again.code == 0 && !again.err.contains("Fresh sums"), "a changed file went unnoticed: {}", again.tail());
    place.finish()
}
