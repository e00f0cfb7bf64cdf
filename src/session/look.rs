//! What is looked at, and what is changed by hand.

use super::Session;
use super::fault::tap_error;
use crate::ffi::edit::Editor;
use crate::ffi::tap::Kind;
use crate::{Error, Result};

/// What a session looks at.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Layers whose heads are observed, ascending.
    pub(super) heads: Vec<usize>,
    /// Layers whose outputs are observed, ascending.
    pub(super) outputs: Vec<usize>,
    /// F32 `[heads.len(), n_want, width]` of the last decode.
    pub(super) seen_heads: Vec<f32>,
    /// F32 `[outputs.len(), n_want, n_embd]`.
    pub(super) seen_outputs: Vec<f32>,
    pub(super) n_want: usize,
    /// Where in them the tokens lie that were asked for, where not in that order.
    pub(super) want_place: Vec<usize>,
}

impl Session {
    /// Observes the head outputs of exactly these layers, given in ascending order, from the next
    /// decode on; what the last one observed is gone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for layers that have no attention or are not in ascending order, and for
    /// a session without a tap.
    pub fn observe(&mut self, layers: &[usize]) -> Result<()> {
        self.require_tap()?;
        self.check_heads(layers)?;
        let observed = self.context.tap_mut().observe(Kind::Heads, layers);
        observed.map_err(|error| tap_error(&self.model, error))?;
        self.look.heads = layers.to_vec();
        self.look.n_want = 0;
        Ok(())
    }

    /// Observes the outputs of exactly these layers, too: `l_out-<il>`, the residual stream after layer
    /// `il`, as the next layer reads it, after steering. Of the last layer llama.cpp computes those
    /// tokens only whose logits are wanted: mark what is to be observed with
    /// [`Batch::output`](super::Batch::output), too.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a layer whose output does not come by under its name, [`Error::Invalid`]
    /// for layers that are not there or not in ascending order, and for a session without a tap.
    pub fn observe_outputs(&mut self, layers: &[usize]) -> Result<()> {
        self.require_tap()?;
        self.check_outputs(layers)?;
        let observed = self.context.tap_mut().observe(Kind::Output, layers);
        observed.map_err(|error| tap_error(&self.model, error))?;
        self.look.outputs = layers.to_vec();
        self.look.n_want = 0;
        Ok(())
    }

    /// Layers whose heads are observed, ascending.
    #[must_use]
    pub fn observed_layers(&self) -> &[usize] {
        &self.look.heads
    }

    /// Layers whose outputs are observed, ascending.
    #[must_use]
    pub fn observed_outputs(&self) -> &[usize] {
        &self.look.outputs
    }

    /// The layers whose outputs come by: all of them in most architectures.
    #[must_use]
    pub fn output_layers(&self) -> Vec<usize> {
        let geometry = self.model.geometry();
        let tap = self.context.tap();
        let comes_by = |&layer: &usize| tap.width_seen(Kind::Output, layer) == geometry.n_embd;
        (0..geometry.n_layer).filter(comes_by).collect()
    }

    /// Attention outputs of the last decode as `wo` reads them (after steering), F32
    /// `[n_head * d_head]`: layer `observed_layers()[i_layer]`, the `i_want`-th observed token.
    ///
    /// # Panics
    /// If the last decode observed fewer tokens or the session fewer layers.
    #[must_use]
    pub fn observed(&self, i_layer: usize, i_want: usize) -> &[f32] {
        let start = self.look.start(i_layer, i_want) * self.width();
        &self.look.seen_heads[start..start + self.width()]
    }

    /// The same of a layer by its number; `None` where it is not observed, or fewer tokens were.
    pub(crate) fn observed_at(&self, layer: usize, i_want: usize) -> Option<&[f32]> {
        let i_layer = self.look.heads.binary_search(&layer).ok()?;
        (i_want < self.look.n_want).then(|| self.observed(i_layer, i_want))
    }

    /// Outputs of layers of the last decode, F32 `[n_embd]`: layer `observed_outputs()[i_layer]`, the
    /// `i_want`-th observed token.
    ///
    /// # Panics
    /// If the last decode observed fewer tokens or the session fewer layers.
    #[must_use]
    pub fn observed_output(&self, i_layer: usize, i_want: usize) -> &[f32] {
        let n_embd = self.model.geometry().n_embd;
        let start = self.look.start(i_layer, i_want) * n_embd;
        &self.look.seen_outputs[start..start + n_embd]
    }

    /// Lets a function change the heads of some layers and the outputs of others, given in ascending
    /// order, from the next decode on; `None` takes it out. It is called once per layer and ubatch, by the
    /// thread that decodes, after steering and before anything reads or observes the values. The graph is
    /// cut there and all columns are copied, there and back: slow, for what no vector can say. What it
    /// fails with fails the decode; what it panics with goes on after it. What was decoded before is
    /// forgotten.
    ///
    /// # Errors
    /// As [`Session::observe`] and [`Session::observe_outputs`]; [`Error::Decode`] for want of memory.
    pub fn set_editor(
        &mut self,
        editor: Option<Editor>,
        heads: &[usize],
        outputs: &[usize],
    ) -> Result<()> {
        self.require_tap()?;
        self.check_heads(heads)?;
        self.check_outputs(outputs)?;
        let widths = [self.width(), self.model.geometry().n_embd];
        let set = self.context.set_editor(editor, widths, [heads, outputs]);
        set.map_err(|error| tap_error(&self.model, error))?;
        self.clear();
        Ok(())
    }

    fn check_heads(&self, layers: &[usize]) -> Result<()> {
        let widths = self.model.widths();
        if let Some(layer) = layers.iter().find(|&&l| widths.get(l).is_none_or(|&w| w == 0)) {
            return Err(Error::invalid(
                format!("layer {layer}"),
                "the model has no attention there",
            ));
        }
        check_order(layers)
    }

    fn check_outputs(&self, layers: &[usize]) -> Result<()> {
        let geometry = self.model.geometry();
        let (tap, n_layer) = (self.context.tap(), geometry.n_layer);
        if let Some(layer) = layers.iter().find(|&&layer| layer >= n_layer) {
            let problem = format!("the model has {n_layer} layers");
            return Err(Error::invalid(format!("layer {layer}"), problem));
        }
        let is_silent = |&&layer: &&usize| tap.width_seen(Kind::Output, layer) != geometry.n_embd;
        if let Some(layer) = layers.iter().find(is_silent) {
            return Err(Error::Unsupported {
                architecture: self.model.architecture().to_owned(),
                problem: format!(
                    "the output of layer {layer} does not come by as `l_out-{layer}`: look at its \
                     heads instead"
                ),
            });
        }
        check_order(layers)
    }

    pub(super) fn width(&self) -> usize {
        let geometry = self.model.geometry();
        geometry.n_head * geometry.d_head
    }
}

impl Look {
    /// Makes room for so many tokens; the widths of heads and of outputs.
    pub(super) fn make_room(&mut self, n_want: usize, width: usize, n_embd: usize) {
        self.n_want = n_want;
        self.seen_heads.resize(self.heads.len() * n_want * width, 0.0);
        self.seen_outputs.resize(self.outputs.len() * n_want * n_embd, 0.0);
    }

    /// The place of a layer's token among all.
    fn start(&self, i_layer: usize, i_want: usize) -> usize {
        assert!(i_want < self.n_want, "the last decode observed {} tokens", self.n_want);
        i_layer * self.n_want + self.want_place.get(i_want).copied().unwrap_or(i_want)
    }
}

fn check_order(layers: &[usize]) -> Result<()> {
    match layers.is_sorted_by(|a, b| a < b) {
        true => Ok(()),
        false => Err(Error::invalid("layers to observe", "they are not in ascending order")),
    }
}
