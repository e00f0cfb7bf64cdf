//! Which model, and how it runs.

use std::path::{Path, PathBuf};

use clap::Args;

#[cfg(not(feature = "sight"))]
use crate::Error;
use crate::capture::CaptureParams;
use crate::cli::args::values::{positive, threads};
use crate::cli::args::words::Words;
use crate::cli::show::output::Output;
use crate::cli::{embedded, folders};
#[cfg(not(feature = "sight"))]
use crate::data::Dataset;
use crate::data::PromptForm;
use crate::session::{CacheType, SessionParams};
use crate::{Model, ModelParams, Result};

/// Which model, and how it runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(in crate::cli) struct ModelArgs {
    /// The model: a GGUF file, or hf:OWNER/REPO[:QUANT] for one on Hugging Face (also -hf
    /// OWNER/REPO[:QUANT]) [default: the built-in demo model].
    #[arg(short, long, value_name = "GGUF")]
    pub(in crate::cli) model: Option<PathBuf>,

    /// Layers to offload to the GPU, counted from the last (the output layer counts); also -ngl [default:
    /// all].
    #[arg(long = "n-gpu-layers", visible_alias = "ngl", value_name = "N")]
    n_gpu_layers: Option<u32>,

    /// Devices to use, comma-separated, as `candor devices` lists them; `none` uses the CPU alone
    /// [default: all workers and GPUs].
    #[arg(long = "device", value_name = "NAME", value_delimiter = ',')]
    devices: Option<Vec<String>>,

    /// Workers whose devices to use, comma-separated: see `candor worker`.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    rpc: Vec<String>,

    /// The projector file (mmproj) of a model that reads pictures [default: the one beside the
    /// model, where pictures are used].
    #[cfg(feature = "sight")]
    #[arg(long, value_name = "GGUF")]
    mmproj: Option<PathBuf>,

    /// CPU threads [default: one per core; one for a small model].
    #[arg(short, long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,

    /// Size of the context in tokens [default: the model's own, at most 4096].
    #[arg(short = 'c', long, value_name = "N", value_parser = positive)]
    ctx_size: Option<usize>,

    /// Type of the KV cache: f16, f32, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl.
    #[arg(long, value_name = "TYPE", default_value_t = CacheType::F16)]
    cache: CacheType,
}

impl ModelArgs {
    /// Whether the built-in model serves.
    pub(in crate::cli) fn is_embedded(&self) -> bool {
        self.model.is_none()
    }

    /// The model's file.
    pub(in crate::cli) fn path(&self) -> Result<PathBuf> {
        embedded::model_or(self.model.as_ref())
    }

    /// Loads the model.
    pub(in crate::cli) fn load(&self) -> Result<Model> {
        self.load_with(&self.params())
    }

    /// Loads the model in this way.
    pub(in crate::cli) fn load_with(&self, params: &ModelParams) -> Result<Model> {
        load_at(&self.path()?, params)
    }

    /// Loads the model, and reads all of its bytes where their hash is not known yet: for a command that
    /// keeps what it computes.
    pub(in crate::cli) fn load_hashed(&self, output: Output) -> Result<Model> {
        let model = self.load()?;
        hash(&model, output)?;
        Ok(model)
    }

    /// Loads the model for these data.
    #[cfg(not(feature = "sight"))]
    pub(in crate::cli) fn load_for(&self, data: &mut [Dataset], output: Output) -> Result<Model> {
        if let Some(data) = data.iter().find(|data| data.has_images()) {
            let problem = "it has pictures, and this program was built without them: build with \
                           --features sight";
            return Err(Error::invalid(data.path.display().to_string(), problem));
        }
        self.load_hashed(output)
    }

    /// How to load a model.
    pub(in crate::cli) fn params(&self) -> ModelParams {
        ModelParams {
            n_gpu_layers: self.n_gpu_layers,
            devices: self.devices.clone(),
            rpc: self.rpc.clone(),
            // Without a place to remember them they are computed each time.
            hashes: folders::cache_folder("hashes").ok(),
            #[cfg(feature = "sight")]
            projector: self.mmproj.clone().map(|path| (path, self.vision())),
        }
    }

    /// A session's settings as far as the user gave them.
    pub(in crate::cli) fn session(&self, model: &Model) -> SessionParams {
        SessionParams {
            n_ctx: self.ctx_size.unwrap_or_else(|| model.n_ctx_train().min(4096)),
            n_threads: self.threads,
            cache: self.cache,
            ..SessionParams::default()
        }
    }

    /// The same before the model is known: its context size is 0 where the user gave none.
    #[cfg(feature = "serve")]
    pub(in crate::cli) fn session_of_any(&self) -> SessionParams {
        SessionParams {
            n_ctx: self.ctx_size.unwrap_or(0),
            n_threads: self.threads,
            cache: self.cache,
            ..SessionParams::default()
        }
    }

    /// How to capture texts of this form.
    pub(in crate::cli) fn capture_params(&self, form: PromptForm, seed: u64) -> CaptureParams {
        CaptureParams {
            seed,
            n_ctx: self.ctx_size,
            n_threads: self.threads,
            cache: self.cache,
            ..CaptureParams::new(form)
        }
    }

    /// Everything about the model and how it runs that results which are kept depend on.
    pub(in crate::cli) fn identity(&self, model: &Model) -> Result<String> {
        let version = env!("CARGO_PKG_VERSION");
        Ok(format!(
            "{version} {}, {} cache, context {:?}",
            model.identity()?,
            self.cache,
            self.ctx_size
        ))
    }

    /// As they are typed: which model, and how it runs.
    pub(in crate::cli) fn words(&self) -> Words {
        let list = |values: &[String]| (!values.is_empty()).then(|| values.join(","));
        let mut words = Words::default();
        words.add("-m", self.model.as_deref().map(Path::display));
        words.add("--n-gpu-layers", self.n_gpu_layers);
        words.add("--device", self.devices.as_deref().and_then(list));
        words.add("--rpc", list(&self.rpc));
        words.add("--threads", self.threads);
        words.add("--ctx-size", self.ctx_size);
        words.add("--cache", Some(self.cache).filter(|&cache| cache != CacheType::F16));
        words
    }

    /// The context size, where the user gave one.
    pub(in crate::cli) fn ctx_size(&self) -> Option<usize> {
        self.ctx_size
    }

    /// Threads, where the user gave them.
    pub(in crate::cli) fn threads(&self) -> Option<usize> {
        self.threads
    }
}

/// Loads the model of a file.
pub(in crate::cli) fn load_at(path: &Path, params: &ModelParams) -> Result<Model> {
    let model = Model::load(path, params)?;
    for warning in model.warnings() {
        // On stderr, whatever stdout holds.
        Output::new(false).warn(warning);
    }
    Ok(model)
}

/// Hashes a model's bytes where that was not done yet, with progress for a large one.
pub(in crate::cli) fn hash(model: &Model, output: Output) -> Result<()> {
    let mut bar = None;
    model.content_with(|n_done, n_all| {
        if n_done < n_all {
            let mib = |n: u64| n >> 20;
            let bar = bar.get_or_insert_with(|| output.progress("hashing", mib(n_all) as usize));
            bar.set_position(mib(n_done));
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}
