//! Models that were split over several files.
//!
//! `llama-gguf-split` names them `<name>-00001-of-0000N.gguf` and on. Each says in `split.no` which
//! one it is, from 0, and in `split.count` how many there are. The first holds all other metadata,
//! and in `split.tensors.count` the number of tensors of the whole model.

use std::path::{Path, PathBuf};

use super::Gguf;
use super::read::Order;
use crate::Result;
use crate::error::shown;

/// What the keys that only a part has begin with.
pub(crate) const SPLIT_PREFIX: &str = "split.";
const NO_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";

impl Gguf {
    /// Opens a model: one file, or all files of a split model, of which `path` is the first. The
    /// metadata are the first file's, and the tensors those of all.
    ///
    /// # Errors
    /// As [`open`](Self::open), for each file; [`Error::Gguf`](crate::Error::Gguf) where a part is
    /// missing, not the one that its name says, or has a tensor of another part.
    pub fn open_model(path: &Path) -> Result<Self> {
        let mut model = Self::open(path)?;
        let n_part = model.opt_uint(COUNT_KEY)?.unwrap_or(1);
        if n_part <= 1 {
            return Ok(model);
        }
        let no = model.uint(NO_KEY)?;
        if no != 0 {
            let first = part_path(path, no, n_part, 0);
            let name = first.map(|path| format!(", {}", path.display())).unwrap_or_default();
            let part = no.saturating_add(1);
            let problem = format!("this is part {part} of {n_part}: give the first one{name}");
            return Err(model.fault(format!("key {NO_KEY}"), problem));
        }
        for no in 1..n_part {
            let problem = || {
                format!(
                    "it is the first of {n_part} parts, and by its name the others cannot be \
                     found: it has to end in -00001-of-{n_part:05}.gguf"
                )
            };
            let next = part_path(path, 0, n_part, no)
                .ok_or_else(|| model.fault(format!("key {COUNT_KEY}"), problem()))?;
            if !next.exists() {
                let problem = format!("part {} of {n_part} is missing: {}", no + 1, next.display());
                return Err(model.fault(format!("key {COUNT_KEY}"), problem));
            }
            model.append(Self::open(&next)?, no, n_part)?;
        }
        let n_tensor = model.uint(TENSORS_KEY)?;
        if n_tensor != model.tensors.len() as u64 {
            let problem = format!(
                "{n_tensor} tensors, and its parts hold {}: one of them is of another model",
                model.tensors.len()
            );
            return Err(model.fault(format!("key {TENSORS_KEY}"), problem));
        }
        Ok(model)
    }

    /// Adds the tensors of part `no`.
    fn append(&mut self, part: Self, no: u64, n_part: u64) -> Result<()> {
        for (key, expected) in [(NO_KEY, no), (COUNT_KEY, n_part)] {
            let got = part.uint(key)?;
            if got != expected {
                let problem = format!(
                    "is {got}, expected {expected} in part {} of {n_part}: another file has taken \
                     its place",
                    no + 1
                );
                return Err(part.fault(format!("key {key}"), problem));
            }
        }
        for tensor in &part.tensors {
            if let Some(other) = self.tensor(&tensor.name) {
                let problem = format!("is in {} too", self.parts[other.part].path.display());
                return Err(part.fault(format!("tensor {}", shown(&tensor.name)), problem));
            }
        }
        let Self { parts, mut tensors, .. } = part;
        tensors.iter_mut().for_each(|tensor| tensor.part = self.parts.len());
        self.parts.extend(parts);
        self.tensors.extend(tensors);
        let names = self.tensors.iter().map(|tensor| tensor.name.as_str());
        self.by_name = Order::of("tensor", names).map_err(|fault| fault.at(&self.path))?;
        Ok(())
    }
}

/// The path of part `other`, by that of part `no`, both counted from 0.
fn part_path(path: &Path, no: u64, n_part: u64, other: u64) -> Option<PathBuf> {
    let ending = |no: u64| format!("-{:05}-of-{n_part:05}.gguf", no.saturating_add(1));
    let prefix = path.file_name()?.to_str()?.strip_suffix(&ending(no))?;
    Some(path.with_file_name(format!("{prefix}{}", ending(other))))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{Builder, TensorType, Value};
    use super::*;

    /// A part with one tensor of one value: its own number.
    fn part(no: u16, n_part: u16, tensor: &str) -> Builder<'static> {
        let mut builder = Builder::new();
        builder
            .set(NO_KEY, Value::U16(no))
            .set(COUNT_KEY, Value::U16(n_part))
            .set(TENSORS_KEY, Value::I32(n_part.into()))
            .tensor(tensor, &[1], TensorType::F32, f32::from(no).to_le_bytes().to_vec());
        builder
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn path(&self, no: u16) -> PathBuf {
            self.0.path().join(format!("m-{:05}-of-00003.gguf", no + 1))
        }

        /// Three sound parts, of which the first has a name.
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            for (no, tensor) in (0..).zip(["a", "b", "c"]) {
                let mut builder = part(no, 3, tensor);
                if no == 0 {
                    builder.set("general.name", "whole");
                }
                builder.write(&folder.path(no)).unwrap();
            }
            folder
        }

        fn refusal(&self, no: u16) -> String {
            Gguf::open_model(&self.path(no)).unwrap_err().to_string()
        }
    }

    #[test]
    fn parts_are_one_model() {
        let folder = Folder::new();
        let model = Gguf::open_model(&folder.path(0)).unwrap();
        assert_eq!(model.str("general.name").unwrap(), "whole");
        for (no, name) in (0u16..).zip(["a", "b", "c"]) {
            let tensor = model.tensor(name).unwrap();
            assert_eq!(model.f32s_of(tensor).unwrap(), [f32::from(no)]);
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut model.reader(tensor), &mut bytes).unwrap();
            assert_eq!(bytes, model.bytes(tensor));
        }
        assert!(model.paths().eq([0, 1, 2].map(|no| folder.path(no))));
        let alone = Gguf::open(&folder.path(0)).unwrap();
        assert_eq!((alone.tensors().len(), alone.paths().count()), (1, 1));
    }

    #[test]
    fn refuses_to_begin_with_a_later_part() {
        let message = Folder::new().refusal(1);
        assert!(message.contains("this is part 2 of 3: give the first one, "), "{message}");
        assert!(message.ends_with("m-00001-of-00003.gguf"), "{message}");
    }

    #[test]
    fn refuses_a_missing_part_and_a_name_without_parts() {
        let folder = Folder::new();
        fs::remove_file(folder.path(2)).unwrap();
        let message = folder.refusal(0);
        assert!(message.contains("part 3 of 3 is missing: "), "{message}");
        assert!(message.ends_with("m-00003-of-00003.gguf"), "{message}");
        let other = folder.0.path().join("renamed.gguf");
        fs::rename(folder.path(0), &other).unwrap();
        let message = Gguf::open_model(&other).unwrap_err().to_string();
        assert!(message.contains("has to end in -00001-of-00003.gguf"), "{message}");
    }

    /// As where a link leads back to a part that was read before.
    #[test]
    fn refuses_a_part_in_the_place_of_another() {
        let folder = Folder::new();
        fs::write(folder.path(2), fs::read(folder.path(0)).unwrap()).unwrap();
        let message = folder.refusal(0);
        assert!(message.contains("m-00003-of-00003.gguf"), "{message}");
        assert!(message.contains("key split.no: is 0, expected 2 in part 3 of 3"), "{message}");
        part(2, 4, "c").write(&folder.path(2)).unwrap();
        assert!(folder.refusal(0).contains("key split.count: is 4, expected 3"));
        Builder::new().write(&folder.path(2)).unwrap();
        assert!(folder.refusal(0).contains("key split.no: is missing"));
    }

    #[test]
    fn refuses_a_tensor_of_two_parts_and_a_tensor_too_few() {
        let folder = Folder::new();
        part(2, 3, "b").write(&folder.path(2)).unwrap();
        let message = folder.refusal(0);
        assert!(message.contains("m-00003-of-00003.gguf"), "{message}");
        assert!(message.contains("tensor b: is in ") && message.contains("m-00002"), "{message}");
        let mut empty = Builder::new();
        empty.set(NO_KEY, Value::U16(2)).set(COUNT_KEY, Value::U16(3));
        empty.write(&folder.path(2)).unwrap();
        let message = folder.refusal(0);
        assert!(
            message.contains("split.tensors.count: 3 tensors, and its parts hold 2"),
            "{message}"
        );
    }
}
