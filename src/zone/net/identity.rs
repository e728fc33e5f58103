//! Who a zone and its members are to each other: ids, the names that certificates carry, and
//! fingerprints.

use std::fmt;

use ring::digest;

use crate::raft::MemberId;

/// What all names of zones end in. It is no domain of the public DNS.
const SUFFIX: &str = ".zone.nexus";

/// A zone: a random number, given when it is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ZoneId(pub [u8; 16]);

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fingerprint(pub [u8; 32]);

/// A text that is no id: it has the wrong length, or a character other than `0-9a-f`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an id: {expected} digits of 0-9a-f are needed")]
pub struct ParseIdError {
    /// How many digits it needs.
    pub expected: usize,
}

impl ZoneId {
    /// A zone's id from its 32 hexadecimal digits, lower case.
    pub fn parse(text: &str) -> Result<ZoneId, ParseIdError> {
        parse_hex(text).map(ZoneId)
    }

    /// `<zone>.zone.nexus`: what a joiner calls any member.
    pub(super) fn dns_name(self) -> String {
        format!("{self}{SUFFIX}")
    }

    /// `<member>.<zone>.zone.nexus`: what a member's certificate says that it is.
    pub(super) fn member_dns_name(self, member: MemberId) -> String {
        format!("{member}.{self}{SUFFIX}")
    }
}

/// The zone that a name is of, and the member if it is a member's.
pub(super) fn parse_dns_name(name: &str) -> Option<(ZoneId, Option<MemberId>)> {
    let labels = name.strip_suffix(SUFFIX)?;
    match labels.split_once('.') {
        None => Some((ZoneId::parse(labels).ok()?, None)),
        Some((member, zone)) => {
            let member = parse_hex(member).ok().map(u64::from_be_bytes)?;
            Some((ZoneId::parse(zone).ok()?, Some(MemberId(member))))
        }
    }
}

impl Fingerprint {
    /// The fingerprint of a certificate's DER.
    pub fn of(der: &[u8]) -> Fingerprint {
        Fingerprint(sha256(&[der]))
    }
}

/// SHA-256 of `parts`, one after the other.
pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

impl fmt::Display for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Exactly `N` bytes from lower-case hexadecimal digits: one text for each value.
fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let wrong = ParseIdError { expected: N * 2 };
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(wrong),
    };
    if text.len() != N * 2 {
        return Err(wrong);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        if let [high, low] = pair {
            *byte = (nibble(*high)? << 4) | nibble(*low)?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_none() {
        let (zone, member) = (ZoneId([0xab; 16]), MemberId(0x1234));
        assert_eq!(ZoneId::parse(&zone.to_string()), Ok(zone));
        assert_eq!(parse_dns_name(&zone.dns_name()), Some((zone, None)));
        let name = zone.member_dns_name(member);
        assert_eq!(name, format!("0000000000001234.{}.zone.nexus", "ab".repeat(16)));
        assert_eq!(parse_dns_name(&name), Some((zone, Some(member))));
        assert!(name.len() <= 64, "fits a common name");
        for wrong in ["", ".zone.nexus", "zone.nexus", "example.org", &name.to_uppercase(), &format!("a.{name}")] {
            assert_eq!(parse_dns_name(wrong), None, "{wrong}");
        }
        assert_eq!(ZoneId::parse(&"g".repeat(32)), Err(ParseIdError { expected: 32 }));
        assert_eq!(ZoneId::parse("é"), Err(ParseIdError { expected: 32 }));
    }

    #[test]
    fn fingerprints_are_sha_256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Fingerprint::of(b"").to_string(), empty);
    }
}
