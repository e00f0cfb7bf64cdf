/* What a preloaded tap steers by: a plan, in bytes that another process made. */
#ifndef HEADTAP_PLAN_H
#define HEADTAP_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which tokens a plan steers. */
enum headtap_policy {
    HEADTAP_ALL       = 0, /* every token                                                        */
    HEADTAP_GENERATED = 1, /* those whose logits the program asks for: the last token of a prompt,
                            * and every generated one                                            */
};

struct headtap_offset {
    int32_t       il;
    const float * values; /* [widths[il]] */
};

struct headtap_row {
    int32_t                 n_offset;
    struct headtap_offset * offsets;
};

struct headtap_rule {
    int32_t seq; /* a sequence: a slot of a server */
    int32_t row; /* 0: steered by nothing          */
};

/* F32 values that the model must hold under a name. */
struct headtap_witness {
    char         name[64];
    const void * bytes;
    size_t       n_byte;
};

struct headtap_plan {
    enum headtap_policy      policy;
    int32_t                  n_layer;
    const int32_t          * widths;      /* [n_layer] 0: no attention                */
    int32_t                  n_row;       /* row 0 included                           */
    struct headtap_row     * rows;        /* [n_row]; the first has no offsets        */
    int32_t                  default_row; /* of sequences that no rule speaks of      */
    int32_t                  n_rule;
    const struct headtap_rule * rules;
    int32_t                  n_witness;
    struct headtap_witness * witnesses;
    char                   * label;       /* what it steers, in words                 */
    char                   * settings;    /* for whoever made the plan                */
    void                   * bytes;       /* what all pointers above lead into        */
    int                      generation;  /* counted by who loads plans               */
    int                      n_user;      /* who computes by it; for who loads plans  */
};

/* Reads a plan; the bytes are copied. NULL where they are none, with the reason in `problem`.
 *
 * All numbers are little-endian U32 (`n`), I32 or F32, four bytes each:
 *
 *     "CANDPLAN"  version = 1  policy  default_row
 *     n_layer     widths[n_layer]
 *     n_row       n_row - 1 times: n_offset, n_offset times: il, values[widths[il]]
 *     n_rule      n_rule times: seq, row
 *     n_witness   n_witness times: n_byte of its name, name, n_byte, bytes (padded to 4 each)
 *     n_byte      label (padded to 4)
 *     n_byte      settings (padded to 4)
 */
struct headtap_plan * headtap_plan_read(const void * bytes, size_t n_byte, const char ** problem);
void                  headtap_plan_free(struct headtap_plan * plan);

#endif /* HEADTAP_PLAN_H */
