//! What a request's body says, without a server: for tests of what comes from outside.

use super::ask::{Asked, Form};
use super::body::Body;
use super::vectors::Vectors;
use crate::Geometry;
use crate::import::{Base, Origin, sidecar};
use crate::steer::{DirectionKind, Positions, SteeringVector};

/// Whether a body would be understood, as a chat or as a completion, by the server of a model of
/// `n_vocab` tokens with one vector, `truth`.
#[must_use]
pub fn understands(body: &[u8], n_vocab: usize, vector: &SteeringVector) -> bool {
    let hash = "0".repeat(64);
    let base = Base {
        architecture: String::new(),
        name: String::new(),
        fingerprint: hash.clone(),
        geometry: Geometry {
            n_layer: vector.n_layer(),
            n_head: vector.n_head(),
            n_head_kv: vector.n_head(),
            d_head: vector.d_head(),
            n_embd: vector.n_head() * vector.d_head(),
        },
    };
    let origin = Origin { name: String::new(), sha256: hash };
    let how = (DirectionKind::Given, 1.0, Positions::Generated);
    let vectors = Vectors::of(sidecar(&base, vector.clone(), "truth", origin, how));
    let is_understood = |form| {
        let asked = Body::parse(body).and_then(|body| Asked::parse(form, body, n_vocab, &vectors));
        match asked {
            Ok(_) => true,
            Err(refusal) => {
                // What is refused says why, as JSON that anybody can read.
                assert!(refusal.json()["error"]["message"].is_string());
                false
            }
        }
    };
    let [chat, completion] = [Form::Chat, Form::Completion].map(is_understood);
    chat || completion
}
