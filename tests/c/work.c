/* Batches and offsets that are the same on every machine. */
#include <math.h>
#include <stdlib.h>

#include "test.h"

static void push(struct work * work, const struct host * host, int32_t seq, int32_t pos, int32_t row) {
    const int32_t i = work->n++;
    /* special tokens lie first in every vocabulary of ours */
    work->id[i]     = 3 + (int32_t) ((uint32_t) (1000003 * pos + 7919 * seq + 17) % (uint32_t) (host->n_vocab - 3));
    work->pos[i]    = pos;
    work->seq[i]    = seq;
    work->row[i]    = row;
    work->wanted[i] = 1;
}

void fill(struct work * work, const struct host * host, int32_t first, int32_t n_seq, int32_t n, int32_t pos, int32_t row) {
    work->n = 0;
    for (int32_t seq = first; seq < first + n_seq; ++seq) {
        for (int32_t i = 0; i < n; ++i) {
            push(work, host, seq, pos + i, row);
        }
    }
}

void fill_across(struct work * work, const struct host * host, int32_t n_seq, int32_t n) {
    work->n = 0;
    for (int32_t pos = 0; pos < n; ++pos) {
        for (int32_t seq = 0; seq < n_seq; ++seq) {
            push(work, host, seq, pos, seq);
        }
    }
}

void fill_rows(struct work * work) {
    for (int32_t i = 0; i < work->n; ++i) {
        work->row[i] = (i * 5 + i / 3) % 4;
    }
}

float offset_at(enum headtap_kind kind, int32_t il, int32_t row, int32_t i) {
    return sinf((float) (i * 7 + il * 31 + row * 101 + (int) kind * 57));
}

bool load(struct room * room, enum headtap_kind kind, int32_t row, float strength) {
    const struct host * host = room->host;
    int32_t most = host->n_embd;
    for (int32_t il = 0; il < host->n_layer; ++il) {
        most = host->widths[il] > most ? host->widths[il] : most;
    }
    float * offset = malloc((size_t) most * sizeof(*offset));
    bool ok = offset != NULL;
    for (int32_t il = 0; ok && il < host->n_layer; ++il) {
        const int32_t width = kind == HEADTAP_HEADS ? host->widths[il] : host->outputs[il] ? host->n_embd : 0;
        for (int32_t i = 0; i < width; ++i) {
            offset[i] = strength * offset_at(kind, il, row, i);
        }
        const float * row_offset = strength == 0.0f ? NULL : offset;
        ok = width == 0 || headtap_set_row(room->tap, kind, il, row, row_offset) == HEADTAP_OK;
    }
    free(offset);
    return ok;
}
