/* headtap: what reads the heads, whether they are rotated, and in which order tokens come. */
#include "headtap_impl.h"

#include <stdio.h>
#include <string.h>

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
static struct site * origin(struct headtap * tap, const struct ggml_tensor * t) {
    for (; t; t = carried(t)) {
        struct site * site = headtap_site_named(tap, t->name);
        if (site && site->kind == HEADTAP_HEADS) {
            return site;
        }
        const char * start = strchr(t->name, '#');
        const char * end   = strrchr(t->name, '#');
        for (int32_t il = 0; start < end && il < tap->n_layer; ++il) {
            const char * carrier = tap->sites[il].carrier;
            const size_t n       = (size_t) (end - start - 1);
            if (n > 0 && strlen(carrier) == n && strncmp(start + 1, carrier, n) == 0) {
                return &tap->sites[il];
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

void headtap_learn(struct headtap * tap, const struct ggml_tensor * t) {
    if (carried(t)) {
        struct site * site = origin(tap, t);
        if (site) {
            memcpy(site->carrier, t->name, sizeof(site->carrier));
            site->rotation = is_rotation(t) ? (int32_t) t->src[0]->ne[0] : site->rotation;
        }
        return;
    }
    for (int32_t i = 0; i < GGML_MAX_SRC; ++i) {
        struct site * site = origin(tap, t->src[i]);
        if (!site || site->reader == HEADTAP_PROJECTION) {
            continue;
        }
        if (i == 1 && projects(t, site->il)) {
            site->reader    = HEADTAP_PROJECTION;
            site->reader_op = NULL;
        } else if (site->reader == HEADTAP_UNREAD) {
            site->reader    = HEADTAP_ALTERED;
            site->reader_op = ggml_op_desc(t);
        }
    }
}

void headtap_check_order(struct headtap * tap, const struct ggml_tensor * ids) {
    int32_t n_whole = tap->pass.n_token; /* tokens that went through all layers */
    for (int32_t il = 0; il < tap->n_layer; ++il) {
        const struct site * site = &tap->sites[il];
        n_whole = site->seen_width > 0 && site->n_seen < n_whole ? site->n_seen : n_whole;
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
