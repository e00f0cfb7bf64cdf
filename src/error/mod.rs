//! The one error type of the crate.

use std::path::PathBuf;

use crate::site::Site;

/// A `Result` whose error is candor's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, each variant with the evidence for it.
///
/// Messages are lowercase, name the file and the place, and end with the remedy where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted: `"read"`, `"write"`, `"create"`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own word.
        source: std::io::Error,
    },

    /// A file that should be GGUF is not, or breaks the format.
    #[error("{path} is not a usable GGUF file: {place}: {problem}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Where in the file: `"header"`, `"key general.name"`, `"tensor blk.0.attn_q.weight"`, …
        place: String,
        /// What is wrong there.
        problem: String,
    },

    /// llama.cpp could not load a model.
    #[error("llama.cpp cannot load {path}: {problem}")]
    Model {
        /// The GGUF file.
        path: PathBuf,
        /// llama.cpp's last complaint, or the reason found here.
        problem: String,
    },

    /// The model is sound, but candor cannot do what was asked with it.
    #[error("architecture `{architecture}`: {problem}")]
    Unsupported {
        /// `general.architecture` of the model.
        architecture: String,
        /// What is not supported, and what to do instead.
        problem: String,
    },

    /// The warm-up token ran and planned layers never passed through the tap.
    #[error(
        "the tap never fired in layer(s) {layers:?} of architecture `{architecture}`: llama.cpp \
         computes no `kqv_out` there, as where a gate follows the heads; nothing would be captured \
         or steered, so the session is refused"
    )]
    TapSilent {
        /// `general.architecture` of the model.
        architecture: String,
        /// The layers that stayed silent.
        layers: Vec<usize>,
    },

    /// An attention output has another width than the model's geometry says.
    #[error(
        "layer {layer} of architecture `{architecture}` has attention outputs of width {got}, \
         expected {expected} (n_head * d_head)"
    )]
    Width {
        /// `general.architecture` of the model.
        architecture: String,
        /// The layer.
        layer: usize,
        /// `n_head * d_head` as read from the file.
        expected: usize,
        /// The width of `kqv_out` in the graph.
        got: usize,
    },

    /// llama.cpp failed to make a context or to decode a batch.
    #[error("llama.cpp failed to {action}: {problem}")]
    Decode {
        /// `"create a context"`, `"decode"`, …
        action: &'static str,
        /// Code and complaint.
        problem: String,
    },

    /// Text that does not fit into the context.
    #[error(
        "{what} is {n_token} tokens long and the context holds {n_ctx}: \
         shorten it or raise the context size"
    )]
    PromptTooLong {
        /// Which text.
        what: String,
        /// Its length in tokens.
        n_token: usize,
        /// The context's length in tokens.
        n_ctx: usize,
    },

    /// A text with a character for which a model's vocabulary has no token.
    #[error(
        "the model's vocabulary cannot spell `{}` at byte {byte} of \"{}\": leave it out, or write the \
         text differently",
        shown(&character.to_string()),
        around(text, *byte)
    )]
    Spelling {
        /// The character.
        character: char,
        /// Where it begins, in bytes.
        byte: usize,
        /// The text.
        text: String,
    },

    /// The sequences together fill the KV cache.
    #[error(
        "the KV cache of {n_cell} tokens, which all sequences share, is full: forget a sequence, or \
         raise the context size"
    )]
    CacheFull {
        /// Tokens that it holds.
        n_cell: usize,
    },

    /// No strength keeps steering within a budget of KL divergence.
    #[error("KL budget of {budget} nat per token: {problem}")]
    Budget {
        /// The budget, in nats per token.
        budget: f64,
        /// What was tried, and what to do.
        problem: String,
    },

    /// Something took longer than it was allowed to.
    #[error("it took longer than it was allowed to: ask for less, or allow more time")]
    Deadline,

    /// A value outside what the function accepts.
    #[error("{what}: {problem}")]
    Invalid {
        /// The argument or quantity.
        what: String,
        /// What is wrong, and what would be right.
        problem: String,
    },

    /// A device that is not there, or that cannot be chosen.
    #[error("device `{name}`: {problem}")]
    Device {
        /// The name that was asked for.
        name: String,
        /// Why not, and which there are.
        problem: String,
    },

    /// A worker that cannot be used, or that cannot start.
    #[error("worker {address}: {problem}")]
    Worker {
        /// `host:port`
        address: String,
        /// What is wrong there, and what to do.
        problem: String,
    },

    /// A picture that cannot be used.
    #[error("picture {path}: {problem}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// What is wrong there.
        problem: String,
    },

    /// The chat template of a model could not be rendered.
    #[error("the model's chat template failed: {problem}")]
    Template {
        /// What the template engine said.
        problem: String,
    },

    /// A judge that cannot judge.
    #[error("judge {judge}: {problem}")]
    Judge {
        /// The judge: a model, or one at an address.
        judge: String,
        /// What is wrong there, and what to do.
        problem: String,
    },

    /// A data set that cannot be used.
    #[error("{path}{}: {problem}", line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Data {
        /// The file.
        path: PathBuf,
        /// The line of the file, counted from 1, where there is one.
        line: Option<u64>,
        /// What is wrong there.
        problem: String,
    },

    /// An activation store that cannot be used.
    #[error("activation store {path}: {problem}")]
    Store {
        /// The safetensors file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },

    /// A sidecar that breaks the format.
    #[error("sidecar {path}: {place}: {problem}")]
    Sidecar {
        /// The sidecar file.
        path: PathBuf,
        /// The key or tensor.
        place: String,
        /// What is wrong there.
        problem: String,
    },

    /// A sidecar or store that was made for another model.
    #[error(
        "{path} was made for another model: its fingerprint is {expected}, this model's is {got}; \
         fit a vector for this model"
    )]
    WrongModel {
        /// The sidecar or store.
        path: PathBuf,
        /// The fingerprint of the model that it was made for.
        expected: String,
        /// The fingerprint of the model at hand.
        got: String,
    },

    /// Several sidecars beside a model were made for it, and none was named.
    #[error(
        "{} vectors beside {model} were made for it: name one of {} (newest first)",
        found.len(),
        listed(found)
    )]
    SeveralSidecars {
        /// The model's file.
        model: PathBuf,
        /// The sidecars, the newest first.
        found: Vec<PathBuf>,
    },

    /// A probe could not be fitted.
    #[error("cannot fit a probe for head {site}: {problem}")]
    Probe {
        /// The head.
        site: Site,
        /// Why.
        problem: String,
    },

    /// The user asked to stop. What was done so far is kept.
    #[error("interrupted; {kept}")]
    Interrupted {
        /// What is kept and how to go on.
        kept: String,
    },
}

impl Error {
    /// Wraps an I/O error with the file it happened on.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// An argument or quantity out of range.
    pub(crate) fn invalid(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), problem: problem.into() }
    }
}

/// Whether a character is none to be read: one that may command a terminal, or one that shows others in
/// another order (the embeddings, overrides and isolates of Unicode's bidirectional text).
pub(crate) fn is_command(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text from a file as a message quotes it: one line in which nothing is a command, and not endless.
pub(crate) fn shown(text: &str) -> String {
    shown_up_to(200, text)
}

/// Files by name, not endlessly many.
fn listed(paths: &[PathBuf]) -> String {
    const N_LISTED: usize = 8;
    let mut names: Vec<String> =
        paths.iter().take(N_LISTED).map(|path| path.display().to_string()).collect();
    if paths.len() > N_LISTED {
        names.push(format!("{} more", paths.len() - N_LISTED));
    }
    names.join(", ")
}

/// What stands around a byte of a text, on one line.
fn around(text: &str, byte: usize) -> String {
    const N_BEFORE: usize = 40;
    let before = text.get(..byte).unwrap_or(text);
    let start = before.char_indices().rev().nth(N_BEFORE).map_or(0, |(start, _)| start);
    let dots = if start > 0 { "…" } else { "" };
    format!("{dots}{}", shown_up_to(2 * N_BEFORE, &text[start..]))
}

/// The same with at most `n` characters of the text.
pub(crate) fn shown_up_to(n: usize, text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(n) {
        if is_command(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    if text.chars().nth(n).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(all(test, feature = "endpoint"))]
mod tests;
