/* guard - calls of llama.cpp and ggml that can throw, for callers that cannot catch
 *
 * llama.cpp is C++ behind a C header, and some of its functions let exceptions out: of a tokenizer
 * that has no token for a byte, of a device's driver, of memory that ran out. An exception that
 * meets a frame of another language ends the process. Each function here does what the one of its
 * name does, and catches: `fault` says whether something was thrown and what it said, and the value
 * is then 0, false or NULL.
 *
 * To add one: declare it here under a section, define it in guard.cpp in three lines, call it with
 * guard::call in src/ffi/guard.rs, and give its test in src/ffi/guard/tests.rs (`GUARDED`) a way to it. A call of
 * llama.cpp or ggml that does not go through here must stand in the table `CANNOT_THROW` of
 * src/ffi/guard/tests.rs with its reason: a test reads the sources and holds them to it.
 *
 * Functions of pictures (mtmd) belong between CANDOR_SIGHT, which build.rs defines where the feature
 * is on.
 */
#ifndef CANDOR_GUARD_H
#define CANDOR_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ggml-backend.h"
#include "headtap.h"
#include "llama.h"
#ifdef CANDOR_SIGHT
#include "mtmd.h"
#endif

#ifdef __cplusplus
#define GUARD_NOEXCEPT noexcept
extern "C" {
#else
#define GUARD_NOEXCEPT
#endif

struct guard_fault {
    bool thrown;
    char what[256]; /* the exception's own message, cut to what fits, ends with NUL */
};

/* For tests: the next call of the guarded function of this name on this thread throws instead of
 * doing its work; NULL: none does. The string must live until then. */
void guard_provoke(const char * function) GUARD_NOEXCEPT;

/* ---- the library and its devices ---- */

/* llama_backend_init, and the registry of devices, which asks every driver. */
void   guard_start(struct guard_fault * fault) GUARD_NOEXCEPT;
void   guard_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total, struct guard_fault * fault) GUARD_NOEXCEPT;
void   guard_dev_get_props(ggml_backend_dev_t device, struct ggml_backend_dev_props * props, struct guard_fault * fault) GUARD_NOEXCEPT;
ggml_backend_t     guard_dev_init(ggml_backend_dev_t device, struct guard_fault * fault) GUARD_NOEXCEPT;
/* ggml_backend_rpc_add_server and ggml_backend_register; NULL where the worker has no devices. */
ggml_backend_reg_t guard_rpc_add_server(ggml_backend_reg_t (*add_server)(const char *), const char * endpoint, struct guard_fault * fault) GUARD_NOEXCEPT;
void   guard_rpc_start_server(
    void (*start_server)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *),
    const char * endpoint, size_t n_thread, size_t n_device, ggml_backend_dev_t * devices, struct guard_fault * fault) GUARD_NOEXCEPT;
ggml_backend_buffer_t guard_alloc_tensors(struct ggml_context * ctx, ggml_backend_buffer_type_t buft, struct guard_fault * fault) GUARD_NOEXCEPT;
void   guard_tensor_get(const struct ggml_tensor * tensor, void * data, size_t offset, size_t size, struct guard_fault * fault) GUARD_NOEXCEPT;
/* An eval callback that is called by one of another language: see src/ffi/means.rs. */
bool   guard_eval(ggml_backend_sched_eval_callback eval, struct ggml_tensor * node, bool ask, void * user_data, struct guard_fault * fault) GUARD_NOEXCEPT;
/* headtap_begin writes banks to devices. */
enum headtap_status guard_headtap_begin(struct headtap * tap, const struct headtap_pass * pass, struct guard_fault * fault) GUARD_NOEXCEPT;

/* ---- models and their vocabularies ---- */

struct llama_model * guard_model_load(const char * path, struct llama_model_params params, struct guard_fault * fault) GUARD_NOEXCEPT;
int32_t      guard_tokenize(const struct llama_vocab * vocab, const char * text, int32_t n_text, llama_token * tokens, int32_t n_max, bool parse_special, struct guard_fault * fault) GUARD_NOEXCEPT;
int32_t      guard_token_to_piece(const struct llama_vocab * vocab, llama_token token, char * piece, int32_t n_max, struct guard_fault * fault) GUARD_NOEXCEPT;
const char * guard_token_text(const struct llama_vocab * vocab, llama_token token, struct guard_fault * fault) GUARD_NOEXCEPT;

/* ---- contexts ---- */

struct llama_context * guard_context_new(struct llama_model * model, struct llama_context_params params, struct guard_fault * fault) GUARD_NOEXCEPT;
int32_t guard_decode(struct llama_context * ctx, struct llama_batch batch, struct guard_fault * fault) GUARD_NOEXCEPT;
float * guard_logits(struct llama_context * ctx, int32_t i, struct guard_fault * fault) GUARD_NOEXCEPT;
int32_t guard_set_control_vector(struct llama_context * ctx, const float * data, size_t n, int32_t n_embd, struct guard_fault * fault) GUARD_NOEXCEPT;
void    guard_memory_clear(struct llama_context * ctx, struct guard_fault * fault) GUARD_NOEXCEPT;
bool    guard_memory_remove(struct llama_context * ctx, llama_seq_id seq, llama_pos from, llama_pos to, struct guard_fault * fault) GUARD_NOEXCEPT;
void    guard_memory_shift(struct llama_context * ctx, llama_seq_id seq, llama_pos from, llama_pos by, struct guard_fault * fault) GUARD_NOEXCEPT;
void    guard_memory_copy(struct llama_context * ctx, llama_seq_id from, llama_seq_id to, struct guard_fault * fault) GUARD_NOEXCEPT;
llama_pos guard_memory_last(struct llama_context * ctx, llama_seq_id seq, struct guard_fault * fault) GUARD_NOEXCEPT;
size_t  guard_state_size(struct llama_context * ctx, llama_seq_id seq, struct guard_fault * fault) GUARD_NOEXCEPT;
size_t  guard_state_get(struct llama_context * ctx, uint8_t * data, size_t n, llama_seq_id seq, struct guard_fault * fault) GUARD_NOEXCEPT;
size_t  guard_state_set(struct llama_context * ctx, const uint8_t * data, size_t n, llama_seq_id seq, struct guard_fault * fault) GUARD_NOEXCEPT;

/* ---- samplers ---- */

/* Top-k, top-p, min-p, temperature, draw: llama.cpp's order. At temperature 0, the likeliest. */
struct llama_sampler * guard_sampler_new(float temp, int32_t top_k, float top_p, float min_p, uint32_t seed, struct guard_fault * fault) GUARD_NOEXCEPT;
/* Chooses one of the candidates and tells the sampler; LLAMA_TOKEN_NULL where none was chosen. */
llama_token guard_sampler_choose(struct llama_sampler * sampler, llama_token_data_array * candidates, struct guard_fault * fault) GUARD_NOEXCEPT;

#ifdef CANDOR_SIGHT
/* ---- pictures ---- */

struct mtmd_context * guard_projector_open(const char * path, const struct llama_model * model, struct mtmd_context_params params, struct guard_fault * fault) GUARD_NOEXCEPT;
/* A picture, RGB [height][width][3], as a list of chunks, to be freed; NULL where it cannot be cut. */
struct mtmd_input_chunks * guard_picture_cut(const struct mtmd_context * ctx, uint32_t width, uint32_t height, const unsigned char * rgb, struct guard_fault * fault) GUARD_NOEXCEPT;
struct mtmd_input_chunk * guard_chunk_copy(const struct mtmd_input_chunk * chunk, struct guard_fault * fault) GUARD_NOEXCEPT;
/* Fills a tensor with zeros; NULL: does nothing. */
void guard_tensor_zero(struct ggml_tensor * tensor, struct guard_fault * fault) GUARD_NOEXCEPT;
/* 0 where it was encoded. */
int32_t guard_picture_encode(struct mtmd_context * ctx, const struct mtmd_input_chunk * chunk, struct guard_fault * fault) GUARD_NOEXCEPT;
#endif

#ifdef __cplusplus
}
#endif

#endif /* CANDOR_GUARD_H */
