//! What steering costs: every path beside the plain model, in one process.
//!
//! A round gives one sample of every path and phase. In it the paths take turns of at least 20 ms
//! (one decode, where that is longer) in random order, forth and back, so that each has early turns
//! and late ones; a sample is the sum of its turns. Work that is shorter than half a second is
//! repeated within the sample. Every round makes its contexts anew, so that where their memory lies
//! is drawn anew, too, and warms each up with a prefill that is not counted. A ratio is that of a
//! path's sample to the plain model's of the same round.
//!
//! All paths decode the same random tokens from an empty cache: there a token is cheapest, and what
//! comes on top of it weighs most. Before anything is timed, their logits are compared: a path that
//! does nothing, or another thing, is left out, with the reason.

mod capture;
mod check;
mod facts;
mod lane;
mod overhead;
mod pace;
mod params;
mod path;
mod probe;
mod report;
mod rounds;
mod select;
mod stats;
mod vectors;
mod work;

pub use capture::{CaptureSpeed, measure_capture, prompts};
pub use check::Checks;
#[cfg(feature = "sight")]
pub(crate) use facts::LLAMA_CPP_SYS;
pub use facts::{Build, Device, Machine, ModelFacts};
pub use overhead::measure;
pub use params::OverheadParams;
pub use path::{BenchPath, Phase};
pub use probe::{N_ROW_MIN, ProbeSpeed, Synthetic, measure_probes};
pub use report::{ContextMemory, Memory, Overhead, Progress, Sample, Skipped};
pub use select::{SelectSpeed, measure_select};
pub use stats::{N_ROUND_MIN, Ratio, median};
