//! The bars: what a mount of Nexus is held to, a row of the table each. Limits are of times, as
//! the table's ratios are; "at least 0.9 of the rate" is "at most 1 / 0.9 of the time".

/// What a time must not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// So many times the local file system's time.
    Local(f64),
    /// Less than the local file system's time.
    BelowLocal,
    /// So many times the floor's time.
    Floor(f64),
    /// So many milliseconds.
    Millis(f64),
}

/// The limits of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// The row.
    pub row: &'static str,
    /// All of them are to be kept.
    pub limits: &'static [Limit],
}

/// Most memory that the daemon may have had at once in all of the workloads.
pub const MOST_MEMORY_MIB: f64 = 256.0;

/// The bar of a row, if it has one.
pub fn bar(row: &str) -> Option<&'static Bar> {
    BARS.iter().find(|bar| bar.row == row)
}

const fn row(row: &'static str, limits: &'static [Limit]) -> Bar {
    Bar { row, limits }
}

use Limit::{BelowLocal, Floor, Local, Millis};

/// All bars of the table.
pub const BARS: &[Bar] = &[
    row("create, 1 process", &[Local(1.8), Floor(1.25)]),
    row("stat cold, 1 process", &[Local(2.0), Floor(1.25)]),
    row("unlink, 1 process", &[Local(2.6), Floor(1.25)]),
    row("create, 4 processes", &[Local(2.5), Floor(1.25)]),
    row("stat cold, 4 processes", &[Local(1.8), Floor(1.25)]),
    row("unlink, 4 processes", &[Local(4.5), Floor(1.25)]),
    row("readdir+stat cold, 1 process", &[BelowLocal]),
    row("readdir+stat warm, 1 process", &[Local(1.2)]),
    row("rename, 1 process", &[Floor(1.25)]),
    row("mkdir, 1 process", &[Floor(1.25)]),
    row("link, 1 process", &[Floor(1.25)]),
    row("symlink, 1 process", &[Floor(1.25)]),
    row("chmod+utimes, 1 process", &[Floor(1.25)]),
    row("untar", &[Local(3.5)]),
    row("cp -r", &[Local(3.5)]),
    row("rm -rf", &[Local(1.5)]),
    row("find cold", &[Local(3.0)]),
    row("find warm", &[Local(3.0)]),
    row("grep -r cold", &[Local(3.0)]),
    row("grep -r warm", &[Local(3.0)]),
    row("git clone", &[Local(3.0)]),
    row("cargo build", &[Local(1.2)]),
    row("write+fsync+close 4 KiB, 1 process", &[Local(1.0)]),
    row("write+fsync+close 4 KiB, 16 processes", &[Local(1.0 / 2.0)]),
    row("sequential write+fsync", &[Local(1.0 / 0.9)]),
    row("sequential read cold", &[Local(1.0 / 0.95)]),
    row("sequential read warm", &[Local(1.0 / 0.9)]),
    row("random read 4 KiB cold", &[Local(1.0 / 0.95)]),
    row("random read 4 KiB warm", &[Local(1.0 / 0.95)]),
    row("random write 4 KiB+fsync", &[Local(1.0 / 0.6)]),
    row("SQLite WAL, one insert each", &[Local(1.2)]),
    row("SQLite rollback, one insert each", &[Local(1.2)]),
    row("S3 sequential write", &[Local(1.0 / 0.9)]),
    row("S3 sequential read cold", &[Local(1.0 / 0.9)]),
    row("S3 random read 4 KiB cold", &[Local(1.3)]),
    row("S3 untar, against a volume on this disk", &[Local(1.3)]),
    row("metadata beside a writer, p99.99", &[Millis(50.0)]),
];

impl Limit {
    /// As the table shows it.
    pub fn show(self, local: &str) -> String {
        match self {
            Limit::Local(most) => format!("≤{most:.2} {local}"),
            Limit::BelowLocal => format!("<1 {local}"),
            Limit::Floor(most) => format!("≤{most:.2} floor"),
            Limit::Millis(most) => format!("≤{most:.0} ms"),
        }
    }

    /// Whether `own_s` keeps it; `None` if what it is held against was not measured.
    pub fn kept(self, own_s: f64, local_s: Option<f64>, floor_s: Option<f64>) -> Option<bool> {
        match self {
            Limit::Local(most) => local_s.map(|local| own_s <= local * most),
            Limit::BelowLocal => local_s.map(|local| own_s < local),
            Limit::Floor(most) => floor_s.map(|floor| own_s <= floor * most),
            Limit::Millis(most) => Some(own_s * 1000.0 <= most),
        }
    }
}

impl Bar {
    /// As the table shows it.
    pub fn show(&self, local: &str) -> String {
        self.limits.iter().map(|limit| limit.show(local)).collect::<Vec<_>>().join(", ")
    }

    /// Whether all limits are kept. One that is broken decides; else one that can't be judged
    /// leaves it open.
    pub fn met(&self, own_s: f64, local_s: Option<f64>, floor_s: Option<f64>) -> Option<bool> {
        let kept: Vec<_> = self.limits.iter().map(|limit| limit.kept(own_s, local_s, floor_s)).collect();
        if kept.contains(&Some(false)) {
            return Some(false);
        }
        kept.iter().all(Option::is_some).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_limit_decides_and_one_unknown_leaves_it_open() {
        let bar = bar("create, 1 process").unwrap();
        assert_eq!(bar.show("ext4"), "≤1.80 ext4, ≤1.25 floor");
        assert_eq!(bar.met(1.8, Some(1.0), Some(1.5)), Some(true));
        assert_eq!(bar.met(1.81, Some(1.0), None), Some(false));
        assert_eq!(bar.met(1.8, Some(1.0), None), None);
        assert_eq!(bar.met(1.8, None, Some(1.0)), Some(false));
    }

    #[test]
    fn faster_means_faster() {
        assert_eq!(Limit::BelowLocal.kept(1.0, Some(1.0), None), Some(false));
        assert_eq!(Limit::BelowLocal.kept(0.99, Some(1.0), None), Some(true));
        assert_eq!(Limit::Millis(50.0).kept(0.05, None, None), Some(true));
    }

    #[test]
    fn no_row_has_two_bars() {
        for bar in BARS {
            assert_eq!(BARS.iter().filter(|other| other.row == bar.row).count(), 1, "{}", bar.row);
        }
    }
}
