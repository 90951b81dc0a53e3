//! The registered participants: stable names, and where each is served at present.
//!
//! Durable, so that a coordinator that comes back knows whom it owes commits, and where to look for
//! them; changed by the participants themselves, which register at every start.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{PoisonError, RwLock};

use handfast_commit_core::id::{Incarnation, ParticipantName};
use handfast_journal::{Mutation, Reader, Table};
use handfast_wire::storage;
use prost::Message;

use crate::store::StoreError;

/// One participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Where it is served.
    pub endpoint: String,
    /// Of its log.
    pub incarnation: Incarnation,
    /// Wall clock, milliseconds since 1970.
    pub registered_ms: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct ParticipantRegistry {
    participants: RwLock<BTreeMap<ParticipantName, Registration>>,
}

impl ParticipantRegistry {
    /// Reads them from the journal.
    ///
    /// # Errors
    /// When the journal cannot be read or an entry is damaged.
    pub fn restore(reader: &dyn Reader) -> Result<Self, StoreError> {
        let mut participants = BTreeMap::new();
        let mut damaged = None;
        reader.scan(Table::Registry, &[], &mut |key, value| {
            let entry = String::from_utf8_lossy(key)
                .parse::<ParticipantName>()
                .map_err(|error| error.to_string());
            let value = storage::Registration::decode(value).map_err(|error| error.to_string());
            match (entry, value) {
                (Ok(name), Ok(value)) => {
                    participants.insert(
                        name,
                        Registration {
                            endpoint: value.endpoint,
                            incarnation: Incarnation(value.incarnation),
                            registered_ms: value.registered_at_ms,
                        },
                    );
                    ControlFlow::Continue(())
                }
                (Err(problem), _) | (_, Err(problem)) => {
                    let key = String::from_utf8_lossy(key).into_owned();
                    damaged = Some(handfast_wire::record::DamagedRecord { key, problem });
                    ControlFlow::Break(())
                }
            }
        })?;
        match damaged {
            Some(damaged) => Err(damaged.into()),
            None => Ok(Self { participants: RwLock::new(participants) }),
        }
    }

    /// What registers a participant in the journal.
    #[must_use]
    pub fn mutation(name: &ParticipantName, registration: &Registration) -> Mutation {
        let value = storage::Registration {
            endpoint: registration.endpoint.clone(),
            incarnation: registration.incarnation.0,
            registered_at_ms: registration.registered_ms,
        };
        Mutation::put(Table::Registry, name.as_str(), value.encode_to_vec())
    }

    /// Makes a durable registration known. Returns the one before.
    pub fn insert(
        &self,
        name: ParticipantName,
        registration: Registration,
    ) -> Option<Registration> {
        let mut participants = self.participants.write().unwrap_or_else(PoisonError::into_inner);
        participants.insert(name, registration)
    }

    /// One participant.
    #[must_use]
    pub fn get(&self, name: &ParticipantName) -> Option<Registration> {
        self.read().get(name).cloned()
    }

    /// True when the participant is registered.
    #[must_use]
    pub fn contains(&self, name: &ParticipantName) -> bool {
        self.read().contains_key(name)
    }

    /// Participants after `after`, by name.
    #[must_use]
    pub fn list(
        &self,
        after: Option<&ParticipantName>,
        most: usize,
    ) -> Vec<(ParticipantName, Registration)> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read()
            .range::<ParticipantName, _>((from, Bound::Unbounded))
            .take(most)
            .map(|(name, registration)| (name.clone(), registration.clone()))
            .collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ParticipantName, Registration>> {
        self.participants.read().unwrap_or_else(PoisonError::into_inner)
    }
}
