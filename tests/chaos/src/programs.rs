//! Where the programs under test are, and ports for them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

/// The program of this name, in `HANDFAST_BIN_DIR` or beside the test's own build.
///
/// # Panics
/// When it is not there; the message says how to build it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let folder = match std::env::var_os("HANDFAST_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // target/debug/deps/test-name-0123456789abcdef
        None => match std::env::current_exe() {
            Ok(test) => test.ancestors().nth(2).map(PathBuf::from).unwrap_or_default(),
            Err(error) => panic!("cannot tell where this test was built: {error}"),
        },
    };
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is not there: build it with `cargo build --workspace --bins`, or say with HANDFAST_BIN_DIR \
         where it is",
        program.display()
    );
    program
}

/// A free port of loopback that no outgoing connection takes, so that a server that has been killed
/// gets the same one again: below the range that the system draws from.
///
/// # Panics
/// When all are taken.
#[must_use]
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 15_000;
    static DRAWN: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at once begin at different places.
    let begin = (std::process::id() % 97) as u16 * 150;
    for _ in 0..COUNT {
        let offset = begin.wrapping_add(DRAWN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + offset));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port of 127.0.0.1 from {FIRST} to {} is free", FIRST + COUNT);
}
