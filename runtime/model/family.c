// family.c: the model families as a table of their differences, and the list of a model's parts with their names.
#include "model.h"

static const tl_family families[] = {
    {.name = "llama", .qkv_bias = false, .gguf_permuted = true, .hf_class = "LlamaForCausalLM", .bos = 1, .eos = 2,
     .max_positions = 2048},
    {.name = "qwen2", .qkv_bias = true, .gguf_permuted = false, .hf_class = "Qwen2ForCausalLM", .bos = -1, .eos = -1,
     .max_positions = 32768},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const tl_family *tl_family_find(const char *name) {
  for (int i = 0; i < N_FAMILIES; i++)
    if (strcmp(families[i].name, name) == 0) return &families[i];
  return NULL;
}

void tl_family_list(char *out, size_t n) {
  size_t at = 0;
  for (int i = 0; i < N_FAMILIES && at < n; i++)
    at += (size_t)snprintf(out + at, n - at, "%s%s", i ? ", " : "", families[i].name);
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
  case TL_PART_FINAL_NORM: snprintf(out, n, "model.norm.weight"); break;
  case TL_PART_HEAD: snprintf(out, n, "lm_head.weight"); break;
  default:
    tl_module_name(module, sizeof module, p->layer * TL_N_KINDS + p->kind);
    snprintf(out, n, "%s.%s", module, p->role == TL_PART_BIAS ? "bias" : "weight");
  }
}

// q, k and v have biases in Qwen2; with attention_bias q, k, v and o have them in Llama
static bool has_bias(const tl_config *c, int kind) {
  if (kind <= TL_V) return c->family->qkv_bias || c->attention_bias;
  return kind == TL_O && c->attention_bias && !c->family->qkv_bias;
}

tl_status tl_parts_list(const tl_config *c, tl_part **parts, int *n) {
  size_t most = (size_t)c->n_layers * (2 + 2 * TL_N_KINDS) + 3;
  tl_part *list = calloc(most, sizeof *list), *p = list;
  if (!list) return tl_fail(TL_E_MEMORY, "out of memory: the list of a model's %zu parts", most);
  *p++ = (tl_part){.role = TL_PART_EMBED, .rows = c->vocab, .cols = c->width};
  for (int l = 0; l < c->n_layers; l++) {
    *p++ = (tl_part){.role = TL_PART_NORM1, .layer = l, .rows = c->width};
    *p++ = (tl_part){.role = TL_PART_NORM2, .layer = l, .rows = c->width};
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
