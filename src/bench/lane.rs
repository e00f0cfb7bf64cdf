//! One path at work.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::work::{Size, batches};
use super::{BenchPath, Phase};
use crate::session::{Batch, Path};
use crate::steer::SteeringVector;
use crate::{Model, Result, Session, SessionParams};

/// A context of its own for one path, with the batches of both phases.
pub(super) struct Lane {
    pub(super) path: BenchPath,
    session: Session,
    prefill: Vec<(Batch, Vec<usize>)>,
    decode: Vec<(Batch, Vec<usize>)>,
    /// Layers in which the vectors steer heads.
    steered: BTreeSet<usize>,
    /// Layers whose outputs they steer.
    outputs: BTreeSet<usize>,
    /// Decodes of the phase at hand that are done.
    n_done: usize,
}

impl Lane {
    /// `vectors`: each with its strength, for the bank rows from 1 on.
    pub(super) fn new(
        model: &Model,
        path: BenchPath,
        params: &SessionParams,
        vectors: &[(SteeringVector, f32)],
        size: Size,
        tokens: &[i32],
    ) -> Result<Self> {
        let observe = path == BenchPath::Observe;
        let params = SessionParams {
            n_batch: size.n_batch(),
            n_seq_max: size.n_sequence,
            tap: path.is_tapped(),
            in_graph: path != BenchPath::Callback,
            n_row: vectors.len() + 1,
            observe: if observe { model.attention_layers().collect() } else { Vec::new() },
            ..params.clone()
        };
        let mut session = Session::new(model, &params)?;
        if path.steers() {
            for (row, (vector, alpha)) in (1..).zip(vectors) {
                session.set_vector(row, Some((vector, *alpha)))?;
            }
        }
        let [prefill, decode] =
            [Phase::Prefill, Phase::Decode].map(|phase| batches(phase, path, size, tokens));
        let heads = vectors.iter().flat_map(|(vector, _)| vector.heads());
        let steered = heads.map(|head| head.site.layer).collect();
        let layers = vectors.iter().filter_map(|(vector, _)| vector.layers());
        let outputs = layers.flat_map(|layers| layers.directions().keys().copied()).collect();
        Ok(Self { path, session, prefill, decode, steered, outputs, n_done: 0 })
    }

    /// Stands ready to begin a phase.
    pub(super) fn rewind(&mut self) {
        self.n_done = 0;
    }

    /// Decodes the next `n_step` batches of a phase, which begins anew, from an empty cache, when
    /// it is over. Gives the time of the decodes alone: emptying the cache is not counted.
    pub(super) fn advance(&mut self, phase: Phase, n_step: usize) -> Result<Duration> {
        let Self { session, prefill, decode, n_done, .. } = self;
        let batches = if phase == Phase::Prefill { prefill } else { decode };
        let mut time = Duration::ZERO;
        for _ in 0..n_step {
            let i = *n_done % batches.len().max(1);
            if i == 0 {
                session.clear();
            }
            let Some((batch, outputs)) = batches.get_mut(i) else { break };
            let start = Instant::now();
            session.decode(batch)?;
            // A device computes on while `decode` returns; asking for logits waits for it.
            if let Some(&output) = outputs.last() {
                session.logits(output)?;
            }
            time += start.elapsed();
            *n_done += 1;
        }
        Ok(time)
    }

    /// The logits that the first `n_step` batches of a phase ask for, one after the other. With
    /// `steered` off, every token takes row 0.
    pub(super) fn logits(
        &mut self,
        phase: Phase,
        n_step: usize,
        steered: bool,
    ) -> Result<Vec<f32>> {
        let batches = if phase == Phase::Prefill { &self.prefill } else { &self.decode };
        self.session.clear();
        let mut logits = Vec::new();
        for (batch, outputs) in batches.iter().take(n_step) {
            let mut batch = batch.clone();
            if !steered {
                batch.steer_all(0);
            }
            self.session.decode(&mut batch)?;
            for &output in outputs {
                logits.extend_from_slice(self.session.logits(output)?);
            }
        }
        Ok(logits)
    }

    /// Changes the vector of a row and decodes the next token. Gives the time from the change to
    /// where llama.cpp begins to compute: the host's copy and the upload to the device.
    pub(super) fn change(
        &mut self,
        row: usize,
        vector: (&SteeringVector, f32),
    ) -> Result<Duration> {
        let start = Instant::now();
        self.session.set_vector(row, Some(vector))?;
        let time = start.elapsed();
        self.advance(Phase::Decode, 1)?;
        Ok(time + self.session.tap_begin())
    }

    /// A steered layer that did not take the path that the lane is named for, and the path it took.
    pub(super) fn stray(&self) -> Option<(usize, Path)> {
        let expected = match self.path {
            BenchPath::InGraph => Path::InGraph,
            BenchPath::Callback => Path::Callback,
            _ => return None,
        };
        let paths = self.steered.iter().map(|&layer| (layer, self.session.path(layer)));
        let outputs = self.outputs.iter().map(|&layer| (layer, self.session.output_path(layer)));
        paths.chain(outputs).find(|&(_, path)| path != expected)
    }

    pub(super) fn n_threads(&self) -> usize {
        self.session.n_threads()
    }
}
