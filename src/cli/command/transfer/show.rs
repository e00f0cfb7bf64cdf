//! Transfer between data sets, in a terminal and as a page.

use minijinja::value::Serde;
use minijinja::{Value, context};

use super::Document;
use crate::Result;
use crate::cli::show::html::{heat, render};
use crate::cli::show::output::{BOLD, DIM, Output};
use crate::cli::show::table::{columns, percent, printable_line};
use crate::study::{Estimate, Reading};

const PAGE: &str = include_str!("page.html");

/// Picks one of the two numbers of a reading.
type Pick = fn(&Reading) -> Estimate;

pub(super) fn print(document: &Document, output: Output) {
    let n = document.sets.len();
    output.line(format_args!(
        "{BOLD}{}{BOLD:#}: probes fitted to {n} data set{}, read on all\n",
        document.made.model_name(),
        if n == 1 { "" } else { "s" },
    ));
    for (title, pick) in tables(document) {
        output.line(format_args!("{title}: accuracy in percent, 95 % interval"));
        output.text(&table(document, pick));
        output.line("");
    }
    if let Some(note) = known(document) {
        output.line(format_args!("{DIM}{note}{DIM:#}"));
    }
    output.line(format_args!(
        "{DIM}Rows: fitted to; columns: read. On the diagonal the fifth that nothing was fitted to. \
         {:.0} s.{DIM:#}",
        document.seconds
    ));
}

/// The matrices, by title.
fn tables(document: &Document) -> Vec<(String, Pick)> {
    let mut tables: Vec<(String, Pick)> = vec![("the best head".to_owned(), |r| r.best)];
    if document.settings.k > 1 {
        let title = format!("the {} best heads together", document.settings.k);
        tables.push((title, |r| r.several));
    }
    tables
}

fn table(document: &Document, pick: Pick) -> String {
    let names = short_names(document);
    let mut header = vec![String::new()];
    header.extend(names.iter().cloned());
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (readings, name) in rows_of(document).zip(&names) {
        rows.push(
            [name.clone()]
                .into_iter()
                .chain(readings.iter().map(|r| percent(pick(r).mean)))
                .collect(),
        );
        let interval = |r: &Reading| {
            let Estimate { low, high, .. } = pick(r);
            format!("{:.0}–{:.0}", 100.0 * low, 100.0 * high)
        };
        rows.push([String::new()].into_iter().chain(readings.iter().map(interval)).collect());
    }
    rows.push(
        ["majority".to_owned()]
            .into_iter()
            .chain(majorities(document).into_iter().map(percent))
            .collect(),
    );
    columns(&header, &rows)
}

/// The readings of each set's heads.
fn rows_of<'a>(document: &'a Document) -> impl Iterator<Item = &'a [Reading]> {
    document.readings.chunks(document.sets.len())
}

/// The majority share of each set, on its own held-out part where it is alone, else as others read
/// it.
fn majorities(document: &Document) -> Vec<f64> {
    let of = |read: usize| {
        let mut readings = document.readings.iter().filter(|r| r.read == read);
        let largest = readings.clone().max_by_key(|r| r.n_question).or_else(|| readings.next());
        largest.map_or(f64::NAN, |r| r.majority)
    };
    (0..document.sets.len()).map(of).collect()
}

/// The sets' names without what all of them end in, such as `_true_false`.
fn short_names(document: &Document) -> Vec<String> {
    let names: Vec<&str> = document.sets.iter().map(|set| set.name.as_str()).collect();
    let Some((first, rest)) = names.split_first() else { return Vec::new() };
    let shared = |n: usize| {
        let end: String = first.chars().rev().take(n).collect();
        rest.iter().all(|name| name.chars().rev().take(n).eq(end.chars()))
    };
    let mut n = 0;
    while !rest.is_empty() && n < first.chars().count() && shared(n + 1) {
        n += 1;
    }
    // Whole words only: `cities` and `companies` keep their `ies`.
    let ending: String = first.chars().skip(first.chars().count() - n).collect();
    let ending = ending.find(['_', '-', '.', ' ']).map_or("", |at| &ending[at..]);
    names.iter().map(|name| printable_line(name.strip_suffix(ending).unwrap_or(name))).collect()
}

/// What was left out of some readings.
fn known(document: &Document) -> Option<String> {
    let names = short_names(document);
    let left_out: Vec<String> = document
        .readings
        .iter()
        .filter(|reading| reading.n_known > 0)
        .map(|r| format!("{} of {} that are also in {}", r.n_known, names[r.read], names[r.fitted]))
        .collect();
    (!left_out.is_empty()).then(|| format!("Left out: {}.", left_out.join("; ")))
}

/// What the colours of a table span: between two labels, half are right by luck.
const LUCK_TO_ALL: (f64, f64) = (0.5, 1.0);

/// The page of a transfer.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) where the page cannot be made.
pub(super) fn page(document: &Document) -> Result<String> {
    let names = short_names(document);
    let grid = |(title, pick): (String, Pick)| {
        let cell = |reading: &Reading| {
            let Estimate { mean, low, high } = pick(reading);
            heat::Cell {
                value: mean,
                interval: Some((low, high)),
                marked: reading.fitted == reading.read,
            }
        };
        let mut rows: Vec<(String, Vec<heat::Cell>)> = rows_of(document)
            .zip(&names)
            .map(|(readings, name)| (name.clone(), readings.iter().map(cell).collect()))
            .collect();
        let majority = |value: f64| heat::Cell { value, interval: None, marked: false };
        rows.push((
            "majority".to_owned(),
            majorities(document).into_iter().map(majority).collect(),
        ));
        let grid = heat::Grid {
            title: format!("By {title}"),
            note: "Accuracy in percent with its 95 % interval; rows: fitted to, columns: read. \
                   Below, what always giving the more frequent label would get right. Colours go \
                   from 50 % or less (dark) to 100 % (bright)."
                .to_owned(),
            marked: "the fifth of its own set that nothing was fitted to",
            corner: "fitted to".to_owned(),
            columns: names.clone(),
            rows,
        };
        grid.shown_within(LUCK_TO_ALL, percent)
    };
    let grids: Vec<Value> = tables(document).into_iter().map(grid).collect();
    let sets: Vec<Value> = document
        .sets
        .iter()
        .zip(&document.data)
        .map(|(set, data)| {
            let heads: Vec<String> = set
                .heads
                .iter()
                .map(|head| format!("{} ({})", head.site, percent(f64::from(head.accuracy))))
                .collect();
            context! {
                name => &set.name,
                data => Serde(data),
                n_question => set.n_question,
                n_development => set.n_development,
                heads => heads.join(", "),
            }
        })
        .collect();
    render(
        PAGE,
        context! {
            candor => document.made.candor,
            model => Serde(&document.made.model),
            settings => Serde(&document.settings),
            seconds => format!("{:.0}", document.seconds),
            known => known(document),
            grids, sets,
        },
    )
}
