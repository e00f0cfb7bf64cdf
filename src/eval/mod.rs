//! What steering does: to the choice between true and false answers, to the text that is written,
//! and to everything else the model says.
//!
//! An [`Evaluator`] holds one session. Whatever it measures, it measures under the vector that is
//! loaded in its bank ([`Evaluator::steer_with`]), or under none.

mod agreement;
mod budget;
mod divergence;
mod effect;
mod gated;
mod greedy;
mod mc;
mod neutral;
mod read;
mod several;

use crate::capture::plan::Limits;
use crate::export::ControlVector;
use crate::ffi::means::LayerMeans;
use crate::session::{Path, Session, SessionParams};
use crate::steer::SteeringVector;
use crate::{Error, Model, Result};

pub use self::agreement::Agreement;
pub use self::divergence::Divergence;
pub(crate) use self::divergence::windows_of;
pub use self::effect::{Cost, Effects, Trials};
pub use self::greedy::{Cut, Written, is_true};
pub use self::mc::{McScore, QuestionScore};
pub use self::neutral::neutral_prose;
pub(crate) use self::read::Spent;
pub use self::read::TokenCount;

/// The bank row that evaluations steer with.
const ROW: usize = 1;
/// Texts scored in one batch.
const N_SEQ: usize = 64;
/// The sequence that holds what all texts begin with.
const HOLDER: usize = N_SEQ;
/// Most memory for the logits of a batch, in bytes.
const LOGITS_BYTES: usize = 256 << 20;
/// Questions or texts that are scored at once, and lost at most when a run is stopped.
pub(crate) const N_CHUNK: usize = 16;

/// Which tokens are steered where answers are scored (ITI, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// `generated`: the last prompt token and every one after it, so that all that predict an
    /// answer token are steered.
    #[default]
    Generated,
    /// `all`: every token of prompt and answer.
    All,
    /// `answer`: the answer's own tokens. What predicts its first one is not steered.
    Answer,
    /// `original`: from the second token of the answer on, as in the ITI paper's code, whose offset
    /// leaves out the first one.
    Original,
}

impl Policy {
    /// The first token to be steered of a text whose prompt has `n_prompt`.
    fn steer_from(self, n_prompt: usize) -> usize {
        match self {
            Self::Generated => n_prompt.saturating_sub(1),
            Self::All => 0,
            Self::Answer => n_prompt,
            Self::Original => n_prompt + 1,
        }
    }

    /// The name that options and files use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Generated => "generated",
            Self::All => "all",
            Self::Answer => "answer",
            Self::Original => "original",
        }
    }
}

impl std::str::FromStr for Policy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Generated, Self::All, Self::Answer, Self::Original]
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| {
                let problem = format!("`{name}` is not `generated`, `all`, `answer` or `original`");
                Error::invalid("policy", problem)
            })
    }
}

/// Measures a model under steering.
pub struct Evaluator {
    session: Session,
    limits: Limits,
    row: usize,
    /// What sequence [`HOLDER`] holds.
    held: Vec<i32>,
    n_token: TokenCount,
    account: read::Account,
    n_row: usize,
    policy: Policy,
    cut: Cut,
    /// What decides about each token, where something does.
    gate: Option<gated::Gate>,
    /// Whether answers that are scored end in a full stop, where they have none.
    full_stop: bool,
}

impl Evaluator {
    /// An evaluator whose texts have at most `n_ctx` tokens each (0: what the model was trained
    /// with, at most 2048).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for recurrent and hybrid models, and what [`Session::new`] gives.
    pub fn new(model: &Model, n_ctx: usize, n_threads: Option<usize>) -> Result<Self> {
        Self::with(model, n_ctx, SessionParams { n_threads, ..SessionParams::default() })
    }

    /// The same, in a session of other settings. Its sizes are the evaluator's own.
    ///
    /// # Errors
    /// As [`Evaluator::new`].
    pub fn with(model: &Model, n_ctx: usize, params: SessionParams) -> Result<Self> {
        Self::build(model, n_ctx, params, false)
    }

    /// An evaluator whose session adds up what the layers give.
    pub(crate) fn with_means(model: &Model, n_ctx: usize, params: SessionParams) -> Result<Self> {
        Self::build(model, n_ctx, params, true)
    }

    fn build(model: &Model, n_ctx: usize, params: SessionParams, means: bool) -> Result<Self> {
        if model.is_recurrent() {
            return Err(Error::Unsupported {
                architecture: model.architecture().to_owned(),
                problem: "keeps a running state; evaluation compares sequences of one batch, \
                          which such models compute in an order of their own"
                    .to_owned(),
            });
        }
        let longest = Self::longest(model, n_ctx);
        // Every token of a batch may want its logits.
        let n_logits = LOGITS_BYTES / (4 * model.n_vocab().max(1));
        let limits = Limits { n_token: n_logits.clamp(64, 512), longest, n_seq: N_SEQ };
        let n_row = params.n_row.max(2);
        let params = SessionParams {
            // Room for what is held beside a batch.
            n_ctx: longest + limits.n_token,
            n_batch: limits.n_token.max(longest),
            n_seq_max: N_SEQ + 1,
            kv_unified: true,
            n_row,
            ..params
        };
        let geometry = model.geometry();
        let n_ubatch = params.n_ubatch.min(params.n_batch);
        let means = means.then(|| LayerMeans::new(geometry.n_layer, geometry.n_embd, n_ubatch));
        let session = Session::with_means(model, &params, means)?;
        Ok(Self {
            session,
            limits,
            row: 0,
            held: Vec::new(),
            n_token: TokenCount::default(),
            account: read::Account::default(),
            n_row,
            policy: Policy::default(),
            cut: Cut::default(),
            gate: None,
            full_stop: true,
        })
    }

    /// Steers what is measured from now on by `alpha * sigma * theta` of a vector's heads, or by
    /// nothing.
    ///
    /// # Errors
    /// What [`Session::set_vector`] gives.
    pub fn steer_with(&mut self, vector: Option<(&SteeringVector, f32)>) -> Result<()> {
        self.drop_gate()?;
        self.session.set_vector(ROW, vector)?;
        self.row = if vector.is_some() { ROW } else { 0 };
        Ok(())
    }

    /// Adds a control vector's directions to the layers' outputs at every token, whatever the policy,
    /// or nothing any more.
    ///
    /// # Errors
    /// What [`Session::set_control_vector`] gives.
    pub fn control_with(&mut self, vector: Option<&ControlVector>) -> Result<()> {
        self.held.clear();
        self.session.set_control_vector(vector)
    }

    /// Whether a layer was steered in the graph when it was last computed.
    #[must_use]
    pub fn is_in_graph(&self, layer: usize) -> bool {
        self.session.path(layer) == Path::InGraph
    }

    /// Whether a layer's output was steered in the graph when it was last computed.
    #[must_use]
    pub fn is_output_in_graph(&self, layer: usize) -> bool {
        self.session.output_path(layer) == Path::InGraph
    }

    /// Whether answers that are scored get a final full stop (the default, as in the ITI paper's code).
    /// For answers of one word, after which a model may write no stop, its likelihood says nothing of
    /// them.
    pub fn set_full_stop(&mut self, on: bool) {
        self.full_stop = on;
    }

    /// Scores and writes answers under another policy from now on. Neutral text is steered at every
    /// token under each.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Cuts written answers elsewhere from now on.
    pub fn set_cut(&mut self, cut: Cut) {
        self.cut = cut;
    }

    /// Where written answers are cut.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// Most tokens of a text in an evaluator made with `n_ctx`.
    #[must_use]
    pub fn longest(model: &Model, n_ctx: usize) -> usize {
        if n_ctx == 0 { model.n_ctx_train().min(2048) } else { n_ctx }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.session.model()
    }
}

/// Natural-log probabilities' normalizer: ln Σ exp(logits), computed in f64.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::log_sum_exp;

    #[test]
    fn log_sum_exp_survives_large_logits() {
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-9);
        assert!((log_sum_exp(&[0.0, f32::NEG_INFINITY])).abs() < 1e-12);
    }
}
