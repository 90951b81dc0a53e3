//! The client library against a server: what is repeated, what is told, what is never told.

mod fake;
mod proxy;

mod executing;
mod interactive;

use std::time::Duration;

use handfast_client::{Client, ClientOptions};

/// A client whose calls are cut off after `deadline`.
fn client(endpoint: &str, deadline: Duration) -> Client {
    let options = ClientOptions { deadline, ..ClientOptions::default() };
    Client::connect_with(endpoint, options).expect("an endpoint")
}

/// Waits until it is so, for at most half a minute.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 30 s in vain until {what}");
}
