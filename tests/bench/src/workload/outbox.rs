//! What a driver wants done, kept until it is done.

use std::sync::{Arc, Mutex, PoisonError};

use handfast_runtime::driver::Effects;

/// The actions of one driver and its log, in order.
#[derive(Debug)]
pub struct Outbox<A>(Arc<Mutex<Vec<A>>>);

impl<A> Default for Outbox<A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<A> Clone for Outbox<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A> Outbox<A> {
    /// Everything since the last time.
    pub fn take(&self) -> Vec<A> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<A: Send + 'static> Effects<A> for Outbox<A> {
    fn perform(&self, action: A) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(action);
    }
}
