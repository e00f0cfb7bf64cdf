/* headtap: reads a plan without trust. */
#include "headtap_plan.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LAYER = 4096, MAX_WIDTH = 1 << 20, MAX_ROW = 1024, MAX_SMALL = 1 << 16 };

struct reader {
    const uint8_t * at;
    size_t          left;
    bool            sound;
};

static const void * take(struct reader * r, size_t n) {
    const size_t padded = (n + 3) / 4 * 4;
    if (!r->sound || n > r->left || padded > r->left) {
        r->sound = false;
        return NULL;
    }
    const void * taken = r->at;
    r->at   += padded;
    r->left -= padded;
    return taken;
}

/* A number from 0 to `most`. */
static int32_t number(struct reader * r, int32_t most) {
    const void * taken = take(r, sizeof(int32_t));
    int32_t value = 0;
    if (taken) {
        memcpy(&value, taken, sizeof(value));
    }
    if (value < 0 || value > most) {
        r->sound = false;
        return 0;
    }
    return value;
}

/* Memory for n things; n may be 0. */
static void * some(struct reader * r, int32_t n, size_t size) {
    void * memory = calloc((size_t) n + 1, size);
    r->sound = r->sound && memory;
    return memory;
}

static char * text(struct reader * r) {
    const int32_t n    = number(r, MAX_SMALL);
    const void * taken = take(r, (size_t) n);
    char * copy        = some(r, n, 1);
    if (taken && copy) {
        memcpy(copy, taken, (size_t) n);
    }
    return copy;
}

static void read_rows(struct reader * r, struct headtap_plan * plan) {
    plan->n_row = number(r, MAX_ROW);
    r->sound    = r->sound && plan->n_row > 0;
    plan->rows  = some(r, plan->n_row, sizeof(*plan->rows));
    for (int32_t i = 1; r->sound && i < plan->n_row; ++i) {
        struct headtap_row * row = &plan->rows[i];
        const int32_t n = number(r, plan->n_layer);
        row->offsets    = some(r, n, sizeof(*row->offsets));
        for (; r->sound && row->n_offset < n; ++row->n_offset) {
            struct headtap_offset * offset = &row->offsets[row->n_offset];
            offset->il = number(r, plan->n_layer - 1);
            const int32_t width = r->sound ? plan->widths[offset->il] : 0;
            r->sound       = r->sound && width > 0;
            offset->values = take(r, (size_t) width * sizeof(float));
        }
    }
}

static void read_witnesses(struct reader * r, struct headtap_plan * plan) {
    const int32_t n = number(r, MAX_SMALL);
    plan->witnesses = some(r, n, sizeof(*plan->witnesses));
    for (; r->sound && plan->n_witness < n; ++plan->n_witness) {
        struct headtap_witness * witness = &plan->witnesses[plan->n_witness];
        const int32_t n_name = number(r, sizeof(witness->name) - 1);
        const void * name    = take(r, (size_t) n_name);
        if (name) {
            memcpy(witness->name, name, (size_t) n_name);
        }
        witness->n_byte = (size_t) number(r, MAX_WIDTH * 4);
        witness->bytes  = take(r, witness->n_byte);
    }
}

struct headtap_plan * headtap_plan_read(const void * bytes, size_t n_byte, const char ** problem) {
    *problem = "out of memory";
    struct headtap_plan * plan = calloc(1, sizeof(*plan));
    void * copy = malloc(n_byte + 1);
    if (!plan || !copy) {
        free(plan);
        free(copy);
        return NULL;
    }
    memcpy(copy, bytes, n_byte);
    plan->bytes = copy;
    struct reader r = { copy, n_byte, true };
    const void * magic = take(&r, 8);
    if (!magic || memcmp(magic, "CANDPLAN", 8) != 0 || number(&r, INT32_MAX) != 1) {
        *problem = "not a plan of this version";
        headtap_plan_free(plan);
        return NULL;
    }
    *problem = "the plan is damaged";
    plan->policy      = (enum headtap_policy) number(&r, HEADTAP_GENERATED);
    plan->default_row = number(&r, MAX_ROW);
    plan->n_layer     = number(&r, MAX_LAYER);
    plan->widths      = take(&r, (size_t) plan->n_layer * sizeof(int32_t));
    for (int32_t il = 0; r.sound && il < plan->n_layer; ++il) {
        r.sound = plan->widths[il] >= 0 && plan->widths[il] <= MAX_WIDTH;
    }
    read_rows(&r, plan);
    plan->n_rule = number(&r, MAX_SMALL);
    plan->rules  = take(&r, (size_t) plan->n_rule * sizeof(*plan->rules));
    for (int32_t i = 0; r.sound && i < plan->n_rule; ++i) {
        r.sound = plan->rules[i].row >= 0 && plan->rules[i].row < plan->n_row;
    }
    read_witnesses(&r, plan);
    plan->label    = text(&r);
    plan->settings = text(&r);
    if (!r.sound || r.left != 0 || plan->n_layer == 0 || plan->default_row >= plan->n_row) {
        headtap_plan_free(plan);
        return NULL;
    }
    return plan;
}

void headtap_plan_free(struct headtap_plan * plan) {
    if (!plan) {
        return;
    }
    for (int32_t i = 0; plan->rows && i < plan->n_row; ++i) {
        free(plan->rows[i].offsets);
    }
    free(plan->rows);
    free(plan->witnesses);
    free(plan->label);
    free(plan->settings);
    free(plan->bytes);
    free(plan);
}
