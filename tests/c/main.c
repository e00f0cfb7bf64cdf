/* Checks the tap against the llama.cpp that this is linked with, on one of its devices, and measures
 * what it costs there.
 *
 *     headtap_test devices
 *     headtap_test DEVICE [--json FILE] [--label TEXT] [--cost MODEL]… [--rounds N] [--prompt N]
 *                  [--threads N] [--clock wall|processor] [--worker HOST:PORT]… MODEL…
 *
 * Every MODEL is checked, with one thread; every --cost MODEL is measured, with --threads. Workers
 * (`candor worker`, or llama.cpp's rpc-server) are devices, too: RPC0, RPC1, …; with two, models whose
 * tensors are split over both are checked. For people on stderr; a line of JSON per result to FILE
 * (`-`: stdout). The last line is `N passed, N failed`; the exit status is 0 where none failed, 1
 * where some did, 2 for a wrong call.
 */
#include <stdlib.h>
#include <string.h>

#include "test.h"

enum { MAX_MODEL = 64, MAX_WORKER = 4 };

struct call {
    const char * device;
    const char * models[MAX_MODEL];
    const char * costs[MAX_MODEL];
    const char * workers[MAX_WORKER];
    int n_model, n_cost, n_worker, n_round, n_prompt, n_threads;
};

/* llama.cpp's log is long; its complaints are kept for where something fails. */
static void keep_errors(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        snprintf(last_error, sizeof(last_error), "%s", text);
        last_error[strcspn(last_error, "\n")] = '\0';
    }
}

static int usage(void) {
    fprintf(stderr,
            "usage: headtap_test devices\n"
            "       headtap_test DEVICE [--json FILE] [--label TEXT] [--cost MODEL]... [--rounds N] [--prompt N]\n"
            "                    [--threads N] [--clock wall|processor] [--worker HOST:PORT]... MODEL...\n");
    return 2;
}

static int list_devices(void) {
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        size_t free_bytes = 0, total = 0;
        ggml_backend_dev_memory(device, &free_bytes, &total);
        printf("%s\t%s\t%zu MB free\n", ggml_backend_dev_name(device), ggml_backend_dev_description(device), free_bytes >> 20);
    }
    return 0;
}

static bool parse(int argc, char ** argv, struct call * call) {
    memset(call, 0, sizeof(*call));
    call->n_round  = 15;
    call->n_prompt = 512;
    call->n_threads = 4;
    call->device   = argc > 1 ? argv[1] : NULL;
    for (int i = 2; i < argc; ++i) {
        const char * word  = argv[i];
        const char * value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strncmp(word, "--", 2) != 0) {
            if (call->n_model == MAX_MODEL) {
                return false;
            }
            call->models[call->n_model++] = word;
            continue;
        }
        if (!value) {
            return false;
        }
        ++i;
        if (strcmp(word, "--json") == 0) {
            json = strcmp(value, "-") == 0 ? stdout : fopen(value, "a");
            if (!json) {
                perror(value);
                return false;
            }
        } else if (strcmp(word, "--label") == 0) {
            label = value;
        } else if (strcmp(word, "--rounds") == 0) {
            call->n_round = atoi(value);
        } else if (strcmp(word, "--prompt") == 0) {
            call->n_prompt = atoi(value);
        } else if (strcmp(word, "--clock") == 0) {
            use_processor_time = strcmp(value, "processor") == 0;
        } else if (strcmp(word, "--threads") == 0) {
            call->n_threads = atoi(value);
        } else if (strcmp(word, "--cost") == 0 && call->n_cost < MAX_MODEL) {
            call->costs[call->n_cost++] = value;
        } else if (strcmp(word, "--worker") == 0 && call->n_worker < MAX_WORKER) {
            call->workers[call->n_worker++] = value;
        } else {
            return false;
        }
    }
    /* threads of ggml's that wait count as busy */
    if (use_processor_time && call->n_threads != 1) {
        fprintf(stderr, "headtap_test: --clock processor needs --threads 1\n");
        return false;
    }
    /* prompts are whole tokens of 32 sequences, and fit a batch */
    return call->device && call->n_round > 0 && call->n_threads > 0 && call->n_prompt >= 64 && call->n_prompt <= 2048 && call->n_prompt % 32 == 0 &&
           call->n_model + call->n_cost > 0;
}

/* Says where this is measured, once. */
static void tell_machine(ggml_backend_dev_t device) {
    const char * driver = getenv("HEADTAP_DRIVER");
    size_t free_bytes = 0, total = 0;
    ggml_backend_dev_memory(device, &free_bytes, &total);
    fprintf(stderr, "%s: %s, %zu of %zu MB free; driver %s; ggml %s (%s)\n", ggml_backend_dev_name(device),
            ggml_backend_dev_description(device), free_bytes >> 20, total >> 20, driver ? driver : "not told", ggml_version(), ggml_commit());
    json_begin("machine", NULL);
    json_text("device", ggml_backend_dev_name(device));
    json_text("description", ggml_backend_dev_description(device));
    json_text("build", llama_print_system_info());
    json_number("memory_mb", (double) (total >> 20));
    json_end();
}

static bool opened(struct host * host, const char * path, struct place place) {
    if (open_host(host, path, place)) {
        fprintf(stderr, "%s, %s\n", path, place.name);
        return true;
    }
    host->path  = path;
    host->place = place;
    fprintf(stderr, "%s, %s\n", path, place.name);
    verdict_is(host, "loads", false, last_error[0] ? last_error : "llama.cpp does not take the model");
    close_host(host);
    return false;
}

/* Whether the tap can steer the model at all, and the layers lie where they were sent. */
static bool is_taken(const struct host * host) {
    const struct setting setting = { .flash = true, .cache = GGML_TYPE_F16, .n_ubatch = N_BATCH, .n_seq = 1, .unified = true };
    struct room room = { 0 };
    bool taken = open_room(&room, host, &setting, IN_GRAPH);
    if (!taken) {
        verdict_is(host, "every layer passes the tap", false, last_error[0] ? last_error : "it does not");
    } else if (refusal(&room)) {
        skipped(host, "steering", refusal(&room));
        taken = false;
    }
    const bool on_cpu = ggml_backend_dev_type(host->place.device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    const char * name = ggml_backend_dev_name(host->place.device);
    bool in_place = taken;
    for (int32_t il = 0; taken && il < host->n_layer && host->place.n_part == 0; ++il) {
        const char * device = headtap_device(room.tap, HEADTAP_HEADS, il);
        /* the output counts as one of the layers on the device */
        const bool here = on_cpu || host->place.n_on < 0 || il > host->n_layer - host->place.n_on;
        if (host->widths[il] > 0 && (!device || strcmp(device, here ? name : "CPU") != 0)) {
            fprintf(stderr, "    layer %d is on %s\n", (int) il, device ? device : "no device");
            in_place = false;
        }
    }
    if (taken) {
        verdict_is(host, "the layers are computed where they were sent", in_place, "see above");
    }
    close_room(&room);
    return taken;
}

static void check_model(const char * path, ggml_backend_dev_t device) {
    struct host host = { 0 };
    const bool on_cpu = ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    struct place place = { .name = "all layers", .device = device, .n_on = -1 };
    for (int half = 0; half < (on_cpu ? 1 : 2); ++half) {
        if (half) {
            place.name = "half of the layers";
            place.n_on = host.n_layer / 2 + 1;
            close_host(&host);
        }
        if (!opened(&host, path, place)) {
            return;
        }
        if (is_taken(&host)) {
            struct setting setting = { .flash = true, .cache = GGML_TYPE_F16, .n_ubatch = N_BATCH, .n_seq = 1, .unified = true };
            check_steering(&host, "flash attention", &setting);
            setting.cache = GGML_TYPE_Q8_0;
            check_steering(&host, "caches in Q8_0", &setting);
            setting = (struct setting) { .flash = false, .cache = GGML_TYPE_F16, .n_ubatch = N_BATCH, .n_seq = 1, .unified = true };
            check_steering(&host, "no flash attention", &setting);
            check_quantized(&host);
            check_sequences(&host);
        }
    }
    close_host(&host);
}

/* Puts the workers' devices into ggml's registry: RPC0, RPC1, … */
static bool add_workers(const struct call * call, ggml_backend_dev_t * parts) {
    typedef ggml_backend_reg_t (*add_server_t)(const char *);
    ggml_backend_reg_t rpc  = call->n_worker ? ggml_backend_reg_by_name("RPC") : NULL;
    add_server_t add_server = rpc ? (add_server_t) ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server") : NULL;
    for (int i = 0; i < call->n_worker; ++i) {
        ggml_backend_reg_t reg = add_server ? add_server(call->workers[i]) : NULL;
        if (!reg) {
            fprintf(stderr, "headtap_test: no worker at %s, or a llama.cpp without RPC\n", call->workers[i]);
            return false;
        }
        ggml_backend_register(reg);
        parts[i] = ggml_backend_reg_dev_get(reg, 0);
    }
    return true;
}

/* Tensors split over the workers, beside the same model in one piece. */
static void check_split_model(const char * path, ggml_backend_dev_t device, ggml_backend_dev_t * parts, int n_part) {
    struct host split, whole;
    struct place place = { .name = "all layers", .device = device, .n_on = -1 };
    if (!opened(&whole, path, place)) {
        return;
    }
    place = (struct place) { .name = "tensors split", .device = device, .parts = parts, .n_part = n_part };
    if (opened(&split, path, place)) {
        if (is_taken(&split)) {
            check_split(&split, &whole);
        }
        close_host(&split);
    }
    close_host(&whole);
}

int main(int argc, char ** argv) {
    struct call call;
    llama_log_set(keep_errors, NULL);
    ggml_backend_load_all();
    llama_backend_init();
    if (argc == 2 && strcmp(argv[1], "devices") == 0) {
        return list_devices();
    }
    if (!parse(argc, argv, &call)) {
        return usage();
    }
    static ggml_backend_dev_t parts[MAX_WORKER];
    if (!add_workers(&call, parts)) {
        return 2;
    }
    ggml_backend_dev_t device = ggml_backend_dev_by_name(call.device);
    if (!device) {
        fprintf(stderr, "headtap_test: there is no device %s; `headtap_test devices` lists them\n", call.device);
        return 2;
    }
    tell_machine(device);
    for (int i = 0; i < call.n_model; ++i) {
        check_model(call.models[i], device);
        if (call.n_worker > 1) {
            check_split_model(call.models[i], device, parts, call.n_worker);
        }
    }
    for (int i = 0; i < call.n_cost; ++i) {
        struct host host;
        const struct place place = { .name = "all layers", .device = device, .n_on = -1 };
        if (opened(&host, call.costs[i], place)) {
            measure_cost(&host, call.n_round, call.n_prompt, call.n_threads);
            close_host(&host);
        }
    }
    llama_backend_free();
    fprintf(stderr, "%d passed, %d failed\n", n_passed, n_failed);
    if (json && json != stdout) {
        fclose(json);
    }
    return n_failed > 0;
}
