//! The writer.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::path::Path;

use super::value::Element;
use super::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY, MAGIC, TensorInfo, TensorType, VERSION, Value};
use crate::Result;
use crate::file::write_atomically;

/// A GGUF file in the making.
///
/// The bytes depend on what is set and in which order, and on nothing else: keys and tensors stand
/// in the order of their first mention, gaps are zero, and the alignment is 32 bytes unless
/// `general.alignment` says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Builder<'a> {
    entries: Vec<(String, Value)>,
    tensors: Vec<(TensorInfo, Cow<'a, [u8]>)>,
}

impl<'a> Builder<'a> {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata entry; a key that is there keeps its place and takes the new value.
    ///
    /// # Panics
    /// When the key is empty, or the value of `general.alignment` is not a U32 power of two.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        assert!(!key.is_empty(), "a key must not be empty");
        assert!(
            key != ALIGNMENT_KEY || matches!(value, Value::U32(n) if n.is_power_of_two()),
            "the alignment must be a power of two"
        );
        match self.entries.iter_mut().find(|(present, _)| present == key) {
            Some((_, present)) => *present = value,
            None => self.entries.push((key.to_owned(), value)),
        }
        self
    }

    /// Adds a tensor: dimensions in ggml's order (`ne[0]`, the length of a row, first), and the
    /// elements as they are stored, owned or borrowed.
    ///
    /// # Panics
    /// When there is a tensor of that name, or `bytes` is not what `dims` of `kind` take.
    pub fn tensor(
        &mut self,
        name: &str,
        dims: &[u64],
        kind: TensorType,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> &mut Self {
        let bytes = bytes.into();
        let is_new = self.tensors.iter().all(|(present, _)| present.name != name);
        assert!(is_new, "tensor {name} is there twice");
        assert_eq!(kind.n_byte(dims), Ok(bytes.len() as u64), "bytes of tensor {name}");
        let info = TensorInfo {
            name: name.to_owned(),
            dims: dims.to_vec(),
            kind,
            // Offsets wait for the alignment, which may still be set.
            offset: 0,
            n_byte: bytes.len() as u64,
        };
        self.tensors.push((info, bytes));
        self
    }

    /// The whole file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("a Vec takes all bytes");
        bytes
    }

    /// Writes the file beside `path` and renames it, so that `path` is never half written.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, |mut out| self.write_to(&mut out))
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let alignment = self.alignment();
        let mut head = MAGIC.to_vec();
        VERSION.write(&mut head);
        (self.tensors.len() as u64).write(&mut head);
        (self.entries.len() as u64).write(&mut head);
        for (key, value) in &self.entries {
            key.write(&mut head);
            value.write(&mut head);
        }
        let mut offset: u64 = 0;
        for (info, _) in &self.tensors {
            info.name.write(&mut head);
            (info.dims.len() as u32).write(&mut head);
            info.dims.iter().for_each(|dim| dim.write(&mut head));
            (info.kind as u32).write(&mut head);
            offset.write(&mut head);
            offset = (offset + info.n_byte).next_multiple_of(alignment);
        }
        write_padded(out, &head, alignment)?;
        self.tensors.iter().try_for_each(|(_, bytes)| write_padded(out, bytes, alignment))
    }

    fn alignment(&self) -> u64 {
        let set = self.entries.iter().find(|(key, _)| key == ALIGNMENT_KEY);
        set.and_then(|(_, value)| value.as_uint()).unwrap_or(ALIGNMENT_DEFAULT.into())
    }
}

/// Writes the bytes, and zeros up to the next multiple of the alignment.
fn write_padded(out: &mut impl Write, bytes: &[u8], alignment: u64) -> io::Result<()> {
    let n_byte = bytes.len() as u64;
    out.write_all(bytes)?;
    io::copy(&mut io::repeat(0).take(n_byte.next_multiple_of(alignment) - n_byte), out)?;
    Ok(())
}
