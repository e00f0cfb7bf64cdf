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
        let mut sums = [Self::default(); N];
        for document in documents {
            let mut tokens = model.tokenize(document, Special::Start);
            tokens.truncate(longest);
            read(&mut steered, &tokens, 1)?;
            for (session, sum) in plain.iter_mut().zip(&mut sums) {
                read(session, &tokens, 0)?;
                for i in 0..tokens.len().saturating_sub(1) {
                    let (p, q) = (steered.logits(i)?, session.logits(i)?);
                    sum.kl += kl((p, log_sum_exp(p)), (q, log_sum_exp(q)));
                    sum.top1 += f64::from(u8::from(likeliest(p) == likeliest(q)));
                    sum.n_token += 1;
                }
            }
            on_document()?;
        }
        if sums.iter().any(|sum| sum.n_token == 0) {
            return Err(Error::invalid("neutral documents", "no token follows another in them"));
        }
        Ok(sums.map(|Self { kl, top1, n_token }| {
            let n = n_token as f64;
            Self { kl: kl / n, top1: top1 / n, n_token }
        }))
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

fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}
