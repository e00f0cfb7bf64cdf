//! How near one model's predictions are to those of another that is steered.

use super::divergence::kl;
use super::log_sum_exp;
use crate::session::Batch;
use crate::steer::SteeringVector;
use crate::{Error, Model, Result, Session, SessionParams, Special};

/// Means over the tokens of neutral text.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Agreement {
    /// KL(steered ‖ other) of the next token's distribution, in nats per token.
    pub kl: f64,
    /// The share of tokens after which both find the same next token likeliest.
    pub top1: f64,
    /// Tokens that these are means over.
    pub n_token: usize,
}

impl Agreement {
    /// Compares `model`, steered at every token by `vector` at strength `alpha`, with `other` as it
    /// is, a document at a time. `on_document` is told after each.
    ///
    /// # Errors
    /// [`Error::Invalid`] for models with different vocabularies and for documents without a token to
    /// predict; what [`Session::new`], [`Session::decode`] and `on_document` give.
    pub fn measure(
        model: &Model,
        (vector, alpha): (&SteeringVector, f32),
        other: &Model,
        documents: &[&str],
        params: &SessionParams,
        mut on_document: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        if model.n_vocab() != other.n_vocab() {
            return Err(Error::invalid("models", "their vocabularies differ"));
        }
        let mut steered = Session::new(model, params)?;
        steered.set_vector(1, Some((vector, alpha)))?;
        let mut plain = Session::new(other, &SessionParams { tap: false, ..params.clone() })?;
        let longest = steered.n_ctx().min(steered.n_batch());
        let (mut sum, mut n_same) = (Self::default(), 0usize);
        for document in documents {
            let mut tokens = model.tokenize(document, Special::Start);
            tokens.truncate(longest);
            for (session, row) in [(&mut steered, 1), (&mut plain, 0)] {
                let mut batch = Batch::prompt(&tokens);
                (0..tokens.len()).for_each(|i| batch.output(i));
                batch.steer_all(row);
                session.clear();
                session.decode(&mut batch)?;
            }
            for i in 0..tokens.len().saturating_sub(1) {
                let (p, q) = (steered.logits(i)?, plain.logits(i)?);
                sum.kl += kl((p, log_sum_exp(p)), (q, log_sum_exp(q)));
                n_same += usize::from(likeliest(p) == likeliest(q));
                sum.n_token += 1;
            }
            on_document()?;
        }
        if sum.n_token == 0 {
            return Err(Error::invalid("neutral documents", "no token follows another in them"));
        }
        let n = sum.n_token as f64;
        Ok(Self { kl: sum.kl / n, top1: n_same as f64 / n, ..sum })
    }
}

fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}
