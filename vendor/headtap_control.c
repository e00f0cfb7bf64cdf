/* headtap: a socket through which the plan of a running program is asked for and changed.
 *
 * A message is a letter, three zero bytes, a length (U32, little-endian) and as many bytes; the answer
 * is a length and as many bytes of text.
 *
 *     G  the settings of the plan in force, after two lines: what is going on; the number of tokens
 *        that were steered
 *     S  a plan (headtap_plan.h): "ok", or "error: " and why not
 *
 * The socket is <folder>/<pid>.sock, where the folder is $XDG_RUNTIME_DIR/candor or, without one,
 * /tmp/candor-<uid>; the folder belongs to the user and nobody else may enter it. One that a killed
 * program left behind is replaced.
 */
#include "headtap_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "headtap_preload.h"

enum { MAX_MESSAGE = 1 << 28, PATIENCE_SECONDS = 5 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool            was_asked;
static int             listener = -1;
static pid_t           owner;
static struct sockaddr_un address = { .sun_family = AF_UNIX };

static bool is_private(const char * folder) {
    struct stat found;
    return lstat(folder, &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() && (found.st_mode & 077) == 0;
}

static bool choose_address(void) {
    char folder[sizeof(address.sun_path)];
    const char * runtime = getenv("XDG_RUNTIME_DIR");
    const int n = runtime && runtime[0] == '/' ? snprintf(folder, sizeof(folder), "%s/candor", runtime)
                                               : snprintf(folder, sizeof(folder), "/tmp/candor-%u", (unsigned) geteuid());
    if (n < 0 || (size_t) n >= sizeof(folder) || (mkdir(folder, 0700) != 0 && errno != EEXIST) || !is_private(folder)) {
        return false;
    }
    const int m = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%ld.sock", folder, (long) getpid());
    return m > 0 && (size_t) m < sizeof(address.sun_path);
}

static bool receive(int peer, void * into, size_t n) {
    for (char * at = into; n > 0;) {
        const ssize_t got = recv(peer, at, n, 0);
        if (got <= 0 && !(got < 0 && errno == EINTR)) {
            return false;
        }
        at += got > 0 ? got : 0;
        n  -= got > 0 ? (size_t) got : 0;
    }
    return true;
}

static void answer(int peer, const char * text) {
    const uint32_t n = (uint32_t) strlen(text);
    const struct { const void * bytes; size_t n; } parts[] = { { &n, sizeof(n) }, { text, n } };
    for (size_t i = 0; i < 2; ++i) {
        const char * at = parts[i].bytes;
        for (size_t left = parts[i].n; left > 0;) {
            const ssize_t sent = send(peer, at, left, MSG_NOSIGNAL);
            if (sent <= 0) {
                return;
            }
            at   += sent;
            left -= (size_t) sent;
        }
    }
}

static void tell(int peer) {
    char     state[512];
    uint64_t n_token;
    headtap_preload_state(state, sizeof(state), &n_token);
    char * settings   = headtap_preload_settings();
    const size_t size = sizeof(state) + 32 + (settings ? strlen(settings) : 0);
    char * text       = malloc(size);
    if (text) {
        snprintf(text, size, "%s\n%llu\n%s", state, (unsigned long long) n_token, settings ? settings : "");
        answer(peer, text);
    }
    free(text);
    free(settings);
}

static void change(int peer, uint32_t n) {
    char * bytes = malloc((size_t) n + 1);
    if (bytes && receive(peer, bytes, n)) {
        const char * problem = headtap_preload_set_plan(bytes, n);
        char text[256];
        snprintf(text, sizeof(text), problem ? "error: %s" : "ok", problem);
        answer(peer, text);
    }
    free(bytes);
}

static void serve(int peer) {
    const struct timeval patience = { .tv_sec = PATIENCE_SECONDS };
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    char     letter[4];
    uint32_t n;
    if (!receive(peer, letter, sizeof(letter)) || !receive(peer, &n, sizeof(n)) || n > MAX_MESSAGE) {
        return;
    }
    if (letter[0] == 'G') {
        tell(peer);
    } else if (letter[0] == 'S') {
        change(peer, n);
    } else {
        answer(peer, "error: no such message");
    }
}

static void * listen_on(void * unused) {
    (void) unused;
    for (;;) {
        const int peer = accept(listener, NULL, NULL);
        if (peer >= 0) {
            serve(peer);
            close(peer);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return NULL;
        }
    }
}

void headtap_preload_listen(void) {
    pthread_mutex_lock(&lock);
    const bool first = !was_asked;
    was_asked = true;
    pthread_mutex_unlock(&lock);
    if (!first || !choose_address()) {
        return;
    }
    const int opened = socket(AF_UNIX, SOCK_STREAM, 0);
    if (opened < 0) {
        return;
    }
    unlink(address.sun_path);
    pthread_t thread;
    listener = opened;
    owner    = getpid();
    if (bind(opened, (const struct sockaddr *) &address, sizeof(address)) != 0 || chmod(address.sun_path, 0600) != 0 ||
        listen(opened, 4) != 0 || pthread_create(&thread, NULL, listen_on, NULL) != 0) {
        listener = -1;
        close(opened);
        unlink(address.sun_path);
        return;
    }
    pthread_detach(thread);
}

void headtap_preload_hang_up(void) {
    if (listener >= 0 && owner == getpid()) {
        unlink(address.sun_path);
    }
}
