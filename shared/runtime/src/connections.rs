//! The connections that a server accepts: what is written gathers until it is flushed.
//!
//! Answers to many callers share a connection. Where writes may be vectored, HTTP/2 makes a system call of each
//! answer of some 300 bytes, by itself; where they may not, it copies small frames side by side, and asks for a
//! flush when it has nothing more to say. A large frame is its head and its body, one write each: these gather
//! here, so that a flush is one system call in either case. What it costs is a copy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

/// A full frame and its head, and what HTTP/2 gathers before it.
const GATHERED_BYTES: usize = 40 << 10;

/// What comes in on a listener, without the delay that small packets are held back for.
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    // The server builder's own setting does not reach connections that it has not accepted itself; without it
    // small frames wait 40 ms for the other side's delayed acknowledgement.
    let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
    accepted.map(|connection| connection.map(Connection::new))
}

/// A connection.
#[derive(Debug)]
pub struct Connection(BufWriter<TcpStream>);

impl Connection {
    fn new(connection: TcpStream) -> Self {
        Self(BufWriter::with_capacity(GATHERED_BYTES, connection))
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.get_ref().connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(context, slices)
    }

    /// See the module's documentation.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_goes_out_when_it_is_flushed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut other = TcpStream::connect(address).await.expect("somebody listens");
        let mut incoming = Box::pin(incoming(listener));
        let mut own = incoming.next().await.expect("a connection").expect("no error");
        assert!(own.0.get_ref().nodelay().expect("a socket"));
        let info = own.connect_info();
        assert_eq!(info.remote_addr(), other.local_addr().ok());
        assert!(!own.is_write_vectored(), "or each answer is a system call");
        let frame = vec![7; 16 << 10];
        own.write_all(b"head").await.expect("room");
        own.write_all(&frame).await.expect("room");
        let mut read = vec![0; 64 << 10];
        let early = tokio::time::timeout(Duration::from_millis(20), other.read(&mut read)).await;
        assert!(early.is_err(), "both wait for the flush");
        own.flush().await.expect("sent");
        other.read_exact(&mut read[..4 + frame.len()]).await.expect("all of it");
        assert_eq!((&read[..4], &read[4..4 + frame.len()]), (&b"head"[..], &frame[..]));
        // More than gathers, and what was not flushed before the end.
        let large = vec![8; 100 << 10];
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            other.write_all(b"hello").await.expect("room");
            other.read_to_end(&mut all).await.map(|_| all)
        });
        own.write_all(&large).await.expect("room");
        own.write_all(b"end").await.expect("room");
        let mut hello = [0; 5];
        own.read_exact(&mut hello).await.expect("five bytes");
        own.shutdown().await.expect("closed");
        let all = reading.await.expect("no panic").expect("read");
        assert_eq!((all.len(), &all[large.len()..]), (large.len() + 3, &b"end"[..]));
    }
}
