//! The table of steered heads.

use serde::Serialize;

use super::table::table;
use crate::Site;
use crate::steer::SteeringVector;

/// A steered head, as `--json` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Head {
    #[serde(flatten)]
    pub(super) site: Site,
    /// Validation accuracy of the probe, 0 to 1.
    accuracy: f32,
    /// Standard deviation of the outputs along the direction.
    sigma: f32,
}

/// The heads of a vector, the most accurate first; equals by their place.
pub(super) fn best_first(vector: &SteeringVector) -> Vec<Head> {
    let mut heads: Vec<Head> = vector
        .heads()
        .iter()
        .map(|head| Head { site: head.site, accuracy: head.accuracy, sigma: head.sigma })
        .collect();
    // The sort is stable, and a vector's heads are ordered by site.
    heads.sort_by(|a, b| b.accuracy.total_cmp(&a.accuracy));
    heads
}

/// The first `n` heads in columns, and how many there are besides.
pub(super) fn text(heads: &[Head], n: usize) -> String {
    let shown = &heads[..n.min(heads.len())];
    let rows: Vec<_> = shown
        .iter()
        .map(|head| {
            [
                head.site.layer.to_string(),
                head.site.head.to_string(),
                format!("{:.1} %", head.accuracy * 100.0),
                format!("{:.4}", head.sigma),
            ]
        })
        .collect();
    let mut text = table(["layer", "head", "accuracy", "sigma"], &rows);
    if shown.len() < heads.len() {
        text.push_str(&format!("… and {} more: candor inspect --all\n", heads.len() - shown.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(layer: usize, accuracy: f32) -> Head {
        Head { site: Site::new(layer, 3), accuracy, sigma: 0.25 }
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
    fn is_flat_in_json() {
        let json = serde_json::to_string(&head(2, 0.5)).unwrap();
        assert_eq!(json, r#"{"layer":2,"head":3,"accuracy":0.5,"sigma":0.25}"#);
    }
}
