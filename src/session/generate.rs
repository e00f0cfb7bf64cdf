//! Writing an answer, token by token.

use super::{Batch, Sampler, Session};
use crate::{Error, Result};

/// Which tokens of a generation are steered (ITI's positions policies).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Steering {
    /// None.
    #[default]
    Off,
    /// The last prompt token and every generated token, by this bank row (ITI's own policy).
    Generated(usize),
    /// Every token of prompt and answer, by this bank row.
    All(usize),
}

impl Steering {
    fn row(self) -> usize {
        match self {
            Self::Off => 0,
            Self::Generated(row) | Self::All(row) => row,
        }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model wrote an end-of-generation token.
    Model,
    /// The context is full.
    Context,
}

/// An answer being written in sequence 0 of a session. Ask for tokens with [`Generation::next`];
/// after each, [`Session::observed`] holds the head outputs of that token.
pub struct Generation<'s> {
    session: &'s mut Session,
    steering: Steering,
    /// Index of the token whose logits come next, in the last batch.
    i_output: usize,
    position: usize,
    /// Prompt tokens that were not computed again.
    n_reused: usize,
    /// Whether the next token is steered, where the policy would.
    is_open: bool,
    /// Whether all tokens were steered as the policy says: only then others may go on from them.
    is_whole: bool,
    end: Option<End>,
}

impl Session {
    /// Decodes a prompt into sequence 0 and stands ready to continue it.
    ///
    /// Where the prompt begins with what sequence 0 already holds from the generation before, under
    /// the same steering, only the rest is computed; otherwise the session is cleared, of all its
    /// sequences. Under [`Steering::Generated`] that counts for the tokens before the last prompt
    /// token only: what was steered from there on is not steered as part of a prompt.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] for a prompt that leaves no room in the context, and what
    /// [`Session::decode`] gives.
    pub fn generate<'s>(
        &'s mut self,
        prompt: &[i32],
        steering: Steering,
    ) -> Result<Generation<'s>> {
        if prompt.is_empty() {
            return Err(Error::invalid("prompt", "it is empty"));
        }
        if prompt.len() >= self.n_ctx() {
            return Err(Error::PromptTooLong {
                what: "the prompt".to_owned(),
                n_token: prompt.len(),
                n_ctx: self.n_ctx(),
            });
        }
        let n_reused = self.reusable(prompt, steering);
        let mut start = n_reused;
        let mut i_output = 0;
        while start < prompt.len() {
            let end = self.whole_pictures(prompt, start..prompt.len().min(start + self.n_batch()));
            let mut batch = Batch::new();
            for (position, &token) in prompt.iter().enumerate().take(end).skip(start) {
                batch.push(token, position, &[0]);
            }
            if let Steering::All(row) = steering {
                batch.steer_all(row);
            }
            if end == prompt.len() {
                i_output = batch.len() - 1;
                batch.output(i_output);
                batch.steer(i_output, steering.row());
            }
            self.decode(&mut batch)?;
            start = end;
        }
        let n_reusable = match steering {
            Steering::Off | Steering::All(_) => prompt.len(),
            Steering::Generated(_) => prompt.len() - 1,
        };
        self.held = prompt[..n_reusable].to_vec();
        self.held_under = steering;
        let position = prompt.len();
        Ok(Generation {
            session: self,
            steering,
            i_output,
            position,
            n_reused,
            is_open: true,
            is_whole: true,
            end: None,
        })
    }

    /// Cuts sequence 0 back to what it shares with `prompt` and gives the length of that. The last
    /// prompt token is always computed anew: its logits are needed, and it is steered.
    fn reusable(&mut self, prompt: &[i32], steering: Steering) -> usize {
        let held = std::mem::take(&mut self.held);
        let shared =
            held.iter().zip(&prompt[..prompt.len() - 1]).take_while(|(a, b)| a == b).count();
        let shared = self.whole_pictures(prompt, 0..shared);
        if shared > 0 && self.held_under == steering && self.truncate(0, shared) {
            return shared;
        }
        self.clear();
        0
    }
}

impl Generation<'_> {
    /// Chooses the next token and computes it. `None` when the answer is over: see
    /// [`Generation::end`].
    ///
    /// # Errors
    /// What [`Session::decode`] gives.
    #[allow(clippy::should_implement_trait, reason = "it takes the sampler and may fail")]
    pub fn next(&mut self, sampler: &mut Sampler) -> Result<Option<i32>> {
        if self.end.is_some() {
            return Ok(None);
        }
        let logits = self.session.logits(self.i_output)?;
        let token = sampler.sample(logits)?;
        if self.session.model().is_end(token) {
            self.end = Some(End::Model);
            return Ok(None);
        }
        if self.position >= self.session.n_ctx() {
            self.end = Some(End::Context);
            return Ok(None);
        }
        let mut batch = Batch::new();
        let i = batch.push(token, self.position, &[0]);
        batch.output(i);
        batch.steer(i, if self.is_open { self.steering.row() } else { 0 });
        if !self.session.observed_layers().is_empty() {
            batch.observe(i);
        }
        let held = std::mem::take(&mut self.session.held);
        self.session.decode(&mut batch)?;
        self.session.held = held;
        if self.is_whole && !matches!(self.steering, Steering::Generated(_)) {
            self.session.held.push(token);
        }
        self.i_output = i;
        self.position += 1;
        Ok(Some(token))
    }

    /// Steers the tokens from the next one on, or does not: what a gate decides. At first all are steered
    /// that the policy says.
    pub fn open(&mut self, is_open: bool) {
        self.is_open = is_open;
        self.is_whole &= is_open;
    }

    /// Why the answer is over, once it is.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Tokens of the prompt that the session held already, and that were not computed again.
    #[must_use]
    pub fn n_reused(&self) -> usize {
        self.n_reused
    }

    /// The session, to read what was observed at the token just computed.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.session
    }
}
