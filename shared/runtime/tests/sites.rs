//! Voting sites that speak to each other over real connections: reports come back as they are ready, a link
//! finds its site, and what cannot be sent is lost and holds up nobody.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handfast_commit_core::id::{Incarnation, TransactionId};
use handfast_commit_core::message::{FromSite, Order, Report, ToSite};
use handfast_commit_core::three_phase::{Ballot, SiteName};
use handfast_runtime::site_links::SiteLinks;
use handfast_runtime::site_service::{Led, SiteApi, SiteHost};
use handfast_wire::convert::InvalidField;
use handfast_wire::site::Lead;
use handfast_wire::v1::site_service_server::SiteServiceServer;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

const PATIENCE: Duration = Duration::from_secs(10);

fn participant(name: &str) -> SiteName {
    SiteName::Participant(name.parse().expect("a name"))
}

fn order(sequence: u64, order: Order) -> ToSite {
    let id: TransactionId = format!("0000-03-0000000001-{sequence:016x}").parse().expect("an id");
    ToSite { id, incarnation: Incarnation(7), order }
}

/// Answers FORGET at once, and keeps every other order.
struct Host {
    own: SiteName,
    kept: Mutex<Vec<Led>>,
    leaders: Mutex<Vec<(SiteName, String)>>,
}

impl SiteHost for Host {
    fn admit(&self, lead: &Lead) -> Result<(), Status> {
        let leader = (lead.from.clone(), lead.from_endpoint.clone());
        self.leaders.lock().expect("whole").push(leader);
        if lead.to == self.own { Ok(()) } else { Err(Status::failed_precondition("another site")) }
    }

    fn invalid(&self, error: &InvalidField) -> Status {
        Status::invalid_argument(error.to_string())
    }

    fn led(&self, _: SiteName, orders: Vec<Led>) {
        for (order, report_to) in orders {
            let id = order.id;
            match order.order {
                Order::Forget => report_to.send(FromSite { id, report: Report::Forgotten }),
                _ => self.kept.lock().expect("whole").push((order, report_to)),
            }
        }
    }
}

async fn serve(name: &str) -> (Arc<Host>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let (kept, leaders) = (Mutex::default(), Mutex::default());
    let host = Arc::new(Host { own: participant(name), kept, leaders });
    let service = SiteServiceServer::new(SiteApi::new(Arc::clone(&host)));
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (host, format!("http://{address}"))
}

type Heard = mpsc::UnboundedReceiver<(SiteName, FromSite)>;

fn links() -> (SiteLinks, Heard) {
    let (tell, heard) = mpsc::unbounded_channel();
    let hear = move |from: &SiteName, reports: Vec<FromSite>| {
        for report in reports {
            let _ = tell.send((from.clone(), report));
        }
    };
    let links = SiteLinks::new(participant("a"), "http://a".into(), Handle::current(), hear);
    (links, heard)
}

async fn next(heard: &mut Heard) -> (SiteName, FromSite) {
    tokio::time::timeout(PATIENCE, heard.recv())
        .await
        .expect("in time")
        .expect("the links are open")
}

#[tokio::test]
async fn a_report_waits_for_no_other_one() {
    let (host, endpoint) = serve("b").await;
    let (links, mut heard) = links();
    let to = participant("b");
    let join = Order::Join { ballot: Ballot::FIRST };
    for (sequence, what) in [(1, join), (2, Order::Forget), (3, join), (4, Order::Forget)] {
        links.send(&to, std::slice::from_ref(&endpoint), order(sequence, what));
    }
    let mut forgotten = [next(&mut heard).await, next(&mut heard).await];
    forgotten.sort();
    let said =
        |sequence, report| (to.clone(), FromSite { id: order(sequence, Order::Forget).id, report });
    assert_eq!(forgotten, [said(2, Report::Forgotten), said(4, Report::Forgotten)]);
    assert_eq!(host.leaders.lock().expect("whole")[0], (participant("a"), "http://a".into()));
    let kept = std::mem::take(&mut *host.kept.lock().expect("whole"));
    assert_eq!(kept.len(), 2);
    for (order, report_to) in kept {
        assert_eq!(order.order, join);
        report_to.send(FromSite { id: order.id, report: Report::Unvoted });
    }
    let mut unvoted = [next(&mut heard).await, next(&mut heard).await];
    unvoted.sort();
    assert_eq!(unvoted, [said(1, Report::Unvoted), said(3, Report::Unvoted)]);
}

#[tokio::test]
async fn a_site_is_sought_where_it_may_be() {
    let (_another, wrong) = serve("c").await;
    let (_host, endpoint) = serve("b").await;
    let nobody = "http://127.0.0.1:1".to_owned();
    let (links, mut heard) = links();
    let places = [String::new(), "no endpoint".to_owned(), nobody.clone(), wrong, endpoint];
    links.send(&participant("b"), &places, order(1, Order::Forget));
    assert_eq!(next(&mut heard).await.0, participant("b"));
    // What leads nowhere is lost, and the link goes on.
    for sequence in 0..20 {
        links.send(
            &participant("b"),
            std::slice::from_ref(&nobody),
            order(sequence, Order::Forget),
        );
    }
    links.send(&participant("b"), &[], order(2, Order::Forget));
    links.send(&participant("b"), &places, order(3, Order::Forget));
    assert_eq!(next(&mut heard).await.1.id, order(3, Order::Forget).id);
}

/// A place that accepts connections and calls and never answers hides no other one.
#[tokio::test]
async fn a_site_is_found_behind_a_place_that_hangs() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let hanging = format!("http://{}", hangs.local_addr().expect("an address"));
    let (_host, endpoint) = serve("b").await;
    let (links, mut heard) = links();
    links.send(&participant("b"), &[hanging, endpoint], order(1, Order::Forget));
    let found = tokio::time::timeout(Duration::from_secs(60), heard.recv()).await;
    assert_eq!(found.expect("in time").expect("the links are open").0, participant("b"));
}

/// A site that answers nothing takes up its own calls and its own queue, and nobody else's.
#[tokio::test]
async fn a_silent_site_holds_up_nobody() {
    let (host, silent) = serve("b").await;
    let (_other, endpoint) = serve("c").await;
    let (links, mut heard) = links();
    let join = Order::Join { ballot: Ballot::FIRST };
    for sequence in 0..30_000 {
        links.send(&participant("b"), std::slice::from_ref(&silent), order(sequence, join));
        if sequence % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    links.send(&participant("c"), &[endpoint], order(1, Order::Forget));
    assert_eq!(next(&mut heard).await.0, participant("c"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let arrived = host.kept.lock().expect("whole").len();
    assert!(arrived > 0 && arrived <= 8 * 1000, "{arrived} orders in 8 calls");
}

#[test]
fn what_is_lost_is_counted_by_what_it_was_lost_to() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let lost = async {
        let (links, _heard) = links();
        let nobody = "http://127.0.0.1:1".to_owned();
        // One call has them all: nothing else runs meanwhile.
        for sequence in 0..3 {
            let order = order(sequence, Order::Forget);
            links.send(&participant("b"), std::slice::from_ref(&nobody), order);
        }
        links.send(&participant("b"), &[], order(3, Order::Forget));
        let failed = "why=\"call_failed\"} 3";
        let counted = async {
            while !page.render().contains(failed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let counted = tokio::time::timeout(PATIENCE, counted).await;
        counted.unwrap_or_else(|_| panic!("{failed}: {}", page.render()));
        // Their calls do not even begin.
        for site in 0..1025 {
            let to = participant(&format!("site-{site}"));
            links.send(&to, std::slice::from_ref(&nobody), order(site, Order::Forget));
        }
    };
    metrics::with_local_recorder(&recorder, || runtime.block_on(lost));
    let page = page.render();
    for line in ["no_endpoint\"} 1", "too_many_links\"} 1"] {
        let line = format!("handfast_site_orders_lost_total{{why=\"{line}");
        assert!(page.contains(&line), "{line}: {page}");
    }
}
