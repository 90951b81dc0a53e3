//! A TCP proxy whose connections can be cut.

use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A running proxy. Ends with its runtime.
pub struct Proxy {
    /// Where it is served.
    pub endpoint: String,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    /// Starts a proxy to `http://host:port`.
    pub async fn start(target: &str) -> Self {
        let target = target.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let connections = Arc::<Mutex<Vec<AbortHandle>>>::default();
        let accepted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let target = target.clone();
                let connection = tokio::spawn(async move {
                    let mut to = TcpStream::connect(target).await.expect("the target listens");
                    // A connection that breaks is what this proxy is for.
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
                accepted.lock().expect("no panic").push(connection.abort_handle());
            }
        });
        Self { endpoint, connections }
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        for connection in self.connections.lock().expect("no panic").drain(..) {
            connection.abort();
        }
    }
}
