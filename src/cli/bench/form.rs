//! The forms in which a measurement is written.

use clap::Args;

use crate::bench::{Build, Machine, ModelFacts};
use crate::cli::output::Output;
use crate::cli::table::printable_line;

/// How to write the results.
#[derive(Debug, Args)]
pub(super) struct FormArgs {
    /// Write a CSV record per result, with everything that it depends on.
    #[arg(long, conflicts_with_all = ["md", "json"])]
    csv: bool,

    /// Write a Markdown table.
    #[arg(long, conflicts_with = "json")]
    md: bool,
}

/// The forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Aligned columns for people.
    Table,
    Markdown,
    Csv,
    Json,
}

impl FormArgs {
    pub(super) fn of(&self, output: Output) -> Form {
        match (output.is_json(), self.csv, self.md) {
            (true, ..) => Form::Json,
            (_, true, _) => Form::Csv,
            (_, _, true) => Form::Markdown,
            _ => Form::Table,
        }
    }
}

/// A column's name and what stands in it.
pub(super) type Cell = (&'static str, String);
/// A line of a CSV file.
pub(super) type Record = Vec<Cell>;

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

/// Records and rows as text.
pub(super) mod text {
    use super::Record;

    /// A header and a line per record; all records have the same columns.
    pub(in crate::cli::bench) fn csv(records: &[Record]) -> String {
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
    pub(in crate::cli::bench) fn markdown<const N: usize>(
        header: [&str; N],
        rows: &[[String; N]],
    ) -> String {
        let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&header);
        text.push_str(&line(&header.map(|_| "---:")));
        for row in rows {
            text.push_str(&line(&row.each_ref().map(String::as_str)));
        }
        text
    }
}

/// A span of time, from nothing to an hour.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    number.ok_or_else(|| "expected seconds from 0 to 3600".to_owned())
}
