//! Directions: where "true" lies in the output of one head (ITI, section 4).

use std::fmt;
use std::str::FromStr;

use ndarray::{Array1, ArrayView1, ArrayView2};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result, Site};

/// How the direction of a head is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DirectionKind {
    /// `mass-mean`: from the mean of the false rows to the mean of the true ones.
    #[default]
    MassMean,
    /// `probe`: the weights of the head's probe.
    Probe,
    /// `random`: any direction, each as likely; the control.
    Random,
    /// `given`: found elsewhere, or several kinds mixed. Nothing is fitted by it.
    Given,
}

impl DirectionKind {
    /// Every kind that can be fitted.
    pub const ALL: [Self; 3] = [Self::MassMean, Self::Probe, Self::Random];

    /// The name on the command line and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MassMean => "mass-mean",
            Self::Probe => "probe",
            Self::Random => "random",
            Self::Given => "given",
        }
    }
}

impl fmt::Display for DirectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DirectionKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let mut kinds = Self::ALL.into_iter().chain([Self::Given]);
        kinds.find(|kind| kind.name() == name).ok_or_else(|| {
            Error::invalid("direction", format!("`{name}` is not `mass-mean`, `probe` or `random`"))
        })
    }
}

/// The mean of the true rows less the mean of the false rows: `[d_head]`.
///
/// `x`: F32 `[n_row, d_head]`, `labels`: `[n_row]`. NaN where one kind of row is missing.
pub(super) fn mass_mean(x: ArrayView2<f32>, labels: &[bool]) -> Vec<f64> {
    let mean = |label: bool| {
        let rows = x.outer_iter().zip(labels).filter(|(_, of)| **of == label).map(|(row, _)| row);
        let mut sum = Array1::<f64>::zeros(x.ncols());
        let mut n_row = 0.0;
        for row in rows {
            sum.zip_mut_with(&row, |sum, x| *sum += f64::from(*x));
            n_row += 1.0;
        }
        sum / n_row
    };
    (mean(true) - mean(false)).to_vec()
}

/// Gaussian values, so that every direction is as likely: `[d_head]`.
///
/// They depend on the seed and the site alone, not on which other heads are drawn or when.
pub(super) fn random(site: Site, d_head: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((site.layer as u64) << 32 | site.head as u64);
    // Box and Muller: a radius and an angle are one Gaussian value (and a second, not used).
    let mut gaussian = || {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
    };
    (0..d_head).map(|_| gaussian()).collect()
}

/// Scales values to length one; `None` where the length is zero or not finite.
pub(crate) fn unit(values: &[f64]) -> Option<Vec<f32>> {
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    (length > 0.0 && length.is_finite())
        .then(|| values.iter().map(|value| (value / length) as f32).collect())
}

/// The Euclidean length of a direction.
pub(crate) fn length(direction: &[f32]) -> f64 {
    direction.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// The standard deviation of the projections x·θ over all rows, of the population (divided by
/// `n_row`): the unit of alpha (ITI, section 5). NaN without rows.
///
/// `x`: F32 `[n_row, d_head]`, `direction`: `[d_head]`, unit length.
#[must_use]
pub fn sigma(x: ArrayView2<f32>, direction: &[f32]) -> f32 {
    let direction = ArrayView1::from(direction);
    let project = |row: ArrayView1<f32>| -> f64 {
        row.iter().zip(direction).map(|(x, d)| f64::from(*x) * f64::from(*d)).sum()
    };
    let projections: Array1<f64> = x.outer_iter().map(project).collect();
    projections.std(0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn names_are_read_back() {
        for kind in DirectionKind::ALL.into_iter().chain([DirectionKind::Given]) {
            assert_eq!(kind.to_string().parse::<DirectionKind>().unwrap(), kind);
        }
        let error = "ccs".parse::<DirectionKind>().unwrap_err().to_string();
        assert_eq!(error, "direction: `ccs` is not `mass-mean`, `probe` or `random`");
    }

    #[test]
    fn mass_mean_points_from_false_to_true() {
        let x = array![[1.0, 5.0], [3.0, 5.0], [0.0, 1.0], [0.0, 3.0], [0.0, 5.0]];
        assert_eq!(mass_mean(x.view(), &[true, true, false, false, false]), [2.0, 2.0]);
        assert_eq!(unit(&[2.0, 2.0]), Some(vec![0.5f32.sqrt(); 2]));
    }

    #[test]
    fn nothing_has_no_direction() {
        assert_eq!(unit(&[0.0, 0.0]), None);
        assert_eq!(unit(&[f64::NAN, 1.0]), None);
        let x = array![[1.0f32], [1.0]];
        assert_eq!(unit(&mass_mean(x.view(), &[true, false])), None);
        assert_eq!(unit(&mass_mean(x.view(), &[true, true])), None);
    }

    #[test]
    fn random_directions_depend_on_seed_and_site() {
        let draw = |layer, head, seed| random(Site::new(layer, head), 64, seed);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        assert_ne!(draw(1, 2, 3), draw(1, 2, 4));
        assert_ne!(draw(1, 2, 3), draw(2, 1, 3));
    }

    #[test]
    #[cfg_attr(miri, ignore = "so many values take Miri an hour")]
    fn random_values_are_gaussian() {
        let values = random(Site::new(0, 0), 100_000, 1);
        let moment =
            |power| values.iter().map(|v| v.powi(power)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.02);
        assert!((moment(2) - 1.0).abs() < 0.02);
        assert!((moment(4) - 3.0).abs() < 0.1);
    }

    #[test]
    fn sigma_is_the_deviation_of_the_population() {
        let x = array![[1.0, 9.0], [2.0, 9.0], [3.0, 9.0], [4.0, 9.0]];
        assert_eq!(sigma(x.view(), &[1.0, 0.0]), 1.25f32.sqrt());
        assert_eq!(sigma(x.view(), &[0.0, 1.0]), 0.0);
    }
}
