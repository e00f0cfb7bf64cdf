//! What a sequence holds, outside the session, and as bytes.
//!
//! The bytes: `candorS1`, the length of the header (u32, little-endian), the header (JSON: whose model,
//! which cache, how many tokens, and what they were computed under), llama.cpp's own bytes, and the BLAKE3
//! hash of everything before.

use serde::{Deserialize, Serialize};

use super::CacheType;
use super::pictures::Spans;
use super::under::{EDITED, Key, Under};
use crate::{Error, Model, Result};

const MAGIC: &[u8; 8] = b"candorS1";
const N_HASH: usize = blake3::OUT_LEN;

/// What a sequence holds in the model's memory, taken out by [`Session::state`](super::Session::state), and
/// what it was computed under. Any session of the same model with the same kind of cache and the same
/// vectors takes it back: [`Session::restore`](super::Session::restore).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(super) bytes: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) n_token: usize,
    pub(super) spans: Spans,
    pub(super) under: Under,
}

/// What two sessions must have in common to exchange states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    /// The model's files: another quantization computes other values.
    pub(super) model: String,
    pub(super) cache: CacheType,
    /// Values lie in another order without it.
    pub(super) flash_attention: Option<bool>,
}

/// What the bytes say of themselves.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The hash of the model's every byte, and what computed it.
    model: String,
    cache: String,
    flash_attention: Option<bool>,
    n_token: usize,
    /// From which token on, and what was added: 32 hexadecimal digits, 0 for nothing.
    under: Vec<(usize, String)>,
}

fn refused(problem: impl Into<String>) -> Error {
    Error::invalid("state", problem)
}

impl State {
    /// Tokens of the sequence.
    #[must_use]
    pub fn n_token(&self) -> usize {
        self.n_token
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn n_byte(&self) -> usize {
        self.bytes.len()
    }

    /// The same as bytes, for a file or another process. They carry what the tokens were computed under: the
    /// content of the model's files ([`Model::content`], which reads them where nothing remembers it), the
    /// type of the cache, and a hash of what steered each token.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a state of another model, for one with tokens that an
    /// [`Editor`](super::Editor) changed, which nothing can tell again, and for one with pictures whose tokens
    /// have rows and columns; what [`Model::content`] gives.
    pub fn to_bytes(&self, model: &Model) -> Result<Vec<u8>> {
        if self.kind.model != model.instance() {
            return Err(refused("it was taken out of a session of another model"));
        }
        if self.under.keys(self.n_token).any(|key| key == EDITED) {
            return Err(refused("an editor changed what it holds, and no file can say how"));
        }
        if !self.spans.is_empty() {
            return Err(refused("it holds pictures whose tokens have rows and columns"));
        }
        let header = Header {
            model: model.identity()?,
            cache: self.kind.cache.to_string(),
            flash_attention: self.kind.flash_attention,
            n_token: self.n_token,
            under: self.under.runs().iter().map(|(at, key)| (*at, format!("{key:032x}"))).collect(),
        };
        let header = serde_json::to_vec(&header).map_err(|error| refused(error.to_string()))?;
        let n_header = u32::try_from(header.len()).map_err(|error| refused(error.to_string()))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(n_header.to_le_bytes());
        bytes.extend(header);
        bytes.extend(&self.bytes);
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        Ok(bytes)
    }

    /// A state that [`State::to_bytes`] wrote, for sessions of this model.
    ///
    /// The hash at the end finds every damage. It is no signature: llama.cpp reads what it covers, and takes
    /// somebody's forgery for its own work. Restore states from where you would load a model from.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bytes that are no state or not whole, and for a state of another model or
    /// device; what [`Model::content`] gives.
    pub fn from_bytes(bytes: &[u8], model: &Model) -> Result<Self> {
        let (header, payload) = parts(bytes)?;
        let Header { model: made_for, cache, flash_attention, n_token, under } = header;
        if made_for != model.identity()? {
            let problem = "it was computed by a model with other bytes, or on another device: compute the \
                           text again";
            return Err(refused(problem));
        }
        let key = |(at, key): (usize, String)| -> Option<(usize, Key)> {
            let is_plain = key.len() == 32 && key.bytes().all(|digit| digit.is_ascii_hexdigit());
            let key = Key::from_str_radix(&key, 16).ok().filter(|_| is_plain && at < n_token)?;
            (key != EDITED).then_some((at, key))
        };
        let under = under.into_iter().map(key).collect::<Option<Vec<_>>>().and_then(Under::of);
        let (Ok(cache), Some(under)) = (cache.parse(), under) else {
            return Err(refused("its header contradicts itself"));
        };
        let kind = Kind { model: model.instance(), cache, flash_attention };
        Ok(Self { bytes: payload.to_vec(), kind, n_token, spans: Spans::default(), under })
    }
}

/// The header and llama.cpp's own bytes.
fn parts(bytes: &[u8]) -> Result<(Header, &[u8])> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(refused("the bytes are no state of a sequence"));
    };
    let cut = || refused("it is damaged or cut short: compute the text again");
    let (_, hash) = bytes.split_last_chunk::<N_HASH>().ok_or_else(cut)?;
    let rest = rest.get(..rest.len().saturating_sub(N_HASH)).ok_or_else(cut)?;
    if blake3::hash(&bytes[..bytes.len() - N_HASH]).as_bytes() != hash {
        return Err(cut());
    }
    let (n_header, rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let n_header = usize::try_from(u32::from_le_bytes(*n_header)).map_err(|_| cut())?;
    let (header, payload) = rest.split_at_checked(n_header).ok_or_else(cut)?;
    let header = serde_json::from_slice(header);
    let header = header.map_err(|error| refused(format!("its header: {error}")))?;
    Ok((header, payload))
}
