//! What was found of a task, in a sentence.

use super::{Place, Stage, TaskReport};

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Where the answer can be read, where it stops being used, and what the model says.
pub(super) fn sentence(report: &TaskReport) -> String {
    let floor = percent(report.floor());
    let said = percent(report.said.all.mean);
    let is_said = report.is_read(&report.said.all);
    let read = |place: Place| {
        let own = report.stages.iter().filter(move |stage| stage.place == place);
        own.filter(|stage| report.is_read(&stage.best().all)).collect::<Vec<&Stage>>()
    };
    let best = |stages: &[&Stage]| -> Option<String> {
        let by_mean = |a: &&&Stage, b: &&&Stage| a.best().all.mean.total_cmp(&b.best().all.mean);
        let best = stages.iter().max_by(by_mean)?;
        Some(format!("{} ({})", best.name(), percent(best.best().all.mean)))
    };
    let [encoder, projector] = [Place::Encoder, Place::Projector].map(read);
    let [image, last] = [Place::Image, Place::Last].map(read);
    let name = &report.task;
    let seen: Vec<&Stage> = [encoder, projector, image.clone()].concat();
    let Some(seen_best) = best(&seen) else {
        let or = if last.is_empty() { "no stage" } else { "no stage before the last token" };
        return format!(
            "{name}: {or} lets the answer be read better than without looking ({floor}); the model \
             says it in {said}."
        );
    };
    let says = match is_said {
        true => format!("the model says it in {said}"),
        false => format!("the model says it in {said}, no better than without looking ({floor})"),
    };
    let n_layer = report.stages.iter().filter_map(|stage| match stage.place {
        Place::Last => stage.layer,
        _ => None,
    });
    let top = n_layer.max();
    let how = match (last.last(), is_said) {
        (_, true) => match best(&last) {
            Some(last) => format!("it comes to the {last}, and {says}"),
            None => format!("no layer of the last token shows it to a probe, and {says}"),
        },
        (None, false) => match image.last().and_then(|stage| stage.layer) {
            Some(layer) => format!(
                "it stays in the picture's tokens (up to layer {layer}) and does not come to the last \
                 token: {says}"
            ),
            None => format!("behind the projector it cannot be read any more: {says}"),
        },
        (Some(stage), false) if stage.layer == top => format!(
            "it can be read up to the {} ({}) and is not used: {says}",
            stage.name(),
            percent(stage.best().all.mean)
        ),
        (Some(stage), false) => format!(
            "it can be read up to the {} ({}) and is lost there: {says}",
            stage.name(),
            percent(stage.best().all.mean)
        ),
    };
    format!("{name}: best read in {seen_best}; {how}.")
}

#[cfg(test)]
mod tests {
    use super::super::{Share, SplitBy};
    use super::*;
    use crate::study::Estimate;

    fn share(mean: f64) -> Share {
        Share { all: Estimate { mean, low: mean - 0.1, high: mean + 0.1 }, differ: None }
    }

    fn report(said: f64, shares: &[(Place, f64)]) -> TaskReport {
        let mut layer_of = std::collections::BTreeMap::new();
        let stage = |&(place, mean): &(Place, f64)| {
            let layer = layer_of.entry(place as u8).or_insert(0);
            let own = *layer;
            *layer += 1;
            Stage {
                place,
                layer: (place != Place::Projector).then_some(own),
                linear: share(mean),
                shuffled: share(0.3),
                hidden: None,
                attention: None,
                cls: None,
                untrained: None,
            }
        };
        TaskReport {
            task: "number".to_owned(),
            answers: Vec::new(),
            n_train: 10,
            n_test: 10,
            split: SplitBy::Asked,
            majority: share(0.33),
            from_eye: Some(share(0.4)),
            stages: shares.iter().map(stage).collect(),
            encoder_heads: None,
            decoder_heads: None,
            patches: None,
            said: share(said),
            says_eye: None,
            summary: String::new(),
        }
    }

    #[test]
    fn says_where_the_answer_is_and_where_it_goes() {
        use Place::{Encoder, Image, Last, Projector};
        let of = |said, shares: &[_]| sentence(&report(said, shares));
        assert_eq!(
            of(0.1, &[(Encoder, 0.4), (Projector, 0.42), (Last, 0.3)]),
            "number: no stage lets the answer be read better than without looking (40 %); the model \
             says it in 10 %."
        );
        assert_eq!(
            of(0.1, &[(Encoder, 0.9), (Projector, 0.8), (Image, 0.85), (Image, 0.4), (Last, 0.4)]),
            "number: best read in encoder layer 0 (90 %); it stays in the picture's tokens (up to \
             layer 0) and does not come to the last token: the model says it in 10 %, no better than \
             without looking (40 %)."
        );
        let all = [(Encoder, 0.9), (Image, 0.85), (Last, 0.4), (Last, 0.8), (Last, 0.4)];
        assert!(
            of(0.1, &all).contains("up to the last token, layer 1 (80 %) and is lost"),
            "{}",
            of(0.1, &all)
        );
        let all = [(Encoder, 0.9), (Last, 0.4), (Last, 0.8)];
        assert!(of(0.1, &all).contains("up to the last token, layer 1 (80 %) and is not used"));
        let all = [(Encoder, 0.9), (Projector, 0.9), (Last, 0.8)];
        assert!(of(0.8, &all).ends_with("and the model says it in 80 %."), "{}", of(0.8, &all));
        assert!(of(0.1, &[(Encoder, 0.9), (Projector, 0.2)]).contains("behind the projector"));
    }
}
