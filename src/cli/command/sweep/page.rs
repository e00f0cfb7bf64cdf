//! A sweep as a page.

use minijinja::value::Serde;
use minijinja::{Value, context};

use super::document::Document;
use super::text::strengths;
use crate::Result;
use crate::cli::show::chance;
use crate::cli::show::html::{Plot, draws_note, heat, render, result_rows};
use crate::cli::show::plot;
use crate::cli::show::table::{counted, nats, percent, short};
use crate::study::{Cell, Estimate, Row};

const PAGE: &str = include_str!("page.html");

/// The page of a sweep.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) where a plot cannot be drawn or the page not be made.
pub(super) fn page(document: &Document) -> Result<String> {
    let settings = &document.settings;
    let mut grids = Vec::new();
    for &direction in &settings.directions {
        let title = match settings.directions.len() {
            1 => String::new(),
            _ => format!(", {direction} directions"),
        };
        let share = |title: String, note: &str, of: fn(&Row) -> (Option<f64>, Option<Estimate>)| {
            grid(document, direction, title, note, (of, percent))
        };
        grids.push(share(
            format!("MC1{title}"),
            "Questions whose best answer is likelier than every false one, in percent.",
            |row| (Some(row.mc.mc1), row.interval.mc1),
        ));
        if settings.n_predict > 0 {
            grids.push(share(
                format!("True answers{title}"),
                "Answers that the model writes by itself and that are true, in percent.",
                |row| (row.truth, row.interval.truth),
            ));
        }
        let kl = |row: &Row| (row.kl, row.interval.kl.filter(|_| row.name != "base"));
        grids.push(grid(
            document,
            direction,
            format!("KL{title}"),
            "What steering does to neutral prose, in nats per token.",
            (kl, |x| nats(x, 3)),
        ));
    }
    let recommended: Vec<Value> = document
        .recommended
        .iter()
        .map(|of_fold| {
            let share = |mc1: Option<f64>| percent(mc1.unwrap_or(f64::NAN));
            context! {
                fold => of_fold.fold,
                k => of_fold.k,
                alpha => short(of_fold.alpha),
                direction => of_fold.direction,
                mc1_there => share(of_fold.development.mc1),
                kl_there => nats(of_fold.development.kl, 3),
                mc1 => share(of_fold.held_out.mc1),
                kl => nats(of_fold.held_out.kl, 3),
            }
        })
        .collect();
    render(
        PAGE,
        context! {
            candor => document.made.candor,
            notes => document.notes(),
            seen => &document.seen_text,
            draws_note => draws_note(settings.n_random),
            nothing => document.nothing(),
            chance => chance::fold_texts(document.folds),
            warnings => chance::fold_warnings(document.folds),
            model => Serde(&document.made.model),
            data => Serde(&document.data),
            settings => Serde(settings),
            overall => Serde(&document.overall),
            n_question => document.n_question,
            seconds => format!("{:.0}", document.seconds),
            rows => result_rows(&document.rows, document.made.under()),
            plots => Serde(curves(document)?),
            grids, recommended,
        },
    )
}

/// A table of K × α whose cells are coloured by their value.
fn grid(
    document: &Document,
    direction: &str,
    title: String,
    note: &str,
    (value, text): (impl Fn(&Row) -> (Option<f64>, Option<Estimate>), fn(f64) -> String),
) -> Value {
    let settings = &document.settings;
    let of_k = |k: usize| {
        document.cells.iter().filter(move |cell| cell.direction == direction && cell.k == k)
    };
    let rows: Vec<(String, Vec<heat::Cell>)> = settings
        .ks
        .iter()
        .map(|&k| {
            let cell = |cell: &Cell| {
                let (value, interval) = value(&cell.held_out);
                heat::Cell {
                    value: value.unwrap_or(f64::NAN),
                    interval: interval.map(|e| (e.low, e.high)),
                    marked: document.is_recommended(cell),
                }
            };
            let name = match of_k(k).next().filter(|cell| cell.alpha.is_none()) {
                Some(cell) => format!("{k} (α {})", strengths(cell)),
                None => k.to_string(),
            };
            (name, of_k(k).map(cell).collect())
        })
        .collect();
    let columns = match settings.alphas {
        Some(alphas) => alphas.iter().map(|&alpha| format!("α {}", short(alpha))).collect(),
        None => vec![format!("KL ≤ {}", settings.kl_budget)],
    };
    heat::Grid {
        title,
        note: note.to_owned(),
        marked: "recommended",
        corner: "heads".to_owned(),
        columns,
        rows,
    }
    .shown(text)
}

/// Truth against KL over α, one line for each K.
fn curves(document: &Document) -> Result<Vec<Plot>> {
    let settings = &document.settings;
    let is_written = settings.n_predict > 0;
    let unit = if is_written { "true answers in percent" } else { "MC1 in percent" };
    let mut plots = Vec::new();
    for &direction in &settings.directions {
        let lines: Vec<(String, Vec<(f64, f64)>)> = settings
            .ks
            .iter()
            .map(|&k| {
                let cells = document.cells.iter().filter(|c| c.direction == direction && c.k == k);
                let point = |cell: &Cell| {
                    let row = &cell.held_out;
                    let truth = if is_written { row.truth? } else { row.mc.mc1 };
                    Some((row.kl?, 100.0 * truth))
                };
                (counted(k, "head"), cells.filter_map(point).collect())
            })
            .collect();
        let of = match settings.directions.len() {
            1 => String::new(),
            _ => format!(", {direction} directions"),
        };
        plots.push(Plot {
            id: "curve",
            title: format!("What truth costs{of}"),
            note: "Each line is a number of heads, each point a strength, growing from the left. The \
                   axis of KL is stretched where KL is small: it goes by the square root, as KL grows \
                   about by the square of the strength."
                .to_owned(),
            svg: plot::curve_svg(("KL in nats per token of neutral prose", unit), &lines)?,
        });
    }
    Ok(plots)
}
