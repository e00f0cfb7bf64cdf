//! Vectors that are trained on what is preferred: of two answers to one prompt, the one that is meant to
//! be said.
//!
//! Directions of the heads are taken as they are (a mean difference, say); how strongly each head is
//! moved along its own is trained, so that the steered model prefers the chosen answers more than the
//! model by itself does. The objective is that of direct preference optimization (DPO; Rafailov et al.,
//! 2023) with the unsteered model as reference, in the form that *Personalized Steering of Large
//! Language Models* (BiPO; Cao et al., 2024) gives it for vectors, which have to work in both
//! directions; or plain likelihood of the chosen answers ([`Loss::Sft`]).
//!
//! Nothing is differentiated: each step measures the loss at a few strengths around the present ones,
//! all of them side by side in one batch, a bank row each, and follows the slope (simultaneous
//! perturbation, Spall, 1992, with Adam's step sizes). So it works wherever candor steers, whatever the
//! quantization and the device.

mod forward;
mod objective;

pub use self::forward::{ForwardParams, Measurements, TrainStep, Trained, train};
pub use self::objective::{Loss, Objective, Preference, paired};
