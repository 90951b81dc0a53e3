//! Inputs without end, from a seed: the corpus first, then random ones and changed ones.

use std::io;

use crate::mutate::mutated;
use crate::random::Random;
use crate::{Target, inputs};

/// Inputs that are kept to be changed again.
const POOL_MAX: usize = 512;

/// Feeds one target.
#[derive(Debug)]
pub struct Feeder {
    target: Target,
    random: Random,
    corpus: std::vec::IntoIter<Vec<u8>>,
    pool: Vec<Vec<u8>>,
}

impl Feeder {
    /// The same seed gives the same inputs, as long as the corpus is the same.
    ///
    /// # Errors
    /// When the corpus cannot be read.
    pub fn new(target: &Target, seed: u64) -> io::Result<Self> {
        let corpus: Vec<Vec<u8>> = inputs(target)?.into_iter().map(|(_, input)| input).collect();
        let pool = corpus.clone();
        Ok(Self { target: *target, random: Random::new(seed), corpus: corpus.into_iter(), pool })
    }
}

impl Iterator for Feeder {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(input) = self.corpus.next() {
            return Some(input);
        }
        let random = &mut self.random;
        if self.pool.is_empty() || random.one_in(4) {
            let input = (self.target.generate)(random);
            if self.pool.len() < POOL_MAX {
                self.pool.push(input.clone());
            } else {
                let at = random.below(POOL_MAX);
                self.pool[at].clone_from(&input);
            }
            return Some(input);
        }
        let base = random.below(self.pool.len());
        let other = random.below(self.pool.len());
        let input = mutated(random, &self.pool[base], &self.pool[other]);
        // A few are changed again and again, so that changes add up.
        if random.one_in(32) {
            self.pool[other].clone_from(&input);
        }
        Some(input)
    }
}
