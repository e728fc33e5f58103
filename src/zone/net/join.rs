//! What a node says to a zone that it is no member of: it joins with an invitation, or asks
//! the way of a path.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexus_kernel::Clock;
use nexus_kernel::command::known_version;
use nexus_proto as proto;
use nexus_proto::zone_api_service_client::ZoneApiServiceClient;
use tokio::runtime::Handle;
use tonic::transport::Channel;

use super::client::{CallError, empty, within};
use super::connect::{Connector, Target, Timing};
use super::identity::Fingerprint;
use super::invite::Invite;
use super::peer::{JoinRequest, Joined, Refusal, Resolved, ZoneAddress};
use super::pki::{NodeIdentity, NodeKey, PkiError};
use super::service::MAX_SMALL;
use super::{convert, tls};
use crate::raft::Member;

/// How often a joiner goes on to whom a member names as the leader.
const MAX_HOPS: usize = 5;

/// A stranger's connection to a zone, known by its id and its CA's fingerprint. It trusts any
/// member of it, and nobody else.
pub struct JoinClient {
    zone: ZoneAddress,
    clock: Arc<dyn Clock>,
    handle: Handle,
    timing: Timing,
}

impl JoinClient {
    /// A client for a zone at these addresses, on the runtime of `handle`.
    pub fn new(zone: ZoneAddress, clock: Arc<dyn Clock>, handle: Handle, timing: Timing) -> JoinClient {
        JoinClient { zone, clock, handle, timing }
    }

    /// A client for the zone of an invitation.
    pub fn invited(invite: &Invite, clock: Arc<dyn Clock>, handle: Handle, timing: Timing) -> JoinClient {
        let zone = ZoneAddress { zone: invite.zone, addresses: invite.addresses.clone(), ca: invite.ca };
        JoinClient::new(zone, clock, handle, timing)
    }

    /// Becomes a member: sends the invitation's token and a request for `key`, and checks that
    /// what comes back is a certificate of that key, for that zone, by the pinned CA. A member
    /// that does not lead says who does, and is followed, a few times. `limit` is for each.
    ///
    /// A [`CallError::TimedOut`] or [`CallError::Unreachable`] may leave the token used.
    pub async fn join(
        &self,
        invite: &Invite,
        key: &NodeKey,
        member: Member,
        limit: Duration,
    ) -> Result<(Joined, NodeIdentity), CallError> {
        use proto::join_reply::Outcome;
        let csr = Bytes::from(key.csr().map_err(protocol)?);
        let request = JoinRequest { token: invite.token.clone(), csr, member, commands: known_version() };
        let mut addresses = self.zone.addresses.clone();
        for _ in 0..MAX_HOPS {
            let mut api = self.api(addresses)?;
            let message = convert::to_join(self.zone.zone, request.clone());
            match within(limit, api.join_zone(message)).await?.outcome {
                Some(Outcome::Joined(joined)) => return self.check(convert::joined(joined)?, key),
                Some(Outcome::Refusal(refusal)) => match convert::refusal(refusal)? {
                    Refusal::NotLeader { addresses: leader, .. } if !leader.is_empty() => addresses = leader,
                    refusal => return Err(refusal.into()),
                },
                None => return Err(empty()),
            }
        }
        Err(Refusal::Unavailable("its members send each other's way; there may be no leader".into()).into())
    }

    /// Where a path leads, one hop. The names must be valid ones.
    pub async fn resolve(&self, components: Vec<Vec<u8>>, limit: Duration) -> Result<Resolved, CallError> {
        let asked = components.len();
        let components = components.into_iter().map(Bytes::from).collect();
        let request = proto::ResolveRequest { header: convert::to_header(self.zone.zone), components };
        let reply = within(limit, self.api(self.zone.addresses.clone())?.resolve(request)).await?;
        Ok(convert::resolved(reply, asked)?)
    }

    fn api(&self, addresses: Vec<String>) -> Result<ZoneApiServiceClient<Channel>, CallError> {
        let config = tls::stranger(self.zone.zone, self.zone.ca, &self.clock).map_err(protocol)?;
        let target = Target::new(self.zone.zone.dns_name(), addresses, config);
        let channel = Connector::new(Arc::new(target), self.timing).channel(&self.handle);
        Ok(ZoneApiServiceClient::new(channel).max_decoding_message_size(MAX_SMALL))
    }

    fn check(&self, joined: Joined, key: &NodeKey) -> Result<(Joined, NodeIdentity), CallError> {
        let wrong = |text: &str| Err(CallError::Protocol(format!("what the zone gave is refused: {text}")));
        if joined.zone != self.zone.zone {
            return wrong("it is of another zone");
        }
        if Fingerprint::of(&joined.ca) != self.zone.ca {
            return wrong("its CA is not the one of the invitation");
        }
        let identity: Result<_, PkiError> = key.identity(&joined.certificate, &joined.ca, &*self.clock);
        let identity = identity.map_err(protocol)?;
        match (identity.certificate().zone, identity.certificate().member) == (joined.zone, joined.member) {
            true => Ok((joined, identity)),
            false => wrong("its certificate is of another member"),
        }
    }
}

fn protocol(error: impl std::fmt::Display) -> CallError {
    CallError::Protocol(error.to_string())
}
