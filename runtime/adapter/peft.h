// peft.h: what saving and loading PEFT directories share.
//
// A directory holds adapter_config.json (sorted keys, indent 2) and adapter_model.safetensors. Beside what PEFT wants, the
// container's metadata has one key "tlrun" (a JSON object), which PEFT does not look at:
//   {"groups": [group of each module], "kind": "tinylora", "seed": "17", "sigma": "paper", "storage": "BF16", "u": 13}
//
// TinyLoRA and PEFT's weight_tying. PEFT's ratio t over N modules means G = max(1, round(N (1 - t))) groups of max(1, N / G)
// consecutive modules, the last taking the rest. Groups that lie like that are written so: tinylora_v.<g> is the g-th group's
// vector. Any other pattern is written in an equal form that PEFT can express: weight_tying 1, one vector of u' = u G numbers
// (the groups' vectors one after another), and for each module P (u', r, r) that is zero outside its own group's u matrices.
// The outputs, the trained numbers and their gradients are the same.
//
//   peft_config.c    adapter_config.json: which fields are understood, which modules it selects, patterns by module
//   peft_load.c      the tensors, into an adapter
//   peft_save.c      an adapter, out again
#ifndef TL_PEFT_H
#define TL_PEFT_H
#include "adapter.h"

#define TL_PEFT_PREFIX "base_model.model."
#define TL_PEFT_V "base_model.tinylora_v."
#define TL_PEFT_META "tlrun"

struct cJSON;
typedef struct tl_peft_config {
  char path[4096];
  struct cJSON *json;
  bool lora;              // peft_type LORA; else TINYLORA
} tl_peft_config;

// Reads DIR/adapter_config.json; every field that is set is one whose meaning is known and supported, or the call fails by
// name.
tl_status tl_peft_config_open(tl_peft_config *c, const char *dir);
void tl_peft_config_close(tl_peft_config *c);
// a number, a whole number of a field; fallback NaN: the field must be there
tl_status tl_peft_number(const tl_peft_config *c, const char *field, double low, double high, double fallback, double *out);
tl_status tl_peft_whole(const tl_peft_config *c, const char *field, int64_t low, int64_t high, double fallback, int64_t *out);
bool tl_peft_flag(const tl_peft_config *c, const char *field, bool fallback);
// Whether target_modules, exclude_modules, layers_to_transform and layers_pattern select a module, as PEFT decides it.
// target_modules null: *yes is true for all.
tl_status tl_peft_selects(const tl_peft_config *c, const char *module, bool *yes);

// rank_pattern or alpha_pattern: regular expressions over the end of a module's name; the first that matches counts
typedef struct tl_peft_patterns {
  int n;
  struct pcre2_real_code_8 **re;  // (n)
  double *value;                  // (n)
} tl_peft_patterns;
tl_status tl_peft_patterns_open(tl_peft_patterns *p, const tl_peft_config *c, const char *field, double low, double high);
void tl_peft_patterns_close(tl_peft_patterns *p);
double tl_peft_pattern(const tl_peft_patterns *p, const char *module, double fallback);

// groups of PEFT's ratio over n modules, and the group of the module at place i (round half to even, as Python)
int tl_peft_n_groups(int n, double weight_tying);
int tl_peft_group(int i, int n, int n_groups);
// "q_proj" of "model.layers.0.self_attn.q_proj"
const char *tl_peft_suffix(const char *module_name);
#endif
