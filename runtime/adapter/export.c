// export.c: models and adapters in other programs' formats.
//
//   a model, merged with its adapter, as a Hugging Face folder   tl_model_save, tl_model_export
//                                     as a GGUF file             tl_model_export
//   an adapter as a llama.cpp LoRA    (GGUF)                     tl_adapter_save_gguf
//
// Merged values are W + dW in fp32, rounded once to the file's type (merge.c). The tokenizer goes along: between folders and
// between GGUF files as it is, from one to the other by runtime/text. Every file appears whole or not at all.
#include "../base/gguf.h"
#include "../text/tokenizer.h"
#include "adapter.h"

static tl_status check_pair(const tl_model *m, const tl_adapter *a) {
  return !a || a->model == m ? TL_OK : tl_fail(TL_E_ARG, "export: the adapter was made for another model");
}

// ---------------------------------------------------------------- Hugging Face

typedef struct texts {
  char *json, *config;
} texts;

static tl_status write_text(const char *dir, const char *name, const char *text) {
  char path[4096];
  if (!text)
    return TL_OK;
  if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
    return tl_fail(TL_E_ARG, "%s: path too long", dir);
  return tl_write_file(path, text, strlen(text));
}

// strict: a tokenizer that cannot be written is an error, before anything is written
static tl_status save_folder(const tl_model *m, const tl_adapter *a, const char *dir, tl_dtype dtype, bool tokenizer,
                             bool strict) {
  texts t = {0};
  if (tokenizer && strcmp(m->format, "gguf") == 0) {
    tl_status st = tl_tokenizer_to_json(m->path, &t.json, &t.config);
    if (st != TL_OK && strict)
      return st;
  }
  tl_merged s = {m, a};
  tl_status st = tl_model_write(m, tl_merged_part, &s, dir, dtype, tokenizer);
  if (st == TL_OK)
    st = write_text(dir, "tokenizer.json", t.json);
  if (st == TL_OK)
    st = write_text(dir, "tokenizer_config.json", t.config);
  free(t.json);
  free(t.config);
  return st;
}

tl_status tl_model_save(const tl_model *m, const tl_adapter *a, const char *dir, tl_dtype dtype) {
  TL_TRY(check_pair(m, a));
  TL_TRY(tl_whole_only(m, "saving a model"));
  return save_folder(m, a, dir, dtype, true, false);
}

// ---------------------------------------------------------------- GGUF

static tl_status collect_gguf(const tl_model *m, int type, bool tokenizer, tl_gguf_writer *w) {
  bool with_ids = false;
  int eos = -1;
  TL_TRY(tl_model_gguf_keys(m, type, w));
  if (tokenizer)
    TL_TRY(tl_tokenizer_to_gguf(m->path, m->cfg.vocab, w, &with_ids, &eos));
  else
    tl_gguf_put_string(w, "tokenizer.ggml.model", "none");
  return with_ids ? TL_OK : tl_model_gguf_ids(m, eos, w);
}

static tl_status save_gguf(const tl_model *m, const tl_adapter *a, const char *path, int type, bool tokenizer) {
  tl_gguf_writer w = {0};
  tl_merged s = {m, a};
  tl_status st = collect_gguf(m, type, tokenizer, &w);
  if (st == TL_OK)
    st = tl_model_gguf_write(m, tl_merged_part, &s, path, type, &w);
  tl_gguf_writer_free(&w);
  return st;
}

tl_status tl_model_export(const tl_model *m, const tl_adapter *a, const char *path, const char *format, const char *dtype,
                          bool tokenizer) {
  TL_TRY(check_pair(m, a));
  TL_TRY(tl_whole_only(m, "exporting a model"));
  int type = tl_quant_named(dtype);
  if (strcmp(format, "gguf") == 0) {
    if (type < 0)
      return tl_fail(TL_E_ARG, "dtype %.40s is not written as GGUF: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1", dtype);
    return save_gguf(m, a, path, type, tokenizer);
  }
  if (strcmp(format, "hf") != 0)
    return tl_fail(TL_E_ARG, "format %.40s is not hf or gguf", format);
  if (type != TL_GGML_F32 && type != TL_GGML_F16 && type != TL_GGML_BF16)
    return tl_fail(TL_E_ARG, "dtype %.40s is not written as a Hugging Face folder: f32, f16 or bf16", dtype);
  return save_folder(m, a, path, type == TL_GGML_F32 ? TL_F32 : type == TL_GGML_F16 ? TL_F16 : TL_BF16, tokenizer, true);
}

// ---------------------------------------------------------------- llama.cpp's LoRA

// llama.cpp computes W x + (adapter.lora.alpha / r) lora_b (lora_a x), r being the rows of lora_a; the rows of q's and k's
// lora_b stand in the order of the rows that they are added to. A LoRA whose modules share one alpha is written as it is.
// Anything else is folded: lora_a = A, lora_b = B R (summed in double), both padded with zeros to one rank r, and alpha = r, a
// factor of 1.
typedef struct lora {
  const tl_adapter *a;
  bool fold;
} lora;

static int lora_rank(const lora *l, int i) {
  return l->fold ? l->a->rank : l->a->modules[i].rank;
}
static float alpha_of(const tl_adapter_module *m) {
  return m->scale * (float)m->rank;
}

static void fill_row_b(const lora *l, const tl_adapter_module *m, size_t row, float *to, int width) {
  const float *b = m->B + row * (size_t)m->rank;
  for (int q = 0; q < width; q++) {
    double sum = l->fold ? 0 : b[q];
    for (int k = 0; l->fold && q < m->rank && k < m->rank; k++)
      sum += (double)b[k] * m->R[k * m->rank + q];
    to[q] = (float)sum;
  }
}

static tl_status fill_lora(void *ctx, size_t i, uint8_t *dst) {
  const lora *l = ctx;
  const tl_adapter_module *m = &l->a->modules[i / 2];
  const tl_config *c = &l->a->model->cfg;
  int kind = m->module % TL_N_KINDS, width = lora_rank(l, (int)(i / 2));
  size_t out = (size_t)tl_linear_out(c, kind), in = (size_t)tl_linear_in(c, kind);
  if (i % 2 == 0) {
    memset(dst, 0, (size_t)width * in * sizeof(float));
    memcpy(dst, m->A, (size_t)m->rank * in * sizeof(float));
    return TL_OK;
  }
  tl_part p = {.role = TL_PART_WEIGHT, .layer = m->module / TL_N_KINDS, .kind = kind};
  int heads = tl_part_permuted_heads(c, &p);
  for (size_t row = 0; row < out; row++)
    fill_row_b(l, m, row, (float *)dst + tl_permuted_row(heads, row, out) * (size_t)width, width);
  return TL_OK;
}

tl_status tl_adapter_save_gguf(const tl_adapter *a, const char *path) {
  if (a->kind == TL_FULL)
    return tl_fail(TL_E_UNSUPPORTED, "%s: full finetuning is no LoRA: export the model itself", path);
  const tl_config *c = &a->model->cfg;
  lora l = {a, a->kind != TL_LORA};
  for (int i = 1; i < a->n_modules; i++)
    l.fold |= alpha_of(&a->modules[i]) != alpha_of(&a->modules[0]);
  tl_gguf_writer w = {0};
  tl_gguf_put_string(&w, "general.architecture", c->family->gguf_arch);
  tl_gguf_put_string(&w, "general.type", "adapter");
  tl_gguf_put_string(&w, "adapter.type", "lora");
  tl_gguf_put_f32(&w, "adapter.lora.alpha", l.fold ? (float)a->rank : alpha_of(&a->modules[0]));
  for (int i = 0; i < a->n_modules; i++) {
    int module = a->modules[i].module, kind = module % TL_N_KINDS;
    tl_part p = {.role = TL_PART_WEIGHT, .layer = module / TL_N_KINDS, .kind = kind};
    char name[128], full[160];
    tl_part_gguf_name(name, sizeof name, &p);
    snprintf(full, sizeof full, "%s.lora_a", name);
    tl_gguf_put_tensor(&w, full, TL_GGML_F32, lora_rank(&l, i), tl_linear_in(c, kind));
    snprintf(full, sizeof full, "%s.lora_b", name);
    tl_gguf_put_tensor(&w, full, TL_GGML_F32, tl_linear_out(c, kind), lora_rank(&l, i));
  }
  tl_status st = tl_gguf_write(&w, path, fill_lora, &l);
  tl_gguf_writer_free(&w);
  return st;
}
