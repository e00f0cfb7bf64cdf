/* Writes a llama of a named shape with random Q4_0 weights: it says nothing, but it computes what a
 * model of that size computes. The shapes are those of examples/random_model.rs.
 *
 *     random_model tiny|1.1b|7b OUT.gguf [SEED]
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_F32 = 0, TYPE_Q4_0 = 2 };                         /* of tensors  */
enum { META_U32 = 4, META_I32 = 5, META_F32 = 6, META_STRING = 8, META_ARRAY = 9 };
enum { BLOCK = 32, BLOCK_BYTES = 18, ALIGNMENT = 32, MAX_TENSOR = 512, N_SPECIAL = 3, N_BYTE = 256 };

struct shape {
    const char * name;
    uint32_t n_layer, n_embd, n_head, n_head_kv, d_head, n_ff, n_vocab;
};

static const struct shape shapes[] = {
    { "tiny", 4, 256, 8, 2, 32, 512, 1024 },
    { "1.1b", 22, 2048, 32, 4, 64, 5632, 32000 },   /* TinyLlama */
    { "7b", 32, 4096, 32, 32, 128, 11008, 32000 },  /* LLaMA */
};

struct tensor {
    char     name[64];
    uint32_t type, n_dim;
    uint64_t dims[2], offset, size;
    double   sigma; /* deviation of a Q4_0 matrix */
};

static struct tensor tensors[MAX_TENSOR];
static uint32_t      n_tensor;
static uint64_t      n_byte; /* of all tensors so far */
static FILE *        file;

/* ---- random numbers: splitmix64 ---- */

static uint64_t state;

static uint64_t draw(void) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- the file ---- */

static void put(const void * data, size_t size) {
    if (fwrite(data, 1, size, file) != size) {
        perror("random_model");
        exit(1);
    }
}

static void put_u32(uint32_t value) {
    put(&value, sizeof(value));
}

static void put_u64(uint64_t value) {
    put(&value, sizeof(value));
}

static void put_string(const char * text) {
    put_u64(strlen(text));
    put(text, strlen(text));
}

static void set_u32(const char * key, uint32_t value) {
    put_string(key);
    put_u32(META_U32);
    put_u32(value);
}

static void set_f32(const char * key, float value) {
    put_string(key);
    put_u32(META_F32);
    put(&value, sizeof(value));
}

static void set_string(const char * key, const char * value) {
    put_string(key);
    put_u32(META_STRING);
    put_string(value);
}

static void set_array(const char * key, uint32_t type, uint64_t n) {
    put_string(key);
    put_u32(META_ARRAY);
    put_u32(type);
    put_u64(n);
}

/* Special tokens, all bytes, then words of their own: enough to load and to compute. */
static void set_vocabulary(uint32_t n_vocab) {
    static const char * special[N_SPECIAL] = { "<unk>", "<s>", "</s>" };
    set_string("tokenizer.ggml.model", "llama");
    set_array("tokenizer.ggml.tokens", META_STRING, n_vocab);
    for (uint32_t i = 0; i < n_vocab; ++i) {
        char text[32];
        if (i < N_SPECIAL) {
            snprintf(text, sizeof(text), "%s", special[i]);
        } else if (i < N_SPECIAL + N_BYTE) {
            snprintf(text, sizeof(text), "<0x%02X>", (unsigned) (i - N_SPECIAL));
        } else {
            snprintf(text, sizeof(text), "\xe2\x96\x81w%u", (unsigned) i);
        }
        put_string(text);
    }
    set_array("tokenizer.ggml.scores", META_F32, n_vocab);
    for (uint32_t i = 0; i < n_vocab; ++i) {
        const float score = -(float) i;
        put(&score, sizeof(score));
    }
    set_array("tokenizer.ggml.token_type", META_I32, n_vocab);
    for (uint32_t i = 0; i < n_vocab; ++i) {
        put_u32(i == 0 ? 2 : i < N_SPECIAL ? 3 : i < N_SPECIAL + N_BYTE ? 6 : 1);
    }
    set_u32("tokenizer.ggml.unknown_token_id", 0);
    set_u32("tokenizer.ggml.bos_token_id", 1);
    set_u32("tokenizer.ggml.eos_token_id", 2);
}

/* ---- tensors ---- */

static void add(const char * name, uint32_t type, uint64_t n_in, uint64_t n_out, double sigma) {
    struct tensor * t = &tensors[n_tensor++];
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->type    = type;
    t->n_dim   = n_out ? 2 : 1;
    t->dims[0] = n_in;
    t->dims[1] = n_out;
    t->sigma   = sigma;
    t->offset  = n_byte;
    t->size    = type == TYPE_F32 ? n_in * sizeof(float) : n_in / BLOCK * BLOCK_BYTES * n_out;
    n_byte += (t->size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void add_all(const struct shape * s) {
    const uint64_t query = s->n_head * s->d_head;
    const uint64_t key   = s->n_head_kv * s->d_head;
    add("token_embd.weight", TYPE_Q4_0, s->n_embd, s->n_vocab, 1.0);
    add("output_norm.weight", TYPE_F32, s->n_embd, 0, 0.0);
    /* logits a few units apart, so that a model of 32,000 tokens prefers some */
    add("output.weight", TYPE_Q4_0, s->n_embd, s->n_vocab, 2.0 / sqrt(s->n_embd));
    const struct {
        const char * name;
        uint64_t     n_in, n_out; /* 0: a norm */
    } layer[] = {
        { "attn_norm", s->n_embd, 0 },        { "ffn_norm", s->n_embd, 0 },
        { "attn_q", s->n_embd, query },       { "attn_k", s->n_embd, key },
        { "attn_v", s->n_embd, key },         { "attn_output", query, s->n_embd },
        { "ffn_gate", s->n_embd, s->n_ff },   { "ffn_up", s->n_embd, s->n_ff },
        { "ffn_down", s->n_ff, s->n_embd },
    };
    for (uint32_t il = 0; il < s->n_layer; ++il) {
        for (size_t i = 0; i < sizeof(layer) / sizeof(layer[0]); ++i) {
            char name[64];
            snprintf(name, sizeof(name), "blk.%u.%s.weight", (unsigned) il, layer[i].name);
            /* normalized inputs give outputs of deviation one, and attention scores of about one */
            add(name, layer[i].n_out ? TYPE_Q4_0 : TYPE_F32, layer[i].n_in, layer[i].n_out,
                1.0 / sqrt((double) layer[i].n_in));
        }
    }
}

static void write_norm(uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
        const float weight = 0.9f + 0.2f * (float) (draw() >> 40) / (float) (1 << 24);
        put(&weight, sizeof(weight));
    }
}

/* A positive float that is normal in F16, rounded down. */
static uint16_t to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return (uint16_t) ((((bits >> 23) - 112) << 10) | ((bits >> 13) & 0x3ff));
}

/* Random blocks of Q4_0: a scale d and 32 nibbles, x = d (q - 8). Of q - 8, equally likely from -8 to
 * 7, the deviation is 4.61 and the mean -1/2, which the random sign of d takes away. */
static void write_q4_0(const struct tensor * t) {
    const size_t   row_bytes = t->dims[0] / BLOCK * BLOCK_BYTES;
    const uint16_t scale     = to_f16((float) (t->sigma / 4.61));
    uint8_t * row = malloc(row_bytes);
    if (!row) {
        fprintf(stderr, "random_model: out of memory\n");
        exit(1);
    }
    for (uint64_t i = 0; i < t->dims[1]; ++i) {
        for (uint8_t * block = row; block < row + row_bytes; block += BLOCK_BYTES) {
            const uint64_t low = draw(), high = draw();
            const uint16_t d = (uint16_t) (scale | ((low ^ (high << 1)) & 0x8000));
            memcpy(block, &d, sizeof(d));
            memcpy(block + 2, &low, sizeof(low));
            memcpy(block + 10, &high, sizeof(high));
        }
        put(row, row_bytes);
    }
    free(row);
}

static void write_model(const struct shape * s, const char * name) {
    put("GGUF", 4);
    put_u32(3);
    put_u64(n_tensor);
    put_u64(20); /* the keys below */
    set_string("general.architecture", "llama");
    set_string("general.name", name);
    set_u32("general.file_type", 2);
    set_u32("llama.context_length", 4096);
    set_u32("llama.block_count", s->n_layer);
    set_u32("llama.embedding_length", s->n_embd);
    set_u32("llama.feed_forward_length", s->n_ff);
    set_u32("llama.attention.head_count", s->n_head);
    set_u32("llama.attention.head_count_kv", s->n_head_kv);
    set_u32("llama.attention.key_length", s->d_head);
    set_u32("llama.attention.value_length", s->d_head);
    set_f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    set_u32("llama.rope.dimension_count", s->d_head);
    set_vocabulary(s->n_vocab); /* seven more */
    for (uint32_t i = 0; i < n_tensor; ++i) {
        put_string(tensors[i].name);
        put_u32(tensors[i].n_dim);
        for (uint32_t j = 0; j < tensors[i].n_dim; ++j) {
            put_u64(tensors[i].dims[j]);
        }
        put_u32(tensors[i].type);
        put_u64(tensors[i].offset);
    }
    static const char zeros[ALIGNMENT] = { 0 };
    const long here = ftell(file); /* all before the tensors is small */
    put(zeros, (size_t) ((ALIGNMENT - here % ALIGNMENT) % ALIGNMENT));
    for (uint32_t i = 0; i < n_tensor; ++i) {
        if (tensors[i].type == TYPE_F32) {
            write_norm(tensors[i].dims[0]);
        } else {
            write_q4_0(&tensors[i]);
        }
        put(zeros, (size_t) ((ALIGNMENT - tensors[i].size % ALIGNMENT) % ALIGNMENT));
    }
}

int main(int argc, char ** argv) {
    const struct shape * shape = NULL;
    for (size_t i = 0; argc >= 3 && argc <= 4 && i < sizeof(shapes) / sizeof(shapes[0]); ++i) {
        if (strcmp(argv[1], shapes[i].name) == 0) {
            shape = &shapes[i];
        }
    }
    if (!shape) {
        fprintf(stderr, "usage: random_model tiny|1.1b|7b OUT.gguf [SEED]\n");
        return 2;
    }
    state = argc == 4 ? strtoull(argv[3], NULL, 10) : 0;
    /* a file that was cut off never has the final name */
    char part[4096];
    if ((size_t) snprintf(part, sizeof(part), "%s.part", argv[2]) >= sizeof(part) || !(file = fopen(part, "wb"))) {
        perror(argv[2]);
        return 1;
    }
    char name[64];
    snprintf(name, sizeof(name), "random %s", shape->name);
    add_all(shape);
    write_model(shape, name);
    if (fclose(file) != 0 || rename(part, argv[2]) != 0) {
        perror(argv[2]);
        return 1;
    }
    return 0;
}
