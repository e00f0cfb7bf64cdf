//! Sidecars to test with.

use candor::Model;
use candor::steer::{About, DirectionKind, Positions, Selection, Sidecar, SteeringVector};

/// A sidecar named `truth` of this vector for this model.
pub fn sidecar(model: &Model, vector: &SteeringVector, alpha: f32) -> Sidecar {
    let about = About {
        architecture: model.architecture().to_owned(),
        name: "truth".to_owned(),
        description: None,
        license: None,
        author: None,
        model_name: model.name().unwrap_or_default().to_owned(),
        model_fingerprint: model.fingerprint().to_owned(),
        candor_version: env!("CARGO_PKG_VERSION").to_owned(),
        direction: DirectionKind::MassMean,
        alpha,
        positions: Positions::Generated,
        seed: 0,
        data_name: "questions".to_owned(),
        data_sha256: "00".repeat(32),
        prompt: "Q: {question} A: {answer}".to_owned(),
        split: "halves".to_owned(),
        selection: Selection::Accuracy,
        head_accuracy: Vec::new(),
        head_effect: Vec::new(),
        head_cost: Vec::new(),
    };
    Sidecar { vector: vector.clone(), about }
}
