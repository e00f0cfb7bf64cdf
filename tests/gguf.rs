//! The GGUF reader against the linked ggml.

use std::ffi::CStr;

use candor::gguf::TensorType;

#[test]
fn every_tensor_type_is_as_ggml_says() {
    for code in 0..llama_cpp_sys_2::GGML_TYPE_COUNT {
        // SAFETY: the code is below GGML_TYPE_COUNT; ggml answers from a constant table.
        let (n_block, n_byte, name) = unsafe {
            (
                llama_cpp_sys_2::ggml_blck_size(code),
                llama_cpp_sys_2::ggml_type_size(code),
                llama_cpp_sys_2::ggml_type_name(code),
            )
        };
        match TensorType::try_from(code) {
            Ok(kind) => {
                // SAFETY: the name of a type that exists is a constant string.
                let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap();
                assert_eq!(kind.name(), name);
                assert_eq!(
                    (kind.block_len(), kind.block_bytes()),
                    (n_block as u64, n_byte as u64)
                );
            }
            Err(code) => assert_eq!(n_byte, 0, "type {code} is missing"),
        }
    }
}
