/* headtap: rows of offsets in memory, and their copies on the devices. */
#include "headtap_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-alloc.h"

/* Multiplies each block of n values (a power of two that divides the width; 0: none) by the
 * orthonormal Hadamard matrix, as llama.cpp does before a quantized V cache. The matrix is
 * symmetric: doing it twice gives the values back. */
void headtap_rotate(float * values, int32_t width, int32_t n) {
    if (n < 2) {
        return;
    }
    for (int32_t half = 1; half < n; half *= 2) {
        for (int32_t i = 0; i < width; ++i) {
            if (i % (2 * half) < half) {
                const float a = values[i];
                const float b = values[i + half];
                values[i]        = a + b;
                values[i + half] = a - b;
            }
        }
    }
    for (int32_t i = 0; i < width; ++i) {
        values[i] /= sqrtf((float) n);
    }
}

/* +0.0 would turn a -0.0 of the model into +0.0: adding nothing is adding -0.0. */
static void negate_zeros(float * values, int32_t width) {
    for (int32_t i = 0; i < width; ++i) {
        values[i] = values[i] != 0.0f ? values[i] : -0.0f;
    }
}

/* Rows `from` to `to` - 1 are to be uploaded, too. */
static void mark_stale(struct site * site, int32_t from, int32_t to) {
    const bool any = site->stale_from < site->stale_to;
    site->stale_from = any && site->stale_from < from ? site->stale_from : from;
    site->stale_to   = any && site->stale_to > to ? site->stale_to : to;
}

void headtap_rotate_rows(struct headtap * tap, struct site * site) {
    for (int32_t row = 0; site->rotation && site->host && row < tap->n_row; ++row) {
        float * offset = site->host + (size_t) site->width * (size_t) row;
        headtap_rotate(offset, site->width, site->rotation);
        negate_zeros(offset, site->width);
        mark_stale(site, row, row + 1);
    }
}

int32_t headtap_rotation_of(const struct headtap * tap, const struct site * site) {
    return tap->learned ? site->rotation : 0;
}

enum headtap_status headtap_set_row(struct headtap * tap, enum headtap_kind kind, int32_t il, int32_t row, const float * offset) {
    struct site * site = headtap_site_at(tap, kind, il);
    /* llama.cpp has no control vector for layer 0 */
    if (!site || row < 1 || row >= tap->n_row || (kind == HEADTAP_OUTPUT && il == 0)) {
        return HEADTAP_BAD_ARG;
    }
    const size_t width = (size_t) site->width;
    if (!site->host) {
        if (!offset) {
            return HEADTAP_OK;
        }
        site->host   = malloc(width * (size_t) tap->n_row * sizeof(float));
        site->loaded = calloc((size_t) tap->n_row, sizeof(bool));
        if (!site->host || !site->loaded) {
            free(site->host);
            free(site->loaded);
            site->host   = NULL;
            site->loaded = NULL;
            return HEADTAP_NO_MEMORY;
        }
        for (size_t i = 0; i < width * (size_t) tap->n_row; ++i) {
            site->host[i] = -0.0f;
        }
    }
    float * dst = site->host + width * (size_t) row;
    memset(dst, 0, width * sizeof(float));
    if (offset) {
        memcpy(dst, offset, width * sizeof(float));
        headtap_rotate(dst, site->width, headtap_rotation_of(tap, site));
    }
    negate_zeros(dst, site->width);
    site->n_loaded += (offset != NULL) - (int32_t) site->loaded[row];
    site->loaded[row] = offset != NULL;
    mark_stale(site, row, row + 1);
    return HEADTAP_OK;
}

bool headtap_is_split(ggml_backend_dev_t device) {
    return device && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_META;
}

/* Whether nodes of this buffer type can be turned into ADD_ID. Nodes that are split cannot: each
 * device computes tensors of its own, made when the node was allocated, and never sees what becomes
 * of the node. */
static bool adds_by_id(ggml_backend_buffer_type_t buft, struct ggml_context * ctx, struct ggml_tensor * bank) {
    ggml_backend_dev_t device = ggml_backend_buft_get_device(buft);
    if (!device) {
        return ggml_backend_buft_is_host(buft);
    }
    if (headtap_is_split(device)) {
        return false;
    }
    struct ggml_tensor * node = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, bank->ne[0], 1);
    struct ggml_tensor * rows = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 1, 1);
    return ggml_backend_dev_supports_op(device, ggml_add_id(ctx, node, bank, rows));
}

/* Whether the site is to be steered in the graph and has no bank where its node lives. */
static bool wants_bank(const struct site * site) {
    return site->n_loaded > 0 && site->buft && !site->bank && site->home != site->buft;
}

static bool init_place(const struct headtap * tap, struct ggml_context * ctx, struct place * place) {
    place->ids    = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, tap->n_batch);
    place->held   = calloc((size_t) tap->n_batch, sizeof(int32_t));
    place->n_held = 0;
    return place->held != NULL;
}

void headtap_free_pool(struct pool * pool) {
    ggml_backend_buffer_free(pool->buffer);
    ggml_free(pool->ctx);
    free(pool->all.held);
    free(pool->wanted.held);
    memset(pool, 0, sizeof(*pool));
}

/* One pool for all sites that want a bank on `buft`. A device without ADD_ID gets none: those
 * sites stay with the callback (their home is noted, so that the question is asked once). */
static enum headtap_status add_pool(struct headtap * tap, ggml_backend_buffer_type_t buft) {
    const struct ggml_init_params params = {
        .mem_size   = ggml_tensor_overhead() * (size_t) (headtap_n_site(tap) + 8),
        .mem_buffer = NULL,
        .no_alloc   = true,
    };
    struct pool * pool = &tap->pools[tap->n_pool];
    struct ggml_context * scratch = ggml_init(params);
    pool->ctx = ggml_init(params);
    bool has_memory = scratch && pool->ctx && init_place(tap, pool->ctx, &pool->all) &&
                      init_place(tap, pool->ctx, &pool->wanted);
    bool supported = true;
    bool asked     = false;
    for (int32_t i = 0; has_memory && i < headtap_n_site(tap); ++i) {
        struct site * site = &tap->sites[i];
        if (!wants_bank(site) || site->buft != buft) {
            continue;
        }
        site->home = buft;
        struct ggml_tensor * bank = ggml_new_tensor_2d(pool->ctx, GGML_TYPE_F32, site->width, tap->n_row);
        if (!asked) {
            supported = adds_by_id(buft, scratch, bank);
            asked     = true;
        }
        if (supported) {
            site->bank  = bank;
            site->pool  = tap->n_pool;
            mark_stale(site, 0, tap->n_row);
        }
    }
    ggml_free(scratch);
    pool->buffer = has_memory && supported ? ggml_backend_alloc_ctx_tensors_from_buft(pool->ctx, buft) : NULL;
    if (pool->buffer) {
        tap->n_pool++;
        return HEADTAP_OK;
    }
    for (int32_t i = 0; i < headtap_n_site(tap); ++i) {
        struct site * site = &tap->sites[i];
        if (site->bank && site->pool == tap->n_pool) {
            site->bank = NULL;
            site->home = NULL;
        }
    }
    headtap_free_pool(pool);
    return has_memory && !supported ? HEADTAP_OK : HEADTAP_NO_MEMORY;
}

enum headtap_status headtap_upload(struct headtap * tap) {
    for (int32_t i = 0; tap->in_graph && i < headtap_n_site(tap); ++i) {
        struct site * site = &tap->sites[i];
        if (wants_bank(site)) {
            enum headtap_status status = add_pool(tap, site->buft);
            if (status != HEADTAP_OK) {
                tap->failed = i;
                return status;
            }
        }
        if (site->bank && site->stale_from < site->stale_to) {
            const size_t first = (size_t) site->stale_from * (size_t) site->width;
            const size_t last  = (size_t) site->stale_to * (size_t) site->width;
            ggml_backend_tensor_set(site->bank, site->host + first, first * sizeof(float), (last - first) * sizeof(float));
            site->stale_from = site->stale_to = 0;
        }
    }
    return HEADTAP_OK;
}

const struct ggml_tensor * headtap_ids(struct headtap * tap, const struct site * site, int32_t n) {
    struct pool   * pool  = &tap->pools[site->pool];
    struct place  * place = site->first < tap->n_batch ? &pool->all : &pool->wanted;
    const int32_t * rows  = tap->rows + site->first;
    const size_t    size  = (size_t) n * sizeof(*rows);
    if (n > place->n_held || memcmp(place->held, rows, size) != 0) {
        memcpy(place->held, rows, size);
        place->n_held = n;
        ggml_backend_tensor_set(place->ids, rows, 0, size);
    }
    return place->ids;
}
