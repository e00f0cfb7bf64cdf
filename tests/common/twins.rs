//! Two models that share fingerprint, size and all metadata, and not their weights.

use std::fs;
use std::path::{Path, PathBuf};

use candor::gguf::{Gguf, TensorType};

/// The demo model.
pub fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.gguf")
}

/// Its questions.
pub fn questions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-questions.csv")
}

/// Copies the demo model into the folder as `one.gguf`, and as `other.gguf` with two tensors negated.
pub fn twins(folder: &Path) -> [PathBuf; 2] {
    let [one, other] = ["one.gguf", "other.gguf"].map(|name| folder.join(name));
    fs::copy(demo(), &one).expect("the folder can be written");
    negate(&demo(), &["blk.1.attn_output.weight", "blk.2.ffn_down.weight"], &other);
    [one, other]
}

/// Writes a model to `target` with the signs of these tensors changed.
pub fn negate(model: &Path, tensors: &[&str], target: &Path) {
    let mut bytes = fs::read(model).expect("the model is there");
    let file = Gguf::open(model).expect("it is sound");
    for name in tensors {
        let tensor = file.tensor(name).unwrap_or_else(|| panic!("there is no {name}"));
        let values = file.bytes(tensor);
        let data = bytes.windows(values.len()).position(|window| window == values);
        let data = data.expect("a file holds its tensors");
        let signs: Box<dyn Iterator<Item = usize>> = match tensor.kind {
            // A scale in F16, then 32 whole numbers.
            TensorType::Q8_0 => Box::new((0..values.len()).step_by(34).map(|block| block + 1)),
            TensorType::F32 => Box::new((0..values.len()).step_by(4).map(|value| value + 3)),
            other => panic!("{name} is of type {other:?}"),
        };
        signs.for_each(|place| bytes[data + place] ^= 0x80);
    }
    fs::write(target, bytes).expect("the folder can be written");
}
