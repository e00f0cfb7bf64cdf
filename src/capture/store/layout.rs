//! Where everything stands in a store's file.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Serialize;

use super::RowSet;
use crate::data::sha256;
use crate::{Error, Result};

/// Everything about a store but its activations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Layers of the model.
    pub n_layer: usize,
    /// The layers that have attention, ascending: all of them but in hybrid models.
    pub layers: Vec<usize>,
    /// Heads per layer.
    pub n_head: usize,
    /// Values per head.
    pub d_head: usize,
    /// `[n_row]`: whether the text is true.
    pub labels: Vec<bool>,
    /// `[n_row]`: the question that the text answers.
    pub groups: Vec<usize>,
    /// `[n_next, 2]`: the question that a `next` text begins with and the one that follows; may be
    /// empty.
    pub next_groups: Vec<[usize; 2]>,
    /// What is captured. An unfinished capture is taken up only where these strings are the same,
    /// so they name all that the activations and their batches depend on: the model's fingerprint,
    /// the data's hash, the prompt form, the size of batches, …
    pub metadata: BTreeMap<String, String>,
}

/// The file that a [`Layout`] describes: its first bytes, and where the activations stand.
///
/// The tensors of integers come first; activations follow, layer by layer, the main rows of all
/// layers before the `next` rows.
pub(super) struct Image {
    /// All that comes before the activations: the header, labels and groups.
    pub prologue: Vec<u8>,
    /// The size of the file in bytes.
    pub size: usize,
    /// Values in a row of one layer: `n_head * d_head`.
    pub n_value: usize,
    layers: Vec<usize>,
    n_row: usize,
    n_next: usize,
}

/// A safetensors header; the maps are ordered, so the same layout gives the same bytes.
#[derive(Serialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

/// Of a hybrid model, under `__metadata__`: its number of layers, and those with attention.
pub(super) const N_LAYER_KEY: &str = "model.n_layer";
pub(super) const LAYERS_KEY: &str = "model.attention_layers";

/// The data begins at a multiple of this many bytes.
const ALIGNMENT: usize = 64;

impl Image {
    /// Lays out the file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if labels and groups differ in number, a dimension is zero, or the file
    /// would be larger than this machine can address.
    pub fn new(layout: &Layout) -> Result<Self> {
        let (n_row, n_next) = (layout.labels.len(), layout.next_groups.len());
        if layout.groups.len() != n_row {
            let problem = format!("{n_row} labels and {} groups", layout.groups.len());
            return Err(Error::invalid("store layout", problem));
        }
        let n_value = layout.n_head.checked_mul(layout.d_head).unwrap_or_default();
        if n_row == 0 || layout.layers.is_empty() || n_value == 0 {
            return Err(Error::invalid("store layout", "a dimension is zero or too large"));
        }
        let is_ascending = layout.layers.is_sorted_by(|a, b| a < b);
        if !is_ascending || layout.layers.last().is_some_and(|&last| last >= layout.n_layer) {
            let problem = format!("{:?} are not layers of {}", layout.layers, layout.n_layer);
            return Err(Error::invalid("store layout", problem));
        }
        let (header, data_size) = header(layout)
            .ok_or_else(|| Error::invalid("store layout", "the file would be too large"))?;

        let mut prologue = (header.len() as u64).to_le_bytes().to_vec();
        prologue.extend(header);
        prologue.resize(prologue.len().next_multiple_of(ALIGNMENT), b' ');
        let size = prologue.len() + data_size;
        let header_len = (prologue.len() - 8) as u64;
        prologue[..8].copy_from_slice(&header_len.to_le_bytes());
        let labels = layout.labels.iter().map(|&label| u64::from(label));
        let groups = layout
            .groups
            .iter()
            .chain(layout.next_groups.as_flattened())
            .map(|&group| group as u64);
        prologue.extend(labels.chain(groups).flat_map(u64::to_le_bytes));

        Ok(Self { prologue, size, n_value, layers: layout.layers.clone(), n_row, n_next })
    }

    /// What tells one capture from another: the hash of the prologue.
    pub fn identity(&self) -> String {
        sha256(&self.prologue)
    }

    /// The byte at which a row of a layer begins.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such row or layer.
    pub fn offset(&self, set: RowSet, row: usize, layer: usize) -> Result<usize> {
        let (rows_before, n_row) = match set {
            RowSet::Main => (0, self.n_row),
            RowSet::Next => (self.layers.len() * self.n_row, self.n_next),
        };
        let rank = self.layers.binary_search(&layer).ok().filter(|_| row < n_row);
        let Some(rank) = rank else {
            let what = format!("row {row} of layer {layer} ({set:?})");
            let problem = format!("the store has {n_row} rows of the layers {:?}", self.layers);
            return Err(Error::invalid(what, problem));
        };
        let index = rows_before + rank * n_row + row;
        Ok(self.prologue.len() + index * self.n_value * size_of::<f32>())
    }
}

/// The header's JSON and the size of the data behind it; `None` if that is too large.
fn header(layout: &Layout) -> Option<(Vec<u8>, usize)> {
    let (n_row, n_next) = (layout.labels.len(), layout.next_groups.len());
    let sets = [(RowSet::Main, n_row), (RowSet::Next, n_next)];
    let sets = &sets[..if n_next == 0 { 1 } else { 2 }];

    let mut list = vec![("label".to_owned(), Dtype::I64, vec![n_row])];
    for &(set, n_row) in sets {
        let shape = if set == RowSet::Main { vec![n_row] } else { vec![n_row, 2] };
        list.push((set.tensor("group"), Dtype::I64, shape));
    }
    for &(set, n_row) in sets {
        for &layer in &layout.layers {
            let shape = vec![n_row, layout.n_head, layout.d_head];
            list.push((set.activations(layer), Dtype::F32, shape));
        }
    }

    let mut tensors = BTreeMap::new();
    let mut end = 0_usize;
    for (name, dtype, shape) in list {
        let start = end;
        let n_value = shape.iter().try_fold(1, |n: usize, &dimension| n.checked_mul(dimension))?;
        end = n_value.checked_mul(dtype.bitsize() / 8)?.checked_add(start)?;
        tensors.insert(name, TensorInfo { dtype, shape, data_offsets: (start, end) });
    }
    let mut metadata = layout.metadata.clone();
    if layout.layers.len() < layout.n_layer {
        let layers: Vec<String> = layout.layers.iter().map(usize::to_string).collect();
        metadata.insert(N_LAYER_KEY.into(), layout.n_layer.to_string());
        metadata.insert(LAYERS_KEY.into(), layers.join(","));
    }
    metadata.insert("candor.version".into(), env!("CARGO_PKG_VERSION").into());
    let json = serde_json::to_vec(&Header { metadata, tensors }).ok()?;
    // Room for the header itself, far below the limit of any file system.
    (end < isize::MAX as usize / 2).then_some((json, end))
}
