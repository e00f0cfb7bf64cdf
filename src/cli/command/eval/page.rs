//! A study as a page.

use minijinja::context;
use minijinja::value::Serde;

use super::Document;
use crate::Result;
use crate::cli::show::chance;
use crate::cli::show::heat::Maps;
use crate::cli::show::html::{Plot, draws_note, is_judged, render, result_rows, share_cell};
use crate::cli::show::plot::{self, Bar, Pair};
use crate::cli::show::table::{printable_line, short};
use crate::judge::Reading;
use crate::study::{Estimate, FoldReport, HeadsFrom, Row, Scored};

const PAGE: &str = include_str!("page.html");

/// Most questions that are shown one by one; `report.json` holds all.
const N_QUESTION: usize = 200;

/// The page of a study.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) where a plot cannot be drawn or the page not be made.
pub(super) fn page(document: &Document) -> Result<String> {
    let plots = plots(document)?;
    let rows = result_rows(&document.rows, document.under());
    let is_judged = is_judged(&document.rows);
    let folds: Vec<_> = document
        .folds
        .iter()
        .map(|fold| {
            let heads: Vec<String> = fold.heads.iter().map(ToString::to_string).collect();
            let mc1 = |name: &str| {
                let mc1 = fold.mc1_interval.get(name).copied();
                Serde(share_cell(mc1.map(|e| e.mean), mc1))
            };
            context! {
                amount => document.settings.amount(fold),
                alpha => short(fold.choice.alpha),
                n_question => fold.n_question,
                heads => heads.join(", "),
                before => mc1("base"),
                after => mc1("iti"),
            }
        })
        .collect();
    let questions: Vec<_> = document
        .questions
        .iter()
        .take(N_QUESTION)
        .filter_map(|question| {
            let before = question.conditions.get("base")?;
            let after = question.conditions.get("iti")?;
            Some(context! {
                question => question.question,
                best => question.best,
                before => before.written.unwrap_or("–"),
                before_note => judged(before),
                after_note => judged(after),
                before_mark => mark(before.truth, before.mc.mc1),
                after => after.written.unwrap_or("–"),
                after_mark => mark(after.truth, after.mc.mc1),
            })
        })
        .collect();
    render(
        PAGE,
        context! {
            candor => document.made.candor,
            model => Serde(&document.made.model),
            data => Serde(&document.data),
            settings => Serde(&document.settings),
            seen => &document.seen_text,
            draws_note => draws_note(document.settings.n_random),
            gate => &document.gate_text,
            chance => chance::fold_texts(document.folds),
            warnings => chance::fold_warnings(document.folds),
            judge => Serde(&document.judge),
            seconds => format!("{:.0}", document.seconds),
            n_more => document.questions.len().saturating_sub(N_QUESTION),
            written => document.questions.iter().any(|q| q.conditions.values().any(|c| c.written.is_some())),
            rows, folds, questions, is_judged,
            singles => singles(document),
            plots => Serde(plots),
        },
    )
}

/// What a question's answer is marked with: whether what was written is true, else whether the best
/// answer is the likeliest.
fn mark(truth: Option<f64>, mc1: f64) -> &'static str {
    if truth.unwrap_or(mc1) >= 0.5 { "✓" } else { "✗" }
}

/// What a judge says of an answer, in words and as probabilities.
fn judged(scored: &Scored) -> Option<String> {
    let judgement = scored.judgement?;
    let word = |reading: Reading, yes: &str, no: &str| {
        format!("{} {:.2}", if reading.is_yes() { yes } else { no }, reading.yes)
    };
    let truth = word(judgement.truth, "true", "false");
    Some(format!("{truth} · {}", word(judgement.info, "informs", "does not inform")))
}

fn plots(document: &Document) -> Result<Vec<Plot>> {
    let mut plots = vec![mc1_plot(document)?];
    for (fold, number) in document.folds.iter().zip(1..) {
        let name = match document.folds.len() {
            1 => String::new(),
            _ => format!(", fold {number}"),
        };
        plots.extend(fold_plots(document, fold, &name)?);
    }
    if document.categories.iter().filter(|category| category.n_question > 1).count() > 1 {
        plots.push(categories_plot(document)?);
    }
    Ok(plots)
}

fn mc1_plot(document: &Document) -> Result<Plot> {
    let bar = |row: &Row| Bar {
        name: document.under().title(row.name),
        value: 100.0 * row.mc.mc1,
        interval: row.interval.mc1.map(|e| (100.0 * e.low, 100.0 * e.high)),
        steered: row.name == "iti",
    };
    let bars: Vec<Bar> = document.rows.iter().map(bar).collect();
    Ok(Plot {
        id: "mc1",
        title: "MC1".to_owned(),
        note: "Questions whose best answer is likelier than every false one, in percent; 95 % \
               intervals over questions, and over random draws."
            .to_owned(),
        svg: plot::bars_svg("MC1 in percent", &bars)?,
    })
}

/// What the heads know that one fold chose from; nothing where layers have no heads.
fn fold_plots(document: &Document, fold: &FoldReport, name: &str) -> Result<Vec<Plot>> {
    let (n_head, accuracy) = (document.made.model.n_head, &fold.head_accuracy);
    let is_whole = n_head > 0 && accuracy.len().is_multiple_of(n_head);
    let maps = Maps::new(accuracy, &[], n_head, fold.heads.iter().copied());
    let Some(maps) = maps.filter(|_| is_whole) else { return Ok(Vec::new()) };
    let map = Plot {
        id: "accuracy",
        title: format!("What heads know{name}"),
        note: format!(
            "Validation accuracy of a linear probe on each head's output, {}; the steered heads are \
             outlined.",
            heads_from(document, fold)
        ),
        svg: plot::svg("", &maps)?,
    };
    let distribution = Plot {
        id: "distribution",
        title: format!("How many heads know{name}"),
        note: format!("Heads by the accuracy of their probes, {}.", heads_from(document, fold)),
        svg: plot::histogram_svg(accuracy)?,
    };
    Ok(vec![map, distribution])
}

/// Where the accuracies of heads were measured, in words.
fn heads_from(document: &Document, fold: &FoldReport) -> String {
    match fold.head_accuracy_from {
        HeadsFrom::Sidecar => "as stored in the sidecar when it was fitted".to_owned(),
        HeadsFrom::Fitted { n_row } => {
            let which = match document.settings.size {
                Some(_) => "the questions that are scored, since the sidecar has none of its own",
                None => "the other half of the questions",
            };
            format!("fitted here to {n_row} rows of {which}; a fifth of the questions validates")
        }
    }
}

/// The categories of one question each, and whether its best answer is the likeliest before and after.
fn singles(document: &Document) -> Vec<String> {
    let single = document.categories.iter().filter(|category| category.n_question == 1);
    single
        .map(|category| {
            let [before, after] = ["base", "iti"].map(|name| {
                category.mc1_interval.get(name).map_or("–", |mc1| mark(None, mc1.mean))
            });
            format!("{} {before} → {after}", printable_line(&category.name))
        })
        .collect()
}

fn categories_plot(document: &Document) -> Result<Plot> {
    // What one question says needs no interval: the page names these apart.
    let mut categories: Vec<_> =
        document.categories.iter().filter(|category| category.n_question > 1).collect();
    categories.sort_by_key(|category| std::cmp::Reverse(category.n_question));
    let shown: Vec<Pair> = categories
        .iter()
        .take(20)
        .filter_map(|category| {
            let [before, after] = ["base", "iti"].map(|name| {
                let Estimate { mean, low, high } = *category.mc1_interval.get(name)?;
                Some([mean, low, high].map(|share| 100.0 * share))
            });
            let name = format!("{} ({})", printable_line(&category.name), category.n_question);
            Some(Pair { name, before: before?, after: after? })
        })
        .collect();
    Ok(Plot {
        id: "categories",
        title: "MC1 by category".to_owned(),
        note: format!(
            "{} (hollow) and steered (filled), in percent, with 95 % intervals; the number of questions \
             in brackets, the largest categories first.",
            if document.under().baked { "As baked" } else { "Without steering" }
        ),
        svg: plot::categories_svg(&shown)?,
    })
}
