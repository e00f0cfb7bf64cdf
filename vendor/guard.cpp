#include "guard.h"

#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>

namespace {

thread_local const char * provoked = nullptr;

void keep(guard_fault * fault, const char * what) noexcept {
    fault->thrown = true;
    std::strncpy(fault->what, what, sizeof(fault->what) - 1);
    fault->what[sizeof(fault->what) - 1] = '\0';
}

/* Runs `work`; where it throws, keeps the message and gives the zero of its type. */
template <typename Work>
auto guarded(const char * function, guard_fault * fault, Work work) noexcept -> decltype(work()) {
    fault->thrown  = false;
    fault->what[0] = '\0';
    try {
        if (provoked && std::strcmp(provoked, function) == 0) {
            provoked = nullptr;
            throw std::runtime_error("provoked");
        }
        return work();
    } catch (const std::exception & e) {
        keep(fault, e.what());
    } catch (...) {
        keep(fault, "an exception of an unknown kind");
    }
    return decltype(work())();
}

} // namespace

void guard_provoke(const char * function) noexcept {
    provoked = function;
}

/* ---- the library and its devices ---- */

void guard_start(guard_fault * fault) noexcept {
    guarded(__func__, fault, [] {
        llama_backend_init();
        (void) ggml_backend_dev_count();
    });
}

void guard_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total, guard_fault * fault) noexcept {
    guarded(__func__, fault, [=] { ggml_backend_dev_memory(device, free, total); });
}

void guard_dev_get_props(ggml_backend_dev_t device, ggml_backend_dev_props * props, guard_fault * fault) noexcept {
    guarded(__func__, fault, [=] { ggml_backend_dev_get_props(device, props); });
}

ggml_backend_t guard_dev_init(ggml_backend_dev_t device, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return ggml_backend_dev_init(device, nullptr); });
}

ggml_backend_reg_t guard_rpc_add_server(
    ggml_backend_reg_t (*add_server)(const char *), const char * endpoint, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] {
        ggml_backend_reg_t reg = add_server(endpoint);
        if (reg) {
            ggml_backend_register(reg);
        }
        return reg;
    });
}

void guard_rpc_start_server(
    void (*start_server)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *),
    const char * endpoint, size_t n_thread, size_t n_device, ggml_backend_dev_t * devices,
    guard_fault * fault) noexcept {
    guarded(__func__, fault, [=] { start_server(endpoint, nullptr, n_thread, n_device, devices); });
}

ggml_backend_buffer_t guard_alloc_tensors(ggml_context * ctx, ggml_backend_buffer_type_t buft, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return ggml_backend_alloc_ctx_tensors_from_buft(ctx, buft); });
}

void guard_tensor_get(const ggml_tensor * tensor, void * data, size_t offset, size_t size, guard_fault * fault) noexcept {
    guarded(__func__, fault, [=] { ggml_backend_tensor_get(tensor, data, offset, size); });
}

bool guard_eval(ggml_backend_sched_eval_callback eval, ggml_tensor * node, bool ask, void * user_data, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return eval(node, ask, user_data); });
}

headtap_status guard_headtap_begin(headtap * tap, const headtap_pass * pass, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return headtap_begin(tap, pass); });
}

/* ---- models and their vocabularies ---- */

llama_model * guard_model_load(const char * path, llama_model_params params, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_model_load_from_file(path, params); });
}

int32_t guard_tokenize(
    const llama_vocab * vocab, const char * text, int32_t n_text, llama_token * tokens, int32_t n_max,
    bool parse_special, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] {
        return llama_tokenize(vocab, text, n_text, tokens, n_max, false, parse_special);
    });
}

int32_t guard_token_to_piece(const llama_vocab * vocab, llama_token token, char * piece, int32_t n_max, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_token_to_piece(vocab, token, piece, n_max, 0, false); });
}

const char * guard_token_text(const llama_vocab * vocab, llama_token token, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_vocab_get_text(vocab, token); });
}

/* ---- contexts ---- */

llama_context * guard_context_new(llama_model * model, llama_context_params params, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_init_from_model(model, params); });
}

int32_t guard_decode(llama_context * ctx, llama_batch batch, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_decode(ctx, batch); });
}

float * guard_logits(llama_context * ctx, int32_t i, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_get_logits_ith(ctx, i); });
}

int32_t guard_set_control_vector(llama_context * ctx, const float * data, size_t n, int32_t n_embd, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_set_adapter_cvec(ctx, data, n, n_embd, 1, INT32_MAX); });
}

void guard_memory_clear(llama_context * ctx, guard_fault * fault) noexcept {
    guarded(__func__, fault, [=] { llama_memory_clear(llama_get_memory(ctx), false); });
}

bool guard_memory_remove(llama_context * ctx, llama_seq_id seq, llama_pos from, llama_pos to, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_memory_seq_rm(llama_get_memory(ctx), seq, from, to); });
}

void guard_memory_shift(llama_context * ctx, llama_seq_id seq, llama_pos from, llama_pos by, guard_fault * fault) noexcept {
    guarded(__func__, fault, [=] { llama_memory_seq_add(llama_get_memory(ctx), seq, from, -1, by); });
}

void guard_memory_copy(llama_context * ctx, llama_seq_id from, llama_seq_id to, guard_fault * fault) noexcept {
    guarded(__func__, fault, [=] { llama_memory_seq_cp(llama_get_memory(ctx), from, to, -1, -1); });
}

llama_pos guard_memory_last(llama_context * ctx, llama_seq_id seq, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_memory_seq_pos_max(llama_get_memory(ctx), seq); });
}

size_t guard_state_size(llama_context * ctx, llama_seq_id seq, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_state_seq_get_size(ctx, seq); });
}

size_t guard_state_get(llama_context * ctx, uint8_t * data, size_t n, llama_seq_id seq, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_state_seq_get_data(ctx, data, n, seq); });
}

size_t guard_state_set(llama_context * ctx, const uint8_t * data, size_t n, llama_seq_id seq, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return llama_state_seq_set_data(ctx, data, n, seq); });
}

/* ---- samplers ---- */

llama_sampler * guard_sampler_new(float temp, int32_t top_k, float top_p, float min_p, uint32_t seed, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] {
        std::unique_ptr<llama_sampler, void (*)(llama_sampler *)> chain(
            llama_sampler_chain_init(llama_sampler_chain_default_params()), llama_sampler_free);
        if (temp <= 0.0f) {
            llama_sampler_chain_add(chain.get(), llama_sampler_init_greedy());
            return chain.release();
        }
        llama_sampler_chain_add(chain.get(), llama_sampler_init_top_k(top_k));
        llama_sampler_chain_add(chain.get(), llama_sampler_init_top_p(top_p, 1));
        llama_sampler_chain_add(chain.get(), llama_sampler_init_min_p(min_p, 1));
        llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(temp));
        llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(seed));
        return chain.release();
    });
}

llama_token guard_sampler_choose(llama_sampler * sampler, llama_token_data_array * candidates, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=]() -> llama_token {
        llama_sampler_apply(sampler, candidates);
        if (candidates->selected < 0 || (size_t) candidates->selected >= candidates->size) {
            return LLAMA_TOKEN_NULL;
        }
        const llama_token token = candidates->data[candidates->selected].id;
        llama_sampler_accept(sampler, token);
        return token;
    });
}

#ifdef CANDOR_SIGHT
/* ---- pictures ---- */

mtmd_context * guard_projector_open(const char * path, const llama_model * model, mtmd_context_params params, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return mtmd_init_from_file(path, model, params); });
}

mtmd_input_chunks * guard_picture_cut(const mtmd_context * ctx, uint32_t width, uint32_t height, const unsigned char * rgb, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=]() -> mtmd_input_chunks * {
        const std::unique_ptr<mtmd_bitmap, void (*)(mtmd_bitmap *)> bitmap(mtmd_bitmap_init(width, height, rgb), mtmd_bitmap_free);
        std::unique_ptr<mtmd_input_chunks, void (*)(mtmd_input_chunks *)> chunks(mtmd_input_chunks_init(), mtmd_input_chunks_free);
        const mtmd_input_part   part  = { nullptr, bitmap.get() };
        const mtmd_input_part * parts = &part;
        const int32_t code = mtmd_tokenize_from_parts(ctx, chunks.get(), &parts, 1, false);
        return code == 0 ? chunks.release() : nullptr;
    });
}

mtmd_input_chunk * guard_chunk_copy(const mtmd_input_chunk * chunk, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return mtmd_input_chunk_copy(chunk); });
}

void guard_tensor_zero(ggml_tensor * tensor, guard_fault * fault) noexcept {
    guarded(__func__, fault, [=] {
        if (tensor) {
            ggml_backend_tensor_memset(tensor, 0, 0, ggml_nbytes(tensor));
        }
    });
}

int32_t guard_picture_encode(mtmd_context * ctx, const mtmd_input_chunk * chunk, guard_fault * fault) noexcept {
    return guarded(__func__, fault, [=] { return mtmd_encode_chunk(ctx, chunk); });
}
#endif
