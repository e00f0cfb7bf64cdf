//! What trying many heads side by side gains.
//!
//! Each round takes one question and the same heads, in turn the one or the other way first: side by
//! side, as [`select::measure`](crate::select::measure()) does it, and one by one, where every answer
//! is read with its whole prompt under one head at a time. Both use one context, which is warm.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::stats::Ratio;
use super::vectors::single_heads;
use crate::eval::{Effects, Evaluator, Trials};
use crate::select::Trial;
use crate::session::SessionParams;
use crate::{Error, Model, Result};

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct SelectSpeed {
    /// Heads tried on each question.
    pub n_head: usize,
    /// Heads of the model.
    pub n_head_model: usize,
    /// Questions, one per round.
    pub n_question: usize,
    /// Tokens computed side by side, over all questions.
    pub n_token_side_by_side: u64,
    /// Tokens computed one by one.
    pub n_token_one_by_one: u64,
    /// Side by side: nanoseconds for each question.
    pub side_by_side_ns: Vec<u64>,
    /// One by one: nanoseconds for each question.
    pub one_by_one_ns: Vec<u64>,
    /// How many times faster side by side is, paired by question.
    pub speedup: Option<Ratio>,
    /// The largest difference between an effect measured either way, in nats.
    pub difference: f64,
    /// The largest difference between the two ways without a vector, of the same log odds, in nats:
    /// what llama.cpp's own rounding makes of another batch.
    pub difference_unsteered: f64,
    /// The largest effect, in nats: what the differences are to be seen beside.
    pub largest_effect: f64,
    /// How long choosing among all heads of this model takes with the trial's settings, at the pace
    /// measured here and on questions of this length, in seconds.
    pub seconds_all_heads: f64,
}

/// Measures both ways on the questions of a trial, with `n_head` heads that are spread over the
/// model, their directions drawn by `seed`. `on_progress` is told the questions done and their
/// number, and may stop.
///
/// # Errors
/// [`Error::Invalid`] for no questions or no heads; what [`Evaluator::with`] and [`Trials`] give;
/// [`Error::Interrupted`] where `on_progress` says so.
pub fn measure_select(
    model: &Model,
    trial: &Trial,
    n_head: usize,
    params: SessionParams,
    seed: u64,
    mut on_progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<SelectSpeed> {
    let vectors = single_heads(model, n_head, seed)?;
    let which: Vec<usize> = (0..vectors.len()).collect();
    let Trial { questions, form, preamble, .. } = trial;
    let Some((first, _)) = questions.split_first().filter(|_| !vectors.is_empty()) else {
        return Err(Error::invalid("questions and heads", "there are none to measure with"));
    };
    let params = SessionParams { n_row: vectors.len().min(32) + 1, ..params };
    let mut evaluator = Evaluator::with(model, 0, params)?;
    let n_head_model = model.attention_layers().count() * model.geometry().n_head;
    let n_token_all = trial.n_token(&evaluator, n_head_model)?;

    Trials::new(&mut evaluator, &vectors, 1.0)?.effects(&which, first, form, preamble)?;
    let mut times = [Vec::new(), Vec::new()];
    let mut n_token = [0; 2];
    let mut compared = Compared::default();
    for (i, question) in questions.iter().enumerate() {
        let mut effects = [None, None];
        for turn in 0..2 {
            let way = (i + turn) % 2;
            let before = evaluator.n_token().computed;
            let mut trials = Trials::new(&mut evaluator, &vectors, 1.0)?;
            let start = Instant::now();
            effects[way] = Some(match way {
                0 => trials.effects(&which, question, form, preamble)?,
                _ => trials.effects_one_by_one(&which, question, form, preamble)?,
            });
            times[way].push(start.elapsed());
            n_token[way] += evaluator.n_token().computed - before;
        }
        if let [Some(side_by_side), Some(one_by_one)] = effects {
            compared.add(&side_by_side, &one_by_one);
        }
        if on_progress(i + 1, questions.len()).is_break() {
            let kept = "a measurement that is cut short gives no result".to_owned();
            return Err(Error::Interrupted { kept });
        }
    }
    let [side_by_side, one_by_one] = times;
    let pace = n_token[0] as f64 / side_by_side.iter().sum::<Duration>().as_secs_f64();
    let nanos = |times: &[Duration]| -> Vec<u64> {
        times.iter().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).collect()
    };
    Ok(SelectSpeed {
        n_head: vectors.len(),
        n_head_model,
        n_question: questions.len(),
        n_token_side_by_side: n_token[0],
        n_token_one_by_one: n_token[1],
        side_by_side_ns: nanos(&side_by_side),
        one_by_one_ns: nanos(&one_by_one),
        speedup: Ratio::paired(&one_by_one, &side_by_side),
        difference: compared.difference,
        difference_unsteered: compared.unsteered,
        largest_effect: compared.largest,
        seconds_all_heads: n_token_all as f64 / pace,
    })
}

/// How far the two ways are apart, in nats.
#[derive(Default)]
struct Compared {
    difference: f64,
    unsteered: f64,
    largest: f64,
}

impl Compared {
    fn add(&mut self, side_by_side: &Effects, one_by_one: &Effects) {
        self.unsteered = self.unsteered.max((side_by_side.base - one_by_one.base).abs());
        for (a, b) in side_by_side.shifts.iter().zip(&one_by_one.shifts) {
            self.difference = self.difference.max((a - b).abs());
            self.largest = self.largest.max(b.abs());
        }
    }
}
