//! Several vectors measured side by side, each in a bank row and in sequences of its own: what they
//! have in common, such as a question before the first steered token, is computed once.

use super::{Cut, Divergence, Evaluator, Policy, QuestionScore, ROW, Written};
use crate::data::{PromptForm, Question};
use crate::session::{Batch, Sampler, SamplingParams, TextStream};
use crate::steer::SteeringVector;
use crate::{Error, Result};

impl Evaluator {
    /// What [`Evaluator::score_answers`] gives under each of some vectors at strength `alpha`. As many
    /// share a batch as the session has rows ([`SessionParams::n_row`](crate::SessionParams), less
    /// one). The evaluator is not steered afterwards.
    ///
    /// # Errors
    /// As [`Evaluator::score_answers`].
    pub fn score_answers_under(
        &mut self,
        vectors: &[&SteeringVector],
        alpha: f32,
        questions: &[&Question],
        form: &PromptForm,
        preamble: &str,
    ) -> Result<Vec<Vec<QuestionScore>>> {
        self.under(vectors, alpha, |evaluator, rows| {
            evaluator.score_under(rows, questions, form, preamble)
        })
    }

    /// What [`Evaluator::divergences`] gives under each of some vectors at strength `alpha`. The
    /// evaluator is not steered afterwards.
    ///
    /// # Errors
    /// What planning and decoding give.
    pub fn divergences_of(
        &mut self,
        vectors: &[&SteeringVector],
        alpha: f32,
        documents: &[&str],
    ) -> Result<Vec<Vec<Divergence>>> {
        self.under(vectors, alpha, |evaluator, rows| evaluator.divergences_under(rows, documents))
    }

    /// What [`Evaluator::write`] gives under each of some vectors at strength `alpha`. The evaluator is
    /// not steered afterwards.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] for a question that leaves no room, and
    /// what decoding gives.
    pub fn write_under(
        &mut self,
        vectors: &[&SteeringVector],
        alpha: f32,
        question: &Question,
        form: &PromptForm,
        preamble: &str,
        n_predict: usize,
    ) -> Result<Vec<Written>> {
        let prompt = form.prompt_after(preamble, &question.text);
        let prompt = self.model().tokenize_as(form, &prompt)?;
        if prompt.is_empty() {
            return Err(Error::invalid("prompt", "it is empty"));
        }
        // Where every token is steered, no two vectors have anything in common; and the cache holds
        // few long answers at once.
        let n_cell = self.limits.longest + self.limits.n_token;
        let n_side = (n_cell.saturating_sub(prompt.len()) / (n_predict + 1)).min(self.limits.n_seq);
        if self.policy == Policy::All
            || n_side < 2
            || prompt.len() + n_predict >= self.limits.longest
        {
            let write = |vector: &&SteeringVector| {
                self.steer_with(Some((vector, alpha)))?;
                self.write(question, form, preamble, n_predict)
            };
            let written: Result<Vec<Written>> = vectors.iter().map(write).collect();
            self.steer_with(None)?;
            return written;
        }
        let stops = self.cut.stops(form.is_chat());
        self.under(vectors, alpha, |evaluator, rows| {
            let chunks = rows.chunks(n_side);
            let written =
                chunks.map(|rows| evaluator.write_side_by_side(rows, &prompt, stops, n_predict));
            Ok(written.collect::<Result<Vec<_>>>()?.concat())
        })
    }

    /// Does something with vectors in bank rows, as many at once as there are rows.
    fn under<T>(
        &mut self,
        vectors: &[&SteeringVector],
        alpha: f32,
        mut find: impl FnMut(&mut Self, &[usize]) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::with_capacity(vectors.len());
        self.row = 0;
        self.drop_gate()?;
        for chunk in vectors.chunks(self.n_row - ROW) {
            let rows: Vec<usize> = (ROW..).take(chunk.len()).collect();
            for (&row, &vector) in rows.iter().zip(chunk) {
                self.session.set_vector(row, Some((vector, alpha)))?;
            }
            let of_chunk = find(self, &rows);
            for &row in &rows {
                self.session.set_vector(row, None)?;
            }
            found.extend(of_chunk?);
        }
        Ok(found)
    }

    /// Answers greedily under each row, from the last prompt token on.
    fn write_side_by_side(
        &mut self,
        rows: &[usize],
        prompt: &[i32],
        stops: &'static [&'static str],
        n_predict: usize,
    ) -> Result<Vec<Written>> {
        let n_shared = prompt.len() - 1;
        self.hold(&[])?;
        self.session.clear();
        let lanes: Vec<usize> = (0..rows.len()).collect();
        for (tokens, start) in
            prompt[..n_shared].chunks(self.limits.n_token).zip((0..).step_by(self.limits.n_token))
        {
            let mut batch = Batch::new();
            for (&token, position) in tokens.iter().zip(start..) {
                batch.push(token, position, &lanes);
            }
            self.session.decode(&mut batch)?;
            self.count(0, batch.len());
        }
        let model = self.model().clone();
        let mut answers: Vec<_> = rows.iter().map(|_| TextStream::until(stops)).collect();
        let mut sampler = Sampler::new(&SamplingParams::greedy())?;
        // The lanes that are not done, each with its next token.
        let mut open: Vec<(usize, i32)> =
            lanes.iter().map(|&lane| (lane, prompt[n_shared])).collect();
        for position in (n_shared..).take(n_predict) {
            let mut batch = Batch::new();
            for &(lane, token) in &open {
                let i = batch.push(token, position, &[lane]);
                batch.steer(i, rows[lane]);
                batch.output(i);
            }
            if batch.is_empty() {
                break;
            }
            self.session.decode(&mut batch)?;
            self.count(batch.len(), batch.len());
            let mut going_on = Vec::with_capacity(open.len());
            for (i, &(lane, _)) in open.iter().enumerate() {
                let token = sampler.sample(self.session.logits(i)?)?;
                if model.is_end(token) {
                    continue;
                }
                answers[lane].push(&model.piece(token));
                if !answers[lane].stopped() {
                    going_on.push((lane, token));
                }
            }
            open = going_on;
        }
        self.count(rows.len() * n_shared, 0);
        self.session.clear();
        let cut: Cut = self.cut;
        Ok(answers.iter().map(|text| Written { text: cut.of(&text.text()).to_owned() }).collect())
    }
}
