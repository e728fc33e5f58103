//! Invitations: a text that a person hands on, which lets a node become a member once.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nexus_kernel::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};

use super::identity::{Fingerprint, ZoneId, sha256};

const SCHEME: &str = "nexus://";
const PATH: &str = "/join/";
const VERSION: u8 = 1;
/// Bytes before the zone's name: version, zone, fingerprint, token, expiry, the name's length.
const FIXED: usize = 1 + 16 + 32 + 32 + 8 + 1;
/// Longest text of an invitation, in bytes.
pub(super) const MAX_TEXT: usize = 4 << 10;
/// Most addresses of a node, or in an invitation.
pub const MAX_ADDRESSES: usize = 16;
/// Longest name of a zone or member, in bytes.
pub(super) const MAX_NAME: usize = 255;

/// The right to join once: 32 random bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub [u8; 32]);

/// A token as a zone keeps it: who reads the zone's metadata cannot join with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TokenHash(pub [u8; 32]);

/// What lets a node join a zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invite {
    /// Where members listen, `HOST:PORT`, best first; 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<String>,
    /// The zone.
    pub zone: ZoneId,
    /// The zone's name for people, up to 255 bytes.
    pub zone_name: String,
    /// Of the zone's CA: the joiner trusts no other.
    pub ca: Fingerprint,
    /// The right to join.
    pub token: Token,
    /// Until when it holds, in seconds from 1970 on.
    pub expires_s: u64,
}

/// Why a text is no invitation. Each says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InviteError {
    /// It is something else.
    #[error("not an invitation: it should look like nexus://HOST:PORT/join/...; copy it as `invite` printed it")]
    NotAnInvite,
    /// Its end is missing.
    #[error("the invitation is cut: its end is missing; copy all of it")]
    Cut,
    /// Some character is another.
    #[error("the invitation is mistyped: its checksum is wrong; copy it as `invite` printed it")]
    Mistyped,
    /// It is of a later version.
    #[error("the invitation is of version {0}, and this build knows {VERSION}; use a newer nexus")]
    Version(u8),
    /// An address in it cannot be one.
    #[error("the invitation's address {0:?} is not HOST:PORT")]
    Address(String),
    /// It held until then (seconds from 1970 on).
    #[error("the invitation has expired; ask for a new one")]
    Expired {
        /// When it expired, in seconds from 1970 on.
        at_s: u64,
    },
    /// Its parts cannot be said in a text; the text says which.
    #[error("cannot make an invitation: {0}")]
    Make(String),
}

impl Token {
    /// A new one. Fails only where there are no random numbers.
    pub fn create() -> Result<Token, InviteError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| InviteError::Make("no random numbers".into()))?;
        Ok(Token(bytes))
    }

    /// What the zone keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(&[b"nexus invite token 1", &self.0]))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Invite {
    /// `nexus://HOST:PORT[,HOST:PORT]/join/<base64url>`. The last part holds all else, and a
    /// CRC-32C over all of it and the addresses. Fails if an address is none, if there are
    /// none or too many, or if the name is too long.
    pub fn to_text(&self) -> Result<String, InviteError> {
        if self.addresses.is_empty() || self.addresses.len() > MAX_ADDRESSES {
            return Err(InviteError::Make(format!("it needs 1 to {MAX_ADDRESSES} addresses")));
        }
        if let Some(wrong) = self.addresses.iter().find(|address| !check_address(address)) {
            return Err(InviteError::Address(wrong.clone()));
        }
        let name_len = match u8::try_from(self.zone_name.len()) {
            Ok(len) if check_name(&self.zone_name) => len,
            _ => return Err(InviteError::Make("the zone's name is empty, too long, or has control characters".into())),
        };
        let addresses = self.addresses.join(",");
        let mut payload = vec![VERSION];
        payload.extend_from_slice(&self.zone.0);
        payload.extend_from_slice(&self.ca.0);
        payload.extend_from_slice(&self.token.0);
        payload.extend_from_slice(&self.expires_s.to_be_bytes());
        payload.push(name_len);
        payload.extend_from_slice(self.zone_name.as_bytes());
        payload.extend_from_slice(&checksum(&addresses, &payload).to_be_bytes());
        let text = format!("{SCHEME}{addresses}{PATH}{}", URL_SAFE_NO_PAD.encode(payload));
        if text.len() > MAX_TEXT {
            return Err(InviteError::Make("its addresses are too long".into()));
        }
        Ok(text)
    }

    /// Reads what [`Invite::to_text`] wrote, white space around it allowed. What has expired
    /// by `now` is refused.
    pub fn parse(text: &str, now: Timestamp) -> Result<Invite, InviteError> {
        let invite = Invite::parse_any_age(text)?;
        if u64::try_from(now.sec).unwrap_or(0) >= invite.expires_s {
            return Err(InviteError::Expired { at_s: invite.expires_s });
        }
        Ok(invite)
    }

    /// As [`Invite::parse`], whether it has expired or not.
    pub fn parse_any_age(text: &str) -> Result<Invite, InviteError> {
        let text = text.trim();
        if text.len() > MAX_TEXT {
            return Err(InviteError::NotAnInvite);
        }
        let rest = match text.strip_prefix(SCHEME) {
            Some(rest) => rest,
            None if !text.is_empty() && SCHEME.starts_with(text) => return Err(InviteError::Cut),
            None => return Err(InviteError::NotAnInvite),
        };
        let Some((addresses, encoded)) = rest.split_once(PATH) else {
            let cut = !rest.contains('/') || PATH.starts_with(rest.trim_start_matches(|c| c != '/'));
            return Err(if cut { InviteError::Cut } else { InviteError::NotAnInvite });
        };
        let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !encoded.bytes().all(alphabet) {
            return Err(InviteError::Mistyped);
        }
        // What is cut in the middle of a group may not be whole bytes: some are, before it.
        let whole = encoded.len() / 4 * 4;
        let payload = match URL_SAFE_NO_PAD.decode(encoded) {
            Ok(payload) => payload,
            Err(_) => {
                let before = encoded.get(..whole).unwrap_or_default();
                let before = URL_SAFE_NO_PAD.decode(before).map_err(|_| InviteError::Mistyped)?;
                return Err(if wanted(&before).is_none_or(|wanted| before.len() < wanted) {
                    InviteError::Cut
                } else {
                    InviteError::Mistyped
                });
            }
        };
        match payload.first() {
            Some(&VERSION) | None => {}
            Some(version) => return Err(InviteError::Version(*version)),
        }
        if wanted(&payload).is_none_or(|wanted| payload.len() < wanted) {
            return Err(InviteError::Cut);
        }
        let (signed, sum) = payload.split_last_chunk::<4>().ok_or(InviteError::Cut)?;
        if wanted(&payload) != Some(payload.len()) || checksum(addresses, signed) != u32::from_be_bytes(*sum) {
            return Err(InviteError::Mistyped);
        }
        let addresses: Vec<String> = addresses.split(',').map(str::to_owned).collect();
        if let Some(wrong) = addresses.iter().find(|address| !check_address(address)) {
            return Err(InviteError::Address(wrong.clone()));
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(InviteError::Mistyped);
        }
        let mut reader = signed.get(1..).unwrap_or_default();
        let zone = ZoneId(take(&mut reader)?);
        let ca = Fingerprint(take(&mut reader)?);
        let token = Token(take(&mut reader)?);
        let expires_s = u64::from_be_bytes(take(&mut reader)?);
        let [_] = take(&mut reader)?;
        let zone_name = String::from_utf8(reader.to_vec()).map_err(|_| InviteError::Mistyped)?;
        if !check_name(&zone_name) {
            return Err(InviteError::Mistyped);
        }
        Ok(Invite { addresses, zone, zone_name, ca, token, expires_s })
    }
}

/// How long a payload says that it is.
fn wanted(payload: &[u8]) -> Option<usize> {
    payload.get(FIXED - 1).map(|name| FIXED + usize::from(*name) + 4)
}

fn take<const N: usize>(reader: &mut &[u8]) -> Result<[u8; N], InviteError> {
    let (taken, rest) = reader.split_first_chunk::<N>().ok_or(InviteError::Cut)?;
    *reader = rest;
    Ok(*taken)
}

fn checksum(addresses: &str, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(addresses.as_bytes()), payload)
}

/// Whether a name may be a zone's or a member's: 1 to 255 bytes, no control characters.
pub(super) fn check_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

/// Whether a text is `HOST:PORT`: a DNS name, an IPv4 address or an IPv6 one in brackets, and
/// a port from 1 to 65535.
pub fn check_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || port.starts_with('0') || port.parse::<u16>().is_err() {
        return false;
    }
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Invite {
        Invite {
            addresses: vec!["node-1.example.org:7420".into(), "[fd00::1]:7420".into()],
            zone: ZoneId([5; 16]),
            zone_name: "Straße".into(),
            ca: Fingerprint([6; 32]),
            token: Token([7; 32]),
            expires_s: 1000,
        }
    }

    fn at(sec: i64) -> Timestamp {
        Timestamp { sec, nsec: 0 }
    }

    #[test]
    fn an_invitation_comes_back_until_it_expires() {
        let text = invite().to_text().unwrap();
        assert!(text.starts_with("nexus://node-1.example.org:7420,[fd00::1]:7420/join/"), "{text}");
        assert_eq!(Invite::parse(&format!(" {text}\n"), at(999)), Ok(invite()));
        assert_eq!(Invite::parse(&text, at(1000)), Err(InviteError::Expired { at_s: 1000 }));
        assert_eq!(Invite::parse_any_age(&text), Ok(invite()));
        assert!(!format!("{:?}", invite()).contains("7, 7"), "a log does not give the token away");
        assert_ne!(Token([7; 32]).hash().0, [7; 32]);
    }

    #[test]
    fn a_cut_one_is_cut_and_a_changed_one_mistyped() {
        let text = invite().to_text().unwrap();
        for cut in 1..text.len() {
            assert_eq!(Invite::parse(&text[..cut], at(0)), Err(InviteError::Cut), "{}", &text[..cut]);
        }
        let start = text.find(PATH).unwrap() + PATH.len();
        for place in SCHEME.len()..text.len() {
            for other in *b"A_9z" {
                let mut bytes = text.clone().into_bytes();
                if std::mem::replace(&mut bytes[place], other) == other {
                    continue;
                }
                let changed = String::from_utf8(bytes).unwrap();
                let error = Invite::parse(&changed, at(0)).unwrap_err();
                match place {
                    // The first character holds the version alone.
                    place if place == start || place == start + 1 => {}
                    place if place > start => {
                        assert!(matches!(error, InviteError::Mistyped | InviteError::Cut), "{changed}: {error:?}")
                    }
                    _ => assert_ne!(error, InviteError::Version(0), "{changed}"),
                }
            }
        }
        assert_eq!(Invite::parse(&format!("{text}AAAA"), at(0)), Err(InviteError::Mistyped));
        for other in ["", "hello", "https://example.org/join/x", "nexus://a:1/leave/x"] {
            assert_eq!(Invite::parse(other, at(0)), Err(InviteError::NotAnInvite), "{other}");
        }
    }

    #[test]
    fn only_what_can_be_read_is_written() {
        let with = |change: fn(&mut Invite)| {
            let mut invite = invite();
            change(&mut invite);
            invite.to_text()
        };
        assert!(matches!(with(|invite| invite.addresses.clear()), Err(InviteError::Make(_))));
        assert!(matches!(with(|invite| invite.addresses[0] = "a b:1".into()), Err(InviteError::Address(_))));
        assert!(matches!(with(|invite| invite.zone_name = "x".repeat(256)), Err(InviteError::Make(_))));
        assert!(matches!(with(|invite| invite.zone_name = "a\nb".into()), Err(InviteError::Make(_))));
        for good in ["a:1", "10.0.0.1:65535", "[::1]:80", "a-b.c_d:7420"] {
            assert!(check_address(good), "{good}");
        }
        for bad in ["", "a", ":1", "a:", "a:0", "a:01", "a:65536", "::1:80", "[a]:1", "a..b:1", "a,b:1", "a:+1", "é:1"]
        {
            assert!(!check_address(bad), "{bad}");
        }
    }
}
