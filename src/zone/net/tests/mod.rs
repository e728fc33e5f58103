//! The network in-process over loopback, with a peer that answers by rote.

mod calls;
mod cut;
mod fake;
mod fuzz;
mod refusals;
mod speed;
