//! Before anything is timed: every path computes what it is meant to.

use serde::Serialize;

use super::lane::Lane;
use super::{BenchPath, Phase};
use crate::{Error, Result};

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

/// Compares the paths.
///
/// # Errors
/// [`Error::Invalid`] for a path that does not compute what it should: its times would mean nothing.
pub(super) fn check(all: &[Logits]) -> Result<Checks> {
    let of = |path: BenchPath| all.iter().find(|logits| logits.path == path);
    let Some(plain) = of(BenchPath::Plain) else { return Ok(Checks::default()) };
    let wrong = |path: BenchPath, problem: String| {
        Err(Error::invalid(
            format!("path {path}"),
            format!("{problem}: its times would mean nothing"),
        ))
    };
    if let Some(logits) = all.iter().find(|logits| logits.steered.iter().any(|x| !x.is_finite())) {
        return wrong(logits.path, "its logits are not finite".to_owned());
    }
    let mut checks = Checks::default();
    for logits in all {
        let Some(off) = &logits.off else { continue };
        let apart = distance(&plain.steered, off);
        if apart > SAME {
            return wrong(logits.path, format!("tokens without steering are off by {apart:.1e}"));
        }
        checks.off_and_plain = checks.off_and_plain.max(apart);
    }
    let steering = [BenchPath::InGraph, BenchPath::Callback];
    let Some(steered) = steering.into_iter().find_map(of) else { return Ok(checks) };
    let effect = distance(&plain.steered, &steered.steered);
    if effect == 0.0 {
        return wrong(steered.path, "it changes no logits".to_owned());
    }
    checks.steered_and_plain = Some(effect);
    if let Some(callback) = of(BenchPath::Callback) {
        let apart = distance(&steered.steered, &callback.steered);
        if apart > SAME {
            return wrong(
                callback.path,
                format!("it is off from steering in the graph by {apart:.1e}"),
            );
        }
        checks.in_graph_and_callback = of(BenchPath::InGraph).map(|_| apart);
    }
    if let Some(baked) = of(BenchPath::Baked) {
        let apart = distance(&steered.steered, &baked.steered);
        if apart > effect * BAKED {
            return wrong(
                baked.path,
                format!(
                    "it is off from steering by {apart:.1e}, and steering changes {effect:.1e}"
                ),
            );
        }
        checks.steered_and_baked = Some(apart);
    }
    Ok(checks)
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

    fn problem(all: &[Logits]) -> String {
        check(all).unwrap_err().to_string()
    }

    #[test]
    fn a_path_that_did_nothing_is_not_measured() {
        let plain = || logits(BenchPath::Plain, 1.0, None);
        let in_graph = |steered| logits(BenchPath::InGraph, steered, Some(1.0));
        let sound = [plain(), in_graph(2.0), logits(BenchPath::Callback, 2.0, Some(1.0))];
        let checks = check(&sound).unwrap();
        assert_eq!(checks.steered_and_plain, Some(1.0));
        assert_eq!((checks.off_and_plain, checks.in_graph_and_callback), (0.0, Some(0.0)));
        assert!(problem(&[plain(), in_graph(1.0)]).contains("in-graph: it changes no logits"));
        let other = logits(BenchPath::Callback, 2.1, Some(1.0));
        assert!(problem(&[plain(), in_graph(2.0), other]).contains("path callback: it is off"));
        let other = logits(BenchPath::Observe, 1.1, Some(1.1));
        assert!(problem(&[plain(), other]).contains("path observe: tokens without steering"));
        let other = logits(BenchPath::Baked, 0.9, None);
        assert!(problem(&[plain(), in_graph(2.0), other]).contains("path baked: it is off"));
        assert!(problem(&[plain(), in_graph(f32::NAN)]).contains("not finite"));
    }
}
