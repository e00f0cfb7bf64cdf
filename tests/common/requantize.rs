//! llama.cpp's own quantizer.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use llama_cpp_sys_2 as llama;

use super::host;

/// A kind of file that the quantizer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    F32,
    Q8_0,
    Q4_0,
}

/// Writes the model as another kind beside it, with the kind in its name.
pub fn requantize(model: &Path, kind: FileKind) -> PathBuf {
    host::backend();
    let stem = model.file_stem().expect("a file").to_string_lossy();
    let target = model.with_file_name(format!("{stem}-{kind:?}.gguf"));
    let [from, to] = [model, &target].map(|path| {
        CString::new(path.to_str().expect("tests' paths are text")).expect("no zero byte")
    });
    // SAFETY: the defaults are plain data; both paths end in zero and live until the call returns,
    // and the parameters have no pointers but null ones.
    let code = unsafe {
        let mut params = llama::llama_model_quantize_default_params();
        params.ftype = match kind {
            FileKind::F32 => llama::LLAMA_FTYPE_ALL_F32,
            FileKind::Q8_0 => llama::LLAMA_FTYPE_MOSTLY_Q8_0,
            FileKind::Q4_0 => llama::LLAMA_FTYPE_MOSTLY_Q4_0,
        };
        params.allow_requantize = true;
        params.nthread = 1;
        llama::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params)
    };
    assert_eq!(code, 0, "the quantizer makes {}", target.display());
    target
}
