//! A thread that panics may leave anything half done behind, so the daemon stops at once:
//! what was acknowledged is in the log, and the next start recovers it. Users of the mount
//! get errors instead of waiting for answers that never come.

use std::panic::PanicHookInfo;
use std::sync::mpsc::Sender;
use std::time::Duration;

use parking_lot::Mutex;

use super::run::Event;

/// Status of a daemon that ended this way (EX_SOFTWARE of sysexits(3)).
pub const EXIT_STATUS: i32 = 70;

/// How long the mount may take to go before the daemon ends without that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells `events` of the first panic of any thread from now on.
pub fn watch(events: Sender<Event>) {
    let events = Mutex::new(Some(events));
    std::panic::set_hook(Box::new(move |info| {
        log::error!("{}", describe(info));
        if info.location().is_some_and(|place| is_caught(place.file())) {
            return;
        }
        if let Some(events) = events.lock().take() {
            // Should the daemon not be able to end in order, it ends all the same.
            let _ = std::thread::Builder::new().name("last-resort".to_owned()).spawn(|| {
                std::thread::sleep(PATIENCE);
                std::process::exit(EXIT_STATUS);
            });
            let _ = events.send(Event::Panicked);
        }
    }));
}

/// Whether the metastore's driver catches a panic at this place: redb's, which mean a damaged
/// page, become errors there.
fn is_caught(file: &str) -> bool {
    file.contains("/redb-")
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("no message");
    format!(
        "thread {} panicked at {place}: {message}\n{}",
        thread.name().unwrap_or("without a name"),
        std::backtrace::Backtrace::capture()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_driver_catches_is_survived() {
        assert!(is_caught("/home/ann/.cargo/registry/src/index.crates.io-0/redb-4.6.0/src/tree_store/btree.rs"));
        assert!(!is_caught("src/drivers/metastore/redb_metastore.rs"));
        assert!(!is_caught("fuse/adapter/ops.rs"));
    }
}
