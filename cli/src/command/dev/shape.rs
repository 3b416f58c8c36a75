//! What a development cluster is made with: how many servers, which lifetimes, which signatures.
//!
//! Always: it is decided by the first start on a directory, because the cluster's own log has it from then
//! on. A later start that asks for something else is refused before anything is touched; one that asks for
//! the same, or for nothing, goes on.

use std::time::Duration;

use clap::ValueEnum;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::{TtlError, TtlPolicy, TtlRequest};
use mintmark_runtime::disk::Disk;
use serde::{Deserialize, Serialize};

use super::DevArgs;
use super::layout::{Layout, Plan};
use crate::duration::Seconds;
use crate::failure::{Exit, Failure};

/// Lifetime of X.509-SVIDs where nothing else is asked for: short, so that one can watch them rotate.
const X509_TTL: Seconds = Seconds(120);

/// Post-quantum mode of the trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pq {
    /// ECDSA P-256 only.
    #[default]
    Off,
    /// ECDSA P-256 and ML-DSA-65 in one certificate.
    Hybrid,
}

impl Pq {
    /// As it stands in configuration files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Hybrid => "hybrid",
        }
    }
}

/// What the configuration of every server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Post-quantum signatures.
    pub pq: Pq,
    /// Lifetime of X.509-SVIDs, in seconds.
    pub x509_ttl: Seconds,
    /// Lifetime of authorities, in seconds; the servers' default if absent.
    pub ca_ttl: Option<Seconds>,
}

impl Shape {
    /// What is asked for, and the defaults.
    pub fn of(args: &DevArgs) -> Self {
        Self {
            pq: args.pq.unwrap_or_default(),
            x509_ttl: args.x509_ttl.unwrap_or(X509_TTL),
            ca_ttl: args.ca_ttl,
        }
    }

    fn lifetimes(self) -> Result<TtlPolicy, TtlError> {
        TtlPolicy::resolve(TtlRequest {
            ca: self.ca_ttl.map(Seconds::duration),
            x509_svid: Some(self.x509_ttl.duration()),
            ..TtlRequest::default()
        })
    }
}

/// How many servers a new cluster has.
pub fn servers(args: &DevArgs) -> usize {
    usize::from(args.servers.unwrap_or(1))
}

/// The plan of an earlier start on the directory, if there was one. Reads, and changes nothing.
///
/// # Errors
/// When its cluster is not what is asked for now; when there is none, and the lifetimes that are asked for
/// do not fit into each other.
pub fn of_earlier_start(
    args: &DevArgs,
    layout: &Layout,
    disk: &dyn Disk,
) -> Result<Option<Plan>, Failure> {
    let Some(plan) = layout.read_plan(disk)? else {
        // A server would say the same, later.
        Shape::of(args).lifetimes().map_err(|e| {
            let what = "the lifetimes do not fit into each other";
            Failure::new("MM-3106", Exit::Usage, what).because(&e)
        })?;
        return Ok(None);
    };
    let asked = args.trust_domain.as_ref().map(TrustDomain::as_str);
    if let Some(asked) = asked.filter(|asked| *asked != plan.trust_domain) {
        let what = "the directory holds another trust domain";
        return Err(Failure::new("MM-3105", Exit::Conflict, what)
            .why(format!("{} is not {asked}", plan.trust_domain))
            .next("leave --trust-domain away, or choose another directory"));
    }
    let differences = differences(args, &plan);
    if differences.is_empty() {
        return Ok(Some(plan));
    }
    let what = format!(
        "{} holds a cluster that was made otherwise",
        layout.root().display()
    );
    Err(Failure::new("MM-3107", Exit::Conflict, what)
        .why(differences.join("\n"))
        .next(
            "nothing was changed: leave these flags away to start it as it is, or make another cluster \
             with another --dir",
        ))
}

/// Each flag that asks for something else than what is there.
fn differences(args: &DevArgs, plan: &Plan) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |flag: &str, asked: Option<String>, made: Option<String>| {
        let Some(asked) = asked else { return };
        if made.as_ref() != Some(&asked) {
            let made = made.unwrap_or_else(|| "something that was not noted then".to_owned());
            differences.push(format!("--{flag} {asked}: it was made with {made}"));
        }
    };
    compare(
        "servers",
        args.servers.map(|count| count.to_string()),
        Some(plan.servers.len().to_string()),
    );
    let shape = plan.shape;
    compare(
        "pq",
        args.pq.map(|pq| pq.as_str().to_owned()),
        shape.map(|shape| shape.pq.as_str().to_owned()),
    );
    compare(
        "x509-ttl",
        args.x509_ttl.map(|ttl| ttl.to_string()),
        shape.map(|shape| shape.x509_ttl.to_string()),
    );
    let seconds = |ttl: Duration| format!("{}s", ttl.as_secs());
    compare(
        "ca-ttl",
        args.ca_ttl.map(|ttl| ttl.to_string()),
        // Without the flag the servers chose, and it may be asked for by its value.
        shape
            .and_then(|shape| shape.lifetimes().ok())
            .map(|ttl| seconds(ttl.ca)),
    );
    differences
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::layout::PlannedServer;
    use super::*;
    use crate::args::{Cli, Command};

    fn args(flags: &[&str]) -> DevArgs {
        let line = ["mintmark", "dev"].iter().chain(flags);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Dev(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn plan(flags: &[&str]) -> Plan {
        let args = args(flags);
        let server = PlannedServer {
            name: "server".to_owned(),
            api: String::new(),
            peer: String::new(),
            http: String::new(),
        };
        Plan {
            version: 1,
            trust_domain: "example.org".to_owned(),
            servers: vec![server; servers(&args)],
            shape: Some(Shape::of(&args)),
        }
    }

    #[test]
    fn what_is_the_same_or_not_asked_for_is_no_difference() {
        let made = [
            "--servers",
            "3",
            "--pq",
            "hybrid",
            "--x509-ttl",
            "30s",
            "--ca-ttl",
            "10m",
        ];
        let plan = plan(&made);
        assert!(differences(&args(&[]), &plan).is_empty());
        assert!(differences(&args(&made), &plan).is_empty());
        let same = ["--x509-ttl", "30s", "--ca-ttl", "600s"];
        assert!(differences(&args(&same), &plan).is_empty());
    }

    #[test]
    fn defaults_may_be_asked_for_by_their_values() {
        let values = [
            "--servers",
            "1",
            "--pq",
            "off",
            "--x509-ttl",
            "2m",
            "--ca-ttl",
            "24h",
        ];
        assert!(differences(&args(&values), &plan(&[])).is_empty());
    }

    #[test]
    fn each_flag_that_differs_is_named_with_what_is_there() {
        let asked = [
            "--servers",
            "2",
            "--pq",
            "hybrid",
            "--x509-ttl",
            "1m",
            "--ca-ttl",
            "1h",
        ];
        let found = differences(&args(&asked), &plan(&[]));
        let expected = [
            "--servers 2: it was made with 1",
            "--pq hybrid: it was made with off",
            "--x509-ttl 60s: it was made with 120s",
            "--ca-ttl 3600s: it was made with 86400s",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_directory_from_before_the_shape_was_noted_starts_without_flags() {
        let older: Plan = serde_json::from_str(
            r#"{"version":1,"trust_domain":"example.org",
                "servers":[{"name":"server-1","api":"a","peer":"b","http":"c"}]}"#,
        )
        .unwrap();
        assert!(differences(&args(&[]), &older).is_empty());
        assert_eq!(differences(&args(&["--pq", "off"]), &older).len(), 1);
    }
}
