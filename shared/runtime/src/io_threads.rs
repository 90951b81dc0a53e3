//! The threads that serve connections.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::crash_point;

/// How many there are when nobody says: one for each two cores. The others are the log's and the shards', and
/// work that goes from one thread to the next is dearer than work that waits for its turn.
#[must_use]
pub fn default_count() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    cores.div_ceil(2)
}

/// Runs a server's future on this thread, and what it spawns on so many others, until the future ends.
///
/// One thread is not a pool of one: a pool runs the task that was woken last before all others, so that a
/// connection would write each answer by itself as soon as it is there. Where tasks take turns in the order in
/// which they were woken, it comes to the connection when everybody has answered, and one write takes all.
///
/// # Errors
/// When the system gives no threads.
pub fn block_on<T>(count: Option<usize>, future: impl Future<Output = T>) -> io::Result<T> {
    let count = count.unwrap_or_else(default_count);
    // Where a test holds a thread, the tasks that are not held go on: a pool hands them over.
    if count > 1 || crash_point::armed() {
        let runtime = Builder::new_multi_thread().worker_threads(count).enable_all().build()?;
        return Ok(runtime.block_on(future));
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel::<()>();
    let serving = thread::Builder::new().name("io".to_owned()).spawn(move || {
        // An error says that the other end is gone, which is what is waited for.
        let _ = runtime.block_on(ended);
    })?;
    let _ends = EndsWithMe { end: Some(end), serving: Some(serving) };
    Ok(handle.block_on(future))
}

/// The thread that serves, which ends before whoever has this goes on, also when that is a panic: what its tasks
/// hold (a log, say) must be closed before the process ends.
struct EndsWithMe {
    end: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Drop for EndsWithMe {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(serving) = self.serving.take() {
            // Whoever panicked there has said so.
            let _ = serving.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_spawned_runs_while_the_servers_own_thread_is_busy() {
        for count in [1, 2] {
            let found = block_on(Some(count), async {
                let (sender, named) = mpsc::channel();
                tokio::spawn(async move {
                    // A timer, too, is somebody else's to look at.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let _ = sender.send(thread::current().id());
                });
                tokio::time::sleep(Duration::from_millis(1)).await;
                // As opening a log does, which takes its time.
                named.recv_timeout(Duration::from_secs(30))
            });
            let found = found.expect("threads").expect("it runs meanwhile");
            assert_ne!(found, thread::current().id(), "with {count}");
        }
    }

    #[test]
    fn nothing_is_left_when_the_server_has_ended() {
        for count in [1, 2] {
            let (sender, dropped) = mpsc::channel::<()>();
            let served = block_on(Some(count), async {
                tokio::spawn(async move {
                    let _sender = sender;
                    std::future::pending::<()>().await;
                });
                7
            });
            assert_eq!(served.expect("threads"), 7);
            assert_eq!(dropped.try_recv(), Err(mpsc::TryRecvError::Disconnected), "with {count}");
        }
    }

    #[test]
    fn nor_is_anything_left_when_the_server_has_panicked() {
        let (sender, dropped) = mpsc::channel::<()>();
        let panicked = std::panic::catch_unwind(|| {
            block_on(Some(1), async {
                tokio::spawn(async move {
                    let _sender = sender;
                    std::future::pending::<()>().await;
                });
                panic!("as a server might")
            })
        });
        let _: Box<dyn std::any::Any + Send> = panicked.map(drop).expect_err("passed on");
        assert_eq!(dropped.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn who_is_woken_by_several_finds_what_all_of_them_have_left() {
        let found = block_on(Some(1), async {
            let (sender, mut left) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(async move {
                let connection = tokio::spawn(async move {
                    let mut answers = Vec::new();
                    left.recv_many(&mut answers, 9).await
                });
                // It waits by then.
                tokio::task::yield_now().await;
                for _ in 0..3 {
                    let sender = sender.clone();
                    tokio::spawn(async move { sender.send("an answer") });
                }
                connection.await
            })
            .await
        });
        assert_eq!(found.expect("threads").expect("no panic").expect("no panic"), 3);
    }
}
