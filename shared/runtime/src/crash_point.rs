//! Named places where tests kill the process, compiled in only with the feature `crash-points`.
//!
//! The environment variable `HANDFAST_CRASH_POINT` says where and how:
//!
//! | value | what happens |
//! | --- | --- |
//! | `name` | the process dies, as by `kill -9`, when it first comes by |
//! | `name@3` | … when it comes by for the third time |
//! | `name=wait:/path` | the thread stops there until the file exists (a minute at most) |
//!
//! Each reached point is named on standard error, so that a test can tell "died there" from "died".
//!
//! What came by before has time to take effect, and nothing else stands still: a thread of the runtime hands its
//! other tasks over while it is held here. That takes a pool of threads, which serves wherever a place is named
//! ([`armed`]).

/// A place where a test may kill the process. Nothing at all without the feature `crash-points`.
#[macro_export]
macro_rules! crash_point {
    ($name:expr) => {
        #[cfg(feature = "crash-points")]
        $crate::crash_point::reached($name);
    };
}

/// Called by [`crash_point!`](crate::crash_point!) where the feature is on; does nothing where it is off.
#[cfg(not(feature = "crash-points"))]
pub fn reached(_name: &str) {}

/// Called by [`crash_point!`](crate::crash_point!).
#[cfg(feature = "crash-points")]
pub fn reached(name: &str) {
    imp::reached(name);
}

/// Whether this build has crash points.
#[must_use]
pub const fn compiled_in() -> bool {
    cfg!(feature = "crash-points")
}

/// Whether this process is to stop somewhere.
#[must_use]
pub fn armed() -> bool {
    compiled_in() && std::env::var_os("HANDFAST_CRASH_POINT").is_some()
}

#[cfg(feature = "crash-points")]
mod imp {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    /// How long what came by before may take to leave the process.
    const LEAVES_WITHIN: Duration = Duration::from_millis(5);

    enum Then {
        Die,
        WaitFor(PathBuf),
    }

    struct Armed {
        name: String,
        passes: AtomicU32,
        at_pass: u32,
        then: Then,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        ARMED
            .get_or_init(|| {
                let text = std::env::var("HANDFAST_CRASH_POINT").ok()?;
                let (place, then) = match text.split_once("=wait:") {
                    Some((place, path)) => (place, Then::WaitFor(path.into())),
                    None => (text.as_str(), Then::Die),
                };
                let (name, at_pass) = match place.split_once('@') {
                    Some((name, pass)) => (name, pass.parse().unwrap_or(1)),
                    None => (place, 1),
                };
                Some(Armed { name: name.to_owned(), passes: AtomicU32::new(0), at_pass, then })
            })
            .as_ref()
    }

    pub(super) fn reached(name: &str) {
        let Some(armed) = armed().filter(|armed| armed.name == name) else { return };
        if armed.passes.fetch_add(1, Ordering::SeqCst) + 1 != armed.at_pass {
            return;
        }
        eprintln!("crash point {name} reached");
        match &armed.then {
            // No destructor runs and nothing is flushed: to the disk it is a kill.
            Then::Die if armed.at_pass == 1 => std::process::abort(),
            Then::Die => {
                hold(|| std::thread::park_timeout(LEAVES_WITHIN));
                std::process::abort()
            }
            Then::WaitFor(path) => hold(|| {
                for _ in 0..6000 {
                    if path.exists() {
                        break;
                    }
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            }),
        }
    }

    fn hold(wait: impl FnOnce()) {
        use tokio::runtime::{Handle, RuntimeFlavor};
        let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        match flavor {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
            _ => wait(),
        }
    }
}
