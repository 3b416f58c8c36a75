//! The network of a simulated machine.
//!
//! Always: TCP goes through the simulator, which delays, drops and cuts; Unix sockets stay on the
//! machine and carry made-up processes.
//!
//! Not here: faults; the simulation sets them on the links.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use async_trait::async_trait;
use mintmark_runtime::network::{Address, BoxStream, Listener, Network, Peer, UnixMode};
use mintmark_runtime::testing::MemoryNetwork;

/// How one machine reaches the others, and its own sockets.
#[derive(Debug, Clone)]
pub struct SimNetwork {
    name: String,
    sockets: MemoryNetwork,
}

impl SimNetwork {
    /// The network of the machine `name`, whose processes share `sockets`.
    pub fn new(name: &str, sockets: MemoryNetwork) -> Self {
        Self {
            name: name.to_owned(),
            sockets,
        }
    }
}

#[async_trait]
impl Network for SimNetwork {
    async fn connect(&self, address: &Address) -> io::Result<BoxStream> {
        let host = (address.host(), address.port());
        Ok(Box::new(turmoil::net::TcpStream::connect(host).await?))
    }

    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        let bound = turmoil::net::TcpListener::bind(("0.0.0.0", address.port())).await?;
        let port = bound.local_addr()?.port();
        Ok(Box::new(SimListener {
            address: format!("{}:{port}", self.name),
            bound,
        }))
    }

    async fn connect_unix(&self, path: &Path) -> io::Result<BoxStream> {
        self.sockets.connect_unix(path).await
    }

    async fn listen_unix(&self, path: &Path, mode: UnixMode) -> io::Result<Box<dyn Listener>> {
        self.sockets.listen_unix(path, mode).await
    }
}

struct SimListener {
    address: String,
    bound: turmoil::net::TcpListener,
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, Peer)> {
        let (stream, from): (_, SocketAddr) = self.bound.accept().await?;
        Ok((Box::new(stream), Peer::Tcp(from)))
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}
