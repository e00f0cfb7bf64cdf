//! The proof that a tap works: one token, before anything is steered.

use super::fault::{silent_outputs, tap_error};
use super::{Batch, Session};
use crate::ffi::context::{BatchArrays, Context, DecodeError};
use crate::ffi::host;
use crate::ffi::tap::{Kind, Pass, Reader, Seen, Tap};
use crate::{Error, Geometry, Model, Result};

impl Session {
    /// Decodes one token and checks that every attention layer passed through the tap, and that
    /// what passed is what the output projection reads.
    pub(super) fn warm_up(&mut self) -> Result<()> {
        let mut batch = Batch::prompt(&[self.model.warmup_token()]);
        batch.observe(0);
        self.decode(&mut batch)?;
        self.clear();
        let architecture = || self.model.architecture().to_owned();
        let tap = self.context.tap();
        let layers: Vec<_> = self.model.attention_layers().collect();
        let silent: Vec<_> =
            layers.iter().copied().filter(|&il| tap.n_seen(Kind::Heads, il) == 0).collect();
        if !silent.is_empty() {
            return Err(Error::TapSilent { architecture: architecture(), layers: silent });
        }
        let readers: Vec<_> = layers.iter().map(|&layer| (layer, tap.reader(layer))).collect();
        match describe(&readers) {
            None => Ok(()),
            Some(problem) => Err(Error::Unsupported { architecture: architecture(), problem }),
        }
    }
}

/// The layers in which llama.cpp applies control vectors, as one token shows in a context of its
/// own, so that nothing is lost that a session holds: `[n_layer]`.
pub(super) fn layers_with_outputs(model: &Model) -> Result<Vec<bool>> {
    let action = "prove that layers can be steered";
    let failed = |problem: String| Error::Decode { action, problem };
    let geometry = model.geometry();
    let tap = Tap::new(model.widths(), geometry.n_embd, 1, 1, true)
        .ok_or_else(|| failed("out of memory".to_owned()))?;
    let mut params = Context::default_params();
    (params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max) = (64, 1, 1, 1);
    (params.n_threads, params.n_threads_batch) = (1, 1);
    let complaints = || failed(host::take_complaints());
    let mut context =
        Context::new(model.inner(), params, (tap, true), None).ok_or_else(complaints)?;
    if !context.set_control_vector(&nothing(geometry), geometry.n_embd) {
        let all: Vec<usize> = (1..geometry.n_layer).collect();
        return Err(silent_outputs(model.architecture().to_owned(), &all));
    }
    let mut batch = BatchArrays {
        tokens: vec![model.warmup_token()],
        positions: vec![0],
        seqs: vec![0],
        n_seq: vec![1],
        output: vec![1],
        ..BatchArrays::default()
    };
    let pass = Pass { rows: &[0], want: &[], tokens: None, outputs: Some(&[1]) };
    context.decode(&mut batch, &pass, Seen::default()).map_err(|error| match error {
        DecodeError::Tap(error) => tap_error(model, error),
        DecodeError::Host(_) => complaints(),
        DecodeError::Thrown(thrown) => thrown.failed_to(action),
    })?;
    let tap = context.tap();
    Ok((0..geometry.n_layer).map(|layer| tap.n_seen(Kind::Output, layer) == 1).collect())
}

/// A control vector that changes nothing, not even the sign of a zero: F32 `[n_layer - 1, n_embd]`.
pub(super) fn nothing(geometry: Geometry) -> Vec<f32> {
    vec![-0.0; geometry.n_layer.saturating_sub(1).saturating_mul(geometry.n_embd)]
}

/// What stands between the heads and the output projection, where anything does.
fn describe(readers: &[(usize, Reader)]) -> Option<String> {
    let (_, first) = readers.iter().find(|(_, reader)| *reader != Reader::Projection)?;
    let is_same = |reader: &Reader| reader == first;
    let layers: Vec<_> =
        readers.iter().filter(|(_, reader)| is_same(reader)).map(|(layer, _)| layer).collect();
    let between = match first {
        Reader::Altered(op) if op == "MUL" => "a gate (MUL)".to_owned(),
        Reader::Altered(op) if op.ends_with("NORM") => format!("a normalization ({op})"),
        Reader::Altered(op) => format!("an operation ({op})"),
        Reader::Projection | Reader::Unread => {
            return Some(format!(
                "in layer(s) {layers:?} nothing was found that reads the heads' outputs, so that \
                 an offset could be lost: use a model of another architecture"
            ));
        }
    };
    Some(format!(
        "in layer(s) {layers:?} {between} stands between the heads' outputs and the output \
         projection, so that an offset added to a head is not what the projection reads: use a \
         model of an architecture without it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_stands_between_and_where() {
        let projected = Reader::Projection;
        let altered = |op: &str| Reader::Altered(op.to_owned());
        assert_eq!(describe(&[(0, projected.clone()), (2, projected.clone())]), None);
        let gate = describe(&[(0, projected.clone()), (1, altered("MUL")), (3, altered("MUL"))]);
        assert!(
            gate.is_some_and(|text| text.starts_with("in layer(s) [1, 3] a gate (MUL) stands"))
        );
        let norm = describe(&[(0, altered("RMS_NORM"))]);
        assert!(norm.is_some_and(|text| text.contains("[0] a normalization (RMS_NORM)")));
        let unread = describe(&[(0, projected), (1, Reader::Unread)]);
        assert!(unread.is_some_and(|text| text.contains("[1] nothing was found")));
    }
}
