/* headtap: a stranger's ggml, found at run time and held against the headers. */
#include "headtap_host.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

struct headtap_host headtap_host;

static char difference[160];

static const char * differs(const char * what) {
    snprintf(difference, sizeof(difference), "its %s", what);
    return difference;
}

/* sizeof(struct ggml_object), which ggml_tensor_overhead counts and no header declares. */
enum { OBJECT_SIZE = 32 };

/* Operations that the tap reads or writes, by their numbers here and their names there. */
static const char * check_operations(void) {
    static const struct {
        enum ggml_op op;
        const char * name;
    } expected[] = {
        { GGML_OP_NONE, "NONE" },     { GGML_OP_DUP, "DUP" },           { GGML_OP_ADD, "ADD" },
        { GGML_OP_ADD_ID, "ADD_ID" }, { GGML_OP_MUL_MAT, "MUL_MAT" },   { GGML_OP_MUL_MAT_ID, "MUL_MAT_ID" },
        { GGML_OP_CPY, "CPY" },       { GGML_OP_CONT, "CONT" },         { GGML_OP_RESHAPE, "RESHAPE" },
        { GGML_OP_VIEW, "VIEW" },     { GGML_OP_PERMUTE, "PERMUTE" },   { GGML_OP_TRANSPOSE, "TRANSPOSE" },
        { GGML_OP_GET_ROWS, "GET_ROWS" },
    };
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); ++i) {
        if (strcmp(ggml_op_name(expected[i].op), expected[i].name) != 0) {
            return differs("numbers of operations are others");
        }
    }
    if (strcmp(ggml_type_name(GGML_TYPE_F32), "f32") != 0 || strcmp(ggml_type_name(GGML_TYPE_I32), "i32") != 0) {
        return differs("numbers of types are others");
    }
    return NULL;
}

/* Makes tensors by the host's functions and reads them by this file's structs. */
static const char * check_tensors(struct ggml_context * ctx) {
    struct ggml_tensor * t = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, 6, 5, 7);
    if (!t || ggml_nelements(t) != 6 * 5 * 7 || ggml_nbytes(t) != 6 * 5 * 7 * sizeof(float)) {
        return differs("tensors cannot be made");
    }
    if (t->type != GGML_TYPE_F32 || t->ne[0] != 6 || t->ne[1] != 5 || t->ne[2] != 7 || t->ne[3] != 1) {
        return differs("tensors keep type and shape elsewhere");
    }
    if (t->nb[0] != 4 || t->nb[1] != 24 || t->nb[2] != 120 || t->nb[3] != 840) {
        return differs("tensors keep strides elsewhere");
    }
    ggml_set_name(t, "kqv_out-12345");
    if (ggml_get_name(t) != t->name || strcmp(t->name, "kqv_out-12345") != 0) {
        return differs("tensors keep names elsewhere");
    }
    if (t->op != GGML_OP_NONE || t->view_src || t->src[0] || t->src[GGML_MAX_SRC - 1]) {
        return differs("tensors keep sources elsewhere");
    }
    struct ggml_tensor * view = ggml_view_1d(ctx, t, 6, 24);
    if (view->op != GGML_OP_VIEW || view->view_src != t || view->view_offs != 24 || view->src[0] != t) {
        return differs("views are kept otherwise");
    }
    struct ggml_tensor * flat = ggml_reshape_2d(ctx, t, 30, 7);
    if (flat->op != GGML_OP_RESHAPE || flat->view_src != t || flat->view_offs != 0 || flat->src[0] != t) {
        return differs("reshapes are kept otherwise");
    }
    struct ggml_tensor * scaled = ggml_scale(ctx, t, 0.15625f);
    float factor;
    memcpy(&factor, scaled->op_params, sizeof(factor));
    if (factor != 0.15625f) {
        return differs("tensors keep parameters elsewhere");
    }
    struct ggml_tensor * a    = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 6, 3);
    struct ggml_tensor * bank = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 6, 4);
    struct ggml_tensor * ids  = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 3, 1);
    struct ggml_tensor * sum  = ggml_add_id(ctx, a, bank, ids);
    if (sum->op != GGML_OP_ADD_ID || sum->src[0] != a || sum->src[1] != bank || sum->src[2] != ids || sum->src[3]) {
        return differs("ADD_ID takes other sources");
    }
    return NULL;
}

/* Where memory stands that a buffer gave. */
static const char * check_memory(struct ggml_context * ctx) {
    struct ggml_tensor  * t      = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 8);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, ggml_backend_cpu_buffer_type());
    if (!buffer) {
        return differs("buffers cannot be made");
    }
    const float written = 0.625f;
    float read = 0.0f;
    const bool placed = t->buffer == buffer && t->data && t->data == ggml_get_data(t);
    if (placed) {
        ggml_backend_tensor_set(t, &written, 4, sizeof(written));
        ggml_backend_tensor_get(t, &read, 4, sizeof(read));
    }
    const bool same = placed && read == written && ((const float *) t->data)[1] == written;
    ggml_backend_buffer_free(buffer);
    return same ? NULL : differs("tensors keep their memory elsewhere");
}

static const char * check_with(const char * (*check)(struct ggml_context *)) {
    const struct ggml_init_params params = { .mem_size = 64 * 1024, .mem_buffer = NULL, .no_alloc = true };
    struct ggml_context * ctx = ggml_init(params);
    if (!ctx) {
        return differs("contexts cannot be made");
    }
    const bool as_asked = ggml_get_mem_size(ctx) >= params.mem_size && ggml_get_no_alloc(ctx);
    const char * found  = as_asked ? check(ctx) : differs("contexts take other parameters");
    ggml_free(ctx);
    return found;
}

const char * headtap_host_open(void * library) {
#define HEADTAP_HOST_FIND(name)                                                                   \
    *(void **) &headtap_host.name##_at = dlsym(library, #name);                                        \
    if (!headtap_host.name##_at) {                                                                     \
        return differs("library has no " #name);                                                  \
    }
    HEADTAP_HOST_FUNCTIONS(HEADTAP_HOST_FIND)
#undef HEADTAP_HOST_FIND
    if (ggml_tensor_overhead() != OBJECT_SIZE + sizeof(struct ggml_tensor)) {
        return differs("tensors have another size");
    }
    const char * found = check_operations();
    found = found ? found : check_with(check_tensors);
    return found ? found : check_with(check_memory);
}
