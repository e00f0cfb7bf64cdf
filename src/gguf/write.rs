//! The writer.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::cursor::Element;
use super::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY, MAGIC, TensorInfo, TensorType, VERSION, Value};
use crate::file::write_atomically;
use crate::{Error, Result};

/// A GGUF file in the making.
///
/// The bytes depend on what is set and in which order, and on nothing else: keys and tensors stand
/// in the order of their first mention, gaps are zero, and the alignment is 32 bytes unless
/// `general.alignment` says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Builder<'a> {
    entries: Vec<(String, Value)>,
    tensors: Vec<(TensorInfo, Content<'a>)>,
}

/// The elements of a tensor, or what writes them.
#[derive(Clone)]
enum Content<'a> {
    Bytes(Cow<'a, [u8]>),
    Stream(Arc<WriteElements<'a>>),
}

type WriteElements<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + Send + Sync + 'a;

impl fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream(_) => f.write_str("a stream"),
        }
    }
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
        assert_eq!(kind.n_byte(dims), Ok(bytes.len() as u64), "bytes of tensor {name}");
        self.add(name, dims, kind, Content::Bytes(bytes))
    }

    /// Adds a tensor whose elements are made while the file is written, so that they need not be in
    /// memory at once. `write` writes exactly what `dims` of `kind` take, the same each time.
    ///
    /// # Panics
    /// When there is a tensor of that name, or there can be none of these dimensions.
    pub fn tensor_from(
        &mut self,
        name: &str,
        dims: &[u64],
        kind: TensorType,
        write: impl Fn(&mut dyn Write) -> io::Result<()> + Send + Sync + 'a,
    ) -> &mut Self {
        self.add(name, dims, kind, Content::Stream(Arc::new(write)))
    }

    fn add(
        &mut self,
        name: &str,
        dims: &[u64],
        kind: TensorType,
        content: Content<'a>,
    ) -> &mut Self {
        let is_new = self.tensors.iter().all(|(present, _)| present.name != name);
        assert!(is_new, "tensor {name} occurs twice");
        let n_byte = kind.n_byte(dims).unwrap_or_else(|problem| panic!("tensor {name} {problem}"));
        // Offsets wait for the alignment, which may still be set.
        let info = TensorInfo {
            name: name.to_owned(),
            dims: dims.to_vec(),
            kind,
            offset: 0,
            n_byte,
            part: 0,
        };
        self.tensors.push((info, content));
        self
    }

    /// The whole file.
    ///
    /// # Panics
    /// When a tensor of [`tensor_from`](Self::tensor_from) is not written, or not in its length.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("a Vec takes all bytes");
        bytes
    }

    /// Writes the file beside `path` and renames it, so that `path` is never half written.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written, or a tensor of
    /// [`tensor_from`](Self::tensor_from) is not written in its length.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, |mut out| self.write_to(&mut out))
    }

    /// The same, and `on_write` is told again and again how many bytes are written. Where it breaks,
    /// nothing is left.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`Error::Interrupted`] where `on_write` breaks.
    pub fn write_watched(
        &self,
        path: &Path,
        mut on_write: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut is_stopped = false;
        let written = write_atomically(path, |out| {
            let mut n_byte = 0;
            self.write_to(&mut Watched {
                out,
                after: |n| {
                    n_byte += n;
                    is_stopped = on_write(n_byte).is_break();
                    if is_stopped { Err(io::Error::other("stopped")) } else { Ok(()) }
                },
            })
        });
        if is_stopped {
            return Err(Error::Interrupted { kept: format!("{} is not written", path.display()) });
        }
        written
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn n_byte(&self) -> u64 {
        let alignment = self.alignment();
        let head = (self.head().len() as u64).next_multiple_of(alignment);
        let tensors = self.tensors.iter();
        head + tensors.map(|(info, _)| info.n_byte.next_multiple_of(alignment)).sum::<u64>()
    }

    /// All before the data section.
    fn head(&self) -> Vec<u8> {
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
        head
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let alignment = self.alignment();
        write_padded(out, &self.head(), alignment)?;
        self.tensors.iter().try_for_each(|(info, content)| match content {
            Content::Bytes(bytes) => write_padded(out, bytes, alignment),
            Content::Stream(write) => {
                let mut n_byte = 0;
                let count = |n| {
                    n_byte += n;
                    Ok(())
                };
                write(&mut Watched { out: &mut *out, after: count })?;
                if n_byte != info.n_byte {
                    let problem = format!(
                        "tensor {} was given {n_byte} bytes and takes {}",
                        info.name, info.n_byte
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
                }
                pad(out, info.n_byte, alignment)
            }
        })
    }

    fn alignment(&self) -> u64 {
        let set = self.entries.iter().find(|(key, _)| key == ALIGNMENT_KEY);
        set.and_then(|(_, value)| value.as_uint()).unwrap_or(ALIGNMENT_DEFAULT.into())
    }
}

/// Writes the bytes, and zeros up to the next multiple of the alignment.
fn write_padded(out: &mut impl Write, bytes: &[u8], alignment: u64) -> io::Result<()> {
    out.write_all(bytes)?;
    pad(out, bytes.len() as u64, alignment)
}

/// Writes zeros after `n_byte` bytes up to the next multiple of the alignment.
fn pad(out: &mut impl Write, n_byte: u64, alignment: u64) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(n_byte.next_multiple_of(alignment) - n_byte), out)?;
    Ok(())
}

/// Passes bytes on, and says after each piece how many there were.
struct Watched<W, F> {
    out: W,
    after: F,
}

impl<W: Write, F: FnMut(u64) -> io::Result<()>> Write for Watched<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        (self.after)(n as u64)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
