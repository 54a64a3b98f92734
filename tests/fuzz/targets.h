// targets.h: the parsers of outside bytes, each as a function over one input. Shared by the coverage-guided fuzzers (main.c,
// ./dev fuzz) and by tests/unit/test_fuzz.c, which replays found/ and cuts every seed short at every length.
//
// A target returns when the input was read or refused. What it must never do: read or write outside its memory, take much more
// memory or time than the input is long, or fail without a message of one line; fuzz_refused aborts when the last is not so.
//
//   containers.c   safetensors, gguf (with its tokenizer, its config and every block type)
//   models.c       config, model (config.json and model.safetensors together), adapter (a PEFT directory), artifact (*.tla)
//   texts.c        tokenizer (tokenizer.json), yaml
//   scripts.c      jinja, json, hub: what Lua reads; limits and errors of the interpreter
#ifndef FUZZ_TARGETS_H
#define FUZZ_TARGETS_H
#include "../../runtime/base/base.h"

typedef void (*fuzz_put)(void *ctx, const char *name, const void *data, size_t n);

typedef struct fuzz_target {
  const char *name;
  bool (*run)(const uint8_t *data, size_t n); // whether it was read
  void (*seeds)(fuzz_put put, void *ctx);     // gives a few small inputs, which are read
  size_t max_bytes;                           // of an input
} fuzz_target;

extern const fuzz_target fuzz_safetensors, fuzz_gguf, fuzz_config, fuzz_model, fuzz_adapter, fuzz_artifact, fuzz_tokenizer,
    fuzz_yaml, fuzz_jinja, fuzz_json, fuzz_hub;
extern const fuzz_target *const fuzz_targets[]; // ends with NULL

// ---- files.c
// A folder of this process, made once and removed at exit; a path in it, valid until the eighth next call.
const char *fuzz_path(const char *name);
// Writes a file there and returns its path.
const char *fuzz_file(const char *name, const void *data, size_t n);
// Aborts unless s is a success or a failure that says in one line why.
void fuzz_refused(tl_status s);
// Two files in one input: u16 length of the first (little-endian), the first, the second.
void fuzz_split(const uint8_t *data, size_t n, size_t *first, const uint8_t **second, size_t *n_second);
void fuzz_put_pair(fuzz_put put, void *ctx, const char *name, const char *first_path, const char *second_path);
void fuzz_put_file(fuzz_put put, void *ctx, const char *name, const char *path);
// a file of the sources as a seed
void fuzz_put_source(fuzz_put put, void *ctx, const char *name, const char *path);
#endif
