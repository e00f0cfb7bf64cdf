/* From two texts to a steered answer, with llama.cpp and headtap.h alone.
 *
 *     steer MODEL.gguf "a text that is so" "a text that is not" "how to go on from here" STRENGTH
 *
 * Reads what every attention head puts out at the last token of the first two texts, takes the
 * difference, and adds STRENGTH times that to all heads while it continues the third text, once at
 * strength 0 and once as asked. A probe over many texts would choose heads and directions better:
 * that is what the program `candor` does; this shows the mechanism.
 *
 * Beside an installed llama.cpp:
 *
 *     cc -I../../vendor steer.c ../../vendor/headtap*.c -lllama -lggml -lggml-base -o steer
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "headtap.h"
#include "llama.h"

enum { N_CTX = 512, N_GENERATE = 16, ROW = 1 };

struct room {
    struct llama_model       * model;
    struct llama_context     * ctx;
    const struct llama_vocab * vocab;
    struct headtap           * tap;
    int32_t                    n_layer;
    int32_t                    width; /* n_head * d_head */
};

static void quiet(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static int fail(const char * what) {
    fprintf(stderr, "steer: %s\n", what);
    return 1;
}

/* n_head * d_head is what the output projection reads; models write the size of a head into their
 * file where it is not n_embd / n_head. */
static int32_t read_width(const struct llama_model * model) {
    char architecture[64], key[128], value[32];
    const int32_t n_head = llama_model_n_head(model);
    if (llama_model_meta_val_str(model, "general.architecture", architecture, sizeof(architecture)) < 0) {
        return 0;
    }
    snprintf(key, sizeof(key), "%s.attention.value_length", architecture);
    if (llama_model_meta_val_str(model, key, value, sizeof(value)) > 0) {
        return n_head * (int32_t) strtol(value, NULL, 10);
    }
    return llama_model_n_embd(model);
}

static bool open_room(struct room * room, const char * path) {
    struct llama_model_params mparams = llama_model_default_params();
    room->model = llama_model_load_from_file(path, mparams);
    if (!room->model) {
        return false;
    }
    room->vocab   = llama_model_get_vocab(room->model);
    room->n_layer = llama_model_n_layer(room->model);
    room->width   = read_width(room->model);
    int32_t * widths = malloc((size_t) room->n_layer * sizeof(*widths));
    if (!widths) {
        return false;
    }
    for (int32_t il = 0; il < room->n_layer; ++il) {
        widths[il] = room->width;
    }
    room->tap = headtap_init(room->n_layer, widths, 0, ROW + 1, N_CTX, true);
    free(widths);
    if (!room->tap) {
        return false;
    }

    struct llama_context_params cparams = llama_context_default_params();
    cparams.n_ctx             = N_CTX;
    cparams.n_batch           = N_CTX;
    cparams.n_threads         = 1;
    cparams.n_threads_batch   = 1;
    cparams.kv_unified        = true; /* keeps the tokens of a batch in order */
    cparams.cb_eval           = headtap_eval;
    cparams.cb_eval_user_data = room->tap;
    room->ctx = llama_init_from_model(room->model, cparams);
    return room->ctx != NULL;
}

static void close_room(struct room * room) {
    llama_free(room->ctx); /* first the context, then the tap that its graphs point into */
    headtap_free(room->tap);
    llama_model_free(room->model);
    llama_backend_free();
}

/* Decodes `n` tokens after `n_past` others, all of them at bank row `row`; the last one's head
 * outputs of every observed layer go to `out`, where that is not NULL. */
static bool decode(struct room * room, llama_token * tokens, int32_t n, int32_t n_past, int32_t row, float * out) {
    int32_t rows[N_CTX];
    for (int32_t i = 0; i < n; ++i) {
        rows[i] = row;
    }
    const int32_t last = n - 1;
    const struct headtap_pass pass = { .n_token = n, .rows = rows, .n_want = out ? 1 : 0, .want = &last, .out = out };
    if (n_past + n > N_CTX || headtap_begin(room->tap, &pass) != HEADTAP_OK) {
        return false;
    }
    const int32_t status = llama_decode(room->ctx, llama_batch_get_one(tokens, n));
    return headtap_end(room->tap) == HEADTAP_OK && status == 0;
}

static int32_t tokenize(const struct room * room, const char * text, llama_token * tokens) {
    return llama_tokenize(room->vocab, text, (int32_t) strlen(text), tokens, N_CTX - N_GENERATE, true, false);
}

/* The heads' outputs at the last token of a text: [n_layer][width]. */
static bool observe(struct room * room, const char * text, float * out) {
    llama_token tokens[N_CTX];
    const int32_t n = tokenize(room, text, tokens);
    for (int32_t il = 0; il < room->n_layer; ++il) {
        headtap_observe(room->tap, HEADTAP_HEADS, il, true);
    }
    const bool ok = n > 0 && decode(room, tokens, n, 0, 0, out);
    for (int32_t il = 0; il < room->n_layer; ++il) {
        headtap_observe(room->tap, HEADTAP_HEADS, il, false);
    }
    llama_memory_clear(llama_get_memory(room->ctx), false);
    return ok;
}

static llama_token likeliest(const struct room * room) {
    const float * logits = llama_get_logits_ith(room->ctx, -1);
    llama_token best = 0;
    for (llama_token i = 1; i < llama_vocab_n_tokens(room->vocab); ++i) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return best;
}

/* Continues a text, the likeliest token each time, every token steered by row ROW. */
static bool go_on(struct room * room, const char * text) {
    llama_token tokens[N_CTX];
    int32_t n = tokenize(room, text, tokens);
    if (n <= 0 || !decode(room, tokens, n, 0, ROW, NULL)) {
        return false;
    }
    for (int32_t i = 0; i < N_GENERATE; ++i, ++n) {
        llama_token token = likeliest(room);
        if (llama_vocab_is_eog(room->vocab, token)) {
            break;
        }
        char piece[256];
        const int32_t length = llama_token_to_piece(room->vocab, token, piece, sizeof(piece), 0, false);
        printf("%.*s", length > 0 ? length : 0, piece);
        if (!decode(room, &token, 1, n, ROW, NULL)) {
            return false;
        }
    }
    printf("\n");
    llama_memory_clear(llama_get_memory(room->ctx), false);
    return true;
}

/* Loads strength * offset into the bank's row, all layers. offset: [n_layer][width]. */
static bool load(struct room * room, const float * offset, float strength) {
    float * scaled = malloc((size_t) room->width * sizeof(*scaled));
    bool ok = scaled != NULL;
    for (int32_t il = 0; ok && il < room->n_layer; ++il) {
        for (int32_t i = 0; i < room->width; ++i) {
            scaled[i] = strength * offset[il * room->width + i];
        }
        ok = headtap_set_row(room->tap, HEADTAP_HEADS, il, ROW, scaled) == HEADTAP_OK;
    }
    free(scaled);
    return ok;
}

static bool run(struct room * room, char ** texts, float strength) {
    const size_t n = (size_t) room->n_layer * (size_t) room->width;
    float * offset = malloc(n * sizeof(*offset));
    float * other  = malloc(n * sizeof(*other));
    bool ok = offset && other && observe(room, texts[0], offset) && observe(room, texts[1], other);
    for (size_t i = 0; ok && i < n; ++i) {
        offset[i] -= other[i];
    }
    const float strengths[] = { 0.0f, strength };
    for (int s = 0; ok && s < 2; ++s) {
        printf("strength %g:%s", (double) strengths[s], texts[2]);
        ok = load(room, offset, strengths[s]) && go_on(room, texts[2]);
    }
    free(offset);
    free(other);
    return ok;
}

int main(int argc, char ** argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: steer MODEL.gguf TEXT_SO TEXT_NOT_SO PROMPT STRENGTH\n");
        return 2;
    }
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct room room = { 0 };
    int status = 0;
    if (!open_room(&room, argv[1])) {
        status = fail("cannot load the model");
    } else if (!run(&room, argv + 2, strtof(argv[5], NULL))) {
        status = fail("the model could not be run or tapped");
    }
    close_room(&room);
    return status;
}
