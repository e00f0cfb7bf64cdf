//! Sidecars to test with.

use candor::Model;
use candor::steer::{
    About, DirectionKind, Evidence, Method, Positions, Selection, Sidecar, SteeringVector,
};

/// What a sidecar named `truth` says of itself.
pub fn about(architecture: &str, model_name: &str, model_fingerprint: &str) -> About {
    About {
        architecture: architecture.to_owned(),
        name: "truth".to_owned(),
        description: None,
        license: None,
        author: None,
        languages: Vec::new(),
        base_model: None,
        model_name: model_name.to_owned(),
        model_fingerprint: model_fingerprint.to_owned(),
        candor_version: env!("CARGO_PKG_VERSION").to_owned(),
        direction: DirectionKind::MassMean,
        alpha: 15.0,
        positions: Positions::Generated,
        seed: 0,
        data_name: "questions".to_owned(),
        data_sha256: "00".repeat(32),
        prompt: "Q: {question} A: {answer}".to_owned(),
        split: "halves".to_owned(),
        method: Method::Iti,
        selection: Selection::Accuracy,
        head_accuracy: Vec::new(),
        head_effect: Vec::new(),
        head_cost: Vec::new(),
        evidence: Evidence::default(),
    }
}

/// A sidecar of this vector for this model.
pub fn sidecar(model: &Model, vector: &SteeringVector, alpha: f32) -> Sidecar {
    let name = model.name().unwrap_or_default();
    let about = about(model.architecture(), name, model.fingerprint());
    Sidecar { vector: vector.clone(), about: About { alpha, ..about } }
}
