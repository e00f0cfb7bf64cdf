/* What the files of headtap share. Nothing here is for programs that use it. */
#ifndef HEADTAP_IMPL_H
#define HEADTAP_IMPL_H

#include "headtap.h"

#include <stddef.h>

#include "ggml-backend.h"
#include "ggml.h"

/* Where the row numbers of a ubatch lie on a device. Nodes read them from the start, which has the
 * device's alignment: some devices (Vulkan) end the process over ids that begin between. */
struct place {
    struct ggml_tensor * ids;    /* I32 [n_batch]              */
    int32_t            * held;   /* [n_batch] what `ids` holds */
    int32_t              n_held; /* the first so many          */
};

/* Banks and row numbers of all sites that share a buffer type, hence a device. */
struct pool {
    struct ggml_context * ctx;
    ggml_backend_buffer_t buffer;
    struct place          all;    /* of all tokens of a ubatch            */
    struct place          wanted; /* of those of them whose output is wanted */
};

/* One kind of node in one layer. */
struct site {
    enum headtap_kind kind;
    int32_t il;
    int32_t width;
    bool    observed;
    bool    edited;

    float  * host;   /* [n_row, width], NULL until a row is set                            */
    bool   * loaded; /* [n_row] the row adds something                                     */
    int32_t  n_loaded;
    int32_t  stale_from, stale_to; /* rows of host that were rewritten since the bank was  */

    ggml_backend_buffer_type_t buft;  /* of the node, as last seen                         */
    ggml_backend_buffer_type_t home;  /* of the bank: the node's when it was allocated     */
    struct ggml_tensor       * bank;  /* F32 [width, n_row] on `home`, NULL: none          */
    int32_t                    pool;  /* holds the bank and the row numbers                */

    /* What a patched node points to. Rebuilt from the node each time the scheduler asks, so that
     * it is right whichever graph is running; its address is all that a graph keeps. */
    struct ggml_tensor view; /* the RESHAPE as it was before                               */
    struct ggml_tensor rows; /* I32 [columns of the node, 1], the start of a place          */

    /* What reads the heads, learned in the first pass. */
    enum headtap_reader reader;
    const char        * reader_op; /* ggml's name of the operation that alters it, else NULL */
    int32_t             rotation;  /* its size on the way to the projection, 0: none         */
    char carrier[GGML_MAX_NAME];   /* the last node that only carries the values on          */

    int32_t seen_width;
    int32_t n_seen;  /* tokens of this pass that came by, or went by without being wanted  */
    int32_t start;   /* the current ubatch's first token                                   */
    int32_t first;   /* where in headtap.rows the rows of the node's columns begin         */
    int32_t i_want;  /* next token to observe                                              */
    enum headtap_path path;
};

struct headtap {
    int32_t n_layer, n_row, n_batch, max_width;
    bool    in_graph;
    bool    learned; /* a pass went through whole: what reads the heads is known */

    struct site * sites; /* [2 * n_layer] the heads of every layer, then the outputs of every layer */
    struct pool * pools; /* [n_pool], at most one per site */
    int32_t       n_pool;

    struct headtap_pass pass;
    int32_t           * rows;      /* [2 * n_batch] rows of the pass: of all tokens, and from
                                    * n_batch on of those whose output is wanted           */
    int32_t           * n_before;  /* [n_batch + 1] tokens before this one whose output is wanted */
    float             * column;    /* [width] scratch of the read-modify-write     */

    headtap_editor      editor;
    void              * editor_data;
    float             * edits;     /* [n_batch][largest width] the editor's values, NULL: none yet */
    int32_t           * places;    /* [n_batch] and their tokens                   */

    int32_t           * ids;       /* [n_batch] scratch of the order's check       */
    int32_t             n_checked; /* tokens of the pass whose order was checked   */

    enum headtap_status status;
    int32_t             failed; /* the site that the status speaks of, -1: none */
};

/* ---- headtap.c ---- */

static inline int32_t headtap_n_site(const struct headtap * tap) {
    return 2 * tap->n_layer;
}

/* NULL where there is nothing to tap. */
struct site * headtap_site_at(const struct headtap * tap, enum headtap_kind kind, int32_t il);
/* The site of a node named exactly `kqv_out-<il>` or `l_out-<il>`, else NULL. */
struct site * headtap_site_named(const struct headtap * tap, const char * name);

/* The first thing that went wrong in a pass, and where. */
void headtap_fail(struct headtap * tap, const struct site * site, enum headtap_status status);

/* ---- headtap_look.c: what is looked at and edited ---- */

/* Whether the site's values go through the editor. */
bool headtap_is_edited(const struct headtap * tap, const struct site * site);
/* Gives the node's columns to the editor and writes back what it makes of them. */
void headtap_edit_columns(struct headtap * tap, struct site * site, struct ggml_tensor * t);
/* Copies out the columns of the wanted tokens of the current ubatch. */
void headtap_read_wanted(struct headtap * tap, struct site * site, struct ggml_tensor * t);

/* ---- headtap_bank.c: rows in memory, and their copies on the devices ---- */

/* Multiplies each block of n values by the orthonormal Hadamard matrix; n < 2: does nothing. */
void headtap_rotate(float * values, int32_t width, int32_t n);
/* The site's rows are those of its heads as the projection sees them: rotates them. */
void headtap_rotate_rows(struct headtap * tap, struct site * site);
/* The size of the site's rotation. Nothing is rotated before the first pass is over, which finds
 * out. */
int32_t headtap_rotation_of(const struct headtap * tap, const struct site * site);
/* Brings the banks on the devices up to date. */
enum headtap_status headtap_upload(struct headtap * tap);
/* The place on the site's device that holds the rows of the n columns of its node. To be called
 * while the scheduler asks: whatever read the place before has been computed by then, and all that
 * reads it in this ubatch wants the same rows. */
const struct ggml_tensor * headtap_ids(struct headtap * tap, const struct site * site, int32_t n);
void headtap_free_pool(struct pool * pool);
/* Whether the device stands for several, over which tensors are split (`--split-mode tensor`). */
bool headtap_is_split(ggml_backend_dev_t device);

/* ---- headtap_learn.c: what the graph tells ---- */

/* Called for each node of the first pass, in the graph's order. */
void headtap_learn(struct headtap * tap, const struct ggml_tensor * t);
/* Compares a ubatch's token ids, which embeddings are looked up by, with those expected. */
void headtap_check_order(struct headtap * tap, const struct ggml_tensor * ids);

#endif /* HEADTAP_IMPL_H */
