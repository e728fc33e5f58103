//! Certificates that run out: they are renewed on a living zone, and by a node that was away.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Node, Nodes, PATIENCE, expect};
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::tool::wait_until;

/// How long a certificate is valid here.
const VALID: Duration = Duration::from_secs(24);

fn certificate(node: &Node) -> PathBuf {
    node.mount.data().join("zones").join("1").join("node.der")
}

/// Each member renews its own before it runs out, connections that are made later are by the new ones,
/// and one that was away for too long is back as soon as it is started.
pub fn renewed(lab: &Lab) -> Check {
    let seconds = VALID.as_secs().to_string();
    let mut nodes = Nodes::made(lab, 3, |mount| mount.with_variable("NEXUS_CERTIFICATE_SECONDS", &seconds))?;
    let began = Instant::now();
    let first: Vec<Vec<u8>> = nodes.0.iter().map(|node| Ok(fs::read(certificate(node))?)).collect::<Check<_>>()?;
    for (node, first) in nodes.0.iter().zip(&first) {
        wait_until("a certificate is renewed", VALID, || Ok(fs::read(certificate(node))? != *first))?;
        println!("    a certificate for {VALID:?} was renewed after {:?}", began.elapsed());
    }
    ensure!(began.elapsed() > VALID / 3, "it was renewed too early");
    while began.elapsed() < VALID + Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(100));
    }
    // All connections to and from this one are new, and no certificate of the beginning is valid any more.
    nodes.at_mut(1)?.mount.kill()?;
    nodes.at_mut(1)?.mount.start()?;
    let back = nodes.at(1)?;
    wait_until("the zone is mounted again", PATIENCE, || Ok(back.path("before").exists()))?;
    fs::write(back.path("by the new one"), "renewed")?;
    expect(&nodes.at(0)?.path("by the new one"), b"renewed")?;
    // One that is away while its certificate runs out.
    nodes.at_mut(2)?.mount.kill()?;
    let expired = fs::read(certificate(nodes.at(2)?))?;
    std::thread::sleep(VALID + Duration::from_secs(1));
    fs::write(nodes.at(0)?.path("meanwhile"), "made")?;
    nodes.at_mut(2)?.mount.start()?;
    let back = nodes.at(2)?;
    wait_until("it takes part again", PATIENCE, || Ok(back.path("meanwhile").exists()))?;
    ensure!(fs::read(certificate(back))? != expired, "its certificate is the old one");
    fs::write(back.path("back"), "back")?;
    expect(&nodes.at(0)?.path("back"), b"back")?;
    // Renewing is not being let in: who was removed stays out, however new its certificate is.
    let member = nodes.at(2)?.member()?;
    nodes.at_mut(2)?.mount.kill()?;
    nodes.at(0)?.zone(&["remove-member", "zone", &member]).ok()?;
    std::thread::sleep(VALID);
    fs::write(nodes.at(0)?.path("after the removal"), "x")?;
    let mut out = nodes.0.remove(2);
    out.mount.start()?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(!out.path("after the removal").exists(), "who was removed has let itself in");
    out.stop()?;
    nodes.agree()?;
    nodes.finish()
}
