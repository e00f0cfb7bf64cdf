//! What is computed: text, or tokens.

use candor::{Error, Model, Special};
use pyo3::prelude::*;

/// A text as the caller gives it.
#[derive(Debug, Clone, FromPyObject)]
pub(crate) enum Text {
    /// `str`
    Words(String),
    /// A sequence of token ids, BOS included.
    Tokens(Vec<i32>),
}

impl Text {
    /// Its tokens, checked. A text in words stands at the start of the context, BOS before it where
    /// the model wants one; control tokens that are spelt out are read where `special`.
    pub(crate) fn tokens(&self, model: &Model, special: bool) -> candor::Result<Vec<i32>> {
        match self {
            Self::Words(text) if special => candor::chat::prompt_tokens(model, text),
            Self::Words(text) => model.tokenize(text, Special::Start),
            Self::Tokens(tokens) => {
                let n_vocab = model.n_vocab();
                let is_token = |&token: &i32| usize::try_from(token).is_ok_and(|t| t < n_vocab);
                match tokens.iter().position(|token| !is_token(token)) {
                    None => Ok(tokens.clone()),
                    Some(i) => Err(Error::Invalid {
                        what: format!("token {i}"),
                        problem: format!(
                            "{} is none of the {n_vocab} of the vocabulary",
                            tokens[i]
                        ),
                    }),
                }
            }
        }
    }
}
