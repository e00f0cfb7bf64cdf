//! stub
/// stub
pub fn fingerprint(_: &crate::gguf::Gguf) -> crate::Result<String> {
    Ok(String::new())
}
