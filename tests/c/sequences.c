/* A row per token: several sequences, small ubatches, one cache or several. */
#include <math.h>
#include <stdlib.h>

#include "test.h"

enum { N_SEQ = 3, N_EACH = 6, N_ALL = N_SEQ * N_EACH };

static const struct setting base = { .flash = true, .cache = GGML_TYPE_F16, .n_ubatch = N_BATCH, .n_seq = N_SEQ, .unified = true };

/* All zero: of a batch whose logits are wanted in part, the rest stays so. */
static float * logits_of(const struct host * host) {
    float * logits = calloc((size_t) N_ALL * (size_t) host->n_vocab, sizeof(*logits));
    if (!logits) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return logits;
}

/* Loads what both kinds of rows 1 and 2 add; sequence 0 is on row 0. */
static bool load_all(struct room * room) {
    bool ok = true;
    for (int32_t row = 1; row < N_SEQ; ++row) {
        ok = ok && load(room, HEADTAP_HEADS, row, 0.5f);
        ok = ok && (!room->setting.outputs || load(room, HEADTAP_OUTPUT, row, 10.0f));
    }
    return ok;
}

/* Every sequence in one batch, position by position; then steered. [N_ALL][n_vocab] each. */
static bool together(const struct host * host, const struct setting * setting, enum tap_mode mode, bool some, float * plain,
                     float * steered, int32_t * n_misaligned) {
    static struct work work;
    struct room room = { 0 };
    bool ok = open_room(&room, host, setting, mode);
    fill_across(&work, host, N_SEQ, N_EACH);
    for (int32_t i = 0; i < work.n; ++i) {
        work.wanted[i] = !some || (work.pos[i] + 2 * work.seq[i]) % 3 != 1;
    }
    ok = ok && decode(&room, &work, plain, NULL) && load_all(&room);
    forget(&room);
    ok = ok && decode(&room, &work, steered, NULL);
    *n_misaligned = room.n_misaligned;
    if (ok && mode == IN_GRAPH) {
        ok = took_path(&room, HEADTAP_HEADS, HEADTAP_IN_GRAPH) && (!setting->outputs || took_path(&room, HEADTAP_OUTPUT, HEADTAP_IN_GRAPH));
    }
    close_room(&room);
    return ok;
}

/* Each sequence in a batch of its own, the others absent; rows as in `together`. */
static bool alone(const struct host * host, float * plain, float * steered) {
    static struct work work;
    const size_t n_vocab = (size_t) host->n_vocab;
    float * part = logits_of(host);
    struct room room = { 0 };
    bool ok = open_room(&room, host, &base, IN_GRAPH);
    for (int with = 0; with < 2; ++with) {
        ok = ok && (with == 0 || load_all(&room));
        float * out = with ? steered : plain;
        for (int32_t seq = 0; ok && seq < N_SEQ; ++seq) {
            fill(&work, host, seq, 1, N_EACH, 0, seq);
            forget(&room);
            ok = decode(&room, &work, part, NULL);
            for (int32_t pos = 0; pos < N_EACH; ++pos) {
                for (size_t i = 0; i < n_vocab; ++i) {
                    out[(size_t) (pos * N_SEQ + seq) * n_vocab + i] = part[(size_t) pos * n_vocab + i];
                }
            }
        }
    }
    close_room(&room);
    free(part);
    return ok;
}

/* The sequence on row 0, beside steered ones, has the bits that it has beside unsteered ones. */
static bool first_is_untouched(const struct host * host, const float * plain, const float * steered) {
    const size_t n_vocab = (size_t) host->n_vocab;
    bool same = true;
    for (int32_t pos = 0; pos < N_EACH; ++pos) {
        const size_t at = (size_t) (pos * N_SEQ) * n_vocab;
        same = same && same_bits(plain + at, steered + at, n_vocab);
    }
    return same;
}

void check_sequences(const struct host * host) {
    if (llama_model_n_swa(host->model) > 0 || llama_model_is_hybrid(host->model)) {
        skipped(host, "sequences", "llama.cpp computes their tokens in another order than the batch's, which candor foresees and this does not");
        return;
    }
    const size_t n = (size_t) N_ALL * (size_t) host->n_vocab;
    float *plain = logits_of(host), *steered = logits_of(host), *other_plain = logits_of(host), *other = logits_of(host);
    int32_t n_misaligned = 0;
    const bool whole = together(host, &base, IN_GRAPH, false, plain, steered, &n_misaligned);
    verdict_is(host, "sequences: one on row 0 keeps its bits beside steered ones", whole && first_is_untouched(host, plain, steered),
               "its logits differ from those of the unsteered batch");
    bool ok = whole && alone(host, other_plain, other);
    verdict(host, "sequences: together and alone", ok ? distance(steered, other, n) : INFINITY, allowed(distance(plain, other_plain, n)));

    const bool is_cpu = ggml_backend_dev_type(host->place.device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    static const struct {
        const char * name;
        bool unified, outputs, some;
    } cases[] = {
        { "ubatches of three, one cache", true, false, false },
        { "ubatches of three, separate caches", false, false, false },
        { "ubatches of three, layer outputs, two of three logits", true, true, true },
        { "ubatches of three, separate caches, layer outputs, two of three logits", false, true, true },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        char text[160];
        struct setting setting = base;
        setting.n_ubatch = N_SEQ;
        setting.unified  = cases[i].unified;
        setting.outputs  = cases[i].outputs;
        int32_t unused = 0;
        float *first = logits_of(host), *second = logits_of(host), *rest = logits_of(host), *written = logits_of(host);
        ok = together(host, &setting, IN_GRAPH, cases[i].some, first, second, &n_misaligned) &&
             together(host, &setting, CALLBACK, cases[i].some, rest, written, &unused);
        snprintf(text, sizeof(text), "%s: both paths", cases[i].name);
        verdict(host, text, ok ? distance(written, second, n) : INFINITY, is_cpu ? 0.0 : allowed(distance(plain, other_plain, n)));
        snprintf(text, sizeof(text), "%s: row numbers are aligned", cases[i].name);
        verdict_is(host, text, ok && n_misaligned == 0, "some begin between two multiples of the device's alignment");
        if (!cases[i].some && whole) {
            snprintf(text, sizeof(text), "%s: as in one", cases[i].name);
            verdict(host, text, ok ? distance(steered, second, n) : INFINITY, allowed(distance(plain, first, n)));
        }
        free(first);
        free(second);
        free(rest);
        free(written);
    }
    free(plain);
    free(steered);
    free(other_plain);
    free(other);
}
