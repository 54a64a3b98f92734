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
#ifndef TL_PEFT_H
#define TL_PEFT_H
#include "adapter.h"

#define TL_PEFT_PREFIX "base_model.model."
#define TL_PEFT_V "base_model.tinylora_v."
#define TL_PEFT_META "tlrun"

// groups of PEFT's ratio over n modules, and the group of the module at place i (round half to even, as Python)
int tl_peft_n_groups(int n, double weight_tying);
int tl_peft_group(int i, int n, int n_groups);
// "q_proj" of "model.layers.0.self_attn.q_proj"
const char *tl_peft_suffix(const char *module_name);
#endif
