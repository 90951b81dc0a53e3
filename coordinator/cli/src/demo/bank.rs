//! The bank that the demo runs: where accounts live, what a transfer is, and what must be true after it.
//!
//! The law: money is moved, never made. Besides the amounts, every transfer adds 1 to a counter of its
//! client at each store that it writes to; so the counters of a client tell, store by store, how many
//! of its transfers took place there. A transfer that took place at one store only, or twice, shows.

use std::collections::BTreeMap;

use handfast_client::Protocol;
use handfast_client::key_value::Work;

use crate::demo::random::Random;
use crate::options::DemoProtocol;

/// The participants.
pub const STORES: [&str; 3] = ["store-a", "store-b", "store-c"];
/// What every account holds at first.
pub const OPENING_BALANCE: i64 = 1000;
/// The largest transfer. Large enough for some accounts to run dry: those transfers must abort.
const AMOUNT_MAX: u64 = 300;

/// The number of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(pub u32);

impl Account {
    /// The store that holds it, as an index into [`STORES`].
    pub fn store(self) -> usize {
        self.0 as usize % STORES.len()
    }

    /// Its key there.
    pub fn key(self) -> String {
        format!("account/{:06}", self.0)
    }
}

/// The key that counts a client's transfers, at each store.
pub fn counter_key(client: usize) -> String {
    format!("transfers/client-{client:04}")
}

/// How a transfer is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// In one call that carries the work.
    Execute,
    /// Begun, worked in, committed.
    Interactive,
}

/// Money that is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    pub from: Account,
    pub to: Account,
    pub amount: i64,
    /// An account at a third store that is only looked at.
    pub glance: Option<Account>,
    pub manner: Manner,
    pub protocol: Protocol,
}

impl Transfer {
    /// A random transfer between two of so many accounts: mostly between two stores, sometimes within
    /// one, sometimes with a third store that is only read; one in ten interactive.
    pub fn draw(random: &mut Random, accounts: u32, protocol: DemoProtocol) -> Self {
        let from = Account(random.below(accounts.into()) as u32);
        let store = match random.percent(15) {
            true => from.store(),
            false => (from.store() + 1 + random.below(2) as usize) % STORES.len(),
        };
        let to = draw_at(random, accounts, store, &[from])
            .unwrap_or_else(|| Account((from.0 + 1) % accounts));
        let third = (0..STORES.len()).find(|store| ![from.store(), to.store()].contains(store));
        let glance = match random.percent(15) && from.store() != to.store() {
            true => third.and_then(|store| draw_at(random, accounts, store, &[])),
            false => None,
        };
        let amount = 1 + random.below(AMOUNT_MAX) as i64;
        let manner = match random.percent(10) {
            true => Manner::Interactive,
            false => Manner::Execute,
        };
        let protocol = match protocol {
            DemoProtocol::TwoPhase => Protocol::TwoPhase,
            DemoProtocol::ThreePhase => Protocol::ThreePhase,
            DemoProtocol::Mixed if random.percent(50) => Protocol::ThreePhase,
            DemoProtocol::Mixed => Protocol::TwoPhase,
        };
        Self { from, to, amount, glance, manner, protocol }
    }

    /// The stores that it writes to.
    pub fn writes(&self) -> impl Iterator<Item = usize> {
        let other = Some(self.to.store()).filter(|store| *store != self.from.store());
        std::iter::once(self.from.store()).chain(other)
    }

    /// The work of each store, for this client.
    pub fn branches(&self, client: usize) -> Vec<(usize, Work)> {
        let counter = counter_key(client);
        let take = Work::new().add_with_floor(self.from.key(), -self.amount, 0);
        let give = Work::new().add(self.to.key(), self.amount);
        let mut branches = match self.from.store() == self.to.store() {
            true => vec![(self.from.store(), take.then(give).add(counter, 1))],
            false => vec![
                (self.from.store(), take.add(counter.clone(), 1)),
                (self.to.store(), give.add(counter, 1)),
            ],
        };
        if let Some(account) = self.glance {
            branches.push((account.store(), Work::new().get(account.key())));
        }
        branches
    }
}

/// A random account of one store; none when the store has no other than those to avoid.
fn draw_at(random: &mut Random, accounts: u32, store: usize, avoid: &[Account]) -> Option<Account> {
    let stores = STORES.len() as u32;
    let here = (accounts + stores - 1).saturating_sub(store as u32) / stores;
    let choices: u64 = here.into();
    // A few draws find another one, unless there is hardly any: then look at each.
    for _ in 0..4 {
        let account = Account(random.below(choices) as u32 * stores + store as u32);
        if account.0 < accounts && !avoid.contains(&account) {
            return Some(account);
        }
    }
    (0..here)
        .map(|index| Account(index * stores + store as u32))
        .find(|account| !avoid.contains(account))
}

/// What must be true once some transfers have committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    changes: BTreeMap<Account, i64>,
    counters: BTreeMap<(usize, usize), i64>,
}

impl Ledger {
    /// A client's transfer has committed.
    pub fn record(&mut self, client: usize, transfer: &Transfer) {
        *self.changes.entry(transfer.from).or_default() -= transfer.amount;
        *self.changes.entry(transfer.to).or_default() += transfer.amount;
        for store in transfer.writes() {
            *self.counters.entry((client, store)).or_default() += 1;
        }
    }

    /// Adds what another ledger has recorded.
    pub fn merge(&mut self, other: &Ledger) {
        for (account, change) in &other.changes {
            *self.changes.entry(*account).or_default() += change;
        }
        for (counter, count) in &other.counters {
            *self.counters.entry(*counter).or_default() += count;
        }
    }

    /// What the account must hold.
    pub fn balance(&self, account: Account) -> i64 {
        OPENING_BALANCE + self.changes.get(&account).copied().unwrap_or_default()
    }

    /// What the client's counter at the store must say.
    pub fn counter(&self, client: usize, store: usize) -> i64 {
        self.counters.get(&(client, store)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn transfers(accounts: u32) -> Vec<Transfer> {
        let mut random = Random::new(3, 0);
        (0..2000).map(|_| Transfer::draw(&mut random, accounts, DemoProtocol::Mixed)).collect()
    }

    #[test]
    fn a_transfer_moves_money_between_two_accounts_of_the_bank() {
        for accounts in [2, 3, 4, 5, 300] {
            for transfer in transfers(accounts) {
                assert_ne!(transfer.from, transfer.to);
                assert!(transfer.from.0 < accounts && transfer.to.0 < accounts);
                assert!(transfer.glance.is_none_or(|account| account.0 < accounts));
                assert!((1..=300).contains(&transfer.amount));
                let stores: Vec<_> = transfer.branches(0).iter().map(|(store, _)| *store).collect();
                let distinct: BTreeSet<_> = stores.iter().collect();
                assert_eq!(stores.len(), distinct.len(), "each participant once: {transfer:?}");
            }
        }
    }

    #[test]
    fn every_kind_of_transfer_is_drawn() {
        let drawn = transfers(300);
        let share = |which: &dyn Fn(&Transfer) -> bool| {
            drawn.iter().filter(|transfer| which(transfer)).count() * 100 / drawn.len()
        };
        assert!((10..20).contains(&share(&|t| t.from.store() == t.to.store())));
        assert!((8..18).contains(&share(&|t| t.glance.is_some())));
        assert!((6..14).contains(&share(&|t| t.manner == Manner::Interactive)));
        assert!((40..60).contains(&share(&|t| t.protocol == Protocol::ThreePhase)));
    }

    #[test]
    fn a_ledger_neither_makes_nor_loses_money() {
        let mut ledger = Ledger::default();
        let mut half = Ledger::default();
        for (index, transfer) in transfers(300).iter().enumerate() {
            let into = if index % 2 == 0 { &mut ledger } else { &mut half };
            into.record(index % 5, transfer);
        }
        ledger.merge(&half);
        let total: i64 = (0..300).map(|account| ledger.balance(Account(account))).sum();
        assert_eq!(total, 300 * OPENING_BALANCE);
        let counted: i64 = (0..5)
            .flat_map(|c| (0..3).map(move |s| (c, s)))
            .map(|(c, s)| ledger.counter(c, s))
            .sum();
        let written: usize = transfers(300).iter().map(|transfer| transfer.writes().count()).sum();
        assert_eq!(counted, written as i64);
    }

    #[test]
    fn the_two_halves_go_to_the_stores_of_their_accounts() {
        let transfer = Transfer {
            from: Account(0),
            to: Account(4),
            amount: 7,
            glance: Some(Account(2)),
            manner: Manner::Execute,
            protocol: Protocol::TwoPhase,
        };
        let expected = vec![
            (
                0,
                Work::new().add_with_floor("account/000000", -7, 0).add("transfers/client-0009", 1),
            ),
            (1, Work::new().add("account/000004", 7).add("transfers/client-0009", 1)),
            (2, Work::new().get("account/000002")),
        ];
        assert_eq!(transfer.branches(9), expected);
    }
}
