// containers.c: safetensors and GGUF. See targets.h.
#include "../../runtime/base/gguf.h"
#include "../../runtime/base/safetensors.h"
#include "../../runtime/model/load.h"
#include "models.h"
#include "targets.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile uint8_t sink; // what is read is used

static void touch(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i += 64)
    sink ^= p[i];
  if (n)
    sink ^= p[n - 1];
}

// ---------------------------------------------------------------- safetensors

static bool run_safetensors(const uint8_t *data, size_t n) {
  tl_safetensors s;
  tl_status status = tl_safetensors_open(&s, fuzz_file("x.safetensors", data, n));
  fuzz_refused(status);
  if (status != TL_OK)
    return false;
  for (size_t i = 0; i < s.n; i++) {
    touch(s.tensors[i].data, s.tensors[i].bytes);
    if (tl_safetensors_find(&s, s.tensors[i].name) == NULL)
      abort();
  }
  tl_safetensors_metadata(&s, "format");
  tl_safetensors_close(&s);
  return true;
}

static void seed_safetensors(fuzz_put put, void *ctx) {
  float x[6] = {1, 2, 3, 4, 5, 6};
  tl_st_entry e[] = {{.name = "a", .dtype = TL_F32, .n_dims = 2, .shape = {2, 3}, .data = x},
                     {.name = "b.c", .dtype = TL_BF16, .n_dims = 1, .shape = {4}, .data = x},
                     {.name = "scalar", .dtype = TL_F32, .data = x}};
  if (tl_safetensors_write(fuzz_path("seed.safetensors"), e, 3, NULL, NULL, NULL) != TL_OK)
    abort();
  fuzz_put_file(put, ctx, "three", fuzz_path("seed.safetensors"));
}

const fuzz_target fuzz_safetensors = {"safetensors", run_safetensors, seed_safetensors, 4096};

// ---------------------------------------------------------------- gguf

static void read_values(const tl_gguf *g) {
  for (size_t i = 0; i < g->n_kv; i++) {
    char key[256];
    size_t n = g->kv[i].key.n < sizeof key - 1 ? g->kv[i].key.n : sizeof key - 1;
    memcpy(key, g->kv[i].key.p, n);
    key[n] = 0;
    int64_t whole;
    double number;
    bool flag;
    tl_gguf_text text, *texts;
    size_t count;
    int32_t *ints;
    float *floats;
    tl_gguf_int(g, key, &whole);
    tl_gguf_number(g, key, &number);
    tl_gguf_bool(g, key, &flag);
    if (tl_gguf_string(g, key, &text))
      touch((const uint8_t *)text.p, text.n);
    if (tl_gguf_strings(g, key, &texts, &count)) {
      for (size_t k = 0; k < count; k++)
        touch((const uint8_t *)texts[k].p, texts[k].n);
      free(texts);
    }
    if (tl_gguf_ints(g, key, &ints, &count))
      free(ints);
    if (tl_gguf_floats(g, key, &floats, &count))
      free(floats);
  }
}

static void read_tensors(const tl_gguf *g) {
  for (size_t i = 0; i < g->n_tensors; i++) {
    const tl_gguf_tensor *t = &g->tensors[i];
    touch(t->data, t->bytes);
    if (!tl_dequant_known(t->type) || t->n > 1 << 14)
      continue;
    float *y = malloc((size_t)t->n * sizeof *y + 1);
    if (!y)
      abort();
    tl_dequant(t->type, t->data, y, (size_t)t->n);
    if (t->n)
      touch((const uint8_t *)y, (size_t)t->n * sizeof *y);
    free(y);
  }
}

static bool run_gguf(const uint8_t *data, size_t n) {
  const char *path = fuzz_file("x.gguf", data, n);
  tl_gguf g;
  tl_status status = tl_gguf_open(&g, path);
  fuzz_refused(status);
  if (status == TL_OK) {
    read_values(&g);
    read_tensors(&g);
    tl_config c = {0};
    fuzz_refused(tl_config_from_gguf(&g, &c));
    tl_config_free(&c);
    tl_gguf_close(&g);
  }
  bool tokenizer = fuzz_tokenizer_at(path), model = fuzz_model_at(path);
  return tokenizer || model || status == TL_OK;
}

// ---- a writer for the seeds

typedef struct writer {
  tl_str kv, infos, data;
  uint64_t n_kv, n_tensors;
} writer;

static void put_u32(tl_str *s, uint32_t v) {
  tl_str_add(s, (const char *)&v, 4);
}
static void put_u64(tl_str *s, uint64_t v) {
  tl_str_add(s, (const char *)&v, 8);
}
static void put_text(tl_str *s, const char *t) {
  put_u64(s, strlen(t));
  tl_str_add(s, t, strlen(t));
}
static void key(writer *w, const char *name, tl_gguf_type type) {
  put_text(&w->kv, name);
  put_u32(&w->kv, (uint32_t)type);
  w->n_kv++;
}
static void key_u32(writer *w, const char *name, uint32_t v) {
  key(w, name, TL_GGUF_U32);
  put_u32(&w->kv, v);
}
static void key_f32(writer *w, const char *name, float v) {
  key(w, name, TL_GGUF_F32);
  tl_str_add(&w->kv, (const char *)&v, 4);
}
static void key_text(writer *w, const char *name, const char *v) {
  key(w, name, TL_GGUF_STRING);
  put_text(&w->kv, v);
}

static void tensor(writer *w, const char *name, int type, uint64_t cols, uint64_t rows, size_t bytes) {
  put_text(&w->infos, name);
  put_u32(&w->infos, rows ? 2 : 1);
  put_u64(&w->infos, cols);
  if (rows)
    put_u64(&w->infos, rows);
  put_u32(&w->infos, (uint32_t)type);
  put_u64(&w->infos, w->data.n);
  w->n_tensors++;
  for (size_t i = 0; i < bytes; i++) {
    uint8_t b = (uint8_t)(i * 37 + 11) & 0x3f; // small halves: no infinities among the scales
    tl_str_add(&w->data, (const char *)&b, 1);
  }
  while (w->data.n % 32)
    tl_str_add(&w->data, "", 1);
}

static void finish(writer *w, fuzz_put put, void *ctx, const char *name) {
  tl_str out = {0};
  tl_str_add(&out, "GGUF", 4);
  put_u32(&out, 3);
  put_u64(&out, w->n_tensors);
  put_u64(&out, w->n_kv);
  if (w->kv.n)
    tl_str_add(&out, w->kv.p, w->kv.n);
  if (w->infos.n)
    tl_str_add(&out, w->infos.p, w->infos.n);
  while (out.n % 32)
    tl_str_add(&out, "", 1);
  if (w->data.n)
    tl_str_add(&out, w->data.p, w->data.n);
  put(ctx, name, out.p, out.n);
  tl_str_free(&out);
  tl_str_free(&w->kv);
  tl_str_free(&w->infos);
  tl_str_free(&w->data);
}

static void seed_tokenizer_keys(writer *w) {
  static const char *const tokens[] = {"a", "b", "c", "ab", "<s>", "</s>"};
  key_text(w, "tokenizer.ggml.model", "gpt2");
  key_text(w, "tokenizer.ggml.pre", "llama-bpe");
  key(w, "tokenizer.ggml.tokens", TL_GGUF_ARRAY);
  put_u32(&w->kv, TL_GGUF_STRING);
  put_u64(&w->kv, 6);
  for (int i = 0; i < 6; i++)
    put_text(&w->kv, tokens[i]);
  key(w, "tokenizer.ggml.token_type", TL_GGUF_ARRAY);
  put_u32(&w->kv, TL_GGUF_I32);
  put_u64(&w->kv, 6);
  for (int i = 0; i < 6; i++)
    put_u32(&w->kv, i < 4 ? 1 : 3);
  key(w, "tokenizer.ggml.merges", TL_GGUF_ARRAY);
  put_u32(&w->kv, TL_GGUF_STRING);
  put_u64(&w->kv, 1);
  put_text(&w->kv, "a b");
  key_u32(w, "tokenizer.ggml.bos_token_id", 4);
  key_u32(w, "tokenizer.ggml.eos_token_id", 5);
  key_text(w, "tokenizer.chat_template", "{{ messages[0].content }}");
}

static void seed_spm_keys(writer *w) {
  static const char *const tokens[] = {"<unk>", "<s>", "</s>", "<0x0A>", "ab", "\xE2\x96\x81\x61", "\xE2\x96\x81", "a", "b"};
  static const uint32_t types[] = {2, 3, 3, 6, 1, 1, 1, 1, 4};
  key_text(w, "tokenizer.ggml.model", "llama");
  key(w, "tokenizer.ggml.tokens", TL_GGUF_ARRAY);
  put_u32(&w->kv, TL_GGUF_STRING);
  put_u64(&w->kv, 9);
  for (int i = 0; i < 9; i++)
    put_text(&w->kv, tokens[i]);
  key(w, "tokenizer.ggml.token_type", TL_GGUF_ARRAY);
  put_u32(&w->kv, TL_GGUF_I32);
  put_u64(&w->kv, 9);
  for (int i = 0; i < 9; i++)
    put_u32(&w->kv, types[i]);
  key(w, "tokenizer.ggml.scores", TL_GGUF_ARRAY);
  put_u32(&w->kv, TL_GGUF_F32);
  put_u64(&w->kv, 9);
  for (int i = 0; i < 9; i++) {
    float score = -(float)i;
    uint32_t bits;
    memcpy(&bits, &score, 4);
    put_u32(&w->kv, bits);
  }
  key_text(w, "tokenizer.chat_template", "{{ messages[0].content }}");
  key_text(w, "tokenizer.chat_template.tool_use", "{{ tools }}");
}

static void seed_gguf(fuzz_put put, void *ctx) {
  writer w = {0};
  key_text(&w, "general.architecture", "llama");
  key_u32(&w, "llama.block_count", 1);
  key_u32(&w, "llama.embedding_length", 32);
  key_u32(&w, "llama.feed_forward_length", 32);
  key_u32(&w, "llama.attention.head_count", 2);
  key_u32(&w, "llama.attention.head_count_kv", 1);
  key_u32(&w, "llama.context_length", 64);
  key_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
  seed_tokenizer_keys(&w);
  tensor(&w, "token_embd.weight", TL_GGML_Q8_0, 32, 6, 6 * 34);
  tensor(&w, "output_norm.weight", TL_GGML_F32, 32, 0, 128);
  tensor(&w, "blk.0.attn_norm.weight", TL_GGML_F32, 32, 0, 128);
  tensor(&w, "blk.0.ffn_norm.weight", TL_GGML_F32, 32, 0, 128);
  tensor(&w, "blk.0.attn_q.weight", TL_GGML_Q4_0, 32, 32, 32 * 18);
  tensor(&w, "blk.0.attn_k.weight", TL_GGML_Q4_1, 32, 16, 16 * 20);
  tensor(&w, "blk.0.attn_v.weight", TL_GGML_Q5_0, 32, 16, 16 * 22);
  tensor(&w, "blk.0.attn_output.weight", TL_GGML_Q5_1, 32, 32, 32 * 24);
  tensor(&w, "blk.0.ffn_gate.weight", TL_GGML_BF16, 32, 32, 32 * 64);
  tensor(&w, "blk.0.ffn_up.weight", TL_GGML_F16, 32, 32, 32 * 64);
  tensor(&w, "blk.0.ffn_down.weight", TL_GGML_Q8_0, 32, 32, 32 * 34);
  finish(&w, put, ctx, "model");
  w = (writer){0};
  key_text(&w, "general.architecture", "llama");
  for (int type = 0; type < 64; type++) { // a row of 256 elements of every type that is read
    int elements, bytes;
    char name[16];
    if (!tl_dequant_known(type) || !tl_ggml_type_block(type, &elements, &bytes))
      continue;
    snprintf(name, sizeof name, "t%d", type);
    tensor(&w, name, type, 256, 0, (size_t)(256 / elements * bytes));
  }
  finish(&w, put, ctx, "blocks");
  w = (writer){0};
  seed_tokenizer_keys(&w);
  finish(&w, put, ctx, "tokenizer");
  w = (writer){0};
  seed_spm_keys(&w);
  finish(&w, put, ctx, "sentencepiece");
}

const fuzz_target fuzz_gguf = {"gguf", run_gguf, seed_gguf, 16384};
