//! What was done to zones that can't be undone: a line for each, in `zones/audit.log` of the data folder.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use nexus_kernel::{Clock, SystemClock};

use crate::daemon::logger::rfc3339;

/// Bytes of the newest lines that are shown.
const SHOWN: usize = 64 << 10;

/// Notes, durably, what is about to be done to a zone of the volume at `data`.
pub fn note(data: &Path, what: &str) -> Result<(), String> {
    let folder = data.join("zones");
    let path = folder.join("audit.log");
    let what = what.replace('\n', " ");
    log::warn!("{what}");
    let written = std::fs::create_dir_all(&folder).and_then(|()| {
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.write_all(format!("{} {what}\n", rfc3339(SystemClock.now())).as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| format!("{} can't be written, so nothing is done: {error}", path.display()))
}

/// The newest lines of that.
pub fn read(data: &Path) -> Result<String, String> {
    let path = data.join("zones").join("audit.log");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|error| format!("{} can't be read: {error}", path.display()))?,
    };
    let bytes = text.as_bytes();
    let mut from = bytes.len().saturating_sub(SHOWN);
    while from > 0 && from < bytes.len() && bytes.get(from - 1) != Some(&b'\n') {
        from += 1;
    }
    Ok(text.get(from..).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_told_whole() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(read(data.path()), Ok(String::new()));
        note(data.path(), "one\ntwo").unwrap();
        let first = read(data.path()).unwrap();
        assert!(first.ends_with(" one two\n"), "{first}");
        for number in 0..3000 {
            note(data.path(), &format!("something that was done to a zone, number {number}")).unwrap();
        }
        let all = read(data.path()).unwrap();
        assert!(all.len() <= SHOWN && all.ends_with("number 2999\n") && !all.contains("one two"));
        assert!(all.starts_with("20"), "{}", &all[..40]);
    }
}
