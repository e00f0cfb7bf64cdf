/* headtap for programs that run llama.cpp already, without a change to them.
 *
 * Loaded before the program's own libraries (LD_PRELOAD; DYLD_INSERT_LIBRARIES), this library takes
 * the place of functions that libllama calls in libggml, or that a server calls in libllama:
 *
 *     ggml_backend_sched_set_eval_callback    for each new graph: puts its own callback there, and
 *                                             asks the program's, where it has one
 *     ggml_backend_sched_graph_compute_async  around each computation: announces its tokens to a tap
 *     ggml_backend_sched_free                 the tap of that scheduler goes, too
 *     llama_batch_ext_*, llama_process        which sequence each token belongs to, where a program
 *                                             has these (llama-server does)
 *
 * They take pointers and numbers alone, so that no struct of another version is ever passed on. What
 * to add to which layer comes as a plan (headtap_plan.h) in the file that CANDOR_PLAN names; another
 * plan may come at any time through a socket, in a folder that belongs to the user alone.
 *
 * A context is steered if its graphs have the plan's layers and widths and its weights hold the plan's
 * witnesses, byte for byte, and if the output projection reads each steered layer. Everything else is
 * left as it is: draft models, encoders of pictures, another ggml. What it decided is said in one line
 * on stderr.
 *
 * One ggml per process: a second one, loaded beside the first, is left alone.
 */
#include "headtap_preload.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void (*set_callback_fn)(ggml_backend_sched_t, eval_callback, void *);
typedef enum ggml_status (*compute_fn)(ggml_backend_sched_t, struct ggml_cgraph *);
typedef void (*free_fn)(ggml_backend_sched_t);

static pthread_mutex_t       lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry        * entries;
static struct headtap_plan * plan;     /* the one in force                              */
static bool                  is_open;  /* a host was found, and is laid out as expected */
static bool                  was_tried;
static struct {
    set_callback_fn set_callback;
    compute_fn      compute;
    free_fn         free;
} host;
static char     state[512] = "waiting for llama.cpp to compute";
static uint64_t n_steered; /* tokens */

/* ---- words ------------------------------------------------------------------------------ */

void headtap_preload_say(const char * format, ...) {
    char line[sizeof(state)];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    pthread_mutex_lock(&lock);
    const bool is_new = strcmp(line, state) != 0;
    memcpy(state, line, sizeof(state));
    pthread_mutex_unlock(&lock);
    if (is_new) {
        fprintf(stderr, "candor: %s\n", line);
    }
}

void headtap_preload_state(char * text, size_t size, uint64_t * n_token) {
    pthread_mutex_lock(&lock);
    snprintf(text, size, "%s", state);
    *n_token = n_steered;
    pthread_mutex_unlock(&lock);
}

void headtap_preload_count(uint64_t n_token) {
    pthread_mutex_lock(&lock);
    n_steered += n_token;
    pthread_mutex_unlock(&lock);
}

/* ---- plans ------------------------------------------------------------------------------ */

/* The plan in force, which stays until it is let go, or NULL. */
static struct headtap_plan * hold_plan(void) {
    pthread_mutex_lock(&lock);
    struct headtap_plan * held = plan;
    if (held) {
        held->n_user++;
    }
    pthread_mutex_unlock(&lock);
    return held;
}

static void let_go(struct headtap_plan * held) {
    pthread_mutex_lock(&lock);
    const bool is_over = held && --held->n_user == 0 && held != plan;
    pthread_mutex_unlock(&lock);
    if (is_over) {
        headtap_plan_free(held);
    }
}

/* The number of the plan in force, 0: there is none. */
static int generation(void) {
    pthread_mutex_lock(&lock);
    const int found = plan ? plan->generation : 0;
    pthread_mutex_unlock(&lock);
    return found;
}

const char * headtap_preload_set_plan(const void * bytes, size_t n_byte) {
    static int n_plan;
    const char * problem;
    struct headtap_plan * next = headtap_plan_read(bytes, n_byte, &problem);
    if (!next) {
        return problem;
    }
    pthread_mutex_lock(&lock);
    struct headtap_plan * last = plan;
    next->generation = ++n_plan;
    plan = next;
    const bool is_over = last && last->n_user == 0;
    pthread_mutex_unlock(&lock);
    if (is_over) {
        headtap_plan_free(last);
    }
    return NULL;
}

char * headtap_preload_settings(void) {
    pthread_mutex_lock(&lock);
    char * copy = plan ? strdup(plan->settings) : NULL;
    pthread_mutex_unlock(&lock);
    return copy;
}

#ifdef __APPLE__
/* The linker keeps the real names free; the table below asks dyld to call these instead. */
#define STANDS_IN(name) candor_##name
#else
#define STANDS_IN(name) name
#endif

/* ---- the host --------------------------------------------------------------------------- */

void * headtap_function_near(const void * caller, const char * name, const void * own, void ** library) {
    Dl_info info;
    if (dladdr(caller, &info) && info.dli_fname) {
        void * handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        void * found  = handle ? dlsym(handle, name) : NULL;
        if (found && found != own) {
            if (library) {
                *library = handle;
            }
            return found;
        }
    }
    if (library) {
        *library = RTLD_NEXT;
    }
    return dlsym(RTLD_NEXT, name);
}

/* Finds the host's functions on the first call, and proves its layout. */
static bool open_host(const void * caller) {
    pthread_mutex_lock(&lock);
    if (was_tried) {
        const bool found = is_open;
        pthread_mutex_unlock(&lock);
        return found;
    }
    was_tried = true;
    void * library = NULL;
    *(void **) &host.set_callback = headtap_function_near(caller, "ggml_backend_sched_set_eval_callback",
                                                          (const void *) STANDS_IN(ggml_backend_sched_set_eval_callback), &library);
    *(void **) &host.compute = dlsym(library, "ggml_backend_sched_graph_compute_async");
    *(void **) &host.free    = dlsym(library, "ggml_backend_sched_free");
    const char * problem = host.set_callback && host.compute && host.free ? headtap_host_open(library) : "its scheduler has other functions";
    is_open = problem == NULL;
    pthread_mutex_unlock(&lock);
    if (problem) {
        headtap_preload_say("steering nothing: this llama.cpp is not the one that was expected (%s)", problem);
    }
    return problem == NULL;
}

/* ---- entries ---------------------------------------------------------------------------- */

static struct entry * entry_of(ggml_backend_sched_t sched, bool make) {
    pthread_mutex_lock(&lock);
    struct entry * entry = entries;
    while (entry && entry->sched != sched) {
        entry = entry->next;
    }
    if (!entry && make) {
        entry = calloc(1, sizeof(*entry));
        if (entry) {
            entry->sched = sched;
            entry->next  = entries;
            entries      = entry;
        }
    }
    pthread_mutex_unlock(&lock);
    return entry;
}

static struct entry * take_entry(ggml_backend_sched_t sched) {
    pthread_mutex_lock(&lock);
    struct entry ** at = &entries;
    while (*at && (*at)->sched != sched) {
        at = &(*at)->next;
    }
    struct entry * entry = *at;
    if (entry) {
        *at = entry->next;
    }
    pthread_mutex_unlock(&lock);
    return entry;
}

bool headtap_preload_steers(void) {
    bool any = false;
    pthread_mutex_lock(&lock);
    for (const struct entry * entry = entries; entry; entry = entry->next) {
        any = any || entry->verdict == STEERED;
    }
    pthread_mutex_unlock(&lock);
    return any;
}

/* ---- what stands in for the host's functions ---------------------------------------------- */

static enum ggml_status steer(struct entry * entry, struct ggml_cgraph * graph, const struct headtap_plan * p) {
    if (!headtap_entry_prepare(entry, graph, p)) {
        if (entry->verdict == LEFT_ALONE) {
            host.set_callback(entry->sched, entry->callback, entry->user_data);
        }
        return host.compute(entry->sched, graph);
    }
    const int32_t n_token = headtap_entry_rows(entry, p);
    const struct headtap_pass pass = { .n_token = n_token, .rows = entry->rows, .outputs = entry->outputs };
    const enum headtap_status begun = headtap_begin(entry->tap, &pass);
    const enum ggml_status status = host.compute(entry->sched, graph);
    const enum headtap_status ended = begun == HEADTAP_OK ? headtap_end(entry->tap) : begun;
    if (status == GGML_STATUS_SUCCESS && ended != HEADTAP_OK) {
        headtap_preload_say("the last answer may not be steered: layer %d, status %d", (int) headtap_failed_layer(entry->tap), (int) ended);
    }
    return status;
}

static enum ggml_status compute(ggml_backend_sched_t sched, struct ggml_cgraph * graph) {
    struct entry * entry = entry_of(sched, false);
    if (!entry || entry->verdict == LEFT_ALONE) {
        return host.compute(sched, graph);
    }
    struct headtap_plan * held = hold_plan();
    const enum ggml_status status = held ? steer(entry, graph, held) : host.compute(sched, graph);
    if (held) {
        let_go(held);
    }
    return status;
}

__attribute__((visibility("default"))) void STANDS_IN(ggml_backend_sched_set_eval_callback)(ggml_backend_sched_t sched, eval_callback callback, void * user_data) {
    if (!open_host(__builtin_return_address(0))) {
        if (host.set_callback) {
            host.set_callback(sched, callback, user_data);
        }
        return;
    }
    headtap_preload_listen();
    const int now = generation();
    struct entry * entry = now ? entry_of(sched, true) : NULL;
    if (entry) {
        entry->callback  = callback;
        entry->user_data = user_data;
        entry->fresh     = true;
    }
    if (entry && entry->verdict == LEFT_ALONE && entry->generation != now) {
        entry->verdict = UNKNOWN; /* another plan may be meant for it */
    }
    if (!entry || entry->verdict == LEFT_ALONE) {
        host.set_callback(sched, callback, user_data);
        return;
    }
    host.set_callback(sched, headtap_entry_eval, entry);
}

__attribute__((visibility("default"))) enum ggml_status STANDS_IN(ggml_backend_sched_graph_compute_async)(ggml_backend_sched_t sched, struct ggml_cgraph * graph) {
    if (is_open) {
        return compute(sched, graph);
    }
    static compute_fn found;
    if (!found) {
        *(void **) &found = headtap_function_near(__builtin_return_address(0), "ggml_backend_sched_graph_compute_async",
                                                  (const void *) STANDS_IN(ggml_backend_sched_graph_compute_async), NULL);
    }
    return found ? found(sched, graph) : GGML_STATUS_FAILED;
}

__attribute__((visibility("default"))) void STANDS_IN(ggml_backend_sched_free)(ggml_backend_sched_t sched) {
    static free_fn found;
    free_fn freed = is_open ? host.free : found;
    if (!freed) {
        *(void **) &found = headtap_function_near(__builtin_return_address(0), "ggml_backend_sched_free",
                                                  (const void *) STANDS_IN(ggml_backend_sched_free), NULL);
        freed = found;
    }
    struct entry * entry = sched ? take_entry(sched) : NULL;
    if (freed) {
        freed(sched);
    }
    if (entry) {
        headtap_entry_clear(entry);
        free(entry);
    }
}

#ifdef __APPLE__
#define INTERPOSE(name)                                                                      \
    __attribute__((used, section("__DATA,__interpose"))) static const void * interpose_##name[2] = { \
        (const void *) candor_##name, (const void *) name }
INTERPOSE(ggml_backend_sched_set_eval_callback);
INTERPOSE(ggml_backend_sched_graph_compute_async);
INTERPOSE(ggml_backend_sched_free);
#endif

/* ---- life ------------------------------------------------------------------------------- */

/* Whether this is the process that was asked for, and not one that it started. */
static bool is_the_one(void) {
    const char * pid = getenv("CANDOR_PLAN_PID");
    return pid && strtol(pid, NULL, 10) == (long) getpid();
}

/* Programs close stderr before libraries are unloaded: a copy of it, or -1. */
static int last_words = -1;

__attribute__((constructor)) static void load_plan(void) {
    const char * path = getenv("CANDOR_PLAN");
    if (!path) {
        return;
    }
    if (is_the_one()) {
        last_words = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 64);
    }
    FILE * file = fopen(path, "rb");
    char * bytes = NULL;
    long n = -1;
    if (file && fseek(file, 0, SEEK_END) == 0 && (n = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0) {
        bytes = malloc((size_t) n + 1);
    }
    const bool read = bytes && fread(bytes, 1, (size_t) n, file) == (size_t) n;
    const char * problem = read ? headtap_preload_set_plan(bytes, (size_t) n) : "it cannot be read";
    if (file) {
        fclose(file);
    }
    free(bytes);
    if (problem && is_the_one()) {
        fprintf(stderr, "candor: steering nothing: %s: %s\n", path, problem);
    }
}

__attribute__((destructor)) static void leave(void) {
    headtap_preload_hang_up();
    if (!is_the_one()) {
        return;
    }
    unlink(getenv("CANDOR_PLAN"));
    if (!was_tried && generation() && last_words >= 0) {
        dprintf(last_words, "candor: nothing was steered: this program computed nothing with a llama.cpp that candor can steer\n");
    }
}
