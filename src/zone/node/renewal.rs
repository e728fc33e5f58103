//! Renews this node's certificates. Every member has the CA's key in its own copy of the zone's state, and
//! the others know a member by its key: so a node signs itself, and asks nobody. One that was away for longer than its
//! certificate was valid does so when it opens the zone. That another node is a member is what its record in
//! the state says, not its certificate: taking the record away revokes whatever it may sign.

use std::sync::{Arc, Weak};
use std::time::Duration;

use nexus_kernel::model;
use nexus_kernel::{Clock, Command, Error, MetaRead, Result, Zone, ZoneIndex};

use super::ZoneNode;
use super::files::{ZoneFiles, ZoneFolder};
use super::joined::JoinedZone;
use super::records::{CA_KEY, is_pinned, pin_key, read};
use crate::net::{NodeIdentity, NodeKey, PeerCertificate, PkiError, ZoneCa, Zones};
use crate::raft::Replica;

/// Longest and shortest pause between two looks at a certificate; between them, one in so many of its time.
const LOOK: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(1));
const LOOKS: i64 = 20;

/// What renewing works with.
pub struct Renewal {
    folder: ZoneFolder,
    served: Arc<Zones>,
    clock: Arc<dyn Clock>,
}

impl Renewal {
    /// Of the zones of a node.
    pub fn new(node: &ZoneNode) -> Renewal {
        let (folder, served) = (node.folder.clone(), node.served.clone());
        Renewal { folder, served, clock: node.parts.clock.clone() }
    }
}

/// Who this node is in a zone that it opens, by a new certificate if it is time for one.
pub fn at_opening(
    node: &ZoneNode,
    index: ZoneIndex,
    files: &ZoneFiles,
    key: &NodeKey,
    replica: &Replica,
) -> std::result::Result<NodeIdentity, PkiError> {
    let clock = &*node.parts.clock;
    let kept = key.identity(&files.certificate, &files.ca, clock);
    let shown = PeerCertificate::parse(&files.certificate)?;
    let is_ours = shown.member == files.record.member && shown.zone == files.record.zone();
    if !is_ours || shown.key != key.fingerprint() || !shown.is_due(clock.now()) {
        return kept;
    }
    let renewed = sign(replica, files, key, clock).and_then(|signed| {
        let Some((identity, der)) = signed else { return Ok(None) };
        node.folder.renew(index, &der)?;
        log::info!("the certificate for zone {} was renewed", files.record.name);
        Ok(Some(identity))
    });
    match renewed {
        Ok(Some(identity)) => Ok(identity),
        Ok(None) => kept,
        Err(error) => {
            log::warn!("the certificate for zone {} can't be renewed: {error}", files.record.name);
            kept
        }
    }
}

/// A new certificate, if the state here has what it takes: the CA, and this node's key as the one that the
/// others know it by.
fn sign(
    replica: &Replica,
    files: &ZoneFiles,
    key: &NodeKey,
    clock: &dyn Clock,
) -> Result<Option<(NodeIdentity, Vec<u8>)>> {
    let (mut ca, mut pinned) = (None, false);
    replica.state().read(&mut |state: &dyn MetaRead| {
        ca = read::<String>(state, CA_KEY)?;
        pinned = is_pinned(state, files.record.member, &key.fingerprint())?;
        Ok(())
    })?;
    let Some(ca) = ca.filter(|_| pinned) else { return Ok(None) };
    let made = || {
        let der = ZoneCa::from_pem(&ca)?.sign(&key.csr()?, files.record.member, clock)?;
        Ok((key.identity(&der, &files.ca, clock)?, der))
    };
    made().map(Some).map_err(|error: PkiError| Error::Io(error.to_string()))
}

/// Renews the certificate for a zone whenever it is time, until that is gone.
pub async fn run(zone: Weak<JoinedZone>, with: Renewal) {
    let with = Arc::new(with);
    let mut pause = LOOK.1;
    loop {
        tokio::time::sleep(pause).await;
        let Some(joined) = zone.upgrade() else { return };
        let lifetime = u64::try_from(joined.identity().certificate().lifetime_s() / LOOKS).unwrap_or(0);
        pause = Duration::from_secs(lifetime).clamp(LOOK.1, LOOK.0);
        if !joined.identity().certificate().is_due(with.clock.now()) {
            continue;
        }
        let (name, with) = (joined.name().to_owned(), with.clone());
        let renewed = tokio::task::spawn_blocking(move || with.renew(&joined)).await;
        match renewed.unwrap_or_else(|error| Err(Error::Io(error.to_string()))) {
            Ok(()) => log::info!("the certificate for zone {name} was renewed"),
            Err(error) => log::warn!("the certificate for zone {name} can't be renewed yet: {error}"),
        }
    }
}

impl Renewal {
    fn renew(&self, joined: &JoinedZone) -> Result<()> {
        let files = self.folder.read_one(joined.index())?;
        let bad = |error: PkiError| Error::Io(error.to_string());
        let key = NodeKey::from_pem(&files.key).map_err(bad)?;
        // Members from before there were pins have none.
        let mut pinned = false;
        joined.zone().read(&mut |state| {
            pinned = is_pinned(state, joined.member(), &key.fingerprint())?;
            Ok(())
        })?;
        if !pinned {
            let value = Some(model::encode(&key.fingerprint().0)?.to_vec());
            joined.zone().propose(&Command::SetSys { key: pin_key(joined.member()), value })?;
        }
        let signed = sign(joined.zone().replica(), &files, &key, &*self.clock)?;
        let (identity, der) = signed.ok_or_else(|| Error::Unavailable("the zone's state has no CA yet".into()))?;
        self.folder.renew(joined.index(), &der)?;
        joined.links().renew(&identity).map_err(bad)?;
        self.served.put(&identity, &self.clock).map_err(bad)
    }
}
