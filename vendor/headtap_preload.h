/* What the files of the preloaded library share. */
#ifndef HEADTAP_PRELOAD_H
#define HEADTAP_PRELOAD_H

#include "headtap.h"
#include "headtap_host.h"
#include "headtap_plan.h"

/* ---- headtap_preload.c: the functions that stand in for the host's ---- */

/* Takes another plan, from the next computation on. NULL, or why it cannot be read. */
const char * headtap_preload_set_plan(const void * bytes, size_t n_byte);
/* The settings of the plan in force, to be freed; NULL: there is none. */
char * headtap_preload_settings(void);
/* What is going on, in words, and how many tokens were steered. */
void headtap_preload_state(char * text, size_t size, uint64_t * n_token);
void headtap_preload_count(uint64_t n_token);
/* Sets the state, and puts a line on stderr where it changed. */
__attribute__((format(printf, 1, 2))) void headtap_preload_say(const char * format, ...);
/* A function of the library that holds `caller`, or of one that it was linked with, and not the one
 * that stands in for it, `own`. Neither RTLD_NEXT nor the global scope know libraries that were loaded
 * for one extension alone. */
void * headtap_function_near(const void * caller, const char * name, const void * own, void ** library);
/* Whether any context is steered. */
bool headtap_preload_steers(void);

/* ---- headtap_context.c: one llama_context, known by its scheduler ---- */

typedef bool (*eval_callback)(struct ggml_tensor *, bool, void *);
enum verdict { UNKNOWN, STEERED, LEFT_ALONE };

/* What is known of one scheduler, hence of one llama_context. Used by the thread that computes. */
struct entry {
    struct entry       * next;
    ggml_backend_sched_t sched;
    eval_callback        callback; /* the program's own, or NULL */
    void               * user_data;
    bool                 asked[2]; /* whether the program's callback, the tap, want the node asked about last */

    enum verdict     verdict;
    struct headtap * tap;
    int32_t          n_layer, n_row, n_batch; /* of the tap */
    int32_t          n_token;                 /* of the graph to be computed */
    int              generation;     /* of the plan whose rows the tap holds */

    /* of the graph that was built last */
    bool                 fresh;
    struct ggml_cgraph * graph;
    struct ggml_tensor * first;  /* the node of the first layer with attention */
    struct ggml_tensor * wanted; /* which tokens' logits are asked for, I32, or NULL: not told */
    struct ggml_tensor * ids;    /* the tokens' ids, I32, or NULL: not tokens */

    int32_t * rows; /* [n_batch] */
    int8_t  * outputs; /* [n_batch] */
    int32_t * scratch; /* [n_batch] */
};

/* Whether this graph is to be steered, with a tap that is ready for it. */
bool headtap_entry_prepare(struct entry * entry, struct ggml_cgraph * graph, const struct headtap_plan * plan);
/* Fills in which row steers which token of the graph; returns the number of tokens. */
int32_t headtap_entry_rows(struct entry * entry, const struct headtap_plan * plan);
/* The eval callback, with the entry as user data: asks the tap and the program's own. */
bool headtap_entry_eval(struct ggml_tensor * t, bool ask, void * entry);
void headtap_entry_clear(struct entry * entry);

/* ---- headtap_batch.c: which sequence each token belongs to ---- */

/* The sequences of the next tokens that this thread computes, if these are their ids, in the order in
 * which llama.cpp computes them; false where nobody told, or told otherwise. */
bool headtap_batch_take(const int32_t * ids, int32_t n_token, int32_t * seqs);
/* Whether nobody told this thread of a batch. */
bool headtap_batch_is_silent(void);

/* ---- headtap_control.c: the socket ---- */

/* Listens, once. */
void headtap_preload_listen(void);
/* Stops, and removes the socket. */
void headtap_preload_hang_up(void);

#endif /* HEADTAP_PRELOAD_H */
