//! The one screen that a development cluster prints: what runs, where, and what to do next.

use super::endpoints::Endpoints;

/// What the screen is made from.
#[derive(Debug)]
pub struct Banner<'a> {
    /// Version of this binary.
    pub version: &'a str,
    /// Where everything is.
    pub endpoints: &'a Endpoints,
    /// Directory of the cluster.
    pub directory: &'a str,
    /// Whether the directory goes away with the cluster.
    pub temporary: bool,
    /// Milliseconds from the start of the command to the first SVID.
    pub ready_after_ms: u128,
}

impl Banner<'_> {
    /// The text, without colour.
    pub fn text(&self) -> String {
        let e = self.endpoints;
        let mut lines = vec![
            format!("mintmark {}  development cluster, ready after {} ms", self.version, self.ready_after_ms),
            "DEVELOPMENT ONLY: loopback, keys in files. Nothing outside this machine should trust it.".to_owned(),
            String::new(),
            format!("trust domain    {}", e.trust_domain),
            format!("your identity   {}", e.workload_spiffe_id),
            format!("Workload API    {}  (SDS on the same socket)", e.workload_socket),
        ];
        for server in &e.servers {
            lines.push(format!(
                "{:<15} {}  admin {}",
                server.name,
                server.api,
                server.admin_socket.display()
            ));
        }
        let state = if self.temporary {
            "removed when this ends"
        } else {
            "kept"
        };
        lines.push(format!("state           {}  ({state})", self.directory));
        lines.push(format!("logs            {}/log", self.directory));
        lines.push(String::new());
        lines.push("In another terminal:".to_owned());
        lines.push(format!(
            "  export MINTMARK_DIR={} SPIFFE_ENDPOINT_SOCKET={}",
            self.directory, e.workload_socket
        ));
        lines.push(String::new());
        let steps = self.steps();
        for (index, (what, command)) in steps.iter().enumerate() {
            lines.push(format!("  {}. {what}", index.saturating_add(1)));
            lines.push(format!("       {command}"));
        }
        lines.push(String::new());
        lines.push("Ctrl-C ends it.".to_owned());
        lines.join("\n")
    }

    fn steps(&self) -> Vec<(&'static str, String)> {
        let e = self.endpoints;
        let mut steps = vec![
            (
                "Fetch an SVID and look at it",
                "mintmark x509 fetch".to_owned(),
            ),
            ("Watch it rotate", "mintmark x509 fetch --watch".to_owned()),
            (
                "Register another workload (here: everything that runs as user 1000)",
                format!(
                    "mintmark entry create --parent-id {} --spiffe-id spiffe://{}/web --selector unix:uid:1000",
                    e.node_alias, e.trust_domain
                ),
            ),
            (
                "Ask why a process has an identity, or has none",
                "mintmark explain --pid $$".to_owned(),
            ),
            (
                "See who got what, as it happens",
                "mintmark audit tail --follow".to_owned(),
            ),
            (
                "Prove that nobody rewrote it",
                "mintmark audit verify".to_owned(),
            ),
        ];
        if let Some(server) = e.servers.first().filter(|_| e.servers.len() > 1) {
            steps.push((
                "Kill a server and watch the others go on",
                format!("kill -9 {}", server.pid),
            ));
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoints::ServerEndpoint;
    use super::*;

    fn endpoints(servers: usize) -> Endpoints {
        Endpoints {
            version: 1,
            trust_domain: "dev.localhost-1a2b3c".into(),
            workload_socket: "unix:///run/user/1000/mintmark/public/api.sock".into(),
            agent_admin_socket: "/run/user/1000/mintmark/admin/agent.sock".into(),
            bundle: "/run/user/1000/mintmark/bundle.pem".into(),
            workload_spiffe_id: "spiffe://dev.localhost-1a2b3c/user/ada".into(),
            node_alias: "spiffe://dev.localhost-1a2b3c/node/dev".into(),
            agent_pid: 7,
            servers: (1..=servers)
                .map(|n| ServerEndpoint {
                    name: format!("server-{n}"),
                    api: format!("127.0.0.1:{}", 8000 + n),
                    peer: format!("127.0.0.1:{}", 9000 + n),
                    admin_socket: format!("/run/user/1000/mintmark/admin/server-{n}.sock").into(),
                    http: format!("127.0.0.1:{}", 7000 + n),
                    pid: 100,
                })
                .collect(),
        }
    }

    #[test]
    fn the_screen_fits_and_says_that_it_is_for_development() {
        let endpoints = endpoints(3);
        let text = Banner {
            version: "0.1.0",
            endpoints: &endpoints,
            directory: "/run/user/1000/mintmark",
            temporary: true,
            ready_after_ms: 812,
        }
        .text();
        assert!(text.lines().count() <= 40, "{text}");
        assert!(text.contains("DEVELOPMENT ONLY"));
        assert!(
            text.contains("SPIFFE_ENDPOINT_SOCKET=unix:///run/user/1000/mintmark/public/api.sock")
        );
        assert!(text.contains("kill -9 100"));
    }

    #[test]
    fn one_server_is_not_offered_for_killing() {
        let endpoints = endpoints(1);
        let banner = Banner {
            version: "0.1.0",
            endpoints: &endpoints,
            directory: "/d",
            temporary: false,
            ready_after_ms: 1,
        };
        assert!(!banner.text().contains("kill -9"));
    }
}
