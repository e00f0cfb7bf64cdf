//! What a control vector's file says.

use serde::Serialize;

use super::sidecar::Layer;
use crate::Result;
use crate::cli::show::table::{facts, short, table};
use crate::export::ControlVector;
use crate::gguf::{Gguf, Value};

/// A control vector.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct ControlFacts {
    path: String,
    /// The architecture that it is for; empty where the file says nothing.
    model_hint: String,
    layer_count: usize,
    n_embd: usize,
    directions: Vec<Layer>,
    /// Where candor exported it from: null where another program wrote the file.
    export: Option<Export>,
}

/// What candor's export says of itself.
#[derive(Debug, schemars::JsonSchema, Serialize)]
struct Export {
    vector: String,
    model_fingerprint: Option<String>,
    alpha: Option<f64>,
    method: Option<String>,
    /// KL(heads edited ‖ control vector) on neutral prose, in nats per token.
    neutral_kl: Option<f64>,
    neutral_top1: Option<f64>,
}

impl ControlFacts {
    pub(super) fn of(file: &Gguf) -> Result<Self> {
        let vector = ControlVector::of(file)?;
        let text = |key: &str| Some(file.get(key)?.as_str()?.to_owned());
        let number = |key: &str| file.get(key).and_then(Value::as_float);
        Ok(Self {
            path: file.path().display().to_string(),
            n_embd: vector.n_embd(),
            directions: vector.directions.iter().map(Layer::of).collect(),
            export: text("candor.export.vector").map(|vector| Export {
                vector,
                model_fingerprint: text("candor.export.model"),
                alpha: number("candor.export.alpha"),
                method: text("candor.export.method"),
                neutral_kl: number("candor.export.neutral.kl"),
                neutral_top1: number("candor.export.neutral.top1"),
            }),
            model_hint: vector.model_hint,
            layer_count: vector.layer_count,
        })
    }

    pub(super) fn text(&self) -> String {
        let hint = if self.model_hint.is_empty() { "unknown" } else { &self.model_hint };
        let mut rows = vec![
            ("control vector", self.path.clone()),
            ("for the architecture", hint.to_owned()),
            ("directions", format!("{} of {} values", self.directions.len(), self.n_embd)),
        ];
        if let Some(export) = &self.export {
            let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
            rows.extend([
                ("exported from", export.vector.clone()),
                ("model fingerprint", or_unknown(export.model_fingerprint.clone())),
                ("alpha", or_unknown(export.alpha.map(short))),
                ("made by", or_unknown(export.method.clone())),
            ]);
            if let (Some(kl), Some(top1)) = (export.neutral_kl, export.neutral_top1) {
                let agrees = 100.0 * top1;
                let distance =
                    format!("KL {kl:.4} nats per token, top-1 {agrees:.1} %, on neutral prose");
                rows.push(("from the heads' edit", distance));
            }
        }
        let lengths: Vec<_> = self
            .directions
            .iter()
            .map(|of| [of.layer.to_string(), format!("{:.4}", of.length)])
            .collect();
        format!("{}\n{}", facts(&rows), table(["layer", "length"], &lengths))
    }
}
