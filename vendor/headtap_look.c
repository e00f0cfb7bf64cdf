/* headtap: what is looked at, and what a function of the program's makes of it. */
#include "headtap_impl.h"

#include <stdlib.h>

enum headtap_status headtap_observe(struct headtap * tap, enum headtap_kind kind, int32_t il, bool on) {
    struct site * site = headtap_site_at(tap, kind, il);
    if (!site) {
        return HEADTAP_BAD_ARG;
    }
    site->observed = on;
    return HEADTAP_OK;
}

enum headtap_status headtap_edit(struct headtap * tap, enum headtap_kind kind, int32_t il, bool on) {
    struct site * site = headtap_site_at(tap, kind, il);
    if (!site) {
        return HEADTAP_BAD_ARG;
    }
    site->edited = on;
    return HEADTAP_OK;
}

enum headtap_status headtap_set_editor(struct headtap * tap, headtap_editor editor, void * user_data) {
    if (editor && !tap->edits) {
        int32_t width = 0;
        for (int32_t i = 0; i < headtap_n_site(tap); ++i) {
            width = tap->sites[i].width > width ? tap->sites[i].width : width;
        }
        float   * edits  = calloc((size_t) tap->n_batch * (size_t) width, sizeof(float));
        int32_t * places = calloc((size_t) tap->n_batch, sizeof(int32_t));
        if (!edits || !places) {
            free(edits);
            free(places);
            return HEADTAP_NO_MEMORY;
        }
        tap->edits  = edits;
        tap->places = places;
    }
    tap->editor      = editor;
    tap->editor_data = user_data;
    return HEADTAP_OK;
}

bool headtap_is_edited(const struct headtap * tap, const struct site * site) {
    return site->edited && tap->editor && tap->learned;
}

/* The number of observed layers of the same kind below this one. */
static int32_t rank_of(const struct site * site) {
    int32_t rank = 0;
    for (const struct site * s = site - site->il; s < site; ++s) {
        rank += s->observed;
    }
    return rank;
}

/* Whether the node holds those tokens of the ubatch only whose output is wanted. */
static bool is_reduced(const struct headtap * tap, const struct site * site) {
    return site->first >= tap->n_batch;
}

void headtap_read_wanted(struct headtap * tap, struct site * site, struct ggml_tensor * t) {
    const struct headtap_pass * pass = &tap->pass;
    const bool   is_heads = site->kind == HEADTAP_HEADS;
    const size_t width    = (size_t) (is_heads ? tap->max_width : site->width);
    float      * slab     = is_heads ? pass->out : pass->out_output;
    slab += (size_t) rank_of(site) * (size_t) pass->n_want * width;
    for (; site->i_want < pass->n_want; ++site->i_want) {
        const int32_t token = pass->want[site->i_want];
        if (token >= site->n_seen) {
            break;
        }
        int32_t i = token - site->start;
        if (is_reduced(tap, site)) {
            i = tap->n_before[token] - tap->n_before[site->start];
            if (tap->n_before[token + 1] == tap->n_before[token]) {
                headtap_fail(tap, site, HEADTAP_NOT_COMPUTED);
                continue;
            }
        }
        float * dst = slab + (size_t) site->i_want * width;
        ggml_backend_tensor_get(t, dst, (size_t) i * t->nb[1], (size_t) site->width * sizeof(float));
        headtap_rotate(dst, site->width, headtap_rotation_of(tap, site));
    }
}

void headtap_edit_columns(struct headtap * tap, struct site * site, struct ggml_tensor * t) {
    const int32_t n        = (int32_t) t->ne[1];
    const int32_t rotation = headtap_rotation_of(tap, site);
    const size_t  n_byte   = (size_t) n * (size_t) site->width * sizeof(float);
    int32_t       n_place  = 0;
    for (int32_t i = site->start; i < site->n_seen; ++i) {
        if (!is_reduced(tap, site) || tap->n_before[i + 1] > tap->n_before[i]) {
            tap->places[n_place++] = i;
        }
    }
    ggml_backend_tensor_get(t, tap->edits, 0, n_byte);
    headtap_rotate(tap->edits, n * site->width, rotation);
    if (!tap->editor(tap->editor_data, site->kind, site->il, n, tap->places, tap->edits)) {
        headtap_fail(tap, site, HEADTAP_EDIT_FAILED);
        return;
    }
    headtap_rotate(tap->edits, n * site->width, rotation);
    ggml_backend_tensor_set(t, tap->edits, 0, n_byte);
}
