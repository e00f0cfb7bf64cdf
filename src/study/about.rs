//! What a sidecar says of a vector that was fitted.

use crate::data::{Dataset, PromptForm, hashes};
use crate::file::stem;
use crate::probe::Chance;
use crate::steer::{About, Development, DirectionKind, Evidence, Method, Positions, Selection};
use crate::{Geometry, Model};

/// The paper's strength, in standard deviations.
pub const DEFAULT_ALPHA: f32 = 15.0;

/// The paper's share of a model's heads: 48 of 1024.
#[must_use]
pub fn default_k(n_head: usize) -> usize {
    (3 * n_head).div_ceil(64)
}

/// What was chosen of a development.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The vector's own name; `None`: the data set's.
    pub name: Option<String>,
    /// How the heads' strengths were found.
    pub method: Method,
    /// Kind of directions.
    pub direction: DirectionKind,
    /// The strength to store.
    pub alpha: f32,
    /// The tokens to steer by default.
    pub positions: Positions,
    /// By what the heads were chosen.
    pub selection: Selection,
}

/// Describes a vector of a development on all questions of a data set: everything that a sidecar says
/// but who made it and what its heads cause. `chance`: what the best head's accuracy is worth
/// ([`Development::chance`]).
#[must_use]
pub fn describe(
    model: &Model,
    data: &Dataset,
    form: &PromptForm,
    (development, chance): (&Development, Chance),
    chosen: &Chosen,
) -> About {
    let params = development.params();
    let Geometry { n_layer, n_head, .. } = model.geometry();
    About {
        architecture: model.architecture().to_owned(),
        name: chosen.name.clone().unwrap_or_else(|| data.name.clone()),
        description: Some(match chosen.method {
            Method::Iti => format!("Inference-Time Intervention fitted on {}", data.name),
            method => {
                let method = method.name().to_uppercase();
                format!("Strengths of heads trained by {method} on {}", data.name)
            }
        }),
        license: None,
        author: None,
        languages: Vec::new(),
        base_model: None,
        model_name: model.name().map_or_else(|| stem(model.path()), str::to_owned),
        model_fingerprint: model.fingerprint().to_owned(),
        candor_version: env!("CARGO_PKG_VERSION").to_owned(),
        method: chosen.method,
        direction: chosen.direction,
        alpha: chosen.alpha,
        positions: chosen.positions,
        seed: params.seed,
        data_name: data.name.clone(),
        data_sha256: data.sha256.clone(),
        prompt: form.as_str().to_owned(),
        split: format!(
            "{}; probes on {:.0} % of the questions, ranked on {:.0} %",
            rows_text(development.n_row(), development.n_row_question(), data.questions.len()),
            100.0 * (1.0 - params.validation_share),
            100.0 * params.validation_share,
        ),
        selection: chosen.selection,
        head_accuracy: match development.accuracies() {
            all if all.len() == n_layer * n_head => all,
            // A hybrid's layers without attention have none.
            _ => Vec::new(),
        },
        head_effect: Vec::new(),
        head_cost: Vec::new(),
        evidence: Evidence {
            seen: Some(hashes(&data.questions)),
            chance: Some(chance),
            // Whoever captured has hashed the file; one that cannot be read any more is not known.
            content: model.content().ok().map(str::to_owned),
            baked: model.baked().filter(|baked| baked.acts()).map(ToString::to_string),
            ..Evidence::default()
        },
    }
}

/// How many rows of how many questions: of all, or of those that have rows, which balance may leave out.
fn rows_text(n_row: usize, n_used: usize, n_question: usize) -> String {
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let of = if n_used < n_question { format!("{n_used} of ") } else { String::new() };
    format!("{} of {of}{}", counted(n_row, "row"), counted(n_question, "question"))
}

#[cfg(test)]
mod tests {
    use super::{default_k, rows_text};

    #[test]
    fn rows_are_counted_with_the_questions_that_have_them() {
        assert_eq!(rows_text(644, 322, 322), "644 rows of 322 questions");
        assert_eq!(rows_text(26, 26, 150), "26 rows of 26 of 150 questions");
        assert_eq!(rows_text(2, 1, 1), "2 rows of 1 question");
    }

    #[test]
    fn the_default_number_of_heads_is_the_papers() {
        assert_eq!(default_k(32 * 32), 48);
        assert_eq!((default_k(40), default_k(1)), (2, 1));
    }
}
