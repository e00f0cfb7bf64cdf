//! A projector file, checked before llama.cpp sees it.
//!
//! A key of another type, a tensor of another shape or one that is not there ends the process inside
//! of llama.cpp (`tools/mtmd/clip.cpp`). So every key that it reads is read here first, and every
//! tensor is compared with what the graph of its kind of projector multiplies it with. Kinds whose
//! graph is not described here are refused by name.

use std::fmt;

use super::tensors::{self, Wanted};
use crate::error::shown;
use crate::gguf::{Gguf, TensorType, Value};
use crate::{Error, Result};

/// The kinds of projector that candor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectorKind {
    /// SigLIP and two layers, one token per patch (Janus-Pro).
    JanusPro,
    /// CLIP or SigLIP and two layers (LLaVA).
    Mlp,
    /// SigLIP, patches joined, one layer (Idefics3, SmolVLM).
    Idefics3,
    /// SigLIP, patches averaged, one layer (Gemma 3).
    Gemma3,
    /// InternViT, patches joined, two layers.
    InternVl,
    /// Pixtral's encoder with two-dimensional rotary positions, two layers.
    Pixtral,
    /// Qwen2-VL's encoder: pictures of any size.
    Qwen2Vl,
    /// Qwen2.5-VL's encoder: windows of attention.
    Qwen25Vl,
}

impl ProjectorKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::JanusPro,
        Self::Mlp,
        Self::Idefics3,
        Self::Gemma3,
        Self::InternVl,
        Self::Pixtral,
        Self::Qwen2Vl,
        Self::Qwen25Vl,
    ];

    /// The name in `clip.projector_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::JanusPro => "janus_pro",
            Self::Mlp => "mlp",
            Self::Idefics3 => "idefics3",
            Self::Gemma3 => "gemma3",
            Self::InternVl => "internvl",
            Self::Pixtral => "pixtral",
            Self::Qwen2Vl => "qwen2vl_merger",
            Self::Qwen25Vl => "qwen2.5vl_merger",
        }
    }

    /// Whether a picture keeps its own size, or is scaled to the encoder's, whole or in tiles.
    pub(super) fn is_any_size(self) -> bool {
        matches!(self, Self::Pixtral | Self::Qwen2Vl | Self::Qwen25Vl)
    }

    /// How many patches llama.cpp joins along each side where the file does not say.
    fn n_merge(self) -> u64 {
        match self {
            Self::Gemma3 => 4,
            Self::Qwen2Vl | Self::Qwen25Vl => 2,
            _ => 1,
        }
    }

    /// The key that says it.
    fn n_merge_key(self) -> Option<&'static str> {
        match self {
            Self::JanusPro | Self::Mlp => None,
            Self::Idefics3 | Self::Gemma3 | Self::InternVl => {
                Some("clip.vision.projector.scale_factor")
            }
            Self::Pixtral | Self::Qwen2Vl | Self::Qwen25Vl => {
                Some("clip.vision.spatial_merge_size")
            }
        }
    }
}

impl fmt::Display for ProjectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The shape of a projector file: an encoder of pictures, and what brings its patches to the width of
/// a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectorShape {
    /// What kind of projector it is.
    pub kind: ProjectorKind,
    /// Layers of the encoder that are computed.
    pub n_layer: usize,
    /// Layers of the encoder in the file.
    pub n_layer_in_file: usize,
    /// Heads per layer.
    pub n_head: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Width of the encoder's residual stream.
    pub n_embd: usize,
    /// Width of its feed-forward layers.
    pub n_ff: usize,
    /// Side of the square picture that the encoder takes, in pixels; the largest for encoders of any
    /// size.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Patches that are joined along each side into one token.
    pub n_merge: usize,
    /// Width of what comes out: the input width of the model that it belongs to.
    pub n_out: usize,
    /// Whether the encoder has a token of its own beside the patches (CLS).
    pub has_cls: bool,
}

const MAX_LAYER: u64 = 128;
const MAX_WIDTH: u64 = 1 << 16;
const MAX_SIDE: u64 = 4096;

impl ProjectorShape {
    /// Reads it from a file, every part of which is checked.
    ///
    /// # Errors
    /// [`Error::Gguf`] with the key or tensor at fault, [`Error::Unsupported`] for a kind of projector
    /// that candor does not know, or one of sound alone.
    pub fn read(file: &Gguf) -> Result<Self> {
        let kind = kind(file)?;
        let number = |name: &str, from: u64, to: u64| {
            let key = format!("clip.vision.{name}");
            let value = uint32(file, &key)?
                .ok_or_else(|| file.fault(format!("key {key}"), "it is missing"))?;
            in_range(file, &key, value, from, to)
        };
        let n_embd = number("embedding_length", 1, MAX_WIDTH)?;
        let n_head = number("attention.head_count", 1, 1024)?;
        let n_ff = number("feed_forward_length", 0, 1 << 20)?;
        let n_block = number("block_count", 1, MAX_LAYER)?;
        let n_projected = number("projection_dim", 0, 1 << 20)?;
        let image_size = number("image_size", 1, MAX_SIDE)?;
        let patch_size = number("patch_size", 1, 256)?;
        let fault = |name: &str, problem: String| {
            Err(file.fault(format!("key clip.vision.{name}"), problem))
        };
        let n_head_kv = uint32(file, "clip.vision.attention.head_count_kv")?;
        if let Some(n) = n_head_kv.filter(|&n| n != n_head) {
            let problem = format!("{n} key and value heads, but {n_head} heads");
            return fault("attention.head_count_kv", problem);
        }
        let d_head = match uint32(file, "clip.vision.attention.head_dim")? {
            Some(n) if n > 0 => n,
            _ if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            _ => {
                let problem = format!("{n_head} heads do not share {n_embd} values evenly");
                return fault("attention.head_count", problem);
            }
        };
        if d_head * n_head != n_embd {
            let problem = format!("{n_head} heads of {d_head} are not {n_embd} values");
            return fault("attention.head_dim", problem);
        }
        let eps = file.get("clip.vision.attention.layer_norm_epsilon");
        let is_sound = |eps: &Value| matches!(eps, Value::F32(x) if x.is_finite() && *x >= 0.0);
        if !eps.is_some_and(is_sound) {
            let problem = "it is missing, not an F32, or negative".to_owned();
            return fault("attention.layer_norm_epsilon", problem);
        }
        for key in ["clip.use_gelu", "clip.use_silu"] {
            file.opt_bool(key)?;
        }
        if file.opt_bool("clip.use_gelu")? == Some(true)
            && file.opt_bool("clip.use_silu")? == Some(true)
        {
            let problem = "clip.use_silu is set as well".to_owned();
            return Err(file.fault("key clip.use_gelu", problem));
        }
        for name in ["image_mean", "image_std"] {
            let key = format!("clip.vision.{name}");
            let values = file.get(&key).and_then(Value::as_f32s).unwrap_or_default();
            let is_sound = values.len() == 3
                && values.iter().all(|x| x.is_finite() && (name == "image_mean" || *x != 0.0));
            if !is_sound {
                return fault(
                    name,
                    "it is not an array of three finite F32, or divides by 0".into(),
                );
            }
        }
        let n_merge = match kind.n_merge_key() {
            None => 1,
            Some(key) => match uint32(file, key)? {
                None => kind.n_merge(),
                Some(n) => in_range(file, key, n, 1, 16)?,
            },
        };
        if matches!(kind, ProjectorKind::Qwen2Vl | ProjectorKind::Qwen25Vl) && n_merge != 2 {
            return fault("spatial_merge_size", format!("{n_merge}, and llama.cpp joins 2 x 2"));
        }
        if !kind.is_any_size() && !image_size.is_multiple_of(patch_size * n_merge) {
            let problem = format!(
                "{image_size} pixels are not whole patches of {patch_size}, {n_merge} at a time"
            );
            return fault("image_size", problem);
        }
        if kind.is_any_size() && patch_size * n_merge > 512 {
            return fault("patch_size", format!("{patch_size} pixels, {n_merge} at a time"));
        }
        others(file, kind, n_block, image_size)?;
        let n_rotated = match kind {
            ProjectorKind::Qwen2Vl | ProjectorKind::Qwen25Vl => 8,
            ProjectorKind::Pixtral => 4,
            _ => 1,
        };
        if !d_head.is_multiple_of(n_rotated) {
            let problem =
                format!("heads of {d_head} are not a multiple of the {n_rotated} rotated");
            return fault("attention.head_count", problem);
        }
        // Windows of 112 pixels, in patches two by two.
        if kind == ProjectorKind::Qwen25Vl && patch_size > 56 {
            return fault("patch_size", format!("{patch_size} pixels, expected at most 56"));
        }

        let has_cls = file.tensor("v.class_embd").is_some();
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let mut shape = Self {
            kind,
            // What llama.cpp's graph of LLaVA computes: all but the last.
            n_layer: at(if kind == ProjectorKind::Mlp { n_block - 1 } else { n_block }),
            n_layer_in_file: at(n_block),
            n_head: at(n_head),
            d_head: at(d_head),
            n_embd: at(n_embd),
            n_ff: at(n_ff),
            image_size: at(image_size),
            patch_size: at(patch_size),
            n_merge: at(n_merge),
            n_out: 0,
            has_cls,
        };
        shape.n_ff = tensors::feed_forward(file, &shape)?;
        shape.n_out = tensors::output(file, &shape)?;
        if kind == ProjectorKind::Qwen25Vl && n_projected != shape.n_out as u64 {
            let problem = format!("{n_projected}, but the last layer gives {}", shape.n_out);
            return fault("projection_dim", problem);
        }
        let wanted = tensors::wanted(file, &shape);
        check_tensors(file, &wanted)?;
        Ok(shape)
    }

    /// Patches along a side of the square picture that the encoder takes.
    #[must_use]
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens that one picture or tile of the encoder's own size becomes in the decoder; for encoders of
    /// any size, the most that there can be.
    #[must_use]
    pub fn n_token(&self) -> usize {
        match self.kind {
            ProjectorKind::Pixtral => 1024 + 1024,
            ProjectorKind::Qwen2Vl | ProjectorKind::Qwen25Vl => 4096,
            _ => (self.side() / self.n_merge).pow(2),
        }
    }
}

fn kind(file: &Gguf) -> Result<ProjectorKind> {
    for key in ["clip.has_vision_encoder", "clip.has_audio_encoder", "clip.has_gen_audio_encoder"] {
        file.opt_bool(key)?;
    }
    let unsupported = |problem: String| Error::Unsupported {
        architecture: file
            .opt_str("general.architecture")
            .ok()
            .flatten()
            .map_or_else(|| "none".to_owned(), shown),
        problem,
    };
    for key in ["general.name", "general.description", "clip.projector_type"] {
        file.opt_str(key)?;
    }
    if file.opt_bool("clip.has_vision_encoder")? != Some(true) {
        return Err(unsupported(format!(
            "{} holds no encoder of pictures (clip.has_vision_encoder): name a projector file, as \
             mmproj-*.gguf",
            file.path().display()
        )));
    }
    if file.opt_bool("clip.has_audio_encoder")? == Some(true)
        || file.opt_bool("clip.has_gen_audio_encoder")? == Some(true)
    {
        return Err(unsupported("a projector of sound as well, which candor does not read".into()));
    }
    let name = match file.opt_str("clip.projector_type")?.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => file.opt_str("clip.vision.projector_type")?.unwrap_or_default(),
    };
    ProjectorKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        let all = ProjectorKind::ALL.map(ProjectorKind::name).join(", ");
        unsupported(format!("projector `{}`: candor knows {all}", shown(name)))
    })
}

/// Keys that only some kinds read, and those that llama.cpp reads of all, whose type must be right.
fn others(file: &Gguf, kind: ProjectorKind, n_block: u64, image_size: u64) -> Result<()> {
    for key in ["clip.minicpmv_query_num", "clip.vision.n_wa_pattern"] {
        uint32(file, key)?;
    }
    if file.get("clip.minicpmv_version").is_some_and(|value| !matches!(value, Value::I32(_))) {
        return Err(file.fault("key clip.minicpmv_version", "is no I32"));
    }
    file.opt_str("clip.vision.mm_patch_merge_type")?;
    for key in ["clip.vision.image_grid_pinpoints", "clip.vision.feature_layer"] {
        let Some(value) = file.get(key) else { continue };
        let problem = match value.as_i32s() {
            None => "it is no array of I32",
            Some(_) if key.ends_with("feature_layer") => {
                "candor knows no projector that picks layers"
            }
            Some([]) => continue,
            Some(_) => "candor knows no projector that picks resolutions from a list",
        };
        return Err(file.fault(format!("key {key}"), problem.to_owned()));
    }
    let range = |key: &str, from: u64, to: u64| match uint32(file, key)? {
        None => Ok(None),
        Some(n) => in_range(file, key, n, from, to).map(Some),
    };
    match kind {
        ProjectorKind::Idefics3 => {
            // Sides come out of a division by up to 64.
            range("clip.vision.preproc_image_size", 64.max(image_size), 8192)?;
        }
        ProjectorKind::InternVl => {
            let least = range("clip.vision.preproc_min_tiles", 1, 64)?.unwrap_or(1);
            range("clip.vision.preproc_max_tiles", least, 64)?;
            if least > 12 && file.get("clip.vision.preproc_max_tiles").is_none() {
                let problem = "more than the 12 tiles that there are by default".to_owned();
                return Err(file.fault("key clip.vision.preproc_min_tiles", problem));
            }
        }
        ProjectorKind::Qwen25Vl => {
            let key = "clip.vision.n_wa_pattern";
            let n = range(key, 0, n_block)?;
            if n.is_none() {
                return Err(file.fault(format!("key {key}"), "it is missing"));
            }
        }
        ProjectorKind::Qwen2Vl => {
            range("clip.vision.n_wa_pattern", 0, 0)?;
        }
        _ => {}
    }
    Ok(())
}

fn check_tensors(file: &Gguf, wanted: &[Wanted]) -> Result<()> {
    for want in wanted {
        let fault = |problem: String| Err(file.fault(format!("tensor {}", want.name), problem));
        let Some(tensor) = file.tensor(&want.name) else {
            if want.is_needed {
                return fault("it is missing".to_owned());
            }
            continue;
        };
        let mut dims = tensor.dims.clone();
        while dims.len() > 1 && dims.last() == Some(&1) {
            dims.pop();
        }
        let expected: Vec<u64> = want.dims.iter().map(|&n| n as u64).collect();
        if dims != expected {
            return fault(format!("its dimensions are {dims:?}, expected {expected:?}"));
        }
        let is_sound = match want.role {
            tensors::Role::Plain => tensor.kind == TensorType::F32,
            tensors::Role::Kernel => {
                matches!(tensor.kind, TensorType::F32 | TensorType::F16 | TensorType::BF16)
            }
            tensors::Role::Matrix => {
                use TensorType::{F64, I8, I16, I32, I64, Q8_1, Q8_K};
                !matches!(tensor.kind, F64 | I8 | I16 | I32 | I64 | Q8_1 | Q8_K)
            }
        };
        if !is_sound {
            return fault(format!("it is of type {}", tensor.kind.name()));
        }
    }
    let is_wanted = |name: &str| wanted.iter().any(|want| want.name == name);
    match file.tensors().iter().find(|tensor| !is_wanted(&tensor.name)) {
        None => Ok(()),
        Some(tensor) => {
            let problem = "no projector of this kind that candor knows has it".to_owned();
            Err(file.fault(format!("tensor {}", shown(&tensor.name)), problem))
        }
    }
}

/// The value of a key that llama.cpp reads as a U32 and nothing else.
fn uint32(file: &Gguf, key: &str) -> Result<Option<u64>> {
    match file.get(key) {
        None => Ok(None),
        Some(Value::U32(n)) => Ok(Some(u64::from(*n))),
        Some(value) => {
            let problem = format!("is a {}, expected a U32", value.type_name());
            Err(file.fault(format!("key {key}"), problem))
        }
    }
}

fn in_range(file: &Gguf, key: &str, n: u64, from: u64, to: u64) -> Result<u64> {
    if (from..=to).contains(&n) {
        return Ok(n);
    }
    Err(file.fault(format!("key {key}"), format!("is {n}, expected {from} to {to}")))
}
