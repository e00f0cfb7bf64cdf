//! From ranked heads to a steering vector (ITI, sections 3 to 5).

use ndarray::Array2;
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::direction::{DirectionKind, mass_mean, random, sigma, unit};
use super::{SteeredHead, SteeringVector};
use crate::probe::{Activations, HeadScore, check_rows};
use crate::{Error, Result, Site};

/// The rows over which sigma is measured. Use development rows only.
#[derive(Debug, Clone, Copy)]
pub enum SigmaRows<'a> {
    /// The labelled rows.
    Main(&'a [usize]),
    /// Rows of texts that go on into another question: closer to what a model sees while it
    /// generates.
    Next(&'a [usize]),
}

impl SigmaRows<'_> {
    fn check(self, source: &impl Activations) -> Result<()> {
        let (rows, n_row) = match self {
            Self::Main(rows) => (rows, source.labels().len()),
            Self::Next(rows) => (rows, source.next_groups().len()),
        };
        check_rows("rows for sigma", rows, n_row)
    }

    fn head(self, source: &impl Activations, site: Site) -> Array2<f32> {
        match self {
            Self::Main(rows) => source.head(site, rows),
            Self::Next(rows) => source.next_head(site, rows),
        }
    }
}

/// Makes a steering vector of the first `k` heads of a ranking that have a direction: a head that
/// says the same of true and false rows has no mass-mean, and is passed over.
///
/// `direction_rows` are the labelled rows for mass-mean directions; other kinds do not look at
/// them. `seed` is for random directions.
///
/// # Errors
/// [`Error::Invalid`] where there are fewer than `k` such heads, or none are asked for, rows are
/// missing or do not exist, or the rows for mass-mean are all true or all false.
pub fn fit_vector(
    source: &impl Activations,
    scores: &[HeadScore],
    k: usize,
    kind: DirectionKind,
    direction_rows: &[usize],
    sigma_rows: SigmaRows,
    seed: u64,
) -> Result<SteeringVector> {
    check_k(k, scores)?;
    sigma_rows.check(source)?;
    let labels = match kind {
        DirectionKind::MassMean => direction_labels(source, direction_rows)?,
        DirectionKind::Probe | DirectionKind::Random => Vec::new(),
        DirectionKind::Given => {
            let problem = "`given` directions come from files: fit another kind";
            return Err(Error::invalid("direction", problem));
        }
    };
    let steered = |score: &HeadScore| {
        let HeadScore { site, accuracy, ref probe, .. } = *score;
        let direction = direction(source, score, kind, (direction_rows, &labels), seed)?;
        let sigma = sigma(sigma_rows.head(source, site).view(), &direction);
        Some(SteeredHead { site, direction, sigma, accuracy, probe: probe.clone() })
    };
    let heads: Vec<SteeredHead> = scores.iter().filter_map(steered).take(k).collect();
    if heads.len() < k {
        let problem = format!(
            "{k} heads were asked for, {} have one: the others' outputs do not differ between true \
             and false rows; use fewer heads or more data",
            heads.len()
        );
        return Err(Error::invalid(format!("{kind} directions"), problem));
    }
    SteeringVector::new(source.n_layer(), source.n_head(), source.d_head(), heads)
}

/// The direction of a head, F32 `[d_head]`, of length one; `None` where it has no length, as that of
/// a head that says the same of true and false rows.
fn direction(
    source: &impl Activations,
    score: &HeadScore,
    kind: DirectionKind,
    (rows, labels): (&[usize], &[bool]),
    seed: u64,
) -> Option<Vec<f32>> {
    let site = score.site;
    unit(&match kind {
        DirectionKind::MassMean => mass_mean(source.head(site, rows).view(), labels),
        DirectionKind::Probe => score.probe.weight.iter().map(|w| f64::from(*w)).collect(),
        DirectionKind::Random | DirectionKind::Given => random(site, source.d_head(), seed),
    })
}

/// The heads that have a direction of this kind, in the order of their scores.
///
/// # Errors
/// [`Error::Invalid`] where the rows for mass-mean are missing, or all true or all false.
pub(super) fn with_direction(
    source: &impl Activations,
    scores: &[HeadScore],
    kind: DirectionKind,
    rows: &[usize],
    seed: u64,
) -> Result<Vec<Site>> {
    let labels = match kind {
        DirectionKind::MassMean => direction_labels(source, rows)?,
        _ => Vec::new(),
    };
    let has_direction =
        |score: &&HeadScore| direction(source, score, kind, (rows, &labels), seed).is_some();
    Ok(scores.iter().filter(has_direction).map(|score| score.site).collect())
}

/// The control: random directions in `k` random heads of all in `scores`, with their own sigma.
///
/// The heads depend on `seed`, `k` and which heads there are, not on their ranking.
///
/// # Errors
/// [`Error::Invalid`] as [`fit_vector`] gives.
pub fn random_vector(
    source: &impl Activations,
    scores: &[HeadScore],
    k: usize,
    sigma_rows: SigmaRows,
    seed: u64,
) -> Result<SteeringVector> {
    check_k(k, scores)?;
    let mut by_site: Vec<&HeadScore> = scores.iter().collect();
    by_site.sort_by_key(|score| score.site);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Directions draw from the streams of their sites; this one belongs to no site.
    rng.set_stream(u64::MAX);
    let drawn: Vec<HeadScore> =
        index::sample(&mut rng, by_site.len(), k).iter().map(|i| by_site[i].clone()).collect();
    fit_vector(source, &drawn, k, DirectionKind::Random, &[], sigma_rows, seed)
}

/// Makes a steering vector of directions of length one that come from elsewhere.
///
/// # Errors
/// [`Error::Invalid`] for a head that is not among the scores, and as [`fit_vector`] gives.
pub(super) fn given_vector(
    source: &impl Activations,
    scores: &[HeadScore],
    directions: &[(Site, Vec<f32>)],
    sigma_rows: SigmaRows,
) -> Result<SteeringVector> {
    sigma_rows.check(source)?;
    let steered = |(site, direction): &(Site, Vec<f32>)| {
        let score = scores
            .iter()
            .find(|score| score.site == *site)
            .ok_or_else(|| Error::invalid(format!("head {site}"), "no probe was fitted to it"))?;
        Ok(SteeredHead {
            site: *site,
            direction: direction.clone(),
            sigma: sigma(sigma_rows.head(source, *site).view(), direction),
            accuracy: score.accuracy,
            probe: score.probe.clone(),
        })
    };
    let heads = directions.iter().map(steered).collect::<Result<_>>()?;
    SteeringVector::new(source.n_layer(), source.n_head(), source.d_head(), heads)
}

fn check_k(k: usize, scores: &[HeadScore]) -> Result<()> {
    if (1..=scores.len()).contains(&k) {
        return Ok(());
    }
    Err(Error::invalid(
        "k",
        format!("{k} heads cannot be chosen from {}: choose 1 to {0}", scores.len()),
    ))
}

/// The labels of the rows, of which there must be both kinds.
fn direction_labels(source: &impl Activations, rows: &[usize]) -> Result<Vec<bool>> {
    let what = "rows for directions";
    check_rows(what, rows, source.labels().len())?;
    let labels: Vec<bool> = rows.iter().map(|row| source.labels()[*row]).collect();
    if labels.iter().all(|label| *label == labels[0]) {
        return Err(Error::invalid(what, format!("all are {}: both kinds are needed", labels[0])));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Memory, fit_heads};

    const KNOWING: [Site; 2] = [Site::new(0, 3), Site::new(2, 1)];

    fn fitted() -> (Memory, Vec<usize>, Vec<HeadScore>) {
        let source = Memory::random([3, 4, 8], 200, &KNOWING);
        let rows: Vec<usize> = (0..200).collect();
        let scores = fit_heads(&source, &rows[..160], &rows[160..], || ()).unwrap();
        (source, rows, scores)
    }

    #[test]
    fn takes_the_best_heads_and_points_to_the_truth() {
        let (source, rows, scores) = fitted();
        for kind in [DirectionKind::MassMean, DirectionKind::Probe] {
            let vector =
                fit_vector(&source, &scores, 2, kind, &rows, SigmaRows::Main(&rows), 0).unwrap();
            let sites: Vec<Site> = vector.heads().iter().map(|head| head.site).collect();
            assert_eq!(sites, KNOWING);
            // The label moves the first value by 1.5 either way, noise by 1/sqrt(3).
            assert!(vector.heads().iter().all(|head| head.direction[0] > 0.9), "{kind}");
            assert!(vector.heads().iter().all(|head| (1.4..1.8).contains(&head.sigma)), "{kind}");
        }
    }

    #[test]
    fn sigma_can_come_from_the_next_rows() {
        let (source, rows, scores) = fitted();
        let kind = DirectionKind::MassMean;
        let vector =
            fit_vector(&source, &scores, 2, kind, &rows, SigmaRows::Next(&rows), 0).unwrap();
        assert!(vector.heads().iter().all(|head| (0.5..0.7).contains(&head.sigma)));
    }

    #[test]
    fn the_control_is_drawn_by_its_seed() {
        let (source, rows, scores) = fitted();
        let draw = |scores: &[HeadScore], seed| {
            random_vector(&source, scores, 4, SigmaRows::Main(&rows), seed).unwrap()
        };
        let reversed: Vec<HeadScore> = scores.iter().rev().cloned().collect();
        assert_eq!(draw(&scores, 1), draw(&reversed, 1));
        let sites = |seed| draw(&scores, seed).heads().iter().map(|h| h.site).collect::<Vec<_>>();
        assert!((2..6).any(|seed| sites(seed) != sites(1)));
    }

    #[test]
    fn refuses_what_cannot_be_fitted() {
        let (mut source, rows, scores) = fitted();
        let message = |source: &Memory, k, direction_rows: &[usize], sigma_rows| {
            let kind = DirectionKind::MassMean;
            fit_vector(source, &scores, k, kind, direction_rows, sigma_rows, 0)
                .unwrap_err()
                .to_string()
        };
        let all = SigmaRows::Main(&rows);
        assert!(message(&source, 0, &rows, all).contains("0 heads cannot be chosen from 12"));
        assert!(message(&source, 13, &rows, all).contains("choose 1 to 12"));
        assert!(message(&source, 1, &[], all).contains("rows for directions: there are none"));
        assert!(message(&source, 1, &[0, 2], all).contains("all are true"));
        assert!(message(&source, 1, &rows, SigmaRows::Next(&[200])).contains("row 200"));
        source.heads.iter_mut().for_each(|head| head.fill(1.0));
        assert!(message(&source, 1, &rows, all).contains("1 heads were asked for, 0 have one"));
    }

    #[test]
    fn passes_over_a_head_without_a_direction() {
        let (mut source, rows, scores) = fitted();
        let sites = |source: &Memory, k| -> Vec<Site> {
            let (kind, sigma_rows) = (DirectionKind::MassMean, SigmaRows::Main(&rows));
            let vector = fit_vector(source, &scores, k, kind, &rows, sigma_rows, 0).unwrap();
            vector.heads().iter().map(|head| head.site).collect()
        };
        let second = sites(&source, 2).into_iter().find(|&site| site != scores[0].site);
        let silent = scores[0].site;
        let i = silent.layer * source.n_head() + silent.head;
        source.heads[i].fill(1.0);
        assert_eq!(sites(&source, 1), [second.unwrap()]);
    }
}
