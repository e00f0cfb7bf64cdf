//! A position in a file's bytes, and what is read there.

use std::path::Path;

use crate::Error;

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub place: String,
    pub problem: String,
}

impl Fault {
    /// The error that it is in this file.
    pub fn at(self, path: &Path) -> Error {
        Error::Gguf { path: path.to_owned(), place: self.place, problem: self.problem }
    }
}

/// A position in the file, and what is being read there.
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub place: String,
}

impl<'a> Cursor<'a> {
    /// What is wrong at the present place.
    pub fn fault(&self, problem: impl Into<String>) -> Fault {
        Fault { place: self.place.clone(), problem: problem.into() }
    }

    fn n_left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n_byte` bytes.
    pub fn take(&mut self, n_byte: u64) -> Result<&'a [u8], Fault> {
        let taken = usize::try_from(n_byte)
            .ok()
            .and_then(|n_byte| self.bytes[self.at..].get(..n_byte))
            .ok_or_else(|| {
                self.fault(format!(
                    "wants {n_byte} bytes from byte {} on, and the file ends at byte {}: \
                     it is damaged or incomplete",
                    self.at,
                    self.bytes.len()
                ))
            })?;
        self.at += taken.len();
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// A count, then as many elements.
    pub fn elements<T: Element>(&mut self) -> Result<Vec<T>, Fault> {
        let n = u64::read(self)?;
        self.check_count(n, T::N_BYTE, "elements")?;
        (0..n).map(|_| T::read(self)).collect()
    }

    /// Refuses a count of things that could not all be in the rest of the file.
    pub fn check_count(&self, n: u64, n_byte_each: usize, what: &str) -> Result<(), Fault> {
        if n > (self.n_left() / n_byte_each) as u64 {
            return Err(self.fault(format!(
                "announces {n} {what}, more than the remaining {} bytes could hold",
                self.n_left()
            )));
        }
        Ok(())
    }
}

/// What an array may hold: numbers, booleans and strings.
pub(super) trait Element: Sized {
    /// The fewest bytes that one takes in a file.
    const N_BYTE: usize;

    fn read(cursor: &mut Cursor) -> Result<Self, Fault>;

    fn write(&self, out: &mut Vec<u8>);
}
