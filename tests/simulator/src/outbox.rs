//! What a process wants done, kept until the world does it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use handfast_runtime::driver::Effects;

/// The actions of one process's driver and log, in order.
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
    #[must_use]
    pub fn take(&self) -> Vec<A> {
        std::mem::take(&mut *self.lock())
    }

    /// Throws away what has not been done: the process has died.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: Send + 'static> Effects<A> for Outbox<A> {
    fn perform(&self, action: A) {
        self.lock().push(action);
    }
}
