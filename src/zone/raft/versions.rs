//! Which commands all members of a zone know: each announces in the state the newest version that its build
//! knows, and nobody proposes what another can't apply. So members are upgraded one after the other.

use nexus_kernel::model::{self, keys};
use nexus_kernel::{MetaRead, Result, Table};

use super::entry::{MemberId, Membership};

/// What names of members' versions in the `sys` table begin with.
pub const VERSION_PREFIX: &str = "version/";
/// The newest version that was known before members announced theirs.
pub const BEFORE_ANNOUNCEMENTS: u8 = 6;

/// Name of a member's version.
pub fn version_key(id: MemberId) -> String {
    format!("{VERSION_PREFIX}{id}")
}

/// The version that a member has announced.
pub fn announced(state: &dyn MetaRead, id: MemberId) -> Result<Option<u8>> {
    let found = state.get(Table::Sys, &keys::sys(&version_key(id)))?;
    found.map(|bytes| model::decode("version of a member", &bytes)).transpose()
}

/// The newest version that all members know.
pub fn agreed(state: &dyn MetaRead, membership: &Membership) -> Result<u8> {
    let mut agreed = u8::MAX;
    for id in membership.members.keys() {
        agreed = agreed.min(announced(state, *id)?.unwrap_or(BEFORE_ANNOUNCEMENTS));
    }
    Ok(if membership.members.is_empty() { BEFORE_ANNOUNCEMENTS } else { agreed })
}
