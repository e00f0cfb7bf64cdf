//! A loaded GGUF model, and what candor has to know of it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::content::Files;
use crate::data::PromptForm;
use crate::device::Placement;
use crate::error::shown;
use crate::export::BakeRecord;
use crate::ffi::host::{self, Weights};
use crate::ffi::vocab::Vocab;
use crate::fingerprint::fingerprint;
use crate::geometry::{Geometry, attention_widths};
use crate::gguf::Gguf;
use crate::limits::check_host_limits;
use crate::vision::Gallery;
#[cfg(feature = "sight")]
use crate::vision::{Look, Picture, ProjectorShape, Shown, Vision, VisionParams};
use crate::{Error, Result};

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct ModelParams {
    /// Layers to keep on the devices, from the last one down, the output counting as one
    /// (llama.cpp's `-ngl`); `None`: all.
    pub n_gpu_layers: Option<u32>,
    /// The devices by name, in the order in which they take layers; `["none"]`: the processor
    /// alone; `None`: the devices of `rpc`, then this machine's GPUs. See
    /// [`devices`](crate::device::devices).
    pub devices: Option<Vec<String>>,
    /// Workers to connect to, `host:port`: see [`crate::device`].
    pub rpc: Vec<String>,
    /// The folder in which the hashes of files are remembered, so that none is read twice; `None`:
    /// nowhere. See [`Model::content`].
    pub hashes: Option<PathBuf>,
    /// The projector file of a model that sees pictures, and how it is opened.
    #[cfg(feature = "sight")]
    pub projector: Option<(PathBuf, VisionParams)>,
}

/// What a user should know of how a model was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelWarning {
    /// Layers were to go to a device, and there is none.
    NoDevice {
        /// How many layers.
        n_gpu_layers: u32,
    },
}

impl std::fmt::Display for ModelWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoDevice { n_gpu_layers } => write!(
                f,
                "{n_gpu_layers} layers were to go to a GPU and there is none, so the processor \
                 computes all: build with --features cuda, metal or vulkan, or name a worker"
            ),
        }
    }
}

/// A model in memory. A clone is another handle on the same weights, which are freed with the last
/// handle and the last [`Session`](crate::Session).
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

/// What all handles on a model have in common.
struct Shared {
    /// What sees, where anything does. It points into `inner`: freed before it.
    #[cfg(feature = "sight")]
    vision: Option<Vision>,
    inner: Arc<Weights>,
    path: PathBuf,
    architecture: String,
    name: Option<String>,
    geometry: Geometry,
    /// Input width of each layer's output projection; 0 where a layer has no attention.
    widths: Vec<usize>,
    n_position: Option<usize>,
    fingerprint: String,
    /// What [`Model::content`] reads, and where it remembers it.
    files: (Files, Option<PathBuf>),
    content: OnceLock<String>,
    chat_template: Option<String>,
    baked: Option<BakeRecord>,
    warnings: Vec<ModelWarning>,
    place: String,
}

impl Model {
    /// Loads a GGUF file, after checking it; of a split model the first one, and llama.cpp finds the
    /// others by their names.
    ///
    /// # Errors
    /// [`Error::Gguf`] for a file that breaks the format, [`Error::Unsupported`] for a model
    /// without attention heads that could be tapped, [`Error::Model`] where llama.cpp refuses,
    /// [`Error::Device`] for a device that is not there, [`Error::Worker`] for a worker that does
    /// not answer.
    pub fn load(path: &Path, params: &ModelParams) -> Result<Self> {
        Self::load_watched(path, params, |_| ControlFlow::Continue(()))
    }

    /// The same; `on_progress` hears how much of the weights is loaded, 0 to 1, and may end it. It must
    /// not panic.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `on_progress` ended it, and what [`Model::load`] gives.
    pub fn load_watched(
        path: &Path,
        params: &ModelParams,
        mut on_progress: impl FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        let file = Gguf::open_model(path)?;
        if let Some(kind) = file.opt_str("general.type")?.filter(|&kind| kind != "model") {
            let kind = shown(kind);
            let problem = format!("the file holds no model: its general.type is `{kind}`");
            return Err(Error::Model { path: path.to_owned(), problem });
        }
        let architecture = file.str("general.architecture")?.to_owned();
        check_host_limits(&file, &architecture)?;
        let widths = attention_widths(&file)?;
        let geometry = Geometry::read(&file)?;
        let n_position = file
            .tensor("position_embd.weight")
            .and_then(|table| usize::try_from(*table.dims.get(1)?).ok());
        let fingerprint = fingerprint(&file)?;
        let files = (Files::note(file.paths())?, params.hashes.clone());

        let fail = |problem: String| Error::Model { path: path.to_owned(), problem };
        let placement = Placement::choose(params.devices.as_deref(), &params.rpc)?;
        let mut warnings = Vec::new();
        if let Some(n) = params.n_gpu_layers
            && n > 0
            && params.devices.is_none()
            && placement.is_cpu()
        {
            warnings.push(ModelWarning::NoDevice { n_gpu_layers: n });
        }
        let mut is_ended = false;
        let mut on_progress = |share: f32| {
            is_ended |= on_progress(share).is_break();
            !is_ended
        };
        let loaded = host::load(path, placement.devices(), params.n_gpu_layers, &mut on_progress);
        let inner = loaded.map_err(|problem| {
            if is_ended {
                return Error::Interrupted { kept: "the model was not loaded".to_owned() };
            }
            fail(problem)
        })?;
        if host::has_encoder(&inner) {
            return Err(Error::Unsupported {
                architecture,
                problem: "an encoder: candor steers models that generate text".to_owned(),
            });
        }
        #[cfg(feature = "sight")]
        let vision = params
            .projector
            .as_ref()
            .map(|(path, vision)| {
                let belongs = (&inner, fingerprint.as_str());
                Vision::open(path, belongs, (!placement.is_cpu(), params.hashes.as_deref()), vision)
            })
            .transpose()?;
        let shared = Shared {
            #[cfg(feature = "sight")]
            vision,
            name: file.opt_str("general.name")?.map(str::to_owned),
            chat_template: file.opt_str("tokenizer.chat_template")?.map(str::to_owned),
            baked: BakeRecord::read(&file)?,
            path: path.to_owned(),
            architecture,
            geometry,
            widths,
            n_position,
            fingerprint,
            files,
            content: OnceLock::new(),
            warnings,
            place: placement.words(params.n_gpu_layers),
            inner: Arc::new(Weights::new(inner, placement)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What the user should know of how it was loaded, often nothing.
    #[must_use]
    pub fn warnings(&self) -> &[ModelWarning] {
        &self.shared.warnings
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// `general.architecture`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.shared.architecture
    }

    /// `general.name`, where the file has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.shared.name.as_deref()
    }

    /// The shape of the attention.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    /// The layers that have attention, ascending: all of them but in hybrid models.
    pub fn attention_layers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.shared.widths.len()).filter(|&layer| self.shared.widths[layer] > 0)
    }

    /// The same for every quantization of one model, another for every other model:
    /// see [`fingerprint`](crate::fingerprint()).
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.shared.fingerprint
    }

    /// The Jinja chat template inside the file, where there is one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.shared.chat_template.as_deref()
    }

    /// What was baked into the file, where something was: it steers every token already.
    #[must_use]
    pub fn baked(&self) -> Option<&BakeRecord> {
        self.shared.baked.as_ref()
    }

    /// The hash of every byte of the model's files: 64 hexadecimal digits, BLAKE3. What is computed
    /// from a model belongs to these bytes, while a sidecar, which serves all quantizations, is bound
    /// by the [`fingerprint`](Self::fingerprint). Of one file it is what `b3sum` prints. The first
    /// call reads the files, unless [`ModelParams::hashes`] remembers them.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Model`] for one that was changed since
    /// it was loaded.
    pub fn content(&self) -> Result<&str> {
        self.content_with(|_, _| ())
    }

    /// As [`content`](Self::content); `on_progress` is told how many of how many bytes are read,
    /// where some have to be.
    ///
    /// # Errors
    /// As [`content`](Self::content).
    pub fn content_with(&self, mut on_progress: impl FnMut(u64, u64)) -> Result<&str> {
        if let Some(content) = self.shared.content.get() {
            return Ok(content);
        }
        let (files, folder) = &self.shared.files;
        let content = files.hash(folder.as_deref(), &mut on_progress)?;
        Ok(self.shared.content.get_or_init(|| content))
    }

    /// Everything about the model that its results depend on, for results that are kept. What else
    /// goes into them, such as a projector's bytes, joins here.
    ///
    /// # Errors
    /// As [`content`](Self::content).
    pub(crate) fn identity(&self) -> Result<String> {
        #[cfg(feature = "sight")]
        if let Some(projector) = self.projector_content() {
            let place = &self.shared.place;
            return Ok(format!("{} sees by {projector} on {place}", self.content()?));
        }
        Ok(format!("{} on {}", self.content()?, self.shared.place))
    }

    /// What tells this model from others within a process, without reading its files: where they lie
    /// and when they changed.
    pub(crate) fn instance(&self) -> String {
        format!("{:?} on {}", self.shared.files.0, self.shared.place)
    }

    /// What computes the layers, in words: what one device rounds up another rounds down.
    pub(crate) fn place(&self) -> &str {
        &self.shared.place
    }

    /// The context length that the model was trained with, in tokens.
    #[must_use]
    pub fn n_ctx_train(&self) -> usize {
        self.shared.inner.n_ctx_train() as usize
    }

    /// Entries of the vocabulary.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        usize::try_from(self.vocab().n_token()).unwrap_or(0)
    }

    /// Text to token ids. `special` adds what the model wants at the start (BOS), never what some
    /// want at the end (EOS), and reads control tokens that are written out in the text, as chat
    /// templates do. The marker of a picture that the model was shown becomes that picture's tokens:
    /// see [`vision`](crate::vision).
    ///
    /// # Errors
    /// [`Error::Spelling`] for a character that the vocabulary has no token for, nor tokens of its
    /// bytes.
    pub fn tokenize(&self, text: &str, special: Special) -> Result<Vec<i32>> {
        let (start, parse) = match special {
            Special::None => (false, false),
            Special::Start => (true, false),
            Special::StartAndParse => (true, true),
            Special::Parse => (false, true),
        };
        let vocab = self.vocab();
        // llama.cpp adds start and end together, and aborts where a token to add is not there.
        let bos = Some(vocab.bos()).filter(|&bos| start && vocab.adds_bos() && bos >= 0);
        let plain = |text: &str| {
            vocab.tokenize(text, parse).map_err(|thrown| {
                unspelt(text, |text| vocab.tokenize(text, parse).is_ok())
                    .unwrap_or_else(|| thrown.failed_to("read a text as tokens"))
            })
        };
        let mut tokens: Vec<i32> = bos.into_iter().collect();
        let mut rest = text;
        while let Some((before, picture, after)) = self.split_at_picture(rest) {
            tokens.extend(plain(before)?);
            tokens.extend(picture);
            rest = after;
        }
        tokens.extend(plain(rest)?);
        Ok(tokens)
    }

    /// Tokens of a text that a prompt form made: where a chat template made the form, control tokens
    /// are read as such, and BOS is not written twice. Elsewhere the first pictures that no place was
    /// named for come before all else.
    ///
    /// # Errors
    /// As [`Model::tokenize`].
    pub fn tokenize_as(&self, form: &PromptForm, text: &str) -> Result<Vec<i32>> {
        if form.is_chat() {
            self.tokenize_rendered(text)
        } else {
            self.tokenize(&self.pictures_first(text), Special::Start)
        }
    }

    /// Tokens of a text that stands at the start of the context and may spell out control tokens;
    /// BOS comes first where the model wants it, and never twice.
    pub(crate) fn tokenize_rendered(&self, text: &str) -> Result<Vec<i32>> {
        let bos = self.special_text(SpecialToken::Bos);
        let has_bos = !bos.is_empty() && text.starts_with(&bos);
        self.tokenize(text, if has_bos { Special::Parse } else { Special::StartAndParse })
    }

    /// The bytes of one token; control tokens and what is no token are empty. May end inside a
    /// UTF-8 character.
    #[must_use]
    pub fn piece(&self, token: i32) -> Vec<u8> {
        let vocab = self.vocab();
        if !(0..vocab.n_token()).contains(&token) {
            return Vec::new();
        }
        // llama.cpp made all pieces when it loaded the file, and looks this one up.
        vocab.piece(token).unwrap_or_default()
    }

    /// The text of a special token as a chat template writes it (`<s>`), empty where there is none.
    #[must_use]
    pub fn special_text(&self, which: SpecialToken) -> String {
        let vocab = self.vocab();
        let token = match which {
            SpecialToken::Bos => vocab.bos(),
            SpecialToken::Eos => vocab.eos(),
        };
        vocab.text(token).unwrap_or_default()
    }

    /// Whether a token ends the generation (EOS, end of turn, …).
    #[must_use]
    pub fn is_end(&self, token: i32) -> bool {
        self.vocab().is_end(token)
    }

    /// Whether the model keeps a running state instead of (only) a KV cache.
    #[must_use]
    pub fn is_recurrent(&self) -> bool {
        self.shared.inner.is_recurrent() || self.shared.inner.is_hybrid()
    }

    /// Input widths of the output projections, 0 for layers without attention: `[n_layer]`.
    pub(crate) fn widths(&self) -> &[usize] {
        &self.shared.widths
    }

    /// Positions that the model learned one by one; `None` where they are computed (RoPE).
    pub(crate) fn n_position(&self) -> Option<usize> {
        self.shared.n_position
    }

    /// The pictures that the model was shown.
    pub(crate) fn gallery(&self) -> Option<GalleryGuard<'_>> {
        #[cfg(feature = "sight")]
        return self.shared.vision.as_ref().map(Vision::gallery);
        #[cfg(not(feature = "sight"))]
        None
    }

    /// Whether pictures give their tokens rows and columns (M-RoPE).
    pub(crate) fn has_places(&self) -> bool {
        #[cfg(feature = "sight")]
        return self.shared.vision.as_ref().is_some_and(Vision::is_mrope);
        #[cfg(not(feature = "sight"))]
        false
    }

    /// Most tokens of a picture that see each other whatever their order.
    pub(crate) fn n_mutual(&self) -> usize {
        #[cfg(feature = "sight")]
        return self.shared.vision.as_ref().map_or(0, Vision::n_mutual);
        #[cfg(not(feature = "sight"))]
        0
    }

    /// The text with its first pictures before all else, where no place was named for them.
    #[cfg_attr(not(feature = "sight"), allow(clippy::unused_self))]
    fn pictures_first<'t>(&self, text: &'t str) -> Cow<'t, str> {
        #[cfg(feature = "sight")]
        if let Some(vision) = &self.shared.vision {
            return vision.pictures_first(text);
        }
        Cow::Borrowed(text)
    }

    /// What stands before the first picture of a text, its tokens, and what follows.
    #[cfg_attr(not(feature = "sight"), allow(clippy::unused_self))]
    fn split_at_picture<'t>(&self, text: &'t str) -> Option<(&'t str, Vec<i32>, &'t str)> {
        #[cfg(feature = "sight")]
        return self.shared.vision.as_ref()?.split(text);
        #[cfg(not(feature = "sight"))]
        {
            let _ = text;
            None
        }
    }

    /// The host's own handle.
    pub(crate) fn inner(&self) -> &Arc<Weights> {
        &self.shared.inner
    }

    fn vocab(&self) -> Vocab<'_> {
        Vocab::of(&self.shared.inner)
    }

    /// A token for the warm-up: BOS where there is one.
    pub(crate) fn warmup_token(&self) -> i32 {
        self.vocab().bos().max(0)
    }
}

/// The first character of a text that cannot be spelt; `None` where each can.
fn unspelt(text: &str, is_spelt: impl Fn(&str) -> bool) -> Option<Error> {
    // A character may have no token of its own and still be a part of longer ones: only where its
    // word cannot be spelt either is it at fault.
    let is_fault = |byte: usize, character: char| {
        let start = text[..byte].rfind(char::is_whitespace).unwrap_or(0);
        let rest = &text[byte..];
        let end = rest.find(char::is_whitespace).map_or(text.len(), |end| byte + end);
        !is_spelt(character.encode_utf8(&mut [0; 4])) && !is_spelt(&text[start..end])
    };
    let mut known = HashSet::new();
    let mut characters = text.char_indices().filter(|(_, c)| known.insert(*c));
    let (byte, character) = characters.find(|&(byte, character)| is_fault(byte, character))?;
    Some(Error::Spelling { character, byte, text: text.to_owned() })
}

/// Pictures.
#[cfg(feature = "sight")]
impl Model {
    /// Shows the model a picture: encodes it, unless it was shown before or lies in the cache.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a model that was loaded without a projector, [`Error::Decode`] where
    /// the encoder fails, [`Error::Io`] where the cache cannot be written.
    pub fn show(&self, picture: &Picture) -> Result<Shown> {
        let vision = self.shared.vision.as_ref().ok_or_else(|| {
            let problem = "it was loaded without a projector: name its mmproj file (--mmproj)";
            Error::invalid("model", problem)
        })?;
        vision.show(picture)
    }

    /// Shows a picture to the encoder alone, and gives what its heads and layers computed, tile by tile.
    ///
    /// # Errors
    /// As [`Model::show`]; [`Error::Unsupported`] for an encoder whose heads do not come by.
    pub fn look(&self, picture: &Picture) -> Result<Vec<Look>> {
        let vision = self.shared.vision.as_ref().ok_or_else(|| {
            let problem = "it was loaded without a projector: name its mmproj file (--mmproj)";
            Error::invalid("model", problem)
        })?;
        vision.look(picture)
    }

    /// Opens another projector for this model, beside the one that it was loaded with.
    pub(crate) fn second_projector(&self, path: &Path, params: &VisionParams) -> Result<Vision> {
        let shared = &self.shared;
        let use_gpu = shared.vision.as_ref().is_some_and(Vision::uses_gpu);
        Vision::open(path, (&shared.inner, &shared.fingerprint), (use_gpu, None), params)
    }

    /// The projector's file and shape, where the model was loaded with one.
    #[must_use]
    pub fn projector(&self) -> Option<(&Path, &ProjectorShape)> {
        self.shared.vision.as_ref().map(|vision| (vision.path(), vision.shape()))
    }

    /// The hash of every byte of the projector's file, as [`Model::content`] is of the model's, where
    /// the model was loaded with one.
    #[must_use]
    pub fn projector_content(&self) -> Option<&str> {
        self.shared.vision.as_ref().map(Vision::content)
    }
}

#[cfg(feature = "sight")]
type GalleryGuard<'a> = std::sync::RwLockReadGuard<'a, Gallery>;
#[cfg(not(feature = "sight"))]
type GalleryGuard<'a> = &'a Gallery;

/// What [`Model::tokenize`] does about special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Plain text in the middle of something.
    None,
    /// Plain text at the start of a sequence: BOS before it where the model wants one.
    Start,
    /// A rendered chat template that does not write BOS itself.
    StartAndParse,
    /// A rendered chat template that does.
    Parse,
}

/// The special tokens that templates refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialToken {
    /// Beginning of sequence.
    Bos,
    /// End of sequence.
    Eos,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_missing_file_by_name() {
        let error = Model::load(Path::new("no/such.gguf"), &ModelParams::default())
            .err()
            .map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("no/such.gguf")));
    }
}
