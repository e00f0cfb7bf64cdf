/* What was found: for people on stderr, for programs as a line of JSON each. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

FILE *       json;
const char * label = "";
int          n_passed, n_failed;
char         last_error[512];

double distance(const float * a, const float * b, size_t n) {
    double most = 0.0, largest = 0.0;
    for (size_t i = 0; i < n; ++i) {
        const double difference = fabs((double) a[i] - (double) b[i]);
        if (!(difference <= most)) {
            most = isnan(difference) ? INFINITY : difference;
        }
        largest = fmax(largest, fabs((double) a[i]));
    }
    return most == 0.0 ? 0.0 : most / largest;
}

bool same_bits(const float * a, const float * b, size_t n) {
    return memcmp(a, b, n * sizeof(*a)) == 0;
}

static void put_text(const char * text) {
    fputc('"', json);
    for (; *text; ++text) {
        if (*text == '"' || *text == '\\') {
            fprintf(json, "\\%c", *text);
        } else if ((unsigned char) *text < 0x20) {
            fprintf(json, "\\u%04x", (unsigned) (unsigned char) *text);
        } else {
            fputc(*text, json);
        }
    }
    fputc('"', json);
}

void json_text(const char * key, const char * text) {
    if (json) {
        fprintf(json, ",\"%s\":", key);
        put_text(text ? text : "");
    }
}

void json_number(const char * key, double number) {
    if (!json) {
        return;
    }
    if (isfinite(number)) {
        fprintf(json, ",\"%s\":%.9g", key, number);
    } else {
        fprintf(json, ",\"%s\":null", key);
    }
}

void json_begin(const char * kind, const struct host * host) {
    if (!json) {
        return;
    }
    fprintf(json, "{\"kind\":");
    put_text(kind);
    json_text("label", label);
    json_text("driver", getenv("HEADTAP_DRIVER"));
    json_text("ggml", ggml_version());
    if (host) {
        const char * slash = strrchr(host->path, '/');
        json_text("device", ggml_backend_dev_name(host->place.device));
        json_text("model", slash ? slash + 1 : host->path);
        json_text("place", host->place.name);
    }
}

void json_end(void) {
    if (json) {
        fprintf(json, "}\n");
        fflush(json);
    }
}

static void count(const struct host * host, const char * name, bool passed) {
    n_passed += passed;
    n_failed += !passed;
    json_begin("check", host);
    json_text("name", name);
    if (json) {
        fprintf(json, ",\"passed\":%s", passed ? "true" : "false");
    }
}

bool verdict(const struct host * host, const char * name, double error, double bound) {
    const bool passed = error <= bound;
    count(host, name, passed);
    json_number("error", error);
    json_number("bound", bound);
    json_end();
    fprintf(stderr, "  %-6s %-62s %8.1e  (at most %.1e)\n", passed ? "ok" : "FAILED", name, error, bound);
    return passed;
}

bool verdict_is(const struct host * host, const char * name, bool passed, const char * problem) {
    count(host, name, passed);
    if (!passed) {
        json_text("problem", problem);
    }
    json_end();
    fprintf(stderr, "  %-6s %s%s%s\n", passed ? "ok" : "FAILED", name, passed ? "" : ": ", passed ? "" : problem);
    return passed;
}

void skipped(const struct host * host, const char * name, const char * why) {
    json_begin("skipped", host);
    json_text("name", name);
    json_text("why", why);
    json_end();
    fprintf(stderr, "  %-6s %s: %s\n", "skip", name, why);
}
