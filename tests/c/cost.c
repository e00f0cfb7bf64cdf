/* What the tap costs: every lane beside the plain one, in rounds. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "test.h"

enum { N_PAST = 64, N_DECODE = 8, MAX_ROUND = 64, MAX_SEQ = 32 };

bool use_processor_time;

enum lane { PLAIN, IDLE, OBSERVED, GRAPH, WRITTEN, N_LANE };

static const char * lane_names[N_LANE] = { "plain", "tap, nothing loaded", "observed", "in the graph", "read-modify-write" };

/* Three contexts: without a callback; with a tap, for three lanes; with one that reads and writes. */
struct bench {
    struct room    rooms[3];
    struct work    prompt, past, step;
    struct setting setting;
    float *        seen;
    int32_t        n_seq;
};

static struct room * room_of(struct bench * bench, enum lane lane) {
    return &bench->rooms[lane == PLAIN ? 0 : lane == WRITTEN ? 2 : 1];
}

/* Seconds by the clock on the wall, or, with one thread on a processor that others use as well, of
 * this process alone. */
static double now(void) {
#ifdef CLOCK_PROCESS_CPUTIME_ID
    if (use_processor_time) {
        struct timespec time;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
        return (double) time.tv_sec + 1e-9 * (double) time.tv_nsec;
    }
#endif
    return (double) ggml_time_us() * 1e-6;
}

/* Decodes and waits for the device; observes the last token of the batch where the lane does. */
static bool compute(struct bench * bench, enum lane lane, struct work * work) {
    struct room * room = room_of(bench, lane);
    if (room->tap) {
        const int32_t last = work->n - 1;
        const struct headtap_pass pass = {
            .n_token = work->n,
            .rows    = work->row,
            .n_want  = lane == OBSERVED,
            .want    = &last,
            .out     = bench->seen,
        };
        if (headtap_begin(room->tap, &pass) != HEADTAP_OK) {
            return false;
        }
    }
    static int32_t   n_seq_id[2048];
    static int32_t * seq_id[2048];
    for (int32_t i = 0; i < work->n; ++i) {
        n_seq_id[i] = 1;
        seq_id[i]   = &work->seq[i];
    }
    const struct llama_batch batch = {
        .n_tokens = work->n, .token = work->id, .pos = work->pos, .n_seq_id = n_seq_id, .seq_id = seq_id, .logits = work->wanted,
    };
    const int32_t code = llama_decode(room->ctx, batch);
    llama_synchronize(room->ctx);
    return code == 0 && (!room->tap || headtap_end(room->tap) == HEADTAP_OK);
}

/* What the lane needs loaded, and one computation that is not timed: the first after a change. */
static bool prepare(struct bench * bench, enum lane lane) {
    struct room * room = room_of(bench, lane);
    if (!room->tap) {
        return true;
    }
    observe_all(room, lane == OBSERVED);
    const float strength = lane == GRAPH || lane == WRITTEN ? 0.1f : 0.0f;
    for (int32_t row = 1; row <= bench->n_seq; ++row) {
        if (!load(room, HEADTAP_HEADS, row, strength)) {
            return false;
        }
    }
    return true;
}

/* Seconds for the whole prompt, or for a step of every sequence. */
static double time_prompt(struct bench * bench, enum lane lane) {
    forget(room_of(bench, lane));
    const double start = now();
    return compute(bench, lane, &bench->prompt) ? now() - start : NAN;
}

static double time_steps(struct bench * bench, enum lane lane) {
    struct room * room = room_of(bench, lane);
    llama_memory_t memory = llama_get_memory(room->ctx);
    forget(room);
    bool ok = compute(bench, lane, &bench->past);
    double start = 0.0;
    /* the first steps let a backend capture its graph */
    for (int32_t i = -3; ok && i < N_DECODE; ++i) {
        if (i == 0) {
            start = now();
        }
        for (int32_t j = 0; j < bench->step.n; ++j) {
            bench->step.pos[j] = bench->past.n / bench->n_seq + 3 + i;
        }
        ok = compute(bench, lane, &bench->step);
    }
    const double time = (now() - start) / N_DECODE;
    llama_memory_clear(memory, false);
    return ok ? time : NAN;
}

static int by_size(const void * a, const void * b) {
    const double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static double median(const double * sorted, int n) {
    return n % 2 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
}

/* How many of n sorted ratios can be cut off at each end so that the rest still holds the true median
 * in 95 cases of 100: by the binomial distribution, as src/bench/stats.rs does. */
static int rank_of(int n) {
    double term = pow(0.5, n), below = term;
    int k = 0;
    while (k < n / 2) {
        term *= (double) (n - k) / (double) (k + 1);
        if (1.0 - 2.0 * (below + term) < 0.95) {
            break;
        }
        below += term;
        ++k;
    }
    return k;
}

/* Times every lane in each round, in another order each time, and prints the medians of what the
 * lanes take as multiples of the plain one in the same round, with the interval of that median. */
static bool measure(const struct host * host, struct bench * bench, const char * what, int n_round,
                    double (*time_lane)(struct bench *, enum lane)) {
    static double times[N_LANE][MAX_ROUND], ratios[MAX_ROUND];
    for (int round = -1; round < n_round; ++round) {
        for (int i = 0; i < N_LANE; ++i) {
            const enum lane lane = (enum lane) ((i + round + N_LANE) % N_LANE);
            if (!prepare(bench, lane)) {
                return false;
            }
            const double warm = time_lane(bench, lane);
            const double time = round < 0 ? warm : time_lane(bench, lane);
            if (isnan(time)) {
                return false;
            }
            if (round >= 0) {
                times[lane][round] = time;
            }
        }
    }
    for (int lane = 0; lane < N_LANE; ++lane) {
        double sorted[MAX_ROUND];
        for (int round = 0; round < n_round; ++round) {
            ratios[round] = times[lane][round] / times[PLAIN][round];
            sorted[round] = times[lane][round];
        }
        qsort(ratios, (size_t) n_round, sizeof(*ratios), by_size);
        qsort(sorted, (size_t) n_round, sizeof(*sorted), by_size);
        const int cut = rank_of(n_round), low = cut, high = n_round - 1 - cut;
        json_begin("cost", host);
        json_text("work", what);
        json_text("lane", lane_names[lane]);
        json_number("n_seq", bench->n_seq);
        json_number("n_token", strcmp(what, "prefill") == 0 ? bench->prompt.n : bench->step.n);
        json_number("ms", 1e3 * median(sorted, n_round));
        json_number("ratio", median(ratios, n_round));
        json_number("low", ratios[low]);
        json_number("high", ratios[high]);
        json_number("rounds", n_round);
        json_text("clock", use_processor_time ? "processor time" : "wall");
        json_end();
        fprintf(stderr, "  %-8s %2d %-10s %-20s %9.3f ms   %.3f x  [%.3f, %.3f]\n", what, (int) bench->n_seq,
                bench->n_seq == 1 ? "sequence" : "sequences", lane_names[lane], 1e3 * median(sorted, n_round),
                median(ratios, n_round), ratios[low], ratios[high]);
    }
    return true;
}

static void fill_bench(struct bench * bench, const struct host * host, int32_t n_prompt) {
    const int32_t n_seq = bench->n_seq;
    fill(&bench->prompt, host, 0, n_seq, n_prompt / n_seq, 0, 0);
    fill(&bench->past, host, 0, n_seq, N_PAST / 4, 0, 0);
    fill(&bench->step, host, 0, n_seq, 1, N_PAST / 4, 0);
    struct work * all[] = { &bench->prompt, &bench->past, &bench->step };
    for (int i = 0; i < 3; ++i) {
        for (int32_t j = 0; j < all[i]->n; ++j) {
            all[i]->row[j]    = 1 + all[i]->seq[j];
            all[i]->wanted[j] = j + 1 == all[i]->n || all[i]->seq[j + 1] != all[i]->seq[j];
        }
    }
}

void measure_cost(const struct host * host, int n_round, int n_prompt, int n_threads) {
    static struct bench bench;
    static const int32_t n_seqs[] = { 1, 8, MAX_SEQ };
    n_round = n_round > MAX_ROUND ? MAX_ROUND : n_round;
    fprintf(stderr, "cost of the tap in %s, %s\n", host->path, host->place.name);
    for (int i = 0; i < 3; ++i) {
        bench.n_seq   = n_seqs[i];
        bench.setting = (struct setting) {
            .flash = true, .cache = GGML_TYPE_F16, .n_ubatch = 512, .n_seq = bench.n_seq, .unified = true,
            .n_ctx = 1024 > n_prompt ? 1024 : n_prompt, .n_batch = n_prompt > 512 ? n_prompt : 512,
            .n_threads = n_threads,
        };
        fill_bench(&bench, host, n_prompt);
        bench.seen = calloc(n_seen_values(host), sizeof(float));
        bool ok = bench.seen && open_room(&bench.rooms[0], host, &bench.setting, NO_TAP) &&
                  open_room(&bench.rooms[1], host, &bench.setting, IN_GRAPH) && open_room(&bench.rooms[2], host, &bench.setting, CALLBACK);
        ok = ok && measure(host, &bench, "prefill", n_round, time_prompt) && measure(host, &bench, "decode", n_round, time_steps);
        if (!ok) {
            verdict_is(host, "cost", false, "llama.cpp or the tap failed");
        }
        for (int j = 0; j < 3; ++j) {
            close_room(&bench.rooms[j]);
        }
        free(bench.seen);
    }
}
