//! The JSON documents of `--json`: each names its schema, `candor.eval/1`, which stands in
//! `docs/src/schemas/eval.json`. The number grows where a field goes or means something else; a new field
//! leaves it.

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::Serialize;

use super::words::with_options;
use crate::Error;

/// What `--json` prints as a whole.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no document of `--json`",
    note = "add it to the table in src/cli/schemas.rs, and derive schemars::JsonSchema"
)]
pub(in crate::cli) trait Published: Serialize {
    /// The name of its schema.
    const NAME: &'static str;
    /// The version of its schema.
    const VERSION: u32 = 1;

    /// As documents name it.
    fn published_as() -> String {
        format!("candor.{}/{}", Self::NAME, Self::VERSION)
    }
}

/// A document with the name of its schema.
#[derive(Serialize)]
pub(in crate::cli) struct Named<'a, T> {
    schema: String,
    #[serde(flatten)]
    document: &'a T,
}

/// The document as it is written.
pub(in crate::cli) fn named<T: Published>(document: &T) -> Named<'_, T> {
    Named { schema: T::published_as(), document }
}

/// What there is instead of a result: a failure.
#[derive(JsonSchema, Serialize)]
pub(in crate::cli) struct Failure {
    /// What failed, with its causes: the line that stderr has, too.
    error: String,
    /// The kind of failure: a variant of `candor::Error`, or `Usage` for wrong arguments.
    kind: String,
    /// The program's exit code: 1, 2 for wrong usage, 130 where it was interrupted.
    exit_code: u8,
}

impl Failure {
    pub(in crate::cli) fn of(error: &Error) -> Self {
        let debug = format!("{error:?}");
        let kind = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let exit_code = exit_code(error);
        Self { error: with_causes(error), kind: kind.to_owned(), exit_code }
    }

    /// Arguments that make no sense.
    pub(in crate::cli) fn of_usage(problem: &str) -> Self {
        let problem = problem.trim().trim_start_matches("error: ");
        Self { error: problem.to_owned(), kind: "Usage".to_owned(), exit_code: 2 }
    }
}

/// Whether what ends the program are arguments that make no sense together, found after they were read.
static IS_USAGE: AtomicBool = AtomicBool::new(false);

/// An error of which the arguments are the cause: the program ends with 2 by it.
pub(in crate::cli) fn usage(error: Error) -> Error {
    IS_USAGE.store(true, Ordering::Relaxed);
    error
}

/// What a shell is told: 2 for wrong usage, 130 (128 + SIGINT) where the program was interrupted.
pub(in crate::cli) fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Interrupted { .. } => 130,
        _ if IS_USAGE.load(Ordering::Relaxed) => 2,
        _ => 1,
    }
}

/// An error's message with those of its causes.
pub(in crate::cli) fn with_causes(error: &Error) -> String {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        chain.push_str(": ");
        chain.push_str(&error.to_string());
        cause = error.source();
    }
    with_options(&chain)
}
