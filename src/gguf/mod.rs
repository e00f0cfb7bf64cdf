//! Reading and writing GGUF files without trusting them.
