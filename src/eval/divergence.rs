//! What steering does to text that asks nothing: CE and KL per token (ITI, section 7).

use serde::{Deserialize, Deserializer, Serialize};

use super::{Evaluator, log_sum_exp};
use crate::capture::plan::{Text, plan};
use crate::{Error, Result, Special};

/// Means over the tokens of neutral text, in nats per token, every token steered.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Divergence {
    /// Cross-entropy of the next token under steering.
    #[serde(deserialize_with = "number")]
    pub ce: f64,
    /// KL(steered ‖ base) of the next token's distribution.
    #[serde(deserialize_with = "number")]
    pub kl: f64,
    /// Tokens that these are means over.
    pub n_token: usize,
}

impl Divergence {
    /// The mean over the tokens of all; zero where there are none.
    #[must_use]
    pub fn mean(of: &[Self]) -> Self {
        let n_token: usize = of.iter().map(|d| d.n_token).sum();
        let mean = |value: fn(&Self) -> f64| {
            of.iter().map(|d| d.n_token as f64 * value(d)).sum::<f64>() / n_token.max(1) as f64
        };
        Self { ce: mean(|d| d.ce), kl: mean(|d| d.kl), n_token }
    }
}

/// JSON has no NaN, in which a model that is steered too far ends: it is written as null.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Evaluator {
    /// Reads each document with and without steering, side by side in one batch.
    ///
    /// # Errors
    /// [`Error::Invalid`] for documents without a token to predict; what planning and decoding give.
    pub fn divergence(&mut self, documents: &[&str]) -> Result<Divergence> {
        Ok(Divergence::mean(&self.divergences(documents)?))
    }

    /// The same of each document by itself.
    ///
    /// # Errors
    /// As [`Evaluator::divergence`].
    pub fn divergences(&mut self, documents: &[&str]) -> Result<Vec<Divergence>> {
        let mut texts = Vec::with_capacity(2 * documents.len());
        // Both readings of a document go into one batch.
        let longest = self.limits.n_token.min(self.limits.longest) / 2;
        for document in documents {
            let mut tokens = self.model().tokenize(document, Special::Start)?;
            tokens.truncate(longest);
            texts.push(Text::plain(tokens.clone()));
            texts.push(Text { tokens, row: self.row, steer_from: 0 });
        }
        let mut sums = vec![Divergence::default(); documents.len()];
        // An even number of sequences keeps the pairs together; so does the length above, since a
        // pair that does not fit begins a batch of its own.
        for pair in pairs_per_batch(&texts, self.limits.n_token, self.limits.n_seq) {
            let n_before = pair.start / 2;
            let texts = &texts[pair];
            for planned in plan(texts, self.limits, |i| format!("neutral document {}", i / 2))? {
                let (mut batch, paths) = planned.to_batch(texts);
                for &i in paths.iter().flat_map(|path| &path[..path.len() - 1]) {
                    batch.output(i);
                }
                self.empty_sequences(paths.len(), 0)?;
                self.session.decode(&mut batch)?;
                for (pair, first) in paths.chunks_exact(2).zip(planned.texts.clone().step_by(2)) {
                    let tokens = &texts[first].tokens;
                    let sum = &mut sums[n_before + first / 2];
                    for position in 1..tokens.len() {
                        let base = self.session.logits(pair[0][position - 1])?;
                        let steered = self.session.logits(pair[1][position - 1])?;
                        let token = usize::try_from(tokens[position]).unwrap_or(0);
                        let log_total = log_sum_exp(steered);
                        sum.ce += log_total - f64::from(steered[token]);
                        // Unsteered, both readings are the same tokens: KL is exactly 0.
                        if pair[0] != pair[1] {
                            sum.kl += kl((steered, log_total), (base, log_sum_exp(base)));
                        }
                        sum.n_token += 1;
                    }
                }
            }
        }
        if sums.iter().all(|sum| sum.n_token == 0) {
            return Err(Error::invalid("neutral documents", "no token follows another in them"));
        }
        let mean = |sum: Divergence| {
            let n = sum.n_token.max(1) as f64;
            Divergence { ce: sum.ce / n, kl: sum.kl / n, ..sum }
        };
        Ok(sums.into_iter().map(mean).collect())
    }
}

/// Cuts a list of (plain, steered) pairs into runs that fit one batch each even if nothing is
/// shared.
fn pairs_per_batch(texts: &[Text], n_token: usize, n_seq: usize) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    let mut n = 0;
    for (i, pair) in texts.chunks_exact(2).enumerate() {
        let n_pair = pair[0].tokens.len() + pair[1].tokens.len();
        match runs.last_mut() {
            Some(run) if n + n_pair <= n_token && run.len() + 2 <= n_seq => {
                run.end += 2;
                n += n_pair;
            }
            _ => {
                runs.push(2 * i..2 * i + 2);
                n = n_pair;
            }
        }
    }
    runs
}

/// KL(p ‖ q) in nats of two distributions, each given by its logits and their `log_sum_exp`.
pub(super) fn kl((p, log_p): (&[f32], f64), (q, log_q): (&[f32], f64)) -> f64 {
    p.iter()
        .zip(q)
        .map(|(&p, &q)| {
            let (p, q) = (f64::from(p) - log_p, f64::from(q) - log_q);
            p.exp() * (p - q)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_of_known_distributions() {
        let p = [0.75_f32.ln(), 0.25_f32.ln()];
        let q = [0.5_f32.ln(), 0.5_f32.ln()];
        let expected = 0.75 * 1.5_f64.ln() + 0.25 * 0.5_f64.ln();
        let with_total = |logits| (logits as &[f32], log_sum_exp(logits));
        assert!((kl(with_total(&p), with_total(&q)) - expected).abs() < 1e-6);
        assert_eq!(kl(with_total(&p), with_total(&p)), 0.0);
    }

    #[test]
    fn the_mean_of_documents_is_over_their_tokens() {
        let of = |ce, kl, n_token| Divergence { ce, kl, n_token };
        let mean = Divergence::mean(&[of(1.0, 0.5, 3), of(0.0, 0.0, 0), of(2.0, 0.1, 1)]);
        assert_eq!(mean, of(1.25, 0.4, 4));
        let gone = serde_json::to_string(&of(f64::NAN, f64::INFINITY, 2)).unwrap();
        let back: Divergence = serde_json::from_str(&gone).unwrap();
        assert!(back.ce.is_nan() && back.kl.is_nan() && back.n_token == 2);
    }

    #[test]
    fn keeps_pairs_together() {
        let text = |n: usize| Text::plain(vec![1; n]);
        let texts = [text(10), text(10), text(30), text(30), text(2), text(2)];
        assert_eq!(pairs_per_batch(&texts, 64, 4), [0..2, 2..6]);
        assert_eq!(pairs_per_batch(&texts, 60, 4), [0..2, 2..4, 4..6]);
    }
}
