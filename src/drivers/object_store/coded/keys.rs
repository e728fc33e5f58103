//! Keys: what encrypts objects and hides their names.
//!
//! A key ring is text, a key a line: `name:64 hex digits`. The first key encrypts what is
//! stored from now on, all of them decrypt; names of objects are hidden with the last one,
//! which therefore stays as long as the store. To rotate, put a new line on top.

use std::fmt;

use nexus_kernel::ids::BlobId;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::hmac;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Most keys of a ring.
const MOST_KEYS: usize = 64;
/// Rounds of the permutation that hides names.
const ROUNDS: u8 = 8;

/// A key's public mark: derived from it, and says nothing of it.
pub type KeyId = [u8; 8];

/// A secret of 32 bytes.
#[derive(Clone)]
pub struct Key {
    master: [u8; KEY_BYTES],
    id: KeyId,
}

/// All keys of a store.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<Key>,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// `N` bytes that follow from a key, for one purpose.
fn derive<const N: usize>(master: &[u8], salt: &[u8], purpose: &[&[u8]]) -> Option<[u8; N]> {
    let mut out = [0; N];
    let prk = Salt::new(HKDF_SHA256, salt).extract(master);
    prk.expand(purpose, Length(N)).ok()?.fill(&mut out).ok()?;
    Some(out)
}

impl Key {
    /// A key from its bytes.
    pub fn new(master: [u8; KEY_BYTES]) -> Option<Key> {
        let id = derive(&master, &[], &[b"nexus key id"])?;
        Some(Key { master, id })
    }

    /// Its mark.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The cipher of one object: never the same for two, for each has a salt of its own.
    pub(super) fn cipher(&self, salt: &[u8], id: BlobId) -> Option<Cipher> {
        let bytes: [u8; KEY_BYTES] = derive(&self.master, salt, &[b"nexus object", &id.0.to_be_bytes()])?;
        UnboundKey::new(&AES_256_GCM, &bytes).ok().map(|key| Cipher(LessSafeKey::new(key)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.master.fill(0);
        // So that the compiler does not take the line above for useless.
        std::hint::black_box(&self.master);
    }
}

impl KeyRing {
    /// Reads a ring; a sentence that holds nothing secret if it is none.
    pub fn parse(text: &str) -> Result<KeyRing, String> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || format!("line {} of the keys is none: write it like name:64 hex digits", number + 1);
            let (_, digits) = line.split_once(':').ok_or_else(bad)?;
            keys.push(unhex(digits.trim()).and_then(Key::new).ok_or_else(bad)?);
        }
        if keys.is_empty() {
            return Err("there is no key: write one like name:64 hex digits".to_owned());
        }
        if keys.len() > MOST_KEYS {
            return Err(format!("there are more than {MOST_KEYS} keys"));
        }
        Ok(KeyRing { keys })
    }

    /// The key that encrypts.
    pub(super) fn first(&self) -> Option<&Key> {
        self.keys.first()
    }

    /// The mark of the key that hides names: the same for the life of a store.
    pub fn names_id(&self) -> Option<KeyId> {
        self.keys.last().map(Key::id)
    }

    /// The key with this mark.
    pub(super) fn find(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// What hides the names of objects.
    pub(super) fn names(&self) -> Option<Names> {
        let key = self.keys.last()?;
        derive::<KEY_BYTES>(&key.master, &[], &[b"nexus names"])
            .map(|bytes| Names(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} secrets)", self.keys.len())
    }
}

fn unhex(text: &str) -> Option<[u8; KEY_BYTES]> {
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    let mut out = [0; KEY_BYTES];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        let [high, low] = pair else { return None };
        *byte = (digit(high)? << 4) | digit(low)?;
    }
    Some(out)
}

/// AES-256-GCM with the key of one object. A number is used for one message only.
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    /// Encrypts in place, and adds the tag.
    pub fn seal(&self, number: u64, context: &[u8], data: &mut Vec<u8>) -> Option<()> {
        self.0.seal_in_place_append_tag(nonce(number), Aad::from(context), data).ok()
    }

    /// Decrypts in place; `None` if anything was changed.
    pub fn open<'d>(&self, number: u64, context: &[u8], data: &'d mut [u8]) -> Option<&'d mut [u8]> {
        self.0.open_in_place(nonce(number), Aad::from(context), data).ok()
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    for (to, from) in bytes.iter_mut().skip(4).zip(number.to_be_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(bytes)
}

/// A permutation of 64-bit numbers that nobody can follow without the key: a Feistel network
/// of HMAC-SHA256 rounds.
pub(super) struct Names(hmac::Key);

impl Names {
    pub fn hide(&self, id: BlobId) -> BlobId {
        let (mut left, mut right) = halves(id.0);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.round(round, right));
        }
        BlobId(whole(left, right))
    }

    pub fn show(&self, hidden: BlobId) -> BlobId {
        let (mut left, mut right) = halves(hidden.0);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.round(round, left), left);
        }
        BlobId(whole(left, right))
    }

    fn round(&self, round: u8, half: u32) -> u32 {
        let [a, b, c, d] = half.to_be_bytes();
        let tag = hmac::sign(&self.0, &[round, a, b, c, d]);
        tag.as_ref().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

fn halves(number: u64) -> (u32, u32) {
    ((number >> 32) as u32, number as u32)
}

fn whole(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_permutation() {
        let ring = KeyRing::parse(&format!("a:{}", "5a".repeat(32))).unwrap();
        let names = ring.names().unwrap();
        let mut hidden: Vec<u64> = (0..2000).map(|n| names.hide(BlobId(n)).0).collect();
        for (n, name) in hidden.iter().enumerate() {
            assert_eq!(names.show(BlobId(*name)), BlobId(n as u64));
        }
        hidden.sort_unstable();
        hidden.dedup();
        assert_eq!(hidden.len(), 2000);
        let near = hidden.windows(2).filter(|pair| pair[1] - pair[0] < 1 << 32).count();
        assert!(near < 20, "{near} names lie side by side");
    }

    #[test]
    fn what_is_no_ring_is_refused_without_telling_it() {
        let good = "0123456789abcdefABCDEF".repeat(3)[..64].to_owned();
        assert!(KeyRing::parse(&format!("# two\n new: {good}\n\nold:{good}\n")).is_ok());
        let bad = [
            "",
            "\n#\n",
            &good,
            "a:",
            &format!("a:{}", &good[1..]),
            &format!("a:{good}0"),
            &format!("a:{}g", &good[1..]),
        ];
        for text in bad {
            let problem = KeyRing::parse(text).unwrap_err();
            assert!(!problem.contains("0123"), "{problem}");
        }
        assert!(!format!("{:?}", KeyRing::parse(&format!("a:{good}")).unwrap()).contains("12"));
    }
}
