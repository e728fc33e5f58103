//! Replicated zones: what a group of members agrees on, and in which order. Nothing outside
//! the folder `engine` names the consensus library.

mod entry;

pub use entry::{Entry, Member, MemberId, Membership, Payload, Position, Vote};
