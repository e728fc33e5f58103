//! The logger behind the `log` crate: lines with time and level, to standard error or to a
//! file whose size is bounded.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};
use nexus_kernel::{Clock, SystemClock, Timestamp};
use parking_lot::Mutex;

/// A log file that grew beyond this many bytes becomes `daemon.log.1`, replacing the one before.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Longest message in bytes; the rest is cut.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Where lines go.
enum Sink {
    Stderr,
    File(LogFile),
}

struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
}

/// See the file's head.
struct Logger {
    sink: Mutex<Sink>,
}

/// Sends what is logged from `level` up to standard error; only the first call of a process counts.
pub fn init(level: LevelFilter) {
    let logger = LOGGER.get_or_init(|| Logger { sink: Mutex::new(Sink::Stderr) });
    // A second call finds a logger there already, which is this one.
    let _ = log::set_logger(logger);
    log::set_max_level(level);
}

/// Sends what is logged to the file at `path` from now on.
pub fn to_file(path: &Path) -> io::Result<()> {
    let file = LogFile::open(path)?;
    if let Some(logger) = LOGGER.get() {
        *logger.sink.lock() = Sink::File(file);
    }
    Ok(())
}

/// Opens the file anew, for those who moved it away.
pub fn reopen() -> io::Result<()> {
    if let Some(logger) = LOGGER.get()
        && let Sink::File(file) = &mut *logger.sink.lock()
    {
        *file = LogFile::open(&file.path)?;
    }
    Ok(())
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, len })
    }

    fn write(&mut self, line: &[u8], max_bytes: u64) -> io::Result<()> {
        if self.len > 0 && self.len + line.len() as u64 > max_bytes {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            *self = LogFile::open(&self.path)?;
        }
        self.file.write_all(line)?;
        self.len += line.len() as u64;
        Ok(())
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(SystemClock.now(), record);
        // Nobody is left to tell when the log itself cannot be written.
        let _ = match &mut *self.sink.lock() {
            Sink::Stderr => io::stderr().write_all(line.as_bytes()),
            Sink::File(file) => file.write(line.as_bytes(), MAX_FILE_BYTES),
        };
    }

    fn flush(&self) {}
}

/// One line, whatever the message has in it.
fn line(now: Timestamp, record: &Record<'_>) -> String {
    let mut message = record.args().to_string();
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str(" ...");
    }
    let message = message.replace('\n', "\\n");
    format!("{} {:5} {}: {message}\n", rfc3339(now), record.level(), record.target())
}

/// A time as RFC 3339 writes it, in UTC with milliseconds.
pub fn rfc3339(time: Timestamp) -> String {
    let days = time.sec.div_euclid(86_400);
    let second = time.sec.rem_euclid(86_400);
    // From days to a date in the Gregorian calendar: years begin in March, in cycles of 400
    // (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let cycle = shifted.div_euclid(146_097);
    let day_of_cycle = shifted.rem_euclid(146_097);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", time.nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        for (sec, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp { sec, nsec: 0 }), expected);
        }
        assert!(rfc3339(Timestamp { sec: 0, nsec: 987_654_321 }).ends_with(".987Z"));
    }

    #[test]
    fn a_message_is_one_bounded_line() {
        let long = format!("a\nb{}", "ü".repeat(MAX_MESSAGE_BYTES));
        let args = format_args!("{long}").to_string();
        let text = line(
            Timestamp::default(),
            &Record::builder().level(log::Level::Warn).target("zone").args(format_args!("{args}")).build(),
        );
        assert!(text.starts_with("1970-01-01T00:00:00.000Z WARN  zone: a\\nb\u{fc}"));
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.len() < MAX_MESSAGE_BYTES + 100);
    }

    #[test]
    fn a_full_file_is_put_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let mut file = LogFile::open(&path).unwrap();
        for round in 0..10 {
            file.write(format!("line {round}\n").as_bytes(), 20).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 8\nline 9\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("daemon.log.1")).unwrap(), "line 6\nline 7\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
