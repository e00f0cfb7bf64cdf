//! What a model's file says.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::command::bake::record_text;
use crate::cli::show::table::{bytes, count, facts, table};
use crate::export::BakeRecord;
use crate::gguf::Gguf;
use crate::steer::list_beside;
use crate::{Error, Geometry, Result, fingerprint};

/// A model.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct ModelFacts {
    path: String,
    name: Option<String>,
    architecture: String,
    fingerprint: String,
    /// Null where there are no heads that could be steered.
    geometry: Option<Geometry>,
    /// Why there is no geometry.
    problem: Option<String>,
    n_param: u64,
    /// Bytes of all tensors.
    n_byte: u64,
    /// The largest share first.
    tensor_types: Vec<TensorTypeFacts>,
    /// Context in tokens that the model was trained with.
    n_ctx_train: Option<u64>,
    n_vocab: Option<usize>,
    has_chat_template: bool,
    /// What was baked into it; null where nothing was.
    baked: Option<BakeRecord>,
    /// Files of a split model; one otherwise.
    n_file: usize,
    /// Files beside the model that are named as its sidecars.
    sidecars: Vec<String>,
}

/// The tensors of one type.
#[derive(Debug, Default, schemars::JsonSchema, Serialize)]
struct TensorTypeFacts {
    #[serde(rename = "type")]
    name: &'static str,
    n_tensor: usize,
    n_byte: u64,
}

impl ModelFacts {
    pub(super) fn of(file: &Gguf) -> Result<Self> {
        let architecture = file.str("general.architecture")?.to_owned();
        let (geometry, problem) = match Geometry::read(file) {
            Ok(geometry) => (Some(geometry), None),
            Err(Error::Unsupported { problem, .. }) => (None, Some(problem)),
            Err(error) => return Err(error),
        };
        let tensors = file.tensors();
        let sidecars = list_beside(file.path())?;
        Ok(Self {
            path: file.path().display().to_string(),
            name: file.opt_str("general.name")?.map(str::to_owned),
            fingerprint: fingerprint(file)?,
            geometry,
            problem,
            n_param: tensors.iter().map(|tensor| tensor.dims.iter().product::<u64>()).sum(),
            n_byte: tensors.iter().map(|tensor| tensor.n_byte).sum(),
            tensor_types: tensor_types(file),
            n_ctx_train: file.opt_uint(&format!("{architecture}.context_length"))?,
            n_vocab: file.opt_strings("tokenizer.ggml.tokens")?.map(<[String]>::len),
            baked: BakeRecord::read(file)?,
            n_file: file.paths().count(),
            has_chat_template: file.opt_str("tokenizer.chat_template")?.is_some(),
            sidecars: sidecars.iter().map(|path| path.display().to_string()).collect(),
            architecture,
        })
    }

    pub(super) fn text(&self) -> String {
        let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        let bits = self.n_byte as f64 * 8.0 / self.n_param.max(1) as f64;
        let heads = match (&self.geometry, &self.problem) {
            (Some(g), _) => format!(
                "{} layers of {} heads ({} key/value heads) of {} values; n_embd {}",
                g.n_layer, g.n_head, g.n_head_kv, g.d_head, g.n_embd
            ),
            (None, problem) => format!("none: {}", problem.as_deref().unwrap_or_default()),
        };
        let mut rows = vec![
            ("model", self.path.clone()),
            ("name", or_unknown(self.name.clone())),
            ("architecture", self.architecture.clone()),
            ("fingerprint", self.fingerprint.clone()),
            ("heads", heads),
            ("parameters", count(self.n_param)),
            ("size", format!("{}, {bits:.2} bits per parameter", bytes(self.n_byte))),
            ("context", or_unknown(self.n_ctx_train.map(|n| format!("{n} tokens")))),
            ("vocabulary", or_unknown(self.n_vocab.map(|n| format!("{n} tokens")))),
            ("chat template", if self.has_chat_template { "yes" } else { "no" }.to_owned()),
        ];
        if self.n_file > 1 {
            rows.insert(1, ("files", format!("{}, of which this is the first", self.n_file)));
        }
        if let Some(record) = &self.baked {
            rows.push(("baked", record_text(record)));
            rows.push(("baked sidecar", record.vector.clone()));
        }
        match self.sidecars.as_slice() {
            [] => rows.push(("sidecars", "none beside the model".to_owned())),
            sidecars => rows.extend(sidecars.iter().map(|path| ("sidecar", path.clone()))),
        }
        let types: Vec<_> = self
            .tensor_types
            .iter()
            .map(|kind| [kind.name.to_owned(), kind.n_tensor.to_string(), bytes(kind.n_byte)])
            .collect();
        format!("{}\n{}", facts(&rows), table(["type", "tensors", "size"], &types))
    }
}

fn tensor_types(file: &Gguf) -> Vec<TensorTypeFacts> {
    let mut types = BTreeMap::<&str, TensorTypeFacts>::new();
    for tensor in file.tensors() {
        let name = tensor.kind.name();
        let facts = types.entry(name).or_default();
        facts.name = name;
        facts.n_tensor += 1;
        facts.n_byte += tensor.n_byte;
    }
    let mut types: Vec<_> = types.into_values().collect();
    types.sort_by_key(|kind| std::cmp::Reverse(kind.n_byte));
    types
}
