//! Maps of layers × heads, of probe accuracies or of effects: what they show, and how a terminal
//! draws them.
//!
//! Layers go up, as in the network: layer 0 is at the bottom. Every cell has a background of the
//! colour scale, and characters that say the same where colours are stripped.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anstyle::{Ansi256Color, Color, RgbColor, Style};

use crate::Site;
use crate::cli::show::output::{BOLD, DIM};

/// A value of every head of a model.
pub(in crate::cli) struct HeatMap<'a> {
    measure: Measure,
    values: &'a [f32],
    n_head: usize,
    selected: BTreeSet<Site>,
    /// The lowest and the highest value: the ends of the scale.
    range: (f32, f32),
}

/// What the values of a map are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Measure {
    /// Validation accuracies of probes, 0 to 1.
    Accuracy,
    /// Effects of single heads in nats, NaN where none was measured.
    Effect,
}

impl Measure {
    /// What a map or an axis is called.
    pub(in crate::cli) fn title(self) -> &'static str {
        match self {
            Self::Accuracy => "Probe accuracy",
            Self::Effect => "Effect, % of the highest",
        }
    }

    /// A value with its unit.
    pub(in crate::cli) fn text(self, value: f32) -> String {
        match self {
            Self::Accuracy => format!("{:.1} %", value * 100.0),
            Self::Effect => format!("{value:+.2} nats"),
        }
    }
}

/// What is known of all heads of a model: how well their probes read, and, where that was measured,
/// what they do.
pub(in crate::cli) struct Maps<'a> {
    pub(in crate::cli) accuracy: HeatMap<'a>,
    pub(in crate::cli) effect: Option<HeatMap<'a>>,
}

impl<'a> Maps<'a> {
    /// Maps of F32 `[n_layer, n_head]`; none where `accuracy` is empty, one where `effect` is.
    pub(in crate::cli) fn new(
        accuracy: &'a [f32],
        effect: &'a [f32],
        n_head: usize,
        selected: impl IntoIterator<Item = Site> + Clone,
    ) -> Option<Self> {
        let map = |measure, values: &'a [f32]| {
            let selected = selected.clone();
            (!values.is_empty()).then(|| HeatMap::new(measure, values, n_head, selected))
        };
        Some(Self {
            accuracy: map(Measure::Accuracy, accuracy)?,
            effect: map(Measure::Effect, effect),
        })
    }

    /// Both maps in lines of at most `width` columns: beside each other where they fit, else one
    /// below the other.
    pub(in crate::cli) fn text(&self, width: usize) -> String {
        const GAP: usize = 4;
        let titled = |title: &str, map: String| format!("{BOLD}{title}{BOLD:#}\n{map}");
        let accuracy = "probe accuracy, %";
        let Some(effect) = &self.effect else {
            return titled(accuracy, self.accuracy.text(width));
        };
        let highest = Measure::Effect.text(effect.range.1);
        let effect_title = format!("effect, % of the highest ({highest})");
        let half = width.saturating_sub(GAP) / 2;
        let fits = half >= MIN_WIDTH.max(N_LABEL + Cell::Number.n_column() * effect.n_head);
        if !fits {
            let accuracy = titled(accuracy, self.accuracy.text(width));
            return format!("{accuracy}\n{}", titled(&effect_title, effect.text(width)));
        }
        let left = titled(accuracy, self.accuracy.text(half));
        let right = titled(&effect_title, effect.text(half));
        let visible = |line: &str| anstream::adapter::strip_str(line).to_string().chars().count();
        let lines = left.lines().zip(right.lines());
        lines.fold(String::new(), |mut text, (left, right)| {
            let n_blank = if right.is_empty() { 0 } else { half + GAP - visible(left) };
            let _ = writeln!(text, "{left}{:n_blank$}{right}", "");
            text
        })
    }
}

/// How many columns of the terminal a cell takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// Four: the accuracy in percent and the mark.
    Number,
    /// Two: a shade and the mark.
    Wide,
    /// One: a shade or the mark.
    Narrow,
}

impl Cell {
    const ALL: [Self; 3] = [Self::Number, Self::Wide, Self::Narrow];

    const fn n_column(self) -> usize {
        match self {
            Self::Number => 4,
            Self::Wide => 2,
            Self::Narrow => 1,
        }
    }
}

/// What a selected head is marked with.
const MARK: char = '*';

/// Columns left of the cells: the layer's number.
const N_LABEL: usize = 6;

/// A heat map is drawn for terminals of at least this many columns.
const MIN_WIDTH: usize = 38;

impl<'a> HeatMap<'a> {
    /// A map of `values`, F32 `[n_layer, n_head]`, not empty, with the heads that were selected.
    pub(in crate::cli) fn new(
        measure: Measure,
        values: &'a [f32],
        n_head: usize,
        selected: impl IntoIterator<Item = Site>,
    ) -> Self {
        // Both pass over NaN.
        let lowest = values.iter().copied().fold(f32::INFINITY, f32::min);
        let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let selected = selected.into_iter().collect();
        Self { measure, values, n_head, selected, range: (lowest, highest) }
    }

    /// Layers of the model.
    pub(in crate::cli) fn n_layer(&self) -> usize {
        self.values.len() / self.n_head
    }

    /// Heads per layer.
    pub(in crate::cli) fn n_head(&self) -> usize {
        self.n_head
    }

    /// What the values are.
    pub(in crate::cli) fn measure(&self) -> Measure {
        self.measure
    }

    /// The value of a head.
    pub(in crate::cli) fn value(&self, site: Site) -> f32 {
        self.values[site.layer * self.n_head + site.head]
    }

    /// What a cell says, in at most three columns: percent of 1, or of the highest effect.
    pub(in crate::cli) fn cell(&self, site: Site) -> String {
        let whole = match self.measure {
            Measure::Accuracy => 1.0,
            Measure::Effect => self.range.1.max(f32::MIN_POSITIVE),
        };
        let percent = (100.0 * self.value(site) / whole).round();
        match percent.is_nan() {
            true => "–".to_owned(),
            // Without "-0".
            false => format!("{:.0}", percent.clamp(-99.0, 100.0) + 0.0),
        }
    }

    /// Whether a head was selected.
    pub(in crate::cli) fn is_selected(&self, site: Site) -> bool {
        self.selected.contains(&site)
    }

    /// The lowest and the highest value: the ends of the scale.
    pub(in crate::cli) fn range(&self) -> (f32, f32) {
        self.range
    }

    /// Where a head stands on the scale, from 0 to 1; 0 where nothing was measured.
    pub(in crate::cli) fn level(&self, site: Site) -> f32 {
        let (lowest, highest) = self.range;
        match self.value(site) {
            value if value.is_nan() => 0.0,
            value if highest > lowest => (value - lowest) / (highest - lowest),
            _ => 1.0,
        }
    }

    /// The map in lines of at most `width` columns, with colours; heads that do not fit beside
    /// each other follow in further panels below.
    pub(in crate::cli) fn text(&self, width: usize) -> String {
        let width = width.max(MIN_WIDTH);
        let n_column = width - N_LABEL;
        let cell = Cell::ALL
            .into_iter()
            .find(|cell| cell.n_column() * self.n_head <= n_column)
            .unwrap_or(Cell::Narrow);
        let n_head_panel = n_column / cell.n_column();

        let mut text = format!("{DIM}layer{DIM:#}\n");
        for start in (0..self.n_head).step_by(n_head_panel) {
            let heads = start..self.n_head.min(start + n_head_panel);
            for layer in (0..self.n_layer()).rev() {
                let _ = write!(text, "{DIM}{layer:>5}{DIM:#} ");
                for head in heads.clone() {
                    self.push_cell(&mut text, cell, Site::new(layer, head));
                }
                text.push('\n');
            }
            let axis: String = match cell {
                Cell::Number => heads.map(|head| format!("{head:>3} ")).collect(),
                // As many heads as a number and a gap have room for.
                _ => heads.step_by(8 / cell.n_column()).map(|head| format!("{head:<8}")).collect(),
            };
            let axis: String = axis.trim_end().chars().take(n_column).collect();
            let _ = writeln!(text, "{DIM} head {axis}{DIM:#}");
        }
        text.push('\n');
        text + &self.legend(width)
    }

    fn push_cell(&self, text: &mut String, cell: Cell, site: Site) {
        let mark = if self.is_selected(site) { MARK } else { ' ' };
        let level = self.level(site);
        match (cell, mark) {
            (Cell::Number, _) => {
                let style = readable(level);
                let _ = write!(text, "{style}{:>3}{mark}{style:#}", self.cell(site));
            }
            (Cell::Narrow, MARK) => push_mark(text, level),
            (Cell::Wide, MARK) => {
                push_shade(text, level);
                push_mark(text, level);
            }
            _ => (0..cell.n_column()).for_each(|_| push_shade(text, level)),
        }
    }

    /// The scale from the lowest to the highest value, and what the mark means.
    fn legend(&self, width: usize) -> String {
        let (lowest, highest) = self.range;
        let [lowest, highest] = [lowest, highest].map(|end| match self.measure {
            Measure::Accuracy => self.measure.text(end),
            // The unit stands in the title.
            Measure::Effect => format!("{end:+.2}"),
        });
        let ends = lowest.chars().count() + highest.chars().count();
        let mut text = format!("{lowest} ");
        let n_column = (width - 16).saturating_sub(ends).clamp(2, 25);
        for column in 0..n_column {
            push_shade(&mut text, column as f32 / (n_column - 1) as f32);
        }
        let _ = write!(text, " {highest}");
        if !self.selected.is_empty() {
            let _ = write!(text, "   {MARK} selected");
        }
        text.push('\n');
        text
    }
}

/// Appends a block of one column. The character has the colour of its background: it is seen only
/// where colours are stripped.
fn push_shade(text: &mut String, level: f32) {
    const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];
    let index = (level * SHADES.len() as f32) as usize;
    let shade = SHADES[index.min(SHADES.len() - 1)];
    let colour = Some(terminal_colour(level));
    let style = Style::new().fg_color(colour).bg_color(colour);
    let _ = write!(text, "{style}{shade}{style:#}");
}

fn push_mark(text: &mut String, level: f32) {
    let style = readable(level);
    let _ = write!(text, "{style}{MARK}{style:#}");
}

/// Text that can be read on the scale's colour.
fn readable(level: f32) -> Style {
    let text = if is_light(level) { RgbColor(0, 0, 0) } else { RgbColor(255, 255, 255) };
    Style::new().fg_color(Some(in_terminal(text))).bg_color(Some(terminal_colour(level)))
}

fn terminal_colour(level: f32) -> Color {
    in_terminal(colour(level))
}

/// The nearest colour that the terminal knows: the colour itself, or one of the 6 × 6 × 6 cube in
/// the palette of 256.
fn in_terminal(RgbColor(red, green, blue): RgbColor) -> Color {
    let is_exact = std::env::var("COLORTERM").is_ok_and(|v| v == "truecolor" || v == "24bit");
    if is_exact {
        return RgbColor(red, green, blue).into();
    }
    // The cube's steps are 0, 95, 135, 175, 215, 255.
    let step = |value: u8| if value < 48 { 0 } else { (value.max(75) - 35) / 40 };
    Ansi256Color(16 + 36 * step(red) + 6 * step(green) + step(blue)).into()
}

/// The colour of a level from 0 to 1: viridis, whose lightness rises evenly, so that it is read
/// alike by everyone and in print (S. van der Walt and N. Smith, 2015; CC0).
pub(in crate::cli) fn colour(level: f32) -> RgbColor {
    const STOPS: [[u8; 3]; 9] = [
        [68, 1, 84],
        [71, 44, 122],
        [59, 81, 139],
        [44, 113, 142],
        [33, 144, 141],
        [39, 173, 129],
        [92, 200, 99],
        [170, 220, 50],
        [253, 231, 37],
    ];
    let place = level.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let below = (place as usize).min(STOPS.len() - 2);
    let share = place - below as f32;
    let mix = |channel: usize| {
        let [low, high] = [STOPS[below], STOPS[below + 1]].map(|stop| f32::from(stop[channel]));
        (low + share * (high - low)).round() as u8
    };
    RgbColor(mix(0), mix(1), mix(2))
}

/// Whether black rather than white is read well on this level's colour.
pub(in crate::cli) fn is_light(level: f32) -> bool {
    level > 0.55
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accuracies from 40 % to 90 %, the best head of every other layer selected.
    fn drawn(n_layer: usize, n_head: usize, width: usize) -> String {
        let n_site = n_layer * n_head;
        let accuracy: Vec<f32> = (0..n_site)
            .map(|i| 0.4 + 0.5 * (i * 7 % n_site) as f32 / (n_site - 1) as f32)
            .collect();
        let selected = (0..n_layer).step_by(2).filter_map(|layer| {
            let heads = (0..n_head).map(|head| Site::new(layer, head));
            let rank = |site: &Site| accuracy[site.layer * n_head + site.head];
            heads.max_by(|a, b| rank(a).total_cmp(&rank(b)))
        });
        let map = HeatMap::new(Measure::Accuracy, &accuracy, n_head, selected);
        let text = anstream::adapter::strip_str(&map.text(width)).to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{line}");
        }
        text
    }

    #[test]
    fn shows_percents_where_they_fit() {
        insta::assert_snapshot!(drawn(5, 8, 80));
    }

    #[test]
    fn shows_shades_where_heads_are_many() {
        insta::assert_snapshot!(drawn(6, 32, 80));
    }

    #[test]
    fn shows_one_column_per_head_where_they_are_more() {
        insta::assert_snapshot!(drawn(4, 64, 80));
    }

    #[test]
    fn goes_on_below_where_not_all_heads_fit() {
        insta::assert_snapshot!(drawn(2, 72, 40));
    }

    #[test]
    fn shows_what_heads_know_beside_what_they_do() {
        let accuracy = [0.5, 0.75, 0.625, 0.875];
        let effect = [-0.3, 0.004, f32::NAN, 1.5];
        let maps = Maps::new(&accuracy, &effect, 2, [Site::new(1, 1)]).unwrap();
        let text = |width| anstream::adapter::strip_str(&maps.text(width)).to_string();
        insta::assert_snapshot!(text(100));
        assert!(text(100).lines().all(|line| line.chars().count() <= 100));
        // One below the other: all lines of both.
        assert!(text(60).lines().count() > 2 * text(100).lines().count() - 2);
        assert!(Maps::new(&[], &effect, 2, []).is_none());
        let alone = Maps::new(&accuracy, &[], 2, []).unwrap().text(60);
        let alone = anstream::adapter::strip_str(&alone).to_string();
        assert!(alone.starts_with("probe accuracy, %\nlayer\n"), "{alone}");
    }

    #[test]
    fn one_accuracy_is_a_map_too() {
        let map = HeatMap::new(Measure::Accuracy, &[1.0], 1, []);
        let text = anstream::adapter::strip_str(&map.text(0)).to_string();
        assert_eq!(text.lines().nth(1), Some("    0 100 "));
        assert_eq!(text.lines().last(), Some("100.0 % ··░▒▒▓██ 100.0 %"));
    }

    #[test]
    fn the_scale_grows_lighter() {
        let lightness = |level: f32| {
            let RgbColor(red, green, blue) = colour(level);
            0.2126 * f32::from(red) + 0.7152 * f32::from(green) + 0.0722 * f32::from(blue)
        };
        let scale: Vec<f32> = (0..=100).map(|i| lightness(i as f32 / 100.0)).collect();
        assert!(scale.is_sorted(), "{scale:?}");
    }
}
