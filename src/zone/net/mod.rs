//! A zone's network: gRPC over TLS, both sides with certificates of the zone's own CA. It
//! carries messages and says who sent them; what they mean is the business of whoever is given them.

mod identity;
mod invite;
mod pki;
#[cfg(test)]
mod testing;
mod tls;

pub use identity::{Fingerprint, ParseIdError, ZoneId};
pub use invite::{Invite, InviteError, MAX_ADDRESSES, Token, TokenHash, check_address};
pub use pki::{NodeIdentity, NodeKey, PeerCertificate, PkiError, ZoneCa};
