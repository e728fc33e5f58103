//! The table: ratios first, medians after, the same content for a terminal and as Markdown.

use std::fmt::Write as _;

use crate::Samples;

/// What a workload's speed is told in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// So many operations a run: shown as operations a second.
    Operations(u64),
    /// So many bytes a run: shown as MiB a second.
    Bytes(u64),
    /// Shown as the time a run took.
    Seconds,
}

impl Unit {
    fn show(self, median_s: f64) -> String {
        match self {
            Unit::Operations(count) => {
                let rate = count as f64 / median_s;
                if rate >= 10_000.0 { format!("{:.1}k/s", rate / 1000.0) } else { format!("{rate:.0}/s") }
            }
            Unit::Bytes(bytes) => format!("{:.0} MiB/s", bytes as f64 / 1_048_576.0 / median_s),
            Unit::Seconds if median_s < 1.0 => format!("{:.0} ms", median_s * 1000.0),
            Unit::Seconds => format!("{median_s:.2} s"),
        }
    }
}

/// One workload's results.
#[derive(Clone, Debug)]
pub struct Row {
    /// The workload.
    pub name: String,
    /// What its speed is told in.
    pub unit: Unit,
    /// Samples in the order of the report's subjects; empty where it was not run.
    pub samples: Vec<Samples>,
}

/// All results of a bench.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was compared, in column order.
    pub subjects: Vec<String>,
    /// Pairs of subjects whose times are divided, in column order.
    pub ratios: Vec<(usize, usize)>,
    /// Workloads in the order that they ran.
    pub rows: Vec<Row>,
}

impl Report {
    /// Ratios that a reader asks for first: each subject against the local file system (the last
    /// of `bases` that is there), and against the floor.
    pub fn new(subjects: Vec<String>, bases: &[&str]) -> Self {
        let mut ratios = Vec::new();
        for (i, subject) in subjects.iter().enumerate() {
            let own = bases.iter().position(|b| b == subject).unwrap_or(bases.len());
            for base in bases.iter().take(own) {
                if let Some(j) = subjects.iter().position(|s| s == base) {
                    ratios.push((i, j));
                }
            }
        }
        Report { subjects, ratios, rows: Vec::new() }
    }

    /// Adds a run of a workload.
    pub fn record(&mut self, name: &str, unit: Unit, subject: usize, time: std::time::Duration) {
        if !self.rows.iter().any(|row| row.name == name) {
            let samples = vec![Samples::default(); self.subjects.len()];
            self.rows.push(Row { name: name.to_owned(), unit, samples });
        }
        let row = self.rows.iter_mut().find(|row| row.name == name);
        if let Some(samples) = row.and_then(|row| row.samples.get_mut(subject)) {
            samples.push(time);
        }
    }

    /// The table as padded text.
    pub fn text(&self) -> String {
        let cells = self.cells();
        let columns = cells.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|c| cells.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in &cells {
            for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                if c == 0 {
                    out.push_str(cell);
                    out.push_str(&pad);
                } else {
                    out.push_str("  ");
                    out.push_str(&pad);
                    out.push_str(cell);
                }
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        out
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for (i, row) in self.cells().iter().enumerate() {
            let _ = writeln!(out, "| {} |", row.join(" | "));
            if i == 0 {
                let _ = writeln!(out, "|---{}|", "|---:".repeat(row.len().saturating_sub(1)));
            }
        }
        out
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let name = |i: usize| self.subjects.get(i).map_or("?", String::as_str);
        let mut head = vec!["workload".to_owned()];
        head.extend(self.ratios.iter().map(|&(a, b)| format!("{}/{}", name(a), name(b))));
        head.extend(self.subjects.iter().cloned());
        let mut cells = vec![head];
        for row in &self.rows {
            let median = |i: usize| row.samples.get(i).and_then(Samples::median_s);
            let mut line = vec![row.name.clone()];
            line.extend(self.ratios.iter().map(|&(a, b)| match (median(a), median(b)) {
                (Some(a), Some(b)) if b > 0.0 => ratio(a / b),
                _ => "-".to_owned(),
            }));
            line.extend(row.samples.iter().map(|s| match (s.median_s(), s.spread()) {
                (Some(median), Some(spread)) => {
                    format!("{} ±{:.0}%", row.unit.show(median), spread * 100.0)
                }
                _ => "-".to_owned(),
            }));
            cells.push(line);
        }
        cells
    }
}

fn ratio(value: f64) -> String {
    if value >= 10.0 { format!("{value:.1}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample() -> Report {
        let names = ["nexus", "floor", "ext4"].map(str::to_owned).to_vec();
        let mut report = Report::new(names, &["ext4", "floor"]);
        for (subject, ms) in [(0, 300), (1, 200), (2, 100)] {
            for extra in [0, 10, 20] {
                let time = Duration::from_millis(ms + extra);
                report.record("create", Unit::Operations(20_000), subject, time);
            }
        }
        report.record("write", Unit::Bytes(1 << 30), 2, Duration::from_secs(2));
        report
    }

    #[test]
    fn ratios_come_first_and_divide_medians() {
        let text = sample().text();
        let mut lines = text.lines();
        let head: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(head, ["workload", "nexus/ext4", "nexus/floor", "floor/ext4", "nexus", "floor", "ext4"]);
        let create: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(create[1..4], ["2.82", "1.48", "1.91"]);
        assert_eq!(create[4..6], ["64.5k/s", "±3%"]);
    }

    #[test]
    fn a_workload_that_a_subject_did_not_run_is_a_dash() {
        let text = sample().markdown();
        assert_eq!(text.lines().last().unwrap(), "| write | - | - | - | - | - | 512 MiB/s ±0% |");
        assert_eq!(text.lines().nth(1).unwrap(), "|---|---:|---:|---:|---:|---:|---:|");
    }
}
