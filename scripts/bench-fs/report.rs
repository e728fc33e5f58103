//! The tables: ratios first, bars, medians after, the same content for a terminal and as Markdown.
//! One table holds Nexus against the local file system and the floor, another one against peers.

use std::fmt::Write as _;

use crate::Samples;
use crate::bars::bar;

/// What a workload's speed is told in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// So many operations a run: shown as operations a second.
    Operations(u64),
    /// So many bytes a run: shown as MiB a second.
    Bytes(u64),
    /// Shown as the time a run took.
    Seconds,
    /// One operation's time: shown in milliseconds.
    Latency,
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
            Unit::Latency => format!("{:.2} ms", median_s * 1000.0),
        }
    }
}

/// What a subject is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What is held to the bars.
    Nexus,
    /// What FUSE costs.
    Floor,
    /// The machine's own file system.
    Local,
    /// Another file system over FUSE.
    Peer,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// What carries its requests. Nexus is held against the floor on the same transport.
    pub transport: String,
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

impl Row {
    pub(crate) fn median_s(&self, subject: usize) -> Option<f64> {
        self.samples.get(subject).and_then(Samples::median_s)
    }

    pub(crate) fn ratio(&self, over: usize, under: usize) -> Option<f64> {
        let (over, under) = (self.median_s(over)?, self.median_s(under)?);
        (under > 0.0).then(|| over / under)
    }

    fn speed(&self, subject: usize) -> String {
        let samples = self.samples.get(subject);
        match (self.median_s(subject), samples.and_then(Samples::spread)) {
            (Some(median), Some(spread)) => format!("{} ±{:.0}%", self.unit.show(median), spread * 100.0),
            _ => "-".to_owned(),
        }
    }
}

/// All results of a bench.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was compared, in column order.
    pub subjects: Vec<Subject>,
    /// Workloads in the order that they ran.
    pub rows: Vec<Row>,
}

/// Lines of cells, the head first.
pub struct Table(Vec<Vec<String>>);

impl Report {
    /// An empty report.
    pub fn new(subjects: Vec<Subject>) -> Self {
        Report { subjects, rows: Vec::new() }
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

    pub(crate) fn with_role(&self, role: Role) -> impl Iterator<Item = usize> {
        self.subjects.iter().enumerate().filter(move |(_, subject)| subject.role == role).map(|(i, _)| i)
    }

    pub(crate) fn name(&self, subject: usize) -> &str {
        self.subjects.get(subject).map_or("?", |subject| subject.name.as_str())
    }

    fn local(&self) -> Option<usize> {
        self.with_role(Role::Local).next()
    }

    /// The floor on the transport of `subject`.
    fn floor_of(&self, subject: usize) -> Option<usize> {
        let transport = &self.subjects.get(subject)?.transport;
        self.with_role(Role::Floor).find(|i| self.subjects.get(*i).is_some_and(|floor| floor.transport == *transport))
    }

    /// Nexus and the floor against the local file system, Nexus against the floor, and whether
    /// the bars are met.
    pub fn main(&self) -> Table {
        let columns: Vec<usize> = (0..self.subjects.len())
            .filter(|i| self.subjects.get(*i).is_some_and(|subject| subject.role != Role::Peer))
            .collect();
        let mut pairs = Vec::new();
        for &i in &columns {
            let role = self.subjects.get(i).map(|subject| subject.role);
            if role != Some(Role::Local) {
                pairs.extend(self.local().map(|local| (i, local)));
            }
            if role == Some(Role::Nexus) {
                pairs.extend(self.floor_of(i).map(|floor| (i, floor)));
            }
        }
        let judged: Vec<usize> = self.with_role(Role::Nexus).collect();
        let mut head = vec!["workload".to_owned()];
        head.extend(pairs.iter().map(|&(a, b)| format!("{}/{}", self.name(a), self.name(b))));
        if !judged.is_empty() {
            head.push("bar".to_owned());
            let one = judged.len() == 1;
            head.extend(judged.iter().map(|&i| if one { "met".to_owned() } else { format!("{} met", self.name(i)) }));
        }
        head.extend(columns.iter().map(|&i| self.name(i).to_owned()));
        let mut cells = vec![head];
        for row in &self.rows {
            let mut line = vec![row.name.clone()];
            line.extend(pairs.iter().map(|&(a, b)| row.ratio(a, b).map_or("-".to_owned(), ratio)));
            if !judged.is_empty() {
                let local = self.local().map_or("local", |local| self.name(local));
                line.push(bar(&row.name).map_or(String::new(), |bar| bar.show(local)));
                line.extend(judged.iter().map(|&i| match (bar(&row.name), self.met(row, i)) {
                    (None, _) => String::new(),
                    (Some(_), None) => "-".to_owned(),
                    (Some(_), Some(met)) => yes_or_no(met),
                }));
            }
            line.extend(columns.iter().map(|&i| row.speed(i)));
            cells.push(line);
        }
        Table(cells)
    }

    pub(crate) fn met(&self, row: &Row, subject: usize) -> Option<bool> {
        let median = |i: Option<usize>| i.and_then(|i| row.median_s(i));
        bar(&row.name)?.met(row.median_s(subject)?, median(self.local()), median(self.floor_of(subject)))
    }

    /// How many of the bars that could be judged a subject meets.
    pub fn score(&self, subject: usize) -> (usize, usize) {
        let judged: Vec<bool> = self.rows.iter().filter_map(|row| self.met(row, subject)).collect();
        (judged.iter().filter(|met| **met).count(), judged.len())
    }

    /// Nexus against peers, and peers against the local file system; `None` without peers.
    pub fn peers(&self) -> Option<Table> {
        let peers: Vec<usize> = self.with_role(Role::Peer).collect();
        let own: Vec<usize> = self.with_role(Role::Nexus).collect();
        if peers.is_empty() {
            return None;
        }
        let against = |a: usize, others: &[usize]| others.iter().map(|&b| (a, b)).collect::<Vec<_>>();
        let mut head = vec!["workload".to_owned()];
        let title = |&(a, b): &(usize, usize)| format!("{}/{}", self.name(a), self.name(b));
        for &i in &own {
            head.extend(against(i, &peers).iter().map(title));
            head.push(if own.len() == 1 { "standing".to_owned() } else { format!("{} stands", self.name(i)) });
        }
        let to_local: Vec<_> = peers.iter().filter_map(|&peer| self.local().map(|local| (peer, local))).collect();
        head.extend(to_local.iter().map(title));
        head.extend(own.iter().chain(&peers).map(|&i| self.name(i).to_owned()));
        let mut cells = vec![head];
        for row in &self.rows {
            let show = |&(a, b): &(usize, usize)| row.ratio(a, b).map_or("-".to_owned(), ratio);
            let mut line = vec![row.name.clone()];
            for &i in &own {
                let pairs = against(i, &peers);
                line.extend(pairs.iter().map(show));
                line.push(self.verdict(row, &pairs));
            }
            line.extend(to_local.iter().map(show));
            line.extend(own.iter().chain(&peers).map(|&i| row.speed(i)));
            cells.push(line);
        }
        Some(Table(cells))
    }

    /// Whether Nexus is ahead of all peers that did the row, or behind which.
    fn verdict(&self, row: &Row, pairs: &[(usize, usize)]) -> String {
        let known: Vec<(usize, f64)> = pairs.iter().filter_map(|&(a, b)| Some((b, row.ratio(a, b)?))).collect();
        let faster: Vec<&str> = known.iter().filter(|(_, ratio)| *ratio >= 1.0).map(|&(b, _)| self.name(b)).collect();
        match (known.is_empty(), faster.is_empty()) {
            (true, _) => "-".to_owned(),
            (_, true) => "ahead".to_owned(),
            _ => format!("behind {}", faster.join(", ")),
        }
    }
}

impl Table {
    /// Padded for a terminal.
    pub fn text(&self) -> String {
        let columns = self.0.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|c| self.0.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in &self.0 {
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

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for (i, row) in self.0.iter().enumerate() {
            let _ = writeln!(out, "| {} |", row.join(" | "));
            if i == 0 {
                let _ = writeln!(out, "|---{}|", "|---:".repeat(row.len().saturating_sub(1)));
            }
        }
        out
    }
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn ratio(value: f64) -> String {
    if value >= 10.0 { format!("{value:.1}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn subject(name: &str, role: Role, transport: &str) -> Subject {
        Subject { name: name.to_owned(), role, transport: transport.to_owned() }
    }

    fn sample(peers: bool) -> Report {
        let mut subjects = vec![
            subject("nexus", Role::Nexus, "device"),
            subject("floor", Role::Floor, "device"),
            subject("ext4", Role::Local, ""),
        ];
        if peers {
            subjects.push(subject("bindfs", Role::Peer, ""));
        }
        let mut report = Report::new(subjects);
        for (subject, ms) in [(0, 300), (1, 200), (2, 100), (3, 600)] {
            for extra in [0, 10, 20] {
                let time = Duration::from_millis(ms + extra);
                report.record("create, 1 process", Unit::Operations(20_000), subject, time);
            }
        }
        report.record("write", Unit::Bytes(1 << 30), 2, Duration::from_secs(2));
        report.record("metadata beside a writer, p99.99", Unit::Latency, 0, Duration::from_micros(1500));
        report
    }

    fn rows(markdown: &str) -> Vec<Vec<String>> {
        let cells = |line: &str| line.trim_matches(['|', ' ']).split('|').map(|cell| cell.trim().to_owned()).collect();
        markdown.lines().map(cells).collect()
    }

    #[test]
    fn ratios_come_first_and_divide_medians() {
        let rows = rows(&sample(false).main().markdown());
        let head = ["workload", "nexus/ext4", "nexus/floor", "floor/ext4", "bar", "met", "nexus", "floor", "ext4"];
        assert_eq!(rows[0], head);
        assert_eq!(rows[2][1..4], ["2.82", "1.48", "1.91"]);
        assert_eq!(rows[2][4..7], ["≤1.80 ext4, ≤1.25 floor", "no", "64.5k/s ±3%"]);
        assert_eq!(rows[4][4..7], ["≤50 ms", "yes", "1.50 ms ±0%"]);
    }

    #[test]
    fn a_workload_that_a_subject_did_not_run_is_a_dash_and_no_bar_is_a_blank() {
        let text = sample(false).main().markdown();
        assert_eq!(text.lines().nth(3).unwrap(), "| write | - | - | - |  |  | - | - | 512 MiB/s ±0% |");
        assert_eq!(text.lines().nth(1).unwrap(), "|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    }

    #[test]
    fn peers_have_a_table_of_their_own() {
        assert!(sample(false).peers().is_none());
        let report = sample(true);
        assert_eq!(report.main().markdown(), sample(false).main().markdown());
        let rows = rows(&report.peers().unwrap().markdown());
        assert_eq!(rows[0], ["workload", "nexus/bindfs", "standing", "bindfs/ext4", "nexus", "bindfs"]);
        assert_eq!(rows[2], ["create, 1 process", "0.51", "ahead", "5.55", "64.5k/s ±3%", "32.8k/s ±2%"]);
    }

    #[test]
    fn a_row_names_the_peers_that_were_faster() {
        let names = ["slow", "fast", "same", "absent"];
        let mut subjects = vec![subject("nexus", Role::Nexus, "")];
        subjects.extend(names.map(|name| subject(name, Role::Peer, "")));
        let mut report = Report::new(subjects);
        for (subject, ms) in [(0, 100), (1, 200), (2, 50), (3, 100)] {
            report.record("one", Unit::Seconds, subject, Duration::from_millis(ms));
        }
        report.record("two", Unit::Seconds, 0, Duration::from_millis(1));
        let rows = rows(&report.peers().unwrap().markdown());
        let standing = rows[0].iter().position(|cell| cell == "standing").unwrap();
        assert_eq!(rows[2][standing], "behind fast, same");
        assert_eq!(rows[3][standing], "-");
    }

    #[test]
    fn each_transport_is_held_against_its_own_floor() {
        let mut report = Report::new(vec![
            subject("nexus-device", Role::Nexus, "device"),
            subject("floor-device", Role::Floor, "device"),
            subject("nexus-ring", Role::Nexus, "io_uring"),
            subject("floor-ring", Role::Floor, "io_uring"),
        ]);
        for (subject, ms) in [(0, 110), (1, 100), (2, 60), (3, 40)] {
            report.record("mkdir, 1 process", Unit::Operations(1), subject, Duration::from_millis(ms));
        }
        let rows = rows(&report.main().markdown());
        let head = ["nexus-device/floor-device", "nexus-ring/floor-ring", "bar", "nexus-device met", "nexus-ring met"];
        assert_eq!(rows[0][1..6], head);
        assert_eq!(rows[2][1..6], ["1.10", "1.50", "≤1.25 floor", "yes", "no"]);
        assert_eq!((report.score(0), report.score(2)), ((1, 1), (0, 1)));
    }
}
