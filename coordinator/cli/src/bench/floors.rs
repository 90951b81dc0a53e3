//! The floors under the skeleton: the disk and the wire alone, measured by a process of their own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// What a floor is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// Append to a file and fdatasync.
    Fdatasync,
    /// The same through RocksDB.
    Rocksdb,
    /// Small messages over one stream, echoed.
    Echo,
}

impl Floor {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fdatasync, Self::Rocksdb, Self::Echo];

    /// As in results and on the skeleton's command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fdatasync => "fdatasync",
            Self::Rocksdb => "rocksdb",
            Self::Echo => "echo",
        }
    }
}

/// The floors with so many in flight, each second.
#[derive(Debug, Clone, PartialEq)]
pub struct Floors {
    pub in_flight: usize,
    /// In the order of [`Floor::ALL`].
    pub per_second: [f64; 3],
}

/// Measures them, one after the other, on the disk of `folder`.
///
/// # Errors
/// A sentence that says what did not work.
pub async fn measure(
    skeleton: &Path,
    folder: &Path,
    in_flight: usize,
    time: Duration,
) -> Result<Floors, String> {
    let mut per_second = [0.0; 3];
    for (floor, result) in Floor::ALL.into_iter().zip(&mut per_second) {
        let data = folder.join(format!("floor-{}-{in_flight}", floor.word()));
        let ran = Command::new(skeleton)
            .args(["floor", floor.word(), "--in-flight", &in_flight.to_string()])
            .args(["--milliseconds", &time.as_millis().max(1).to_string()])
            .arg("--data")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output()
            .await;
        let ran = ran.map_err(|error| format!("{} cannot run: {error}", skeleton.display()))?;
        // It may be large, and a floor is measured once.
        let _ = std::fs::remove_dir_all(&data);
        *result = understood(&ran.stdout).ok_or_else(|| {
            let said = String::from_utf8_lossy(&ran.stderr);
            format!("the floor {} was not measured ({}): {said}", floor.word(), ran.status)
        })?;
    }
    Ok(Floors { in_flight, per_second })
}

fn understood(stdout: &[u8]) -> Option<f64> {
    let result: Value = serde_json::from_slice(stdout).ok()?;
    result["per_second"].as_f64().filter(|rate| rate.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_floor_that_cannot_be_measured_says_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = |program: &'static str| {
            measure(Path::new(program), folder.path(), 4, Duration::from_millis(10))
        };
        let error = run("/bin/false").await.expect_err("no floor");
        assert!(error.contains("fdatasync") && error.contains('1'), "{error}");
        let error = run("/nowhere/handfast-skeleton").await.expect_err("no program");
        assert!(error.contains("/nowhere/handfast-skeleton"), "{error}");
        assert_eq!(understood(b"{\"in_flight\":1,\"per_second\":12.5}\n"), Some(12.5));
        assert_eq!(understood(b"12.5"), None);
    }
}
