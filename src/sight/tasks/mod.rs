//! Seeded pictures with questions that have two answers: the true one, and that of one who looks at
//! a single dimension.
//!
//! Five tasks are made after Piaget's conservation experiments, as the pairs of CogAlign are: number,
//! length, angle, liquid, area. Each picture shows two of a thing, and the question is which has
//! more. Four are those of *Why Vision Language Models Struggle with Visual Arithmetic?* (Huang et
//! al., 2025): angle comparison, perpendicular, length comparison, chart projection, with yes or no.
//! In all of them one quantity is asked for (how many dots), another catches the eye (how far they
//! spread). Both are drawn apart from each other: every pair of a true
//! answer and an answer of the eye comes equally often, so who sees only what catches the eye is
//! right as often as who guesses. Nothing else gives the answer away: what is drawn has as much ink
//! whatever the quantity that is asked for, and positions, widths, slopes and colours are drawn
//! without regard to it.
//!
//! The same settings give the same pictures, and a picture depends on its task, its number and the
//! settings alone, not on how many are made:
//!
//! ```
//! use candor::sight::tasks::{Task, TaskSet};
//!
//! let set = TaskSet { n_picture: 9, ..TaskSet::default() };
//! let sample = set.sample(Task::Number, 4)?;
//! assert_eq!(sample.picture.rgb.len(), 48 * 48 * 3);
//! let Some(options) = sample.question.options.get(sample.question.truth) else { unreachable!() };
//! assert!(["top", "bottom", "same"].contains(options));
//! # Ok::<(), candor::Error>(())
//! ```

mod canvas;
mod geometry;
mod piaget;
mod scene;
#[cfg(test)]
mod tests;
mod words;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use canvas::Picture;

use crate::error::{Error, Result};
use scene::Scene;

/// What is compared, and what catches the eye instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// How many dots a row has; the eye: how far they spread.
    Number,
    /// How long a stick is; the eye: which one's right end lies further out.
    Length,
    /// How far an angle opens; the eye: how long its arms are.
    Angle,
    /// How much water a glass holds; the eye: how high it stands.
    Liquid,
    /// How much grass the houses leave of a meadow; the eye: how close together they stand.
    Area,
    /// Whether two angles open equally far, in any turn; the eye: whether their arms are equal.
    AngleComparison,
    /// Whether two lines cross at a right angle; the eye: whether one of them lies nearly level.
    Perpendicular,
    /// Whether two lines of any slope are equally long; the eye: whether they spread equally wide.
    LengthComparison,
    /// Whether the dark point's height lies in the marked part of the upright axis; the eye: whether its
    /// width lies in that of the level axis.
    Chart,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Number,
        Self::Length,
        Self::Angle,
        Self::Liquid,
        Self::Area,
        Self::AngleComparison,
        Self::Perpendicular,
        Self::LengthComparison,
        Self::Chart,
    ];

    /// Those that the built-in sight model was trained on.
    pub const OF_SIGHT_MODEL: [Self; 4] = [Self::Number, Self::Length, Self::Angle, Self::Liquid];

    /// Its name: `number`, `length`, …
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Length => "length",
            Self::Angle => "angle",
            Self::Liquid => "liquid",
            Self::Area => "area",
            Self::AngleComparison => "angle-comparison",
            Self::Perpendicular => "perpendicular",
            Self::LengthComparison => "length-comparison",
            Self::Chart => "chart",
        }
    }

    /// The answers that its questions offer.
    #[must_use]
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Number | Self::Length => &words::ROWS,
            Self::Angle | Self::Liquid | Self::Area => &words::SIDES,
            Self::AngleComparison | Self::Perpendicular | Self::LengthComparison | Self::Chart => {
                &words::YES_NO
            }
        }
    }

    /// The ways in which its question is asked; the first is the plainest.
    #[must_use]
    pub fn wordings(self) -> &'static [&'static str] {
        words::wordings(self)
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|task| task.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("task `{name}`"), format!("is not known; there are {names}"))
        })
    }
}

/// How far apart the two sides are where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Difficulty {
    /// A quarter further than [`Difficulty::Medium`].
    Easy,
    /// Plain to see at 48 pixels.
    #[default]
    Medium,
    /// Half as far; one dot among five to eight.
    Hard,
}

/// What varies without meaning anything. What is switched off keeps one value; all else stays as it
/// was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distractors {
    /// The size of the dots.
    pub size: bool,
    /// Where things lie.
    pub position: bool,
    /// Colours and shades.
    pub colour: bool,
    /// The width of lines.
    pub width: bool,
    /// Slopes of sticks, turns of angles.
    pub slope: bool,
    /// Pale specks and strokes behind what is drawn.
    pub clutter: bool,
}

impl Distractors {
    /// None of them.
    pub const NONE: Self = Self {
        size: false,
        position: false,
        colour: false,
        width: false,
        slope: false,
        clutter: false,
    };
    /// All of them.
    pub const ALL: Self =
        Self { size: true, position: true, colour: true, width: true, slope: true, clutter: true };
}

/// All but clutter.
impl Default for Distractors {
    fn default() -> Self {
        Self { clutter: false, ..Self::ALL }
    }
}

/// Pictures to make.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSet {
    /// Of which tasks.
    pub tasks: Vec<Task>,
    /// How many of each.
    pub n_picture: usize,
    /// Side of a picture in pixels, [`TaskSet::SIZES`].
    pub size: u32,
    /// Another seed, other pictures.
    pub seed: u64,
    /// How far apart the sides are.
    pub difficulty: Difficulty,
    /// What varies without meaning anything.
    pub distractors: Distractors,
    /// Noise of each channel: at most so many of 255 levels.
    pub noise: u8,
    /// The share of pictures whose two answers differ; `None` for every pair of answers equally
    /// often, which is two thirds of three options and half of two.
    pub differ: Option<f64>,
}

impl Default for TaskSet {
    fn default() -> Self {
        Self {
            tasks: Task::ALL.to_vec(),
            n_picture: 90,
            size: 48,
            seed: 0,
            difficulty: Difficulty::default(),
            distractors: Distractors::default(),
            noise: 6,
            differ: None,
        }
    }
}

/// A question about a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// In one of the task's wordings.
    pub text: &'static str,
    /// The answers that it offers, always in the same order.
    pub options: &'static [&'static str],
    /// The true answer, an index into `options`.
    pub truth: usize,
    /// The answer of one who looks at a single dimension, an index into `options`.
    pub eye: usize,
}

/// A picture and what is asked about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What is compared.
    pub task: Task,
    /// Its number among the pictures of its task.
    pub index: usize,
    /// The drawing.
    pub picture: Picture,
    /// The question, in a wording of its own draw.
    pub question: Question,
    /// What was drawn, in shares of the side, degrees or dots: `asked_first` and `asked_second`, the
    /// quantity that is asked for of both sides, `seen_first` and `seen_second`, that which catches
    /// the eye. [`Task::Perpendicular`] has the angle and 90 degrees, the tilt of a line and 0;
    /// [`Task::Chart`] the distance of the point from the middle of the marked part and half of that
    /// part, for either axis.
    pub parameters: BTreeMap<&'static str, f64>,
}

impl TaskSet {
    /// Sides of pictures that can be drawn, in pixels.
    pub const SIZES: std::ops::RangeInclusive<u32> = 24..=4096;

    /// Makes one picture.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the size is not one of [`TaskSet::SIZES`] or the share of different
    /// answers is not between 0 and 1.
    pub fn sample(&self, task: Task, index: usize) -> Result<Sample> {
        self.check()?;
        Ok(self.draw(task, index, self.answers(task, index)))
    }

    /// The picture of that number with the given answers: all draws are the same whatever these are.
    fn draw(&self, task: Task, index: usize, [truth, eye]: [usize; 2]) -> Sample {
        // One stream of random numbers for each picture.
        let mut rng = self.stream(task, index as u64);
        let wording = rng.random_range(0..task.wordings().len());
        let sides = match task.options().len() {
            3 => [truth, eye],
            // Yes is the same on both sides, no is more on one of them.
            _ => [truth, eye].map(|answer| {
                let side = rng.random_range(0..scene::SAME);
                if answer == 0 { scene::SAME } else { side }
            }),
        };
        let mut scene = Scene::new(self.size, sides, (self.difficulty, self.distractors), rng);
        scene.clutter(self.stream(task, CLUTTER + index as u64));
        match task {
            Task::Number => piaget::number(&mut scene),
            Task::Length => piaget::length(&mut scene),
            Task::Angle => piaget::angle(&mut scene),
            Task::Liquid => piaget::liquid(&mut scene),
            Task::Area => geometry::area(&mut scene),
            Task::AngleComparison => geometry::angle_comparison(&mut scene),
            Task::Perpendicular => geometry::perpendicular(&mut scene),
            Task::LengthComparison => geometry::length_comparison(&mut scene),
            Task::Chart => geometry::chart(&mut scene),
        }
        let Scene { canvas, mut rng, parameters, .. } = scene;
        let picture = canvas.finish(self.noise, &mut rng);
        let (text, options) = (task.wordings()[wording], task.options());
        let question = Question { text, options, truth, eye };
        Sample { task, index, picture, question, parameters }
    }

    /// All pictures, task by task.
    ///
    /// # Errors
    /// As [`TaskSet::sample`]; then there are no others.
    pub fn samples(&self) -> Result<impl Iterator<Item = Sample> + '_> {
        self.check()?;
        let numbers =
            self.tasks.iter().flat_map(|&task| (0..self.n_picture).map(move |i| (task, i)));
        Ok(numbers.map(|(task, i)| self.draw(task, i, self.answers(task, i))))
    }

    /// A caption of a picture, one to three sentences that say what it shows and nothing of how the
    /// two sides compare: neutral text, on which steering should change nothing.
    #[must_use]
    pub fn caption(&self, task: Task, index: usize) -> String {
        words::caption(task, &mut self.stream(task, CAPTIONS + index as u64))
    }

    fn check(&self) -> Result<()> {
        if !Self::SIZES.contains(&self.size) {
            let (least, most) = Self::SIZES.into_inner();
            let problem = format!("is {}, expected {least} to {most} pixels", self.size);
            return Err(Error::invalid("size of the pictures", problem));
        }
        match self.differ {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                let problem = format!("is {share}, expected 0 to 1");
                Err(Error::invalid("share of pictures whose answers differ", problem))
            }
            _ => Ok(()),
        }
    }

    /// The true answer and the eye's of a picture. Runs of as many pictures as there are pairs of
    /// answers hold each pair once, in an order of their own.
    fn answers(&self, task: Task, index: usize) -> [usize; 2] {
        let n = task.options().len();
        let share = self.differ.unwrap_or(1.0 - 1.0 / n as f64);
        let n_before = (index as f64 * share + ROUNDING).floor();
        let differs = ((index + 1) as f64 * share + ROUNDING).floor() > n_before;
        let mut pairs: Vec<[usize; 2]> = (0..n * n)
            .map(|i| [i / n, i % n])
            .filter(|[truth, eye]| (truth != eye) == differs)
            .collect();
        let nth = if differs { n_before as usize } else { index - n_before as usize };
        let (round, nth) = (nth / pairs.len(), nth % pairs.len());
        let stream = ORDERS + (round as u64) * 2 + u64::from(differs);
        pairs.shuffle(&mut self.stream(task, stream));
        pairs[nth]
    }

    fn stream(&self, task: Task, index: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((task as u64) << 48 | index);
        rng
    }
}

/// So that two thirds of three are two.
const ROUNDING: f64 = 1e-9;

/// Where the streams begin that draw clutter, behind those of the pictures.
const CLUTTER: u64 = 1 << 45;

/// Where the streams begin that draw captions, behind those of clutter.
const CAPTIONS: u64 = 1 << 46;

/// Where the streams begin that draw orders of answers, behind those of the captions.
const ORDERS: u64 = 1 << 47;
