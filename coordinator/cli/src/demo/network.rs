//! The network of the demo: every server is reached by the others through a forwarder here, so that one of them
//! can be cut off for a while.
//!
//! ```text
//! clients ─────────────────────► coordinator ◄──┐
//!                                     │         │ forwarders
//!              forwarders ──┬─────────┴──┐      │
//!                           ▼            ▼      │
//!                        store-a  ◄──► store-b ─┘
//! ```
//!
//! Whoever is cut off reaches nobody and is reached by nobody but clients. All servers share one machine, so
//! it is the process at the other end of a connection that tells whose it is. A cut shows itself in one of two
//! ways: connections break, or what is sent does not arrive until the cut is over.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::process::{State, Vitals};

/// What is read at a time, in bytes.
const PIECE: usize = 64 << 10;

/// How the one that is cut off notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Its connections break, and there are no new ones.
    Broken,
    /// Nothing arrives until it is over.
    Silent,
}

/// Who is cut off, by his number, and how.
type Cut = Option<(usize, Manner)>;

/// The forwarders of all servers. They end when it is dropped.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    endpoints: Vec<String>,
    accepting: Vec<AbortHandle>,
}

#[derive(Debug)]
struct Shared {
    cut: watch::Sender<Cut>,
    /// The processes, by number; empty while one is down.
    processes: Mutex<Vec<Option<u32>>>,
    cuts: Vec<AtomicU64>,
}

impl Shared {
    fn processes(&self) -> MutexGuard<'_, Vec<Option<u32>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// For so many servers, none of which has been started.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn open(servers: usize) -> Result<(Self, Vec<TcpListener>), String> {
        let shared = Arc::new(Shared {
            cut: watch::Sender::new(None),
            processes: Mutex::new(vec![None; servers]),
            cuts: (0..servers).map(|_| AtomicU64::new(0)).collect(),
        });
        let mut listeners = Vec::with_capacity(servers);
        let mut endpoints = Vec::with_capacity(servers);
        let failed = |error: std::io::Error| format!("the network has no port: {error}");
        for _ in 0..servers {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
            endpoints.push(format!("http://{}", listener.local_addr().map_err(failed)?));
            listeners.push(listener);
        }
        Ok((Self { shared, endpoints, accepting: Vec::new() }, listeners))
    }

    /// Where the others reach a server.
    pub fn endpoint(&self, server: usize) -> &str {
        &self.endpoints[server]
    }

    /// Begins to forward to the servers, wherever each of them is.
    pub fn forward(&mut self, listeners: Vec<TcpListener>, servers: &[Arc<Vitals>]) {
        for (to, (listener, server)) in listeners.into_iter().zip(servers).enumerate() {
            let (shared, server) = (Arc::clone(&self.shared), Arc::clone(server));
            let task = tokio::spawn(accept(shared, listener, to, server));
            self.accepting.push(task.abort_handle());
        }
    }

    /// A server has been started, as this process.
    pub fn is_process(&self, server: usize, process: Option<u32>) {
        self.shared.processes()[server] = process;
    }

    /// Cuts a server off, instead of whoever is.
    pub fn cut_off(&self, server: usize, manner: Manner) {
        self.shared.cuts[server].fetch_add(1, Ordering::Relaxed);
        self.shared.cut.send_replace(Some((server, manner)));
    }

    /// Everybody reaches everybody.
    pub fn heal(&self) {
        self.shared.cut.send_replace(None);
    }

    /// How often each server was cut off.
    pub fn cuts(&self) -> Vec<u64> {
        self.shared.cuts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.accepting.iter().for_each(AbortHandle::abort);
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, to: usize, server: Arc<Vitals>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => {
                    let from = client.local_addr().ok().and_then(|here| owner(peer, here, &shared.processes()));
                    let link = Link { from, to };
                    let State::Up(address) = server.state() else { continue };
                    connections.spawn(connect(client, address, link, shared.cut.subscribe()));
                }
                // Out of files, most likely: whoever wants something tries again.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Which way a connection goes.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// Nothing when that cannot be told: it has gone already.
    from: Option<usize>,
    to: usize,
}

impl Link {
    fn state(self, cut: Cut) -> Option<Manner> {
        let (server, manner) = cut?;
        (server == self.to || Some(server) == self.from).then_some(manner)
    }

    /// Waits until what is sent arrives. False: the connection is broken.
    async fn passes(self, cut: &mut watch::Receiver<Cut>) -> bool {
        let settled = cut.wait_for(|cut| self.state(*cut) != Some(Manner::Silent)).await;
        settled.is_ok_and(|cut| self.state(*cut).is_none())
    }
}

async fn connect(
    mut client: TcpStream,
    address: String,
    link: Link,
    mut cut: watch::Receiver<Cut>,
) {
    if !link.passes(&mut cut).await {
        return;
    }
    let Ok(mut server) = TcpStream::connect(address).await else { return };
    // A small message must not wait for the acknowledgement of the one before.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        () = pump(from_client, to_server, link, cut.clone()) => {}
        () = pump(from_server, to_client, link, cut) => {}
    }
}

/// Forwards one direction until it ends or breaks.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    link: Link,
    mut cut: watch::Receiver<Cut>,
) {
    let mut piece = vec![0; PIECE];
    while link.passes(&mut cut).await {
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            _ = cut.changed() => continue,
        };
        match read {
            Ok(bytes @ 1..) if link.passes(&mut cut).await => {
                if to.write_all(&piece[..bytes]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// How often the system's table is read for one connection: what comes and goes meanwhile can hide a line of it.
const READINGS: usize = 3;

/// Which of the processes has the end `peer` of a connection that ends at `here`.
fn owner(peer: SocketAddr, here: SocketAddr, processes: &[Option<u32>]) -> Option<usize> {
    let socket = (0..READINGS).find_map(|_| {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        socket_of(&table, peer, here).map(|number| format!("socket:[{number}]"))
    })?;
    let has = |process: &Option<u32>| {
        let Some(process) = process else { return false };
        let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
        files
            .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
            .any(|file| file == Path::new(&socket))
    };
    processes.iter().position(has)
}

/// The number of the socket at `local` that is connected to `remote`, in the system's table of connections.
/// Both ends count: connections to different places may share the port that they come from.
fn socket_of(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<&str> {
    let ends = (in_table(local)?, in_table(remote)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        // Its number, its own address, the other one; then the socket's number, seven fields later.
        let found = fields.nth(1)? == ends.0 && fields.next()? == ends.1;
        found.then(|| fields.nth(6)).flatten()
    })
}

/// As the table writes an address: as the number that it is in this machine's memory.
fn in_table(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_socket_is_found_by_both_ends_of_its_connection() {
        // The port 0xD2F0 is used three times: it is over, goes elsewhere, and is the one.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1CFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n\
            \x20  1: 0100007F:D2F0 0100007F:0050 06 00000000:00000000 03:00000F00 00000000     0        0 0 3 0\n\
            \x20  2: 0200007F:D2F0 0100007F:1CFC 01 00000000:00000000 00:00000000 00000000     0        0 4713 1\n\
            \x20  3: 0100007F:D2F0 0100007F:1CFC 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n";
        let at = |last, port| SocketAddr::from(([127, 0, 0, last], port));
        assert_eq!(socket_of(table, at(1, 0xd2f0), at(1, 0x1cfc)), Some("4712"));
        assert_eq!(socket_of(table, at(2, 0xd2f0), at(1, 0x1cfc)), Some("4713"));
        assert_eq!(socket_of(table, at(1, 0x1cfc), at(1, 0xd2f0)), None);
        assert_eq!(socket_of(table, at(1, 1), at(1, 0x1cfc)), None);
    }

    /// Two servers that answer every byte with the next one; this process is both of them, and everybody else.
    async fn site() -> Network {
        let (mut network, listeners) = Network::open(2).await.expect("ports");
        let mut servers = Vec::new();
        for name in ["one", "other"] {
            let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            servers.push(Vitals::up_at(name, &echo.local_addr().expect("bound").to_string()));
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = echo.accept().await {
                    tokio::spawn(async move {
                        while let Ok(byte) = stream.read_u8().await {
                            if stream.write_u8(byte + 1).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        }
        network.forward(listeners, &servers);
        network
    }

    async fn open(network: &Network, server: usize) -> TcpStream {
        let endpoint = network.endpoint(server).trim_start_matches("http://");
        TcpStream::connect(endpoint).await.expect("the forwarder listens")
    }

    async fn asks(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        stream.write_u8(byte).await?;
        tokio::time::timeout(LONG, stream.read_u8()).await.expect("an answer in time")
    }

    #[tokio::test]
    async fn a_broken_link_breaks_and_another_does_not() {
        let network = site().await;
        let (mut one, mut other) = (open(&network, 0).await, open(&network, 1).await);
        assert_eq!(
            (asks(&mut one, 1).await.ok(), asks(&mut other, 5).await.ok()),
            (Some(2), Some(6))
        );
        network.cut_off(0, Manner::Broken);
        assert!(asks(&mut one, 1).await.is_err());
        assert!(asks(&mut open(&network, 0).await, 1).await.is_err());
        assert_eq!(asks(&mut other, 7).await.ok(), Some(8));
        network.heal();
        assert_eq!(asks(&mut open(&network, 0).await, 3).await.ok(), Some(4));
        assert_eq!(network.cuts(), [1, 0]);
    }

    #[tokio::test]
    async fn what_is_sent_over_a_silent_link_arrives_when_it_is_over() {
        let network = site().await;
        let mut one = open(&network, 0).await;
        assert_eq!(asks(&mut one, 1).await.ok(), Some(2));
        network.cut_off(0, Manner::Silent);
        one.write_u8(3).await.expect("the forwarder takes it");
        let mut late = open(&network, 0).await;
        late.write_u8(8).await.expect("the forwarder takes it");
        let answer = tokio::time::timeout(Duration::from_millis(50), one.read_u8()).await;
        assert!(answer.is_err(), "{answer:?}");
        network.heal();
        for (stream, expected) in [(&mut one, 4), (&mut late, 9)] {
            let answer = tokio::time::timeout(LONG, stream.read_u8()).await.expect("in time");
            assert_eq!(answer.ok(), Some(expected));
        }
    }

    #[tokio::test]
    async fn whoever_is_cut_off_reaches_nobody_either() {
        let network = site().await;
        // To the system all connections of this test are the first server's.
        network.is_process(0, Some(std::process::id()));
        let mut to_other = open(&network, 1).await;
        assert_eq!(asks(&mut to_other, 1).await.ok(), Some(2));
        network.cut_off(0, Manner::Broken);
        assert!(asks(&mut to_other, 1).await.is_err());
    }
}
