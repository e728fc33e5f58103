//! Looks after copies of content: makes up for those that are too few, as after a member was away
//! or left, or the zone asks for more than before; and deletes those that the zone has forgotten.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nexus_kernel::scan::{blob_extents, find_blob, zone_blobs};
use nexus_kernel::{BlobId, Error, Interest, Result, Zone, ZoneIndex};

use super::copies::ZoneCopies;
use super::joined::JoinedZone;
use super::pulse;
use crate::mirror::{MirrorStore, Ranges};
use crate::raft::{MemberId, Span};

/// How often it is asked whether something is to be done.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after a change, or a pass that failed, copies are looked at.
const SETTLE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(20);
/// How often copies are looked at if nothing calls for it, and what is forgotten is deleted.
const CALM: Duration = Duration::from_secs(3600);
const SWEEP: Duration = Duration::from_secs(60);
/// How long a copy stays that the zone does not know of yet: longer than a change can be on its way.
const UNKNOWN: Duration = Duration::from_secs(600);
/// Blobs that members are asked about at once.
const BLOBS: usize = 8;
/// Extents of a blob that are looked at.
const EXTENTS: usize = 1 << 18;
/// How long a member may take to say what it keeps.
const QUESTION: Duration = Duration::from_secs(10);
/// Bytes that are sent at once.
const STEP: u64 = 4 << 20;

/// Looks after a zone's copies until it is gone.
pub async fn run(zone: Weak<JoinedZone>, mirror: Arc<MirrorStore>, writer: u32) {
    let began = Instant::now();
    let (mut due, mut sweep, mut seen) = (began + SETTLE, began + SWEEP, None);
    loop {
        tokio::time::sleep(PAUSE).await;
        pulse::rested(&zone).await;
        let Some(joined) = zone.upgrade() else { return };
        let copies = joined.copies().clone();
        let ids: Vec<MemberId> = {
            let mut ids: Vec<_> = copies.keepers().into_iter().map(|(id, _)| id).collect();
            ids.sort_unstable();
            ids
        };
        let now = Instant::now();
        let shape = Some((ids, copies.wanted()));
        if seen != shape || copies.take_behind() {
            seen = shape;
            due = due.min(now + SETTLE);
        }
        if now >= due {
            let at = joined.clone();
            let looked = tokio::task::spawn_blocking(move || complete(&at, writer)).await;
            due = Instant::now() + CALM;
            match looked.unwrap_or_else(|error| Err(Error::Io(error.to_string()))) {
                Ok(lacking) => {
                    copies.set_lacking(lacking);
                    if lacking > 0 {
                        due = Instant::now() + RETRY;
                    }
                }
                Err(error) => {
                    log::warn!("copies of zone {}'s content can't be looked at now: {error}", joined.name());
                    due = Instant::now() + RETRY;
                }
            }
        }
        if now >= sweep {
            sweep = now + SWEEP;
            let (at, mirror) = (joined.clone(), mirror.clone());
            let swept =
                tokio::task::spawn_blocking(move || drop_forgotten(&**at.zone(), at.index(), &mirror, began)).await;
            if let Ok(Err(error)) = swept {
                log::warn!("copies that zone {} has forgotten can't be deleted: {error}", joined.name());
            }
        }
    }
}

/// Sends what is missing of this node's content to the members that are to have it. Answers of
/// how many bytes there are still too few copies.
pub fn complete(joined: &JoinedZone, writer: u32) -> Result<u64> {
    let copies: &ZoneCopies = joined.copies();
    let keepers = copies.keepers();
    let needed = copies.wanted().saturating_sub(1);
    if needed == 0 {
        return Ok(0);
    }
    let zone: &dyn Zone = &**joined.zone();
    let own: Vec<BlobId> = zone_blobs(zone)?
        .into_iter()
        .filter(|(id, blob)| id.origin().0 == writer && blob.live > 0)
        .map(|(id, _)| id)
        .collect();
    let mut lacking = 0;
    for blobs in own.chunks(BLOBS) {
        let mut kept = Vec::new();
        for (id, member) in &keepers {
            let client = copies.client(*id, member)?;
            match joined.block_on(client.kept_content(blobs, QUESTION)) {
                Ok(ranges) => kept.push((client, ranges)),
                Err(error) => log::debug!("member {id} does not say which copies it keeps: {error}"),
            }
        }
        for (at, blob) in blobs.iter().enumerate() {
            let live = live(zone, *blob)?;
            // Those that have most of it have the rest, too.
            let mut targets: Vec<_> = kept
                .iter()
                .map(|(client, ranges)| (client, ranges.get(at).map(|kept| missing(&live, kept)).unwrap_or_default()))
                .collect();
            targets.sort_by_key(|(_, spans)| spans.iter().map(|(from, to)| to - from).sum::<u64>());
            let mut done = 0;
            for (client, gaps) in targets {
                if done == needed {
                    break;
                }
                match send(joined, copies, client, *blob, &gaps) {
                    Ok(()) => done += 1,
                    // Gone since, with those who had it.
                    Err(Error::NotFound) if !is_live(zone, *blob)? => done = needed,
                    Err(error) => log::warn!("a copy of blob {:016x} can't be made: {error}", blob.0),
                }
            }
            if done < needed {
                lacking += live.bytes();
            }
        }
    }
    Ok(lacking)
}

fn is_live(zone: &dyn Zone, blob: BlobId) -> Result<bool> {
    Ok(find_blob(zone, blob)?.is_some_and(|blob| blob.live > 0))
}

fn send(
    joined: &JoinedZone,
    copies: &ZoneCopies,
    client: &crate::net::PeerClient,
    blob: BlobId,
    gaps: &[(u64, u64)],
) -> Result<()> {
    for (start, end) in gaps {
        let mut at = *start;
        while at < *end {
            let len = STEP.min(end - at);
            joined.block_on(copies.send(client, &[Span { blob, offset: at, len }]))?;
            at += len;
        }
    }
    Ok(())
}

/// What files of the zone have in a blob.
fn live(zone: &dyn Zone, blob: BlobId) -> Result<Ranges> {
    let mut live = Ranges::default();
    for extent in blob_extents(zone, blob, EXTENTS)?.0 {
        live.add(extent.blob_offset, extent.blob_offset + extent.len);
    }
    Ok(live)
}

fn missing(live: &Ranges, kept: &Ranges) -> Vec<(u64, u64)> {
    live.iter().flat_map(|(start, end)| kept.missing(start, end)).collect()
}

/// Deletes copies of blobs that the zone does not know, and was told of long enough ago.
pub fn drop_forgotten(zone: &dyn Zone, index: ZoneIndex, mirror: &MirrorStore, began: Instant) -> Result<u64> {
    let old = |touched: Option<Instant>| touched.unwrap_or(began).elapsed() >= UNKNOWN;
    let candidates: Vec<BlobId> =
        mirror.blobs(index).into_iter().filter(|(_, touched)| old(*touched)).map(|(blob, _)| blob).collect();
    if candidates.is_empty() {
        return Ok(0);
    }
    // What was dropped elsewhere may not be known here yet; what was made there as well.
    zone.be_current(Interest::Anything)?;
    let mut dropped = 0;
    for blob in candidates {
        if find_blob(zone, blob)?.is_none() {
            mirror.remove(index, blob)?;
            dropped += 1;
        }
    }
    Ok(dropped)
}
