/* fuzz_config.c - any bytes as a configuration: read by the reader of each component. */
#include "fuzz.h"
#include "weights/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qw_error err = { 0 };
    json_t *json = NULL;
    qw_store *s = NULL;
    const char *path = fuzz_file("config.json", data, size);
    if (!path || qw_json_file(path, &json, &err)) return 0;
    if (!qw_store_new(&s, &err)) {
        qw_text_config text;
        qw_vision_config vision;
        qw_dit_config dit;
        qw_vae_config vae;
        qw_schedule_config schedule;
        qw_error e[5] = { { 0 } };
        qw_text_configure(&text, json, s, "config.json", &e[0]);
        qw_vision_configure(&vision, json, json, s, "config.json", &e[1]);
        qw_dit_configure(&dit, json, s, "config.json", &e[2]);
        qw_vae_configure(&vae, json, s, "config.json", &e[3]);
        qw_schedule_configure(&schedule, json, "config.json", &e[4]);
    }
    qw_store_free(s);
    json_decref(json);
    return 0;
}
