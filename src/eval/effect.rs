//! What a head causes: how far moving it alone shifts the choice between true and false answers,
//! and what that does to neutral prose.
//!
//! Every sequence of a batch carries another vector, in a bank row of its own. A question's prompt
//! is computed once, unsteered, and held; what each vector adds is the last prompt token and the
//! answers. A neutral document is steered at every token, so only its unsteered reading is shared.

use super::{Divergence, Evaluator};
use crate::capture::plan::Text;
use crate::data::{PromptForm, Question};
use crate::steer::SteeringVector;
use crate::{Error, Result};

/// Vectors that are tried on one model, each by itself.
pub struct Trials<'e, 'v> {
    evaluator: &'e mut Evaluator,
    vectors: &'v [SteeringVector],
    alpha: f32,
    /// Which vector each bank row holds; row 0 holds none.
    rows: Vec<Option<usize>>,
}

/// What vectors do to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// ln p(best answer) − ln Σ p(false answers), unsteered, in nats.
    pub base: f64,
    /// How far each vector tried shifts it, in nats.
    pub shifts: Vec<f64>,
}

impl Effects {
    /// From the log odds without a vector and with each.
    fn of(odds: &[f64]) -> Self {
        let (&base, steered) = odds.split_first().unwrap_or((&f64::NAN, &[]));
        Self { base, shifts: steered.iter().map(|odds| odds - base).collect() }
    }
}

/// KL(original ‖ steered) over the tokens of one document.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Σ KL over the tokens, in nats, for each vector tried.
    pub sums: Vec<f64>,
    /// Tokens predicted.
    pub n_token: usize,
}

impl<'e, 'v> Trials<'e, 'v> {
    /// Trials of `vectors` at strength `alpha`. As many of them share a batch as the evaluator's
    /// session has rows ([`SessionParams::n_row`](crate::SessionParams), less one); what the
    /// evaluator was steered with is forgotten.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the session has no row for vectors; what emptying a row gives.
    pub fn new(
        evaluator: &'e mut Evaluator,
        vectors: &'v [SteeringVector],
        alpha: f32,
    ) -> Result<Self> {
        evaluator.steer_with(None)?;
        let n_row = evaluator.n_row;
        if n_row < 2 {
            return Err(Error::invalid("session", "it has no bank row for a vector"));
        }
        Ok(Self { evaluator, vectors, alpha, rows: vec![None; n_row] })
    }

    /// ln p(best answer) − ln Σ p(false answers) of a question in nats, unsteered and then as each of
    /// the vectors `which` shifts it, steered from the last prompt token on. `preamble` stands before
    /// the question.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a question without true and false answers, what tokenizing, planning
    /// and decoding give.
    pub fn effects(
        &mut self,
        which: &[usize],
        question: &Question,
        form: &PromptForm,
        preamble: &str,
    ) -> Result<Effects> {
        let question = &deciding(question)?;
        let (plain, n_prompts) = self.evaluator.answers(question, form, preamble, 0)?;
        let mut prefix = plain[0].tokens[..n_prompts.iter().min().map_or(0, |n| n - 1)].to_vec();
        for text in &plain {
            let n_shared = prefix.iter().zip(&text.tokens).take_while(|(a, b)| a == b).count();
            prefix.truncate(n_shared);
        }
        if self.evaluator.held != prefix {
            // The preamble stays held from question to question.
            let start = self.evaluator.model().tokenize_as(form, &form.start(preamble))?;
            let n_start = start.iter().zip(&prefix).take_while(|(a, b)| a == b).count();
            self.evaluator.hold(&prefix[..n_start])?;
            self.evaluator.hold(&prefix)?;
        }
        let mut odds = Vec::with_capacity(1 + which.len());
        for chunk in which.chunks(self.rows.len() - 1) {
            let mut rows = self.load(chunk)?;
            if odds.is_empty() {
                rows.insert(0, 0);
            }
            let texts: Vec<Text> = rows
                .iter()
                .flat_map(|&row| plain.iter().map(move |text| Text { row, ..text.clone() }))
                .collect();
            let n_prompts: Vec<usize> =
                n_prompts.iter().copied().cycle().take(texts.len()).collect();
            let name =
                |i: usize| format!("answer {} of question `{}`", i % plain.len(), question.text);
            let sums = self.evaluator.log_probabilities(&texts, &n_prompts, name)?;
            odds.extend(sums.chunks_exact(plain.len()).map(|sums| question.log_odds(sums)));
        }
        Ok(Effects::of(&odds))
    }

    /// What [`Trials::effects`] gives, computed without sharing and without batches: each head by
    /// itself, each answer by itself, with its whole prompt. For comparison.
    ///
    /// # Errors
    /// As [`Trials::effects`].
    pub fn effects_one_by_one(
        &mut self,
        which: &[usize],
        question: &Question,
        form: &PromptForm,
        preamble: &str,
    ) -> Result<Effects> {
        let question = &deciding(question)?;
        let (plain, n_prompts) = self.evaluator.answers(question, form, preamble, 0)?;
        self.evaluator.hold(&[])?;
        let log_odds = |evaluator: &mut Evaluator, row: usize| -> Result<f64> {
            let mut sums = Vec::with_capacity(plain.len());
            for (text, &n_prompt) in plain.iter().zip(&n_prompts) {
                let text = Text { row, ..text.clone() };
                let name = |_| format!("an answer of question `{}`", question.text);
                sums.extend(evaluator.log_probabilities(&[text], &[n_prompt], name)?);
            }
            Ok(question.log_odds(&sums))
        };
        let mut odds = vec![log_odds(self.evaluator, 0)?];
        for &vector in which {
            let loaded = Some((&self.vectors[vector], self.alpha));
            self.evaluator.session.set_vector(1, loaded)?;
            self.rows[1] = Some(vector);
            odds.push(log_odds(self.evaluator, 1)?);
        }
        Ok(Effects::of(&odds))
    }

    /// KL(original ‖ steered) of the next token of a document, under each of the vectors `which`, every
    /// token steered.
    ///
    /// # Errors
    /// What planning and decoding give.
    pub fn costs(&mut self, which: &[usize], document: &str) -> Result<Cost> {
        let mut cost = Cost { sums: Vec::with_capacity(which.len()), n_token: 0 };
        for chunk in which.chunks(self.rows.len() - 1) {
            let rows = self.load(chunk)?;
            for of in self.evaluator.divergences_under(&rows, &[document])? {
                let Divergence { kl, n_token, .. } = of[0];
                cost.sums.push(kl * n_token as f64);
                cost.n_token = n_token;
            }
        }
        Ok(cost)
    }

    /// The rows of these vectors, loaded where they are not yet. A vector keeps its row where all
    /// fit at once.
    fn load(&mut self, which: &[usize]) -> Result<Vec<usize>> {
        let all_fit = self.vectors.len() < self.rows.len();
        let mut rows = Vec::with_capacity(which.len());
        for (i, &vector) in which.iter().enumerate() {
            let row = 1 + if all_fit { vector } else { i };
            if self.rows[row] != Some(vector) {
                let loaded = Some((&self.vectors[vector], self.alpha));
                self.evaluator.session.set_vector(row, loaded)?;
                self.rows[row] = Some(vector);
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

impl Evaluator {
    /// Tokens that a vector adds to a question that is held: the last of the prompt and those of
    /// the answers that decide, save the last of each.
    pub(crate) fn n_answer_token(
        &self,
        question: &Question,
        form: &PromptForm,
        preamble: &str,
    ) -> Result<usize> {
        let (texts, n_prompts) = self.answers(&question.deciding(), form, preamble, 0)?;
        let n =
            texts.iter().zip(n_prompts).map(|(text, n_prompt)| text.tokens.len() - n_prompt - 1);
        Ok(1 + n.sum::<usize>())
    }
}

/// The answers that log odds are taken of.
fn deciding(question: &Question) -> Result<Question> {
    if question.is_two_sided() {
        return Ok(question.deciding());
    }
    let what = format!("question `{}`", question.text);
    Err(Error::invalid(what, "it needs true and false answers"))
}

impl Question {
    /// ln p(best answer) − ln Σ p(false answers), from each answer's log-probability.
    fn log_odds(&self, log_probabilities: &[f64]) -> f64 {
        let of_false = || {
            let answers = self.answers.iter().zip(log_probabilities);
            answers.filter(|(answer, _)| !answer.label).map(|(_, &p)| p)
        };
        let max = of_false().fold(f64::NEG_INFINITY, f64::max);
        let all_false = max + of_false().map(|p| (p - max).exp()).sum::<f64>().ln();
        log_probabilities[self.best()] - all_false
    }
}
