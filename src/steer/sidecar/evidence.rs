//! What a vector was fitted on and how, and what its heads' accuracies are worth.

use super::About;
use crate::Result;
use crate::data::SEEN_BITS;
use crate::error::shown;
use crate::gguf::{Builder, Gguf};
use crate::probe::Chance;

const SEEN: &str = "candor.data.seen";
const SHARES: [&str; 4] =
    ["candor.chance.best", "candor.chance.majority", "candor.chance.shuffled", "candor.chance.p"];
const COUNTS: [&str; 3] =
    ["candor.chance.n_head", "candor.chance.n_row", "candor.chance.n_question"];
const CONTENT: &str = "candor.model.content";
const BAKED: &str = "candor.model.baked";
const PREAMBLE: &str = "candor.preamble.sha256";
const BUDGET: &str = "candor.tuned.kl_budget";
const N_PART: &str = "candor.part.count";
/// Most parts of a sum that are told apart.
const MAX_PART: u64 = 256;

/// What a vector was fitted on, question by question, how, and what its heads' accuracies are worth; each
/// is `None` where it is not known, or there was no such thing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// Hashes of the questions that it was fitted on
    /// ([`Question::hash`](crate::data::Question::hash)), ascending, each once.
    pub seen: Option<Vec<u64>>,
    /// The best head beside the majority and beside the best with shuffled labels.
    pub chance: Option<Chance>,
    /// Hash of the bytes of the model's file that it was fitted on
    /// ([`Model::content`](crate::Model::content)).
    pub content: Option<String>,
    /// What was baked into that file, in words.
    pub baked: Option<String>,
    /// SHA-256 of the text before every question where answers were scored while it was fitted.
    pub preamble: Option<String>,
    /// Where K and α were chosen by trying: the largest KL per token of neutral text, in nats, which may
    /// be infinite.
    pub kl_budget: Option<f64>,
    /// Of a sum whose parts were not all fitted on texts of one form and on record: each part.
    pub parts: Vec<FitRecord>,
}

/// What is on record of the texts that a vector was fitted on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FitRecord {
    /// The vector's name.
    pub name: String,
    /// The form of its prompts; empty where nobody knows.
    pub prompt: String,
    /// As [`Evidence::seen`].
    pub seen: Option<Vec<u64>>,
}

impl About {
    /// What is on record of the texts that it was fitted on: of a sum that keeps its parts apart, one for
    /// each.
    #[must_use]
    pub fn fit_records(&self) -> Vec<FitRecord> {
        match self.evidence.parts.as_slice() {
            [] => vec![FitRecord {
                name: self.name.clone(),
                prompt: self.prompt.clone(),
                seen: self.evidence.seen.clone(),
            }],
            parts => parts.to_vec(),
        }
    }
}

impl Evidence {
    /// What the file says.
    pub(super) fn read(file: &Gguf) -> Result<Self> {
        let share = |i: usize| file.float(SHARES[i]);
        // No count is lost where a pointer has 64 bits, and no file holds as many rows elsewhere.
        let count =
            |i: usize| file.uint(COUNTS[i]).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let text = |key: &str| Ok::<_, crate::Error>(file.opt_str(key)?.map(str::to_owned));
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
            content: text(CONTENT)?,
            baked: text(BAKED)?,
            preamble: text(PREAMBLE)?,
            kl_budget: file.get(BUDGET).map(|_| file.float(BUDGET)).transpose()?,
            parts: match file.opt_uint(N_PART)?.unwrap_or(0) {
                n @ 0..=MAX_PART => (0..n)
                    .map(|part| {
                        Ok(FitRecord {
                            name: file.str(&key_of_part(part, "name"))?.to_owned(),
                            prompt: file.str(&key_of_part(part, "prompt"))?.to_owned(),
                            seen: file.opt_uints(&key_of_part(part, "seen"))?,
                        })
                    })
                    .collect::<Result<_>>()?,
                n => {
                    let problem = format!("is {n}, expected at most {MAX_PART}");
                    return Err(file.fault(format!("key {N_PART}"), problem));
                }
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
        for (key, text) in
            [(CONTENT, &self.content), (BAKED, &self.baked), (PREAMBLE, &self.preamble)]
        {
            if let Some(text) = text {
                file.set(key, text.as_str());
            }
        }
        if let Some(budget) = self.kl_budget {
            file.set(BUDGET, budget);
        }
        if !self.parts.is_empty() {
            file.set(N_PART, self.parts.len() as u64);
        }
        for (number, part) in (0..).zip(&self.parts) {
            file.set(&key_of_part(number, "name"), part.name.as_str())
                .set(&key_of_part(number, "prompt"), part.prompt.as_str());
            if let Some(seen) = &part.seen {
                file.set(&key_of_part(number, "seen"), seen.clone());
            }
        }
    }

    /// Gives the key and the problem.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let own = self.seen.iter().map(|seen| (SEEN.to_owned(), seen));
        let of_parts = (0..).zip(&self.parts).filter_map(|(number, part)| {
            part.seen.as_ref().map(|seen| (key_of_part(number, "seen"), seen))
        });
        for (key, seen) in own.chain(of_parts) {
            if let Some(hash) = seen.iter().find(|hash| *hash >> SEEN_BITS != 0) {
                return Err((key, format!("holds {hash}, expected {SEEN_BITS} bits")));
            }
            if !seen.is_sorted_by(|a, b| a < b) {
                return Err((key, "is not in ascending order, each once".to_owned()));
            }
        }
        for (key, share) in
            self.chance.iter().flat_map(|chance| SHARES.into_iter().zip(shares(chance)))
        {
            if !(0.0..=1.0).contains(&share) {
                return Err((key.to_owned(), format!("is {share}, expected 0 to 1")));
            }
        }
        for (key, hash) in [(CONTENT, &self.content), (PREAMBLE, &self.preamble)] {
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if let Some(hash) = hash.as_ref().filter(|h| h.len() != 64 || !h.bytes().all(is_digit))
            {
                let problem = format!("is `{}`, expected 64 hexadecimal digits", shown(hash));
                return Err((key.to_owned(), problem));
            }
        }
        if let Some(budget) = self.kl_budget.filter(|budget| budget.is_nan() || *budget <= 0.0) {
            return Err((BUDGET.to_owned(), format!("is {budget}, expected a number above 0")));
        }
        if self.parts.len() as u64 > MAX_PART {
            let problem = format!("is {}, expected at most {MAX_PART}", self.parts.len());
            return Err((N_PART.to_owned(), problem));
        }
        Ok(())
    }
}

fn key_of_part(number: u64, what: &str) -> String {
    format!("candor.part.{number}.{what}")
}

fn shares(chance: &Chance) -> [f64; 4] {
    [chance.best, chance.majority, chance.shuffled, chance.p]
}
