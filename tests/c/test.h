/* What the files of the tap's test in C share. */
#ifndef HEADTAP_TEST_H
#define HEADTAP_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "ggml-backend.h"
#include "ggml.h"
#include "headtap.h"
#include "llama.h"

enum {
    N_CTX   = 256, /* of a check's context                    */
    N_BATCH = 64,  /* tokens of a check's batch               */
    N_ROW   = 40,  /* of the banks: a row for 32 sequences    */
};

/* ---- host.c: models, contexts and batches ---- */

/* Where a model's layers are computed. */
struct place {
    const char *       name; /* "all layers", "half of the layers", "split tensors"  */
    ggml_backend_dev_t device;
    int32_t            n_on; /* layers on the device, counted from the last; -1: all */
    ggml_backend_dev_t * parts;  /* [n_part] every tensor is split over these           */
    int32_t              n_part; /* 0: none is                                          */
};

struct host {
    struct llama_model * model;
    const char *         path;
    struct place         place;
    int32_t   n_layer, n_embd, n_vocab;
    int32_t * widths; /* [n_layer] of the heads; 0: no attention  */
    bool *    outputs; /* [n_layer] the output can be steered      */
};

/* How a context is set up. */
struct setting {
    bool           flash;     /* flash attention                             */
    enum ggml_type cache;     /* of keys and values                          */
    int32_t        n_ubatch;
    int32_t        n_seq;
    bool           unified;   /* one cache for all sequences                 */
    bool           outputs;   /* layer outputs can be steered                */
    int32_t        n_ctx, n_batch, n_threads; /* 0: a check's                */
};

enum tap_mode { NO_TAP, IN_GRAPH, CALLBACK };

/* A context and its tap. */
struct room {
    const struct host *    host;
    struct setting         setting;
    struct llama_context * ctx;
    struct headtap *       tap;
    int32_t n_added;      /* additions in the graph, of the last decode            */
    int32_t n_misaligned; /* of them: ids that are not at the device's alignment   */
};

/* A batch: token i has id[i], … */
struct work {
    int32_t n;
    int32_t id[2048], pos[2048], seq[2048], row[2048];
    int8_t  wanted[2048]; /* its logits */
};

bool open_host(struct host * host, const char * path, struct place place);
void close_host(struct host * host);

/* Prints why and gives false where it cannot be. */
bool open_room(struct room * room, const struct host * host, const struct setting * setting, enum tap_mode mode);
void close_room(struct room * room);
/* NULL, or why the tap cannot steer this model. */
const char * refusal(const struct room * room);

/* Decodes; logits of the wanted tokens one after the other to `logits` [n wanted][n_vocab], or NULL.
 * Observed heads, of every token, to `seen`, where the tap observes all layers, else NULL. */
bool decode(struct room * room, struct work * work, float * logits, float * seen);
void forget(struct room * room);
void observe_all(struct room * room, bool on);
/* Values of a token's observed heads, all layers together, padded to the widest. */
size_t n_seen_values(const struct host * host);
/* Every layer that can be was steered so in the last decode. */
bool took_path(const struct room * room, enum headtap_kind kind, enum headtap_path path);

/* ---- work.c: batches and offsets that are the same everywhere ---- */

/* n tokens of each of the sequences first .. first + n_seq - 1, sequence by sequence, from position
 * `pos`, all on row `row`, all wanted. */
void fill(struct work * work, const struct host * host, int32_t first, int32_t n_seq, int32_t n, int32_t pos, int32_t row);
/* n tokens of each of n_seq sequences, position by position, sequence s on row s: the order in which
 * separate caches are computed by ubatches of n_seq tokens. */
void fill_across(struct work * work, const struct host * host, int32_t n_seq, int32_t n);
void fill_rows(struct work * work); /* a row per token, 0 among them                        */
/* Loads row `row` of every layer of a kind with an offset of its own, times `strength`; 0: empties it. */
bool load(struct room * room, enum headtap_kind kind, int32_t row, float strength);
float offset_at(enum headtap_kind kind, int32_t il, int32_t row, int32_t i);

/* ---- report.c ---- */

/* Largest difference, as a part of the largest value of `a`. Not a number: infinite. */
double distance(const float * a, const float * b, size_t n);
bool   same_bits(const float * a, const float * b, size_t n);

extern FILE *       json;  /* where the lines go, or NULL      */
extern const char * label; /* of this run, in every line       */
extern int          n_passed, n_failed;
extern char         last_error[512]; /* of llama.cpp's log */

/* Begins a line with what tells where it was measured. */
void json_begin(const char * kind, const struct host * host);
void json_text(const char * key, const char * text);
void json_number(const char * key, double number);
void json_end(void);

/* A check's verdict: `error` has to be at most `bound`, and 0 where that is 0. */
bool verdict(const struct host * host, const char * name, double error, double bound);
bool verdict_is(const struct host * host, const char * name, bool passed, const char * problem);
void skipped(const struct host * host, const char * name, const char * why);

/* ---- checks.c, sequences.c, cost.c: each opens its own contexts ---- */

/* How far apart steered results may lie whose unsteered counterparts, of the same two shapes, lie
 * `plain` apart: a few times as far, as rounding goes other ways. Where the device gives the same
 * bits, the same is asked of the tap. */
double allowed(double plain);

/* Off is off, both paths one function, layer outputs, observing, and changes between decodes, under
 * a setting that `name` tells of. */
void check_steering(const struct host * host, const char * name, const struct setting * setting);
/* A row per token: sequences together and alone, small ubatches, one cache or several. */
void check_sequences(const struct host * host);
/* The same vectors do the same with a quantized cache as with F16. */
void check_quantized(const struct host * host);
/* The model's tensors are split over devices: steered as where they are not. */
void check_split(const struct host * split, const struct host * whole);
extern bool use_processor_time;
/* Rounds of every lane beside the plain one. */
void measure_cost(const struct host * host, int n_round, int n_prompt, int n_threads);

#endif
