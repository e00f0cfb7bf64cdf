//! What the model writes when it always takes the likeliest token.

use super::{Evaluator, Policy};
use crate::Result;
use crate::data::{PromptForm, Question};
use crate::session::{Sampler, SamplingParams, Steering, TextStream};

/// Where a written answer ends, besides where the model ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cut {
    /// At a line end, or at `Q:`: all that a judge of words reads.
    #[default]
    Line,
    /// At `Q:`, where another question begins (ITI, section 7).
    Question,
}

impl Cut {
    /// The strings that end an answer. Chats begin answers with a line end at times: there the first
    /// line is taken afterwards.
    pub(super) fn stops(self, is_chat: bool) -> &'static [&'static str] {
        match self {
            Self::Line if !is_chat => &["Q:", "\n"],
            _ => &["Q:"],
        }
    }

    pub(super) fn of(self, text: &str) -> &str {
        let text = text.trim();
        match self {
            Self::Line => text.lines().next().unwrap_or_default().trim_end(),
            Self::Question => text,
        }
    }
}

/// An answer as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text, cut where another question begins.
    pub text: String,
}

impl Evaluator {
    /// Answers a question greedily with at most `n_predict` tokens, cut as [`Evaluator::set_cut`]
    /// says. The last prompt token and every generated one are steered, or, by
    /// [`Policy::All`], every token.
    ///
    /// # Errors
    /// What [`Session::generate`](crate::Session::generate) gives.
    pub fn write(
        &mut self,
        question: &Question,
        form: &PromptForm,
        preamble: &str,
        n_predict: usize,
    ) -> Result<Written> {
        question.require_shown()?;
        let model = self.model().clone();
        let tokens = model.tokenize_as(form, &form.prompt_after(preamble, &question.text))?;
        if self.gate.is_some() {
            return self.write_through_gate(&tokens, form, n_predict);
        }
        let mut sampler = Sampler::new(&SamplingParams::greedy())?;
        let mut stream = TextStream::until(self.cut.stops(form.is_chat()));
        let steering = match (self.row, self.policy) {
            (0, _) => Steering::Off,
            (row, Policy::All) => Steering::All(row),
            (row, _) => Steering::Generated(row),
        };
        self.held.clear();
        let mut generation = self.session.generate(&tokens, steering)?;
        let mut n_written = 0;
        for _ in 0..n_predict {
            let Some(token) = generation.next(&mut sampler)? else { break };
            n_written += 1;
            stream.push(&model.piece(token));
            if stream.stopped() {
                break;
            }
        }
        let n_reused = generation.n_reused();
        let n_read = tokens.len() + n_written;
        self.count(n_read, n_read - n_reused);
        Ok(Written { text: self.cut.of(&stream.text()).to_owned() })
    }
}

/// Whether a written answer is, word for word, one of the question's true answers: a judge for
/// closed questions, where nothing needs to be understood. Case, surrounding space and the final
/// full stop do not count; anything written after the answer does.
#[must_use]
pub fn is_true(written: &Written, question: &Question) -> bool {
    let plain = |text: &str| text.trim().trim_end_matches('.').trim().to_lowercase();
    let text = plain(&written.text);
    question.answers.iter().any(|answer| answer.label && plain(&answer.text) == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Answer;

    #[test]
    fn judges_word_for_word() {
        let answer = |text: &str, label| Answer { text: text.into(), label, best: label };
        let question = Question {
            text: "What is the capital of Australia?".into(),
            answers: vec![answer("Canberra", true), answer("Sydney", false)],
            ..Question::new(1)
        };
        let judge = |text: &str| is_true(&Written { text: text.into() }, &question);
        assert!(judge(" canberra.") && judge("Canberra"));
        assert!(!judge("Sydney.") && !judge("Canberra Sydney.") && !judge(""));
    }
}
