//! What every picture is drawn with: the answers it must have, and draws of all else.

use std::collections::BTreeMap;
use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::canvas::{Canvas, Ink};
use super::{Difficulty, Distractors};

/// A picture in the making.
pub(super) struct Scene {
    pub(super) canvas: Canvas,
    pub(super) rng: ChaCha8Rng,
    pub(super) parameters: BTreeMap<&'static str, f64>,
    ground: Ink,
    /// The true answer and that of the eye: 0 if the first side has more, 1 if the second has,
    /// [`SAME`].
    truth: usize,
    seen: usize,
    difficulty: Difficulty,
    distractors: Distractors,
}

impl Scene {
    pub(super) fn new(
        size: u32,
        [truth, seen]: [usize; 2],
        (difficulty, distractors): (Difficulty, Distractors),
        mut rng: ChaCha8Rng,
    ) -> Self {
        let channel = |rng: &mut ChaCha8Rng| match distractors.colour {
            true => rng.random_range(222.0..255.0),
            false => 245.0,
        };
        let ground = Ink([(); 3].map(|()| channel(&mut rng)));
        let canvas = Canvas::new(size, ground);
        let parameters = BTreeMap::new();
        Self { canvas, rng, parameters, ground, truth, seen, difficulty, distractors }
    }

    /// Draws clutter, where it is wanted, from a stream of its own.
    pub(super) fn clutter(&mut self, mut rng: ChaCha8Rng) {
        if !self.distractors.clutter {
            return;
        }
        for _ in 0..rng.random_range(6..14) {
            let ink =
                self.ground.darker(rng.random_range(0.06..0.18), [rng.random_range(-0.3..0.3); 2]);
            let at = [(); 2].map(|()| rng.random_range(0.05..0.95));
            if rng.random() {
                self.canvas.dot(at, rng.random_range(0.01..0.03), ink);
            } else {
                let (turn, half) =
                    (rng.random_range(0.0..std::f64::consts::TAU), rng.random_range(0.03..0.09));
                let end = |sign: f64| {
                    [at[0] + sign * half * f64::cos(turn), at[1] + sign * half * f64::sin(turn)]
                };
                self.canvas.line(&[end(-1.0), end(1.0)], rng.random_range(0.01..0.02), ink);
            }
        }
    }

    /// Whether the two sides are the same in what is asked.
    pub(super) fn is_same(&self) -> bool {
        self.truth == SAME
    }

    /// Whether the two sides are the same to the eye.
    pub(super) fn looks_same(&self) -> bool {
        self.seen == SAME
    }

    /// A larger and a smaller value, at the sides where the true answer wants them.
    pub(super) fn order_by_truth(&self, [large, small]: [f64; 2]) -> [f64; 2] {
        if self.truth == 0 { [large, small] } else { [small, large] }
    }

    /// The quantity that is asked for, of both sides.
    pub(super) fn truth(&mut self, mean: f64, gap: f64) -> [f64; 2] {
        let values = two(mean, gap, self.truth);
        self.asked(values);
        values
    }

    /// The quantity that catches the eye, of both sides.
    pub(super) fn seen(&mut self, mean: f64, gap: f64) -> [f64; 2] {
        let values = two(mean, gap, self.seen);
        self.looked(values);
        values
    }

    /// The quantity that is asked for, of both sides, its mean and gap drawn from these ranges.
    pub(super) fn drawn_truth(&mut self, means: Range<f64>, gaps: Range<f64>) -> [f64; 2] {
        let (mean, gap) = (self.rng.random_range(means), self.gap(gaps));
        self.truth(mean, gap)
    }

    /// The quantity that catches the eye, of both sides, drawn likewise.
    pub(super) fn drawn_seen(&mut self, means: Range<f64>, gaps: Range<f64>) -> [f64; 2] {
        let (mean, gap) = (self.rng.random_range(means), self.gap(gaps));
        self.seen(mean, gap)
    }

    /// Notes the quantity that is asked for.
    pub(super) fn asked(&mut self, [first, second]: [f64; 2]) {
        self.parameters.extend([("asked_first", first), ("asked_second", second)]);
    }

    /// Notes the quantity that catches the eye.
    pub(super) fn looked(&mut self, [first, second]: [f64; 2]) {
        self.parameters.extend([("seen_first", first), ("seen_second", second)]);
    }

    /// A difference between two sides: smaller where it is to be hard.
    pub(super) fn gap(&mut self, range: Range<f64>) -> f64 {
        let scale = match self.difficulty {
            Difficulty::Easy => 1.25,
            Difficulty::Medium => 1.0,
            Difficulty::Hard => 0.5,
        };
        self.rng.random_range(range) * scale
    }

    /// `hard` in hard pictures, 1 in others.
    pub(super) fn ease(&self, hard: f64) -> f64 {
        if self.difficulty == Difficulty::Hard { hard } else { 1.0 }
    }

    /// One of three values, by difficulty.
    pub(super) fn ease_pick<T>(&self, hard: T, medium: T, easy: T) -> T {
        match self.difficulty {
            Difficulty::Hard => hard,
            Difficulty::Medium => medium,
            Difficulty::Easy => easy,
        }
    }

    /// A displacement of at most `most`.
    pub(super) fn jitter(&mut self, most: f64) -> f64 {
        let value = self.rng.random_range(-most..most);
        if self.distractors.position { value } else { 0.0 }
    }

    /// A place in a range, its middle without that distractor.
    pub(super) fn place(&mut self, range: Range<f64>) -> f64 {
        let is_on = self.distractors.position;
        self.draw(range, is_on)
    }

    /// A size that does not matter.
    pub(super) fn size(&mut self, range: Range<f64>) -> f64 {
        let is_on = self.distractors.size;
        self.draw(range, is_on)
    }

    /// The width of a line.
    pub(super) fn width(&mut self, range: Range<f64>) -> f64 {
        let is_on = self.distractors.width;
        self.draw(range, is_on)
    }

    /// How dark something is, from 0 to 1.
    pub(super) fn shade(&mut self, range: Range<f64>) -> f64 {
        let is_on = self.distractors.colour;
        self.draw(range, is_on)
    }

    /// A slope in radians, to either side.
    pub(super) fn slope(&mut self, most: f64) -> f64 {
        let value = self.rng.random_range(-most..most);
        if self.distractors.slope { value } else { 0.0 }
    }

    /// A colour that is darker than the ground by `darkness`.
    pub(super) fn ink(&mut self, darkness: f64) -> Ink {
        let tint = [(); 2].map(|()| self.rng.random_range(-1.0..1.0));
        let tint = if self.distractors.colour { tint } else { [0.0; 2] };
        self.ground.darker(darkness, tint)
    }

    /// Dark colours of both sides.
    pub(super) fn inks(&mut self) -> [Ink; 2] {
        [(); 2].map(|()| {
            let darkness = self.shade(0.70..0.90);
            self.ink(darkness)
        })
    }

    /// A draw from a range whatever is switched on, so that a switch changes nothing else.
    fn draw(&mut self, range: Range<f64>, is_on: bool) -> f64 {
        let middle = f64::midpoint(range.start, range.end);
        let value = self.rng.random_range(range);
        if is_on { value } else { middle }
    }
}

/// Neither side has more.
pub(super) const SAME: usize = 2;

/// Two values around `mean` that differ by `gap` the answer says: 0 (the first is larger), 1 (the
/// second) or [`SAME`].
fn two(mean: f64, gap: f64, answer: usize) -> [f64; 2] {
    let half = gap / 2.0;
    match answer {
        0 => [mean + half, mean - half],
        1 => [mean - half, mean + half],
        _ => [mean; 2],
    }
}
