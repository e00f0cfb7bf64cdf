//! What probe readings are worth, in words and as JSON.

use serde::Serialize;

use crate::cli::show::table::{counted, percent};
use crate::probe::{Calibration, Quality};
use crate::steer::SteeringVector;

/// The scale of a vector's probe readings, and its quality on rows that no probe had seen.
#[derive(Debug, Clone, Copy, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct ReadingFacts {
    /// Area under the ROC curve: how often a true row is read higher than a false one; 0.5 by luck.
    auroc: f32,
    /// Of its 95 % interval over questions.
    auroc_low: f32,
    auroc_high: f32,
    /// Expected calibration error, ten bins of equal width, 0 to 1.
    error: f32,
    /// The same without the scale.
    error_uncalibrated: f32,
    /// The share of true rows.
    true_share: f32,
    n_row: u32,
    n_question: u32,
    /// Whether the heads that read a row were chosen without its question, too. Else, as in older
    /// sidecars and where heads were chosen by what they cause, all this looks a little too good.
    nested: bool,
    /// P(true) = sigmoid(scale × mean log-odds + offset).
    scale: f32,
    offset: f32,
    /// Readings are given up to this distance from the rows of the fit.
    threshold: f32,
}

impl ReadingFacts {
    pub(in crate::cli) fn of(vector: &SteeringVector) -> Option<Self> {
        let Calibration { scale, offset, domain, quality } = vector.calibration()?;
        let Quality {
            n_row,
            n_question,
            is_nested,
            true_share,
            auroc,
            auroc_low,
            auroc_high,
            error,
            error_uncalibrated,
        } = *quality;
        Some(Self {
            auroc,
            auroc_low,
            auroc_high,
            error,
            error_uncalibrated,
            true_share,
            n_row,
            n_question,
            nested: is_nested,
            scale: *scale,
            offset: *offset,
            threshold: domain.threshold,
        })
    }

    /// In a line.
    pub(in crate::cli) fn text(&self) -> String {
        let [error, before] =
            [self.error, self.error_uncalibrated].map(|error| percent(f64::from(error)));
        let unseen = match self.nested {
            true => "which had no part in choosing heads or fitting probes",
            false => {
                "which no probe had seen, but on which the heads were chosen: the best of many heads read \
                 noise above 0.50 as well"
            }
        };
        format!(
            "AUROC {:.2} ({:.2} to {:.2}; 0.50 by luck), calibration error {error} % ({before} % without \
             the scale), on {} of {}, {unseen}; no reading beyond a distance of {:.2}",
            self.auroc,
            self.auroc_low,
            self.auroc_high,
            counted(self.n_row as usize, "row"),
            counted(self.n_question as usize, "question"),
            self.threshold,
        )
    }
}
