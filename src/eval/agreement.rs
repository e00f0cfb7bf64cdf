//! How near two ways of running a model are to each other, token by token.

use serde::{Deserialize, Serialize};

use super::Evaluator;
use super::divergence::{Predicted, kl, windows_of};
use crate::capture::plan::Text;
use crate::session::Batch;
use crate::steer::SteeringVector;
use crate::{Error, Model, Result, Session, SessionParams};

/// What two evaluators say about the next token of the same texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Agreement {
    /// KL(one ‖ other) of the next token's distribution, in nats per token.
    pub kl: f64,
    /// The share of tokens after which both find the same next one likeliest.
    pub top1: f64,
    /// Whether all logits are the same, to the last bit.
    pub identical: bool,
    /// Tokens that these are means over.
    pub n_token: usize,
}

impl Agreement {
    /// Of nothing: what others are [`joined`](Self::join) to.
    pub(crate) const NONE: Self = Self { kl: 0.0, top1: 0.0, identical: true, n_token: 0 };

    /// Of two logits after one token.
    fn of(one: &[f32], other: &[f32]) -> Self {
        let [p, q] = [Predicted::by(one), Predicted::by(other)];
        Self {
            kl: kl(&p, &q),
            top1: f64::from(u8::from(p.likeliest == q.likeliest)),
            identical: one.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits()),
            n_token: 1,
        }
    }

    /// Compares `model`, steered at every token by `vector` at strength `alpha`, with each of
    /// `others` as it is, a document at a time. `on_document` is told after each.
    ///
    /// # Errors
    /// [`Error::Invalid`] for models with different vocabularies and for documents without a token to
    /// predict; what [`Session::new`], [`Session::decode`] and `on_document` give.
    pub fn measure<const N: usize>(
        model: &Model,
        (vector, alpha): (&SteeringVector, f32),
        others: [&Model; N],
        documents: &[&str],
        params: &SessionParams,
        mut on_document: impl FnMut() -> Result<()>,
    ) -> Result<[Self; N]> {
        if others.iter().any(|other| other.n_vocab() != model.n_vocab()) {
            return Err(Error::invalid("models", "their vocabularies differ"));
        }
        let mut steered = Session::new(model, params)?;
        steered.set_vector(1, Some((vector, alpha)))?;
        let untapped = SessionParams { tap: false, ..params.clone() };
        let mut plain = Vec::with_capacity(N);
        for other in others {
            plain.push(Session::new(other, &untapped)?);
        }
        let longest = steered.n_ctx().min(steered.n_batch());
        let mut sums = [Self::NONE; N];
        for document in documents {
            for tokens in windows_of(model, document, longest)? {
                read(&mut steered, &tokens, 1)?;
                for (session, sum) in plain.iter_mut().zip(&mut sums) {
                    read(session, &tokens, 0)?;
                    for i in 0..tokens.len() - 1 {
                        let (p, q) = (steered.logits(i)?, session.logits(i)?);
                        *sum = sum.join(Self::of(p, q));
                    }
                }
            }
            on_document()?;
        }
        if sums.iter().any(|sum| sum.n_token == 0) {
            return Err(Error::invalid("neutral documents", "no token follows another in them"));
        }
        Ok(sums)
    }

    /// The agreement over the tokens of both.
    #[must_use]
    pub(crate) fn join(self, other: Self) -> Self {
        let n_token = self.n_token + other.n_token;
        let mean = |a: f64, b: f64| {
            let (n, m) = (self.n_token as f64, other.n_token as f64);
            (a * n + b * m) / (n_token.max(1)) as f64
        };
        Self {
            kl: mean(self.kl, other.kl),
            top1: mean(self.top1, other.top1),
            identical: self.identical && other.identical,
            n_token,
        }
    }
}

impl Evaluator {
    /// Reads texts, given as tokens, with both evaluators, each steered as it is, at every token, and
    /// compares what they predict after every token. The divergence is KL(this ‖ other).
    ///
    /// # Errors
    /// [`Error::Invalid`] where there are no tokens, [`Error::PromptTooLong`] for a text beyond the
    /// evaluators' context, and what decoding gives.
    pub fn agreement(&mut self, other: &mut Self, texts: &[Vec<i32>]) -> Result<Agreement> {
        let mut sum = Agreement::NONE;
        for chunk in chunks(texts, self.limits.n_token) {
            let (mine, theirs) = (self.logits_of(chunk)?, other.logits_of(chunk)?);
            for (mine, theirs) in mine.iter().zip(&theirs) {
                sum = sum.join(Agreement::of(mine, theirs));
            }
        }
        if sum.n_token == 0 {
            return Err(Error::invalid("texts to compare", "they hold no tokens"));
        }
        Ok(sum)
    }

    /// Reads texts, steered at every token as the evaluator is, and gives the logits after every
    /// token: a row for each, F32 `[n_vocab]`.
    fn logits_of(&mut self, texts: &[Vec<i32>]) -> Result<Vec<Vec<f32>>> {
        let mut rows = Vec::new();
        self.read_all(texts, |logits| rows.push(logits.to_vec()))?;
        Ok(rows)
    }

    /// The mean output of a layer over what was read since [`Evaluator::reset_means`], F64 `[n_embd]`,
    /// the first token of each text left out; `None` where the layer never came by, or nothing adds up.
    pub(crate) fn mean_of(&self, layer: usize) -> Option<Vec<f64>> {
        let (sum, n_token) = self.session.means()?.sum(layer, 0)?;
        Some(sum.iter().map(|sum| sum / n_token as f64).collect())
    }

    /// Begins to add up the layers' outputs anew.
    pub(crate) fn reset_means(&mut self) {
        self.session.reset_means();
    }

    /// Reads texts, steered at every token as the evaluator is, with all their logits.
    pub(crate) fn read_all(
        &mut self,
        texts: &[Vec<i32>],
        mut each: impl FnMut(&[f32]),
    ) -> Result<()> {
        let texts: Vec<Text> = texts
            .iter()
            .map(|tokens| Text { tokens: tokens.clone(), row: self.row, steer_from: 0 })
            .collect();
        let n = |i: usize| texts[i].tokens.len();
        self.read(
            &texts,
            |i| 0..n(i),
            |i| format!("text {i}"),
            |i, read| {
                (0..n(i)).try_for_each(|position| {
                    each(read.logits(position)?);
                    Ok(())
                })
            },
        )
    }
}

/// Decodes a text from an empty cache, every token steered by `row`.
fn read(session: &mut Session, tokens: &[i32], row: usize) -> Result<()> {
    let mut batch = Batch::prompt(tokens);
    (0..tokens.len()).for_each(|i| batch.output(i));
    batch.steer_all(row);
    session.clear();
    session.decode(&mut batch)
}

/// The texts in runs of up to `n_token` tokens, or of one text that is longer.
fn chunks(texts: &[Vec<i32>], n_token: usize) -> impl Iterator<Item = &[Vec<i32>]> {
    let mut rest = texts;
    std::iter::from_fn(move || {
        let mut n = 0;
        let fits = |text: &&Vec<i32>| {
            n += text.len();
            n <= n_token
        };
        let n_text = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (chunk, after) = rest.split_at(n_text);
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_means_by_their_tokens() {
        let a = Agreement { kl: 1.0, top1: 1.0, identical: true, n_token: 1 };
        let b = Agreement { kl: 0.0, top1: 0.0, identical: false, n_token: 3 };
        let expected = Agreement { kl: 0.25, top1: 0.25, identical: false, n_token: 4 };
        assert_eq!(a.join(b), expected);
        assert_eq!(Agreement::NONE.join(a), a);
    }

    #[test]
    fn texts_are_read_in_runs_that_fit() {
        let texts: Vec<Vec<i32>> = [2, 3, 9, 1].map(|n| vec![0; n]).to_vec();
        let lengths: Vec<usize> = chunks(&texts, 5).map(<[Vec<i32>]>::len).collect();
        assert_eq!(lengths, [2, 1, 1]);
        assert_eq!(chunks(&[], 5).count(), 0);
    }

    #[test]
    fn the_likeliest_is_the_first_of_equals() {
        assert_eq!(Predicted::by(&[0.5, 2.0, 2.0]).likeliest, 1);
        assert_eq!(Predicted::by(&[f32::NEG_INFINITY]).likeliest, 0);
    }
}
