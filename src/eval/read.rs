//! Texts read by the model, what they share computed once.
//!
//! The planner shares what the texts of one batch have in common. What *all* texts begin with (a
//! preamble of examples, or one question that many vectors answer) is shared over batches, too: it
//! is computed once into a sequence of its own, and every text's sequence starts as its copy, which
//! in a unified cache costs nothing.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

use super::{Evaluator, HOLDER, log_sum_exp};
use crate::capture::plan::{Text, plan};
use crate::data::sha256;
use crate::session::{Batch, Session};
use crate::{Error, Result};

/// Tokens that were read, and what that took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct TokenCount {
    /// Lengths of all texts, summed: what reading each from its start would compute.
    pub read: u64,
    /// Tokens computed.
    pub computed: u64,
}

impl Add for TokenCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { read: self.read + other.read, computed: self.computed + other.computed }
    }
}

impl Sub for TokenCount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { read: self.read - other.read, computed: self.computed - other.computed }
    }
}

/// Tokens that some work took.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    /// Without what follows.
    pub(crate) count: TokenCount,
    /// What texts begin with, by a hash, as often as it was computed, and the tokens that took: a run that
    /// goes on where another one stopped computes it again.
    pub(crate) prefixes: Vec<(String, u64)>,
}

/// The account from which [`Spent`] is taken.
#[derive(Debug, Default)]
pub(super) struct Account {
    taken: TokenCount,
    prefixes: Vec<(String, u64)>,
}

/// A text that was just read.
pub(crate) struct Read<'a> {
    session: &'a Session,
    /// Batch index of each token after the first `n_held`.
    path: &'a [usize],
    n_held: usize,
}

impl Read<'_> {
    /// Logits after the token at `position`, F32 `[n_vocab]`.
    pub(crate) fn logits(&self, position: usize) -> Result<&[f32]> {
        let i = position.checked_sub(self.n_held).and_then(|i| self.path.get(i));
        let &i = i.ok_or_else(|| {
            Error::invalid(format!("position {position}"), "its logits were not asked for")
        })?;
        self.session.logits(i)
    }
}

impl Evaluator {
    /// Computes a prefix, unsteered, and keeps it until another one is held: texts that begin with
    /// it are read from there on. Where it begins with what was held, or the other way round, only
    /// what is new is computed.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] for a prefix that leaves no room for a text, and what decoding
    /// gives.
    pub fn hold(&mut self, prefix: &[i32]) -> Result<()> {
        if self.held == prefix {
            return Ok(());
        }
        if prefix.len() >= self.limits.longest {
            return Err(Error::PromptTooLong {
                what: "what all texts begin with".to_owned(),
                n_token: prefix.len(),
                n_ctx: self.limits.longest,
            });
        }
        // A beginning that both merely share is not kept: what is computed together would depend on
        // what was held before, and with it the last bits.
        let is_kept = prefix.starts_with(&self.held) || self.held.starts_with(prefix);
        let n_kept = if is_kept { self.held.len().min(prefix.len()) } else { 0 };
        self.held.truncate(n_kept);
        // Nor do other sequences stay: the order of the cells decides the last bits, too.
        let mut emptied = (0..HOLDER).map(|seq| (seq, 0)).chain([(HOLDER, n_kept)]);
        if n_kept == 0 || !emptied.all(|(seq, from)| self.session.truncate(seq, from)) {
            self.session.clear();
            self.held.clear();
        }
        let n_batch = self.session.n_batch().max(1);
        let n_new = prefix.len() - self.held.len();
        for tokens in prefix[self.held.len()..].chunks(n_batch) {
            let mut batch = Batch::new();
            for (position, &token) in (self.held.len()..).zip(tokens) {
                batch.push(token, position, &[HOLDER]);
            }
            // Nothing is held for certain until the decode has succeeded.
            self.session.decode(&mut batch)?;
            self.n_token.computed += tokens.len() as u64;
            self.held.extend(tokens);
        }
        if n_new > 0 {
            let bytes: Vec<u8> = prefix.iter().flat_map(|token| token.to_le_bytes()).collect();
            self.account.prefixes.push((sha256(&bytes), n_new as u64));
        }
        Ok(())
    }

    /// What was read and computed since this was asked last.
    pub(crate) fn take_tokens(&mut self) -> Spent {
        let prefixes = std::mem::take(&mut self.account.prefixes);
        let before = std::mem::replace(&mut self.account.taken, self.n_token);
        let mut count = self.n_token - before;
        count.computed -= prefixes.iter().map(|(_, n)| n).sum::<u64>();
        Spent { count, prefixes }
    }

    /// Tokens read and computed so far.
    #[must_use]
    pub fn n_token(&self) -> TokenCount {
        self.n_token
    }

    /// Σ log p of each text's tokens from its `n_prompt`-th on, given those before, in nats.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a text has no token before `n_prompt`, or none after; what
    /// [`Evaluator::read`] gives.
    pub(crate) fn log_probabilities(
        &mut self,
        texts: &[Text],
        n_prompts: &[usize],
        name: impl Fn(usize) -> String,
    ) -> Result<Vec<f64>> {
        for (i, (text, &n_prompt)) in texts.iter().zip(n_prompts).enumerate() {
            if n_prompt == 0 || n_prompt >= text.tokens.len() {
                return Err(Error::invalid(name(i), "there is nothing to score after the prompt"));
            }
        }
        // What the last token predicts is not asked for, so it is not computed.
        let cut = |text: &Text| {
            let n = text.tokens.len() - 1;
            Text { tokens: text.tokens[..n].to_vec(), ..*text }
        };
        let read: Vec<Text> = texts.iter().map(cut).collect();
        let mut sums = vec![0.0; texts.len()];
        self.read(
            &read,
            |i| n_prompts[i] - 1..texts[i].tokens.len() - 1,
            &name,
            |i, read| {
                for position in n_prompts[i]..texts[i].tokens.len() {
                    let logits = read.logits(position - 1)?;
                    let token = usize::try_from(texts[i].tokens[position]).unwrap_or(usize::MAX);
                    let logit = logits.get(token).copied().unwrap_or(f32::NEG_INFINITY);
                    sums[i] += f64::from(logit) - log_sum_exp(logits);
                }
                Ok(())
            },
        )?;
        Ok(sums)
    }

    /// Reads texts in batches and shows each to `each`, in their order. `outputs` says after which
    /// positions of a text the logits are wanted.
    ///
    /// What is held is not computed again where every text begins with it, unsteered so far.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] and [`Error::Invalid`] as [`plan`] gives them, what decoding and
    /// `each` give.
    pub(crate) fn read(
        &mut self,
        texts: &[Text],
        outputs: impl Fn(usize) -> std::ops::Range<usize>,
        name: impl Fn(usize) -> String,
        mut each: impl FnMut(usize, &Read) -> Result<()>,
    ) -> Result<()> {
        if let Some(i) = texts.iter().position(|text| text.tokens.len() > self.limits.longest) {
            return Err(Error::PromptTooLong {
                what: name(i),
                n_token: texts[i].tokens.len(),
                n_ctx: self.limits.longest,
            });
        }
        let n_held = self.held.len();
        let begins_with_held = |(i, text): (usize, &Text)| {
            let is_plain = text.row == 0 || text.steer_from >= n_held;
            is_plain && outputs(i).start >= n_held && text.tokens.starts_with(&self.held)
        };
        let n_held = if texts.iter().enumerate().all(begins_with_held) { n_held } else { 0 };
        let tails: Vec<Text> = texts.iter().map(|text| text.after(n_held)).collect();
        self.n_token.read += texts.iter().map(|text| text.tokens.len() as u64).sum::<u64>();
        for planned in plan(&tails, self.limits, &name)? {
            let (mut batch, paths) = planned.to_batch_at(&tails, n_held);
            for (path, i) in paths.iter().zip(planned.texts.clone()) {
                for position in outputs(i) {
                    batch.output(path[position - n_held]);
                }
            }
            self.empty_sequences(paths.len(), n_held)?;
            self.session.decode(&mut batch)?;
            self.n_token.computed += planned.n_token() as u64;
            for (path, i) in paths.iter().zip(planned.texts.clone()) {
                each(i, &Read { session: &self.session, path, n_held })?;
            }
        }
        Ok(())
    }

    /// Makes the first `n` sequences hold the held prefix, or nothing, and empties the others.
    pub(super) fn empty_sequences(&mut self, n: usize, n_held: usize) -> Result<()> {
        if self.held.is_empty() {
            self.session.clear();
            return Ok(());
        }
        for seq in 0..HOLDER {
            if seq < n && n_held > 0 {
                self.session.copy(HOLDER, seq)?;
            } else if !self.session.truncate(seq, 0) {
                let problem = "the model's memory cannot be cut".to_owned();
                return Err(Error::Decode { action: "empty a sequence", problem });
            }
        }
        Ok(())
    }
}
