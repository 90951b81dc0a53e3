//! A small seeded generator, so that a schedule can be drawn again.

use std::time::SystemTime;

/// Draws the same numbers for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// From `HANDFAST_SEED`, or from the clock when it is not set. The seed is printed, with the command
    /// that draws the same schedule; the test's output is shown when it fails.
    ///
    /// # Panics
    /// When `HANDFAST_SEED` is no number.
    #[must_use]
    pub fn from_environment(test: &str) -> Self {
        let seed = match std::env::var("HANDFAST_SEED") {
            Ok(text) => match text.parse() {
                Ok(seed) => seed,
                Err(error) => panic!("HANDFAST_SEED={text} is no number: {error}"),
            },
            Err(_) => SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs()),
        };
        println!("seed {seed}; again: HANDFAST_SEED={seed} cargo test -p handfast-chaos {test}");
        Self::new(seed)
    }

    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// One for another part of the test, that draws other numbers.
    #[must_use]
    pub fn fork(&self, part: u64) -> Self {
        let mut fork = Self::new(self.seed ^ part.wrapping_mul(0xd134_2543_de82_ef95));
        fork.next();
        fork
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound`, not included.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        assert!(!choices.is_empty(), "nothing to draw from");
        &choices[self.below(choices.len() as u64) as usize]
    }
}
