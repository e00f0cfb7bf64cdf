//! `candor sight tasks`: pictures and questions, as files.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::interrupt;
use crate::cli::show::output::Output;
use crate::gguf::Gguf;
use crate::sight::tasks::{Difficulty, Distractors, Task, TaskSet};
use crate::{Error, Result};

/// Make pictures with questions that have two answers, a true one and a tempting one
///
/// Each picture compares two things in two quantities: the one that is asked about, and another
/// that catches the eye. Both answers are balanced and drawn independently, and neither ink nor
/// position nor file size gives the true one away. The same options give the same files.
///
/// Five tasks are Piaget's conservation tasks (number, length, angle, liquid, area), four those of
/// *Why Vision Language Models Struggle with Visual Arithmetic?* (angle-comparison, perpendicular,
/// length-comparison, chart).
#[derive(Debug, Args)]
pub(in crate::cli) struct TasksArgs {
    /// Folder to write: images/*.png, and tasks.jsonl for --data.
    #[arg(value_name = "OUT")]
    out: PathBuf,

    /// Tasks, comma-separated [default: all nine].
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<Task>,

    /// Number of pictures per task.
    #[arg(short, long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    n: u32,

    /// Side of a picture in pixels [default: the image size of --mmproj, or 48].
    #[arg(long, value_name = "PIXELS", conflicts_with = "mmproj")]
    size: Option<u32>,

    /// A projector file; pictures get its image size.
    #[arg(long, value_name = "GGUF")]
    mmproj: Option<PathBuf>,

    /// Seed for the pictures.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,

    /// Difficulty: how far the two sides are apart.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = HowHard::Medium)]
    difficulty: HowHard,

    /// Distractors, things that vary without meaning; comma-separated, or none.
    #[arg(
        long,
        value_name = "NAMES",
        value_enum,
        value_delimiter = ',',
        default_value = "size,position,colour,width,slope"
    )]
    distractors: Vec<Distractor>,

    /// Amplitude of pixel noise, in levels of 255.
    #[arg(long, value_name = "LEVELS", default_value_t = 6)]
    noise: u8,

    /// Share of pictures whose two answers differ [default: every pair of answers equally often].
    #[arg(long, value_name = "SHARE")]
    differ: Option<f64>,

    /// Write preference pairs (pairs.jsonl) instead: a picture before and after a change, with the
    /// true statement (chosen) and what the eye says (rejected).
    #[arg(long)]
    pairs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HowHard {
    /// A quarter further apart than medium.
    Easy,
    /// Plain to see at 48 pixels.
    Medium,
    /// Half as far apart as medium.
    Hard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Distractor {
    /// Nothing varies.
    None,
    /// The size of dots and houses.
    Size,
    /// Where things lie.
    Position,
    /// Colours and shades.
    Colour,
    /// The width of lines.
    Width,
    /// Slopes and turns.
    Slope,
    /// Pale specks and strokes in the background.
    Clutter,
}

/// What `--json` says.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Document<'a> {
    path: &'a Path,
    n_row: usize,
    tasks: Vec<&'static str>,
    size: u32,
    seed: u64,
}

impl TasksArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let set = self.set()?;
        let n_row = set.tasks.len() * set.n_picture;
        interrupt::install();
        let bar = output.progress("drawing", n_row);
        let mut step = || {
            bar.inc(1);
            interrupt::check("rerun the same command: it draws the same pictures again")
        };
        let path = match self.pairs {
            true => set.write_pairs(&self.out, &mut step),
            false => set.write(&self.out, &mut step),
        }?;
        bar.finish_and_clear();
        let tasks: Vec<_> = set.tasks.iter().map(|task| task.name()).collect();
        if output.is_json() {
            let (size, seed) = (set.size, set.seed);
            output.json(&Document { path: &path, n_row, tasks, size, seed });
            return Ok(());
        }
        let what = if self.pairs { "pairs" } else { "pictures" };
        output.line(format_args!(
            "{n_row} {what} of {0} x {0} pixels: {1}",
            set.size,
            tasks.join(", ")
        ));
        output.wrote(&path);
        Ok(())
    }

    fn set(&self) -> Result<TaskSet> {
        let mut tasks = self.tasks.clone();
        if tasks.is_empty() {
            tasks = Task::ALL.to_vec();
        }
        for (i, task) in tasks.iter().enumerate() {
            if tasks[..i].contains(task) {
                return Err(Error::invalid("--tasks", format!("names {task} twice")));
            }
        }
        let has = |which| self.distractors.contains(&which);
        if has(Distractor::None) && self.distractors.len() > 1 {
            return Err(Error::invalid("--distractors", "names none and others"));
        }
        let size = match (&self.mmproj, self.size) {
            (Some(path), _) => image_size(path)?,
            (None, size) => size.unwrap_or(TaskSet::default().size),
        };
        Ok(TaskSet {
            tasks,
            n_picture: self.n as usize,
            size,
            seed: self.seed,
            difficulty: match self.difficulty {
                HowHard::Easy => Difficulty::Easy,
                HowHard::Medium => Difficulty::Medium,
                HowHard::Hard => Difficulty::Hard,
            },
            distractors: Distractors {
                size: has(Distractor::Size),
                position: has(Distractor::Position),
                colour: has(Distractor::Colour),
                width: has(Distractor::Width),
                slope: has(Distractor::Slope),
                clutter: has(Distractor::Clutter),
            },
            noise: self.noise,
            differ: self.differ,
        })
    }
}

/// The side of the images that a projector file takes.
fn image_size(path: &Path) -> Result<u32> {
    const KEY: &str = "clip.vision.image_size";
    let size = Gguf::open(path)?.opt_uint(KEY)?.and_then(|size| size.try_into().ok());
    size.ok_or_else(|| {
        let problem = format!("has no {KEY}: it is not a projector file; give --size instead");
        Error::invalid(path.display().to_string(), problem)
    })
}
