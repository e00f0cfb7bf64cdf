/* Models, contexts and batches. */
#include <stdlib.h>
#include <string.h>

#include "test.h"

/* ---- models ---- */

/* Notes how wide the heads of each layer are, and asks for nothing. */
static bool note_widths(struct ggml_tensor * t, bool ask, void * user_data) {
    struct host * host = user_data;
    int il, end = 0;
    if (ask && sscanf(t->name, "kqv_out-%d%n", &il, &end) == 1 && t->name[end] == '\0' && il < host->n_layer) {
        host->widths[il] = (int32_t) t->ne[0];
    }
    return false;
}

/* One token, whose logits nobody looks at, in a context that has `callback`. */
static bool learn_widths(struct host * host) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx             = 64;
    params.n_batch           = 1;
    params.n_ubatch          = 1;
    params.n_threads         = 1;
    params.n_threads_batch   = 1;
    params.cb_eval           = note_widths;
    params.cb_eval_user_data = host;
    struct llama_context * ctx = llama_init_from_model(host->model, params);
    llama_token token = 1;
    const bool ok = ctx && llama_decode(ctx, llama_batch_get_one(&token, 1)) == 0;
    llama_free(ctx);
    return ok;
}

bool open_host(struct host * host, const char * path, struct place place) {
    memset(host, 0, sizeof(*host));
    host->path  = path;
    host->place = place;
    const bool on_cpu = ggml_backend_dev_type(place.device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    ggml_backend_dev_t devices[17] = { NULL };
    struct llama_model_params params = llama_model_default_params();
    params.devices      = devices;
    params.n_gpu_layers = place.n_on;
    for (int32_t i = 0; i < place.n_part && i < 16; ++i) {
        devices[i] = place.parts[i];
    }
    if (place.n_part > 0) {
        params.split_mode   = LLAMA_SPLIT_MODE_TENSOR;
        params.n_gpu_layers = -1;
    } else if (on_cpu) {
        params.n_gpu_layers = 0;
    } else {
        devices[0] = place.device;
    }
    host->model = llama_model_load_from_file(path, params);
    if (!host->model) {
        return false;
    }
    host->n_layer = llama_model_n_layer(host->model);
    host->n_embd  = llama_model_n_embd(host->model);
    host->n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(host->model));
    host->widths  = calloc((size_t) host->n_layer, sizeof(*host->widths));
    host->outputs = calloc((size_t) host->n_layer, sizeof(*host->outputs));
    return host->widths && host->outputs && learn_widths(host);
}

void close_host(struct host * host) {
    llama_model_free(host->model);
    free(host->widths);
    free(host->outputs);
    memset(host, 0, sizeof(*host));
}

/* ---- contexts ---- */

/* Asks the tap, and looks at what it made of the node. */
static bool watch(struct ggml_tensor * t, bool ask, void * user_data) {
    struct room * room = user_data;
    const bool answer  = headtap_eval(t, ask, room->tap);
    if (ask && t->op == GGML_OP_ADD_ID && strstr(t->name, "out-")) {
        const struct ggml_tensor * ids = t->src[2];
        const size_t alignment = ggml_backend_buft_get_alignment(ggml_backend_buffer_get_type(ids->buffer));
        room->n_added++;
        room->n_misaligned += (uintptr_t) ids->data % alignment != 0;
    }
    return answer;
}

/* The control vector that changes nothing, whose additions the tap steers layer outputs by. */
static bool hold_outputs(struct room * room) {
    const struct host * host = room->host;
    const size_t n = (size_t) (host->n_layer - 1) * (size_t) host->n_embd;
    float * zeros  = malloc(n * sizeof(*zeros));
    for (size_t i = 0; zeros && i < n; ++i) {
        zeros[i] = -0.0f;
    }
    const bool ok = zeros && llama_set_adapter_cvec(room->ctx, zeros, n, host->n_embd, 1, INT32_MAX) == 0;
    free(zeros);
    return ok;
}

/* The first pass: what the tap learns, it learns from one token. */
static bool warm_up(struct room * room) {
    static struct work work;
    fill(&work, room->host, 0, 1, 1, 0, 0);
    if (!decode(room, &work, NULL, NULL)) {
        return false;
    }
    for (int32_t il = 0; room->setting.outputs && il < room->host->n_layer; ++il) {
        room->host->outputs[il] = headtap_n_seen(room->tap, HEADTAP_OUTPUT, il) == 1;
    }
    forget(room);
    return true;
}

bool open_room(struct room * room, const struct host * host, const struct setting * setting, enum tap_mode mode) {
    memset(room, 0, sizeof(*room));
    room->host    = host;
    room->setting = *setting;
    const int32_t n_batch = setting->n_batch ? setting->n_batch : N_BATCH;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx           = (uint32_t) (setting->n_ctx ? setting->n_ctx : N_CTX);
    params.n_batch         = (uint32_t) n_batch;
    params.n_ubatch        = (uint32_t) setting->n_ubatch;
    params.n_seq_max       = (uint32_t) setting->n_seq;
    params.n_threads       = setting->n_threads ? setting->n_threads : 1;
    params.n_threads_batch = params.n_threads;
    params.kv_unified      = setting->unified;
    params.type_k          = setting->cache;
    params.type_v          = setting->cache;
    params.flash_attn_type = setting->flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    if (mode != NO_TAP) {
        const int32_t n_embd = setting->outputs ? host->n_embd : 0;
        room->tap = headtap_init(host->n_layer, host->widths, n_embd, N_ROW, n_batch, mode == IN_GRAPH);
        params.cb_eval           = watch;
        params.cb_eval_user_data = room;
    }
    room->ctx = llama_init_from_model(host->model, params);
    return room->ctx && (mode == NO_TAP || room->tap) && (!setting->outputs || hold_outputs(room)) &&
           (mode == NO_TAP || warm_up(room));
}

void close_room(struct room * room) {
    llama_free(room->ctx); /* first the context, then the tap that its graphs point into */
    headtap_free(room->tap);
    memset(room, 0, sizeof(*room));
}

const char * refusal(const struct room * room) {
    for (int32_t il = 0; il < room->host->n_layer; ++il) {
        if (room->host->widths[il] == 0) {
            continue;
        }
        switch (headtap_reader_of(room->tap, il)) {
            case HEADTAP_PROJECTION: break;
            case HEADTAP_ALTERED: return "something stands between the heads and the projection";
            default: return "what reads the heads cannot be followed";
        }
    }
    return NULL;
}

void forget(struct room * room) {
    llama_memory_clear(llama_get_memory(room->ctx), true);
}

void observe_all(struct room * room, bool on) {
    for (int32_t il = 0; il < room->host->n_layer; ++il) {
        headtap_observe(room->tap, HEADTAP_HEADS, il, on);
    }
}

size_t n_seen_values(const struct host * host) {
    int32_t widest = 0, n = 0;
    for (int32_t il = 0; il < host->n_layer; ++il) {
        widest = host->widths[il] > widest ? host->widths[il] : widest;
        n += host->widths[il] > 0;
    }
    return (size_t) widest * (size_t) n;
}

bool took_path(const struct room * room, enum headtap_kind kind, enum headtap_path path) {
    for (int32_t il = 0; il < room->host->n_layer; ++il) {
        const bool is_there = kind == HEADTAP_HEADS ? room->host->widths[il] > 0 : room->host->outputs[il];
        if (is_there && headtap_path_of(room->tap, kind, il) != path) {
            fprintf(stderr, "    layer %d took path %d, not %d\n", (int) il, (int) headtap_path_of(room->tap, kind, il), (int) path);
            return false;
        }
    }
    return true;
}

/* ---- batches ---- */

bool decode(struct room * room, struct work * work, float * logits, float * seen) {
    static int32_t   n_seq_id[2048], want[2048];
    static int32_t * seq_id[2048];
    for (int32_t i = 0; i < work->n; ++i) {
        n_seq_id[i] = 1;
        seq_id[i]   = &work->seq[i];
        want[i]     = i;
    }
    const struct llama_batch batch = {
        .n_tokens = work->n,
        .token    = work->id,
        .pos      = work->pos,
        .n_seq_id = n_seq_id,
        .seq_id   = seq_id,
        .logits   = work->wanted,
    };
    room->n_added = room->n_misaligned = 0;
    if (room->tap) {
        const struct headtap_pass pass = {
            .n_token = work->n,
            .rows    = work->row,
            .n_want  = seen ? work->n : 0,
            .want    = want,
            .out     = seen,
            .tokens  = work->id,
            .outputs = work->wanted,
        };
        const enum headtap_status began = headtap_begin(room->tap, &pass);
        if (began != HEADTAP_OK) {
            fprintf(stderr, "    the tap refuses the pass: status %d\n", (int) began);
            return false;
        }
    }
    const int32_t code = llama_decode(room->ctx, batch);
    const enum headtap_status ended = room->tap ? headtap_end(room->tap) : HEADTAP_OK;
    if (code != 0 || ended != HEADTAP_OK) {
        fprintf(stderr, "    llama_decode gave %d, the tap %d (layer %d)\n", (int) code, (int) ended,
                room->tap ? (int) headtap_failed_layer(room->tap) : -1);
        return false;
    }
    const size_t n_vocab = (size_t) room->host->n_vocab;
    for (int32_t i = 0; logits && i < work->n; ++i) {
        if (work->wanted[i]) {
            memcpy(logits, llama_get_logits_ith(room->ctx, i), n_vocab * sizeof(*logits));
            logits += n_vocab;
        }
    }
    return true;
}
