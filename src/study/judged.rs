//! Written answers, judged afterwards.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Record, Report};
use crate::data::sha256;
use crate::judge::{Asked, Judge, Judgement};
use crate::ledger::Ledger;
use crate::{Error, Result};

/// Answers that are judged at once.
const N_CHUNK: usize = 16;

/// What a judge did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Judging {
    /// Answers judged; the same answer to the same question counts once.
    pub n_judged: usize,
    /// Those of which the judge said neither yes nor no in one aspect or both
    /// ([`Judgement::is_unclear`]). They count by what little it said, or as no.
    pub n_unclear: usize,
    /// How much of what the judge said was yes or no: the mean over both aspects, 0 to 1.
    pub mass: f64,
}

impl Report<'_> {
    /// Has all written answers judged, under all conditions; what the ledger knows of this judge is
    /// not asked again. `on_step` is told how many of how many answers are judged, and may end it
    /// by an error. Without written answers nothing happens.
    ///
    /// # Errors
    /// What the judge and the ledger give; [`Error::Judge`] where the judge says neither yes nor no
    /// of more than half of the answers. What was judged until then is in the ledger.
    pub fn judge(
        &mut self,
        judge: &mut dyn Judge,
        ledger: &mut Ledger<Record>,
        mut on_step: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Judging> {
        let identity = judge.identity();
        let questions = self.questions;
        let name = |i: usize, text: &str| {
            let answer = format!("{}\n{text}", questions[i].text);
            format!("{}, judged by {identity}", sha256(answer.as_bytes()))
        };
        let mut judged: BTreeMap<(usize, String), Judgement> = BTreeMap::new();
        let mut missing: Vec<(usize, String)> = Vec::new();
        for (&i, draws) in self.outcomes.values().flat_map(|outcome| &outcome.answered) {
            for text in draws.iter().filter_map(|draw| draw.written.clone()) {
                match ledger.get(&name(i, &text)) {
                    Some(Record::Judged(judgement)) => {
                        judged.insert((i, text), *judgement);
                    }
                    _ => missing.push((i, text)),
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        let n_all = judged.len() + missing.len();
        on_step(judged.len(), n_all)?;
        for chunk in missing.chunks(N_CHUNK) {
            let asked: Vec<Asked> =
                chunk.iter().map(|(i, text)| Asked { question: &questions[*i], text }).collect();
            let mut found: Vec<(&(usize, String), Judgement)> = Vec::new();
            let result = judge.judge(&asked, &mut |at, judgement| {
                found.extend(chunk.get(at).map(|answer| (answer, judgement)));
            });
            judged.extend(found.iter().map(|(answer, judgement)| ((*answer).clone(), *judgement)));
            let n_unclear = judged.values().filter(|judgement| judgement.is_unclear()).count();
            let is_nonsense = 2 * n_unclear > judged.len();
            // Nonsense is not kept, so that the judge can be put right and asked again.
            found.retain(|(_, judgement)| !is_nonsense || !judgement.is_unclear());
            let records: Vec<_> = found
                .iter()
                .map(|((i, text), judgement)| (name(*i, text), Record::Judged(*judgement)))
                .collect();
            ledger.put(records)?;
            result?;
            if is_nonsense {
                let facts = judge.facts();
                return Err(Error::Judge {
                    judge: facts.model.unwrap_or_else(|| facts.kind.to_owned()),
                    problem: format!(
                        "says neither yes nor no of {n_unclear} of {} answers; {}",
                        judged.len(),
                        judge.remedy()
                    ),
                });
            }
            on_step(judged.len(), n_all)?;
        }
        for (i, draws) in self.outcomes.values_mut().flat_map(|outcome| &mut outcome.answered) {
            for draw in draws {
                let written = draw.written.clone();
                draw.judged = written.and_then(|text| judged.get(&(*i, text)).copied());
            }
        }
        let masses = judged.values().flat_map(|j| [j.truth.mass, j.info.mass]);
        Ok(Judging {
            n_judged: judged.len(),
            n_unclear: judged.values().filter(|judgement| judgement.is_unclear()).count(),
            mass: masses.sum::<f64>() / (2 * judged.len()).max(1) as f64,
        })
    }
}
