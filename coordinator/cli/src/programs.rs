//! The servers' programs, which lie beside this one, and ports for them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use crate::demo::random::unseeded;

/// The coordinator's program.
pub const COORDINATOR: &str = "handfast-coordinator";
/// The reference participant's program.
pub const PARTICIPANT: &str = "handfast-participant";
/// What the benchmark measures them against.
pub const SKELETON: &str = "handfast-skeleton";

/// Where programs are looked for first.
const BIN_DIR: &str = "HANDFAST_BIN_DIR";
/// Ports that the system does not give to outgoing connections: while a server is down nobody else takes
/// its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_ATTEMPTS: u32 = 100;

/// Where these programs are.
///
/// # Errors
/// A sentence that names what is missing, and where it was looked for.
pub fn find<const N: usize>(names: [&str; N]) -> Result<[PathBuf; N], String> {
    let folder = match std::env::var_os(BIN_DIR).filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe();
            let own =
                own.map_err(|error| format!("where this program lies is unknown: {error}"))?;
            own.parent().map(Path::to_path_buf).unwrap_or_default()
        }
    };
    find_in(&folder, names)
}

fn find_in<const N: usize>(folder: &Path, names: [&str; N]) -> Result<[PathBuf; N], String> {
    let programs = names.map(|name| folder.join(name));
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !program.is_file())
        .map(|program| program.display().to_string())
        .collect();
    match missing.is_empty() {
        true => Ok(programs),
        false => Err(format!(
            "real servers are started, and there is no {}; build them with `make build`, or name their \
             folder in {BIN_DIR}",
            missing.join(" and no ")
        )),
    }
}

/// A port of this machine that nobody listens on.
///
/// # Errors
/// A sentence, when there is none.
pub fn free_port() -> Result<u16, String> {
    for _ in 0..PORT_ATTEMPTS {
        let port = PORTS.start + (unseeded() % u64::from(PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(format!("there is no free port on 127.0.0.1 between {} and {}", PORTS.start, PORTS.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let find = || find_in(folder.path(), [COORDINATOR, PARTICIPANT]);
        let error = find().expect_err("an empty folder");
        for part in [COORDINATOR, PARTICIPANT, "make build", &folder.path().display().to_string()] {
            assert!(error.contains(part), "{error}");
        }
        std::fs::write(folder.path().join(COORDINATOR), "").expect("a file");
        let error = find().expect_err("one is missing");
        assert!(!error.contains(COORDINATOR) && error.contains(PARTICIPANT), "{error}");
        std::fs::write(folder.path().join(PARTICIPANT), "").expect("a file");
        assert!(find().is_ok());
    }

    #[test]
    fn a_free_port_can_be_had() {
        assert!(PORTS.contains(&free_port().expect("a port")));
    }
}
