//! How strong a vector may be.

use super::SteeringVector;
use crate::{Error, Result};

/// The most that is added to a value. Ten times as much overflows the F16 scales of what ggml quantizes, and
/// what is no number then stays in the cache, where others' attention meets it.
const OFFSET_MAX: f32 = 1e6;

impl SteeringVector {
    /// Refuses a strength at which the vector adds what no model says anything under.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it adds more than 1e6 to a value, or what is no number.
    pub fn check_strength(&self, alpha: f32) -> Result<()> {
        let (heads, layers) = (self.offsets(alpha), self.layer_offsets(alpha));
        let values = || heads.values().chain(layers.values()).flatten();
        let most = values().map(|value| value.abs()).fold(0.0, f32::max);
        if alpha.is_finite() && most <= OFFSET_MAX && !values().any(|value| value.is_nan()) {
            return Ok(());
        }
        let problem = format!(
            "at alpha {alpha} it adds {most:e} to a value, more than {OFFSET_MAX:e}, under which no model \
             says anything: take a smaller strength"
        );
        Err(Error::invalid("steering vector", problem))
    }
}
