//! What is printed and written at the end: facts about the run, tables, JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use nexus_bench::{Context, Failure, MOST_MEMORY_MIB, Report, Role};

use crate::Run;
use crate::machine;
use crate::peers;
use crate::subject::Subject;

impl Run {
    /// Facts about the machine, the command and the subjects.
    pub fn facts(
        &self,
        report: &Report,
        subjects: &[Subject],
        folder: &Path,
        runs: usize,
        load: Option<f64>,
        failed: Vec<String>,
    ) -> Vec<(String, String)> {
        let has_nexus = report.subjects.iter().any(|subject| subject.role == Role::Nexus);
        let program = self.nexus_program().ok().filter(|_| has_nexus);
        let mut facts: Vec<(String, String)> = machine::facts(folder, program.as_deref())
            .into_iter()
            .map(|(what, fact)| (what.to_owned(), fact))
            .collect();
        let arguments: Vec<String> = std::env::args().skip(2).collect();
        facts.push(("command".to_owned(), format!("`scripts/bench {}`", arguments.join(" "))));
        let seed = self.seed;
        facts.push(("runs".to_owned(), format!("{runs}, medians ± half the range, seed {seed}")));
        if let Some(load) = load {
            // Other people's programs are the first thing to suspect.
            facts.push(("load before".to_owned(), format!("{load:.2}")));
        }
        let columns = report.subjects.iter().map(|column| column.name.as_str());
        facts.extend(peers::versions(columns));
        for (i, subject) in subjects.iter().enumerate() {
            let column = &subject.column;
            if let Some(usage) = subject.usage() {
                let peak = usage.peak_rss_kib as f64 / 1024.0;
                let cpu = usage.cpu.as_secs_f64();
                let mut fact = format!("peak memory {peak:.0} MiB, processor time {cpu:.1} s");
                if !column.transport.is_empty() {
                    let _ = write!(fact, ", requests over {}", column.transport);
                }
                facts.push((format!("daemon of {}", column.name), fact));
                if column.role == Role::Nexus {
                    let met = if peak <= MOST_MEMORY_MIB { "met" } else { "not met" };
                    let (good, judged) = report.score(i);
                    let fact = format!("{good} of {judged} met; memory ≤{MOST_MEMORY_MIB:.0} MiB {met}");
                    facts.push((format!("bars of {}", column.name), fact));
                }
            }
        }
        facts.extend(failed.into_iter().map(|failure| ("failed".to_owned(), failure)));
        facts
    }

    /// Prints facts and tables, and writes them where the options say.
    pub fn publish(&self, report: &Report, facts: &[(String, String)]) -> Result<(), Failure> {
        let (main, peers) = (report.main(), report.peers());
        for (what, fact) in facts {
            println!("{what}: {fact}");
        }
        println!("\nRatios are of times: 2.00 takes twice as long.\n\n{}", main.text());
        if let Some(peers) = &peers {
            println!("Against peers:\n\n{}", peers.text());
        }
        if let Some(path) = &self.markdown {
            let mut out = String::new();
            for (what, fact) in facts {
                let _ = writeln!(out, "- {what}: {}", fact.trim_end().replace('\n', " "));
            }
            let _ = write!(out, "\n{}", main.markdown());
            if let Some(peers) = &peers {
                let _ = write!(out, "\n### Against peers\n\n{}", peers.markdown());
            }
            fs::write(path, out).during(|| format!("writing {}", path.display()))?;
        }
        if let Some(path) = &self.json {
            let told = format!("{:#}\n", nexus_bench::json(report, facts));
            fs::write(path, told).during(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}
