//! What a measurement gives.

use std::time::Duration;

use serde::Serialize;

use super::check::Checks;
use super::stats::{Ratio, median};
use super::{BenchPath, Phase};

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Overhead {
    /// Phase by phase, path by path.
    pub results: Vec<Sample>,
    /// Paths that this model does not have.
    pub skipped: Vec<Skipped>,
    /// How far the paths' logits lie apart.
    pub checks: Checks,
    /// Memory in bytes.
    pub memory: Memory,
    /// Threads that computed.
    pub n_threads: usize,
    /// The strengths of the vectors: `[n_vector]`.
    pub alphas: Vec<f32>,
    /// Heads that the first vector steers.
    pub n_head_steered: usize,
    /// Layers whose outputs the vector steers.
    pub n_layer_steered: usize,
}

/// The samples of one phase and path.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Sample {
    /// The kind of work.
    pub phase: Phase,
    /// The way to compute it.
    pub path: BenchPath,
    /// Tokens that a sample computes, over all sequences.
    pub n_token: usize,
    /// Sequences in a batch.
    pub n_sequence: usize,
    /// Vectors at once.
    pub n_vector: usize,
    /// Times that each sample does the work.
    pub n_repeat: usize,
    /// One per round: nanoseconds for doing the work once.
    pub samples_ns: Vec<u64>,
    /// To the plain model, paired by round; `None` for a change of vector, which it cannot do.
    pub ratio: Option<Ratio>,
}

impl Sample {
    /// Tokens per second at the median; `None` where the work is not tokens.
    #[must_use]
    pub fn n_token_per_second(&self) -> Option<f64> {
        let once = self.median().as_secs_f64();
        (self.n_token > 0 && once > 0.0).then(|| self.n_token as f64 / once)
    }

    /// The median time for doing the work once.
    #[must_use]
    pub fn median(&self) -> Duration {
        median(&self.durations())
    }

    fn durations(&self) -> Vec<Duration> {
        self.samples_ns.iter().copied().map(Duration::from_nanos).collect()
    }
}

/// A path that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Skipped {
    /// The path.
    pub path: BenchPath,
    /// Why.
    pub reason: String,
}

/// Bytes of memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Memory {
    /// The banks of all layers on their devices: every vector and the empty row.
    pub bank: u64,
    /// What the process grew by with each path's context, after its first prefill; `None` where the
    /// system does not tell.
    pub contexts: Vec<ContextMemory>,
}

/// The memory of one path's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct ContextMemory {
    /// The path.
    pub path: BenchPath,
    /// Bytes.
    pub bytes: Option<u64>,
}

/// How far a measurement is, in the time that the plain model would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is done.
    pub done: Duration,
    /// All that there is to do.
    pub total: Duration,
}
