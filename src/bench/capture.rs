//! What sharing prefixes and batching gain when activations are captured.
//!
//! The questions are dealt into as many blocks as there are rounds. Each block is captured twice, in
//! turn the one or the other first: by [`capture`](crate::capture::capture()), its store on disk
//! included, and prompt by prompt, from an empty cache each, its activations kept in memory. Both
//! make a context of their own and warm it up within the time.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::stats::Ratio;
use crate::capture::{CaptureParams, capture};
use crate::data::Dataset;
use crate::session::Batch;
use crate::{Error, Model, Result, Session, SessionParams, Special};

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct CaptureSpeed {
    /// Threads that computed.
    pub n_threads: usize,
    /// Prompts, over all blocks.
    pub n_prompt: usize,
    /// Tokens of all prompts, each counted whole.
    pub n_token_prompt: usize,
    /// Tokens computed with sharing.
    pub n_token_computed: usize,
    /// Times that each block was captured either way, so that it lasts.
    pub n_repeat: usize,
    /// With shared prefixes and batches: nanoseconds for each block.
    pub shared_ns: Vec<u64>,
    /// Prompt by prompt: nanoseconds for each block.
    pub one_by_one_ns: Vec<u64>,
    /// Prompts per second, with sharing.
    pub n_prompt_per_second: f64,
    /// Prompts per second, one by one.
    pub n_prompt_per_second_one_by_one: f64,
    /// How many times faster sharing is, paired by block.
    pub speedup: Option<Ratio>,
}

/// Measures both ways. `min_sample`: the least that a block's captures take; short ones are repeated.
/// `on_progress` is told the captures done and their number, and may stop.
///
/// # Errors
/// [`Error::Invalid`] for more rounds than questions; what [`capture`](crate::capture::capture())
/// gives; [`Error::Interrupted`] where `on_progress` says so.
pub fn measure_capture(
    model: &Model,
    data: &Dataset,
    params: &CaptureParams,
    n_round: usize,
    min_sample: Duration,
    mut on_progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<CaptureSpeed> {
    let n_question = data.questions.len();
    if n_round == 0 || n_round > n_question {
        let problem = format!("{n_round} cannot be made of {n_question} questions");
        return Err(Error::invalid("rounds", problem));
    }
    let params = CaptureParams { next_rows: false, ..params.clone() };
    let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let path = folder.path().join("activations.safetensors");
    let blocks: Vec<Dataset> = (0..n_round)
        .map(|i| {
            let questions = i * n_question / n_round..(i + 1) * n_question / n_round;
            Dataset { questions: data.questions[questions].to_vec(), ..data.clone() }
        })
        .collect();

    let shared = |block: &Dataset| -> Result<(Duration, usize)> {
        let start = Instant::now();
        let captured = capture(model, block, &params, &path, |_| ControlFlow::Continue(()))?;
        let time = start.elapsed();
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        Ok((time, captured.n_token_computed))
    };
    // The first capture of all meets cold pages; it tells how long one takes.
    let (once, _) = shared(&blocks[0])?;
    let n_repeat = (min_sample.as_secs_f64() / once.as_secs_f64()).ceil().max(1.0) as usize;
    let n_all = n_round * n_repeat * 2;
    let mut n_done = 0;
    let mut step = || {
        n_done += 1;
        let kept = || "a measurement that is cut short gives no result".to_owned();
        match on_progress(n_done, n_all) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted { kept: kept() }),
        }
    };

    let mut times = [Vec::new(), Vec::new()];
    let (mut n_token_prompt, mut n_token_computed, mut n_threads) = (0, 0, 0);
    for (i, block) in blocks.iter().enumerate() {
        let prompts = prompts(model, block, &params)?;
        n_token_prompt += prompts.iter().map(Vec::len).sum::<usize>();
        let mut sums = [Duration::ZERO; 2];
        for repeat in 0..n_repeat {
            for turn in 0..2 {
                let way = (i + repeat + turn) % 2;
                sums[way] += match way {
                    0 => {
                        let (time, n_token) = shared(block)?;
                        if repeat == 0 {
                            n_token_computed += n_token;
                        }
                        time
                    }
                    _ => {
                        let (time, threads) = one_by_one(model, &prompts, &params)?;
                        n_threads = threads;
                        time
                    }
                };
                step()?;
            }
        }
        for (times, sum) in times.iter_mut().zip(sums) {
            times.push(sum / u32::try_from(n_repeat).unwrap_or(u32::MAX));
        }
    }
    let [shared, one_by_one] = times;
    let rate =
        |times: &[Duration]| data.n_row() as f64 / times.iter().sum::<Duration>().as_secs_f64();
    let nanos = |times: &[Duration]| -> Vec<u64> {
        times.iter().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).collect()
    };
    Ok(CaptureSpeed {
        n_threads,
        n_prompt: data.n_row(),
        n_token_prompt,
        n_token_computed,
        n_repeat,
        shared_ns: nanos(&shared),
        one_by_one_ns: nanos(&one_by_one),
        n_prompt_per_second: rate(&shared),
        n_prompt_per_second_one_by_one: rate(&one_by_one),
        speedup: Ratio::paired(&one_by_one, &shared),
    })
}

/// The token ids of every prompt of a data set, as a capture computes them.
///
/// # Errors
/// As [`Model::tokenize`].
pub fn prompts(model: &Model, data: &Dataset, params: &CaptureParams) -> Result<Vec<Vec<i32>>> {
    let texts = data.questions.iter().flat_map(|question| {
        question.answers.iter().map(|answer| params.form.text(&question.text, &answer.text))
    });
    texts.map(|text| model.tokenize(&text, Special::Start)).collect()
}

/// Each prompt by itself, its last token observed in all layers. Gives the threads, too.
fn one_by_one(
    model: &Model,
    prompts: &[Vec<i32>],
    params: &CaptureParams,
) -> Result<(Duration, usize)> {
    let start = Instant::now();
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
    let layers: Vec<usize> = model.attention_layers().collect();
    let session_params = SessionParams {
        n_ctx: longest,
        n_batch: longest,
        n_threads: params.n_threads,
        flash_attention: params.flash_attention,
        cache: params.cache,
        observe: layers.clone(),
        ..SessionParams::default()
    };
    let mut session = Session::new(model, &session_params)?;
    let mut activations = Vec::new();
    for tokens in prompts {
        let mut batch = Batch::new();
        for (position, &token) in tokens.iter().enumerate() {
            batch.push(token, position, &[0]);
        }
        batch.observe(tokens.len().saturating_sub(1));
        session.clear();
        session.decode(&mut batch)?;
        for i_layer in 0..layers.len() {
            activations.extend_from_slice(session.observed(i_layer, 0));
        }
    }
    // Kept, as someone who captures would.
    std::hint::black_box(&activations);
    Ok((start.elapsed(), session.n_threads()))
}
