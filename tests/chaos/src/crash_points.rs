//! One crash point after the other, each under a load of its own.

use std::sync::Arc;

use handfast_client::Client;

use crate::{Cluster, Oracle};

/// Kills a process at each of its crash points and starts it again: the coordinator, or one of the participants a
/// and b. `load` is run for each; it is given the point's name, which is to be in the names of its requests.
///
/// # Panics
/// When a promise does not hold.
pub async fn killed_at_each<L: Future<Output = ()> + Send + 'static>(
    points: &[&str],
    participant: Option<&str>,
    load: impl Fn(Client, Arc<Oracle>, String) -> L,
) {
    let mut cluster = Cluster::start(&["a", "b"]).await;
    let oracle = Arc::new(Oracle::new());
    for point in points {
        match participant {
            Some(name) => cluster.restart_participant_at(name, point).await,
            None => cluster.restart_coordinator_at(point).await,
        }
        let load = load(cluster.client(), Arc::clone(&oracle), (*point).to_owned());
        let load = tokio::spawn(load);
        let victim = match participant {
            Some(name) => cluster.participant(name),
            None => &mut cluster.coordinator,
        };
        victim.dies_at(point).await;
        victim.start().await;
        if let Err(error) = load.await {
            std::panic::resume_unwind(error.into_panic());
        }
        // The next one is to die of its own round.
        cluster.nothing_is_left().await;
    }
    oracle.check(&cluster).await;
}
