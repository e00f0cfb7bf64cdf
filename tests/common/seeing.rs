//! Stock llama.cpp with its own multimodal library and no callback: what pictures are compared with.

use std::ffi::CString;
use std::path::Path;

use candor::vision::Picture;
use llama_cpp_sys_2 as llama;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::host;

/// A picture of coloured blocks and noise.
pub fn picture(width: u32, height: u32, seed: u64) -> Picture {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let blocks: Vec<u8> = (0..64 * 3).map(|_| rng.random()).collect();
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let block = (y * 8 / height * 8 + x * 8 / width) as usize;
            for channel in 0..3 {
                rgb.push(blocks[block * 3 + channel] ^ rng.random_range(0..32u8));
            }
        }
    }
    Picture::from_rgb(rgb, width, height).expect("a picture")
}

/// The logits after a text with pictures in it (`<__media__>`), then after each token of an answer:
/// `[1 + n_answer, n_vocab]`.
pub fn logits(
    (model, projector): (&Path, &Path),
    text: &str,
    pictures: &[&Picture],
    answer: &[i32],
    flash_attention: bool,
) -> Vec<Vec<f32>> {
    host::backend();
    let path = |path: &Path| CString::new(path.to_str().expect("a plain path")).expect("no NUL");
    let flash = match flash_attention {
        true => llama::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        false => llama::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    // SAFETY: llama.cpp's C interface used as its own programs do: what is made is checked, lives until
    // it is freed in the end, and is freed in the reverse order; pointers are to living arrays.
    unsafe {
        let mut params = llama::llama_model_default_params();
        params.n_gpu_layers = 0;
        let model = llama::llama_model_load_from_file(path(model).as_ptr(), params);
        assert!(!model.is_null());
        let mut params = llama::llama_context_default_params();
        (params.n_ctx, params.n_batch, params.n_ubatch) = (512, 512, 512);
        (params.n_threads, params.n_threads_batch) = (1, 1);
        params.flash_attn_type = flash;
        params.kv_unified = true;
        let context = llama::llama_init_from_model(model, params);
        assert!(!context.is_null());
        let mut params = llama::mtmd_context_params_default();
        (params.use_gpu, params.n_threads, params.warmup) = (false, 1, false);
        params.flash_attn_type = flash;
        let sight = llama::mtmd_init_from_file(path(projector).as_ptr(), model, params);
        assert!(!sight.is_null());

        let bitmaps: Vec<_> = pictures
            .iter()
            .map(|p| llama::mtmd_bitmap_init(p.width(), p.height(), p.rgb().as_ptr()))
            .collect();
        let shown: Vec<_> = bitmaps.iter().map(|b| b.cast_const()).collect();
        let input = llama::mtmd_input_text {
            text: text.as_ptr().cast(),
            text_len: text.len(),
            add_special: true,
            parse_special: true,
        };
        let chunks = llama::mtmd_input_chunks_init();
        let code =
            llama::mtmd_tokenize(sight, chunks, &raw const input, shown.as_ptr(), shown.len());
        assert_eq!(code, 0);
        let mut position = 0;
        let code = llama::mtmd_helper_eval_chunks(
            sight,
            context,
            chunks,
            0,
            0,
            512,
            true,
            &raw mut position,
        );
        assert_eq!(code, 0);
        let n_vocab = llama::llama_vocab_n_tokens(llama::llama_model_get_vocab(model)) as usize;
        let row = |i| {
            std::slice::from_raw_parts(llama::llama_get_logits_ith(context, i), n_vocab).to_vec()
        };
        let mut rows = vec![row(-1)];
        for (&token, position) in answer.iter().zip(position..) {
            let (mut token, mut position_of, mut n_seq, mut output) = (token, position, 1, 1i8);
            let mut seq = 0;
            let mut seqs = [&raw mut seq, std::ptr::null_mut()];
            let batch = llama::llama_batch {
                n_tokens: 1,
                token: &raw mut token,
                embd: std::ptr::null_mut(),
                pos: &raw mut position_of,
                n_seq_id: &raw mut n_seq,
                seq_id: seqs.as_mut_ptr(),
                logits: &raw mut output,
            };
            assert_eq!(llama::llama_decode(context, batch), 0);
            rows.push(row(0));
        }
        llama::mtmd_input_chunks_free(chunks);
        for bitmap in bitmaps {
            llama::mtmd_bitmap_free(bitmap);
        }
        llama::mtmd_free(sight);
        llama::llama_free(context);
        llama::llama_model_free(model);
        rows
    }
}
