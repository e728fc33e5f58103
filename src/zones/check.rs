//! Looking for damage: in the volume itself, and in each zone as this node has it.

use std::sync::Arc;

use nexus_content::{CheckSummary, Finding, NO_FILE, Scope, Severity};
use nexus_drivers::disk::RealDisk;
use nexus_kernel::disk::Disk;
use nexus_kernel::{Result as KernelResult, Zone, ZoneIndex};
use nexus_zone::node::{StoredZone, ZoneFiles, stored_zones};

use super::{RedbZones, has_zones};
use crate::boot::{CheckReport, MAX_FINDINGS, Volume};
use crate::config::ByteSize;
use crate::error::Result;

/// Memory for the metastore of a zone that is only looked at.
const CACHE_BYTES: u64 = 8 << 20;

/// Findings as they come, with where.
#[derive(Default)]
struct Findings {
    told: Vec<String>,
    left_out: usize,
}

impl Findings {
    fn take(&mut self, place: &str, finding: &Finding) {
        if self.told.len() < MAX_FINDINGS {
            let severity = if finding.severity == Severity::Damage { "damage" } else { "note" };
            self.told.push(format!("{severity}: {place}{}", finding.text));
        } else if finding.severity == Severity::Damage {
            self.left_out += 1;
        }
    }
}

impl Volume {
    /// Looks for damage; `deep` reads all content.
    pub fn check(&self, deep: bool) -> Result<CheckReport> {
        let failed = |error| self.failed("check", error);
        let mut findings = Findings::default();
        let has_zones = has_zones(self.path());
        let summary = nexus_content::check(&*self.root, &self.content, deep, &mut |finding| {
            // It may be a zone's.
            if !(has_zones && is_unused(&finding)) {
                findings.take("", &finding);
            }
        })
        .map_err(failed)?;
        let mut checked = vec![told(&summary)];
        if let Some(node) = self.node_if_any() {
            for joined in node.zones() {
                if joined.is_witness() {
                    checked.push(witness(joined.name()));
                    continue;
                }
                let summary = self.check_zone(joined.name(), deep, &mut findings, &mut |read| joined.zone().read(read));
                checked.push(format!("zone {}: {}", joined.name(), told(&summary.map_err(failed)?)));
            }
            for zone in node.closed() {
                findings.told.push(format!("damage: zone {} can't be opened: {}", zone.title(), zone.why));
            }
        } else if has_zones {
            for (index, name, files) in stored_zones(&self.path().join("zones")).map_err(failed)? {
                let is_witness = files.as_ref().is_ok_and(|files| files.record.about.witness);
                let stored = files.and_then(|files| self.stored(index, &files, deep));
                if is_witness && stored.is_ok() {
                    checked.push(witness(&name));
                    continue;
                }
                let summary = stored
                    .and_then(|stored| self.check_zone(&name, deep, &mut findings, &mut |read| stored.read(read)));
                match summary {
                    Ok(summary) => checked.push(format!("zone {name}: {}", told(&summary))),
                    Err(error) => findings.told.push(format!("damage: zone {name} can't be opened: {error}")),
                }
            }
        }
        if findings.left_out > 0 {
            findings.told.push(format!("damage: {} findings more", findings.left_out));
        }
        Ok(CheckReport { findings: findings.told, checked: checked.join("; ") })
    }

    fn check_zone(
        &self,
        name: &str,
        deep: bool,
        findings: &mut Findings,
        reading: &mut nexus_content::Reading<'_>,
    ) -> KernelResult<CheckSummary> {
        let scope = Scope { deep, writer: Some(self.identity().writer) };
        let place = format!("zone {name}: ");
        nexus_content::check_state(reading, &self.content, scope, &mut |finding| {
            if !is_unused(&finding) {
                findings.take(&place, &finding);
            }
        })
    }

    /// A zone as it is on disk.
    fn stored(&self, index: ZoneIndex, files: &ZoneFiles, deep: bool) -> KernelResult<StoredZone> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
        let zones = RedbZones::new(disk, self.path().join("meta"), CACHE_BYTES);
        let metastore = zones.open_to_check(index, deep)?;
        StoredZone::open(index, files, self.log.clone(), metastore)
    }
}

/// Whether it is only that a blob belongs to none of the zone's files.
fn is_unused(finding: &Finding) -> bool {
    finding.severity == Severity::Note && finding.text.ends_with(NO_FILE)
}

fn witness(name: &str) -> String {
    format!("zone {name}: this node is a witness, and has none of its files")
}

fn told(summary: &CheckSummary) -> String {
    format!(
        "{} inodes, {} names, {} extents, {} blobs, {} of content read",
        summary.inodes,
        summary.dentries,
        summary.extents,
        summary.blobs,
        ByteSize(summary.verified_bytes)
    )
}
