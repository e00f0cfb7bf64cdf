/* headtap: whether a context of a stranger's program is the one to steer, and how. */
#include "headtap_preload.h"

#include <stdlib.h>
#include <string.h>

enum { N_BATCH_LEAST = 512, N_ROW_LEAST = 8, N_TOKEN_MOST = 1 << 20 };

void headtap_entry_clear(struct entry * entry) {
    headtap_free(entry->tap);
    free(entry->rows);
    free(entry->outputs);
    free(entry->scratch);
    entry->tap     = NULL;
    entry->rows    = NULL;
    entry->outputs = NULL;
    entry->scratch = NULL;
}

/* ---- whether a graph is the model's ------------------------------------------------------- */

/* The layer of a node named exactly `kqv_out-<il>`, else -1. */
static int32_t layer_of(const struct ggml_tensor * t) {
    static const char prefix[] = "kqv_out-";
    if (strncmp(t->name, prefix, sizeof(prefix) - 1) != 0) {
        return -1;
    }
    char * end;
    const long il = strtol(t->name + sizeof(prefix) - 1, &end, 10);
    return *end == '\0' && il >= 0 && il < INT32_MAX ? (int32_t) il : -1;
}

static bool has_layers(struct ggml_cgraph * graph, const struct headtap_plan * p) {
    int32_t n_found = 0, n_expected = 0;
    for (int32_t il = 0; il < p->n_layer; ++il) {
        n_expected += p->widths[il] > 0;
    }
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const struct ggml_tensor * t = ggml_graph_node(graph, i);
        const int32_t il = layer_of(t);
        if (il < 0) {
            continue;
        }
        if (il >= p->n_layer || t->ne[0] != p->widths[il]) {
            return false;
        }
        n_found++;
    }
    return n_found == n_expected;
}

static bool has_witnesses(struct ggml_cgraph * graph, const struct headtap_plan * p) {
    for (int32_t i = 0; i < p->n_witness; ++i) {
        const struct headtap_witness * witness = &p->witnesses[i];
        struct ggml_tensor * t = ggml_graph_get_tensor(graph, witness->name);
        if (!t || t->type != GGML_TYPE_F32 || !t->buffer || !t->data || ggml_nbytes(t) != witness->n_byte) {
            return false;
        }
        void * held = malloc(witness->n_byte + 1);
        if (!held) {
            return false;
        }
        ggml_backend_tensor_get(t, held, 0, witness->n_byte);
        const bool same = memcmp(held, witness->bytes, witness->n_byte) == 0;
        free(held);
        if (!same) {
            return false;
        }
    }
    return true;
}

/* Finds, in a graph that was just built, what tells its tokens. The rows that the last layer goes on
 * with are picked by a leaf of numbers from what was computed: no other node does that. */
static void look_through(struct entry * entry, struct ggml_cgraph * graph) {
    entry->graph  = graph;
    entry->first  = NULL;
    entry->wanted = NULL;
    entry->ids    = ggml_graph_get_tensor(graph, "inp_tokens");
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        struct ggml_tensor * t = ggml_graph_node(graph, i);
        if (!entry->first && layer_of(t) >= 0) {
            entry->first = t;
        }
        if (t->op == GGML_OP_GET_ROWS && t->src[0]->op != GGML_OP_NONE && t->src[1]->op == GGML_OP_NONE &&
            t->src[1]->type == GGML_TYPE_I32) {
            entry->wanted = t->src[1];
        }
    }
    entry->fresh = false;
}

/* ---- the tap of an entry ------------------------------------------------------------------ */

static bool make_tap(struct entry * entry, const struct headtap_plan * p, int32_t n_token) {
    headtap_entry_clear(entry);
    entry->n_row   = p->n_row > N_ROW_LEAST ? p->n_row : N_ROW_LEAST;
    entry->n_batch = n_token > N_BATCH_LEAST ? n_token : N_BATCH_LEAST;
    const size_t n = (size_t) entry->n_batch;
    entry->n_layer = p->n_layer;
    entry->tap     = headtap_init(p->n_layer, p->widths, 0, entry->n_row, entry->n_batch, true);
    entry->rows    = calloc(n, sizeof(*entry->rows));
    entry->outputs = calloc(n, sizeof(*entry->outputs));
    entry->scratch = calloc(n, sizeof(*entry->scratch));
    entry->generation = 0;
    return entry->tap && entry->rows && entry->outputs && entry->scratch;
}

/* Shows a new tap the graph, node by node, before anything is computed: it learns what reads each
 * layer. Nothing is loaded, so nothing changes. */
static const char * rehearse(struct entry * entry, struct ggml_cgraph * graph, const struct headtap_plan * p, int32_t n_token) {
    const struct headtap_pass pass = { .n_token = n_token };
    if (headtap_begin(entry->tap, &pass) != HEADTAP_OK) {
        return "its tokens cannot be counted";
    }
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        headtap_eval(ggml_graph_node(graph, i), true, entry->tap);
    }
    if (headtap_end(entry->tap) != HEADTAP_OK) {
        return "its layers are computed otherwise";
    }
    for (int32_t row = 1; row < p->n_row; ++row) {
        for (int32_t i = 0; i < p->rows[row].n_offset; ++i) {
            if (headtap_reader_of(entry->tap, p->rows[row].offsets[i].il) != HEADTAP_PROJECTION) {
                return "something alters the heads before the output projection reads them";
            }
        }
    }
    return NULL;
}

static bool load_rows(struct entry * entry, const struct headtap_plan * p) {
    bool done = true;
    for (int32_t il = 0; il < p->n_layer; ++il) {
        for (int32_t row = 1; p->widths[il] > 0 && row < entry->n_row; ++row) {
            const float * values = NULL;
            for (int32_t i = 0; row < p->n_row && i < p->rows[row].n_offset; ++i) {
                if (p->rows[row].offsets[i].il == il) {
                    values = p->rows[row].offsets[i].values;
                }
            }
            done = done && headtap_set_row(entry->tap, HEADTAP_HEADS, il, row, values) == HEADTAP_OK;
        }
    }
    entry->generation = p->generation;
    return done;
}

/* Gives the nodes of a graph back what they were: what they point to is about to go. */
static void unpatch(struct entry * entry, struct ggml_cgraph * graph) {
    const struct headtap_pass pass = { .n_token = entry->n_token };
    for (int32_t row = 1; row < entry->n_row; ++row) {
        for (int32_t il = 0; il < entry->n_layer; ++il) {
            headtap_set_row(entry->tap, HEADTAP_HEADS, il, row, NULL);
        }
    }
    if (headtap_begin(entry->tap, &pass) == HEADTAP_OK) {
        for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
            headtap_eval(ggml_graph_node(graph, i), true, entry->tap);
        }
        headtap_end(entry->tap);
    }
}

static void leave_alone(struct entry * entry, struct ggml_cgraph * graph, const struct headtap_plan * p) {
    if (entry->tap && entry->verdict == STEERED) {
        unpatch(entry, graph);
    }
    headtap_entry_clear(entry);
    entry->verdict    = LEFT_ALONE;
    entry->generation = p->generation;
}

bool headtap_entry_prepare(struct entry * entry, struct ggml_cgraph * graph, const struct headtap_plan * p) {
    if (entry->fresh) {
        look_through(entry, graph);
    }
    if (graph != entry->graph || !entry->first) {
        return false; /* a shift of the cache; nothing with heads */
    }
    if (entry->generation != p->generation && (!has_layers(graph, p) || !has_witnesses(graph, p))) {
        leave_alone(entry, graph, p);
        if (!headtap_preload_steers()) {
            headtap_preload_say("left a model alone that is not the one to steer");
        }
        return false;
    }
    const int64_t n_column = entry->first->ne[1];
    if (n_column < 1 || n_column > N_TOKEN_MOST) {
        return false;
    }
    const int32_t n_token = (int32_t) n_column;
    entry->n_token = n_token;
    if (!entry->tap || n_token > entry->n_batch || p->n_row > entry->n_row) {
        const char * problem = make_tap(entry, p, n_token) ? rehearse(entry, graph, p, n_token) : "out of memory";
        if (problem) {
            leave_alone(entry, graph, p);
            headtap_preload_say("steering nothing: %s", problem);
            return false;
        }
    }
    if (entry->generation != p->generation) {
        const bool was_steered = entry->verdict == STEERED;
        const char * problem   = NULL;
        if (p->policy == HEADTAP_GENERATED && !entry->wanted) {
            problem = "its graph does not tell which tokens are generated: only every token can be steered";
        } else if (!load_rows(entry, p)) {
            problem = "the plan does not fit the model";
        }
        entry->verdict = STEERED;
        if (problem) {
            leave_alone(entry, graph, p);
            headtap_preload_say("steering nothing: %s", problem);
            return false;
        }
        headtap_preload_say("%s %s", was_steered ? "now steering" : "steering", p->label);
    }
    return true;
}

/* ---- which row steers which token --------------------------------------------------------- */

static int32_t row_of_sequence(const struct headtap_plan * p, int32_t seq) {
    for (int32_t i = 0; i < p->n_rule; ++i) {
        if (p->rules[i].seq == seq) {
            return p->rules[i].row;
        }
    }
    return p->default_row;
}

/* Rows by sequence, where the program tells; false where it does not, or not for these tokens. */
static bool rows_by_sequence(struct entry * entry, const struct headtap_plan * p, int32_t n_token) {
    if (!entry->ids || !entry->ids->buffer || ggml_nelements(entry->ids) != n_token) {
        return false;
    }
    ggml_backend_tensor_get(entry->ids, entry->scratch, 0, (size_t) n_token * sizeof(int32_t));
    if (!headtap_batch_take(entry->scratch, n_token, entry->rows)) {
        return false;
    }
    for (int32_t i = 0; i < n_token; ++i) {
        entry->rows[i] = row_of_sequence(p, entry->rows[i]);
    }
    return true;
}

int32_t headtap_entry_rows(struct entry * entry, const struct headtap_plan * p) {
    const int32_t n_token = entry->n_token;
    if (p->n_rule == 0 || !rows_by_sequence(entry, p, n_token)) {
        for (int32_t i = 0; i < n_token; ++i) {
            entry->rows[i] = p->default_row;
        }
        if (p->n_rule > 0 && headtap_batch_is_silent()) {
            headtap_preload_say("steering %s; this program does not tell its slots apart, so all get the default", p->label);
        }
    }
    memset(entry->outputs, 0, (size_t) entry->n_batch);
    const struct ggml_tensor * wanted = entry->wanted;
    const int64_t n_wanted = wanted && wanted->buffer ? ggml_nelements(wanted) : 0;
    if (n_wanted > 0 && n_wanted <= n_token) {
        ggml_backend_tensor_get(wanted, entry->scratch, 0, (size_t) n_wanted * sizeof(int32_t));
        for (int64_t i = 0; i < n_wanted; ++i) {
            const int32_t token = entry->scratch[i];
            if (token >= 0 && token < n_token) {
                entry->outputs[token] = 1;
            }
        }
    }
    uint64_t n = 0;
    for (int32_t i = 0; i < n_token; ++i) {
        if (p->policy == HEADTAP_GENERATED && !entry->outputs[i]) {
            entry->rows[i] = 0;
        }
        n += entry->rows[i] != 0;
    }
    headtap_preload_count(n);
    return n_token;
}

/* ---- the callback ------------------------------------------------------------------------- */

bool headtap_entry_eval(struct ggml_tensor * t, bool ask, void * user_data) {
    struct entry * entry = user_data;
    if (ask) {
        entry->asked[0] = entry->callback && entry->callback(t, true, entry->user_data);
        entry->asked[1] = entry->tap && headtap_eval(t, true, entry->tap);
        return entry->asked[0] || entry->asked[1];
    }
    if (entry->asked[1] && entry->tap) {
        headtap_eval(t, false, entry->tap);
    }
    return !entry->asked[0] || entry->callback(t, false, entry->user_data);
}
