//! What a vector was fitted on, and what its heads' accuracies are worth.

use crate::Result;
use crate::data::SEEN_BITS;
use crate::gguf::{Builder, Gguf};
use crate::probe::Chance;

const SEEN: &str = "candor.data.seen";
const SHARES: [&str; 4] =
    ["candor.chance.best", "candor.chance.majority", "candor.chance.shuffled", "candor.chance.p"];
const COUNTS: [&str; 3] =
    ["candor.chance.n_head", "candor.chance.n_row", "candor.chance.n_question"];

/// What a vector was fitted on, question by question, and what its heads' accuracies are worth; each
/// is `None` where it is not known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// Hashes of the questions that it was fitted on
    /// ([`Question::hash`](crate::data::Question::hash)), ascending, each once.
    pub seen: Option<Vec<u64>>,
    /// The best head beside the majority and beside the best with shuffled labels.
    pub chance: Option<Chance>,
}

impl Evidence {
    /// What the file says.
    pub(super) fn read(file: &Gguf) -> Result<Self> {
        let share = |i: usize| file.float(SHARES[i]);
        // No count is lost where a pointer has 64 bits, and no file holds as many rows elsewhere.
        let count =
            |i: usize| file.uint(COUNTS[i]).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Ok(Self {
            seen: file.opt_uints(SEEN)?,
            chance: match file.get(SHARES[0]) {
                None => None,
                Some(_) => Some(Chance {
                    best: share(0)?,
                    majority: share(1)?,
                    shuffled: share(2)?,
                    p: share(3)?,
                    n_head: count(0)?,
                    n_row: count(1)?,
                    n_question: count(2)?,
                }),
            },
        })
    }

    pub(super) fn add_to(&self, file: &mut Builder<'static>) {
        if let Some(seen) = &self.seen {
            file.set(SEEN, seen.clone());
        }
        if let Some(chance) = &self.chance {
            for (key, share) in SHARES.into_iter().zip(shares(chance)) {
                file.set(key, share);
            }
            let counts = [chance.n_head, chance.n_row, chance.n_question];
            for (key, count) in COUNTS.into_iter().zip(counts) {
                file.set(key, count as u64);
            }
        }
    }

    /// Gives the key and the problem.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(seen) = &self.seen {
            if let Some(hash) = seen.iter().find(|hash| *hash >> SEEN_BITS != 0) {
                return Err((SEEN, format!("holds {hash}, expected {SEEN_BITS} bits")));
            }
            if !seen.is_sorted_by(|a, b| a < b) {
                return Err((SEEN, "is not in ascending order, each once".to_owned()));
            }
        }
        for (key, share) in
            self.chance.iter().flat_map(|chance| SHARES.into_iter().zip(shares(chance)))
        {
            if !(0.0..=1.0).contains(&share) {
                return Err((key, format!("is {share}, expected 0 to 1")));
            }
        }
        Ok(())
    }
}

fn shares(chance: &Chance) -> [f64; 4] {
    [chance.best, chance.majority, chance.shuffled, chance.p]
}
