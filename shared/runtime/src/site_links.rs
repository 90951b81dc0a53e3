//! What voting sites of three-phase commit ask each other outside of sessions: a link for each site that is
//! spoken to, made when it is first needed.
//!
//! Orders may be lost, repeated and late, and whoever leads says again what has not been answered. So a link
//! keeps nothing that cannot be sent: what does not fit its queue, and what was in a call that broke, is gone.
//! Nobody waits for a link, and one that leads nowhere costs the others nothing.
//!
//! Absent on purpose: sessions, order and acknowledgements; the ballots do their work.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handfast_commit_core::message::{FromSite, ToSite};
use handfast_commit_core::mutants::{Mutant, mutant};
use handfast_commit_core::three_phase::SiteName;
use handfast_wire::site::{self, Lead, ORDERS_MAX};
use handfast_wire::v1;
use handfast_wire::v1::site_service_client::SiteServiceClient;
use tokio::runtime::Handle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Most orders that wait for one site.
const QUEUE_MAX: usize = 10_000;
/// Most calls of one site at a time. One that waits for a slow site's disk or data does not hold up the next.
const CALLS_MAX: usize = 8;
/// Most sites that links are kept for.
const LINKS_MAX: usize = 1024;
/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for all reports of one call at one place.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Is told what sites report, on threads of the runtime.
type Hear = dyn Fn(&SiteName, Vec<FromSite>) + Send + Sync;

/// A site and where it may be, the likeliest place first.
type Address = (SiteName, Vec<String>);

/// The links of one process to the sites that it leads.
pub struct SiteLinks {
    own: SiteName,
    own_endpoint: String,
    runtime: Handle,
    hear: Arc<Hear>,
    links: Mutex<BTreeMap<Address, Arc<Link>>>,
}

impl fmt::Debug for SiteLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteLinks").field("own", &self.own).finish_non_exhaustive()
    }
}

struct Link {
    to: SiteName,
    endpoints: Vec<String>,
    state: Mutex<State>,
    from: (SiteName, String),
    hear: Arc<Hear>,
}

#[derive(Default)]
struct State {
    orders: VecDeque<ToSite>,
    calls: usize,
    /// A call is about to take whatever is there.
    scheduled: bool,
    channels: BTreeMap<String, Channel>,
}

impl SiteLinks {
    /// Of a process that leads as `own` and is reached at `own_endpoint`. Calls are made on `runtime`; `hear`
    /// is told who reports what.
    pub fn new(
        own: SiteName,
        own_endpoint: String,
        runtime: Handle,
        hear: impl Fn(&SiteName, Vec<FromSite>) + Send + Sync + 'static,
    ) -> Self {
        Self { own, own_endpoint, runtime, hear: Arc::new(hear), links: Mutex::default() }
    }

    /// Gives an order to a site that is served at one of these places, the likeliest first. It may be lost.
    pub fn send(&self, to: &SiteName, endpoints: &[String], order: ToSite) {
        let link = match self.link(to, endpoints) {
            Ok(link) => link,
            Err(why) => return lost(why, 1),
        };
        let mut state = lock(&link.state);
        if state.orders.len() >= QUEUE_MAX {
            return lost("queue_full", 1);
        }
        state.orders.push_back(order);
        if !state.scheduled && state.calls < CALLS_MAX {
            state.scheduled = true;
            state.calls += 1;
            self.runtime.spawn(serve(Arc::clone(&link)));
        }
    }

    /// The link to these places, or why there is none.
    fn link(&self, to: &SiteName, endpoints: &[String]) -> Result<Arc<Link>, &'static str> {
        let endpoints: Vec<_> = endpoints.iter().filter(|text| !text.is_empty()).cloned().collect();
        if endpoints.is_empty() {
            return Err("no_endpoint");
        }
        let key = (to.clone(), endpoints);
        let mut links = lock(&self.links);
        if let Some(link) = links.get(&key) {
            return Ok(Arc::clone(link));
        }
        if links.len() >= LINKS_MAX {
            links.retain(|_, link| !lock(&link.state).is_idle());
        }
        if links.len() >= LINKS_MAX {
            return Err("too_many_links");
        }
        let link = Arc::new(Link {
            to: to.clone(),
            endpoints: key.1.clone(),
            state: Mutex::default(),
            from: (self.own.clone(), self.own_endpoint.clone()),
            hear: Arc::clone(&self.hear),
        });
        links.insert(key, Arc::clone(&link));
        Ok(link)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.orders.is_empty() && self.calls == 0
    }
}

/// One of the calls of a link, and the next ones for as long as there is something to say.
async fn serve(link: Arc<Link>) {
    loop {
        let orders: Vec<ToSite> = {
            let mut state = lock(&link.state);
            state.scheduled = false;
            let most = state.orders.len().min(ORDERS_MAX);
            let orders = state.orders.drain(..most).collect();
            if most == 0 {
                state.calls -= 1;
                return;
            }
            orders
        };
        let mut unanswered = orders.len();
        metrics::counter!("handfast_site_orders_total").increment(unanswered as u64);
        let Err(status) = link.ask(orders, &mut unanswered).await else { continue };
        lost("call_failed", unanswered);
        let problem = format!("{} ({})", status.message(), status.code());
        tracing::debug!(site = %link.to, endpoints = ?link.endpoints, "orders to {}: {problem}", link.to);
    }
}

impl Link {
    /// Gives the orders at one place after the other, until they have been taken at one. Each report that is
    /// heard is counted off.
    async fn ask(&self, orders: Vec<ToSite>, unanswered: &mut usize) -> Result<(), Status> {
        let (from, from_endpoint) = self.from.clone();
        let lead = Lead { from, from_endpoint, to: self.to.clone(), orders };
        let request = site::lead_message(&lead);
        let mut last = Status::unavailable("it is not known where it is");
        for endpoint in &self.endpoints {
            // A place that hangs may be one that the site has left.
            let asked = self.ask_at(endpoint, request.clone(), unanswered);
            match tokio::time::timeout(CALL_MAX, asked).await {
                Ok(Ok(())) => return Ok(()),
                // It may be somewhere else.
                Ok(Err(status)) => last = status,
                Err(_) => last = Status::deadline_exceeded("not every report came in time"),
            }
            if mutant(Mutant::OnlyFirstPlace) {
                break;
            }
        }
        Err(last)
    }

    async fn ask_at(
        &self,
        endpoint: &str,
        request: v1::LeadRequest,
        unanswered: &mut usize,
    ) -> Result<(), Status> {
        let mut client = SiteServiceClient::new(self.channel(endpoint)?);
        let mut reports = client.lead(request).await?.into_inner();
        // What has been reported was said, however the call ends.
        while let Some(response) = reports.message().await? {
            let mut heard = Vec::with_capacity(response.reports.len());
            for report in &response.reports {
                match site::report(report) {
                    Ok(report) => heard.push(report),
                    Err(error) => tracing::warn!(site = %self.to, "a report is ignored: {error}"),
                }
            }
            // Those of a place that was given up may come again from the next one.
            *unanswered = unanswered.saturating_sub(heard.len());
            (self.hear)(&self.to, heard);
        }
        Ok(())
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, Status> {
        if let Some(channel) = lock(&self.state).channels.get(endpoint) {
            return Ok(channel.clone());
        }
        let target = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| {
            Status::invalid_argument(format!("{endpoint:?} is no endpoint: {error}"))
        })?;
        let channel = target
            .connect_timeout(CONNECT_MAX)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_lazy();
        lock(&self.state).channels.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn lost(why: &'static str, count: usize) {
    metrics::counter!("handfast_site_orders_lost_total", "why" => why).increment(count as u64);
}

/// Every value behind these locks is whole between any two statements, whoever panicked in between.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
