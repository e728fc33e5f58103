//! Hosts on one machine: network namespaces on a bridge, whose connections can be cut. Named
//! after this process, and gone with their owner.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::failure::{Check, During};
use crate::tool::Tool;

/// The hosts, numbered from 0.
pub struct Hosts {
    prefix: String,
    count: usize,
    /// From whom to whom nothing comes through.
    cuts: BTreeSet<(usize, usize)>,
    /// Whose cable is out.
    unplugged: BTreeSet<usize>,
}

impl Hosts {
    /// So many hosts that reach each other.
    pub fn new(count: usize) -> Check<Hosts> {
        // Names of interfaces have 15 bytes at the most.
        let prefix = format!("nh{}", std::process::id() % 1_000_000);
        let hosts = Hosts { prefix, count, cuts: BTreeSet::new(), unplugged: BTreeSet::new() };
        let p = &hosts.prefix;
        let mut script = format!("ip link add {p}b type bridge && ip link set {p}b up\n");
        for host in 0..count {
            let address = Hosts::address(host);
            script += &format!(
                "ip netns add {p}n{host}\n\
                 ip link add {p}v{host} type veth peer name eth0 netns {p}n{host}\n\
                 ip link set {p}v{host} master {p}b up\n\
                 ip -n {p}n{host} addr add {address}/24 dev eth0\n\
                 ip -n {p}n{host} link set eth0 up\n\
                 ip -n {p}n{host} link set lo up\n"
            );
        }
        Tool::shell(&script).ok().during("hosts in network namespaces (iproute2 as root)")?;
        Ok(hosts)
    }

    /// A host's address.
    pub fn address(host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// The file that stands for a host's network.
    pub fn namespace(&self, host: usize) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}n{host}", self.prefix))
    }

    /// From now on nothing comes through from `cuts`' first to its second, and those of `unplugged`
    /// reach nobody; all others reach each other again.
    pub fn set(&mut self, cuts: BTreeSet<(usize, usize)>, unplugged: BTreeSet<usize>) -> Check {
        let p = &self.prefix;
        let mut script = String::new();
        for host in 0..self.count {
            let of_host = |cuts: &BTreeSet<(usize, usize)>| -> Vec<usize> {
                cuts.iter().filter(|(_, to)| *to == host).map(|(from, _)| *from).collect()
            };
            if of_host(&cuts) != of_host(&self.cuts) {
                let within = format!("nsenter --net=/run/netns/{p}n{host} iptables -w");
                script += &format!("{within} -F INPUT\n");
                for from in of_host(&cuts) {
                    script += &format!("{within} -A INPUT -s {} -j DROP\n", Hosts::address(from));
                }
            }
            if unplugged.contains(&host) != self.unplugged.contains(&host) {
                let how = if unplugged.contains(&host) { "down" } else { "up" };
                script += &format!("ip link set {p}v{host} {how}\n");
            }
        }
        (self.cuts, self.unplugged) = (cuts, unplugged);
        if script.is_empty() { Ok(()) } else { Tool::shell(&script).ok().map(drop).during("cutting connections") }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let p = &self.prefix;
        let mut script = String::from("set +e\n");
        for host in 0..self.count {
            // With its namespace alone, the cable would go some time later, and its name be taken until then.
            script += &format!("ip link del {p}v{host} 2>/dev/null\nip netns del {p}n{host} 2>/dev/null\n");
        }
        script += &format!("ip link del {p}b 2>/dev/null\ntrue\n");
        if let Err(stop) = Tool::shell(&script).ok() {
            eprintln!("cannot take network namespaces away: {stop:?}");
        }
    }
}
