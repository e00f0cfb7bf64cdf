//! The forms in which a measurement is written.

use clap::Args;

use crate::bench::{Build, Machine, ModelFacts, N_ROUND_MIN, Ratio};
use crate::cli::show::document::Published;
use crate::cli::show::output::Output;
use crate::cli::show::table::{printable_line, table};

/// How to write the results.
#[derive(Debug, Args)]
pub(super) struct FormArgs {
    /// Print a CSV record per result, with everything it depends on.
    #[arg(long, conflicts_with_all = ["md", "json"])]
    csv: bool,

    /// Print a Markdown table.
    #[arg(long, conflicts_with = "json")]
    md: bool,
}

/// A measurement in the words of every form.
pub(super) struct Written<'a, T, const N: usize> {
    /// What `--json` gives.
    pub(super) document: &'a T,
    /// What stands above the table for people.
    pub(super) facts: Vec<Fact>,
    pub(super) header: [&'static str; N],
    pub(super) rows: &'a [[String; N]],
    /// What stands below the table in Markdown.
    pub(super) caption: Option<String>,
    pub(super) records: Vec<Record>,
}

impl FormArgs {
    /// Writes the measurement in the form that was asked for.
    pub(super) fn write<T: Published, const N: usize>(
        &self,
        written: &Written<'_, T, N>,
        output: Output,
    ) {
        let Written { document, facts, header, rows, caption, records } = written;
        if output.is_json() {
            output.json(*document);
        } else if self.csv {
            output.text(&csv(records));
        } else if self.md {
            output.text(&markdown(*header, rows));
            if let Some(caption) = caption {
                output.text(&format!("\n{caption}\n"));
            }
        } else {
            if !facts.is_empty() {
                output.fields(facts);
                output.text("\n");
            }
            output.text(&table(*header, rows));
        }
    }
}

/// A name and what it stands for.
pub(super) type Fact = (&'static str, String);
/// A line of a CSV file: its columns' names and what stands in them.
pub(super) type Record = Vec<(&'static str, String)>;

/// What every record begins with.
pub(super) fn record(build: &Build, machine: &Machine, model: Option<&ModelFacts>) -> Record {
    let mut cells = vec![
        ("candor", build.candor.to_owned()),
        ("llama_cpp_sys_2", build.llama_cpp_sys_2.to_owned()),
        ("features", build.features.join(" ")),
        ("target_features", build.target_features.join(" ")),
        ("os", machine.os.to_owned()),
        ("arch", machine.arch.to_owned()),
        ("n_core", machine.n_core.to_string()),
        ("devices", machine.description()),
    ];
    if let Some(model) = model {
        cells.extend([
            ("model_path", model.path.display().to_string()),
            ("model_name", printable_line(model.name.as_deref().unwrap_or_default())),
            ("model_architecture", printable_line(&model.architecture)),
            ("model_fingerprint", model.fingerprint.clone()),
            ("model_n_byte", model.n_byte.to_string()),
            ("model_n_parameter", model.n_parameter.to_string()),
        ]);
    }
    cells
}

/// Samples in one cell.
pub(super) fn samples(samples_ns: &[u64]) -> String {
    samples_ns.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// A number in a cell, which is empty where there is none.
pub(super) fn optional(number: Option<f64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// How many times as fast it is, for a record.
pub(super) fn speedup_record(speedup: Option<Ratio>) -> Record {
    vec![
        ("speedup_median", optional(speedup.map(|ratio| ratio.median))),
        ("speedup_low", optional(speedup.and_then(|ratio| ratio.low))),
        ("speedup_high", optional(speedup.and_then(|ratio| ratio.high))),
    ]
}

/// A ratio and its interval, for people.
pub(super) fn ratio_text(ratio: Option<Ratio>, n_digit: usize) -> [String; 2] {
    let text = ratio.map(|Ratio { median, low, high }| {
        let interval = match (low, high) {
            (Some(low), Some(high)) => format!("{low:.n_digit$} to {high:.n_digit$}"),
            _ => format!("fewer than {N_ROUND_MIN} rounds"),
        };
        [format!("{median:.n_digit$}"), interval]
    });
    text.unwrap_or_default()
}

/// A header and a line per record; all records have the same columns.
fn csv(records: &[Record]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = records.first().into_iter().map(|cells| cells.iter().map(|(name, _)| *name));
    for line in names {
        // Writing to memory does not fail, nor do lines of equal length.
        let _ = writer.write_record(line);
    }
    for cells in records {
        let _ = writer.write_record(cells.iter().map(|(_, cell)| cell));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A table to paste.
fn markdown<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&header);
    let mut marks = header.map(|_| "---:");
    if let Some(first) = marks.first_mut() {
        *first = ":---";
    }
    text.push_str(&line(&marks));
    for row in rows {
        text.push_str(&line(&row.each_ref().map(String::as_str)));
    }
    text
}

/// A span of time, from nothing to an hour.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    number.ok_or_else(|| "expected seconds from 0 to 3600".to_owned())
}
