//! A connection that goes wrong: delayed, blocked in either direction, or cut.
//!
//! Absent on purpose: dropping or duplicating bytes inside a connection, which TCP does not do.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Open,
    /// They pass after a while.
    Delayed(Duration),
    /// They are kept, and pass when the direction is open again.
    Blocked,
}

#[derive(Debug, Clone, Copy)]
struct State {
    to_server: Flow,
    to_client: Flow,
    /// Connections are refused: accepted, and reset at once.
    refusing: bool,
    /// Rises with every cut.
    cuts: u64,
}

/// Forwards connections to a server. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    server: watch::Sender<SocketAddr>,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of `server`, on a port of its own.
    ///
    /// # Panics
    /// When there is no port to be had.
    pub async fn start(server: SocketAddr) -> Self {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let (listener, address) =
            match bound.and_then(|listener| listener.local_addr().map(|at| (listener, at))) {
                Ok(bound) => bound,
                Err(error) => panic!("the proxy has no port: {error}"),
            };
        let open = State { to_server: Flow::Open, to_client: Flow::Open, refusing: false, cuts: 0 };
        let (server, target) = watch::channel(server);
        let (state, watched) = watch::channel(open);
        let accepting = tokio::spawn(accept(listener, target, watched));
        Self { address, server, state, accepting }
    }

    /// Where it listens, as `http://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go to another server.
    pub fn lead_to(&self, server: SocketAddr) {
        self.server.send_replace(server);
    }

    /// What happens to the bytes that go to the server.
    pub fn to_server(&self, flow: Flow) {
        self.state.send_modify(|state| state.to_server = flow);
    }

    /// What happens to the bytes that come from the server.
    pub fn to_client(&self, flow: Flow) {
        self.state.send_modify(|state| state.to_client = flow);
    }

    /// Both directions at once.
    pub fn both(&self, flow: Flow) {
        self.to_server(flow);
        self.to_client(flow);
    }

    /// Resets every connection; new ones are made as before.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Resets every connection, and every new one.
    pub fn refuse(&self) {
        self.state.send_modify(|state| {
            state.refusing = true;
            state.cuts += 1;
        });
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            *state = State {
                to_server: Flow::Open,
                to_client: Flow::Open,
                refusing: false,
                cuts: state.cuts,
            };
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // Whoever is left is cut by the loss of the sender.
    }
}

async fn accept(
    listener: TcpListener,
    server: watch::Receiver<SocketAddr>,
    state: watch::Receiver<State>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if state.borrow().refusing {
            let _ = client.set_zero_linger();
            continue;
        }
        let target = *server.borrow();
        tokio::spawn(forward(client, target, state.clone()));
    }
}

async fn forward(mut client: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let cuts = state.borrow().cuts;
    let cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = pump(from_client, to_server, state.clone(), |state| state.to_server);
        let back = pump(from_server, to_client, state.clone(), |state| state.to_client);
        tokio::select! {
            _ = async { tokio::join!(there, back) } => false,
            _ = state.wait_for(|state| state.cuts != cuts) => true,
        }
    };
    if cut {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    direction: fn(&State) -> Flow,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let flow = match state.wait_for(|state| direction(state) != Flow::Blocked).await {
            Ok(state) => direction(&state),
            Err(_) => return,
        };
        if let Flow::Delayed(by) = flow {
            tokio::time::sleep(by).await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
