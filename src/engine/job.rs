//! A request at work.

use super::request::{Event, Key, Likely, Reason, Request, Token, TokenProbability};
use super::{Held, Id};
use crate::probe::Reading;
use crate::session::{Sampler, TextStream};
use crate::steer::Positions;
use crate::{Model, Result};

/// A request with a place, or waiting for one.
pub(super) struct Job {
    pub(super) id: Id,
    pub(super) request: Request,
    pub(super) is_paused: bool,
    /// The bank row of its steering.
    pub(super) row: usize,
    /// Tokens in its sequence: of the prompt, then of the answer.
    pub(super) n_held: usize,
    /// The token that was chosen last and is not computed yet.
    pub(super) next: Option<i32>,
    /// The reading of the token that was computed last, for the gate.
    pub(super) last_reading: Option<Reading>,
    sampler: Sampler,
    stream: TextStream,
    n_written: usize,
    /// A token that waits for its reading.
    unread: Option<Token>,
    /// Why it ends once that reading is there.
    ends: Option<Reason>,
}

impl Job {
    pub(super) fn new(id: Id, request: Request) -> Result<Self> {
        let stops: Vec<&str> = request.stops.iter().map(String::as_str).collect();
        Ok(Self {
            id,
            sampler: Sampler::shaped(&request.sampling, &request.shaping)?,
            stream: TextStream::until(&stops),
            request,
            is_paused: false,
            row: 0,
            n_held: 0,
            next: None,
            last_reading: None,
            n_written: 0,
            unread: None,
            ends: None,
        })
    }

    pub(super) fn is_reading_prompt(&self) -> bool {
        self.n_held < self.request.prompt.len()
    }

    /// What the prompt's tokens are steered by, where they are to be found: all but the last, which is
    /// computed in any case.
    pub(super) fn wanted(&self) -> Held {
        let tokens = &self.request.prompt[..self.request.prompt.len() - 1];
        let key = match &self.request.steer {
            Some(steer) if steer.positions() == Positions::All => steer.key(),
            _ => 0,
        };
        tokens.iter().map(|&token| (token, key)).collect()
    }

    /// The row that steers the token at this place of the sequence, and its key.
    pub(super) fn row_at(&self, position: usize) -> (usize, Key) {
        let Some(steer) = &self.request.steer else { return (0, 0) };
        let is_prompt = position + 1 < self.request.prompt.len();
        let is_steered = match (steer.positions(), steer.gate()) {
            (Positions::All, _) if is_prompt => true,
            (Positions::Generated, _) if is_prompt => false,
            (_, None) => true,
            // Nothing is known of an answer before its first token was read.
            (_, Some(gate)) => self.last_reading.is_none_or(|reading| reading.is_below(gate)),
        };
        if is_steered { (self.row, steer.key()) } else { (0, 0) }
    }

    /// Whether the token at this place is to be observed.
    pub(super) fn observes(&self, position: usize) -> bool {
        let is_answer = position >= self.request.prompt.len();
        let is_gated = self.request.steer.as_ref().is_some_and(|steer| steer.gate().is_some());
        self.request.reader.is_some() && is_answer && (self.request.readings || is_gated)
    }

    /// Takes the reading of the token that was computed last. Gives that token, where it waited.
    pub(super) fn take_reading(&mut self, reading: Option<Reading>, events: &mut Vec<(Id, Event)>) {
        self.last_reading = reading;
        if let Some(mut token) = self.unread.take() {
            token.reading = reading;
            events.push((self.id, Event::Token(token)));
        }
    }

    /// Why it is over, where it waited for a reading only.
    pub(super) fn ended(&mut self) -> Option<Reason> {
        self.ends.take()
    }

    /// Chooses the next token from logits, F32 `[n_vocab]`, in a context of `n_ctx` tokens; gives why
    /// the answer is over, where it is.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        (model, n_ctx): (&Model, usize),
        events: &mut Vec<(Id, Event)>,
    ) -> Result<Option<Reason>> {
        if self.n_written == self.request.n_predict {
            return Ok(Some(Reason::Length));
        }
        let likely = self.request.log_probabilities.map(|n| (log_probabilities(logits), n));
        let token = match &mut self.request.constraint {
            None => self.sampler.sample(logits)?,
            Some(constraint) => {
                let mut logits = logits.to_vec();
                constraint.restrict(&mut logits)?;
                self.sampler.sample(&logits)?
            }
        };
        if model.is_end(token) {
            return Ok(Some(Reason::Stop));
        }
        if self.n_held >= n_ctx {
            return Ok(Some(Reason::Context));
        }
        if let Some(constraint) = &mut self.request.constraint {
            constraint.accept(token)?;
        }
        self.n_written += 1;
        self.next = Some(token);
        let text = self.stream.push(&model.piece(token)).to_owned();
        let likely = likely.map(|(all, n)| likely_of(&all, token, n));
        let chosen = Token { id: token, text, likely, reading: None };
        let end = if self.stream.stopped() {
            Some(Reason::Stop)
        } else {
            (self.n_written == self.request.n_predict).then_some(Reason::Length)
        };
        // What a stop string is made of is not read.
        if self.request.readings && self.request.reader.is_some() && end != Some(Reason::Stop) {
            self.unread = Some(chosen);
            self.ends = end;
            return Ok(None);
        }
        events.push((self.id, Event::Token(chosen)));
        Ok(end)
    }

    /// What was held back when the answer is over.
    pub(super) fn rest(&mut self) -> String {
        self.stream.rest()
    }
}

/// Natural logarithms of the probabilities that logits stand for.
fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    let log_sum = f64::from(max) + sum.ln();
    logits.iter().map(|&x| (f64::from(x) - log_sum) as f32).collect()
}

/// The chosen token's and the `n` likeliest.
fn likely_of(all: &[f32], token: i32, n: usize) -> Likely {
    let mut order: Vec<usize> = (0..all.len()).collect();
    let n = n.min(all.len());
    if n > 0 && n < all.len() {
        order.select_nth_unstable_by(n - 1, |&a, &b| all[b].total_cmp(&all[a]));
    }
    order.truncate(n);
    order.sort_by(|&a, &b| all[b].total_cmp(&all[a]).then(a.cmp(&b)));
    let of = |i: usize| TokenProbability {
        token: i32::try_from(i).unwrap_or(i32::MAX),
        log_probability: all[i],
    };
    let chosen = usize::try_from(token).ok().and_then(|i| all.get(i)).copied();
    Likely {
        log_probability: chosen.unwrap_or(f32::NEG_INFINITY),
        top: order.into_iter().map(of).collect(),
    }
}
