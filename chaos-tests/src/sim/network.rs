//! The network of a simulated machine.
//!
//! Always: TCP goes through the simulator, which delays, drops and cuts; what is written between two
//! flushes is one segment; Unix sockets stay on the machine and carry made-up processes.
//!
//! Not here: faults; the simulation sets them on the links.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use async_trait::async_trait;
use mintmark_runtime::network::{Address, BoxStream, Listener, Network, Peer, UnixMode};
use mintmark_runtime::testing::MemoryNetwork;
use tokio::io::BufWriter;
use turmoil::net::TcpStream;

/// What a connection gathers before it is flushed. Signatures are some bytes longer or shorter by
/// chance, and HTTP/2 makes two writes of what is above a limit and one of what is below: if each
/// write were a segment of its own, with a delay drawn from the seed, one seed would have several
/// histories.
const GATHERED_MAX: usize = 64 * 1024;

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
        Ok(gathering(TcpStream::connect(host).await?))
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

fn gathering(stream: TcpStream) -> BoxStream {
    Box::new(BufWriter::with_capacity(GATHERED_MAX, stream))
}

struct SimListener {
    address: String,
    bound: turmoil::net::TcpListener,
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, Peer)> {
        let (stream, from): (_, SocketAddr) = self.bound.accept().await?;
        Ok((gathering(stream), Peer::Tcp(from)))
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}
