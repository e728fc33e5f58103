//! POSIX ACLs in the form that Linux stores them in extended attributes: a little-endian
//! version word (2), then eight bytes an entry: tag, permissions, id. See acl(5).

use crate::error::{Error, Result};

/// Attribute that holds the access ACL.
pub const XATTR_ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// Attribute that holds the default ACL of a directory.
pub const XATTR_ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;
/// Most entries of one ACL; ext4 takes as many on 64 KiB of attribute space.
const MAX_ENTRIES: usize = 8191;

/// Whom an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AclTag {
    /// The owner.
    UserObj,
    /// A named user.
    User,
    /// The owning group.
    GroupObj,
    /// A named group.
    Group,
    /// Upper bound for all but owner and others.
    Mask,
    /// Everybody else.
    Other,
}

impl AclTag {
    fn number(self) -> u16 {
        match self {
            AclTag::UserObj => 0x01,
            AclTag::User => 0x02,
            AclTag::GroupObj => 0x04,
            AclTag::Group => 0x08,
            AclTag::Mask => 0x10,
            AclTag::Other => 0x20,
        }
    }

    fn from_number(number: u16) -> Result<AclTag> {
        Ok(match number {
            0x01 => AclTag::UserObj,
            0x02 => AclTag::User,
            0x04 => AclTag::GroupObj,
            0x08 => AclTag::Group,
            0x10 => AclTag::Mask,
            0x20 => AclTag::Other,
            _ => return Err(Error::Invalid),
        })
    }

    fn is_named(self) -> bool {
        matches!(self, AclTag::User | AclTag::Group)
    }
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AclEntry {
    /// Whom it is for.
    pub tag: AclTag,
    /// Read 4, write 2, execute 1.
    pub perm: u16,
    /// User or group id of a named entry.
    pub id: u32,
}

/// A valid ACL: one entry each for owner, group and others, a mask if any is named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl {
    entries: Vec<AclEntry>,
}

impl Acl {
    /// Parses an attribute's value; `None` for one without entries, which means "no ACL".
    pub fn parse(value: &[u8]) -> Result<Option<Acl>> {
        let (version, rest) = value.split_first_chunk::<4>().ok_or(Error::Invalid)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Error::NotSupported);
        }
        let (chunks, tail) = rest.as_chunks::<8>();
        if !tail.is_empty() || chunks.len() > MAX_ENTRIES {
            return Err(Error::Invalid);
        }
        let mut entries = Vec::with_capacity(chunks.len());
        for [t0, t1, p0, p1, i0, i1, i2, i3] in chunks {
            let tag = AclTag::from_number(u16::from_le_bytes([*t0, *t1]))?;
            let perm = u16::from_le_bytes([*p0, *p1]);
            let id = u32::from_le_bytes([*i0, *i1, *i2, *i3]);
            if perm > 7 || (tag.is_named() && id == NO_ID) {
                return Err(Error::Invalid);
            }
            entries.push(AclEntry { tag, perm, id: if tag.is_named() { id } else { NO_ID } });
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl { entries };
        acl.check()?;
        Ok(Some(acl))
    }

    /// The attribute's value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 8 * self.entries.len());
        out.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.tag.number().to_le_bytes());
            out.extend_from_slice(&entry.perm.to_le_bytes());
            out.extend_from_slice(&entry.id.to_le_bytes());
        }
        out
    }

    /// Whether the mode bits alone say as much.
    pub fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    /// Permission bits (`0o777`) that stand for this ACL: the mask takes the group's place.
    pub fn mode_bits(&self) -> u32 {
        let group = self.perm(AclTag::Mask).or(self.perm(AclTag::GroupObj)).unwrap_or(0);
        u32::from(self.perm(AclTag::UserObj).unwrap_or(0)) << 6
            | u32::from(group) << 3
            | u32::from(self.perm(AclTag::Other).unwrap_or(0))
    }

    /// Takes over new permission bits, as chmod(2) does.
    pub fn set_mode_bits(&mut self, mode: u32) {
        let masked = self.perm(AclTag::Mask).is_some();
        for entry in &mut self.entries {
            match entry.tag {
                AclTag::UserObj => entry.perm = (mode >> 6 & 7) as u16,
                AclTag::Mask => entry.perm = (mode >> 3 & 7) as u16,
                AclTag::GroupObj if !masked => entry.perm = (mode >> 3 & 7) as u16,
                AclTag::Other => entry.perm = (mode & 7) as u16,
                AclTag::GroupObj | AclTag::User | AclTag::Group => {}
            }
        }
    }

    /// The access ACL of a new file under this default ACL, with the permission bits that
    /// the file gets when it is created with `mode`.
    pub fn inherit(&self, mode: u32) -> (Acl, u32) {
        let mut acl = self.clone();
        let masked = acl.perm(AclTag::Mask).is_some();
        for entry in &mut acl.entries {
            let shift = match entry.tag {
                AclTag::UserObj => 6,
                AclTag::Mask => 3,
                AclTag::GroupObj if !masked => 3,
                AclTag::Other => 0,
                AclTag::GroupObj | AclTag::User | AclTag::Group => continue,
            };
            entry.perm &= (mode >> shift & 7) as u16;
        }
        let bits = acl.mode_bits();
        (acl, bits)
    }

    fn perm(&self, tag: AclTag) -> Option<u16> {
        self.entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm)
    }

    fn check(&self) -> Result<()> {
        let count = |tag| self.entries.iter().filter(|entry| entry.tag == tag).count();
        let one_each = [AclTag::UserObj, AclTag::GroupObj, AclTag::Other].into_iter().all(|tag| count(tag) == 1);
        let named = self.entries.iter().any(|entry| entry.tag.is_named());
        let masks = count(AclTag::Mask);
        let ordered = self.entries.is_sorted_by_key(|entry| entry.tag);
        if one_each && ordered && masks <= 1 && (!named || masks == 1) { Ok(()) } else { Err(Error::Invalid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(AclTag, u16, u32)]) -> Vec<u8> {
        Acl { entries: entries.iter().map(|&(tag, perm, id)| AclEntry { tag, perm, id }).collect() }.to_bytes()
    }

    fn full() -> Vec<u8> {
        use AclTag::*;
        acl(&[(UserObj, 7, NO_ID), (User, 6, 42), (GroupObj, 5, NO_ID), (Mask, 6, NO_ID), (Other, 4, NO_ID)])
    }

    #[test]
    fn parses_what_it_writes_and_masks_the_group_bits() {
        let parsed = Acl::parse(&full()).unwrap().unwrap();
        assert_eq!(parsed.to_bytes(), full());
        assert_eq!(parsed.mode_bits(), 0o764);
        assert!(!parsed.is_minimal());
    }

    #[test]
    fn chmod_moves_the_mask_not_the_group() {
        let mut parsed = Acl::parse(&full()).unwrap().unwrap();
        parsed.set_mode_bits(0o610);
        assert_eq!(parsed.mode_bits(), 0o610);
        assert_eq!(parsed.perm(AclTag::GroupObj), Some(5));
    }

    #[test]
    fn a_new_file_gets_no_more_than_its_mode() {
        let (access, mode) = Acl::parse(&full()).unwrap().unwrap().inherit(0o640);
        assert_eq!(mode, 0o640);
        assert_eq!(access.perm(AclTag::Mask), Some(4));
        assert_eq!(access.perm(AclTag::Other), Some(0));
    }

    #[test]
    fn refuses_what_is_not_an_acl() {
        use AclTag::*;
        assert_eq!(Acl::parse(&[]), Err(Error::Invalid));
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(Error::NotSupported));
        assert_eq!(Acl::parse(&[2, 0, 0, 0]), Ok(None));
        let named_without_mask = acl(&[(UserObj, 7, NO_ID), (User, 6, 1), (GroupObj, 5, NO_ID), (Other, 4, NO_ID)]);
        assert_eq!(Acl::parse(&named_without_mask), Err(Error::Invalid));
        let no_other = acl(&[(UserObj, 7, NO_ID), (GroupObj, 5, NO_ID)]);
        assert_eq!(Acl::parse(&no_other), Err(Error::Invalid));
        let mut short = full();
        short.pop();
        assert_eq!(Acl::parse(&short), Err(Error::Invalid));
    }
}
