#include "headtap.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

/* Banks and row numbers of all layers that share a buffer type, hence a device. */
struct pool {
    struct ggml_context * ctx;
    ggml_backend_buffer_t buffer;
    struct ggml_tensor  * rows; /* I32 [n_batch] */
};

struct layer {
    int32_t width;
    bool    observed;

    float  * host;   /* [n_row, width], NULL until a row is set                            */
    bool   * loaded; /* [n_row] the row adds something                                     */
    int32_t  n_loaded;
    int32_t  stale_from, stale_to; /* rows of host that were rewritten since the bank was  */

    ggml_backend_buffer_type_t buft;  /* of the node, as last seen                         */
    ggml_backend_buffer_type_t home;  /* of the bank: the node's when it was allocated     */
    struct ggml_tensor       * bank;  /* F32 [width, n_row] on `home`, NULL: none          */
    int32_t                    pool;  /* holds the bank and the row numbers                */

    /* What a patched node points to. Rebuilt from the node each time the scheduler asks, so that
     * it is right whichever graph is running; its address is all that a graph keeps. */
    struct ggml_tensor view; /* the node as it was before                                  */
    struct ggml_tensor rows; /* I32 [n_token of the ubatch, 1], a part of the pool's       */

    /* What reads the node, learned in the first pass. */
    enum headtap_reader reader;
    const char        * reader_op; /* ggml's name of the operation that alters it, else NULL */
    int32_t             rotation;  /* its size on the way to the projection, 0: none         */
    char carrier[GGML_MAX_NAME];   /* the last node that only carries the values on          */

    int32_t seen_width;
    int32_t n_seen;  /* tokens of this pass that came by                                   */
    int32_t start;   /* the current ubatch's first token                                   */
    int32_t i_want;  /* next token to observe                                              */
    enum headtap_path path;
};

struct headtap {
    int32_t n_layer, n_row, n_batch, max_width;
    bool    in_graph;
    bool    learned; /* a pass went through whole: what reads the nodes is known */

    struct layer * layers; /* [n_layer] */
    struct pool  * pools;  /* [n_pool], at most one per layer */
    int32_t        n_pool;

    struct headtap_pass pass;
    int32_t           * rows;      /* [n_batch] row numbers of the pass            */
    int32_t             n_fresh;   /* pools whose row numbers are those of `rows`  */
    int32_t             n_rows;    /* how many of `rows` are set                   */
    float             * column;    /* [max_width] scratch of the read-modify-write */
    int32_t           * ids;       /* [n_batch] scratch of the order's check       */
    int32_t             n_checked; /* tokens of the pass whose order was checked   */

    enum headtap_status status;
    int32_t             failed;
};

/* Where a node's original first source is kept while the node is an ADD_ID, which has three. */
enum { KEPT_SRC = GGML_MAX_SRC - 1 };

/* ---- life ------------------------------------------------------------------------------- */

struct headtap * headtap_init(int32_t n_layer, const int32_t * widths, int32_t n_row, int32_t n_batch, bool in_graph) {
    if (n_layer < 1 || n_row < 1 || n_batch < 1) {
        return NULL;
    }
    struct headtap * tap = calloc(1, sizeof(*tap));
    if (!tap) {
        return NULL;
    }
    tap->n_layer  = n_layer;
    tap->n_row    = n_row;
    tap->n_batch  = n_batch;
    tap->in_graph = in_graph;
    tap->failed   = -1;
    tap->layers   = calloc((size_t) n_layer, sizeof(struct layer));
    tap->pools    = calloc((size_t) n_layer, sizeof(struct pool));
    tap->rows     = calloc((size_t) n_batch, sizeof(int32_t));
    tap->ids      = calloc((size_t) n_batch, sizeof(int32_t));
    if (tap->layers) {
        for (int32_t il = 0; il < n_layer; ++il) {
            tap->layers[il].width = widths[il];
            if (widths[il] > tap->max_width) {
                tap->max_width = widths[il];
            }
        }
    }
    tap->column = calloc((size_t) tap->max_width + 1, sizeof(float));
    if (!tap->layers || !tap->pools || !tap->rows || !tap->ids || !tap->column) {
        headtap_free(tap);
        return NULL;
    }
    return tap;
}

void headtap_free(struct headtap * tap) {
    if (!tap) {
        return;
    }
    for (int32_t i = 0; tap->layers && i < tap->n_layer; ++i) {
        free(tap->layers[i].host);
        free(tap->layers[i].loaded);
    }
    for (int32_t i = 0; i < tap->n_pool; ++i) {
        ggml_backend_buffer_free(tap->pools[i].buffer);
        ggml_free(tap->pools[i].ctx);
    }
    free(tap->layers);
    free(tap->pools);
    free(tap->rows);
    free(tap->ids);
    free(tap->column);
    free(tap);
}

/* ---- rotation --------------------------------------------------------------------------- */

/* Multiplies each block of n values (a power of two that divides the width; 0: none) by the
 * orthonormal Hadamard matrix, as llama.cpp does before a quantized V cache. The matrix is
 * symmetric: doing it twice gives the values back. */
static void rotate(float * values, int32_t width, int32_t n) {
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

/* ---- the plan --------------------------------------------------------------------------- */

/* Rows `from` to `to` - 1 are to be uploaded, too. */
static void mark_stale(struct layer * layer, int32_t from, int32_t to) {
    const bool any = layer->stale_from < layer->stale_to;
    layer->stale_from = any && layer->stale_from < from ? layer->stale_from : from;
    layer->stale_to   = any && layer->stale_to > to ? layer->stale_to : to;
}

/* The size of the layer's rotation. Nothing is rotated before the first pass is over, which finds
 * out. */
static int32_t rotation_of(const struct headtap * tap, const struct layer * layer) {
    return tap->learned ? layer->rotation : 0;
}

static struct layer * layer_at(const struct headtap * tap, int32_t il) {
    return il >= 0 && il < tap->n_layer && tap->layers[il].width > 0 ? &tap->layers[il] : NULL;
}

enum headtap_status headtap_observe(struct headtap * tap, int32_t il, bool on) {
    struct layer * layer = layer_at(tap, il);
    if (!layer) {
        return HEADTAP_BAD_ARG;
    }
    layer->observed = on;
    return HEADTAP_OK;
}

enum headtap_status headtap_set_row(struct headtap * tap, int32_t il, int32_t row, const float * offset) {
    struct layer * layer = layer_at(tap, il);
    if (!layer || row < 1 || row >= tap->n_row) {
        return HEADTAP_BAD_ARG;
    }
    const size_t width = (size_t) layer->width;
    if (!layer->host) {
        if (!offset) {
            return HEADTAP_OK;
        }
        layer->host   = malloc(width * (size_t) tap->n_row * sizeof(float));
        layer->loaded = calloc((size_t) tap->n_row, sizeof(bool));
        if (!layer->host || !layer->loaded) {
            free(layer->host);
            free(layer->loaded);
            layer->host   = NULL;
            layer->loaded = NULL;
            return HEADTAP_NO_MEMORY;
        }
        for (size_t i = 0; i < width * (size_t) tap->n_row; ++i) {
            layer->host[i] = -0.0f;
        }
    }
    float * dst = layer->host + width * (size_t) row;
    memset(dst, 0, width * sizeof(float));
    if (offset) {
        memcpy(dst, offset, width * sizeof(float));
        rotate(dst, layer->width, rotation_of(tap, layer));
    }
    negate_zeros(dst, layer->width);
    layer->n_loaded += (offset != NULL) - (int32_t) layer->loaded[row];
    layer->loaded[row] = offset != NULL;
    mark_stale(layer, row, row + 1);
    return HEADTAP_OK;
}

/* ---- banks on their devices ------------------------------------------------------------- */

static bool adds_by_id(ggml_backend_buffer_type_t buft, struct ggml_context * ctx, struct ggml_tensor * bank) {
    ggml_backend_dev_t device = ggml_backend_buft_get_device(buft);
    if (!device) {
        return ggml_backend_buft_is_host(buft);
    }
    struct ggml_tensor * node = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, bank->ne[0], 1);
    struct ggml_tensor * rows = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 1, 1);
    return ggml_backend_dev_supports_op(device, ggml_add_id(ctx, node, bank, rows));
}

/* Whether the layer is to be steered in the graph and has no bank where its node lives. */
static bool wants_bank(const struct layer * layer) {
    return layer->n_loaded > 0 && layer->buft && !layer->bank && layer->home != layer->buft;
}

/* One pool for all layers that want a bank on `buft`. A device without ADD_ID gets none: those
 * layers stay with the callback (their home is noted, so that the question is asked once). */
static enum headtap_status add_pool(struct headtap * tap, ggml_backend_buffer_type_t buft) {
    const struct ggml_init_params params = {
        .mem_size   = ggml_tensor_overhead() * (size_t) (tap->n_layer + 8),
        .mem_buffer = NULL,
        .no_alloc   = true,
    };
    struct pool * pool = &tap->pools[tap->n_pool];
    struct ggml_context * scratch = ggml_init(params);
    pool->ctx = ggml_init(params);
    if (!scratch || !pool->ctx) {
        ggml_free(scratch);
        ggml_free(pool->ctx);
        return HEADTAP_NO_MEMORY;
    }
    bool supported = true;
    bool asked     = false;
    pool->rows = ggml_new_tensor_1d(pool->ctx, GGML_TYPE_I32, tap->n_batch);
    for (int32_t il = 0; il < tap->n_layer; ++il) {
        struct layer * layer = &tap->layers[il];
        if (!wants_bank(layer) || layer->buft != buft) {
            continue;
        }
        layer->home = buft;
        struct ggml_tensor * bank = ggml_new_tensor_2d(pool->ctx, GGML_TYPE_F32, layer->width, tap->n_row);
        if (!asked) {
            supported = adds_by_id(buft, scratch, bank);
            asked     = true;
        }
        if (supported) {
            layer->bank  = bank;
            layer->pool  = tap->n_pool;
            mark_stale(layer, 0, tap->n_row);
        }
    }
    ggml_free(scratch);
    pool->buffer = supported ? ggml_backend_alloc_ctx_tensors_from_buft(pool->ctx, buft) : NULL;
    if (!pool->buffer) {
        for (int32_t il = 0; il < tap->n_layer; ++il) {
            struct layer * layer = &tap->layers[il];
            if (layer->bank && layer->pool == tap->n_pool) {
                layer->bank = NULL;
                layer->home = NULL;
            }
        }
        ggml_free(pool->ctx);
        return supported ? HEADTAP_NO_MEMORY : HEADTAP_OK;
    }
    tap->n_pool++;
    return HEADTAP_OK;
}

/* Brings banks and row numbers on the devices up to date. */
static enum headtap_status upload(struct headtap * tap, bool same_rows) {
    for (int32_t il = 0; tap->in_graph && il < tap->n_layer; ++il) {
        struct layer * layer = &tap->layers[il];
        if (wants_bank(layer)) {
            enum headtap_status status = add_pool(tap, layer->buft);
            if (status != HEADTAP_OK) {
                tap->failed = il;
                return status;
            }
        }
        if (layer->bank && layer->stale_from < layer->stale_to) {
            const size_t first = (size_t) layer->stale_from * (size_t) layer->width;
            const size_t last  = (size_t) layer->stale_to * (size_t) layer->width;
            ggml_backend_tensor_set(layer->bank, layer->host + first, first * sizeof(float), (last - first) * sizeof(float));
            layer->stale_from = layer->stale_to = 0;
        }
    }
    for (int32_t i = same_rows ? tap->n_fresh : 0; i < tap->n_pool; ++i) {
        ggml_backend_tensor_set(tap->pools[i].rows, tap->rows, 0, (size_t) tap->n_rows * sizeof(int32_t));
    }
    tap->n_fresh = tap->n_pool;
    return HEADTAP_OK;
}

/* ---- a pass ----------------------------------------------------------------------------- */

static const struct headtap_pass no_pass = { 0, NULL, 0, NULL, NULL, NULL };

static bool is_valid(const struct headtap * tap, const struct headtap_pass * pass) {
    if (pass->n_token < 1 || pass->n_token > tap->n_batch || pass->n_want < 0) {
        return false;
    }
    for (int32_t i = 0; pass->rows && i < pass->n_token; ++i) {
        if (pass->rows[i] < 0 || pass->rows[i] >= tap->n_row) {
            return false;
        }
    }
    for (int32_t i = 0; i < pass->n_want; ++i) {
        if (pass->want[i] < (i ? pass->want[i - 1] + 1 : 0) || pass->want[i] >= pass->n_token) {
            return false;
        }
    }
    return true;
}

enum headtap_status headtap_begin(struct headtap * tap, const struct headtap_pass * pass) {
    if (!is_valid(tap, pass)) {
        return HEADTAP_BAD_ARG;
    }
    bool same_rows = tap->n_rows == pass->n_token;
    for (int32_t i = 0; i < pass->n_token; ++i) {
        const int32_t row = pass->rows ? pass->rows[i] : 0;
        same_rows    = same_rows && tap->rows[i] == row;
        tap->rows[i] = row;
    }
    tap->n_rows = pass->n_token;
    tap->pass   = *pass;
    tap->status = HEADTAP_OK;
    tap->failed = -1;
    tap->n_checked = 0;
    for (int32_t il = 0; il < tap->n_layer; ++il) {
        tap->layers[il].n_seen = 0;
        tap->layers[il].i_want = 0;
    }
    const enum headtap_status status = upload(tap, same_rows);
    if (status != HEADTAP_OK) {
        tap->n_rows = 0; /* not every device has the rows */
        tap->pass   = no_pass;
    }
    return status;
}

/* After the first pass: what it read or added was in the node's own terms, and all that follows is
 * in the heads' own. */
static void settle(struct headtap * tap) {
    const struct headtap_pass * pass = &tap->pass;
    float * out = pass->out;
    tap->learned = true;
    for (int32_t il = 0; il < tap->n_layer; ++il) {
        struct layer * layer = &tap->layers[il];
        for (int32_t i = 0; layer->observed && i < pass->n_want; ++i, out += tap->max_width) {
            rotate(out, layer->width, layer->rotation);
        }
        for (int32_t row = 0; layer->rotation && layer->host && row < tap->n_row; ++row) {
            float * offset = layer->host + (size_t) layer->width * (size_t) row;
            rotate(offset, layer->width, layer->rotation);
            negate_zeros(offset, layer->width);
            mark_stale(layer, row, row + 1);
        }
        for (int32_t i = 0; layer->rotation && layer->n_loaded > 0 && i < pass->n_token; ++i) {
            if (layer->loaded[tap->rows[i]]) {
                tap->status = HEADTAP_ROTATED;
                tap->failed = il;
            }
        }
    }
}

enum headtap_status headtap_end(struct headtap * tap) {
    for (int32_t il = 0; il < tap->n_layer && tap->status == HEADTAP_OK; ++il) {
        const struct layer * layer = &tap->layers[il];
        const bool planned = layer->observed || layer->n_loaded > 0;
        if (planned && layer->n_seen != tap->pass.n_token) {
            tap->status = HEADTAP_MISCOUNT;
            tap->failed = il;
        }
    }
    if (tap->status == HEADTAP_OK && !tap->learned) {
        settle(tap);
    } else if (tap->status == HEADTAP_OK && tap->pass.tokens && tap->n_checked != tap->pass.n_token) {
        tap->status = HEADTAP_MISORDERED;
    }
    tap->pass = no_pass;
    return tap->status;
}

/* The layer of a node named exactly `kqv_out-<il>`, else NULL. Views of it carry a suffix. */
static struct layer * layer_named(struct headtap * tap, const char * name) {
    static const char prefix[] = "kqv_out-";
    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0) {
        return NULL;
    }
    const char * digit = name + sizeof(prefix) - 1;
    int32_t il = 0;
    if (*digit < '0' || *digit > '9') {
        return NULL;
    }
    for (; *digit >= '0' && *digit <= '9'; ++digit) {
        il = il * 10 + (*digit - '0');
        if (il >= tap->n_layer) {
            return NULL;
        }
    }
    return *digit == '\0' ? layer_at(tap, il) : NULL;
}

/* ---- what reads the node ---------------------------------------------------------------- */

static bool is_rotation(const struct ggml_tensor * t) {
    return t->op == GGML_OP_MUL_MAT && t->op_params[1] == GGML_HINT_SRC0_IS_HADAMARD;
}

/* The source whose values `t` only carries on: in another shape or type, rotated, or fewer of its
 * columns. NULL where `t` computes something. */
static const struct ggml_tensor * carried(const struct ggml_tensor * t) {
    switch (t->op) {
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
        case GGML_OP_CONT:
        case GGML_OP_DUP:
        case GGML_OP_CPY:
        case GGML_OP_GET_ROWS:
            return t->src[0];
        default:
            return is_rotation(t) ? t->src[1] : NULL;
    }
}

/* The layer whose node's values `t` carries, else NULL. The scheduler's copy for another device has
 * no source, but a name: `<backend>#<name of the original>#<number>`. */
static struct layer * origin(struct headtap * tap, const struct ggml_tensor * t) {
    for (; t; t = carried(t)) {
        struct layer * layer = layer_named(tap, t->name);
        if (layer) {
            return layer;
        }
        const char * start = strchr(t->name, '#');
        const char * end   = strrchr(t->name, '#');
        for (int32_t il = 0; start < end && il < tap->n_layer; ++il) {
            const char * carrier = tap->layers[il].carrier;
            const size_t n       = (size_t) (end - start - 1);
            if (n > 0 && strlen(carrier) == n && strncmp(start + 1, carrier, n) == 0) {
                return &tap->layers[il];
            }
        }
    }
    return NULL;
}

/* Whether `t` multiplies its second source by the layer's output projection, or an adapter of it. */
static bool projects(const struct ggml_tensor * t, int32_t il) {
    if (t->op != GGML_OP_MUL_MAT && t->op != GGML_OP_MUL_MAT_ID) {
        return false;
    }
    char weight[GGML_MAX_NAME];
    snprintf(weight, sizeof(weight), "blk.%d.attn_output.weight", (int) il);
    const char * found = strstr(t->src[0]->name, weight);
    return found && (found == t->src[0]->name || found[-1] == '#');
}

/* Called for each node of the first pass, in the graph's order. */
static void learn(struct headtap * tap, const struct ggml_tensor * t) {
    if (carried(t)) {
        struct layer * layer = origin(tap, t);
        if (layer) {
            memcpy(layer->carrier, t->name, sizeof(layer->carrier));
            layer->rotation = is_rotation(t) ? (int32_t) t->src[0]->ne[0] : layer->rotation;
        }
        return;
    }
    for (int32_t i = 0; i < GGML_MAX_SRC; ++i) {
        struct layer * layer = origin(tap, t->src[i]);
        if (!layer || layer->reader == HEADTAP_PROJECTION) {
            continue;
        }
        if (i == 1 && projects(t, (int32_t) (layer - tap->layers))) {
            layer->reader    = HEADTAP_PROJECTION;
            layer->reader_op = NULL;
        } else if (layer->reader == HEADTAP_UNREAD) {
            layer->reader    = HEADTAP_ALTERED;
            layer->reader_op = ggml_op_desc(t);
        }
    }
}

/* Compares a ubatch's token ids, which embeddings are looked up by, with those expected. */
static void check_order(struct headtap * tap, const struct ggml_tensor * ids) {
    int32_t n_whole = tap->pass.n_token; /* tokens that went through all layers */
    for (int32_t il = 0; il < tap->n_layer; ++il) {
        const struct layer * layer = &tap->layers[il];
        n_whole = layer->seen_width > 0 && layer->n_seen < n_whole ? layer->n_seen : n_whole;
    }
    if (tap->n_checked > n_whole || !strstr(ids->name, "inp_tokens")) {
        return; /* this ubatch's were looked up before; another table */
    }
    const int64_t n = ids->ne[0];
    bool same = ids->type == GGML_TYPE_I32 && ids->buffer && n == ggml_nelements(ids) &&
                n <= tap->pass.n_token - tap->n_checked;
    if (same) {
        ggml_backend_tensor_get(ids, tap->ids, 0, (size_t) n * sizeof(int32_t));
        same = memcmp(tap->ids, tap->pass.tokens + tap->n_checked, (size_t) n * sizeof(int32_t)) == 0;
        tap->n_checked += (int32_t) n;
    }
    if (!same && tap->status == HEADTAP_OK) {
        tap->status = HEADTAP_MISORDERED;
    }
}

static void fail(struct headtap * tap, const struct layer * layer, enum headtap_status status) {
    if (tap->status == HEADTAP_OK) {
        tap->status = status;
        tap->failed = (int32_t) (layer - tap->layers);
    }
}

/* RESHAPE -> ADD_ID, in place. Asked again in a reused graph, the node is an ADD_ID already and
 * only what it points to is brought up to date. */
static void patch(struct headtap * tap, struct layer * layer, struct ggml_tensor * t) {
    if (t->op == GGML_OP_RESHAPE) {
        t->src[KEPT_SRC] = t->src[0];
    }
    layer->view        = *t;
    layer->view.op     = GGML_OP_RESHAPE;
    memset(layer->view.src, 0, sizeof(layer->view.src));
    layer->view.src[0] = t->src[KEPT_SRC];

    const struct ggml_tensor * all = tap->pools[layer->pool].rows;
    layer->rows           = *all;
    layer->rows.ne[0]     = t->ne[1];
    layer->rows.nb[1]     = layer->rows.nb[0] * (size_t) t->ne[1];
    layer->rows.nb[2]     = layer->rows.nb[1];
    layer->rows.nb[3]     = layer->rows.nb[1];
    layer->rows.view_src  = (struct ggml_tensor *) all;
    layer->rows.view_offs = (size_t) layer->start * sizeof(int32_t);
    layer->rows.data      = (char *) all->data + layer->rows.view_offs;

    t->op     = GGML_OP_ADD_ID;
    t->src[0] = &layer->view;
    t->src[1] = layer->bank;
    t->src[2] = &layer->rows;
}

/* ADD_ID -> RESHAPE: a reused graph whose layer has nothing to add any more. */
static void restore(struct ggml_tensor * t) {
    t->op            = GGML_OP_RESHAPE;
    t->src[0]        = t->src[KEPT_SRC];
    t->src[1]        = NULL;
    t->src[2]        = NULL;
    t->src[KEPT_SRC] = NULL;
}

/* The reference: read each steered token's column, add its row, write it back. */
static void read_modify_write(struct headtap * tap, struct layer * layer, struct ggml_tensor * t) {
    const size_t n_byte = (size_t) layer->width * sizeof(float);
    for (int64_t i = 0; i < t->ne[1]; ++i) {
        const int32_t row = tap->rows[layer->start + i];
        if (!layer->loaded[row]) {
            continue;
        }
        const float * offset = layer->host + (size_t) layer->width * (size_t) row;
        ggml_backend_tensor_get(t, tap->column, (size_t) i * t->nb[1], n_byte);
        for (int32_t j = 0; j < layer->width; ++j) {
            tap->column[j] += offset[j];
        }
        ggml_backend_tensor_set(t, tap->column, (size_t) i * t->nb[1], n_byte);
    }
}

/* The number of observed layers below this one. */
static int32_t rank_of(const struct headtap * tap, const struct layer * layer) {
    int32_t rank = 0;
    for (const struct layer * l = tap->layers; l < layer; ++l) {
        rank += l->observed;
    }
    return rank;
}

static void read_wanted(struct headtap * tap, struct layer * layer, struct ggml_tensor * t) {
    const struct headtap_pass * pass = &tap->pass;
    const size_t slab = (size_t) rank_of(tap, layer) * (size_t) pass->n_want;
    for (; layer->i_want < pass->n_want; ++layer->i_want) {
        const int64_t i = pass->want[layer->i_want] - layer->start;
        if (i >= t->ne[1]) {
            break;
        }
        float * dst = pass->out + (slab + (size_t) layer->i_want) * (size_t) tap->max_width;
        ggml_backend_tensor_get(t, dst, (size_t) i * t->nb[1], (size_t) layer->width * sizeof(float));
        rotate(dst, layer->width, rotation_of(tap, layer));
    }
}

static bool ask_about(struct headtap * tap, struct layer * layer, struct ggml_tensor * t) {
    const struct headtap_pass * pass = &tap->pass;
    layer->seen_width = (int32_t) t->ne[0];
    if (pass->n_token == 0) {
        return false; /* a graph that no pass announced: a reserve, a shift */
    }
    if (t->ne[0] != layer->width || t->ne[2] != 1 || t->ne[3] != 1) {
        fail(tap, layer, HEADTAP_WRONG_WIDTH);
        return false;
    }
    if (t->type != GGML_TYPE_F32 || !ggml_is_contiguous(t) || !t->buffer) {
        fail(tap, layer, HEADTAP_WRONG_TYPE);
        return false;
    }
    if (t->ne[1] > pass->n_token - layer->n_seen) {
        fail(tap, layer, HEADTAP_MISCOUNT);
        return false;
    }
    layer->start   = layer->n_seen;
    layer->n_seen += (int32_t) t->ne[1];
    layer->buft    = ggml_backend_buffer_get_type(t->buffer);
    if (!tap->learned) {
        memcpy(layer->carrier, t->name, sizeof(layer->carrier));
    }

    const bool steered  = layer->n_loaded > 0;
    const bool patched  = t->op == GGML_OP_ADD_ID;
    const bool in_graph = steered && layer->bank && layer->home == layer->buft && (patched || t->op == GGML_OP_RESHAPE);
    if (in_graph) {
        patch(tap, layer, t);
    } else if (patched) {
        restore(t);
    }
    layer->path = !steered ? HEADTAP_WATCHED : in_graph ? HEADTAP_IN_GRAPH : HEADTAP_CALLBACK;

    const bool observed = layer->observed && layer->i_want < pass->n_want &&
                          pass->want[layer->i_want] < layer->n_seen;
    return observed || layer->path == HEADTAP_CALLBACK;
}

bool headtap_eval(struct ggml_tensor * t, bool ask, void * user_data) {
    struct headtap * tap   = user_data;
    struct layer   * layer = layer_named(tap, t->name);
    if (!layer) {
        if (ask && !tap->learned && tap->pass.n_token > 0) {
            learn(tap, t);
        } else if (ask && tap->pass.tokens && t->op == GGML_OP_GET_ROWS) {
            check_order(tap, t->src[1]);
        }
        return !ask;
    }
    if (ask) {
        return ask_about(tap, layer, t);
    }
    if (layer->path == HEADTAP_CALLBACK) {
        read_modify_write(tap, layer, t);
    }
    if (layer->observed) {
        read_wanted(tap, layer, t);
    }
    return true;
}

/* ---- what was seen ---------------------------------------------------------------------- */

int32_t headtap_n_seen(const struct headtap * tap, int32_t il) {
    const struct layer * layer = layer_at(tap, il);
    return layer ? layer->n_seen : 0;
}

enum headtap_path headtap_path_of(const struct headtap * tap, int32_t il) {
    const struct layer * layer = layer_at(tap, il);
    return layer ? layer->path : HEADTAP_SILENT;
}

enum headtap_reader headtap_reader_of(const struct headtap * tap, int32_t il) {
    const struct layer * layer = layer_at(tap, il);
    return layer ? layer->reader : HEADTAP_UNREAD;
}

const char * headtap_reader_op(const struct headtap * tap, int32_t il) {
    const struct layer * layer = layer_at(tap, il);
    return layer ? layer->reader_op : NULL;
}

int32_t headtap_rotation(const struct headtap * tap, int32_t il) {
    const struct layer * layer = layer_at(tap, il);
    return layer ? rotation_of(tap, layer) : 0;
}

int32_t headtap_failed_layer(const struct headtap * tap) {
    return tap->failed;
}

int32_t headtap_width(const struct headtap * tap, int32_t il) {
    const struct layer * layer = layer_at(tap, il);
    return layer ? layer->seen_width : 0;
}

const char * headtap_device(const struct headtap * tap, int32_t il) {
    const struct layer * layer = layer_at(tap, il);
    if (!layer || !layer->buft) {
        return NULL;
    }
    /* memory of the host that a GPU may read as well names that GPU: the processor computes there */
    ggml_backend_dev_t device = ggml_backend_buft_is_host(layer->buft) ? NULL : ggml_backend_buft_get_device(layer->buft);
    return device ? ggml_backend_dev_name(device) : "CPU";
}
