//! `nexus-fuse metrics`: figures of mounted volumes as text in the exposition format of Prometheus.
//!
//! docs/metrics.md tells of them for people; a test holds it against the table here.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::args::MetricsArgs;
use super::find;
use crate::control::{Reply, Request, Status, StoreStatus};

/// A daemon answers this at once, or something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Labels beside those that all have, and the value.
type Sample = (&'static str, f64);

/// What a figure is of.
enum Of {
    Volume(fn(&Status) -> Vec<Sample>),
    Store(fn(&StoreStatus) -> Vec<Sample>),
}

/// A figure: its name, with the unit in it, whether it only grows (`counter`), what it means.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    of: Of,
}

const METRICS: [Metric; 19] = [
    Metric {
        name: "nexus_healthy",
        kind: "gauge",
        help: "1 if all is well with the volume, else 0",
        of: Of::Volume(|status| one(f64::from(u8::from(status.health.ok)))),
    },
    Metric {
        name: "nexus_uptime_seconds",
        kind: "gauge",
        help: "Time since the daemon began; all counters begin with it",
        of: Of::Volume(|status| one(number(status.uptime_sec))),
    },
    Metric {
        name: "nexus_memory_used_bytes",
        kind: "gauge",
        help: "Resident memory of the daemon",
        of: Of::Volume(|status| one(number(status.memory_used_bytes))),
    },
    Metric {
        name: "nexus_disk_available_bytes",
        kind: "gauge",
        help: "Free space of the disk below the data folder",
        of: Of::Volume(|status| one(number(status.space.available_bytes))),
    },
    Metric {
        name: "nexus_inodes",
        kind: "gauge",
        help: "Files, directories and so on, of all zones",
        of: Of::Volume(|status| one(number(status.zones.iter().map(|zone| zone.inodes).sum()))),
    },
    Metric {
        name: "nexus_content_live_bytes",
        kind: "gauge",
        help: "Content that files refer to, wherever it is",
        of: Of::Volume(|status| one(number(status.content.live_bytes))),
    },
    Metric {
        name: "nexus_content_stored_bytes",
        kind: "gauge",
        help: "Content with what is dead of it: in segments on this disk, and in sealed blobs wherever they are",
        of: Of::Volume(|status| {
            let content = &status.content;
            vec![(r#"in="segments""#, number(content.segment_bytes)), (r#"in="blobs""#, number(content.blob_bytes))]
        }),
    },
    Metric {
        name: "nexus_store_requests_total",
        kind: "counter",
        help: "Requests to the store, by operation; a part of a large object is a put of its own, and what the client \
               library tries again counts once",
        of: Of::Store(|store| {
            vec![
                (r#"operation="put""#, number(store.puts)),
                (r#"operation="get""#, number(store.gets)),
                (r#"operation="head""#, number(store.heads)),
                (r#"operation="list""#, number(store.lists)),
                (r#"operation="delete""#, number(store.deletes)),
            ]
        }),
    },
    Metric {
        name: "nexus_store_bytes_total",
        kind: "counter",
        help: "Bytes of content stored (up) and fetched (down), as they are in the store",
        of: Of::Store(|store| {
            vec![(r#"direction="up""#, number(store.bytes_up)), (r#"direction="down""#, number(store.bytes_down))]
        }),
    },
    Metric {
        name: "nexus_store_request_failures_total",
        kind: "counter",
        help: "Requests that failed for good, after all tries",
        of: Of::Store(|store| one(number(store.failures))),
    },
    Metric {
        name: "nexus_store_failed_tries_total",
        kind: "counter",
        help: "Tries of requests that got no answer, or 408, 429 or 5xx; nearly all are tried again",
        of: Of::Store(|store| one(number(store.failed_tries))),
    },
    Metric {
        name: "nexus_store_throttled_requests_total",
        kind: "counter",
        help: "Requests that waited for the store's limits",
        of: Of::Store(|store| one(number(store.throttled))),
    },
    Metric {
        name: "nexus_store_throttled_seconds_total",
        kind: "counter",
        help: "How long they waited, all together",
        of: Of::Store(|store| one(number(store.throttled_ms) / 1000.0)),
    },
    Metric {
        name: "nexus_store_cache_reads_total",
        kind: "counter",
        help: "Reads of stored content, by whether the cache on this disk had all of it",
        of: Of::Store(|store| hits(store.cache_hits, store.cache_misses)),
    },
    Metric {
        name: "nexus_store_cache_read_bytes_total",
        kind: "counter",
        help: "Bytes of those reads",
        of: Of::Store(|store| hits(store.cache_hit_bytes, store.cache_miss_bytes)),
    },
    Metric {
        name: "nexus_store_cached_bytes",
        kind: "gauge",
        help: "Stored content that is kept on this disk, too",
        of: Of::Store(|store| one(number(store.cached_bytes))),
    },
    Metric {
        name: "nexus_store_waiting_bytes",
        kind: "gauge",
        help: "Content for the store that is only on this disk so far",
        of: Of::Store(|store| one(number(store.waiting_bytes))),
    },
    Metric {
        name: "nexus_store_limit_bytes_per_second",
        kind: "gauge",
        help: "The store's limits of bytes a second, where there are any",
        of: Of::Store(|store| {
            let up = store.upload_limit.map(|rate| (r#"direction="up""#, number(rate)));
            let down = store.download_limit.map(|rate| (r#"direction="down""#, number(rate)));
            up.into_iter().chain(down).collect()
        }),
    },
    Metric {
        name: "nexus_store_limit_requests",
        kind: "gauge",
        help: "The store's limit of requests at once, where there is one",
        of: Of::Store(|store| store.max_requests.map(|most| ("", f64::from(most))).into_iter().collect()),
    },
];

fn number(value: u64) -> f64 {
    value as f64
}

fn one(value: f64) -> Vec<Sample> {
    vec![("", value)]
}

fn hits(hits: u64, misses: u64) -> Vec<Sample> {
    vec![(r#"result="hit""#, number(hits)), (r#"result="miss""#, number(misses))]
}

/// Asks every daemon, or the one that is named; prints, or writes the file.
pub fn run(args: &MetricsArgs) -> Result<(), String> {
    let volumes = match &args.target {
        Some(target) => vec![find::by_name(Some(target), None)?],
        None => find::mounted()?,
    };
    let mut all = Vec::new();
    for volume in volumes.iter().filter(|volume| volume.data.is_some()) {
        match volume.ask(&Request::Status, PATIENCE) {
            Ok(Reply::Status(status)) => all.push(*status),
            Ok(other) => return Err(format!("the daemon answered something else: {other:?}")),
            // One that is gone is missing in the figures, as it should be; one that is named is asked for.
            Err(error) if args.target.is_some() => return Err(error.to_string()),
            Err(error) => eprintln!("nexus-fuse: {} is left out: {error}", volume.name()),
        }
    }
    let text = text(&all);
    match &args.out {
        Some(path) => write(path, &text).map_err(|error| format!("{} can't be written: {error}", path.display())),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// In place of the file in one step, so that nobody reads half of it.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let write = || {
        fs::File::create(&new)?.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

fn text(all: &[Status]) -> String {
    let mut out = String::new();
    for Metric { name, kind, help, of } in &METRICS {
        let mut lines = String::new();
        for status in all {
            let mount = status.mounts.first().map(|mount| mount.target.display().to_string()).unwrap_or_default();
            let own = format!("volume=\"{}\",mount=\"{}\"", status.volume, escape(&mount));
            match of {
                Of::Volume(of) => of(status).iter().for_each(|sample| line(&mut lines, name, &own, sample)),
                Of::Store(of) => {
                    let attached = status.attachments.iter().map(|attached| &attached.store);
                    for store in status.store.iter().chain(&status.stores).chain(attached) {
                        let own = format!("{own},store=\"{}\"", escape(&store.name));
                        of(store).iter().for_each(|sample| line(&mut lines, name, &own, sample));
                    }
                }
            }
        }
        if !lines.is_empty() {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
    }
    out
}

fn line(out: &mut String, name: &str, own: &str, (labels, value): &Sample) {
    let comma = if labels.is_empty() { "" } else { "," };
    let _ = writeln!(out, "{name}{{{own}{comma}{labels}}} {value}");
}

/// A label's value as the format wants it.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_told_of() {
        let told = include_str!("../../docs/metrics.md");
        for metric in &METRICS {
            let row = format!("| `{}` | {} |", metric.name, metric.kind);
            assert!(told.contains(&row), "docs/metrics.md has no line {row}");
            assert!(metric.kind != "counter" || metric.name.ends_with("_total"), "{}", metric.name);
        }
    }

    #[test]
    fn lines_are_as_prometheus_reads_them() {
        let mut out = String::new();
        line(&mut out, "nexus_x_total", "store=\"a\"", &(r#"operation="put""#, 3.0));
        line(&mut out, "nexus_x_total", "store=\"a\"", &("", 12_345_678_901.0));
        line(&mut out, "nexus_y", &format!("mount=\"{}\"", escape("/a\"b\\c\n")), &("", 0.25));
        assert_eq!(
            out,
            "nexus_x_total{store=\"a\",operation=\"put\"} 3\nnexus_x_total{store=\"a\"} 12345678901\n\
             nexus_y{mount=\"/a\\\"b\\\\c\\n\"} 0.25\n"
        );
    }
}
