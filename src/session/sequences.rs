//! What can be done to sequences between two decodes.

use super::Session;
use super::pictures::Spans;
use super::state::State;
use super::under::Under;
use crate::ffi::host;
use crate::{Error, Result};

impl Session {
    /// Positions of a sequence so far: where its next token belongs.
    #[must_use]
    pub fn n_token(&self, seq: usize) -> usize {
        self.seq_id(seq).map_or(0, |id| self.spans[seq].n_token(self.context.n_token(id)))
    }

    /// Context shift: forgets positions `keep .. keep + discard` of a sequence, and moves those
    /// after them down by `discard`, so that it can continue. What remains was computed while the
    /// model still saw what is forgotten; that is llama.cpp's bargain, too.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where positions cannot be moved: a running state, learned positions,
    /// a quantized cache, positions of several parts. [`Error::Invalid`] for a sequence
    /// that is not there or shares tokens with another, and for more than it holds.
    pub fn shift(&mut self, seq: usize, keep: usize, discard: usize) -> Result<()> {
        let id = self.require_seq(seq)?;
        let obstacle = if self.model.is_recurrent() {
            Some("a running state cannot forget a part of the text")
        } else if self.model.n_position().is_some() {
            Some("its positions are learned one by one, so that nothing can be moved")
        } else if self.kind.cache.is_quantized() {
            // With heads that it does not rotate, llama.cpp follows a null pointer; with rotary
            // positions in a part of each head, it mixes the parts up (`build_rope_shift`).
            Some("llama.cpp moves quantized keys in some models only, without a word in others")
        } else if !self.context.can_shift() {
            Some("llama.cpp cannot move the positions of its KV cache")
        } else {
            None
        };
        if let Some(problem) = obstacle {
            return Err(Error::Unsupported {
                architecture: self.model.architecture().to_owned(),
                problem: format!("{problem}: start a shorter text instead"),
            });
        }
        if self.is_shared[seq] {
            let problem = "it shares tokens with another, whose positions would move with it";
            return Err(Error::invalid(format!("sequence {seq}"), problem));
        }
        let n_token = self.n_token(seq);
        let end = keep.checked_add(discard).filter(|&end| end <= n_token);
        let (Some(from), Some(to), Some(end)) = (as_i32(keep), end.and_then(as_i32), end) else {
            let problem = format!("it holds {n_token} tokens, less than {keep} + {discard}");
            return Err(Error::invalid(format!("sequence {seq}"), problem));
        };
        if discard == 0 {
            return Ok(());
        }
        self.held.clear();
        self.is_pending |= end < n_token;
        if self.context.remove(id, from, to) {
            self.under[seq].shift(keep, discard);
            let shifted = self.context.shift(id, to, from - to);
            return shifted.map_err(|thrown| thrown.failed_to("shift a sequence"));
        }
        Err(Error::Decode { action: "shift a sequence", problem: host::take_complaints() })
    }

    /// Makes sequence `to` hold what sequence `from` holds. In a unified cache both share it, and
    /// nothing is copied.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a sequence that is not there.
    pub fn copy(&mut self, from: usize, to: usize) -> Result<()> {
        let [id_from, id_to] = [self.require_seq(from)?, self.require_seq(to)?];
        if from == to {
            return Ok(());
        }
        if to == 0 {
            self.held.clear();
        }
        if !self.context.remove(id_to, 0, -1) {
            let problem = host::take_complaints();
            return Err(Error::Decode { action: "empty a sequence", problem });
        }
        let copied = self.context.copy(id_from, id_to);
        copied.map_err(|thrown| thrown.failed_to("copy a sequence"))?;
        self.spans[to] = self.spans[from].clone();
        self.under[to] = self.under[from].clone();
        if self.split.is_separate() {
            self.is_pending = true;
        } else {
            (self.is_shared[from], self.is_shared[to]) = (true, true);
        }
        Ok(())
    }

    /// What a sequence holds, to be kept and put back later.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a sequence that is not there or holds nothing, and right after
    /// [`Session::shift`], or [`Session::copy`] between separate caches: llama.cpp carries these
    /// out with the next decode. [`Error::Decode`] where llama.cpp fails.
    pub fn state(&mut self, seq: usize) -> Result<State> {
        let id = self.require_seq(seq)?;
        self.require_settled()?;
        let n_token = self.n_token(seq);
        if n_token == 0 {
            return Err(Error::invalid(format!("sequence {seq}"), "it holds nothing"));
        }
        let bytes = self.context.state(id).ok_or_else(|| Error::Decode {
            action: "take out the state of a sequence",
            problem: host::take_complaints(),
        })?;
        let (spans, under) = (self.spans[seq].clone(), self.under[seq].clone());
        Ok(State { bytes, kind: self.kind.clone(), n_token, spans, under })
    }

    /// Makes a sequence hold what was taken out of this one or another. Go on by decoding its next
    /// token; there are no logits before.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a sequence that is not there, a state of another model or kind of
    /// cache, one of tokens that were steered by what no row of this session holds, one that is longer than the context, and where [`Session::state`] is refused;
    /// [`Error::Decode`] where llama.cpp fails: then the sequence is empty.
    pub fn restore(&mut self, seq: usize, state: &State) -> Result<()> {
        let id = self.require_seq(seq)?;
        self.require_settled()?;
        if state.kind != self.kind {
            let problem = "it was taken out of a session of another model, cache type or flash attention: \
                           compute the text again";
            return Err(Error::invalid("state", problem));
        }
        self.check_under(&state.under, state.n_token)?;
        if state.n_token > self.n_ctx {
            return Err(Error::PromptTooLong {
                what: "the text to restore".to_owned(),
                n_token: state.n_token,
                n_ctx: self.n_ctx,
            });
        }
        self.held.clear();
        if self.context.restore(id, &state.bytes) {
            self.is_shared[seq] = false;
            self.spans[seq] = state.spans.clone();
            self.under[seq] = state.under.clone();
            if self.n_token(seq) == state.n_token {
                return Ok(());
            }
        }
        self.context.remove(id, 0, -1);
        self.spans[seq] = Spans::default();
        self.under[seq] = Under::default();
        Err(Error::Decode { action: "restore a sequence", problem: host::take_complaints() })
    }

    fn require_settled(&self) -> Result<()> {
        if !self.is_pending {
            return Ok(());
        }
        let problem = "a shift or copy waits for the next decode: decode a token first";
        Err(Error::invalid("session", problem))
    }

    fn require_seq(&self, seq: usize) -> Result<i32> {
        self.seq_id(seq).ok_or_else(|| {
            let problem = format!("the session has {}", self.n_seq_max);
            Error::invalid(format!("sequence {seq}"), problem)
        })
    }

    fn seq_id(&self, seq: usize) -> Option<i32> {
        as_i32(seq).filter(|_| seq < self.n_seq_max)
    }
}

fn as_i32(n: usize) -> Option<i32> {
    i32::try_from(n).ok()
}
