//! Addresses to listen on: loopback unless asked otherwise, and errors that say what to do.
//!
//! Handfast's ports decide transactions for whoever can reach them. Without TLS an address that other
//! machines can reach is therefore refused, unless the operator says `--insecure` in so many words.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Why a server does not listen. All of them are the operator's to put right.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Other machines can reach the address, and nothing protects it.
    #[error(
        "refusing to listen on {address}: it can be reached from other machines, and connections are neither \
         encrypted nor authenticated; use a loopback address such as 127.0.0.1:{port}, or pass --insecure if the \
         network around this machine is trusted", port = .address.port()
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// Another program has the port.
    #[error(
        "port {port} of {ip} is in use: another server is running there, perhaps this one a second time; stop it \
         (`ss -ltnp 'sport = :{port}'` shows which it is) or choose another port",
        port = .address.port(), ip = .address.ip()
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system does not let this user have the port.
    #[error(
        "no permission to listen on port {port} of {ip}: ports below 1024 need privileges; choose a higher one, or \
         grant CAP_NET_BIND_SERVICE",
        port = .address.port(), ip = .address.ip()
    )]
    NoPermission {
        /// The address.
        address: SocketAddr,
    },
    /// The address belongs to no interface of this machine.
    #[error(
        "cannot listen on {address}: {ip} is not an address of this machine (`ip address` lists them)",
        ip = .address.ip()
    )]
    NotHere {
        /// The address.
        address: SocketAddr,
    },
    /// Something else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: Error,
    },
}

/// Refuses an address that other machines can reach, unless `insecure`.
///
/// # Errors
/// [`ListenError::NotLoopback`].
pub fn check_address(address: SocketAddr, insecure: bool) -> Result<(), ListenError> {
    // An IPv4 address in IPv6 clothes is what it is underneath.
    if insecure || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(ListenError::NotLoopback { address })
}

/// Listens on an address that [`check_address`] has passed. Port 0 lets the system choose a free one.
///
/// A port whose last server has just ended is free at once: what lingers of its connections does not count.
///
/// # Errors
/// A [`ListenError`] that says what to do.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| explain(address, source))
}

fn explain(address: SocketAddr, source: Error) -> ListenError {
    match source.kind() {
        ErrorKind::AddrInUse => ListenError::InUse { address },
        ErrorKind::PermissionDenied => ListenError::NoPermission { address },
        ErrorKind::AddrNotAvailable => ListenError::NotHere { address },
        _ => ListenError::Other { address, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_loopback_is_allowed_without_insecure() {
        for loopback in ["127.0.0.1:7420", "127.9.9.9:1", "[::1]:7420", "[::ffff:127.0.0.1]:7420"] {
            assert!(check_address(address(loopback), false).is_ok(), "{loopback}");
        }
        for other in [
            "0.0.0.0:7420",
            "192.0.2.1:7420",
            "[::]:7420",
            "[2001:db8::1]:7420",
            "[::ffff:192.0.2.1]:1",
        ] {
            let error = check_address(address(other), false).expect_err(other).to_string();
            assert!(error.contains(other) && error.contains("--insecure"), "{error}");
            assert!(check_address(address(other), true).is_ok(), "{other}");
        }
        let error =
            check_address(address("0.0.0.0:7420"), false).expect_err("not loopback").to_string();
        assert!(error.contains("127.0.0.1:7420"), "{error}");
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let first = bind(address("127.0.0.1:0")).await.expect("a free port");
        let taken = first.local_addr().expect("an address");
        let error = bind(taken).await.expect_err("taken");
        assert!(matches!(error, ListenError::InUse { address } if address == taken));
        let message = error.to_string();
        let port = taken.port();
        for part in [
            format!("port {port} of 127.0.0.1"),
            format!("sport = :{port}"),
            "another port".to_owned(),
        ] {
            assert!(message.contains(&part), "{part}: {message}");
        }
        drop(first);
        assert!(bind(taken).await.is_ok(), "free again at once");
    }

    #[tokio::test]
    async fn a_strange_address_is_named() {
        // 192.0.2.0/24 is kept for documentation: no machine has it.
        let error = bind(address("192.0.2.1:0")).await.expect_err("not of this machine");
        assert!(
            error.to_string().contains("192.0.2.1 is not an address of this machine"),
            "{error}"
        );
    }

    #[test]
    fn other_errors_are_explained() {
        // Tests may run as root, who has every permission: the system's answer is played.
        let message =
            |kind: ErrorKind| explain(address("127.0.0.1:80"), Error::from(kind)).to_string();
        let denied = message(ErrorKind::PermissionDenied);
        assert!(
            denied.contains("port 80 of 127.0.0.1") && denied.contains("CAP_NET_BIND_SERVICE"),
            "{denied}"
        );
        assert!(message(ErrorKind::OutOfMemory).contains("127.0.0.1:80: "), "{denied}");
    }
}
