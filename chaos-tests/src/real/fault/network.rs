//! Machines on one cable: network namespaces with an interface each, joined by a bridge in a namespace of
//! its own, and `nftables` in them to cut them off.
//!
//! Always: nothing is added to the machine's own network, and nothing leads there. The addresses are those
//! set apart for such tests (RFC 2544).

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::cluster::Surroundings;
use super::tools::{Tool, provide};
use super::{as_root, command, is_left_behind, name, words};

/// What has to be installed.
const TOOLS: [Tool; 3] = [
    Tool {
        file: "ip",
        package: "iproute2",
    },
    Tool {
        file: "nft",
        package: "nftables",
    },
    Tool {
        file: "nsenter",
        package: "util-linux",
    },
];

/// Packets are counted when they are dropped, so that a fault without effect is noticed.
const DROP: &str = "counter drop";

/// What happens to the packets of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It hears nobody and nobody hears it.
    Everything,
    /// It is heard, and hears nobody.
    Incoming,
    /// It hears everybody, and is not heard.
    Outgoing,
    /// Of a hundred packets so many get lost, in each direction.
    Percent(u8),
}

impl Cut {
    /// The table of the machine's packet filter.
    fn rules(self) -> String {
        let (incoming, outgoing) = match self {
            Self::Everything => (DROP.to_owned(), DROP.to_owned()),
            Self::Incoming => (DROP.to_owned(), "accept".to_owned()),
            Self::Outgoing => ("accept".to_owned(), DROP.to_owned()),
            Self::Percent(percent) => {
                let lost = format!("numgen random mod 100 < {percent} {DROP}");
                (lost.clone(), lost)
            }
        };
        format!(
            "table inet fault {{
                chain incoming {{
                    type filter hook input priority 0; policy accept;
                    iifname \"eth0\" {incoming}
                }}
                chain outgoing {{
                    type filter hook output priority 0; policy accept;
                    oifname \"eth0\" {outgoing}
                }}
            }}"
        )
    }
}

/// The machines and the bridge between them.
#[derive(Debug)]
pub struct Network {
    name: String,
    hosts: Vec<String>,
}

impl Network {
    /// Makes a machine for each name and joins them.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn make(hosts: &[&str]) -> Result<Self, String> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        as_root()?;
        provide(&TOOLS)?;
        clear();
        let network = Self {
            name: name(MADE.fetch_add(1, Ordering::Relaxed)),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        };
        network.build()?;
        Ok(network)
    }

    fn build(&self) -> Result<(), String> {
        let bridge = self.namespace("bridge");
        words("ip", &["netns", "add", &bridge])?;
        let at_bridge = |arguments: &str| ip(&bridge, arguments);
        at_bridge("link add bridge type bridge")?;
        at_bridge("link set bridge up")?;
        for host in &self.hosts {
            let namespace = self.namespace(host);
            words("ip", &["netns", "add", &namespace])?;
            at_bridge(&format!(
                "link add {host} type veth peer name eth0 netns {namespace}"
            ))?;
            at_bridge(&format!("link set {host} master bridge up"))?;
            ip(&namespace, "link set lo up")?;
            let address = self.address(host);
            ip(&namespace, &format!("address add {address}/24 dev eth0"))?;
            ip(&namespace, "link set eth0 up")?;
            // Finds out now, and not in the middle of a test, whether the kernel has what is needed.
            filter(&namespace, &Cut::Percent(0).rules())?;
            filter(&namespace, "")?;
        }
        filter(&bridge, "table bridge fault {}")?;
        filter(&bridge, "")
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// The address of a machine.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn address(&self, host: &str) -> Ipv4Addr {
        let index = self.hosts.iter().position(|known| known == host);
        let index = u8::try_from(index.expect("a machine of this network")).unwrap();
        Ipv4Addr::new(198, 18, 0, index + 1)
    }

    /// What a daemon on that machine runs in.
    pub fn surroundings(&self, host: &str) -> Surroundings {
        let net = format!("--net=/run/netns/{}", self.namespace(host));
        Surroundings {
            wrapper: vec!["nsenter".to_owned(), net],
            ..Surroundings::default()
        }
    }

    /// Has a machine's own packet filter drop packets.
    ///
    /// # Panics
    /// When the filter does not take the rules.
    pub fn cut(&self, host: &str, packets: Cut) {
        filter(&self.namespace(host), &packets.rules()).unwrap();
    }

    /// Has the bridge drop what goes between these pairs of machines.
    ///
    /// # Panics
    /// When the filter does not take the rules.
    pub fn part(&self, pairs: &[(&str, &str)]) {
        let rules: String = pairs
            .iter()
            .flat_map(|(one, other)| [(one, other), (other, one)])
            .map(|(from, to)| format!("iifname \"{from}\" oifname \"{to}\" {DROP}\n"))
            .collect();
        let table = format!(
            "table bridge fault {{
                chain between {{
                    type filter hook forward priority 0; policy accept;
                    {rules}
                }}
            }}"
        );
        filter(&self.namespace("bridge"), &table).unwrap();
    }

    /// Pulls a machine's plug at the bridge: its interface loses its carrier.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn unplug(&self, host: &str) {
        let down = format!("link set {host} down");
        ip(&self.namespace("bridge"), &down).unwrap();
    }

    /// Ends every fault; how many packets were dropped.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn heal(&self) -> u64 {
        let bridge = self.namespace("bridge");
        let mut dropped = empty_filter(&bridge);
        for host in &self.hosts {
            dropped += empty_filter(&self.namespace(host));
            ip(&bridge, &format!("link set {host} up")).unwrap();
        }
        dropped
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.iter().map(String::as_str).chain(["bridge"]) {
            let _ = words("ip", &["netns", "delete", &self.namespace(host)]);
        }
    }
}

/// Deletes the namespaces of tests that were killed.
fn clear() {
    let listed = words("ip", &["netns", "list"]).unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| is_left_behind(name)) {
        let _ = words("ip", &["netns", "delete", name]);
    }
}

fn ip(namespace: &str, arguments: &str) -> Result<(), String> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    words("ip", &[&["-n", namespace], &arguments[..]].concat()).map(|_| ())
}

/// Empties the packet filter of a namespace; how many packets it dropped.
fn empty_filter(namespace: &str) -> u64 {
    let list = ["netns", "exec", namespace, "nft", "list", "ruleset"];
    let rules = words("ip", &list).unwrap();
    let counters = rules.split("packets ").skip(1);
    let counted = counters.filter_map(|counter| counter.split(' ').next()?.parse::<u64>().ok());
    filter(namespace, "").unwrap();
    counted.sum()
}

/// Replaces the packet filter of a namespace, in one step.
fn filter(namespace: &str, rules: &str) -> Result<(), String> {
    let mut nft = command("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("ip netns exec: {error}"))?;
    let text = format!("flush ruleset\n{rules}\n");
    let mut input = nft.stdin.take().expect("its input is a pipe");
    let written = input.write_all(text.as_bytes());
    drop(input);
    let output = nft.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return written.map_err(|error| error.to_string());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("nft: {}: {}", output.status, said.trim()))
}
