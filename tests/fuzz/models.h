// models.h: what several targets do with a path. See targets.h.
#ifndef FUZZ_MODELS_H
#define FUZZ_MODELS_H
#include <stdbool.h>

// Whether it was read:
bool fuzz_model_at(const char *path);     // inspects and loads a model
bool fuzz_tokenizer_at(const char *path); // loads a tokenizer, encodes and decodes a text with it, converts it
#endif
