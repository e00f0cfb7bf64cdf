//! A table whose cells are coloured by their value: it can be read, copied, printed and scrolled.

use anstyle::RgbColor;
use minijinja::{Value, context};

use crate::cli::show::heat::{colour, is_light};

/// One number.
pub(in crate::cli) struct Cell {
    /// NaN: none.
    pub(in crate::cli) value: f64,
    /// Its 95 % interval.
    pub(in crate::cli) interval: Option<(f64, f64)>,
    pub(in crate::cli) marked: bool,
}

/// A table with its heading and what it says.
pub(in crate::cli) struct Grid {
    pub(in crate::cli) title: String,
    pub(in crate::cli) note: String,
    /// What the outlined cells are.
    pub(in crate::cli) marked: &'static str,
    /// What the names of the rows are.
    pub(in crate::cli) corner: String,
    pub(in crate::cli) columns: Vec<String>,
    pub(in crate::cli) rows: Vec<(String, Vec<Cell>)>,
}

impl Grid {
    fn values(&self) -> impl Iterator<Item = f64> {
        let cells = self.rows.iter().flat_map(|(_, cells)| cells);
        cells.map(|cell| cell.value).filter(|value| value.is_finite())
    }

    /// As `grid.html` shows it, the colours from the lowest number to the highest; `text` writes a
    /// number.
    pub(in crate::cli) fn shown(self, text: fn(f64) -> String) -> Value {
        let values = || self.values();
        let range =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        self.shown_within(range, text)
    }

    /// The same with colours over a given range, and the colour of its end where a number lies beyond it:
    /// for numbers that mean the same in every table.
    pub(in crate::cli) fn shown_within(
        self,
        (lowest, highest): (f64, f64),
        text: fn(f64) -> String,
    ) -> Value {
        let cells = || self.rows.iter().flat_map(|(_, cells)| cells);
        let shown = |cell: &Cell| {
            let level = match highest > lowest {
                true => ((cell.value - lowest) / (highest - lowest)) as f32,
                false => 1.0,
            };
            let level = if level.is_nan() { 0.0 } else { level.clamp(0.0, 1.0) };
            let RgbColor(red, green, blue) = colour(level);
            context! {
                text => text(cell.value),
                interval => cell.interval.map(|(low, high)| format!("{} to {}", text(low), text(high))),
                colour => format!("#{red:02x}{green:02x}{blue:02x}"),
                light => is_light(level),
                marked => cell.marked,
            }
        };
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(name, cells)| {
                context! { name => name, cells => cells.iter().map(shown).collect::<Vec<_>>() }
            })
            .collect();
        let marked = cells().any(|cell| cell.marked).then_some(self.marked);
        context! {
            title => self.title,
            note => self.note,
            corner => self.corner,
            columns => self.columns,
            marked, rows,
        }
    }
}
