//! The handle of a projector: mtmd's context, which turns pictures into embeddings.
//!
//! What mtmd asserts of a projector file, and so ends the process over, `vision::shape` refuses before.

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as llama;

use super::guard::call_or;
use super::nodes::{NodeReader, Nodes};
use super::{host, sys};

/// How to make a [`Projector`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProjectorSettings {
    pub(crate) use_gpu: bool,
    pub(crate) n_threads: i32,
    /// `None`: llama.cpp's choice.
    pub(crate) flash_attention: Option<bool>,
    /// Layers of the encoder that are computed, and its width.
    pub(crate) encoder: (usize, usize),
}

/// Owns an `mtmd_context`. It points into its model's vocabulary: the model must outlive it.
pub(crate) struct Projector {
    ptr: NonNull<llama::mtmd_context>,
    /// Called by the context, which is freed before.
    nodes: NodeReader,
}

// SAFETY: nothing in the context belongs to the thread that made it; calls on it take `&mut self`
// where they change it.
unsafe impl Send for Projector {}

/// A part of a picture as the decoder reads it.
pub(crate) enum Chunk {
    /// Tokens that stand around pictures or between their tiles.
    Text(Vec<i32>),
    /// A picture, or one of its tiles.
    Picture(PictureChunk),
}

/// A picture or tile, cut to size and ready to be encoded.
pub(crate) struct PictureChunk {
    ptr: NonNull<llama::mtmd_input_chunk>,
    /// Positions that it takes of the sequence.
    pub(crate) n_pos: usize,
    /// `[n_token]` time, row and column of each token, relative to the picture's first position.
    pub(crate) places: Vec<[i32; 3]>,
    /// Whether its tokens see each other whatever their order.
    pub(crate) is_mutual: bool,
}

impl Projector {
    /// Reads a projector file for this model; `None` where mtmd refuses (it logs why).
    pub(crate) fn open(
        path: &Path,
        model: &LlamaModel,
        settings: ProjectorSettings,
    ) -> Option<Self> {
        let path = CString::new(path.to_str()?).ok()?;
        // SAFETY: fills a plain struct.
        let mut params = unsafe { llama::mtmd_context_params_default() };
        params.use_gpu = settings.use_gpu;
        params.n_threads = settings.n_threads;
        params.print_timings = false;
        params.warmup = false;
        params.flash_attn_type = match settings.flash_attention {
            None => llama::LLAMA_FLASH_ATTN_TYPE_AUTO,
            Some(true) => llama::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            Some(false) => llama::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        let (n_layer, n_embd) = settings.encoder;
        let nodes = NodeReader::new(n_layer, n_embd);
        (params.cb_eval, params.cb_eval_user_data) = nodes.callback();
        let ptr = call_or(std::ptr::null_mut(), |fault| {
            // SAFETY: the path ends in NUL and lives for the call, as does the model.
            unsafe {
                sys::guard_projector_open(path.as_ptr(), host::model_ptr(model), params, fault)
            }
        });
        NonNull::new(ptr).map(|ptr| Self { ptr, nodes })
    }

    /// Whether it encodes pictures (and not sound alone).
    pub(crate) fn sees(&self) -> bool {
        // SAFETY: the context is alive.
        unsafe { llama::mtmd_support_vision(self.ptr.as_ptr()) }
    }

    /// Whether the decoder gives every token four positions.
    pub(crate) fn is_mrope(&self) -> bool {
        // SAFETY: the context is alive.
        unsafe { llama::mtmd_decode_use_mrope(self.ptr.as_ptr()) }
    }

    /// Cuts a picture, RGB `[height, width, 3]`, as the model wants it: tiles, and the tokens around
    /// and between them. `None` where mtmd refuses (it logs why).
    pub(crate) fn cut(&self, rgb: &[u8], width: u32, height: u32) -> Option<Vec<Chunk>> {
        if rgb.len() != width as usize * height as usize * 3 {
            return None;
        }
        let ctx = self.ptr.as_ptr();
        let chunks = call_or(std::ptr::null_mut(), |fault| {
            // SAFETY: `rgb` has as many bytes as the size says; mtmd copies them.
            unsafe { sys::guard_picture_cut(ctx, width, height, rgb.as_ptr(), fault) }
        });
        let chunks = Chunks(NonNull::new(chunks)?);
        // SAFETY: the list is alive.
        let n = unsafe { llama::mtmd_input_chunks_size(chunks.0.as_ptr()) };
        (0..n)
            .map(|i| {
                // SAFETY: the index is below the size; the list owns the chunk.
                let chunk = unsafe { llama::mtmd_input_chunks_get(chunks.0.as_ptr(), i) };
                self.chunk(chunk)
            })
            .collect()
    }

    /// What a chunk of a living list holds.
    fn chunk(&self, chunk: *const llama::mtmd_input_chunk) -> Option<Chunk> {
        // SAFETY: the list that owns the chunk is alive (the only caller's).
        let kind = unsafe { llama::mtmd_input_chunk_get_type(chunk) };
        // SAFETY: as above.
        let n_token = unsafe { llama::mtmd_input_chunk_get_n_tokens(chunk) };
        match kind {
            llama::MTMD_INPUT_CHUNK_TYPE_TEXT => {
                let mut n = 0;
                // SAFETY: as above; `n` is where the number is to be written.
                let tokens = unsafe { llama::mtmd_input_chunk_get_tokens_text(chunk, &raw mut n) };
                if tokens.is_null() || n == 0 {
                    return Some(Chunk::Text(Vec::new()));
                }
                // SAFETY: a chunk of text holds `n` tokens and lives as long as its list.
                Some(Chunk::Text(unsafe { std::slice::from_raw_parts(tokens, n) }.to_vec()))
            }
            llama::MTMD_INPUT_CHUNK_TYPE_IMAGE => {
                // SAFETY: as above.
                let image = unsafe { llama::mtmd_input_chunk_get_tokens_image(chunk) };
                let places = (0..if image.is_null() { 0 } else { n_token })
                    .map(|i| {
                        // SAFETY: the index is below the chunk's number of tokens.
                        let at = unsafe { llama::mtmd_image_tokens_get_decoder_pos(image, 0, i) };
                        [at.t, at.y, at.x].map(|n| i32::try_from(n).unwrap_or(i32::MAX))
                    })
                    .collect();
                let copy = call_or(std::ptr::null_mut(), |fault| {
                    // SAFETY: as above.
                    unsafe { sys::guard_chunk_copy(chunk, fault) }
                });
                let ptr = NonNull::new(copy)?;
                // SAFETY: as above.
                let n_pos = unsafe { llama::mtmd_input_chunk_get_n_pos(chunk) };
                // SAFETY: as above.
                let is_mutual =
                    unsafe { llama::mtmd_decode_use_non_causal(self.ptr.as_ptr(), chunk) };
                let n_pos = usize::try_from(n_pos).ok()?;
                Some(Chunk::Picture(PictureChunk { ptr, n_pos, places, is_mutual }))
            }
            _ => None,
        }
    }

    /// The same, with what its layers gave on the way; `None` in its place where they do not pass under
    /// the names that are known.
    pub(crate) fn encode_observed(
        &mut self,
        chunk: &PictureChunk,
        n_embd: usize,
    ) -> Option<(Vec<f32>, Option<Nodes>)> {
        self.nodes.start();
        let embedding = self.encode(chunk, n_embd);
        let nodes = self.nodes.finish();
        Some((embedding?, nodes))
    }

    /// Encodes a picture or tile into F32 `[n_token, n_embd]`, where `n_embd` is the width of the
    /// model's input; `None` where mtmd fails (it logs why).
    pub(crate) fn encode(&mut self, chunk: &PictureChunk, n_embd: usize) -> Option<Vec<f32>> {
        let (ctx, tile) = (self.ptr.as_ptr(), chunk.ptr.as_ptr());
        let code = call_or(1, |fault| {
            // SAFETY: both are alive.
            unsafe { sys::guard_picture_encode(ctx, tile, fault) }
        });
        if code != 0 {
            return None;
        }
        // SAFETY: the context is alive.
        let data = unsafe { llama::mtmd_get_output_embd(self.ptr.as_ptr()) };
        if data.is_null() {
            return None;
        }
        // SAFETY: mtmd made room for as many floats in `mtmd_encode_chunk`: the projector's width is
        // the model's (it refuses others when it is made), and lives until the next encode.
        let embedding = unsafe { std::slice::from_raw_parts(data, chunk.places.len() * n_embd) };
        Some(embedding.to_vec())
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        // SAFETY: freed once.
        unsafe { llama::mtmd_free(self.ptr.as_ptr()) };
    }
}

impl Drop for PictureChunk {
    fn drop(&mut self) {
        // SAFETY: a copy of our own, freed once.
        unsafe { llama::mtmd_input_chunk_free(self.ptr.as_ptr()) };
    }
}

struct Chunks(NonNull<llama::mtmd_input_chunks>);

impl Drop for Chunks {
    fn drop(&mut self) {
        // SAFETY: freed once.
        unsafe { llama::mtmd_input_chunks_free(self.0.as_ptr()) };
    }
}
