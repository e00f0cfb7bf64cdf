/* Linked before ggml: its tensors seem to keep their memory elsewhere, as they would if a field of the
 * struct had moved. */
struct ggml_tensor;

void * ggml_get_data(const struct ggml_tensor * tensor) {
    return (void *) tensor;
}
