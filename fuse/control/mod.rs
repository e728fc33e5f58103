//! How the command line talks to the daemon: a Unix socket in the data folder, for the
//! folder's owner only, and a line of JSON each way. What the daemon does is not here.

mod client;
mod protocol;
mod server;
mod socket;
mod zones;

pub use client::{Client, ControlError};
pub use protocol::{
    AttachmentStatus, ContentStatus, Health, MountStatus, Reply, Request, SpaceStatus, Status, StoreLimitsText,
    StorePlace, StoreStatus, VERSION, ZoneStatus,
};
pub use server::{Handler, Server};
pub use zones::{ClosedView, ElsewhereView, ZoneAsk, ZoneChange, ZoneMember, ZoneView};
