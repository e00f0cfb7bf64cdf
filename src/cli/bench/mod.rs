//! `candor bench`: what candor costs on this machine.

mod form;
mod overhead;

use clap::Args;

use self::overhead::OverheadArgs;
use super::output::Output;
use crate::Result;

/// Measure what steering costs on this machine
///
/// Prefill and decode of the plain model, and of the same model observed, steered inside the graph,
/// steered in the callback, and (where the architecture has the bias) with the vector baked into its
/// file. All paths compute the same random tokens, in one process, by turns and in random order; the
/// ratios are paired by round. Without --steer, every head of every layer is steered.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    overhead: OverheadArgs,
}

impl BenchArgs {
    pub(super) fn run(&self, output: Output) -> Result<()> {
        self.overhead.run(output)
    }
}
