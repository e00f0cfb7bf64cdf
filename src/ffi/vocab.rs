//! A model's vocabulary.

use std::ffi::CStr;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as llama;

use super::guard::{self, Thrown};
use super::{host, sys};

/// The vocabulary of a model, borrowed from it.
#[derive(Clone, Copy)]
pub(crate) struct Vocab<'m> {
    model: &'m LlamaModel,
}

impl<'m> Vocab<'m> {
    pub(crate) fn of(model: &'m LlamaModel) -> Self {
        Self { model }
    }

    fn ptr(self) -> *const llama::llama_vocab {
        // SAFETY: the model is alive and owns its vocabulary.
        unsafe { llama::llama_model_get_vocab(host::model_ptr(self.model)) }
    }

    /// Entries of the vocabulary.
    pub(crate) fn n_token(self) -> i32 {
        // SAFETY: the vocabulary is alive.
        unsafe { llama::llama_vocab_n_tokens(self.ptr()) }
    }

    /// Tokens of a text, nothing added; with `parse`, control tokens that are spelt out are read as
    /// such.
    pub(crate) fn tokenize(self, text: &str, parse: bool) -> Result<Vec<i32>, Thrown> {
        let Ok(n_text) = i32::try_from(text.len()) else {
            return Err(Thrown::new("a text of more than 2 GB"));
        };
        // A token stands for one byte or more, but for what a vocabulary puts before a text.
        let mut tokens = vec![0; text.len() / 2 + 8];
        loop {
            let n_max = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
            // SAFETY: the vocabulary is alive; llama.cpp reads `n_text` bytes and writes up to
            // `n_max` tokens.
            let n = guard::call(|fault| unsafe {
                let (text, tokens) = (text.as_ptr().cast(), tokens.as_mut_ptr());
                sys::guard_tokenize(self.ptr(), text, n_text, tokens, n_max, parse, fault)
            })?;
            match usize::try_from(n) {
                Ok(n) => {
                    tokens.truncate(n);
                    return Ok(tokens);
                }
                // Where there is no room, llama.cpp tells how many there are.
                Err(_) if n == i32::MIN => return Err(Thrown::new("a text of too many tokens")),
                Err(_) => tokens.resize(n.unsigned_abs() as usize, 0),
            }
        }
    }

    /// The bytes of a token, which must be one of the vocabulary; control tokens are empty.
    pub(crate) fn piece(self, token: i32) -> Result<Vec<u8>, Thrown> {
        let mut piece = vec![0u8; 32];
        loop {
            let n_max = i32::try_from(piece.len()).unwrap_or(i32::MAX);
            // SAFETY: the vocabulary is alive; llama.cpp writes up to `n_max` bytes.
            let n = guard::call(|fault| unsafe {
                let bytes = piece.as_mut_ptr().cast();
                sys::guard_token_to_piece(self.ptr(), token, bytes, n_max, fault)
            })?;
            match usize::try_from(n) {
                Ok(n) => {
                    piece.truncate(n);
                    return Ok(piece);
                }
                Err(_) => piece.resize(n.unsigned_abs() as usize, 0),
            }
        }
    }

    /// The text of a token as the file has it (`<s>`); `None` where there is no such token.
    pub(crate) fn text(self, token: i32) -> Option<String> {
        if !(0..self.n_token()).contains(&token) {
            return None;
        }
        // SAFETY: the vocabulary is alive, and so is the text, which ends in NUL.
        let text =
            guard::call(|fault| unsafe { sys::guard_token_text(self.ptr(), token, fault) }).ok()?;
        if text.is_null() {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }

    /// Beginning of sequence; negative where there is none.
    pub(crate) fn bos(self) -> i32 {
        // SAFETY: the vocabulary is alive.
        unsafe { llama::llama_vocab_bos(self.ptr()) }
    }

    /// End of sequence; negative where there is none.
    pub(crate) fn eos(self) -> i32 {
        // SAFETY: the vocabulary is alive.
        unsafe { llama::llama_vocab_eos(self.ptr()) }
    }

    /// Whether the model wants BOS before a text.
    pub(crate) fn adds_bos(self) -> bool {
        // SAFETY: the vocabulary is alive.
        unsafe { llama::llama_vocab_get_add_bos(self.ptr()) }
    }

    /// Whether a token ends a generation.
    pub(crate) fn is_end(self, token: i32) -> bool {
        // SAFETY: the vocabulary is alive; llama.cpp looks the number up in a set.
        unsafe { llama::llama_vocab_is_eog(self.ptr(), token) }
    }
}
