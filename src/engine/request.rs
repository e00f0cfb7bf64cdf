//! What is asked of an engine, and what it says.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::Reader;
use crate::data::sha256;
use crate::probe::Reading;
use crate::session::{SamplingParams, Shaping};
use crate::steer::{Positions, SteeringVector, add};
use crate::{Error, Result};

/// What steered a token: 0 for nothing.
pub(super) type Key = u128;

/// A vector and its strength.
pub type SteerPart = (Arc<SteeringVector>, f32);

/// What steers an answer.
#[derive(Debug, Clone)]
pub struct Steer {
    parts: Arc<[SteerPart]>,
    positions: Positions,
    /// Steers only after tokens whose reading is below this.
    gate: Option<f32>,
    key: Key,
    /// What is added to the heads of each layer, F32 `[n_head * d_head]`.
    offsets: Arc<BTreeMap<usize, Vec<f32>>>,
}

impl Steer {
    /// Vectors, each at its strength; `None` where they add nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a strength that is not finite or adds more than 1e6 to any value, and for
    /// vectors of different geometries.
    pub fn new(parts: Vec<SteerPart>, positions: Positions) -> Result<Option<Self>> {
        let mut offsets: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        let mut bytes = Vec::new();
        let mut adds = false;
        for (vector, alpha) in &parts {
            let (first, _) = &parts[0];
            vector.check_geometry(first.n_layer(), first.n_head(), first.d_head())?;
            vector.check_strength(*alpha)?;
            let (heads, layers) = (vector.offsets(*alpha), vector.layer_offsets(*alpha));
            for (kind, offsets) in [(0_u8, &heads), (1, &layers)] {
                for (layer, values) in offsets {
                    bytes.push(kind);
                    bytes.extend((*layer as u64).to_le_bytes());
                    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                    adds |= values.iter().any(|value| *value != 0.0);
                }
            }
            for (layer, values) in heads {
                match offsets.get_mut(&layer) {
                    Some(sum) => add(sum, &values),
                    None => drop(offsets.insert(layer, values)),
                }
            }
        }
        if !adds {
            return Ok(None);
        }
        // 128 bits of a hash are as good as the values themselves.
        let key = u128::from_str_radix(&sha256(&bytes)[..32], 16).unwrap_or(1).max(1);
        let (parts, offsets) = (parts.into(), Arc::new(offsets));
        Ok(Some(Self { parts, positions, gate: None, key, offsets }))
    }

    /// The same, but only after tokens of the answer that the probes read below `gate`, and before the
    /// first one was read.
    #[must_use]
    pub fn gated(self, gate: Option<f32>) -> Self {
        Self { gate, ..self }
    }

    /// The vectors with their strengths.
    #[must_use]
    pub fn parts(&self) -> &[SteerPart] {
        &self.parts
    }

    /// Which tokens are steered.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// Below which reading of the last token the next one is steered; `None`: always.
    #[must_use]
    pub fn gate(&self) -> Option<f32> {
        self.gate
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    pub(super) fn offsets(&self) -> &BTreeMap<usize, Vec<f32>> {
        &self.offsets
    }
}

/// What an answer must keep to, such as a grammar.
pub trait Constraint: Send {
    /// Gives every token that may not follow a logit of -∞.
    ///
    /// # Errors
    /// Where it cannot tell; the answer ends by that.
    fn restrict(&mut self, logits: &mut [f32]) -> Result<()>;

    /// Hears which token follows.
    ///
    /// # Errors
    /// As [`Constraint::restrict`].
    fn accept(&mut self, token: i32) -> Result<()>;
}

/// What is to be answered, and how.
#[non_exhaustive]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<i32>,
    /// Most tokens to write.
    pub n_predict: usize,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// What is done to the logits before.
    pub shaping: Shaping,
    /// Strings before which the answer ends.
    pub stops: Vec<String>,
    /// What it keeps to.
    pub constraint: Option<Box<dyn Constraint>>,
    /// What steers it.
    pub steer: Option<Steer>,
    /// Reads its tokens: for [`Token::reading`] and for a gate.
    pub reader: Option<Arc<Reader>>,
    /// Whether tokens come with their readings, which is after they were computed.
    pub readings: bool,
    /// Whether tokens come with their log probability, and with those of so many of the likeliest.
    pub log_probabilities: Option<usize>,
    /// When it is given up.
    pub deadline: Option<Instant>,
    /// Whose it is: places go round among clients.
    pub client: u64,
}

setters! {
    Request {
        with_prompt(prompt: Vec<i32>),
        with_n_predict(n_predict: usize),
        with_sampling(sampling: SamplingParams),
        with_shaping(shaping: Shaping),
        with_stops(stops: Vec<String>),
        with_constraint(constraint: Option<Box<dyn Constraint>>),
        with_steer(steer: Option<Steer>),
        with_reader(reader: Option<Arc<Reader>>),
        with_readings(readings: bool),
        with_log_probabilities(log_probabilities: Option<usize>),
        with_deadline(deadline: Option<Instant>),
        with_client(client: u64),
    }
}

impl Request {
    /// A greedy answer of at most `n_predict` tokens, not steered.
    #[must_use]
    pub fn new(prompt: Vec<i32>, n_predict: usize) -> Self {
        Self {
            prompt,
            n_predict,
            sampling: SamplingParams::greedy(),
            shaping: Shaping::default(),
            stops: Vec::new(),
            constraint: None,
            steer: None,
            reader: None,
            readings: false,
            log_probabilities: None,
            deadline: None,
            client: 0,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("n_prompt", &self.prompt.len())
            .field("n_predict", &self.n_predict)
            .field("steer", &self.steer)
            .finish_non_exhaustive()
    }
}

/// A token and the natural logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenProbability {
    /// The token.
    pub token: i32,
    /// ln p, of the model's own distribution: before penalties, temperature and grammars.
    pub log_probability: f32,
}

/// The chosen token's probability, and the likeliest ones'.
#[derive(Debug, Clone, PartialEq)]
pub struct Likely {
    /// ln p of the chosen token.
    pub log_probability: f32,
    /// The likeliest, best first.
    pub top: Vec<TokenProbability>,
}

/// A token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: i32,
    /// Text that is certain by it: nothing as long as a character or a stop string may be unfinished.
    pub text: String,
    /// Where [`Request::log_probabilities`] asked.
    pub likely: Option<Likely>,
    /// How true the probes read it to be, where [`Request::readings`] asked.
    pub reading: Option<Reading>,
}

/// Why an answer is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The model ended it, or a stop string came.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
}

/// What an engine says of a request.
#[derive(Debug)]
pub enum Event {
    /// It has a place: of its prompt's tokens, `n_cached` need not be computed.
    Begun {
        /// Tokens that were kept from another request.
        n_cached: usize,
    },
    /// The next token.
    Token(Token),
    /// It is over.
    Done {
        /// Why.
        reason: Reason,
        /// Text that was held back and is certain now.
        rest: String,
    },
    /// It cannot go on.
    Failed(Error),
}
