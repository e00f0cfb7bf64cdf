/* headtap: which sequence each token belongs to, heard as the program fills its batches.
 *
 * A program that calls llama_decode passes its batch by value, which cannot be passed on safely to a
 * library of another version. llama_batch_ext is filled by calls that take numbers alone. Only what
 * these are told is known; a batch that is filled in another way too (embeddings) is not trusted.
 */
#include "headtap_host.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "headtap_preload.h"

struct token {
    int32_t id, seq;
    bool    taken;
};

struct heard {
    struct heard * next;
    const void   * batch;
    struct token * tokens;
    int32_t        n, capacity;
    bool           whole; /* nothing was added by other calls */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct heard  * all;
static __thread struct heard * current;

static struct heard * heard_of(const void * batch, bool make) {
    pthread_mutex_lock(&lock);
    struct heard * heard = all;
    while (heard && heard->batch != batch) {
        heard = heard->next;
    }
    if (!heard && make) {
        heard = calloc(1, sizeof(*heard));
        if (heard) {
            heard->batch = batch;
            heard->whole = true;
            heard->next  = all;
            all          = heard;
        }
    }
    pthread_mutex_unlock(&lock);
    return heard;
}

static void forget(const void * batch) {
    pthread_mutex_lock(&lock);
    struct heard ** at = &all;
    while (*at && (*at)->batch != batch) {
        at = &(*at)->next;
    }
    struct heard * heard = *at;
    if (heard) {
        *at = heard->next;
    }
    pthread_mutex_unlock(&lock);
    if (heard) {
        free(heard->tokens);
        free(heard);
    }
}

static void add(struct heard * heard, int32_t index, int32_t id, int32_t seq) {
    if (!heard) {
        return;
    }
    if (index != heard->n) {
        heard->whole = false;
        return;
    }
    if (heard->n == heard->capacity) {
        const int32_t capacity = heard->capacity ? 2 * heard->capacity : 512;
        struct token * tokens  = realloc(heard->tokens, (size_t) capacity * sizeof(*tokens));
        if (!tokens) {
            heard->whole = false;
            return;
        }
        heard->tokens   = tokens;
        heard->capacity = capacity;
    }
    heard->tokens[heard->n++] = (struct token) { id, seq, false };
}

/* The first token of a sequence, or of any (-1), that was not computed yet; n: there is none. */
static int32_t next_of(int32_t seq) {
    int32_t i = 0;
    while (i < current->n && (current->tokens[i].taken || (seq >= 0 && current->tokens[i].seq != seq))) {
        i++;
    }
    return i;
}

/* Takes the next tokens of one sequence, or of all in the batch's order (-1), where their ids are
 * these. */
static bool take_block(int32_t seq, const int32_t * ids, int32_t n_token, int32_t * seqs) {
    int32_t i = next_of(seq), n = 0;
    for (int32_t j = i; j < current->n && n < n_token; ++j) {
        const struct token * token = &current->tokens[j];
        if (token->taken || (seq >= 0 && token->seq != seq)) {
            continue;
        }
        if (token->id != ids[n]) {
            return false;
        }
        seqs[n++] = token->seq;
    }
    if (n < n_token) {
        return false;
    }
    for (int32_t j = i; n > 0; ++j) {
        struct token * token = &current->tokens[j];
        if (!token->taken && (seq < 0 || token->seq == seq)) {
            token->taken = true;
            n--;
        }
    }
    return true;
}

static void give_back(const struct token * before) {
    memcpy(current->tokens, before, (size_t) current->n * sizeof(*before));
}

/* Separate caches are computed as so many tokens of each of some sequences, one sequence after the
 * other: tries every number of sequences. */
static bool take_split(const int32_t * ids, int32_t n_token, int32_t * seqs) {
    struct token * before = malloc((size_t) current->n * sizeof(*before) + 1);
    if (!before) {
        return false;
    }
    memcpy(before, current->tokens, (size_t) current->n * sizeof(*before));
    bool found = false;
    for (int32_t n_block = 1; !found && n_block <= n_token; ++n_block) {
        if (n_token % n_block != 0) {
            continue;
        }
        const int32_t size = n_token / n_block;
        int32_t last = -1; /* sequences come in ascending order */
        found = true;
        for (int32_t block = 0; found && block < n_block; ++block) {
            found = false;
            int32_t tried = last;
            while (!found) {
                int32_t seq = INT32_MAX;
                for (int32_t i = 0; i < current->n; ++i) {
                    const int32_t s = current->tokens[i].seq;
                    seq = !current->tokens[i].taken && s > tried && s < seq ? s : seq;
                }
                if (seq == INT32_MAX) {
                    break;
                }
                tried = seq;
                found = take_block(seq, ids + block * size, size, seqs + block * size);
            }
            last = tried;
        }
        if (!found) {
            give_back(before);
        }
    }
    free(before);
    return found;
}

bool headtap_batch_take(const int32_t * ids, int32_t n_token, int32_t * seqs) {
    if (!current || !current->whole) {
        return false;
    }
    return take_block(-1, ids, n_token, seqs) || take_split(ids, n_token, seqs);
}

bool headtap_batch_is_silent(void) {
    return !current || !current->whole;
}

/* ---- what stands in for the host's functions ---------------------------------------------- */

/* Finds the function once for all; a program that calls it has it. */
#define REAL(type, name)                                                                     \
    static __typeof__(type) found;                                                                       \
    if (!found) {                                                                            \
        *(void **) &found = headtap_function_near(__builtin_return_address(0), #name, (const void *) name, NULL); \
    }

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int32_t llama_batch_ext_add_token(void * batch, int32_t seq, int32_t id) {
    REAL(int32_t (*)(void *, int32_t, int32_t), llama_batch_ext_add_token)
    const int32_t index = found(batch, seq, id);
    if (index >= 0) {
        add(heard_of(batch, true), index, id, seq);
    }
    return index;
}

EXPORTED void llama_batch_ext_clear(void * batch) {
    REAL(void (*)(void *), llama_batch_ext_clear)
    found(batch);
    struct heard * heard = heard_of(batch, true);
    if (heard) {
        heard->n     = 0;
        heard->whole = true;
    }
}

EXPORTED void llama_batch_ext_free(void * batch) {
    REAL(void (*)(void *), llama_batch_ext_free)
    found(batch);
    forget(batch);
}

EXPORTED int32_t llama_process(void * context, int type, void * batch) {
    REAL(int32_t (*)(void *, int, void *), llama_process)
    current = heard_of(batch, false);
    for (int32_t i = 0; current && i < current->n; ++i) {
        current->tokens[i].taken = false;
    }
    const int32_t result = found(context, type, batch);
    current = NULL;
    return result;
}
