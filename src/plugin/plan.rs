//! What a program is steered by, as bytes.

use std::collections::BTreeMap;

use crate::geometry::attention_widths;
use crate::gguf::{Gguf, TensorInfo, TensorType};
use crate::steer::{Positions, SteeringVector};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"CANDPLAN";
const VERSION: u32 = 1;

/// The slot that stands for all that no other speaks of.
pub const DEFAULT_SLOT: Option<u32> = None;

/// Vectors and strengths for the slots of a program, and what its model is known by.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which tokens are steered.
    pub positions: Positions,
    /// Strengths by slot (llama-server's `id_slot`, llama.cpp's sequence), [`DEFAULT_SLOT`] for all
    /// others.
    pub alphas: BTreeMap<Option<u32>, f32>,
    /// What it is, in words, for people.
    pub label: String,
    /// Anything, for whoever asks the running program.
    pub settings: String,
}

impl Plan {
    /// The bytes that the library reads (`vendor/headtap_plan.h`) for a vector of heads and the file of
    /// its model.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a vector of another geometry, for one with directions of layers, which
    /// other programs' graphs have no place for, for offsets that are not finite and for a model
    /// without normalizations to know it by; what reading the model gives.
    pub fn to_bytes(&self, model: &Gguf, vector: &SteeringVector) -> Result<Vec<u8>> {
        if vector.layers().is_some() {
            let problem = "adds to the outputs of layers, for which other programs' graphs have no \
                           place: give those to the program as a control vector (candor export)";
            return Err(Error::invalid("steering vector", problem));
        }
        let widths = attention_widths(model)?;
        let mut rows = Vec::new();
        let mut rules = Vec::new();
        let mut default_row = 0;
        for (&slot, &alpha) in &self.alphas {
            let offsets = vector.offsets(alpha);
            if offsets.values().flatten().any(|offset| !offset.is_finite()) {
                let problem = format!("at alpha {alpha} its offsets are not finite");
                return Err(Error::invalid("steering vector", problem));
            }
            if let Some(layer) =
                offsets.iter().find_map(|(&l, o)| (widths.get(l) != Some(&o.len())).then_some(l))
            {
                let problem = "the model has no attention of this width there";
                return Err(Error::invalid(format!("layer {layer}"), problem));
            }
            rows.push(offsets);
            match slot {
                None => default_row = rows.len(),
                Some(slot) => rules.push((slot, rows.len())),
            }
        }

        let mut out = Bytes(MAGIC.to_vec());
        out.number(VERSION as usize);
        out.number(match self.positions {
            Positions::All => 0,
            Positions::Generated => 1,
        });
        out.number(default_row);
        out.number(widths.len());
        widths.iter().for_each(|&width| out.number(width));
        out.number(rows.len() + 1);
        for offsets in &rows {
            out.number(offsets.len());
            for (&layer, values) in offsets {
                out.number(layer);
                out.bytes(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        out.number(rules.len());
        for (slot, row) in rules {
            out.number(slot as usize);
            out.number(row);
        }
        let witnesses = witnesses(model, &widths)?;
        out.number(witnesses.len());
        for witness in witnesses {
            out.text(witness.name.as_bytes());
            out.text(model.bytes(witness));
        }
        out.text(self.label.as_bytes());
        out.text(self.settings.as_bytes());
        Ok(out.0)
    }
}

/// Of each layer with attention the first normalization, and the last one of all: F32 in every
/// quantization of a model, and part of its fingerprint.
fn witnesses<'a>(model: &'a Gguf, widths: &[usize]) -> Result<Vec<&'a TensorInfo>> {
    let find = |name: &str| {
        model.tensor(name).filter(|tensor| tensor.kind == TensorType::F32 && name.len() < 64)
    };
    const NAMES: [&str; 4] = ["attn_norm", "post_attention_norm", "attn_q_norm", "post_ffw_norm"];
    let of_layer =
        |layer: usize| NAMES.iter().find_map(|name| find(&format!("blk.{layer}.{name}.weight")));
    let layers = (0..widths.len()).filter(|&layer| widths[layer] > 0);
    let found: Vec<_> = layers.filter_map(of_layer).chain(find("output_norm.weight")).collect();
    if found.is_empty() {
        let problem = "it has no normalization in F32, by which a running program could tell it \
                       from others";
        return Err(Error::invalid(model.path().display().to_string(), problem));
    }
    Ok(found)
}

/// Numbers of four bytes, little-endian, and runs of bytes padded to four.
struct Bytes(Vec<u8>);

impl Bytes {
    /// Counts of things in memory, far below 2^31.
    fn number(&mut self, number: usize) {
        self.0.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.bytes(bytes);
    }
}
