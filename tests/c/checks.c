/* What has to hold of one sequence under one setting. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

enum { N_TOKEN = 24, N_STEP = 14 };

static const float STRENGTH[] = { [HEADTAP_HEADS] = 0.5f, [HEADTAP_OUTPUT] = 10.0f };

double allowed(double plain) {
    return 4.0 * plain;
}

static float * logits_of(const struct host * host, int32_t n) {
    float * logits = calloc((size_t) n * (size_t) host->n_vocab, sizeof(*logits));
    if (!logits) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return logits;
}

/* ---- what the device itself does ---- */

/* The same tokens, unsteered, as one batch and in ubatches of three: how far apart the device's own
 * rounding puts them. */
static bool measure_shape(const struct host * host, const struct setting * setting, double * shape) {
    static struct work work;
    struct setting small = *setting;
    small.n_ubatch = 3;
    const size_t n = (size_t) N_TOKEN * (size_t) host->n_vocab;
    float * a = logits_of(host, N_TOKEN);
    float * b = logits_of(host, N_TOKEN);
    struct room whole = { 0 }, parts = { 0 };
    bool ok = open_room(&whole, host, setting, NO_TAP) && open_room(&parts, host, &small, NO_TAP);
    fill(&work, host, 0, 1, N_TOKEN, 0, 0);
    ok = ok && decode(&whole, &work, a, NULL) && decode(&parts, &work, b, NULL);
    *shape = distance(a, b, n);
    close_room(&whole);
    close_room(&parts);
    free(a);
    free(b);
    return ok;
}

/* ---- off is off ---- */

static void check_off(const struct host * host, const struct setting * setting, const char * name) {
    static struct work work;
    char text[128];
    const size_t n = (size_t) N_TOKEN * (size_t) host->n_vocab;
    float * stock = logits_of(host, N_TOKEN);
    float * again = logits_of(host, N_TOKEN);
    float * off   = logits_of(host, N_TOKEN);
    struct room plain = { 0 }, tapped = { 0 };
    bool ok = open_room(&plain, host, setting, NO_TAP) && open_room(&tapped, host, setting, IN_GRAPH);
    fill(&work, host, 0, 1, N_TOKEN, 0, 0);
    ok = ok && decode(&plain, &work, stock, NULL);
    forget(&plain);
    ok = ok && decode(&plain, &work, again, NULL);
    const bool is_repeatable = same_bits(stock, again, n);
    if (!is_repeatable) {
        snprintf(text, sizeof(text), "%s: llama.cpp itself repeats to the last bit", name);
        skipped(host, text, "it does not: off is compared within that difference");
    }
    const double repeat = distance(stock, again, n);
    const char * states[] = { "nothing loaded", "loaded, all tokens on row 0", "emptied again" };
    for (int state = 0; ok && state < 3; ++state) {
        const float strength = state == 1 ? 1.0f : 0.0f;
        ok = state == 0 || (load(&tapped, HEADTAP_HEADS, 1, strength * STRENGTH[HEADTAP_HEADS]) &&
                            (!setting->outputs || load(&tapped, HEADTAP_OUTPUT, 1, strength * STRENGTH[HEADTAP_OUTPUT])));
        forget(&tapped);
        ok = ok && decode(&tapped, &work, off, NULL);
        snprintf(text, sizeof(text), "%s: off is off, %s", name, states[state]);
        if (is_repeatable) {
            verdict_is(host, text, ok && same_bits(stock, off, n), "bits differ from llama.cpp without a callback");
        } else {
            verdict(host, text, ok ? distance(stock, off, n) : INFINITY, allowed(repeat));
        }
    }
    close_room(&plain);
    close_room(&tapped);
    free(stock);
    free(again);
    free(off);
}

/* ---- both paths are one function ---- */

/* One prompt with a row per token, then tokens one by one while rows and what they hold change: the
 * graph of a decode is kept by llama.cpp, and by backends that capture it, and must never be run as
 * it was before a change. `out`: [N_TOKEN + N_STEP][n_vocab]. */
static bool play(struct room * room, const enum headtap_kind * kinds, int n_kind, bool steered, float * out) {
    static struct work work;
    const size_t n_vocab = (size_t) room->host->n_vocab;
    const float on = steered && room->tap ? 1.0f : 0.0f;
    bool ok = true;
    for (int k = 0; room->tap && k < n_kind; ++k) {
        for (int32_t row = 1; row < 4; ++row) {
            ok = ok && load(room, kinds[k], row, on * STRENGTH[kinds[k]]);
        }
    }
    forget(room);
    fill(&work, room->host, 0, 1, N_TOKEN, 0, 0);
    fill_rows(&work);
    ok = ok && decode(room, &work, out, NULL);
    for (int32_t i = 0; ok && i < N_STEP; ++i) {
        /* four alike, so that a captured graph is replayed; another row; the row holds something
         * else; nothing is loaded; loaded again */
        const int32_t row = i < 5 ? 1 : i < 8 ? 2 : 1;
        for (int k = 0; room->tap && k < n_kind; ++k) {
            const float strength = on * STRENGTH[kinds[k]];
            if (i == 8) {
                ok = ok && load(room, kinds[k], 1, -0.7f * strength);
            } else if (i == 10 || i == 12) {
                for (int32_t r = 1; r < 4; ++r) {
                    ok = ok && load(room, kinds[k], r, i == 10 ? 0.0f : strength);
                }
            }
        }
        fill(&work, room->host, 0, 1, 1, N_TOKEN + i, row);
        ok = ok && decode(room, &work, out + (size_t) (N_TOKEN + i) * n_vocab, NULL);
    }
    return ok;
}

static void check_paths(const struct host * host, const struct setting * setting, const char * name, double shape,
                        const enum headtap_kind * kinds, int n_kind, const char * what) {
    char text[128];
    const int32_t n_token = N_TOKEN + N_STEP;
    const size_t  n = (size_t) n_token * (size_t) host->n_vocab;
    float * plain   = logits_of(host, n_token);
    float * graph   = logits_of(host, n_token);
    float * written = logits_of(host, n_token);
    struct room a = { 0 }, b = { 0 }, stock = { 0 };
    bool ok = open_room(&stock, host, setting, NO_TAP) && open_room(&a, host, setting, IN_GRAPH) &&
              open_room(&b, host, setting, CALLBACK);
    ok = ok && play(&stock, kinds, n_kind, false, plain);
    ok = ok && play(&a, kinds, n_kind, true, graph) && play(&b, kinds, n_kind, true, written);
    /* an F16 context without flash attention leaves a CONT, which is read and written */
    for (int k = 0; ok && k < n_kind; ++k) {
        const bool cut = (kinds[k] == HEADTAP_HEADS && !setting->flash) || host->place.n_part > 0;
        ok = took_path(&a, kinds[k], cut ? HEADTAP_CALLBACK : HEADTAP_IN_GRAPH) && took_path(&b, kinds[k], HEADTAP_CALLBACK);
    }
    snprintf(text, sizeof(text), "%s, %s: in the graph and read-modify-write", name, what);
    const bool is_cpu = ggml_backend_dev_type(host->place.device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    verdict(host, text, ok ? distance(written, graph, n) : INFINITY, is_cpu ? 0.0 : allowed(shape));
    const double moved = ok ? distance(plain, written, n) : 0.0;
    snprintf(text, sizeof(text), "%s, %s: the rows steer, by %.2f of the largest logit", name, what, moved);
    verdict_is(host, text, moved > fmax(0.05, 10.0 * shape), "too little to tell");
    close_room(&stock);
    close_room(&a);
    close_room(&b);
    free(plain);
    free(graph);
    free(written);
}

/* ---- observing ---- */

/* In the first layer of all, what is observed is what was, plus the offset. In all layers, what is
 * observed steers alike on both paths. */
static void check_observed(const struct host * host, const struct setting * setting, const char * name, double shape) {
    static struct work work;
    char text[128];
    const size_t n = n_seen_values(host), n_all = n * N_TOKEN;
    float * seen[4] = { NULL };
    bool ok = true;
    for (int i = 0; i < 4; ++i) {
        ok = (seen[i] = calloc(n_all, sizeof(float))) != NULL && ok;
    }
    struct room a = { 0 }, b = { 0 };
    ok = ok && open_room(&a, host, setting, IN_GRAPH) && open_room(&b, host, setting, CALLBACK);
    fill(&work, host, 0, 1, N_TOKEN, 0, 0);
    fill_rows(&work);
    struct room * rooms[] = { &a, &b };
    for (int i = 0; ok && i < 2; ++i) {
        observe_all(rooms[i], true);
        ok = decode(rooms[i], &work, NULL, seen[2 * i]);
        for (int32_t row = 1; row < 4; ++row) {
            ok = ok && load(rooms[i], HEADTAP_HEADS, row, STRENGTH[HEADTAP_HEADS]);
        }
        forget(rooms[i]);
        ok = ok && decode(rooms[i], &work, NULL, seen[2 * i + 1]);
    }
    const bool is_cpu = ggml_backend_dev_type(host->place.device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    snprintf(text, sizeof(text), "%s: observed the same on both paths", name);
    verdict(host, text, ok ? distance(seen[3], seen[1], n_all) : INFINITY, is_cpu ? 0.0 : allowed(shape));

    int32_t first = 0, widest = 0;
    while (host->widths[first] == 0) {
        ++first;
    }
    for (int32_t il = 0; il < host->n_layer; ++il) {
        widest = host->widths[il] > widest ? host->widths[il] : widest;
    }
    double worst = 0.0;
    for (int32_t i = 0; ok && i < N_TOKEN; ++i) {
        const float * before = seen[0] + (size_t) i * (size_t) widest;
        const float * after  = seen[1] + (size_t) i * (size_t) widest;
        for (int32_t j = 0; j < host->widths[first]; ++j) {
            const int32_t row    = work.row[i];
            const float   offset = row ? STRENGTH[HEADTAP_HEADS] * offset_at(HEADTAP_HEADS, first, row, j) : 0.0f;
            worst = fmax(worst, fabs((double) after[j] - (double) (before[j] + offset)));
        }
    }
    /* a rotated cache adds in the rotated space, and rounds there */
    const bool is_rotated = setting->cache != GGML_TYPE_F16;
    snprintf(text, sizeof(text), "%s: the first layer's heads, observed, moved by their offset", name);
    verdict(host, text, ok ? worst : INFINITY, is_rotated ? 1e-5 : is_cpu ? 0.0 : 1e-6);
    close_room(&a);
    close_room(&b);
    for (int i = 0; i < 4; ++i) {
        free(seen[i]);
    }
}

void check_steering(const struct host * host, const char * name, const struct setting * setting) {
    static const enum headtap_kind heads[]   = { HEADTAP_HEADS };
    static const enum headtap_kind outputs[] = { HEADTAP_OUTPUT };
    static const enum headtap_kind both[]    = { HEADTAP_HEADS, HEADTAP_OUTPUT };
    struct setting with_outputs = *setting;
    with_outputs.outputs = true;
    double shape = 0.0;
    if (!measure_shape(host, setting, &shape)) {
        skipped(host, name, last_error[0] ? last_error : "llama.cpp has no such context");
        return;
    }
    json_begin("bound", host);
    json_text("name", name);
    json_number("shape", shape);
    json_end();
    fprintf(stderr, "  %s; the device's own bound: %.1e (one batch, or ubatches of three, unsteered)\n", name, shape);
    check_off(host, setting, name);
    check_paths(host, setting, name, shape, heads, 1, "heads");
    check_observed(host, setting, name, shape);
    check_off(host, &with_outputs, "with layer outputs");
    check_paths(host, &with_outputs, name, shape, outputs, 1, "layer outputs");
    check_paths(host, &with_outputs, name, shape, both, 2, "heads and layer outputs");
}

/* ---- quantized caches; split tensors ---- */

/* A prompt and some steps in a context of this setting: plain, then steered. */
static bool effect(const struct host * host, const struct setting * setting, float * plain, float * steered) {
    static const enum headtap_kind both[] = { HEADTAP_HEADS, HEADTAP_OUTPUT };
    const int n_kind = setting->outputs ? 2 : 1;
    struct room room = { 0 };
    const bool ok = open_room(&room, host, setting, IN_GRAPH) && play(&room, both, n_kind, false, plain) &&
                    play(&room, both, n_kind, true, steered);
    close_room(&room);
    return ok;
}

void check_quantized(const struct host * host) {
    struct setting setting = { .flash = true, .cache = GGML_TYPE_F16, .n_ubatch = N_BATCH, .n_seq = 1, .unified = true };
    const int32_t n_token = N_TOKEN + N_STEP;
    const size_t  n = (size_t) n_token * (size_t) host->n_vocab;
    float * logits[4];
    for (int i = 0; i < 4; ++i) {
        logits[i] = logits_of(host, n_token);
    }
    bool ok = effect(host, &setting, logits[0], logits[1]);
    setting.cache = GGML_TYPE_Q8_0;
    struct room room = { 0 };
    const bool has_cache = open_room(&room, host, &setting, NO_TAP);
    close_room(&room);
    if (!has_cache) {
        for (int i = 0; i < 4; ++i) {
            free(logits[i]);
        }
        return; /* as said where the setting was checked */
    }
    ok = ok && effect(host, &setting, logits[2], logits[3]);
    const double plain = distance(logits[0], logits[2], n);
    verdict(host, "steered alike with caches in F16 and Q8_0, as unsteered", ok ? distance(logits[1], logits[3], n) : INFINITY, allowed(plain));
    for (int i = 0; i < 4; ++i) {
        free(logits[i]);
    }
}

void check_split(const struct host * split, const struct host * whole) {
    const struct setting setting = { .flash = true, .cache = GGML_TYPE_F16, .n_ubatch = N_BATCH, .n_seq = 1, .unified = true, .outputs = true };
    const int32_t n_token = N_TOKEN + N_STEP;
    const size_t  n = (size_t) n_token * (size_t) whole->n_vocab;
    float * logits[4];
    for (int i = 0; i < 4; ++i) {
        logits[i] = logits_of(whole, n_token);
    }
    const bool ok = effect(whole, &setting, logits[0], logits[1]) && effect(split, &setting, logits[2], logits[3]);
    const double plain = fmax(distance(logits[0], logits[2], n), 1e-6);
    verdict(split, "steered alike with tensors whole and split, as unsteered", ok ? distance(logits[1], logits[3], n) : INFINITY, allowed(plain));
    for (int i = 0; i < 4; ++i) {
        free(logits[i]);
    }
}
