//! The reader: bytes to metadata and tensor descriptions.
//!
//! Nothing that the file says is believed before it has been compared with the file's size, so that
//! a file of n bytes never makes the reader allocate more than a small multiple of n.

use super::cursor::{Cursor, Element, Fault};
use super::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY, MAGIC, TensorInfo, TensorType, Value};
use crate::error::shown;

/// What a file holds before the tensors' data, checked.
#[derive(Debug)]
pub(super) struct Contents {
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<TensorInfo>,
    /// The entries, ordered by key.
    pub by_key: Order,
    /// The tensors, ordered by name.
    pub by_name: Order,
    /// Where the data section begins.
    pub data_start: u64,
}

/// Reads and checks everything but the tensors' elements.
pub(super) fn parse(bytes: &[u8]) -> Result<Contents, Fault> {
    let mut cursor = Cursor { bytes, at: 0, place: "header".to_owned() };
    let (n_tensor, n_entry) = header(&mut cursor)?;

    // The counts are bounded by the smallest entry (an empty key, a type, one byte) and the
    // smallest tensor description (an empty name, one dimension, type, offset).
    cursor.check_count(n_entry, 8 + 4 + 1, "metadata entries")?;
    cursor.check_count(n_tensor, 8 + 4 + 8 + 4 + 8, "tensors")?;
    let entries: Vec<_> =
        (0..n_entry).map(|index| entry(&mut cursor, index)).collect::<Result<_, _>>()?;
    let by_key = Order::of("key", entries.iter().map(|(key, _)| key.as_str()))?;
    let alignment = alignment(&entries)?;

    let tensors: Vec<_> =
        (0..n_tensor).map(|index| tensor(&mut cursor, index)).collect::<Result<_, _>>()?;
    let by_name = Order::of("tensor", tensors.iter().map(|tensor| tensor.name.as_str()))?;
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    check_data(&tensors, alignment, data_start, bytes.len() as u64)?;
    Ok(Contents { entries, tensors, by_key, by_name, data_start })
}

/// Magic and version; returns the numbers of tensors and of metadata entries.
fn header(cursor: &mut Cursor) -> Result<(u64, u64), Fault> {
    let start = &cursor.bytes[..cursor.bytes.len().min(MAGIC.len())];
    if start != MAGIC {
        return Err(cursor.fault(format!("starts with \"{}\", not GGUF", start.escape_ascii())));
    }
    cursor.take(MAGIC.len() as u64)?;
    match u32::read(cursor)? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err(cursor.fault("is big-endian, expected a little-endian file"));
        }
        version => {
            let problem = format!("is GGUF version {version}, expected 2 or 3: convert it again");
            return Err(cursor.fault(problem));
        }
    }
    Ok((u64::read(cursor)?, u64::read(cursor)?))
}

/// One key and its value.
fn entry(cursor: &mut Cursor, index: u64) -> Result<(String, Value), Fault> {
    cursor.place = format!("metadata entry {index}");
    let key = String::read(cursor)?;
    if key.is_empty() {
        return Err(cursor.fault("has an empty key"));
    }
    cursor.place = format!("key {}", shown(&key));
    let value = Value::read(cursor)?;
    Ok((key, value))
}

/// The description of one tensor.
fn tensor(cursor: &mut Cursor, index: u64) -> Result<TensorInfo, Fault> {
    cursor.place = format!("tensor {index}");
    let name = String::read(cursor)?;
    cursor.place = format!("tensor {}", shown(&name));
    let n_dim = u32::read(cursor)?;
    if n_dim > 4 {
        return Err(cursor.fault(format!("has {n_dim} dimensions, expected 1 to 4")));
    }
    let dims = (0..n_dim).map(|_| u64::read(cursor)).collect::<Result<Vec<_>, _>>()?;
    let kind = TensorType::try_from(u32::read(cursor)?)
        .map_err(|code| cursor.fault(format!("is of type {code}, which ggml does not know")))?;
    let offset = u64::read(cursor)?;
    let n_byte = kind.n_byte(&dims).map_err(|problem| cursor.fault(problem))?;
    Ok(TensorInfo { name, dims, kind, offset, n_byte, part: 0 })
}

/// Places in a list, ordered by the names that stand there: a file with very many is searched as fast
/// as it is read.
#[derive(Debug)]
pub(super) struct Order(Vec<usize>);

impl Order {
    /// Orders a list, and refuses a name that comes twice.
    pub fn of<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<Self, Fault> {
        let names: Vec<&str> = names.collect();
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_unstable_by_key(|&place| names[place]);
        match order.windows(2).find(|pair| names[pair[0]] == names[pair[1]]) {
            None => Ok(Self(order)),
            Some(pair) => Err(Fault {
                place: format!("{what} {}", shown(names[pair[0]])),
                problem: "occurs twice".to_owned(),
            }),
        }
    }

    /// The place of a name in the list that was ordered, whose names are `name_at`.
    pub fn find<'a>(&self, name: &str, name_at: impl Fn(usize) -> &'a str) -> Option<usize> {
        let found = self.0.binary_search_by(|&place| name_at(place).cmp(name));
        found.ok().map(|at| self.0[at])
    }
}

/// The alignment of the data section and of every tensor in it, in bytes.
fn alignment(entries: &[(String, Value)]) -> Result<u64, Fault> {
    match entries.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT_DEFAULT.into()),
        Some((_, Value::U32(alignment))) if alignment.is_power_of_two() => Ok((*alignment).into()),
        Some(_) => Err(Fault {
            place: format!("key {ALIGNMENT_KEY}"),
            problem: "is not a power of two of type u32".to_owned(),
        }),
    }
}

/// Refuses tensors that are not aligned, not in the file, or that share bytes.
fn check_data(
    tensors: &[TensorInfo],
    alignment: u64,
    data_start: u64,
    n_byte_file: u64,
) -> Result<(), Fault> {
    let fault = |tensor: &TensorInfo, problem| Fault {
        place: format!("tensor {}", shown(&tensor.name)),
        problem,
    };
    for tensor in tensors {
        if !tensor.offset.is_multiple_of(alignment) {
            let problem =
                format!("begins at offset {}, not a multiple of {alignment}", tensor.offset);
            return Err(fault(tensor, problem));
        }
        let end = u128::from(data_start) + u128::from(tensor.offset) + u128::from(tensor.n_byte);
        if end > n_byte_file.into() {
            let problem = format!(
                "ends at byte {end}, and the file at byte {n_byte_file}: \
                 it is incomplete, fetch it again"
            );
            return Err(fault(tensor, problem));
        }
    }

    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for (first, second) in by_offset.iter().zip(by_offset.iter().skip(1)) {
        if second.offset < first.extent().end {
            let problem = format!("shares bytes with tensor {}", shown(&first.name));
            return Err(fault(second, problem));
        }
    }
    Ok(())
}
