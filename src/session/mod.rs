//! A context with its tap: decoding, steering, observing.

mod batch;
mod generate;
mod sampling;
mod text;

use llama_cpp_sys_2 as llama;

pub use self::batch::Batch;
pub use self::generate::{End, Generation, Steering};
pub use self::sampling::{Sampler, SamplingParams};
pub use self::text::TextStream;
use crate::ffi::context::{Context, DecodeError};
use crate::ffi::host;
pub use crate::ffi::tap::Path;
use crate::ffi::tap::{Tap, TapError};
use crate::steer::SteeringVector;
use crate::{Error, Model, Result};

/// Storage of the KV cache. Quantized caches are not offered: llama.cpp rotates the attention
/// output of a quantized V cache, so that a head's values are no longer its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheType {
    /// Half precision, llama.cpp's default.
    #[default]
    F16,
    /// Full precision, for parity tests.
    F32,
}

/// How to make a [`Session`].
#[derive(Debug, Clone)]
pub struct SessionParams {
    /// Tokens that the KV cache holds, over all sequences; 0: what the model was trained with.
    pub n_ctx: usize,
    /// Most tokens in one decode, at most `n_ctx`; 0: `n_ctx`, at most 2048.
    pub n_batch: usize,
    /// Most tokens that llama.cpp computes at once.
    pub n_ubatch: usize,
    /// Most sequences at once.
    pub n_seq_max: usize,
    /// Threads; `None`: one per core, or one for a model of less than 20 million parameters.
    pub n_threads: Option<usize>,
    /// Flash attention on or off; `None`: llama.cpp's choice. Only with it does steering run inside
    /// the graph.
    pub flash_attention: Option<bool>,
    /// Storage of the KV cache.
    pub cache: CacheType,
    /// Attach the tap (the default). Without it the context is llama.cpp's own, with no callback:
    /// nothing can be observed or steered. It is what overhead is measured against.
    pub tap: bool,
    /// Steer inside the graph where that is possible (the default), or by read–modify–write only.
    pub in_graph: bool,
    /// Rows of the banks, row 0 (nothing) included: one more than vectors in use at once.
    pub n_row: usize,
    /// Layers to observe at first, ascending: see [`Session::observe`].
    pub observe: Vec<usize>,
}

impl Default for SessionParams {
    fn default() -> Self {
        Self {
            n_ctx: 0,
            n_batch: 0,
            n_ubatch: 512,
            n_seq_max: 1,
            n_threads: None,
            flash_attention: None,
            cache: CacheType::F16,
            tap: true,
            in_graph: true,
            n_row: 2,
            observe: Vec::new(),
        }
    }
}

/// A model at work: its KV cache, its tap, its steering banks.
pub struct Session<'m> {
    model: &'m Model,
    context: Context<'m>,
    n_ctx: usize,
    n_batch: usize,
    n_seq_max: usize,
    is_tapped: bool,
    observe: Vec<usize>,
    /// F32 `[n observed layers, n_want, width]` of the last decode.
    observed: Vec<f32>,
    n_want: usize,
    /// What sequence 0 holds from the last generation that another prompt can begin with, and the
    /// steering it was computed under.
    held: Vec<i32>,
    held_under: Steering,
}

impl<'m> Session<'m> {
    /// Makes a context with a tap over all attention layers and proves with one token that every
    /// one of them passes through it.
    ///
    /// # Errors
    /// [`Error::TapSilent`] or [`Error::Width`] where a layer cannot be tapped, [`Error::Invalid`]
    /// for layers to observe that are not there or not ascending and for a context beyond
    /// `i32::MAX` tokens, [`Error::Unsupported`] for a model that has no KV cache,
    /// [`Error::Decode`] where llama.cpp fails.
    pub fn new(model: &'m Model, params: &SessionParams) -> Result<Self> {
        let n_ctx = if params.n_ctx == 0 { model.n_ctx_train() } else { params.n_ctx };
        let n_batch = if params.n_batch == 0 { 2048 } else { params.n_batch };
        // llama.cpp keeps room for one output per sequence, and aborts where a batch, which it cuts
        // to the context, has less.
        let n_seq_max = params.n_seq_max.max(1);
        let n_cell = n_ctx.max(n_seq_max);
        let n_batch = n_batch.clamp(n_seq_max, n_cell);
        if i32::try_from(n_cell).is_err() {
            let problem = format!("{n_cell} tokens, more than the {} there can be", i32::MAX);
            return Err(Error::invalid("context size", problem));
        }
        let no_memory =
            || Error::Decode { action: "make a tap", problem: "out of memory".to_owned() };
        let tap = Tap::new(model.widths(), params.n_row.max(1), n_batch, params.in_graph)
            .ok_or_else(no_memory)?;

        let mut host_params = Context::default_params();
        host_params.n_ctx = to_u32(n_cell);
        host_params.n_batch = to_u32(n_batch);
        host_params.n_ubatch = to_u32(params.n_ubatch.min(n_batch));
        host_params.n_seq_max = to_u32(n_seq_max);
        let n_threads = params.n_threads.unwrap_or_else(|| default_threads(model));
        host_params.n_threads = i32::try_from(n_threads).unwrap_or(i32::MAX);
        host_params.n_threads_batch = host_params.n_threads;
        host_params.flash_attn_type = match params.flash_attention {
            None => llama::LLAMA_FLASH_ATTN_TYPE_AUTO,
            Some(true) => llama::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            Some(false) => llama::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        let cache = match params.cache {
            CacheType::F16 => llama::GGML_TYPE_F16,
            CacheType::F32 => llama::GGML_TYPE_F32,
        };
        (host_params.type_k, host_params.type_v) = (cache, cache);
        // One cache for all sequences keeps a batch's tokens in order, which is what lets the tap
        // know them, and lets sequences share a prefix.
        host_params.kv_unified = true;

        let context = Context::new(model.inner(), host_params, tap, params.tap).ok_or_else(|| {
            Error::Decode { action: "create a context", problem: host::take_complaints() }
        })?;
        if !context.has_memory() {
            return Err(Error::Unsupported {
                architecture: model.architecture().to_owned(),
                problem: "it has no KV cache: not a model that generates text from left to right"
                    .to_owned(),
            });
        }
        let mut session = Self {
            model,
            context,
            n_ctx: n_ctx.min(model.n_position().unwrap_or(usize::MAX)),
            n_batch,
            n_seq_max,
            is_tapped: params.tap,
            observe: Vec::new(),
            observed: Vec::new(),
            n_want: 0,
            held: Vec::new(),
            held_under: Steering::Off,
        };
        if params.tap || !params.observe.is_empty() {
            session.observe(&params.observe)?;
            session.warm_up()?;
        }
        Ok(session)
    }

    /// Decodes one token and checks that every attention layer passed through the tap.
    fn warm_up(&mut self) -> Result<()> {
        let mut batch = Batch::prompt(&[self.model.warmup_token()]);
        batch.observe(0);
        self.decode(&mut batch)?;
        self.clear();
        let silent: Vec<_> = self
            .model
            .attention_layers()
            .filter(|&layer| self.context.tap().n_seen(layer) == 0)
            .collect();
        if silent.is_empty() {
            return Ok(());
        }
        Err(Error::TapSilent { architecture: self.model.architecture().to_owned(), layers: silent })
    }

    fn require_tap(&self) -> Result<()> {
        if self.is_tapped {
            return Ok(());
        }
        Err(Error::invalid("session", "it was made without a tap, so it cannot observe or steer"))
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// The longest sequence in tokens: [`SessionParams::n_ctx`], or less where the model learned
    /// fewer positions.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Most tokens in one decode.
    #[must_use]
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Most sequences at once.
    #[must_use]
    pub fn n_seq_max(&self) -> usize {
        self.n_seq_max
    }

    /// Observes the head outputs of exactly these layers, given in ascending order, from the next
    /// decode on; what the last one observed is gone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for layers that have no attention or are not in ascending order, and for
    /// a session without a tap.
    pub fn observe(&mut self, layers: &[usize]) -> Result<()> {
        self.require_tap()?;
        let widths = self.model.widths();
        if let Some(layer) = layers.iter().find(|&&l| widths.get(l).is_none_or(|&w| w == 0)) {
            return Err(Error::invalid(
                format!("layer {layer}"),
                "the model has no attention there",
            ));
        }
        if !layers.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid("layers to observe", "they are not in ascending order"));
        }
        self.context.tap_mut().observe(layers).map_err(|e| tap_error(self.model, e))?;
        self.observe = layers.to_vec();
        self.n_want = 0;
        Ok(())
    }

    /// Layers that are observed, ascending.
    #[must_use]
    pub fn observed_layers(&self) -> &[usize] {
        &self.observe
    }

    /// How a layer was handled when it was last computed.
    #[must_use]
    pub fn path(&self, layer: usize) -> Path {
        self.context.tap().path(layer)
    }

    /// The name of the device that computed a layer's attention last, `CPU` for the processor
    /// (see [`devices`](crate::device::devices)); `None` for a layer that never came by.
    #[must_use]
    pub fn device(&self, layer: usize) -> Option<&'static str> {
        self.context.tap().device(layer)
    }

    /// Loads `alpha * sigma * theta` of every head of a vector into bank row `row` (from 1), or
    /// empties the row. Takes effect with the next decode and costs well under a millisecond.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that the banks do not have, an `alpha` that is not finite or
    /// makes an offset so, a vector of another geometry, or a session without a tap.
    pub fn set_vector(&mut self, row: usize, vector: Option<(&SteeringVector, f32)>) -> Result<()> {
        self.require_tap()?;
        let geometry = self.model.geometry();
        let offsets = match vector {
            None => Default::default(),
            Some((_, alpha)) if !alpha.is_finite() => {
                return Err(Error::invalid("alpha", format!("{alpha} is not a finite number")));
            }
            Some((vector, alpha)) => {
                vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
                let offsets = vector.offsets(alpha);
                if offsets.values().flatten().any(|offset| !offset.is_finite()) {
                    let problem = format!("at alpha {alpha} its offsets are not finite");
                    return Err(Error::invalid("steering vector", problem));
                }
                offsets
            }
        };
        let layers: Vec<_> = self.model.attention_layers().collect();
        if let Some(layer) = offsets.keys().find(|layer| !layers.contains(layer)) {
            return Err(Error::invalid(
                format!("layer {layer}"),
                "the model has no attention there",
            ));
        }
        self.held.clear();
        for layer in layers {
            let offset = offsets.get(&layer).map(Vec::as_slice);
            self.context
                .tap_mut()
                .set_row(layer, row, offset)
                .map_err(|e| tap_error(self.model, e))?;
        }
        Ok(())
    }

    /// Computes a batch.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty batch, a token without a sequence or a row that is not there,
    /// [`Error::Unsupported`] for several sequences in one batch of a recurrent or hybrid model,
    /// [`Error::PromptTooLong`] for more tokens than the batch size or the free cells of the cache
    /// and for a position beyond [`Session::n_ctx`],
    /// [`Error::Decode`] where llama.cpp fails; then nothing that was computed is to be used.
    pub fn decode(&mut self, batch: &mut Batch) -> Result<()> {
        if batch.is_empty() {
            return Err(Error::invalid("batch", "it holds no tokens"));
        }
        // llama.cpp reads the first sequence of every token unasked.
        if let Some(i) = batch.arrays.n_seq.iter().position(|&n| n < 1) {
            return Err(Error::invalid(format!("token {i}"), "it belongs to no sequence"));
        }
        if self.model.is_recurrent() && !batch.is_one_set() {
            return Err(Error::Unsupported {
                architecture: self.model.architecture().to_owned(),
                problem: "it computes the tokens of several sequences in an order of its own: \
                          decode one sequence at a time"
                    .to_owned(),
            });
        }
        if batch.len() > self.n_batch {
            return Err(Error::PromptTooLong {
                what: "the batch".to_owned(),
                n_token: batch.len(),
                n_ctx: self.n_batch,
            });
        }
        // llama.cpp rounds the context up, and aborts at a position that the model did not learn.
        let last =
            batch.arrays.positions.iter().max().map_or(0, |&p| usize::try_from(p).unwrap_or(0));
        if last >= self.n_ctx {
            return Err(Error::PromptTooLong {
                what: "the text so far".to_owned(),
                n_token: last + 1,
                n_ctx: self.n_ctx,
            });
        }
        self.held.clear();
        self.n_want = batch.want.len();
        let width = self.width();
        self.observed.resize(self.observe.len() * self.n_want * width, 0.0);
        self.context
            .decode(&mut batch.arrays, &batch.rows, &batch.want, &mut self.observed)
            .map_err(|error| match error {
                DecodeError::Tap(error) => tap_error(self.model, error),
                DecodeError::Host(code) if code.get() == 1 => Error::PromptTooLong {
                    what: "the text of all sequences together".to_owned(),
                    n_token: self.context.n_cell() + 1,
                    n_ctx: self.context.n_cell(),
                },
                DecodeError::Host(code) => Error::Decode {
                    action: "decode",
                    problem: format!("code {code}: {}", host::take_complaints()),
                },
            })
    }

    /// Logits of the batch's token `i`, F32 `[n_vocab]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a token that was not marked with [`Batch::output`].
    pub fn logits(&self, i: usize) -> Result<&[f32]> {
        self.context
            .logits(i)
            .ok_or_else(|| Error::invalid(format!("token {i}"), "its logits were not asked for"))
    }

    /// Attention outputs of the last decode as `wo` reads them (after steering), F32
    /// `[n_head * d_head]`: layer `observed_layers()[i_layer]`, the `i_want`-th observed token.
    ///
    /// # Panics
    /// If the last decode observed fewer tokens or the session fewer layers.
    #[must_use]
    pub fn observed(&self, i_layer: usize, i_want: usize) -> &[f32] {
        assert!(i_want < self.n_want, "the last decode observed {} tokens", self.n_want);
        let width = self.width();
        let start = (i_layer * self.n_want + i_want) * width;
        &self.observed[start..start + width]
    }

    /// Forgets everything that was decoded.
    pub fn clear(&mut self) {
        self.held.clear();
        self.context.clear();
    }

    /// Forgets positions `from..` of a sequence. False where there is no such sequence or the
    /// model's memory cannot be cut (recurrent models): then only [`Session::clear`] helps.
    #[must_use = "recurrent models cannot be cut"]
    pub fn truncate(&mut self, seq: usize, from: usize) -> bool {
        if seq >= self.n_seq_max {
            return false;
        }
        if seq == 0 {
            self.held.truncate(from);
        }
        match (i32::try_from(seq), i32::try_from(from)) {
            (Ok(seq), Ok(from)) => self.context.truncate(seq, from),
            _ => false,
        }
    }

    fn width(&self) -> usize {
        let geometry = self.model.geometry();
        geometry.n_head * geometry.d_head
    }
}

/// Gives the tap's complaint a name that users know.
fn tap_error(model: &Model, error: TapError) -> Error {
    let architecture = model.architecture().to_owned();
    match error {
        TapError::NoMemory => Error::Decode {
            action: "allocate the steering bank",
            problem: "the device of a layer is out of memory".to_owned(),
        },
        TapError::BadArgument => {
            Error::invalid("row, layer or batch", "out of the session's range")
        }
        TapError::WrongWidth { layer, got } => Error::Width {
            architecture,
            layer,
            expected: model.widths().get(layer).copied().unwrap_or(0),
            got,
        },
        TapError::WrongType { layer } => Error::Unsupported {
            architecture,
            problem: format!("the attention output of layer {layer} is not contiguous F32"),
        },
        TapError::Miscount { layer, got: 0 } => {
            Error::TapSilent { architecture, layers: vec![layer] }
        }
        TapError::Miscount { layer, got } => Error::Unsupported {
            architecture,
            problem: format!(
                "layer {layer} computed {got} tokens of a batch that has another number"
            ),
        },
    }
}

/// Parameters below which one thread is the default. llama.cpp's threads wait for each other
/// several times a layer, spinning. With the 2-million-parameter demo model a second thread made
/// prefill 1.6 × faster on an idle machine and 7 × slower on a loaded one: where all takes
/// milliseconds, the loss is what people notice.
const N_PARAM_SMALL: u64 = 20_000_000;

/// llama.cpp's own default is 4 whatever the machine; here one per core, or one for a small model.
fn default_threads(model: &Model) -> usize {
    if model.inner().n_params() < N_PARAM_SMALL {
        return 1;
    }
    std::thread::available_parallelism().map_or(4, std::num::NonZeroUsize::get)
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
