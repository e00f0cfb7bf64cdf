//! A study as one page that needs nothing else: it opens from disk, on a phone, and in print.

pub(in crate::cli) mod heat;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, HtmlEscape, Value, context};
use serde::Serialize;

use crate::cli::show::report::Under;
use crate::cli::show::table::{form_line, nats, percent};
use crate::study::{Estimate, Row};
use crate::{Error, Result};

/// What all pages have in common.
const PARTS: [(&str, &str); 4] = [
    ("page", include_str!("html/page.html")),
    ("results", include_str!("html/results.html")),
    ("seen", include_str!("html/seen.html")),
    ("grid", include_str!("html/grid.html")),
];

/// A number of a table.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Cell {
    pub(in crate::cli) text: String,
    /// The interval, where there is one. A line may end before `to`.
    pub(in crate::cli) interval: Option<String>,
}

/// A page of a template and what it shows.
///
/// # Errors
/// [`Error::Invalid`] where the template is wrong.
pub(in crate::cli) fn render(template: &'static str, shown: Value) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("form", |form: String| form_line(&form));
    environment.add_filter("coded", |text: String| Value::from_safe_string(coded(&text)));
    let mut templates = PARTS.into_iter().chain([("report", template)]);
    templates
        .try_for_each(|(name, text)| environment.add_template(name, text))
        .and_then(|()| environment.get_template("report")?.render(shown))
        .map_err(|error| Error::invalid("report.html", format!("cannot be made: {error:#}")))
}

/// A sentence in which what stands between backticks is code.
fn coded(text: &str) -> String {
    let parts: Vec<String> = text.split('`').map(|part| HtmlEscape(part).to_string()).collect();
    // One without its other half is only a character.
    if parts.len().is_multiple_of(2) {
        return parts.join("`");
    }
    let part = |(i, part): (usize, String)| {
        if i % 2 == 1 { format!("<code>{part}</code>") } else { part }
    };
    parts.into_iter().enumerate().map(part).collect()
}

/// The rows of a study, as `results.html` shows them.
pub(in crate::cli) fn result_rows(rows: &[Row], under: Under) -> Vec<Value> {
    let is_judged = is_judged(rows);
    let row = |row: &Row| {
        let cells = Serde(cells(row, is_judged));
        context! { name => under.title(row.name), steered => row.name == "iti", cells => cells }
    };
    rows.iter().map(row).collect()
}

/// What intervals of random draws hold.
pub(in crate::cli) fn draws_note(n_random: usize) -> &'static str {
    match n_random {
        0 => "",
        1 => "; of the random draw, of which there is one, it does not say how draws differ",
        _ => "; for random draws it includes the spread between draws",
    }
}

/// Whether a judge says what informs.
pub(in crate::cli) fn is_judged(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.info.is_some())
}

/// A share in percent.
pub(in crate::cli) fn share_cell(value: Option<f64>, interval: Option<Estimate>) -> Cell {
    Cell {
        text: value.map_or_else(|| "–".to_owned(), percent),
        interval: interval.map(|e| format!("{} to\u{a0}{}", percent(e.low), percent(e.high))),
    }
}

fn cells(row: &Row, is_judged: bool) -> Vec<Cell> {
    let per_token = |value: Option<f64>, interval: Option<Estimate>, n_digit: usize| Cell {
        text: value.map_or_else(|| "–".to_owned(), |x| nats(x, n_digit)),
        interval: interval
            .map(|e| format!("{} to\u{a0}{}", nats(e.low, n_digit), nats(e.high, n_digit))),
    };
    let change = row.change.mc1.filter(|_| row.name != "base");
    let mut cells = vec![
        share_cell(Some(row.mc.mc1), row.interval.mc1),
        Cell {
            text: change.map_or_else(|| "–".to_owned(), |e| format!("{:+.1}", 100.0 * e.mean)),
            interval: change
                .map(|e| format!("{:+.1} to\u{a0}{:+.1}", 100.0 * e.low, 100.0 * e.high)),
        },
        share_cell(Some(row.mc.mc2), row.interval.mc2),
        share_cell(Some(row.mc.mc3), row.interval.mc3),
        share_cell(row.truth, row.interval.truth),
    ];
    if is_judged {
        cells.push(share_cell(row.info, row.interval.info));
        cells.push(share_cell(row.true_info, row.interval.true_info));
    }
    cells.extend([
        per_token(row.ce, row.interval.ce, 3),
        per_token(row.kl, row.interval.kl.filter(|_| row.name != "base"), 4),
    ]);
    cells
}

/// A drawing with its heading and what it says.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Plot {
    pub(in crate::cli) id: &'static str,
    pub(in crate::cli) title: String,
    pub(in crate::cli) note: String,
    pub(in crate::cli) svg: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_backticks_is_code_and_nothing_is_markup() {
        assert_eq!(
            coded("run `candor fit -m <model>` & go"),
            "run <code>candor fit -m &lt;model&gt;</code> &amp; go"
        );
        assert_eq!(coded("a ` <b>"), "a ` &lt;b&gt;");
        let page = "{% extends \"page\" %}{% block title %}x{% endblock %}{% block body %}{{ a|coded }}{% endblock %}";
        let page = render(page, context! { a => "<i> `x`" }).unwrap();
        assert!(page.contains("&lt;i&gt; <code>x</code>"), "{page}");
    }
}
