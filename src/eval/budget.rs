//! The strength that a budget of KL per token buys.

use super::Evaluator;
use crate::steer::SteeringVector;
use crate::{Error, Result};

/// The strengths between which an answer is looked for, in standard deviations.
const RANGE: [f32; 2] = [1.0 / 64.0, 64.0];
/// How near the answer comes to the largest strength within the budget.
const PRECISION: f32 = 1.01;

impl Evaluator<'_> {
    /// The largest strength, up to 64, at which a vector's KL(steered ‖ base) on neutral documents,
    /// every token steered, stays within `budget` nats per token; and that KL. Found by bisection
    /// to one part in a hundred, from below: KL grows with the strength. The evaluator is steered
    /// so afterwards. `on_try` hears of every strength and its KL, and may end the search by an
    /// error.
    ///
    /// # Errors
    /// [`Error::Invalid`] where even 1/64 costs more; what [`Evaluator::divergence`] gives.
    pub fn strength_within(
        &mut self,
        vector: &SteeringVector,
        documents: &[&str],
        budget: f64,
        mut on_try: impl FnMut(f32, f64) -> Result<()>,
    ) -> Result<(f32, f64)> {
        let mut kl_at = |alpha: f32| -> Result<f64> {
            self.steer_with(Some((vector, alpha)))?;
            let kl = self.divergence(documents)?.kl;
            // Beyond all bounds, logits end as NaN.
            let kl = if kl.is_nan() { f64::INFINITY } else { kl };
            on_try(alpha, kl)?;
            Ok(kl)
        };
        let [least, most] = RANGE;
        let mut alpha = 1.0;
        let mut kl = kl_at(alpha)?;
        let grows = kl <= budget;
        // The answer lies between two strengths a factor of two apart.
        let (mut low, mut high) = loop {
            let next = if grows { 2.0 * alpha } else { alpha / 2.0 };
            if !(least..=most).contains(&next) {
                if grows {
                    return Ok((alpha, kl));
                }
                let problem =
                    format!("even {least} standard deviations cost {kl:.4} nat per token");
                return Err(Error::invalid(format!("KL budget {budget}"), problem));
            }
            let kl_next = kl_at(next)?;
            if grows && kl_next > budget {
                break ((alpha, kl), next);
            }
            if !grows && kl_next <= budget {
                break ((next, kl_next), alpha);
            }
            (alpha, kl) = (next, kl_next);
        };
        while high / low.0 > PRECISION {
            // KL grows about as the square of the strength: the geometric mean halves the rest.
            let middle = (low.0 * high).sqrt();
            let kl = kl_at(middle)?;
            if kl <= budget {
                low = (middle, kl);
            } else {
                high = middle;
            }
        }
        self.steer_with(Some((vector, low.0)))?;
        Ok(low)
    }
}
