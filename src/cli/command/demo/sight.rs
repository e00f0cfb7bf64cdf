//! `candor demo --sight`: the same job on a model that sees and does not say.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::{DemoArgs, INSTRUCTION_SIGHT, KEPT, percent, table_of};
use crate::capture::{CaptureParams, Store, capture};
use crate::cli::command::sight::probe::with_bars;
use crate::cli::command::sight::stages;
use crate::cli::show::output::{BOLD, DIM, Output, stdout_is_terminal};
use crate::cli::show::picture::drawn;
use crate::cli::show::report::intervals_text;
use crate::cli::show::table::{counted, printable_line, short};
use crate::cli::{embedded, interrupt};
use crate::data::{Dataset, PromptForm};
use crate::ledger::Ledger;
use crate::select::{Grid, Journal, SelectParams};
use crate::sight::probe::{ProbeParams, ProbeReport, TaskReport, probe};
use crate::sight::tasks::{Task, TaskSet};
use crate::steer::{DirectionKind, Selection, SigmaFrom};
use crate::study::{Protocol, Report, Row, two_fold};
use crate::vision::{Picture, VisionParams};
use crate::{Error, Model, Result};

/// Pictures of each task: to probe, and to steer on.
const N_PROBE: usize = 72;
const N_STEER: usize = 40;
/// Captions, of which steering should change nothing.
const N_CAPTION: usize = 40;
/// Pictures that are drawn.
const N_SHOWN: usize = 6;
/// Columns of the terminal that a picture takes.
const WIDTH: u32 = 24;
/// Who measures, and who looks: the model was trained on both.
const SPEAKERS: [&str; 2] = ["Teacher:", "Child:"];

/// What `--json` gives.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    /// Where the answer can be read.
    tasks: &'a [TaskReport],
    /// What steering changes, on pictures whose true answer is not that of the eye.
    rows: &'a [Row],
    /// One per fold.
    k: Vec<usize>,
    /// One per fold.
    alpha: Vec<f32>,
    selection: &'static str,
    kl_budget: f64,
    n_question: usize,
    folds: usize,
    seed: u64,
    content: &'a str,
    projector: &'a str,
    seconds: f64,
    examples: &'a [Example],
}

/// A picture, and what is said of it.
#[derive(schemars::JsonSchema, Serialize)]
struct Example {
    task: String,
    question: String,
    truth: String,
    before: String,
    after: String,
    #[serde(skip)]
    picture: PathBuf,
}

/// Pictures whose two answers differ, and what is asked of them.
struct Asked {
    data: Dataset,
    /// The same behind the names of those who speak.
    spoken: Dataset,
    questions: Vec<String>,
    pictures: Vec<PathBuf>,
}

impl DemoArgs {
    pub(super) fn run_sight(&self, output: Output) -> Result<()> {
        let start = Instant::now();
        interrupt::install();
        let folder =
            tempfile::tempdir().map_err(Error::io("create a folder in", std::env::temp_dir()))?;
        let folder = folder.path();
        let model = self.load_sight()?;
        let form = PromptForm::parse("Q: {question} A: {answer}")?;
        let set = TaskSet {
            tasks: Task::OF_SIGHT_MODEL.to_vec(),
            n_picture: N_PROBE,
            seed: self.seed,
            ..TaskSet::default()
        };
        let all = Dataset::open(&set.write(&folder.join("all"), &mut || Ok(()))?)?;
        let found = self.find_answers((&model, &all), &form, folder, output)?;
        let asked = self.ask(&model, &set, &form, folder)?;
        let captions = captions(&set, &all, |path| marker(&model, path))?;
        let store = self.capture_spoken(&model, &asked.spoken, folder)?;
        let protocol = self.protocol_sight(&asked.data, form, &captions);
        let report = self.study_sight(&model, &store, &protocol, output)?;
        let examples = examples(&report, &asked.data, &asked.questions, &asked.pictures);
        let seconds = start.elapsed().as_secs_f64();
        if output.is_json() {
            output.json(&Document {
                tasks: &found.tasks,
                rows: &report.rows(),
                k: report.folds.iter().map(|fold| fold.choice.k).collect(),
                alpha: report.folds.iter().map(|fold| fold.choice.alpha).collect(),
                selection: protocol.selection.name(),
                kl_budget: protocol.grid.kl_budget,
                n_question: report.n_question(),
                folds: report.folds.len(),
                seed: self.seed,
                content: model.content()?,
                projector: model.projector_content().unwrap_or_default(),
                seconds,
                examples: &examples,
            });
            return Ok(());
        }
        output.line(format_args!(
            "{BOLD}candor sight{BOLD:#}: an encoder that measures, a decoder that says what catches the \
             eye"
        ));
        stages::print_in_short(&found.tasks, output);
        print_steered(&report, output);
        show(&examples, output)?;
        output.line(format_args!(
            "\n{DIM}{seconds:.0} s. A closed world: what it shows about real models is the method. The same \
             for yours: candor sight probe{DIM:#}"
        ));
        Ok(())
    }

    /// The built-in model with its projector; of pictures nothing is kept.
    fn load_sight(&self) -> Result<Model> {
        let (file, projector) = embedded::sight_model()?;
        let mut params = self.model.params();
        let vision = VisionParams { n_threads: self.model.threads(), ..VisionParams::default() };
        params.projector = Some((projector, vision));
        Model::load(&file, &params)
    }

    /// Where the answer is: on pictures of every kind, in equal shares.
    fn find_answers(
        &self,
        (model, all): (&Model, &Dataset),
        form: &PromptForm,
        folder: &Path,
        output: Output,
    ) -> Result<ProbeReport> {
        let params = ProbeParams {
            seed: self.seed,
            n_threads: self.model.threads(),
            only_linear: true,
            ..ProbeParams::new(form.clone())
        };
        let features = folder.join("features");
        with_bars(output, KEPT, |each| probe(model, all, &params, &features, each))
    }

    /// Draws other pictures, whose two answers differ, and shows them to the model.
    fn ask(&self, model: &Model, set: &TaskSet, form: &PromptForm, folder: &Path) -> Result<Asked> {
        let differ = TaskSet {
            n_picture: N_STEER,
            seed: self.seed.wrapping_add(1),
            differ: Some(1.0),
            ..set.clone()
        };
        let mut data = Dataset::open(&differ.write(&folder.join("asked"), &mut || Ok(()))?)?;
        let pictures: Vec<PathBuf> =
            data.questions.iter().filter_map(|q| q.images.first().cloned()).collect();
        let questions: Vec<String> = data.questions.iter().map(|q| q.text.clone()).collect();
        let mut spoken = spoken(folder, &questions, &pictures, form)?;
        data.show(|path| marker(model, path))?;
        spoken.show(|path| marker(model, path))?;
        Ok(Asked { data, spoken, questions, pictures })
    }

    fn capture_spoken(&self, model: &Model, spoken: &Dataset, folder: &Path) -> Result<Store> {
        let params = CaptureParams {
            seed: self.seed,
            next_rows: false,
            n_threads: self.model.threads(),
            ..CaptureParams::new(PromptForm::default_for(spoken.kind))
        };
        let path = folder.join("spoken.safetensors");
        let captured = capture(model, spoken, &params, &path, |_| interrupt::go_on())?;
        Store::open(&captured.path)
    }

    fn protocol_sight<'a>(
        &self,
        asked: &'a Dataset,
        form: PromptForm,
        captions: &'a [String],
    ) -> Protocol<'a> {
        Protocol {
            data: asked,
            form,
            neutral: captions.iter().map(String::as_str).collect(),
            preamble: String::new(),
            instruction: INSTRUCTION_SIGHT.to_owned(),
            // Both halves of every task.
            shuffle: true,
            direction: DirectionKind::MassMean,
            selection: self.select.unwrap_or(Selection::Effect),
            select: SelectParams { alpha: 2.0, ..SelectParams::default() },
            sigma: SigmaFrom::Development,
            grid: Grid {
                ks: vec![1, 2, 3, 4, 6],
                alphas: vec![0.5, 1.0, 1.5, 2.0, 3.0],
                kl_budget: self.kl_budget.unwrap_or(0.1),
            },
            gate: None,
            n_random: self.draws,
            n_predict: 3,
            n_example: N_SHOWN,
            seed: self.seed,
        }
    }

    fn study_sight<'a>(
        &self,
        model: &Model,
        store: &Store,
        protocol: &Protocol<'a>,
        output: Output,
    ) -> Result<Report<'a>> {
        let mut evaluator = self.model.evaluator(model)?;
        // The model says one word, and no stop behind it.
        evaluator.set_full_stop(false);
        let bar = output.progress("steering", protocol.n_step());
        let (mut ledger, journal) = (Ledger::in_memory(), |_: &str| Ok(Journal::in_memory()));
        let report = two_fold(&mut evaluator, store, protocol, &mut ledger, journal, || {
            bar.inc(1);
            interrupt::check(KEPT)
        });
        bar.finish_and_clear();
        report
    }
}

/// What stands for a picture in a text, once the model was shown it.
fn marker(model: &Model, path: &Path) -> Result<String> {
    Ok(model.show(&Picture::open(path)?)?.marker)
}

/// Each question behind the name of one who measures, and of one who looks: pairs in the order of the
/// questions.
fn spoken(
    folder: &Path,
    questions: &[String],
    pictures: &[PathBuf],
    form: &PromptForm,
) -> Result<Dataset> {
    let mut rows = String::new();
    for (question, picture) in questions.iter().zip(pictures) {
        let [positive, negative] = SPEAKERS.map(|name| format!("{name} {}", form.prompt(question)));
        let row =
            serde_json::json!({ "positive": positive, "negative": negative, "image": picture });
        rows += &format!("{row}\n");
    }
    Dataset::from_bytes(&folder.join("speakers.jsonl"), rows.as_bytes())
}

/// Captions of pictures, which say nothing of what is asked.
fn captions(
    set: &TaskSet,
    data: &Dataset,
    marker: impl Fn(&Path) -> Result<String>,
) -> Result<Vec<String>> {
    let n = data.questions.len();
    let caption = |i: usize| {
        let i = i * n / N_CAPTION;
        let (task, index) = (set.tasks[i / set.n_picture], i % set.n_picture);
        let [image] = data.questions[i].images.as_slice() else {
            return Err(Error::invalid("captions", "a question has no picture"));
        };
        Ok(format!("{}{}", marker(image)?, set.caption(task, index)))
    };
    (0..N_CAPTION).map(caption).collect()
}

/// Some questions, evenly, with what the model writes.
fn examples(
    report: &Report,
    data: &Dataset,
    questions: &[String],
    pictures: &[PathBuf],
) -> Vec<Example> {
    let reports = report.questions();
    let n = N_SHOWN.min(reports.len());
    let example = |i: usize| {
        let i = (2 * i + 1) * reports.len() / (2 * n);
        let own = &reports[i];
        let wrote = |name: &str| {
            own.conditions.get(name).and_then(|scored| scored.written).unwrap_or("–").to_owned()
        };
        Example {
            task: own.category.unwrap_or_default().to_owned(),
            question: questions[i].clone(),
            truth: data.questions[i].answers[data.questions[i].best()].text.clone(),
            before: wrote("base"),
            after: wrote("iti"),
            picture: pictures[i].clone(),
        }
    };
    (0..n).map(example).collect()
}

fn print_steered(report: &Report, output: Output) {
    output.line(format_args!(
        "\n{BOLD}Inference-Time Intervention on the decoder{BOLD:#}: {} whose two answers differ, fitted on \
         one half, scored on the other, both ways\n{DIM}directions: the same question behind `{}` and \
         behind `{}`{DIM:#}\n",
        counted(report.n_question(), "picture"),
        SPEAKERS[0],
        SPEAKERS[1]
    ));
    let rows = report.rows();
    table_of(&rows, "steered (ITI)", INSTRUCTION_SIGHT, output);
    output.line("");
    output.text(&intervals_text(&rows));
    for (choice, fold) in report.folds.iter().map(|fold| &fold.choice).zip(1..) {
        output.line(format_args!(
            "{DIM}fold {fold}: {}, alpha {}, chosen on the other half (MC1 {}, KL {:.3}){DIM:#}",
            counted(choice.k, "head"),
            short(choice.alpha),
            percent(Some(choice.mc1)),
            choice.kl,
        ));
    }
    let steered = rows.iter().find(|row| row.name == "iti");
    if let Some(change) = steered.and_then(|row| row.change.mc1) {
        let points = 100.0 * change.mean;
        output.line(match change {
            change if change.mean >= 0.5 => {
                format!("Steering gives the answer back: {points:+.0} points.")
            }
            change if change.low > 0.0 => {
                format!("Steering gives a little of it back: {points:+.1} points.")
            }
            _ => format!(
                "Steering a few heads at the last token gives back no more than luck would: \
                 {points:+.1} points, 95 % interval {:+.1} to {:+.1}.",
                100.0 * change.low,
                100.0 * change.high
            ),
        });
    }
}

/// Draws the pictures, three beside each other, with what is said of them.
fn show(examples: &[Example], output: Output) -> Result<()> {
    let has_colours = stdout_is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for beside in examples.chunks(3) {
        let mut columns: Vec<Vec<String>> = Vec::new();
        for example in beside {
            let mark = |said: &str| if said == example.truth { "✓" } else { "✗" };
            let line = |text: String| {
                let short: String = printable_line(&text).chars().take(WIDTH as usize).collect();
                format!("{short:<width$}", width = WIDTH as usize)
            };
            let mut own = drawn(&Picture::open(&example.picture)?, WIDTH, has_colours);
            let (before, after) = (&example.before, &example.after);
            own.push(line(format!("{}: {}", example.task, example.truth)));
            own.push(line(format!("before  {} {before}", mark(before))));
            own.push(line(format!("steered {} {after}", mark(after))));
            columns.push(own);
        }
        output.line("");
        for i in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
            let lines: Vec<&str> =
                columns.iter().map(|column| column.get(i).map_or("", String::as_str)).collect();
            output.line(lines.join("   "));
        }
    }
    Ok(())
}
