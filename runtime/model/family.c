// family.c: the model families as a table of their differences, and the list of a model's parts with their names.
#include "model.h"

// The defaults are those of the configuration classes of transformers.
static const tl_family families[] = {
    {.name = "llama", .hf_class = "LlamaForCausalLM", .gguf_arch = "llama", .gguf_permuted = true, .bias_key = true, .bos = 1,
     .eos = 2, .max_positions = 2048},
    {.name = "mistral", .hf_class = "MistralForCausalLM", .gguf_arch = "llama", .gguf_permuted = true,
     .window = TL_WINDOW_ALWAYS, .bos = 1, .eos = 2, .max_positions = 131072, .kv_heads = 8},
    {.name = "ministral", .hf_class = "MinistralForCausalLM", .gguf_arch = "llama", .gguf_permuted = true,
     .window = TL_WINDOW_ALWAYS, .bos = 1, .eos = 2, .max_positions = 131072, .kv_heads = 8},
    {.name = "qwen2", .hf_class = "Qwen2ForCausalLM", .gguf_arch = "qwen2", .qkv_bias = true, .window = TL_WINDOW_ASKED,
     .bos = -1, .eos = -1, .max_positions = 32768, .kv_heads = 32},
    {.name = "qwen3", .hf_class = "Qwen3ForCausalLM", .gguf_arch = "qwen3", .bias_key = true, .qk_norm = true,
     .window = TL_WINDOW_ASKED, .bos = -1, .eos = -1, .max_positions = 32768, .kv_heads = 32, .head_dim = 128},
    {.name = "smollm3", .hf_class = "SmolLM3ForCausalLM", .gguf_arch = "smollm3", .gguf_permuted = true, .bias_key = true,
     .bos = 128000, .eos = 128001, .max_positions = 32768, .kv_heads = 4, .theta = 2e6f, .tied = true, .unrotated_step = 4},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const tl_family *tl_family_find(const char *name) {
  for (int i = 0; i < N_FAMILIES; i++)
    if (strcmp(families[i].name, name) == 0) return &families[i];
  return NULL;
}

const tl_family *tl_family_of_gguf(const char *arch) {
  for (int i = 0; i < N_FAMILIES; i++)
    if (strcmp(families[i].gguf_arch, arch) == 0) return &families[i];
  return NULL;
}

void tl_family_list(char *out, size_t n, bool gguf) {
  size_t at = 0;
  for (int i = 0; i < N_FAMILIES && at < n; i++) {
    const char *name = gguf ? families[i].gguf_arch : families[i].name;
    if (!gguf || tl_family_of_gguf(name) == &families[i])
      at += (size_t)snprintf(out + at, n - at, "%s%s", i ? ", " : "", name);
  }
}

const char *const tl_kind_names[TL_N_KINDS] = {"q", "k", "v", "o", "gate", "up", "down"};

void tl_module_name(char *out, size_t n, int module) {
  static const char *const paths[TL_N_KINDS] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  snprintf(out, n, "model.layers.%d.%s", module / TL_N_KINDS, paths[module % TL_N_KINDS]);
}

void tl_part_name(char *out, size_t n, const tl_part *p) {
  char module[96];
  switch (p->role) {
  case TL_PART_EMBED: snprintf(out, n, "model.embed_tokens.weight"); break;
  case TL_PART_NORM1: snprintf(out, n, "model.layers.%d.input_layernorm.weight", p->layer); break;
  case TL_PART_NORM2: snprintf(out, n, "model.layers.%d.post_attention_layernorm.weight", p->layer); break;
  case TL_PART_NORM_Q: snprintf(out, n, "model.layers.%d.self_attn.q_norm.weight", p->layer); break;
  case TL_PART_NORM_K: snprintf(out, n, "model.layers.%d.self_attn.k_norm.weight", p->layer); break;
  case TL_PART_FINAL_NORM: snprintf(out, n, "model.norm.weight"); break;
  case TL_PART_HEAD: snprintf(out, n, "lm_head.weight"); break;
  default:
    tl_module_name(module, sizeof module, p->layer * TL_N_KINDS + p->kind);
    snprintf(out, n, "%s.%s", module, p->role == TL_PART_BIAS ? "bias" : "weight");
  }
}

static bool has_bias(const tl_config *c, int kind) {
  if (kind <= TL_V) return c->family->qkv_bias || c->attention_bias;
  return kind == TL_O && c->attention_bias;
}

tl_status tl_parts_list(const tl_config *c, tl_part **parts, int *n) {
  size_t most = (size_t)c->n_layers * (4 + 2 * TL_N_KINDS) + 3;
  tl_part *list = calloc(most, sizeof *list), *p = list;
  if (!list) return tl_fail(TL_E_MEMORY, "out of memory: the list of a model's %zu parts", most);
  *p++ = (tl_part){.role = TL_PART_EMBED, .rows = c->vocab, .cols = c->width};
  for (int l = 0; l < c->n_layers; l++) {
    *p++ = (tl_part){.role = TL_PART_NORM1, .layer = l, .rows = c->width};
    *p++ = (tl_part){.role = TL_PART_NORM2, .layer = l, .rows = c->width};
    if (c->family->qk_norm) {
      *p++ = (tl_part){.role = TL_PART_NORM_Q, .layer = l, .rows = c->head_dim};
      *p++ = (tl_part){.role = TL_PART_NORM_K, .layer = l, .rows = c->head_dim};
    }
    for (int k = 0; k < TL_N_KINDS; k++) {
      int out = tl_linear_out(c, k), in = tl_linear_in(c, k);
      *p++ = (tl_part){.role = TL_PART_WEIGHT, .layer = l, .kind = k, .rows = out, .cols = in};
      if (has_bias(c, k)) *p++ = (tl_part){.role = TL_PART_BIAS, .layer = l, .kind = k, .rows = out};
    }
  }
  *p++ = (tl_part){.role = TL_PART_FINAL_NORM, .rows = c->width};
  if (!c->tied) *p++ = (tl_part){.role = TL_PART_HEAD, .rows = c->vocab, .cols = c->width};
  *parts = list;
  *n = (int)(p - list);
  return TL_OK;
}
