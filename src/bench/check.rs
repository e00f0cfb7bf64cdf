//! Before anything is timed: every path computes what it is meant to.

use serde::Serialize;

use super::lane::Lane;
use super::{BenchPath, Phase};
use crate::Result;

/// Tokens decoded one by one for the comparison, after the prompts.
const N_STEP: usize = 4;

/// Largest distance between what should be the same logits. On a CPU they are the same to the last
/// bit; other devices may order sums by the shape of the graph.
const SAME: f64 = 1e-3;

/// Largest distance between a baked model and steering inside the graph, as a part of what steering
/// changes: a model of quantized matrices rounds head outputs before it multiplies them,
/// and a bias is added to the exact product.
const BAKED: f64 = 0.5;

/// How far the logits of two paths lie apart: the root mean square of their differences, as a part
/// of that of the logits. `None` where a path was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Checks {
    /// Not steered beside a loaded vector, or observed, and plain: 0, the same bits, on a CPU.
    pub off_and_plain: f64,
    /// Steered and plain: what steering changes.
    pub steered_and_plain: Option<f64>,
    /// In the graph and by the callback: 0 on a CPU.
    pub in_graph_and_callback: Option<f64>,
    /// Steered while computing and by the file.
    pub steered_and_baked: Option<f64>,
}

/// The logits of one path, steered as it steers and with every token on row 0.
pub(super) struct Logits {
    path: BenchPath,
    steered: Vec<f32>,
    off: Option<Vec<f32>>,
}

impl Logits {
    pub(super) fn of(lane: &mut Lane) -> Result<Self> {
        let (path, is_tapped) = (lane.path, lane.path.is_tapped());
        let mut both = |steered: bool| -> Result<Vec<f32>> {
            let mut logits = lane.logits(Phase::Prefill, usize::MAX, steered)?;
            logits.extend(lane.logits(Phase::Decode, N_STEP, steered)?);
            Ok(logits)
        };
        // Steered last, so that what the lane notes of its paths is of steered tokens.
        let off = if is_tapped { Some(both(false)?) } else { None };
        let steered = both(true)?;
        Ok(Self { path, steered, off })
    }
}

/// Compares the paths, and gives those that do not compute what they should, whose times would mean
/// nothing, with the reason.
pub(super) fn check(all: &[Logits]) -> (Checks, Vec<(BenchPath, String)>) {
    let mut checks = Checks::default();
    let mut wrong: Vec<(BenchPath, String)> = Vec::new();
    let Some(plain) = all.iter().find(|logits| logits.path == BenchPath::Plain) else {
        return (checks, wrong);
    };
    for logits in all {
        let Some(off) = &logits.off else { continue };
        let apart = distance(&plain.steered, off);
        if apart <= SAME {
            checks.off_and_plain = checks.off_and_plain.max(apart);
        } else {
            wrong.push((logits.path, format!("tokens without steering are off by {apart:.1e}")));
        }
    }
    for logits in all.iter().filter(|logits| logits.path.steers()) {
        if distance(&plain.steered, &logits.steered) == 0.0 {
            wrong.push((logits.path, "it changes no logits".to_owned()));
        }
    }
    let of = |path: BenchPath| {
        let is_right = wrong.iter().all(|(wrong, _)| *wrong != path);
        all.iter().find(|logits| logits.path == path && is_right)
    };
    let [in_graph, callback, baked] =
        [BenchPath::InGraph, BenchPath::Callback, BenchPath::Baked].map(of);
    let Some(steered) = in_graph.or(callback) else {
        if let Some(baked) = baked.filter(|_| all.iter().any(|logits| logits.path.steers())) {
            wrong.push((baked.path, "there is no steering to compare it with".to_owned()));
        }
        return (checks, wrong);
    };
    let effect = distance(&plain.steered, &steered.steered);
    checks.steered_and_plain = Some(effect);
    if let (Some(in_graph), Some(callback)) = (in_graph, callback) {
        let apart = distance(&in_graph.steered, &callback.steered);
        if apart <= SAME {
            checks.in_graph_and_callback = Some(apart);
        } else {
            let reason = format!("it is off from steering in the graph by {apart:.1e}");
            wrong.push((callback.path, reason));
        }
    }
    if let Some(baked) = baked {
        let apart = distance(&steered.steered, &baked.steered);
        if apart <= effect * BAKED {
            checks.steered_and_baked = Some(apart);
        } else {
            let reason = format!(
                "it is off from steering by {apart:.1e}, and steering changes {effect:.1e}"
            );
            wrong.push((baked.path, reason));
        }
    }
    (checks, wrong)
}

/// Root mean square of the differences, as a part of that of the expected values.
fn distance(expected: &[f32], got: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let size: f64 = expected.iter().map(|&x| square(x)).sum();
    let apart: f64 = expected.iter().zip(got).map(|(a, b)| square(a - b)).sum();
    (apart / size.max(f64::MIN_POSITIVE)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(path: BenchPath, steered: f32, off: Option<f32>) -> Logits {
        Logits { path, steered: vec![0.0, steered], off: off.map(|off| vec![0.0, off]) }
    }

    #[test]
    fn a_path_that_cannot_be_compared_is_left_out_alone() {
        let wrong = |all: &[Logits]| check(all).1;
        let plain = || logits(BenchPath::Plain, 1.0, None);
        let in_graph = |steered| logits(BenchPath::InGraph, steered, Some(1.0));
        let callback = |steered| logits(BenchPath::Callback, steered, Some(1.0));
        let (checks, none) = check(&[plain(), in_graph(2.0), callback(2.0)]);
        assert_eq!((checks.steered_and_plain, none), (Some(1.0), Vec::new()));
        assert_eq!((checks.off_and_plain, checks.in_graph_and_callback), (0.0, Some(0.0)));

        let found = wrong(&[plain(), in_graph(1.0), callback(2.0)]);
        assert_eq!(found, [(BenchPath::InGraph, "it changes no logits".to_owned())]);
        let found = wrong(&[plain(), in_graph(2.0), callback(2.1)]);
        assert!(found.len() == 1 && found[0].0 == BenchPath::Callback, "{found:?}");
        assert!(found[0].1.contains("off from steering in the graph by"), "{found:?}");
        let other = logits(BenchPath::Observe, 1.1, Some(1.1));
        let found = wrong(&[plain(), in_graph(2.0), other]);
        assert!(found.len() == 1 && found[0].0 == BenchPath::Observe, "{found:?}");
        let baked = || logits(BenchPath::Baked, 0.9, None);
        let found = wrong(&[plain(), in_graph(2.0), baked()]);
        assert!(found.len() == 1 && found[0].0 == BenchPath::Baked, "{found:?}");
        let found = wrong(&[plain(), in_graph(1.0), baked()]);
        assert_eq!(found[1].1, "there is no steering to compare it with");
    }
}
