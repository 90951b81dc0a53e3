//! The engine, once it has read its log.

use std::sync::{Arc, OnceLock};

use crate::engine::Engine;

/// Empty while the log is being read; the services answer all the same, that they cannot say yet.
#[derive(Debug, Clone, Default)]
pub struct Ready {
    engine: Arc<OnceLock<Arc<Engine>>>,
}

impl Ready {
    /// The engine, if it is there.
    #[must_use]
    pub fn get(&self) -> Option<&Arc<Engine>> {
        self.engine.get()
    }

    /// Makes the engine known; once.
    pub fn set(&self, engine: Arc<Engine>) {
        let _ = self.engine.set(engine);
    }
}
