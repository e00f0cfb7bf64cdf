//! A projector at work: pictures in, tokens of a model out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use llama_cpp_2::model::LlamaModel;

use super::gallery::{Embedding, Gallery, Run};
use super::keep::{self, Part};
use super::picture::Picture;
use super::shape::ProjectorShape;
use super::{MARKER, MARKER_FIRST};
use crate::ffi::host;
use crate::ffi::mtmd::{Chunk, PictureChunk, Projector, ProjectorSettings};
use crate::ffi::nodes::Nodes;
use crate::gguf::Gguf;
use crate::{Error, Result};

/// How a projector is opened.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VisionParams {
    /// Threads of the encoder, 1 to 512; `None`: one per core, or one for a small encoder.
    pub n_threads: Option<usize>,
    /// Flash attention in the encoder, on or off; `None`: llama.cpp's choice.
    pub flash_attention: Option<bool>,
    /// A folder in which encoded pictures are kept, made where it is not there; `None`: in memory
    /// alone.
    pub cache: Option<PathBuf>,
}

setters! {
    VisionParams {
        with_n_threads(n_threads: Option<usize>),
        with_flash_attention(flash_attention: Option<bool>),
        with_cache(cache: Option<PathBuf>),
    }
}

/// A picture that a model was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What stands for the picture in a text.
    pub marker: String,
    /// What stands for it among tokens: its own, below zero, and those that the model wants around it
    /// and between its tiles.
    pub tokens: Vec<i32>,
    /// Whether it was encoded just now, and not found in memory or in the cache.
    pub is_encoded: bool,
}

/// What an encoder computed of a picture, or of one tile of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// `[n_layer]` the heads' outputs as the output projection reads them, F32
    /// `[n_place, n_head * d_head]`; places are patches, row by row, and CLS where there is one. Some
    /// encoders (Qwen2.5-VL) keep them window by window.
    pub heads: Vec<Vec<f32>>,
    /// `[n_layer]` the layers' outputs, F32 `[n_place, n_embd]`.
    pub layers: Vec<Vec<f32>>,
    /// What the projector gives, F32 `[n_token, n_out]`.
    pub embedding: Vec<f32>,
}

const MARKER_END: &str = "__>";
/// Digits of a picture's hash in its marker.
const N_DIGIT: usize = 32;

/// Weights below which an encoder runs on one thread, as with sessions.
const N_BYTE_SMALL: u64 = 20 << 20;

/// An open projector, and the pictures that it was shown.
pub(crate) struct Vision {
    path: PathBuf,
    shape: ProjectorShape,
    /// The hash of the file.
    content: String,
    /// What else decides what an encoded picture looks like.
    setting: String,
    cache: Option<PathBuf>,
    is_mrope: bool,
    uses_gpu: bool,
    projector: Mutex<Projector>,
    gallery: RwLock<Gallery>,
    shown: RwLock<HashMap<String, Vec<i32>>>,
}

impl Vision {
    /// Opens a projector file for a model of this fingerprint, after checking it.
    pub(crate) fn open(
        path: &Path,
        (model, fingerprint): (&LlamaModel, &str),
        (use_gpu, hashes): (bool, Option<&Path>),
        params: &VisionParams,
    ) -> Result<Self> {
        let content = crate::content::content(path, hashes)?;
        let file = Gguf::open(path)?;
        let shape = ProjectorShape::read(&file)?;
        let n_input = host::n_embd_input(model);
        let fail = |problem: String| Error::Model { path: path.to_owned(), problem };
        if shape.n_out != n_input {
            return Err(fail(format!(
                "it gives embeddings of {}, and the model takes {n_input}: it is the projector of \
                 another model",
                shape.n_out
            )));
        }
        let n_byte: u64 = file.tensors().iter().map(|tensor| file.bytes(tensor).len() as u64).sum();
        let n_threads = params.n_threads.unwrap_or_else(|| match n_byte {
            n if n < N_BYTE_SMALL => 1,
            _ => std::thread::available_parallelism().map_or(4, std::num::NonZero::get),
        });
        if !(1..=crate::session::MAX_THREADS).contains(&n_threads) {
            let problem = format!("{n_threads}, expected 1 to {}", crate::session::MAX_THREADS);
            return Err(Error::invalid("threads of the encoder", problem));
        }
        let settings = ProjectorSettings {
            use_gpu,
            n_threads: i32::try_from(n_threads).unwrap_or(1),
            flash_attention: params.flash_attention,
            encoder: (shape.n_layer, shape.n_embd),
        };
        let projector = Projector::open(path, model, settings)
            .filter(Projector::sees)
            .ok_or_else(|| fail(host::take_complaints()))?;
        let is_mrope = projector.is_mrope();
        if let Some(folder) = &params.cache {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        Ok(Self {
            path: path.to_owned(),
            setting: format!(
                "{fingerprint} flash attention {:?} gpu {use_gpu} {}",
                params.flash_attention,
                crate::bench::LLAMA_CPP_SYS,
            ),
            shape,
            content,
            cache: params.cache.clone(),
            is_mrope,
            uses_gpu: use_gpu,
            projector: Mutex::new(projector),
            gallery: RwLock::new(Gallery::new(n_input)),
            shown: RwLock::default(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn shape(&self) -> &ProjectorShape {
        &self.shape
    }

    /// The hash of every byte of the file.
    pub(crate) fn content(&self) -> &str {
        &self.content
    }

    /// Whether it may compute on a GPU.
    pub(crate) fn uses_gpu(&self) -> bool {
        self.uses_gpu
    }

    /// Whether the model gives every token four positions.
    pub(crate) fn is_mrope(&self) -> bool {
        self.is_mrope
    }

    /// Most tokens that see each other whatever their order: a batch must hold them all.
    pub(crate) fn n_mutual(&self) -> usize {
        use super::shape::ProjectorKind::Gemma3;
        if self.shape.kind == Gemma3 { self.shape.n_token() } else { 0 }
    }

    /// The pictures and their tokens, to be read.
    pub(crate) fn gallery(&self) -> std::sync::RwLockReadGuard<'_, Gallery> {
        self.gallery.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes a picture, unless it is known.
    pub(crate) fn show(&self, picture: &Picture) -> Result<Shown> {
        let hash = picture.hash();
        let name = hash.to_hex()[..N_DIGIT].to_owned();
        let marker = format!("{MARKER}{name}{MARKER_END}");
        // One picture at a time: the encoder is one.
        let mut projector = self.projector.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = self.tokens_of(&name) {
            return Ok(Shown { marker, tokens, is_encoded: false });
        }
        let n_embd = self.shape.n_out;
        let kept = self.cache.as_ref().map(|folder| folder.join(self.file_name(&hash)));
        let (parts, is_encoded) = match kept.as_deref().and_then(|path| keep::read(path, n_embd)) {
            Some(parts) => (parts, false),
            None => {
                let parts = encode(&mut projector, picture, n_embd, None)?;
                (self.keep(parts, kept.as_deref())?, true)
            }
        };
        let tokens = self.remember(name, parts)?;
        Ok(Shown { marker, tokens, is_encoded })
    }

    /// Keeps an encoded picture in a file, where there is one for it, and gives it as it lies there, so
    /// that it need not stay in memory.
    fn keep(&self, parts: Vec<Part>, file: Option<&Path>) -> Result<Vec<Part>> {
        let Some(path) = file else { return Ok(parts) };
        keep::write(path, self.shape.n_out, &parts)?;
        Ok(keep::read(path, self.shape.n_out).unwrap_or(parts))
    }

    /// Gives an encoded picture its tokens.
    fn remember(&self, name: String, parts: Vec<Part>) -> Result<Vec<i32>> {
        let mut gallery = self.gallery.write().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => tokens.extend(text),
                Part::Tile(run) => tokens.extend(gallery.hang(run).ok_or_else(|| {
                    Error::invalid("pictures", "too many were shown to one model: load it again")
                })?),
            }
        }
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        shown.insert(name, tokens.clone());
        Ok(tokens)
    }

    /// What the encoder computes on its way through a picture, tile by tile. Afterwards the picture is
    /// one that was shown.
    pub(crate) fn look(&self, picture: &Picture) -> Result<Vec<Look>> {
        let hash = picture.hash();
        let name = hash.to_hex()[..N_DIGIT].to_owned();
        let (parts, looks) = self.observe(picture)?;
        if self.tokens_of(&name).is_none() {
            let file = self.cache.as_ref().map(|folder| folder.join(self.file_name(&hash)));
            let parts = self.keep(parts, file.as_deref())?;
            self.remember(name, parts)?;
        }
        Ok(looks)
    }

    /// What the encoder computes, tile by tile; the model does not see the picture.
    pub(crate) fn look_only(&self, picture: &Picture) -> Result<Vec<Look>> {
        self.observe(picture).map(|(_, looks)| looks)
    }

    /// Encodes a picture, and gives what was computed on the way.
    fn observe(&self, picture: &Picture) -> Result<(Vec<Part>, Vec<Look>)> {
        let mut projector = self.projector.lock().unwrap_or_else(PoisonError::into_inner);
        let mut looks = Vec::new();
        let parts = encode(&mut projector, picture, self.shape.n_out, Some(&mut looks))?;
        if looks.iter().any(|look| look.layers.is_empty()) {
            return Err(Error::Unsupported {
                architecture: self.shape.kind.name().to_owned(),
                problem: "the heads of its encoder do not come by".to_owned(),
            });
        }
        Ok((parts, looks))
    }

    /// The text of a prompt with its first pictures, where no place was named for them, before all of it.
    pub(crate) fn pictures_first<'t>(&self, text: &'t str) -> Cow<'t, str> {
        const N_MARKER: usize = MARKER_FIRST.len() + N_DIGIT + MARKER_END.len();
        let Some(start) = text.find(MARKER_FIRST).filter(|&start| start > 0) else {
            return Cow::Borrowed(text);
        };
        let mut end = start;
        while text[end..].starts_with(MARKER_FIRST) {
            match text.get(end..end + N_MARKER) {
                Some(marker) if self.split(marker).is_some() => end += N_MARKER,
                _ => break,
            }
        }
        Cow::Owned(format!("{}{}{}", &text[start..end], &text[..start], &text[end..]))
    }

    /// What of a text begins with a known marker, and what follows: text, tokens of the picture, rest.
    pub(crate) fn split<'t>(&self, text: &'t str) -> Option<(&'t str, Vec<i32>, &'t str)> {
        let mut from = 0;
        let find = |from: usize| {
            let at = |start| text[from..].find(start);
            [MARKER, MARKER_FIRST].into_iter().filter_map(at).min().map(|at| from + at)
        };
        while let Some(at) = find(from) {
            // Both beginnings have the same length.
            let name = at + MARKER.len();
            let end = name + N_DIGIT;
            let is_marker = text.get(end..).is_some_and(|rest| rest.starts_with(MARKER_END));
            let tokens = text.get(name..end).filter(|_| is_marker).and_then(|n| self.tokens_of(n));
            match tokens {
                Some(tokens) => {
                    return Some((&text[..at], tokens, &text[end + MARKER_END.len()..]));
                }
                None => from = name,
            }
        }
        None
    }

    fn tokens_of(&self, name: &str) -> Option<Vec<i32>> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn file_name(&self, picture: &blake3::Hash) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.content.as_bytes()).update(picture.as_bytes());
        hasher.update(self.setting.as_bytes());
        format!("{}.picture", hasher.finalize().to_hex())
    }
}

/// Encodes a picture; `looks` takes what was computed on the way through each tile.
fn encode(
    projector: &mut Projector,
    picture: &Picture,
    n_embd: usize,
    mut looks: Option<&mut Vec<Look>>,
) -> Result<Vec<Part>> {
    let fail = |action| move || Error::Decode { action, problem: host::take_complaints() };
    let chunks = projector
        .cut(picture.rgb(), picture.width(), picture.height())
        .ok_or_else(fail("cut a picture to size"))?;
    let mut parts = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        parts.push(match chunk {
            Chunk::Text(tokens) if tokens.iter().any(|&token| token < 0) => {
                let problem = "its vocabulary lacks tokens that stand around the pictures of this \
                               projector: it is the projector of another model";
                return Err(Error::invalid("model", problem));
            }
            Chunk::Text(tokens) => Part::Text(tokens),
            Chunk::Picture(tile) => {
                let (values, nodes) = encode_tile(projector, &tile, (n_embd, looks.is_some()))?;
                if let Some(looks) = &mut looks {
                    let embedding = values.clone();
                    looks.push(Look { heads: nodes.heads, layers: nodes.layers, embedding });
                }
                let is_line = tile.places.iter().zip(0..).all(|(&place, i)| place == [i; 3]);
                Part::Tile(Run {
                    embedding: Embedding::Owned(values),
                    n_pos: tile.n_pos,
                    places: if is_line { Vec::new() } else { tile.places.clone() },
                    is_mutual: tile.is_mutual,
                })
            }
        });
    }
    Ok(parts)
}

/// Encodes a tile. llama.cpp's graph of Pixtral multiplies memory by 0 that nobody wrote, which at times
/// holds NaN: then it is computed again.
fn encode_tile(
    projector: &mut Projector,
    tile: &PictureChunk,
    (n_embd, is_observed): (usize, bool),
) -> Result<(Vec<f32>, Nodes)> {
    let fail = |problem| Error::Decode { action: "encode a picture", problem };
    for _ in 0..N_TRY {
        let (values, nodes) = match is_observed {
            true => projector.encode_observed(tile, n_embd).unzip(),
            false => (projector.encode(tile, n_embd), None),
        };
        let values = values.ok_or_else(|| fail(host::take_complaints()))?;
        if values.iter().all(|value| value.is_finite()) {
            // Nothing where the nodes do not come by.
            return Ok((values, nodes.flatten().unwrap_or_default()));
        }
    }
    Err(fail("the encoder gives values that are not finite".to_owned()))
}

/// Times that a picture is encoded before it is given up.
const N_TRY: usize = 4;

/// The projector file beside a model: of the `.gguf` files in its folder with `mmproj` in their name, the
/// one that is named after the model (`name-mmproj.gguf`, `mmproj-name.gguf`), or the only one.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be read, [`Error::Invalid`] where it holds none, or several of
/// which none is named after the model.
pub fn find_projector(model: &Path) -> Result<PathBuf> {
    let folder = crate::file::folder_of(model);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.contains("mmproj") && name.ends_with(".gguf") && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    let stem = crate::file::stem(model).to_lowercase();
    let is_own = |path: &&PathBuf| {
        let name = crate::file::stem(path).to_lowercase();
        let rest = name.replace("mmproj", "");
        let rest = rest.trim_matches(['-', '_', '.']);
        !rest.is_empty() && (stem.starts_with(rest) || rest.starts_with(&stem))
    };
    let own: Vec<&PathBuf> = found.iter().filter(is_own).collect();
    match (own.as_slice(), found.as_slice()) {
        ([path], _) => Ok((*path).clone()),
        ([], [path]) => Ok(path.clone()),
        (_, []) => Err(Error::invalid(
            "pictures",
            format!(
                "{} needs a projector file to read them, but there is none beside it \
                 (*mmproj*.gguf): name its projector file",
                model.display()
            ),
        )),
        _ => {
            let names: Vec<String> = found.iter().map(|path| crate::file::stem(path)).collect();
            let problem = format!(
                "there are several projector files beside {} ({}): choose one of them",
                model.display(),
                names.join(", ")
            );
            Err(Error::invalid("pictures", problem))
        }
    }
}
