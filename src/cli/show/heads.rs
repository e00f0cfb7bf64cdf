//! The table of steered heads.

use serde::Serialize;

use crate::Site;
use crate::cli::show::table::{counted, table};
use crate::select::causal_score;
use crate::steer::{About, Selection, Sidecar, SteeringVector};

/// A steered head, as `--json` shows it.
#[derive(Debug, Clone, Copy, PartialEq, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Head {
    #[serde(flatten)]
    pub(in crate::cli) site: Site,
    /// Validation accuracy of the probe, 0 to 1; null where an imported head has no probe.
    pub(in crate::cli) accuracy: Option<f32>,
    /// Standard deviation of the outputs along the direction.
    pub(in crate::cli) sigma: f32,
    /// What moving it by itself does, in nats; absent where that was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) effect: Option<f32>,
    /// What that costs, in nats per token of neutral prose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) cost: Option<f32>,
}

/// The steered heads of a sidecar in the order in which they were chosen; equals by their place.
pub(in crate::cli) fn best_first(Sidecar { vector, about }: &Sidecar) -> Vec<Head> {
    let of = |values: &[f32], site: Site| {
        values.get(site.layer * vector.n_head() + site.head).copied().filter(|x| !x.is_nan())
    };
    let mut heads: Vec<Head> = vector
        .heads()
        .iter()
        .map(|head| Head {
            site: head.site,
            accuracy: (head.has_probe() || head.accuracy > 0.0).then_some(head.accuracy),
            sigma: head.sigma,
            effect: of(&about.head_effect, head.site),
            cost: of(&about.head_cost, head.site),
        })
        .collect();
    let merit = |head: &Head| {
        let effect = head.effect.map_or(f64::NEG_INFINITY, f64::from);
        match about.selection {
            Selection::Accuracy => head.accuracy.map_or(0.0, f64::from),
            Selection::Effect => effect,
            Selection::Causal => causal_score(effect, head.cost.map_or(0.0, f64::from)),
        }
    };
    // The sort is stable, and a vector's heads are ordered by site.
    heads.sort_by(|a, b| merit(b).total_cmp(&merit(a)));
    heads
}

/// By what the heads were chosen, where that is known: it is not of an imported vector, and a mix has
/// its heads from its parts.
pub(in crate::cli) fn chosen_by(about: &About) -> Option<&'static str> {
    (!about.is_imported() && !about.is_mixed()).then(|| about.selection.name())
}

/// How much a vector steers: `12 heads`, `31 layers`, `12 heads and 31 layers`.
pub(in crate::cli) fn amount(vector: &SteeringVector) -> String {
    let n_layer = vector.layers().map_or(0, |layers| layers.directions().len());
    amount_of(vector.heads().len(), n_layer)
}

/// The same for these numbers.
pub(in crate::cli) fn amount_of(n_head: usize, n_layer: usize) -> String {
    match (n_head, n_layer) {
        (n, 0) => counted(n, "head"),
        (0, n) => counted(n, "layer"),
        (n, m) => format!("{} and {}", counted(n, "head"), counted(m, "layer")),
    }
}

/// The first `n` heads in columns, and how many there are besides.
pub(in crate::cli) fn text(heads: &[Head], n: usize) -> String {
    let shown = &heads[..n.min(heads.len())];
    let columns = |head: &Head| {
        [
            head.site.layer.to_string(),
            head.site.head.to_string(),
            head.accuracy.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0)),
            format!("{:.4}", head.sigma),
        ]
    };
    let nats = |x: Option<f32>, sign: &str| match (x, sign) {
        (Some(x), "+") => format!("{x:+.3}"),
        (Some(x), _) => format!("{x:.5}"),
        (None, _) => "–".to_owned(),
    };
    let mut text = if shown.iter().any(|head| head.effect.is_some()) {
        let rows: Vec<_> = shown
            .iter()
            .map(|head| {
                let [layer, place, accuracy, sigma] = columns(head);
                [layer, place, accuracy, sigma, nats(head.effect, "+"), nats(head.cost, "")]
            })
            .collect();
        table(["layer", "head", "accuracy", "sigma", "effect", "cost"], &rows)
    } else {
        let rows: Vec<_> = shown.iter().map(columns).collect();
        table(["layer", "head", "accuracy", "sigma"], &rows)
    };
    if shown.len() < heads.len() {
        text.push_str(&format!("… and {} more: candor inspect --all\n", heads.len() - shown.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(layer: usize, accuracy: f32) -> Head {
        Head {
            site: Site::new(layer, 3),
            accuracy: Some(accuracy),
            sigma: 0.25,
            effect: None,
            cost: None,
        }
    }

    #[test]
    fn shows_the_first_and_counts_the_rest() {
        let text = text(&[head(2, 0.875), head(0, 0.5), head(1, 0.5)], 1);
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            text,
            "layer  head  accuracy   sigma\n    2     3    87.5 %  0.2500\n… and 2 more: candor inspect --all\n"
        );
    }

    #[test]
    fn shows_what_heads_do_where_that_is_known() {
        let known = Head { effect: Some(0.5), cost: Some(0.001), ..head(2, 0.875) };
        let text = text(&[known, head(0, 0.5)], 2);
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            text,
            "layer  head  accuracy   sigma  effect     cost\n    2     3    87.5 %  0.2500  +0.500  0.00100\n    0     3    50.0 %  0.2500       –        –\n"
        );
    }

    #[test]
    fn is_flat_in_json() {
        let json = serde_json::to_string(&head(2, 0.5)).unwrap();
        assert_eq!(json, r#"{"layer":2,"head":3,"accuracy":0.5,"sigma":0.25}"#);
    }
}
