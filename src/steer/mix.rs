//! Sums of sidecars.

use super::{
    About, DirectionKind, FitRecord, Method, Positions, Selection, Sidecar, SteeringVector,
};
use crate::data::sha256;
use crate::{Error, Result};

impl Sidecar {
    /// The sum of sidecars, each times its factor: at its own strength α the result adds what each
    /// part adds at its own, times the factor. It keeps the α that all parts share; else its α is 1,
    /// and theirs is in its σ and directions.
    ///
    /// What all parts say alike is kept; the description says what they were. Without `positions`
    /// the parts have to steer the same tokens. `force` takes parts that were made for models of
    /// different fingerprints, and binds the result to the first one's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no part, a factor that is not finite, parts of different models,
    /// geometries or positions, and a sum that overflows or adds nothing.
    pub fn mix(
        parts: &[(&Self, f32)],
        name: &str,
        positions: Option<Positions>,
        force: bool,
    ) -> Result<Self> {
        let invalid = |problem: &str| Error::invalid("parts", problem);
        let [(first, _), rest @ ..] = parts else { return Err(invalid("there are none")) };
        if let Some((_, factor)) = parts.iter().find(|(_, factor)| !factor.is_finite()) {
            return Err(Error::invalid("factor", format!("{factor} is not a finite number")));
        }
        let about = &first.about;
        let is_same = |same: &dyn Fn(&Self) -> bool| rest.iter().all(|(part, _)| same(part));
        if !force && !is_same(&|part| part.about.model_fingerprint == about.model_fingerprint) {
            return Err(invalid("they were made for different models"));
        }
        let positions = match positions {
            Some(positions) => positions,
            None if is_same(&|part| part.about.positions == about.positions) => about.positions,
            None => {
                let problem = "one steers all tokens, another the generated ones: choose which all of \
                               them do";
                return Err(invalid(problem));
            }
        };
        let alpha =
            if is_same(&|part| part.about.alpha == about.alpha) { about.alpha } else { 1.0 };
        // What of its alpha goes into a part's vector: nothing where all keep it.
        let share = |part: &Self| if part.about.alpha == alpha { 1.0 } else { part.about.alpha };
        let scaled = |part: &Self, factor: f32| -> SteeringVector {
            let factor = factor * share(part);
            if factor == 1.0 { part.vector.clone() } else { &part.vector * factor }
        };
        let mut vector = scaled(first, parts[0].1);
        for (part, factor) in rest {
            vector = vector.plus(&scaled(part, *factor))?;
        }
        let about = About {
            name: name.to_owned(),
            description: Some(description(parts)),
            candor_version: env!("CARGO_PKG_VERSION").to_owned(),
            alpha,
            positions,
            ..shared(about, parts)
        };
        let mixed = Self { vector, about };
        let offsets = [mixed.vector.offsets(1.0), mixed.vector.layer_offsets(1.0)];
        if offsets.iter().flat_map(|offsets| offsets.values()).flatten().all(|&x| x == 0.0) {
            let problem = "their sum adds nothing to the model: the parts cancel each other out, or \
                           every factor is 0";
            return Err(invalid(problem));
        }
        mixed.check().map_err(|(place, problem)| Error::invalid(place, problem))?;
        Ok(mixed)
    }
}

/// What all parts say alike of themselves; what they do not is left out, or said of all of them.
fn shared(first: &About, parts: &[(&Sidecar, f32)]) -> About {
    let mut shared = first.clone();
    let is_same = |same: &dyn Fn(&About) -> bool| parts.iter().all(|(part, _)| same(&part.about));
    if !is_same(&|about| about.direction == first.direction) {
        shared.direction = DirectionKind::Given;
    }
    if !is_same(&|about| about.method == first.method) {
        shared.method = Method::default();
    }
    if !is_same(&|about| about.selection == first.selection) {
        shared.selection = Selection::default();
    }
    if !is_same(&|about| about.license == first.license) {
        shared.license = None;
    }
    if !is_same(&|about| about.languages == first.languages) {
        shared.languages.clear();
    }
    if !is_same(&|about| about.author == first.author) {
        shared.author = None;
    }
    if !is_same(&|about| about.data_sha256 == first.data_sha256) {
        let of = |text: fn(&About) -> &str| {
            parts.iter().map(|(part, _)| text(&part.about)).collect::<Vec<_>>().join(", ")
        };
        shared.data_name = of(|about| &about.data_name);
        shared.data_sha256 = sha256(of(|about| &about.data_sha256).as_bytes());
    }
    if !is_same(&|about| about.prompt == first.prompt) {
        shared.prompt = String::new();
    }
    // Equal words on other data say other things.
    if !is_same(&|about| about.split == first.split && about.data_sha256 == first.data_sha256)
        && !parts.iter().all(|(part, _)| part.about.is_imported())
    {
        let of = |(part, _): &(&Sidecar, f32)| {
            let About { name, split, .. } = &part.about;
            match part.about.is_mixed() || name.is_empty() {
                true => split.clone(),
                false => format!("{name}: {split}"),
            }
        };
        shared.split =
            format!("each part by itself: {}", parts.iter().map(of).collect::<Vec<_>>().join("; "));
    }
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let is_same_map =
        |of: fn(&About) -> &Vec<f32>| is_same(&|about| bits(of(about)) == bits(of(first)));
    if !is_same_map(|about| &about.head_accuracy) {
        shared.head_accuracy.clear();
    }
    if !is_same_map(|about| &about.head_effect) {
        shared.head_effect.clear();
    }
    if !is_same_map(|about| &about.head_cost) {
        shared.head_cost.clear();
    }
    // Whatever one part has seen, the sum has.
    let seen: Option<Vec<&Vec<u64>>> =
        parts.iter().map(|(part, _)| part.about.evidence.seen.as_ref()).collect();
    shared.evidence.seen = seen.map(|seen| {
        let mut all: Vec<u64> = seen.into_iter().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    });
    if !is_same(&|about| about.evidence.chance == first.evidence.chance) {
        shared.evidence.chance = None;
    }
    if !is_same(&|about| about.evidence.content == first.evidence.content) {
        shared.evidence.content = None;
    }
    if !is_same(&|about| about.evidence.baked == first.evidence.baked) {
        let known = parts.iter().filter_map(|(part, _)| {
            part.about.evidence.baked.as_ref().map(|baked| format!("{}: {baked}", part.about.name))
        });
        shared.evidence.baked = Some(known.collect::<Vec<_>>().join("; "));
    }
    if !is_same(&|about| about.evidence.preamble == first.evidence.preamble) {
        shared.evidence.preamble = None;
    }
    if !is_same(&|about| about.evidence.kl_budget == first.evidence.kl_budget) {
        shared.evidence.kl_budget = None;
    }
    // Where one record says all of it, one is enough.
    let records: Vec<FitRecord> =
        parts.iter().flat_map(|(part, _)| part.about.fit_records()).collect();
    let is_alike = records.iter().all(|record| record.prompt == records[0].prompt)
        && (shared.evidence.seen.is_some() || records.iter().all(|record| record.seen.is_none()));
    shared.evidence.parts = if is_alike { Vec::new() } else { records };
    shared
}

impl About {
    /// Whether it is a sum or a product of vectors, by its description: then its σ is times a factor,
    /// and what its parts do not say alike is unknown.
    pub(crate) fn is_mixed(&self) -> bool {
        self.description.as_ref().is_some_and(|text| text.contains(PART))
    }
}

impl About {
    /// How the heads' strengths were found, in a word: `mixed` of a sum whose parts differ in that.
    #[cfg(feature = "cli")]
    pub(crate) fn method_name(&self) -> &'static str {
        let has_trained = self.description.as_ref().is_some_and(|text| text.contains(TRAINED));
        match self.method {
            Method::Iti if self.is_mixed() && has_trained => "mixed",
            method => method.name(),
        }
    }
}

/// What it says of a part whose strengths were trained.
const TRAINED: &str = ", strengths trained by ";

/// What the description of a sum says of every part.
const PART: &str = ", sidecar ";

/// The parts in words, each with its factor, its strength and the start of its fingerprint.
fn description(parts: &[(&Sidecar, f32)]) -> String {
    let part = |(sidecar, factor): &(&Sidecar, f32)| {
        let About { name, alpha, method, .. } = &sidecar.about;
        let trained = match method {
            Method::Iti => String::new(),
            method => format!("{TRAINED}{}", method.name()),
        };
        format!("{factor} * {name} (alpha {alpha}{trained}{PART}{})", &sidecar.fingerprint()[..16])
    };
    parts.iter().map(part).collect::<Vec<_>>().join(" + ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::sidecar::tests::{layered, tiny};
    use super::*;

    /// What a sidecar adds at its own alpha, times a factor.
    fn effect(sidecar: &Sidecar, factor: f64) -> BTreeMap<(bool, usize), Vec<f64>> {
        let alpha = sidecar.about.alpha;
        let of = |is_layer: bool, offsets: BTreeMap<usize, Vec<f32>>| {
            offsets.into_iter().map(move |(layer, values)| {
                let values = values.iter().map(|x| factor * f64::from(*x)).collect();
                ((is_layer, layer), values)
            })
        };
        let heads = of(false, sidecar.vector.offsets(alpha));
        heads.chain(of(true, sidecar.vector.layer_offsets(alpha))).collect()
    }

    fn sum_of(parts: &[(&Sidecar, f32)]) -> BTreeMap<(bool, usize), Vec<f64>> {
        let mut sum: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for (part, factor) in parts {
            for (key, values) in effect(part, f64::from(*factor)) {
                let sum = sum.entry(key).or_insert_with(|| vec![0.0; values.len()]);
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
        sum
    }

    #[test]
    fn at_its_alpha_it_adds_what_its_parts_add_at_theirs() {
        let strong = |alpha| Sidecar { about: About { alpha, ..layered().about }, ..layered() };
        for (a, b, alpha) in [(15.0, 15.0, 15.0), (15.0, 4.0, 1.0), (0.0, 4.0, 1.0)] {
            let (a, b) =
                (Sidecar { about: About { alpha: a, ..tiny().about }, ..tiny() }, strong(b));
            let parts = [(&a, 0.7), (&b, -0.3)];
            let mixed = Sidecar::mix(&parts, "both", None, false).unwrap();
            assert_eq!(mixed.about.alpha, alpha);
            let (expected, got) = (sum_of(&parts), effect(&mixed, 1.0));
            assert_eq!(expected.len(), got.len());
            for (key, values) in expected {
                for (expected, got) in values.iter().zip(&got[&key]) {
                    assert!((expected - got).abs() < 1e-5 * expected.abs().max(1e-3), "{key:?}");
                }
            }
        }
    }

    #[test]
    fn says_what_it_is_made_of() {
        let humour = Sidecar {
            about: About { name: "humour".to_owned(), alpha: 2.0, ..layered().about },
            ..layered()
        };
        let mixed = Sidecar::mix(&[(&tiny(), 0.7), (&humour, -0.3)], "both", None, false).unwrap();
        let text = mixed.about.description.clone().unwrap();
        let fingerprint = &humour.fingerprint()[..16];
        assert!(text.starts_with("0.7 * truth (alpha 15, sidecar "), "{text}");
        assert!(
            text.ends_with(&format!("-0.3 * humour (alpha 2, sidecar {fingerprint})")),
            "{text}"
        );
        assert_eq!(
            (mixed.about.name.as_str(), &mixed.about.data_name),
            ("both", &tiny().about.data_name)
        );
        assert_eq!(mixed.about.head_accuracy, tiny().about.head_accuracy);
        let alone = Sidecar::mix(&[(&tiny(), 1.0)], "truth", None, false).unwrap();
        assert_eq!(alone.vector, tiny().vector);
    }

    #[test]
    fn refuses_what_does_not_belong_together() {
        let problem = |about: About, positions, force| {
            let other = Sidecar { about, ..tiny() };
            Sidecar::mix(&[(&tiny(), 1.0), (&other, 1.0)], "x", positions, force)
                .map(|mixed| mixed.about.positions)
                .map_err(|error| error.to_string())
        };
        let model = About { model_fingerprint: "02".repeat(32), ..tiny().about };
        assert!(problem(model.clone(), None, false).unwrap_err().contains("different models"));
        assert!(problem(model, None, true).is_ok());
        let all = About { positions: Positions::All, ..tiny().about };
        assert!(problem(all.clone(), None, false).unwrap_err().contains("choose which all"));
        assert_eq!(problem(all, Some(Positions::All), false), Ok(Positions::All));
        assert!(Sidecar::mix(&[], "x", None, false).is_err());
        let endless = Sidecar::mix(&[(&tiny(), f32::NAN)], "x", None, false).unwrap_err();
        assert_eq!(endless.to_string(), "factor: NaN is not a finite number");
        let huge = Sidecar::mix(&[(&tiny(), 3e38); 3], "x", None, false).unwrap_err();
        assert!(huge.to_string().contains("its sigma is inf"), "{huge}");
    }
}
