#include "headtap_impl.h"

#include <stdlib.h>
#include <string.h>

/* Where a node's original source is kept while the node is an ADD_ID, which has three: the first
 * of a RESHAPE, the second of an ADD. */
enum { KEPT_SRC = GGML_MAX_SRC - 1 };

/* ---- life ------------------------------------------------------------------------------- */

struct headtap * headtap_init(int32_t n_layer, const int32_t * widths, int32_t n_embd, int32_t n_row, int32_t n_batch, bool in_graph) {
    if (n_layer < 1 || n_embd < 0 || n_row < 1 || n_batch < 1) {
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
    const size_t n_site = (size_t) headtap_n_site(tap);
    tap->sites    = calloc(n_site, sizeof(struct site));
    tap->pools    = calloc(n_site, sizeof(struct pool));
    tap->rows     = calloc(2 * (size_t) n_batch, sizeof(int32_t));
    tap->n_before = calloc((size_t) n_batch + 1, sizeof(int32_t));
    tap->ids      = calloc((size_t) n_batch, sizeof(int32_t));
    for (int32_t i = 0; tap->sites && i < headtap_n_site(tap); ++i) {
        struct site * site = &tap->sites[i];
        site->kind = i < n_layer ? HEADTAP_HEADS : HEADTAP_OUTPUT;
        site->il   = i % n_layer;
        site->width = i < n_layer ? widths[i] : n_embd;
        if (i < n_layer && site->width > tap->max_width) {
            tap->max_width = site->width;
        }
    }
    tap->column = calloc((size_t) (tap->max_width > n_embd ? tap->max_width : n_embd) + 1, sizeof(float));
    if (!tap->sites || !tap->pools || !tap->rows || !tap->n_before || !tap->ids || !tap->column) {
        headtap_free(tap);
        return NULL;
    }
    return tap;
}

void headtap_free(struct headtap * tap) {
    if (!tap) {
        return;
    }
    for (int32_t i = 0; tap->sites && i < headtap_n_site(tap); ++i) {
        free(tap->sites[i].host);
        free(tap->sites[i].loaded);
    }
    for (int32_t i = 0; i < tap->n_pool; ++i) {
        headtap_free_pool(&tap->pools[i]);
    }
    free(tap->sites);
    free(tap->pools);
    free(tap->rows);
    free(tap->n_before);
    free(tap->ids);
    free(tap->column);
    free(tap->edits);
    free(tap->places);
    free(tap);
}

/* ---- sites ------------------------------------------------------------------------------ */

struct site * headtap_site_at(const struct headtap * tap, enum headtap_kind kind, int32_t il) {
    if (il < 0 || il >= tap->n_layer || (kind != HEADTAP_HEADS && kind != HEADTAP_OUTPUT)) {
        return NULL;
    }
    struct site * site = &tap->sites[kind == HEADTAP_HEADS ? il : tap->n_layer + il];
    return site->width > 0 ? site : NULL;
}

/* Views of the nodes carry a suffix: they are not meant. */
struct site * headtap_site_named(const struct headtap * tap, const char * name) {
    static const char heads[]  = "kqv_out-";
    static const char output[] = "l_out-";
    enum headtap_kind kind;
    const char * digit;
    if (strncmp(name, heads, sizeof(heads) - 1) == 0) {
        kind  = HEADTAP_HEADS;
        digit = name + sizeof(heads) - 1;
    } else if (strncmp(name, output, sizeof(output) - 1) == 0) {
        kind  = HEADTAP_OUTPUT;
        digit = name + sizeof(output) - 1;
    } else {
        return NULL;
    }
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
    return *digit == '\0' ? headtap_site_at(tap, kind, il) : NULL;
}

/* ---- a pass ----------------------------------------------------------------------------- */

static const struct headtap_pass no_pass = { 0, NULL, 0, NULL, NULL, NULL, NULL, NULL };

static bool is_valid(const struct headtap * tap, const struct headtap_pass * pass) {
    if (pass->n_token < 1 || pass->n_token > tap->n_batch || pass->n_want < 0) {
        return false;
    }
    for (int32_t i = 0; pass->rows && i < pass->n_token; ++i) {
        if (pass->rows[i] < 0 || pass->rows[i] >= tap->n_row) {
            return false;
        }
    }
    for (int32_t i = 0; pass->n_want > 0 && i < headtap_n_site(tap); ++i) {
        const struct site * site = &tap->sites[i];
        if (site->observed && !(site->kind == HEADTAP_HEADS ? pass->out : pass->out_output)) {
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
    int32_t n_out = 0;
    for (int32_t i = 0; i < pass->n_token; ++i) {
        const int32_t row = pass->rows ? pass->rows[i] : 0;
        tap->rows[i] = row;
        tap->n_before[i] = n_out;
        if (pass->outputs && pass->outputs[i]) {
            tap->rows[tap->n_batch + n_out++] = row;
        }
    }
    tap->n_before[pass->n_token] = n_out;
    tap->pass   = *pass;
    tap->status = HEADTAP_OK;
    tap->failed = -1;
    tap->n_checked = 0;
    for (int32_t i = 0; i < headtap_n_site(tap); ++i) {
        tap->sites[i].n_seen = 0;
        tap->sites[i].i_want = 0;
    }
    const enum headtap_status status = headtap_upload(tap);
    if (status != HEADTAP_OK) {
        tap->pass = no_pass;
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
        struct site * site = &tap->sites[il];
        for (int32_t i = 0; site->observed && i < pass->n_want; ++i, out += tap->max_width) {
            headtap_rotate(out, site->width, site->rotation);
        }
        headtap_rotate_rows(tap, site);
        for (int32_t i = 0; site->rotation && site->n_loaded > 0 && i < pass->n_token; ++i) {
            if (site->loaded[tap->rows[i]]) {
                tap->status = HEADTAP_ROTATED;
                tap->failed = il;
            }
        }
    }
}

enum headtap_status headtap_end(struct headtap * tap) {
    for (int32_t i = 0; i < headtap_n_site(tap) && tap->status == HEADTAP_OK; ++i) {
        const struct site * site = &tap->sites[i];
        const bool planned = site->observed || headtap_is_edited(tap, site) || site->n_loaded > 0;
        if (planned && site->n_seen != tap->pass.n_token) {
            tap->status = HEADTAP_MISCOUNT;
            tap->failed = i;
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

/* ---- the callback ----------------------------------------------------------------------- */

void headtap_fail(struct headtap * tap, const struct site * site, enum headtap_status status) {
    if (tap->status == HEADTAP_OK) {
        tap->status = status;
        tap->failed = (int32_t) (site - tap->sites);
    }
}

/* Whether a node named as a layer's output is llama.cpp's control vector at work, or what became of
 * it here: an ADD of one vector, which no node computes, to every column. */
static bool adds_vector(const struct ggml_tensor * t) {
    if (t->op == GGML_OP_ADD_ID) {
        return t->src[KEPT_SRC] != NULL;
    }
    if (t->op != GGML_OP_ADD) {
        return false;
    }
    const struct ggml_tensor * vector = t->src[1];
    const bool copied = strchr(vector->name, '#') != NULL; /* from another device: anything */
    return vector->op == GGML_OP_NONE && !copied && vector->ne[0] == t->ne[0] && ggml_nrows(vector) == 1;
}

/* RESHAPE or ADD -> ADD_ID, in place. Asked again in a reused graph, the node is an ADD_ID already
 * and only what it points to is brought up to date. */
static void patch(struct headtap * tap, struct site * site, struct ggml_tensor * t) {
    const bool is_heads = site->kind == HEADTAP_HEADS;
    if (t->op != GGML_OP_ADD_ID) {
        t->src[KEPT_SRC] = t->src[is_heads ? 0 : 1];
    }
    if (is_heads) {
        site->view        = *t;
        site->view.op     = GGML_OP_RESHAPE;
        memset(site->view.src, 0, sizeof(site->view.src));
        site->view.src[0] = t->src[KEPT_SRC];
        t->src[0]         = &site->view;
    }
    const struct ggml_tensor * ids = headtap_ids(tap, site, (int32_t) t->ne[1]);
    site->rows          = *ids;
    site->rows.ne[0]    = t->ne[1];
    site->rows.nb[1]    = site->rows.nb[0] * (size_t) t->ne[1];
    site->rows.nb[2]    = site->rows.nb[1];
    site->rows.nb[3]    = site->rows.nb[1];
    site->rows.view_src = (struct ggml_tensor *) ids;

    t->op     = GGML_OP_ADD_ID;
    t->src[1] = site->bank;
    t->src[2] = &site->rows;
}

/* ADD_ID -> what it was: a reused graph whose layer has nothing to add any more. */
static void restore(const struct site * site, struct ggml_tensor * t) {
    if (site->kind == HEADTAP_HEADS) {
        t->op     = GGML_OP_RESHAPE;
        t->src[0] = t->src[KEPT_SRC];
        t->src[1] = NULL;
    } else {
        t->op     = GGML_OP_ADD;
        t->src[1] = t->src[KEPT_SRC];
    }
    t->src[2]        = NULL;
    t->src[KEPT_SRC] = NULL;
}

/* The reference: read each steered token's column, add its row, write it back. */
static void read_modify_write(struct headtap * tap, struct site * site, struct ggml_tensor * t) {
    const size_t n_byte = (size_t) site->width * sizeof(float);
    for (int64_t i = 0; i < t->ne[1]; ++i) {
        const int32_t row = tap->rows[site->first + i];
        if (!site->loaded[row]) {
            continue;
        }
        const float * offset = site->host + (size_t) site->width * (size_t) row;
        ggml_backend_tensor_get(t, tap->column, (size_t) i * t->nb[1], n_byte);
        for (int32_t j = 0; j < site->width; ++j) {
            tap->column[j] += offset[j];
        }
        ggml_backend_tensor_set(t, tap->column, (size_t) i * t->nb[1], n_byte);
    }
}

/* Finds the tokens of the node's columns: all of a ubatch, or, where llama.cpp has dropped the
 * others, as it does in the last layer, those whose output is wanted. False where neither fits. */
static bool place(struct headtap * tap, struct site * site, int64_t n_column) {
    const int32_t start = site->n_seen;
    int64_t n_token = n_column;
    if (site->kind == HEADTAP_OUTPUT) {
        /* what came by earlier in the graph has seen the whole ubatch */
        for (int32_t i = 0; i < headtap_n_site(tap); ++i) {
            const int32_t n = tap->sites[i].n_seen - start;
            n_token = n > n_token ? n : n_token;
        }
    }
    if (n_token > tap->pass.n_token - start) {
        return false;
    }
    const int32_t n_before = tap->n_before[start];
    const int32_t n_out    = tap->n_before[start + n_token] - n_before;
    if (n_column != n_token && n_column != n_out) {
        return false;
    }
    site->start   = start;
    site->first   = n_column == n_token ? start : tap->n_batch + n_before;
    site->n_seen += (int32_t) n_token;
    return true;
}

static bool ask_about(struct headtap * tap, struct site * site, struct ggml_tensor * t) {
    const struct headtap_pass * pass = &tap->pass;
    if (pass->n_token == 0) {
        return false; /* a graph that no pass announced: a reserve, a shift */
    }
    if (t->ne[0] != site->width || t->ne[2] != 1 || t->ne[3] != 1) {
        headtap_fail(tap, site, HEADTAP_WRONG_WIDTH);
        return false;
    }
    if (!place(tap, site, t->ne[1])) {
        headtap_fail(tap, site, HEADTAP_MISCOUNT);
        return false;
    }
    if (t->ne[1] == 0) {
        /* no output is wanted: nothing is computed */
        if (site->observed && site->i_want < pass->n_want && pass->want[site->i_want] < site->n_seen) {
            headtap_fail(tap, site, HEADTAP_NOT_COMPUTED);
        }
        return false;
    }
    if (t->type != GGML_TYPE_F32 || !ggml_is_contiguous(t) || !t->buffer) {
        headtap_fail(tap, site, HEADTAP_WRONG_TYPE);
        return false;
    }
    site->buft = ggml_backend_buffer_get_type(t->buffer);
    if (!tap->learned && site->kind == HEADTAP_HEADS) {
        memcpy(site->carrier, t->name, sizeof(site->carrier));
    }

    const enum ggml_op plain = site->kind == HEADTAP_HEADS ? GGML_OP_RESHAPE : GGML_OP_ADD;
    const bool steered  = site->n_loaded > 0;
    const bool patched  = t->op == GGML_OP_ADD_ID;
    const bool in_graph = steered && site->bank && site->home == site->buft && (patched || t->op == plain);
    if (in_graph) {
        patch(tap, site, t);
    } else if (patched) {
        restore(site, t);
    }
    site->path = !steered ? HEADTAP_WATCHED : in_graph ? HEADTAP_IN_GRAPH : HEADTAP_CALLBACK;

    const bool observed = site->observed && site->i_want < pass->n_want &&
                          pass->want[site->i_want] < site->n_seen;
    return observed || headtap_is_edited(tap, site) || site->path == HEADTAP_CALLBACK;
}

bool headtap_eval(struct ggml_tensor * t, bool ask, void * user_data) {
    struct headtap * tap  = user_data;
    struct site    * site = headtap_site_named(tap, t->name);
    const bool is_heads   = site && site->kind == HEADTAP_HEADS;
    if (ask && !is_heads && !tap->learned && tap->pass.n_token > 0) {
        headtap_learn(tap, t);
    }
    if (site && ask) {
        site->seen_width = (int32_t) t->ne[0];
    }
    if (site && !is_heads && !adds_vector(t) && (site->n_loaded > 0 || !(site->observed || headtap_is_edited(tap, site)))) {
        site = NULL; /* no control vector is loaded there to be steered by, and nobody looks */
    }
    if (!site) {
        if (ask && tap->learned && tap->pass.tokens && t->op == GGML_OP_GET_ROWS) {
            headtap_check_order(tap, t->src[1]);
        }
        return !ask;
    }
    if (ask) {
        return ask_about(tap, site, t);
    }
    if (site->path == HEADTAP_CALLBACK) {
        read_modify_write(tap, site, t);
    }
    if (headtap_is_edited(tap, site) && tap->status == HEADTAP_OK) {
        headtap_edit_columns(tap, site, t);
    }
    if (site->observed) {
        headtap_read_wanted(tap, site, t);
    }
    return true;
}

/* ---- what was seen ---------------------------------------------------------------------- */

int32_t headtap_n_seen(const struct headtap * tap, enum headtap_kind kind, int32_t il) {
    const struct site * site = headtap_site_at(tap, kind, il);
    return site ? site->n_seen : 0;
}

enum headtap_path headtap_path_of(const struct headtap * tap, enum headtap_kind kind, int32_t il) {
    const struct site * site = headtap_site_at(tap, kind, il);
    return site ? site->path : HEADTAP_SILENT;
}

int32_t headtap_width(const struct headtap * tap, enum headtap_kind kind, int32_t il) {
    const struct site * site = headtap_site_at(tap, kind, il);
    return site ? site->seen_width : 0;
}

const char * headtap_device(const struct headtap * tap, enum headtap_kind kind, int32_t il) {
    const struct site * site = headtap_site_at(tap, kind, il);
    if (!site || !site->buft) {
        return NULL;
    }
    /* memory of the host that a GPU may read as well names that GPU: the processor computes there */
    ggml_backend_dev_t device = ggml_backend_buft_get_device(site->buft);
    const bool is_host = ggml_backend_buft_is_host(site->buft) && !headtap_is_split(device);
    return device && !is_host ? ggml_backend_dev_name(device) : "CPU";
}

enum headtap_reader headtap_reader_of(const struct headtap * tap, int32_t il) {
    const struct site * site = headtap_site_at(tap, HEADTAP_HEADS, il);
    return site ? site->reader : HEADTAP_UNREAD;
}

const char * headtap_reader_op(const struct headtap * tap, int32_t il) {
    const struct site * site = headtap_site_at(tap, HEADTAP_HEADS, il);
    return site ? site->reader_op : NULL;
}

int32_t headtap_rotation(const struct headtap * tap, int32_t il) {
    const struct site * site = headtap_site_at(tap, HEADTAP_HEADS, il);
    return site ? headtap_rotation_of(tap, site) : 0;
}

int32_t headtap_failed_layer(const struct headtap * tap) {
    return tap->failed < 0 ? -1 : tap->failed % tap->n_layer;
}

enum headtap_kind headtap_failed_kind(const struct headtap * tap) {
    return tap->failed < tap->n_layer ? HEADTAP_HEADS : HEADTAP_OUTPUT;
}
