//! Announces in a zone's state which commands this node's build knows, and that it has opened the zone.

use std::sync::Weak;
use std::time::Duration;

use nexus_kernel::command::known_version;
use nexus_kernel::{Command, Error, Interest, Result, Zone, model};

use super::joined::JoinedZone;
use super::{openings, pulse};
use crate::raft::{announced, version_key};

/// How often it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Announces it, until the state says so.
pub async fn run(zone: Weak<JoinedZone>) {
    loop {
        let Some(joined) = zone.upgrade() else { return };
        // A member that has not got the state yet was announced by who let it in.
        if joined.has_vote() {
            let done = tokio::task::spawn_blocking(move || announce(&joined)).await;
            match done.unwrap_or_else(|error| Err(Error::Io(error.to_string()))) {
                Ok(()) => return,
                Err(error) => log::debug!("what this node's build knows is not announced yet: {error}"),
            }
        }
        tokio::time::sleep(AGAIN).await;
        pulse::rested(&zone).await;
    }
}

fn announce(joined: &JoinedZone) -> Result<()> {
    joined.zone().be_current(Interest::Anything)?;
    let (key, mut said) = (version_key(joined.member()), None);
    joined.zone().read(&mut |state| {
        said = announced(state, joined.member())?;
        Ok(())
    })?;
    if said != Some(known_version()) {
        let value = Some(model::encode(&known_version())?.to_vec());
        joined.zone().propose(&Command::SetSys { key, value })?;
    }
    openings::tell(joined)
}
