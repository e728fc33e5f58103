//! [`ClosedZone`]: a zone that this node takes part in, but that can't be opened.

use nexus_kernel::{Error, ZoneIndex};

use super::files::ZoneFolder;
use crate::net::ZoneId;

/// A zone that can't be opened. The rest of the node goes on without it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClosedZone {
    /// Its place on this node; none if not even that can be told.
    pub index: Option<ZoneIndex>,
    /// Which zone, if that can be told.
    pub id: Option<ZoneId>,
    /// What people call it, if that can be told.
    pub name: Option<String>,
    /// Why, and what to do about it.
    pub why: String,
}

impl ClosedZone {
    /// The zone at `index`, which `error` keeps from being opened.
    pub(super) fn new(folder: &ZoneFolder, index: ZoneIndex, error: &Error) -> ClosedZone {
        let (id, name) = folder.hints(index);
        let text = error.to_string();
        let advice = if text.contains("copied") {
            "use a new data folder here, and join by an invitation; where the member is gone for good, have it taken \
             out first (`nexus-fuse zone remove-member`)"
        } else if text.contains("certificate") || text.contains("private key") {
            "set this machine's clock right, or put the zone's files in the data folder back as they were, and mount \
             again"
        } else {
            "put the files of the data folder back as they were, and mount again"
        };
        ClosedZone { index: Some(index), id, name, why: format!("{text}: {advice}") }
    }

    /// All zones, where the folder that lists them can't be read.
    pub(super) fn unlisted(error: &Error) -> ClosedZone {
        let why = format!("the zones of this node can't be listed: {error}: put the data folder right and mount again");
        ClosedZone { index: None, id: None, name: None, why }
    }

    /// What to call it.
    pub fn title(&self) -> String {
        match (&self.name, self.id, self.index) {
            (Some(name), _, _) => name.clone(),
            (None, Some(id), _) => id.to_string(),
            (None, None, Some(index)) => format!("number {index}"),
            (None, None, None) => "(all)".to_owned(),
        }
    }
}
