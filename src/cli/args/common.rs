//! Groups of arguments that several commands share, and what they become.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::capture::CaptureParams;
use crate::chat::ChatTemplate;
use crate::cli::args::parts::{Part, check_alpha, combine};
use crate::cli::args::words::Words;
use crate::cli::embedded;
use crate::cli::show::output::Output;
use crate::cli::show::table::{printable_line, short};
use crate::data::{Dataset, PromptForm};
use crate::export::BakeRecord;
use crate::session::{CacheType, MAX_THREADS, SamplingParams, SessionParams};
use crate::steer::{
    DirectionKind, Positions, Reader, Selection, Sidecar, SteeringVector, find_beside, list_beside,
};
use crate::{Error, Geometry, Model, ModelParams, Result};

/// Which model, and how it runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(in crate::cli) struct ModelArgs {
    /// The model: a GGUF file, or hf:OWNER/REPO[:QUANT] for one on Hugging Face, also as -hf
    /// OWNER/REPO[:QUANT] [default: the built-in demo model].
    #[arg(short, long, value_name = "GGUF")]
    pub(in crate::cli) model: Option<PathBuf>,

    /// Layers to offload to the GPU, counted from the last (the output layer counts); also -ngl [default:
    /// all].
    #[arg(long = "n-gpu-layers", visible_alias = "ngl", value_name = "N")]
    n_gpu_layers: Option<u32>,

    /// Devices to use, as `candor devices` lists them, with commas between; `none` is the CPU
    /// alone [default: all workers and GPUs].
    #[arg(long = "device", value_name = "NAME", value_delimiter = ',')]
    devices: Option<Vec<String>>,

    /// Workers whose devices to use, with commas between: see `candor worker`.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    rpc: Vec<String>,

    /// The projector file of a model that sees pictures (mmproj) [default: where pictures are asked
    /// for, the one beside the model].
    #[cfg(feature = "sight")]
    #[arg(long, value_name = "GGUF")]
    mmproj: Option<PathBuf>,

    /// Threads [default: one per core, one for a small model].
    #[arg(short, long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,

    /// Size of the context in tokens [default: the model's own, at most 4096].
    #[arg(short = 'c', long, value_name = "N", value_parser = positive)]
    ctx_size: Option<usize>,

    /// Storage of the KV cache: f16, f32, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl.
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
        let path = self.path()?;
        let model = Model::load(&path, params)?;
        for warning in model.warnings() {
            // On stderr, whatever stdout holds.
            Output::new(false).warn(warning);
        }
        Ok(model)
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
            hashes: embedded::cache_folder("hashes").ok(),
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

/// Which labelled texts, and how they are put to the model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(in crate::cli) struct DataArgs {
    /// Labelled texts: TruthfulQA.csv, mc_task.json, a CSV of statement,label, or JSONL of
    /// {"prompt", "answer", "label"}, {"question", "choices", "answer"}, {"question", "true",
    /// "false"} or {"positive", "negative"}; or by name: `truthfulqa`, `recipe:formal` (brief,
    /// cheerful, refusing, certain) [default: the demo's questions].
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) data: Option<PathBuf>,

    /// How a question and an answer become one text; `\n` is a line end [default: `Q: {question} A:
    /// {answer}` for questions].
    #[arg(long, value_name = "TEMPLATE")]
    pub(in crate::cli) template: Option<String>,

    /// Ask through the model's own chat template.
    #[arg(long, conflicts_with = "template")]
    pub(in crate::cli) chat: bool,

    /// Seed of splits and draws.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) seed: u64,
}

impl DataArgs {
    /// The prompt form: the user's, the model's own for chats, or the usual one for this kind of
    /// data.
    pub(in crate::cli) fn form(&self, data: &Dataset, model: &Model) -> Result<PromptForm> {
        if self.chat && !data.kind.asks() {
            let problem = "asks questions, and this data set holds none: leave it out";
            return Err(Error::invalid("--chat", problem));
        }
        if self.chat {
            return ChatTemplate::of(model).form();
        }
        prompt_form(self.template.as_deref(), data)
    }

    /// As they are typed: which texts, and how they are put.
    pub(in crate::cli) fn words(&self) -> Words {
        let mut words = Words::default();
        words.add("--data", self.data.as_deref().map(Path::display));
        words.add("--template", self.template.as_ref());
        words.flag("--chat", self.chat);
        words.add("--seed", Some(self.seed).filter(|&seed| seed != 0));
        words
    }

    /// How to capture these texts.
    pub(in crate::cli) fn capture_params(
        &self,
        args: &ModelArgs,
        data: &Dataset,
        model: &Model,
    ) -> Result<CaptureParams> {
        Ok(args.capture_params(self.form(data, model)?, self.seed))
    }
}

/// The prompt form: the user's, else the usual one for this kind of data.
pub(in crate::cli) fn prompt_form(template: Option<&str>, data: &Dataset) -> Result<PromptForm> {
    template
        // As shells leave it.
        .map(|template| template.replace("\\n", "\n"))
        .map_or_else(|| Ok(PromptForm::default_for(data.kind)), |t| PromptForm::parse(&t))
}

/// Sampling, as llama.cpp names it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(in crate::cli) struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = temperature)]
    temp: f32,

    /// Keep the K likeliest tokens; 0 keeps all.
    #[arg(long, value_name = "K", default_value_t = 40, value_parser = clap::value_parser!(i32).range(0..))]
    top_k: i32,

    /// Keep the likeliest tokens up to this share of probability; 1 keeps all.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = share_above_0)]
    top_p: f32,

    /// Drop tokens below this share of the likeliest one's probability; 0 drops none.
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = share)]
    min_p: f32,

    /// Seed of the draws.
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u32,
}

impl SamplingArgs {
    pub(in crate::cli) fn params(&self) -> SamplingParams {
        SamplingParams {
            temp: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
        }
    }
}

/// What a sidecar has to fit: a model, in memory or in its file.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Subject<'a> {
    pub(in crate::cli) path: &'a Path,
    pub(in crate::cli) fingerprint: String,
    pub(in crate::cli) name: Option<&'a str>,
    pub(in crate::cli) geometry: Geometry,
    pub(in crate::cli) baked: Option<&'a BakeRecord>,
}

impl<'a> From<&'a Model> for Subject<'a> {
    fn from(model: &'a Model) -> Self {
        Self {
            path: model.path(),
            fingerprint: model.fingerprint().to_owned(),
            name: model.name(),
            geometry: model.geometry(),
            baked: model.baked(),
        }
    }
}

/// Which vector steers, and how strongly.
#[derive(Debug, Args)]
#[command(next_help_heading = "Steering")]
pub(in crate::cli) struct SteerArgs {
    /// A sidecar; `auto` takes the one beside the model, `none` does not steer. Several are added,
    /// each at its own strength, or times a factor: --steer a.gguf --steer 'b.gguf*0.5'.
    #[arg(long, value_name = "FILE", default_value = "auto")]
    steer: Vec<Part>,

    /// Strength of one sidecar in standard deviations; 0 is off [default: the sidecar's own].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    alpha: Option<f32>,

    /// Use a sidecar that was made for another model.
    #[arg(long)]
    force: bool,
}

/// Steering where the probes read falsehood alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Steering")]
pub(in crate::cli) struct GateArgs {
    /// Steer through a gate: of an answer, only tokens that follow one which the vector's probes read
    /// as true with less than this probability (0 to 1), and those before the first one was read. What
    /// is unlike all that the probes were fitted on leaves the gate shut.
    #[arg(long, value_name = "X", value_parser = share)]
    pub(in crate::cli) gate: Option<f32>,
}

impl GateArgs {
    /// Refuses a gate where nothing steers, or without probes to decide by.
    pub(in crate::cli) fn check(&self, vector: Option<&SteeringVector>) -> Result<()> {
        let has_probes = |vector: &SteeringVector| Reader::of([vector]).is_some();
        match (self.gate, vector) {
            (Some(_), None) => Err(Error::invalid("--gate", "nothing steers: give a vector")),
            (Some(_), Some(vector)) if !has_probes(vector) => {
                Err(Error::invalid("--gate", "the vector has no probes to decide by"))
            }
            _ => Ok(()),
        }
    }
}

impl SteerArgs {
    /// Finds, reads and checks the sidecar; `None` where there is to be no steering.
    pub(in crate::cli) fn sidecar<'a>(
        &self,
        model: impl Into<Subject<'a>>,
        output: Output,
    ) -> Result<Option<(PathBuf, Sidecar)>> {
        self.sidecar_at(None, model, output)
    }

    /// The same; of sidecars that steer different tokens, the sum steers those of `positions`.
    pub(in crate::cli) fn sidecar_at<'a>(
        &self,
        positions: Option<Positions>,
        model: impl Into<Subject<'a>>,
        output: Output,
    ) -> Result<Option<(PathBuf, Sidecar)>> {
        let model = model.into();
        check_alpha(&self.steer, self.alpha)?;
        if let (Some("none"), Some(alpha)) = (self.special(), self.stray_alpha()) {
            let problem = format!("{alpha} is a strength, and --steer none steers nothing");
            return Err(Error::invalid("--alpha", problem));
        }
        if self.special().is_none() {
            let is_word =
                |part: &&Part| ["auto", "none"].iter().any(|word| part.path.as_os_str() == *word);
            if let Some(part) = self.steer.iter().find(is_word) {
                let problem = "stands alone: beside it or with a factor, name files";
                return Err(Error::invalid(format!("--steer {}", part.path.display()), problem));
            }
        }
        match self.special() {
            Some("none") => return Ok(None),
            Some(_) => {
                if let Some(record) = model.baked {
                    output.aside(format_args!(
                        "{} is baked into this model at alpha {}: no sidecar is added",
                        printable_line(&record.name),
                        short(record.alpha)
                    ));
                    return Ok(None);
                }
                let found = find_beside(model.path, &model.fingerprint)?;
                match &found {
                    Some((path, sidecar)) => warn_of_name(path, sidecar, &model, output),
                    None => warn_of_others(&model, output)?,
                }
                return Ok(found);
            }
            None => {}
        }
        self.read_parts(&self.steer, positions, model, output).map(Some)
    }

    /// Reads sidecars and adds them up.
    pub(in crate::cli) fn read_parts<'a>(
        &self,
        parts: &[Part],
        positions: Option<Positions>,
        model: impl Into<Subject<'a>>,
        output: Output,
    ) -> Result<(PathBuf, Sidecar)> {
        let model = model.into();
        combine(parts, positions, self.force, |path| self.read_for(path, &model, output))
    }

    /// `auto` or `none`, where that is all that was said.
    fn special(&self) -> Option<&str> {
        match self.steer.as_slice() {
            [Part { path, factor: None }] => {
                path.to_str().filter(|path| matches!(*path, "auto" | "none"))
            }
            _ => None,
        }
    }

    /// Whether nothing is to be steered, and nothing else was said: with a strength besides,
    /// [`sidecar`](Self::sidecar) refuses.
    pub(in crate::cli) fn is_none(&self) -> bool {
        self.special() == Some("none") && self.stray_alpha().is_none()
    }

    /// A strength that does not mean "off".
    fn stray_alpha(&self) -> Option<f32> {
        self.alpha.filter(|&alpha| alpha != 0.0)
    }

    /// The sidecar, for what cannot do without one.
    pub(in crate::cli) fn required<'a>(
        &self,
        model: impl Into<Subject<'a>>,
        output: Output,
    ) -> Result<(PathBuf, Sidecar)> {
        if self.special() == Some("none") {
            let problem = "leaves nothing to do: name a sidecar with --steer FILE";
            return Err(Error::invalid("--steer none", problem));
        }
        self.sidecar(model, output)?.ok_or_else(|| {
            let problem = "none is beside the model: name one with --steer FILE, or fit one with \
                           `candor fit`";
            Error::invalid("sidecar", problem)
        })
    }

    /// The sidecars that were named; `None` where that is left to what is beside the model.
    pub(in crate::cli) fn parts(&self) -> Option<&[Part]> {
        self.special().is_none().then_some(self.steer.as_slice())
    }

    /// Whether sidecars of other models are taken.
    pub(in crate::cli) fn is_forced(&self) -> bool {
        self.force
    }

    /// Whether the sidecar is whatever is found beside the model.
    pub(in crate::cli) fn is_auto(&self) -> bool {
        self.special() == Some("auto")
    }

    /// Reads a sidecar and refuses, or with --force warns of, one for another model.
    fn read_for(&self, path: &Path, model: &Subject, output: Output) -> Result<Sidecar> {
        let sidecar = Sidecar::read(path)?;
        match sidecar.check_model(path, &model.fingerprint) {
            Err(Error::WrongModel { path, expected, got }) if self.force => {
                output.warn(format_args!(
                    "{} was made for another model: its fingerprint is {expected}, this model's is \
                     {got}",
                    path.display()
                ));
            }
            Err(error) => return Err(error),
            Ok(()) => warn_of_name(path, &sidecar, model, output),
        }
        if let Some(record) = model.baked {
            output.warn(format_args!(
                "{} is baked into this model at alpha {}: with {} it is steered by both",
                printable_line(&record.name),
                short(record.alpha),
                path.display()
            ));
        }
        let geometry = model.geometry;
        sidecar.vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
        if let Some(layers) = sidecar.vector.layers() {
            layers.check_geometry(geometry.n_layer, geometry.n_embd)?;
        }
        Ok(sidecar)
    }

    /// The strength that the user gave.
    pub(in crate::cli) fn given_alpha(&self) -> Option<f32> {
        self.alpha
    }

    /// The strength: the user's, else the sidecar's.
    pub(in crate::cli) fn alpha(&self, sidecar: &Sidecar) -> f32 {
        self.alpha.unwrap_or(sidecar.about.alpha)
    }
}

/// Warns where the fingerprints agree and the names do not: a fine-tune may leave alone all that
/// the fingerprint covers.
fn warn_of_name(path: &Path, sidecar: &Sidecar, model: &Subject, output: Output) {
    let made_for = &sidecar.about.model_name;
    if let Some(name) = model.name.filter(|name| name != made_for) {
        output.warn(format_args!(
            "{} was made for a model named {}, and this one is named {}: check that they match",
            path.display(),
            printable_line(made_for),
            printable_line(name),
        ));
    }
}

/// Warns where sidecars lie beside the model, by their names, and none was made for it.
fn warn_of_others(model: &Subject, output: Output) -> Result<()> {
    for path in list_beside(model.path)? {
        output.warn(format_args!(
            "{} was made for another model: nothing is steered; --steer FILE --force takes it \
             all the same",
            path.display()
        ));
    }
    Ok(())
}

/// One of these words.
pub(in crate::cli) fn one_of<T, const N: usize>(
    words: [&'static str; N],
) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = Error> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse())
}

/// A kind of directions that can be fitted.
pub(in crate::cli) fn direction() -> impl TypedValueParser<Value = DirectionKind> {
    one_of(DirectionKind::ALL.map(DirectionKind::name))
}

/// By what heads are chosen.
pub(in crate::cli) fn selection() -> impl TypedValueParser<Value = Selection> {
    one_of(["accuracy", "effect", "causal"])
}

/// A whole number from 1.
pub(in crate::cli) fn positive(text: &str) -> Result<usize, String> {
    number(text, |&n| n > 0, "a whole number from 1")
}

/// Random vectors to compare with: each is scored on all questions.
pub(in crate::cli) fn draws(text: &str) -> Result<usize, String> {
    number(text, |&n| n <= 1000, "a whole number from 0 to 1000")
}

/// As many threads as llama.cpp can use.
pub(in crate::cli) fn threads(text: &str) -> Result<usize, String> {
    number(
        text,
        |n| (1..=MAX_THREADS).contains(n),
        &format!("a whole number from 1 to {MAX_THREADS}"),
    )
}

/// A number that is not NaN or infinite.
pub(in crate::cli) fn finite(text: &str) -> Result<f32, String> {
    number(text, |x: &f32| x.is_finite(), "a number")
}

/// A number of nats to spend.
pub(in crate::cli) fn budget(text: &str) -> Result<f64, String> {
    number(text, |&x: &f64| x > 0.0 && x.is_finite(), "a number above 0")
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, |&x: &f32| x >= 0.0 && x.is_finite(), "a number from 0")
}

fn share(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..=1.0).contains(x), "a number from 0 to 1")
}

fn share_above_0(text: &str) -> Result<f32, String> {
    number(text, |&x: &f32| x > 0.0 && x <= 1.0, "a number above 0, at most 1")
}

/// Reads a number, if it is one that `fits`; else says what was expected.
fn number<T: FromStr>(
    text: &str,
    fits: impl FnOnce(&T) -> bool,
    expected: &str,
) -> Result<T, String> {
    text.parse().ok().filter(fits).ok_or_else(|| format!("expected {expected}"))
}
