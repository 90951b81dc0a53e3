//! `SiteService`: where a process answers as a voting site of three-phase commit, whatever its role.
//!
//! Each order is answered by one report, when its record is durable and not before: the report is one of the
//! core's actions. Reports do not wait for each other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use handfast_commit_core::message::{FromSite, ToSite};
use handfast_commit_core::three_phase::SiteName;
use handfast_wire::convert::InvalidField;
use handfast_wire::site::{self, Lead};
use handfast_wire::v1;
use handfast_wire::v1::site_service_server::SiteService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// Most reports of one message.
const REPORTS_MAX: usize = 512;

/// An order, and through what it is answered.
pub type Led = (ToSite, ReportTo);

/// A process that is a voting site.
pub trait SiteHost: Send + Sync + 'static {
    /// Whether the site that is meant is served here, and serves now. A site that answered for another one
    /// would be counted twice.
    ///
    /// # Errors
    /// What the caller is told, who then looks for the site elsewhere; nothing is done.
    fn admit(&self, lead: &Lead) -> Result<(), Status>;

    /// What a caller is told of a field that cannot be accepted.
    fn invalid(&self, error: &InvalidField) -> Status;

    /// Obeys the orders of one call, and reports.
    fn led(&self, from: SiteName, orders: Vec<Led>);
}

/// Through what an order is answered, once. One that is dropped unanswered has been lost.
#[derive(Debug)]
pub struct ReportTo(mpsc::UnboundedSender<FromSite>);

impl ReportTo {
    /// One that is not a call's, and where its report arrives.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<FromSite>) {
        let (tell, reports) = mpsc::unbounded_channel();
        (Self(tell), reports)
    }

    /// Reports. Whoever has gone away asks again.
    pub fn send(self, report: FromSite) {
        let _ = self.0.send(report);
    }
}

/// Serves [`SiteService`] for a host.
#[derive(Debug)]
pub struct SiteApi<H>(Arc<H>);

impl<H: SiteHost> SiteApi<H> {
    /// For this host.
    #[must_use]
    pub fn new(host: Arc<H>) -> Self {
        Self(host)
    }
}

#[tonic::async_trait]
impl<H: SiteHost> SiteService for SiteApi<H> {
    type LeadStream = Reports;

    async fn lead(&self, request: Request<v1::LeadRequest>) -> Result<Response<Reports>, Status> {
        let lead = site::lead(request.get_ref()).map_err(|error| self.0.invalid(&error))?;
        self.0.admit(&lead)?;
        let Lead { from, orders, .. } = lead;
        // As many as there are orders, and no more: each sends at most one.
        let (tell, reports) = mpsc::unbounded_channel();
        let orders = orders.into_iter().map(|order| (order, ReportTo(tell.clone())));
        self.0.led(from, orders.collect());
        Ok(Response::new(Reports(reports)))
    }
}

/// The reports of one call, as they come. Ends when every order is answered or lost.
#[derive(Debug)]
pub struct Reports(mpsc::UnboundedReceiver<FromSite>);

impl Stream for Reports {
    type Item = Result<v1::LeadResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut ready = Vec::new();
        match self.0.poll_recv_many(context, &mut ready, REPORTS_MAX) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(0) => Poll::Ready(None),
            Poll::Ready(_) => {
                let reports = ready.iter().map(site::report_message).collect();
                Poll::Ready(Some(Ok(v1::LeadResponse { reports })))
            }
        }
    }
}
