//! What people ask about zones, done.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus::zones::{Invite, JoinedZone, NoRecovery, Role, Unmounted, plan_recovery};
use nexus_kernel::{Clock, NodeId, SystemClock, ZoneIndex};

use super::{ZoneMounts, audit};
use crate::control::{Reply, ZoneAsk};
use crate::mount::{self, Unmount};

/// How long members may take to hear that a zone is destroyed before those that know of it go.
const TO_HEAR: Duration = Duration::from_secs(10);

fn text(error: nexus::Error) -> String {
    error.to_string()
}

impl ZoneMounts {
    /// Does what is asked; `node` is the directory that an inode number of the outer mount means.
    pub fn handle(&self, ask: ZoneAsk, node: impl Fn(u64) -> NodeId) -> Result<Reply, String> {
        match ask {
            ZoneAsk::Share { inode, name, ttl_sec, replicas, open } => {
                self.ensure_listening()?;
                let dir = node(inode);
                let shared = self.volume.share(dir, &name, &|joined| self.show(dir, joined.index()));
                // Where it failed, what was shown already is taken away.
                let joined = shared.inspect_err(|_| self.refresh()).map_err(text)?;
                if let Some(replicas) = replicas {
                    joined.set_replicas(replicas).map_err(|error| error.to_string())?;
                }
                if open {
                    joined.set_open(true).map_err(|error| error.to_string())?;
                }
                self.refresh();
                self.invitation(&joined, ttl_sec)
            }
            ZoneAsk::Join { invite, inode } => {
                let parsed = invite.map(|invite| Invite::parse(&invite, SystemClock.now()).map_err(|e| e.to_string()));
                let invite = parsed.transpose()?;
                self.ensure_listening()?;
                let joined = match &invite {
                    Some(invite) => self.volume.join(invite, node(inode)),
                    None => self.volume.join_within(node(inode)),
                };
                let joined = joined.map_err(text)?;
                self.refresh();
                Ok(Reply::Text { text: joined.name().to_owned() })
            }
            ZoneAsk::JoinByPath { address, names, inode } => {
                self.ensure_listening()?;
                let names: Vec<_> = names.into_iter().map(String::into_bytes).collect();
                let joined = self.volume.join_by_path(&address, &names, node(inode)).map_err(text)?;
                self.refresh();
                Ok(Reply::Text { text: joined.name().to_owned() })
            }
            ZoneAsk::Witness { invite } => {
                let invite = Invite::parse(&invite, SystemClock.now()).map_err(|error| error.to_string())?;
                self.ensure_listening()?;
                let joined = self.volume.join_as_witness(&invite).map_err(text)?;
                Ok(Reply::Text { text: joined.name().to_owned() })
            }
            ZoneAsk::List => {
                let (zones, closed, elsewhere) = (self.views(), self.closed(), self.elsewhere());
                Ok(Reply::Zones { zones, closed, elsewhere })
            }
            ZoneAsk::Invite { name, ttl_sec, witness: true } => {
                let invite = self.volume.invite_witness(&*self.named(&name)?, Duration::from_secs(ttl_sec));
                Ok(Reply::Text { text: invite.map_err(text)? })
            }
            ZoneAsk::Invite { name, ttl_sec, witness: false } => self.invitation(&*self.named(&name)?, ttl_sec),
            ZoneAsk::RemoveMember { name, member } => {
                let joined = self.named(&name)?;
                let member = find_member(&joined, &member)?;
                if member == joined.member() {
                    return Err("that is this node: use `nexus-fuse zone leave`".to_owned());
                }
                self.volume.remove_member(&joined, member).map_err(text)?;
                Ok(Reply::Done)
            }
            ZoneAsk::TransferLeader { name, member } => {
                let joined = self.named(&name)?;
                let member = find_member(&joined, &member)?;
                let node = self.volume.node().map_err(text)?;
                node.transfer(&joined, member).map_err(|error| error.to_string())?;
                Ok(Reply::Done)
            }
            ZoneAsk::SetReplicas { name, replicas } => {
                self.named(&name)?.set_replicas(replicas).map_err(|error| error.to_string())?;
                Ok(Reply::Done)
            }
            ZoneAsk::Open { name, open } => {
                self.named(&name)?.set_open(open).map_err(|error| error.to_string())?;
                Ok(Reply::Done)
            }
            ZoneAsk::Create { name, owner } => {
                self.ensure_listening()?;
                let joined = self.volume.create_zone(&name, owner).map_err(text)?;
                Ok(Reply::Text { text: joined.id().to_string() })
            }
            ZoneAsk::Mount { name, inode } => {
                self.volume.mount_zone(&*self.named(&name)?, node(inode)).map_err(text)?;
                self.refresh();
                Ok(Reply::Done)
            }
            ZoneAsk::Unmount { path } => {
                let unmounted = self.unmount(&path);
                self.refresh();
                Ok(Reply::Text { text: unmounted?.to_owned() })
            }
            ZoneAsk::Destroy { name, here, user } => self.destroy(&name, here, user),
            ZoneAsk::Recover { name, keep, yes, user } => self.recover(&name, &keep, yes, user),
            ZoneAsk::Audit => Ok(Reply::Text { text: audit::read(self.volume.path())? }),
            ZoneAsk::Leave { name } => {
                let joined = self.named(&name)?;
                let report = joined.report().map_err(|error| error.to_string())?;
                if report.members.len() < 2 && report.group.role != Role::Stopped {
                    return Err(format!(
                        "this node is the last member of zone {name}, whose files would be gone: unmount it, which \
                         puts it in the trash, or have another node join first"
                    ));
                }
                self.take_down(joined.index())?;
                let left = self.volume.leave_zone(&joined).map_err(text);
                self.refresh();
                left.map(|()| Reply::Done)
            }
            ZoneAsk::Changes { name, from, member, wait_ms } => {
                let joined = self.named(&name)?;
                let by = member.map(|member| find_member(&joined, &member)).transpose()?;
                self.changes(&joined, from, by, Duration::from_millis(wait_ms))
            }
            ZoneAsk::Digest { name } => {
                let joined = self.named(&name)?;
                if joined.is_witness() {
                    return Err(format!("this node is a witness of zone {name}, and has none of its files"));
                }
                let (index, digest) = joined.zone().digest().map_err(|error| error.to_string())?;
                Ok(Reply::Text { text: format!("{digest:032x} at {index}") })
            }
        }
    }

    fn named(&self, name: &str) -> Result<Arc<JoinedZone>, String> {
        self.volume.zone_named(name).map_err(text)
    }

    fn invitation(&self, joined: &JoinedZone, ttl_sec: u64) -> Result<Reply, String> {
        let invite = self.volume.invite(joined, Duration::from_secs(ttl_sec)).map_err(text)?;
        Ok(Reply::Text { text: invite })
    }

    /// Takes the zone at `path` away from there; what became of it.
    fn unmount(&self, path: &Path) -> Result<&'static str, String> {
        let place = self.survey().into_iter().find(|place| place.path == path);
        let Some(place) = place else {
            return Err(format!("no zone stands at {}: see `nexus-fuse zone ls`", path.display()));
        };
        self.take_down_at(path)?;
        let unmounted = self.volume.unmount_zone(place.node).map_err(text)?;
        Ok(match unmounted {
            Unmounted::Elsewhere => "it stands elsewhere, too",
            Unmounted::NotJoined => "this node took no part in it",
            Unmounted::Left => "this node has left it; the others go on",
            Unmounted::InTrash => "nobody else has it, so it is in the trash: `nexus-fuse zone restore` brings it back",
        })
    }

    fn destroy(&self, name: &str, here: bool, user: u32) -> Result<Reply, String> {
        let data = self.volume.path();
        let note = |what: &str, id: String| audit::note(data, &format!("user {user}: zone {name} ({id}) {what}"));
        if let Some(closed) = self.volume.closed_zone_named(name) {
            if !here {
                return Err(format!("zone {name} can't be opened: with --here, what this node has of it is deleted"));
            }
            note("can't be opened and is given up", closed.id.map(|id| id.to_string()).unwrap_or_default())?;
            self.volume.give_up_zone(&closed).map_err(text)?;
            self.refresh();
            return Ok(Reply::Text { text: "what this node had of it is deleted".to_owned() });
        }
        let joined = self.named(name)?;
        let report = joined.report().map_err(|error| error.to_string())?;
        let others = report.members.iter().filter(|member| member.id != joined.member());
        let others: Vec<String> = others.map(|member| member.about.name.clone()).collect();
        if here && report.has_quorum && !others.is_empty() {
            return Err(format!(
                "zone {name} has a majority, which would go on counting this node: use `nexus-fuse zone leave`"
            ));
        }
        note(if here { "is deleted on this node" } else { "is destroyed for all" }, joined.id().to_string())?;
        // Here, it ends with this.
        let _alone = self.ended.lock();
        self.take_down(joined.index())?;
        let done = if here {
            self.volume.delete_zone_here(&joined).map(|()| Vec::new())
        } else {
            self.volume.destroy_zone(&joined)
        };
        self.refresh();
        let left = done.map_err(text)?;
        Ok(Reply::Text {
            text: if here {
                "what this node had of it is deleted".to_owned()
            } else if left.is_empty() {
                "it is deleted".to_owned()
            } else {
                format!(
                    "it is deleted here; not reached: {}, where `nexus-fuse zone destroy {name} --here --yes` is to be \
                     run",
                    left.join(", ")
                )
            },
        })
    }

    fn recover(&self, name: &str, keep: &[String], yes: bool, user: u32) -> Result<Reply, String> {
        let joined = self.named(name)?;
        let report = joined.report().map_err(|error| error.to_string())?;
        let keep = keep.iter().map(|member| find_member(&joined, member)).collect::<Result<Vec<_>, _>>()?;
        let plan = plan_recovery(&report.group.membership, joined.member(), &keep).map_err(|why| match why {
            NoRecovery::NotNeeded => format!(
                "those that would be left are a majority of zone {name}: take the others out with `nexus-fuse zone \
                 remove-member`"
            ),
            NoRecovery::NotWithout => format!("this node is no member of zone {name} any more: recover it elsewhere"),
            NoRecovery::NoMember => format!("zone {name} has no such member: see `nexus-fuse zone status`"),
        })?;
        if report.has_quorum {
            return Err(format!(
                "a majority of zone {name} is there, so nothing is lost: `nexus-fuse zone remove-member` takes \
                 single members out"
            ));
        }
        let lost: Vec<String> = plan.lost.iter().map(|(id, name)| format!("{name} ({id})")).collect();
        let at = |index: Option<u64>| index.map_or_else(|| "none".to_owned(), |index| index.to_string());
        if !yes {
            return Err(format!(
                "zone {name} would go on with {} of {} members, from what this node has: its log up to entry {}, of \
                 which {} is known to be agreed on. Lost for good, and never let in again: {}. Changes that only \
                 they had are gone, and content that only they had. Should they still run, they must not go on \
                 with what they have. Say --yes if that is meant",
                plan.membership.members.len(),
                report.members.len(),
                at(report.group.last),
                at(report.group.committed.map(|at| at.index)),
                lost.join(", ")
            ));
        }
        let what = format!(
            "user {user}: zone {name} ({}) is recovered at entry {}; lost: {}",
            joined.id(),
            at(report.group.last),
            lost.join(", ")
        );
        audit::note(self.volume.path(), &what)?;
        let recovered = self.volume.recover_zone(&joined, &plan);
        self.refresh();
        let lacking = recovered.map_err(text)?;
        let content = if lacking.is_empty() {
            "all content is there".to_owned()
        } else {
            format!("content that only these had is gone: {}", lacking.join(", "))
        };
        Ok(Reply::Text { text: format!("it goes on with {} of them; {content}", plan.membership.members.len()) })
    }

    /// Deletes zones that another member has destroyed, once all know or have had the time to.
    pub(super) fn end_zones(&self) {
        let Some(mut seen) = self.ended.try_lock() else { return };
        for joined in self.volume.ended_zones() {
            let first = match seen.get(&joined.id().0) {
                Some(first) => *first,
                None => {
                    // Without a majority nobody can be told.
                    if let Err(error) = joined.note_end() {
                        log::info!("the others are not told that this node knows of the end of a zone: {error}");
                    }
                    *seen.entry(joined.id().0).or_insert_with(Instant::now)
                }
            };
            if !joined.unaware_of_end().is_empty() && first.elapsed() < TO_HEAR {
                continue;
            }
            let what = format!("zone {} ({}) was destroyed by another member", joined.name(), joined.id());
            let ended = audit::note(self.volume.path(), &what).and_then(|()| {
                for place in self.places(joined.index()) {
                    drop(self.mounted.lock().remove(&place));
                }
                self.volume.delete_zone_here(&joined).map_err(text)
            });
            if let Err(error) = ended {
                log::warn!("zone {} stays, though it was destroyed: {error}", joined.name());
            }
            self.refresh();
        }
    }

    /// Unmounts a zone wherever it is mounted, if nobody uses it.
    fn take_down(&self, index: ZoneIndex) -> Result<(), String> {
        self.places(index).iter().try_for_each(|place| self.take_down_at(place))
    }

    fn take_down_at(&self, place: &Path) -> Result<(), String> {
        let within = mount::table::mounts().map_err(|error| error.to_string())?;
        if within.iter().any(|entry| entry.target != place && entry.target.starts_with(place)) {
            return Err(format!("something is mounted below {}: take it away first", place.display()));
        }
        let mount = self.mounted.lock().remove(place);
        if let Some((index, mount)) = mount
            && let Err(error) = mount.unmount(Unmount::WhenIdle)
        {
            self.mounted.lock().insert(place.to_owned(), (index, mount));
            return Err(error.to_string());
        }
        Ok(())
    }
}

fn find_member(joined: &JoinedZone, wanted: &str) -> Result<nexus::zones::ZoneMemberId, String> {
    let report = joined.report().map_err(|error| error.to_string())?;
    let matches = |member: &&nexus::zones::MemberStatus| {
        member.about.name == wanted || (wanted.len() >= 4 && member.id.to_string().starts_with(wanted))
    };
    let found: Vec<_> = report.members.iter().filter(matches).collect();
    match found.as_slice() {
        [one] => Ok(one.id),
        [] => Err(format!("zone {} has no member {wanted}: see `nexus-fuse zone status`", joined.name())),
        _ => Err(format!("zone {} has several members {wanted}: give the beginning of an id", joined.name())),
    }
}
