//! What the reports of `eval`, `sweep` and `transfer` have in common.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::hub;
use crate::cli::show::document::{Published, named};
use crate::cli::show::output::Output;
use crate::cli::show::table::{nats, percent, printable_line, table};
use crate::data::Dataset;
use crate::file::{stem, write_atomically};
use crate::study::{Estimate, Row};
use crate::{Error, Model, Result};

/// Where a report goes.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReportArgs {
    /// Write report.json and report.html into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

impl ReportArgs {
    /// The folder, where one was named.
    pub(in crate::cli) fn folder(&self) -> Option<&Path> {
        self.report.as_deref()
    }

    /// Writes `report.json` and `report.html`, where a folder was named for them.
    pub(in crate::cli) fn write(
        &self,
        document: &impl Published,
        page: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        let Some(folder) = &self.report else { return Ok(()) };
        let page = page()?;
        let json = serde_json::to_vec_pretty(&named(document))
            .map_err(|e| Error::invalid("report.json", e.to_string()))?;
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        write_atomically(&folder.join("report.json"), |out| out.write_all(&json))?;
        write_atomically(&folder.join("report.html"), |out| out.write_all(page.as_bytes()))
    }

    /// Says where the page is.
    pub(in crate::cli) fn tell(&self, output: Output) {
        if let Some(folder) = &self.report {
            let page = folder.join("report.html").display().to_string();
            output.line(format_args!("report: {}", printable_line(&page)));
        }
    }
}

/// What made a report: its first fields.
#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Made {
    pub(in crate::cli) candor: &'static str,
    /// The command, quoted for a shell.
    command: String,
    pub(in crate::cli) model: ModelFacts,
}

#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct ModelFacts {
    name: String,
    /// Where it came from, as `hf:owner/repo@commit/file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    architecture: String,
    fingerprint: String,
    /// Hash of the bytes of its file.
    content: String,
    /// What was baked into it, which acts in every row; null where nothing was.
    pub(in crate::cli) baked: Option<String>,
    pub(in crate::cli) n_head: usize,
}

impl Made {
    pub(in crate::cli) fn on(model: &Model) -> Result<Self> {
        let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
        let words: Vec<String> = std::iter::once("candor".to_owned()).chain(words).collect();
        Ok(Self {
            candor: env!("CARGO_PKG_VERSION"),
            command: shell_command(&words),
            model: ModelFacts {
                name: display_name(model),
                source: hub::source(model.path()),
                architecture: model.architecture().to_owned(),
                fingerprint: model.fingerprint().to_owned(),
                content: model.content()?.to_owned(),
                baked: model.baked().filter(|baked| baked.acts()).map(ToString::to_string),
                n_head: model.geometry().n_head,
            },
        })
    }

    /// What the names of conditions depend on, of vectors with heads.
    pub(in crate::cli) fn under(&self) -> Under {
        Under { layers_alone: false, baked: self.model.baked.is_some() }
    }

    /// The model's name, to be printed.
    pub(in crate::cli) fn model_name(&self) -> String {
        printable_line(&self.model.name)
    }
}

#[derive(schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct DataFacts<'a> {
    pub(in crate::cli) name: &'a str,
    sha256: &'a str,
}

impl<'a> DataFacts<'a> {
    pub(in crate::cli) fn of(data: &'a Dataset) -> Self {
        Self { name: &data.name, sha256: &data.sha256 }
    }
}

/// A model's name for titles: its own, or its file's where its own says no more than the architecture.
pub(in crate::cli) fn display_name(model: &Model) -> String {
    let own = model
        .name()
        .filter(|name| !name.trim().is_empty() && !name.eq_ignore_ascii_case(model.architecture()));
    own.map_or_else(|| stem(model.path()), str::to_owned)
}

/// A command that a POSIX shell takes apart into these words.
pub(in crate::cli) fn shell_command(words: &[String]) -> String {
    // A word with NUL cannot have been typed.
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

/// What a study measured, as far as the names of its conditions depend on it.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::cli) struct Under {
    /// A vector that steers layers and no heads.
    pub(in crate::cli) layers_alone: bool,
    /// A model that something is baked into: nothing there is without steering.
    pub(in crate::cli) baked: bool,
}

impl Under {
    /// What people call a condition.
    pub(in crate::cli) fn title(self, name: &str) -> String {
        let title = match name {
            "random" if self.layers_alone => "random directions in the same layers",
            _ => title(name),
        };
        match (self.baked, name) {
            (false, _) => title.to_owned(),
            (true, "base") => "as baked".to_owned(),
            (true, _) => format!("as baked, {title}"),
        }
    }
}

/// What people call a condition.
pub(in crate::cli) fn title(name: &str) -> &'static str {
    match name {
        "base" => "no steering",
        "iti" => "steered",
        "gated" => "steered through the gate",
        "random" => "random heads and directions",
        "instruction" => "instruction",
        _ => "instruction, and steered",
    }
}

/// The rows of a study as a table.
pub(in crate::cli) fn rows_text(rows: &[Row], under: Under) -> String {
    let interval = |e: Option<Estimate>| {
        e.map_or_else(|| "–".to_owned(), |e| format!("{} to {}", percent(e.low), percent(e.high)))
    };
    let share = |x: Option<f64>| x.map_or_else(|| "–".to_owned(), percent);
    let is_judged = rows.iter().any(|row| row.info.is_some());
    let rows: Vec<[String; 10]> = rows
        .iter()
        .map(|row| {
            [
                under.title(row.name),
                percent(row.mc.mc1),
                interval(row.interval.mc1),
                percent(row.mc.mc2),
                percent(row.mc.mc3),
                share(row.truth),
                share(row.info),
                share(row.true_info),
                row.ce.map_or_else(|| "–".to_owned(), |x| nats(x, 3)),
                row.kl.map_or_else(|| "–".to_owned(), |x| nats(x, 4)),
            ]
        })
        .collect();
    let header = ["", "MC1", "95 %", "MC2", "MC3", "true", "info", "both", "CE", "KL"];
    if is_judged {
        return table(header, &rows);
    }
    // Only a judge says what informs.
    let rows: Vec<_> = rows.into_iter().map(without_info).collect();
    table(without_info(header), &rows)
}

/// How sure MC1 is with and without a vector, and how far random draws lie apart: a line each.
pub(in crate::cli) fn intervals_text(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| matches!(row.name, "base" | "iti" | "random")) {
        let Some(mc1) = row.interval.mc1 else { continue };
        let (low, high) = (percent(mc1.low), percent(mc1.high));
        text += &format!(
            "MC1 {}: {}, 95 % interval {low} to {high}\n",
            title(row.name),
            percent(mc1.mean)
        );
        text += &draws_text(row);
    }
    text
}

/// How far the draws of a row lie apart, or that this is not known of one in each fold.
pub(in crate::cli) fn random_text(rows: &[Row]) -> String {
    let Some(row) = rows.iter().find(|row| row.name == "random") else { return String::new() };
    match row.draws {
        Some(_) => draws_text(row).replacen("  its", "random:", 1),
        None => "random: a single draw, so how far draws lie apart is not known, and is in no interval\n"
            .to_owned(),
    }
}

/// How far the draws of a row lie apart; nothing where there are not several.
pub(in crate::cli) fn draws_text(row: &Row) -> String {
    let Some(draws) = row.draws else { return String::new() };
    let mut text = format!("  its {} draws", draws.n);
    if let Some(mc1) = draws.mc1 {
        text += &format!(": MC1 {} to {}", percent(mc1.low), percent(mc1.high));
    }
    if let Some(kl) = draws.kl {
        text += &format!(", KL {} to {}", nats(kl.low, 4), nats(kl.high, 4));
    }
    text + "\n"
}

fn without_info<T>([a, b, c, d, e, f, _, _, g, h]: [T; 10]) -> [T; 8] {
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_command_apart_as_it_was_meant() {
        let words =
            ["candor", "fit", "-m", "it's ü.gguf", "--template", "Q: {question}\\nA: {answer}"];
        let command = shell_command(&words.map(str::to_owned));
        assert!(command.starts_with("candor fit -m "), "{command}");
        assert_eq!(shlex::split(&command).unwrap(), words);
        assert_eq!(shell_command(&["a b".to_owned()]), "'a b'");
    }
}
