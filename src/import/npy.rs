//! Arrays in numpy's files. Nothing in a file is believed.

use std::path::Path;

use crate::error::shown;
use crate::file::{DATA_MAX, read_up_to};
use crate::{Error, Result};

/// Bytes of a header that are believed: numpy's own have a hundred.
const MAX_HEADER: usize = 1 << 16;

/// An array of one type: its values in C order and its shape.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array<T> {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<T>,
}

/// Reads an array of float32 or float64.
pub(super) fn floats(path: &Path) -> Result<Array<f64>> {
    read(path, read_floats)
}

/// Reads an array of int32 or int64.
pub(super) fn integers(path: &Path) -> Result<Array<i64>> {
    read(path, read_integers)
}

fn read<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<Array<T>, String>) -> Result<Array<T>> {
    let bytes = read_up_to(DATA_MAX, path)?;
    parse(&bytes).map_err(|problem| Error::invalid(path.display().to_string(), problem))
}

fn read_floats(bytes: &[u8]) -> Result<Array<f64>, String> {
    let (header, data) = header(bytes)?;
    match header.descr {
        "<f4" => header.array(data, |b| f64::from(f32::from_le_bytes(b))),
        ">f4" => header.array(data, |b| f64::from(f32::from_be_bytes(b))),
        "<f8" => header.array(data, f64::from_le_bytes),
        ">f8" => header.array(data, f64::from_be_bytes),
        _ => Err(header.unexpected("float32 or float64")),
    }
}

fn read_integers(bytes: &[u8]) -> Result<Array<i64>, String> {
    let (header, data) = header(bytes)?;
    match header.descr {
        "<i4" => header.array(data, |b| i64::from(i32::from_le_bytes(b))),
        ">i4" => header.array(data, |b| i64::from(i32::from_be_bytes(b))),
        "<i8" => header.array(data, i64::from_le_bytes),
        ">i8" => header.array(data, i64::from_be_bytes),
        _ => Err(header.unexpected("int64 or int32")),
    }
}

/// What the header of a file says.
#[derive(Debug, PartialEq)]
struct Header<'a> {
    /// The type of the values, as `<f4`.
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header<'_> {
    /// The values, of `N` bytes each, where the file holds exactly those that the shape promises.
    fn array<T, const N: usize>(
        self,
        data: &[u8],
        value: impl Fn([u8; N]) -> T,
    ) -> Result<Array<T>, String> {
        let promised = self.shape.iter().try_fold(N, |product, &n| product.checked_mul(n));
        if promised != Some(data.len()) {
            return Err(format!(
                "its header promises the shape {:?} of {}, and {} bytes follow: it is cut or damaged",
                self.shape,
                shown(self.descr),
                data.len()
            ));
        }
        if self.fortran_order && self.shape.len() > 1 {
            return Err("its values lie column by column: save np.ascontiguousarray(x)".to_owned());
        }
        let (values, _) = data.as_chunks::<N>();
        Ok(Array { shape: self.shape, values: values.iter().map(|bytes| value(*bytes)).collect() })
    }

    fn unexpected(&self, expected: &str) -> String {
        let descr = shown(self.descr);
        format!("it holds values of type `{descr}`, expected {expected}")
    }
}

/// The header and what follows it.
fn header(bytes: &[u8]) -> Result<(Header<'_>, &[u8]), String> {
    let no_array = || "it is not a numpy array (.npy), or its header is damaged".to_owned();
    let (text, data) = split(bytes).ok_or_else(no_array)?;
    let header = parse(text).ok_or_else(no_array)?;
    if header.descr.contains('O') {
        return Err("it holds pickled Python objects, which can run any code when they are read: \
                    load it where you trust it and save plain numbers, as in \
                    np.save(\"out.npy\", np.array(x, dtype=np.float32))"
            .to_owned());
    }
    Ok((header, data))
}

/// The text of the header and what follows it.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (n, rest) = match version {
        [1, 0] => {
            let (n, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_le_bytes(*n)), rest)
        }
        [2 | 3, 0] => {
            let (n, rest) = rest.split_first_chunk::<4>()?;
            (usize::try_from(u32::from_le_bytes(*n)).ok()?, rest)
        }
        _ => return None,
    };
    let (text, data) = rest.split_at_checked(n).filter(|_| n <= MAX_HEADER)?;
    Some((std::str::from_utf8(text).ok()?, data))
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1), }`: these three keys, in any
/// order, each once. Types of several fields, which are lists, are none of ours.
fn parse(text: &str) -> Option<Header<'_>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        rest = match key {
            "descr" if descr.is_none() => {
                let (text, after) = quoted(value)?;
                descr = Some(text);
                after
            }
            "fortran_order" if fortran_order.is_none() => {
                let is_true = value.starts_with("True");
                fortran_order = Some(is_true);
                value.strip_prefix(if is_true { "True" } else { "False" })?
            }
            "shape" if shape.is_none() => {
                let (inside, after) = value.strip_prefix('(')?.split_once(')')?;
                shape = Some(sizes(inside)?);
                after
            }
            _ => return None,
        }
        .trim_start();
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(Header { descr: descr?, fortran_order: fortran_order?, shape: shape? })
}

/// A string in quotes at the start of a text, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// The sizes of a shape: `3, 1`, `3,` or nothing.
fn sizes(text: &str) -> Option<Vec<usize>> {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|size| size.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with this header text.
    fn file(text: &str, data: &[u8]) -> Vec<u8> {
        let text = format!("{text:<117}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn described(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        file(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), data)
    }

    #[test]
    fn reads_what_numpy_writes() {
        let f32s: Vec<u8> = [1.0f32, -2.0, 0.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        let array = read_floats(&described("<f4", "(3, 1)", &f32s)).unwrap();
        assert_eq!(array, Array { shape: vec![3, 1], values: vec![1.0, -2.0, 0.5] });
        let big = read_floats(&described(">f8", "(1,)", &0.1f64.to_be_bytes())).unwrap();
        assert_eq!(big.values, [0.1]);
        let i64s: Vec<u8> = [3i64, -4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let array = read_integers(&described("<i8", "(1, 2)", &i64s)).unwrap();
        assert_eq!(array, Array { shape: vec![1, 2], values: vec![3, -4] });
        assert_eq!(read_integers(&described("<i4", "()", &[7, 0, 0, 0])).unwrap().values, [7]);
    }

    #[test]
    fn refuses_pickles_and_says_what_to_do() {
        let problem = read_floats(&described("|O", "(2,)", b"\x80\x04.")).unwrap_err();
        assert!(problem.contains("pickled Python objects") && problem.contains("np.save"));
    }

    #[test]
    fn refuses_what_is_not_as_it_says() {
        let problem = |bytes: &[u8]| read_floats(bytes).unwrap_err();
        assert!(problem(b"PK\x03\x04").contains("not a numpy array"));
        assert!(problem(&described("<f4", "(2,)", &[0; 4])).contains("cut or damaged"));
        assert!(problem(&described("<f4", "(1,)", &[0; 8])).contains("cut or damaged"));
        let huge = format!("({0}, {0})", usize::MAX);
        assert!(problem(&described("<f4", &huge, &[0; 4])).contains("cut or damaged"));
        assert!(problem(&described("<i8", "(1,)", &[0; 8])).contains("expected float32 or"));
        assert!(problem(&described("<f2", "(1,)", &[0; 2])).contains("of type `<f2`"));
        let column = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }";
        assert!(problem(&file(column, &[0; 8])).contains("np.ascontiguousarray"));
        for header in [
            "{'descr': 3}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}",
            "{'descr': '<f4', 'fortran_order': Maybe, 'shape': ()}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1)} x",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
        ] {
            assert!(problem(&file(header, &[0; 4])).contains("header is damaged"), "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_end_the_program(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".*") {
            let _ = read_floats(&bytes);
            let _ = read_floats(&described("<f4", &text, &bytes));
            let _ = read_integers(&file(&text, &bytes));
        }
    }
}
