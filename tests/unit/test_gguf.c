// test_gguf.c: the GGUF container, dequantisation against the `gguf` package's values, and models in GGUF. Would catch: q and k
// left in GGUF's row order, a nibble or scale taken from the wrong place, a length in the file believed without looking.
#include "../test.h"
#include "../../runtime/base/gguf.h"
#include "../../runtime/model/load.h"
#include "modelfile.h"

// ---------------------------------------------------------------- composing a file

typedef struct composer {
  tl_str kv, infos, data;
  uint64_t n_kv, n_tensors;
} composer;

static void put(tl_str *s, const void *p, size_t n) { tl_str_add(s, p, n); }
static void put_u32(tl_str *s, uint32_t v) { put(s, &v, 4); }
static void put_u64(tl_str *s, uint64_t v) { put(s, &v, 8); }
static void put_text(tl_str *s, const char *t) {
  put_u64(s, strlen(t));
  put(s, t, strlen(t));
}

static void key(composer *c, const char *name, int type) {
  put_text(&c->kv, name);
  put_u32(&c->kv, (uint32_t)type);
  c->n_kv++;
}
static void key_u32(composer *c, const char *name, uint32_t v) {
  key(c, name, TL_GGUF_U32);
  put_u32(&c->kv, v);
}
static void key_f32(composer *c, const char *name, float v) {
  key(c, name, TL_GGUF_F32);
  put(&c->kv, &v, 4);
}
static void key_text(composer *c, const char *name, const char *v) {
  key(c, name, TL_GGUF_STRING);
  put_text(&c->kv, v);
}
static void key_array(composer *c, const char *name, int item, uint64_t n) {
  key(c, name, TL_GGUF_ARRAY);
  put_u32(&c->kv, (uint32_t)item);
  put_u64(&c->kv, n);
}

static void tensor(composer *c, const char *name, int type, int rows, int cols, const void *data, size_t bytes) {
  put_text(&c->infos, name);
  put_u32(&c->infos, cols ? 2 : 1);
  if (cols) put_u64(&c->infos, (uint64_t)cols);
  put_u64(&c->infos, (uint64_t)rows);
  put_u32(&c->infos, (uint32_t)type);
  put_u64(&c->infos, c->data.n);
  put(&c->data, data, bytes);
  while (c->data.n % 32) put(&c->data, "", 1);
  c->n_tensors++;
}

static void compose(composer *c, tl_str *out) {
  *out = (tl_str){0};
  put(out, "GGUF", 4);
  put_u32(out, 3);
  put_u64(out, c->n_tensors);
  put_u64(out, c->n_kv);
  if (c->kv.n) put(out, c->kv.p, c->kv.n);
  if (c->infos.n) put(out, c->infos.p, c->infos.n);
  while (out->n % 32) put(out, "", 1);
  if (c->data.n) put(out, c->data.p, c->data.n);
  tl_str_free(&c->kv);
  tl_str_free(&c->infos);
  tl_str_free(&c->data);
}

static void compose_file(composer *c, const char *name) {
  tl_str out;
  compose(c, &out);
  CHECK_OK(tl_write_file(at(name), out.p, out.n));
  tl_str_free(&out);
}

// ---------------------------------------------------------------- a model in GGUF

static const char *const gguf_kinds[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};

static void gguf_name(char *out, size_t n, const tl_part *p) {
  switch (p->role) {
  case TL_PART_EMBED: snprintf(out, n, "token_embd.weight"); break;
  case TL_PART_FINAL_NORM: snprintf(out, n, "output_norm.weight"); break;
  case TL_PART_HEAD: snprintf(out, n, "output.weight"); break;
  case TL_PART_NORM1: snprintf(out, n, "blk.%d.attn_norm.weight", p->layer); break;
  case TL_PART_NORM2: snprintf(out, n, "blk.%d.ffn_norm.weight", p->layer); break;
  case TL_PART_NORM_Q: snprintf(out, n, "blk.%d.attn_q_norm.weight", p->layer); break;
  case TL_PART_NORM_K: snprintf(out, n, "blk.%d.attn_k_norm.weight", p->layer); break;
  default: snprintf(out, n, "blk.%d.%s.%s", p->layer, gguf_kinds[p->kind], p->role == TL_PART_BIAS ? "bias" : "weight");
  }
}

// W.reshape(heads, 2, D/2, in).swapaxes(1, 2), as the converter to GGUF writes q and k of Llama
static void permute(float *w, int heads, int rows, int cols) {
  int dim = rows / heads, half = dim / 2;
  float *copy = malloc(sizeof(float) * (size_t)rows * (size_t)cols);
  memcpy(copy, w, sizeof(float) * (size_t)rows * (size_t)cols);
  float *to = w;
  for (int h = 0; h < heads; h++)
    for (int i = 0; i < half; i++)
      for (int side = 0; side < 2; side++, to += cols)
        memcpy(to, copy + (size_t)(h * dim + side * half + i) * (size_t)cols, sizeof(float) * (size_t)cols);
  free(copy);
}

static void model_keys(composer *c, const sizes *z) {
  char k[64];
  const struct {
    const char *name;
    int value;
  } keys[] = {{"block_count", z->layers},       {"embedding_length", z->width}, {"attention.head_count", z->heads},
              {"attention.head_count_kv", z->kv_heads}, {"attention.key_length", z->head_dim},
              {"attention.value_length", z->head_dim},  {"feed_forward_length", z->ffn}, {"context_length", 512}};
  key_text(c, "general.architecture", z->family);
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    snprintf(k, sizeof k, "%s.%s", z->family, keys[i].name);
    key_u32(c, k, (uint32_t)keys[i].value);
  }
  snprintf(k, sizeof k, "%s.rope.freq_base", z->family);
  key_f32(c, k, 10000);
  snprintf(k, sizeof k, "%s.attention.layer_norm_rms_epsilon", z->family);
  key_f32(c, k, 1e-5f);
  key_u32(c, "tokenizer.ggml.bos_token_id", 1);
  key_u32(c, "tokenizer.ggml.eos_token_id", 2);
  key_u32(c, "tokenizer.ggml.eot_token_id", 5);
  key_array(c, "tokenizer.ggml.tokens", TL_GGUF_STRING, 2);
  put_text(&c->kv, "a");
  put_text(&c->kv, "bc");
}

static void model_tensors(composer *c, const sizes *z) {
  tl_config cfg = sizes_config(z);
  tl_part *p;
  int n;
  CHECK_OK(tl_parts_list(&cfg, &p, &n));
  for (int i = 0; i < n; i++) {
    size_t size = tl_part_size(&p[i]);
    float *w = malloc(size * sizeof *w);
    char name[64];
    for (size_t k = 0; k < size; k++) w[k] = part_value(&p[i], k);
    bool rotated = (p[i].role == TL_PART_WEIGHT || p[i].role == TL_PART_BIAS) && p[i].kind <= TL_K;
    if (rotated && strcmp(z->family, "llama") == 0)
      permute(w, p[i].kind == TL_Q ? z->heads : z->kv_heads, p[i].rows, p[i].cols ? p[i].cols : 1);
    gguf_name(name, sizeof name, &p[i]);
    tensor(c, name, TL_GGML_F32, p[i].rows, p[i].cols, w, size * sizeof *w);
    free(w);
  }
  free(p);
}

static tl_model *load_f32(const char *name) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  CHECK_OK(tl_model_load(at(name), &o, &m));
  return m;
}

static void llama_rows_put_back(void) {
  composer c = {0};
  model_keys(&c, &llama_sizes);
  model_tensors(&c, &llama_sizes);
  compose_file(&c, "llama.gguf");
  tl_model *m = load_f32("llama.gguf");
  if (!m) return;
  compare_parts(m, &llama_sizes, TL_F32, TL_F32);
  CHECK(m->cfg.tied && m->cfg.head_dim == 10 && m->cfg.bos == 1 && m->cfg.n_eos == 2 && m->cfg.eos[1] == 5);
  CHECK(m->cfg.norm_eps == 1e-5f && m->cfg.max_positions == 512 && strcmp(m->format, "gguf") == 0);
  tl_model_free(m);
}

static void qwen2_rows_stay(void) {
  composer c = {0};
  model_keys(&c, &qwen2_sizes);
  model_tensors(&c, &qwen2_sizes);
  compose_file(&c, "qwen2.gguf");
  tl_model *m = load_f32("qwen2.gguf");
  if (!m) return;
  compare_parts(m, &qwen2_sizes, TL_F32, TL_F32);
  CHECK(!m->cfg.tied);
  tl_model_free(m);
}

static void qwen3_norms(void) {
  composer c = {0};
  model_keys(&c, &qwen3_sizes);
  model_tensors(&c, &qwen3_sizes);
  compose_file(&c, "qwen3.gguf");
  tl_model *m = load_f32("qwen3.gguf");
  if (!m) return;
  compare_parts(m, &qwen3_sizes, TL_F32, TL_F32);
  CHECK(strcmp(m->cfg.family->name, "qwen3") == 0 && !m->cfg.attention_bias && !m->cfg.slides);
  tl_model_free(m);
}

// architecture llama with a window is mistral, and can be saved as that
static void mistral_window(void) {
  composer c = {0};
  sizes z = llama_sizes;
  model_keys(&c, &z);
  key_u32(&c, "llama.attention.sliding_window", 9);
  model_tensors(&c, &z);
  compose_file(&c, "mistral.gguf");
  tl_model *m = load_f32("mistral.gguf"), *again;
  if (!m) return;
  compare_parts(m, &z, TL_F32, TL_F32);
  CHECK_OK(tl_model_save(m, NULL, at("mistral-hf"), TL_F32));
  again = load_f32("mistral-hf");
  for (int i = 0; again && i < 2; i++) {
    const tl_config *cfg = i ? &again->cfg : &m->cfg;
    CHECK(strcmp(cfg->family->name, "mistral") == 0 && tl_config_window(cfg, 0) == 9 && tl_config_window(cfg, 1) == 9);
  }
  tl_model_free(again);
  tl_model_free(m);
}

static void window_pattern(void) {
  composer c = {0};
  model_keys(&c, &qwen2_sizes);
  key_u32(&c, "qwen2.attention.sliding_window", 9);
  key_array(&c, "qwen2.attention.sliding_window_pattern", TL_GGUF_BOOL, 2);
  put(&c.kv, "\0\1", 2);
  model_tensors(&c, &qwen2_sizes);
  compose_file(&c, "pattern.gguf");
  tl_model *m = load_f32("pattern.gguf");
  CHECK(m && tl_config_window(&m->cfg, 0) == 0 && tl_config_window(&m->cfg, 1) == 9);
  tl_model_free(m);
}

// the frequencies of YaRN in GGUF's keys are those of the same numbers in config.json's
static void rope_yarn(void) {
  composer c = {0};
  model_keys(&c, &qwen2_sizes);
  key_text(&c, "qwen2.rope.scaling.type", "yarn");
  key_f32(&c, "qwen2.rope.scaling.factor", 4);
  key_u32(&c, "qwen2.rope.scaling.original_context_length", 64);
  key_f32(&c, "qwen2.rope.scaling.yarn_beta_fast", 8);
  model_tensors(&c, &qwen2_sizes);
  compose_file(&c, "yarn.gguf");
  write_hf("yarn-hf", &qwen2_sizes, "F32", TL_F32,
           "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":8,\"original_max_position_embeddings\":64}");
  tl_model *m = load_f32("yarn.gguf"), *want = load_f32("yarn-hf");
  if (!m || !want) return;
  CHECK(m->cfg.rope_type == TL_ROPE_YARN && m->cfg.rope_attention == want->cfg.rope_attention && m->cfg.rope_attention > 1.1f);
  for (int i = 0; i < 3; i++) CHECK(tl_rope_frequency(&m->cfg, i) == tl_rope_frequency(&want->cfg, i));
  tl_model_free(m);
  tl_model_free(want);
}

// Llama 3's scaling as GGUF stores it (a tensor of divisors), and saved again as config.json's rope_scaling
static void rope_tensor(void) {
  sizes z = llama_sizes;
  z.head_dim = 64;
  z.heads = z.kv_heads = 1;
  tl_config plain = {.head_dim = 64, .rope_theta = 10000}, scaled = plain;
  scaled.rope_type = TL_ROPE_LLAMA3;
  scaled.rope_factor = 32;
  scaled.rope_low = 1;
  scaled.rope_high = 4;
  scaled.rope_original = 8192;
  float divisors[32];
  for (int i = 0; i < 32; i++) divisors[i] = tl_rope_frequency(&plain, i) / tl_rope_frequency(&scaled, i);
  CHECK(divisors[0] == 1 && divisors[31] > 1);
  composer c = {0};
  model_keys(&c, &z);
  model_tensors(&c, &z);
  tensor(&c, "rope_freqs.weight", TL_GGML_F32, 32, 0, divisors, sizeof divisors);
  compose_file(&c, "rope.gguf");
  tl_model *m = load_f32("rope.gguf"), *again;
  if (!m) return;
  CHECK_OK(tl_model_save(m, NULL, at("rope-hf"), TL_F32));
  again = load_f32("rope-hf");
  CHECK(m->cfg.rope_type == TL_ROPE_TENSOR && again && again->cfg.rope_type == TL_ROPE_LLAMA3 && again->cfg.rope_factor == 32);
  for (int i = 0; again && i < 32; i++) {  // fp32 divisions in another order: a few units in the last place
    float f = tl_rope_frequency(&scaled, i);
    CHECK(fabsf(tl_rope_frequency(&m->cfg, i) / f - 1) < 1e-6f && fabsf(tl_rope_frequency(&again->cfg, i) / f - 1) < 1e-5f);
  }
  tl_model_free(again);
  m->cfg.rope_divisors[20] *= 1.5f;
  CHECK(tl_model_save(m, NULL, at("rope-hf2"), TL_F32) == TL_E_UNSUPPORTED && strstr(tl_last_error(), "rope_freqs"));
  tl_model_free(m);
}

// ---------------------------------------------------------------- dequantisation

static tl_gguf fixture;  // quants.gguf, see make_dequant.py

static const tl_gguf_tensor *of_fixture(const char *type, const char *suffix) {
  char name[64];
  snprintf(name, sizeof name, "%s%s", type, suffix);
  const tl_gguf_tensor *t = tl_gguf_tensor_find(&fixture, name);
  CHECK(t, "quants.gguf has no %s", name);
  return t;
}

// every value of every type, to the bit: the scales are ordinary, 0, -0, subnormal and the largest
static void dequantisation(void) {
  static const char *const types[] = {"F16",  "BF16", "Q4_0", "Q4_1", "Q5_0",   "Q5_1",   "Q8_0",  "Q2_K",  "Q3_K",
                                      "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ4_NL", "IQ4_XS", "MXFP4", "TQ1_0", "TQ2_0"};
  char list[256] = "F32";
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    const tl_gguf_tensor *from = of_fixture(types[i], ""), *want = of_fixture(types[i], ".values");
    if (!from || !want) return;
    CHECK(strcmp(tl_ggml_type_name(from->type), types[i]) == 0 && tl_dequant_known(from->type) && from->n == want->n);
    float *y = malloc((size_t)from->n * sizeof *y);
    tl_dequant(from->type, from->data, y, (size_t)from->n);
    for (int64_t k = 0; k < from->n; k++)
      CHECK(memcmp(&y[k], want->data + 4 * k, 4) == 0, "%s[%d] is %.9g, expected %.9g", types[i], (int)k, (double)y[k],
            (double)((const float *)want->data)[k]);
    free(y);
    strcat(strcat(list, " "), types[i]);
  }
  CHECK(strlen(list) == strlen(tl_dequant_list()), "known: %s; tested: %s", tl_dequant_list(), list);
}

static void quantisation(void) {
  static const char *const types[] = {"F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    const tl_gguf_tensor *from = of_fixture(types[i], ".from"), *want = of_fixture(types[i], ".made");
    if (!from || !want) return;
    CHECK(tl_quant_named(types[i]) == want->type && from->n == want->n);
    uint8_t *y = malloc(want->bytes);
    tl_quant(want->type, (const float *)from->data, y, (size_t)from->n);
    for (size_t k = 0; k < want->bytes; k++)
      CHECK(y[k] == want->data[k], "%s: byte %zu is %d, expected %d", types[i], k, y[k], want->data[k]);
    free(y);
  }
  CHECK(tl_quant_named("q8_0") == TL_GGML_Q8_0 && tl_quant_named("F32") == TL_GGML_F32 && tl_quant_named("Q4_K") == -1);
}

// metadata that another program wrote: one value of every kind
static void metadata_kinds(void) {
  static const struct {
    const char *name;
    double value;
  } ints[] = {{"UINT8", 200}, {"INT8", -100}, {"UINT16", 60000}, {"INT16", -30000}, {"UINT32", 4e9}, {"INT32", -2e9},
              {"INT64", -(double)(1LL << 60)}};
  char key[64];
  int64_t i;
  double d;
  bool b = false;
  tl_gguf_text t;
  for (size_t k = 0; k < sizeof ints / sizeof *ints; k++) {
    snprintf(key, sizeof key, "kind.%s", ints[k].name);
    CHECK(tl_gguf_int(&fixture, key, &i) && (double)i == ints[k].value, "%s", key);
    CHECK(tl_gguf_number(&fixture, key, &d) && d == ints[k].value, "%s", key);
  }
  CHECK(!tl_gguf_int(&fixture, "kind.UINT64", &i));  // 2^63 + 1 is no int64_t
  CHECK(tl_gguf_number(&fixture, "kind.FLOAT32", &d) && (float)d == 0.1f && !tl_gguf_int(&fixture, "kind.FLOAT32", &i));
  CHECK(tl_gguf_number(&fixture, "kind.FLOAT64", &d) && d == 0.1);
  CHECK(tl_gguf_bool(&fixture, "kind.BOOL", &b) && b && tl_gguf_string(&fixture, "kind.STRING", &t) && t.n == 3);
  const tl_gguf_kv *nested = tl_gguf_find(&fixture, "kind.ARRAY");
  CHECK(nested && nested->item_type == TL_GGUF_ARRAY && nested->n == 2);
}

// a quantised llama q: its rows are put back as whole rows of blocks
static void quantised_rows(void) {
  sizes z = {"llama", true, false, 1, 32, 2, 1, 4, 32, 7};
  composer c = {0};
  model_keys(&c, &z);
  tl_config cfg = sizes_config(&z);
  tl_part *p;
  int n;
  CHECK_OK(tl_parts_list(&cfg, &p, &n));
  for (int i = 0; i < n; i++) {
    char name[64];
    gguf_name(name, sizeof name, &p[i]);
    float w[2048] = {0};
    CHECK(tl_part_size(&p[i]) <= 2048);
    if (p[i].role != TL_PART_WEIGHT || p[i].kind != TL_Q) {
      tensor(&c, name, TL_GGML_F32, p[i].rows, p[i].cols, w, tl_part_size(&p[i]) * 4);
      continue;
    }
    uint8_t q[8 * 34];  // 8 rows of one Q8_0 block; row r holds the number r
    uint16_t one = tl_f32_to_f16(1);
    for (int r = 0; r < 8; r++) {
      memcpy(q + 34 * r, &one, 2);
      memset(q + 34 * r + 2, r, 32);
    }
    tensor(&c, name, TL_GGML_Q8_0, 8, 32, q, sizeof q);
  }
  free(p);
  compose_file(&c, "q8.gguf");
  tl_model *m = load_f32("q8.gguf");
  if (!m) return;
  static const float order[8] = {0, 2, 1, 3, 4, 6, 5, 7};  // head of 4: interleaved 0 1 2 3 -> halves (0, 2), (1, 3)
  float w[8 * 32];
  CHECK_OK(tl_model_weight(m, 0, w));
  for (int r = 0; r < 8; r++) CHECK(w[32 * r] == order[r] && w[32 * r + 31] == order[r], "row %d holds %g", r, w[32 * r]);
  tl_model_free(m);
}

// ---------------------------------------------------------------- metadata and damage

static void metadata(void) {
  composer c = {0};
  int64_t big = -5000000000;
  double d = 0.1;
  int32_t ints[] = {1, -2, 3};
  uint8_t yes = 1;
  key_text(&c, "s", "h\xc3\xa9");
  key(&c, "i64", TL_GGUF_I64);
  put(&c.kv, &big, 8);
  key(&c, "f64", TL_GGUF_F64);
  put(&c.kv, &d, 8);
  key(&c, "b", TL_GGUF_BOOL);
  put(&c.kv, &yes, 1);
  key_array(&c, "ints", TL_GGUF_I32, 3);
  put(&c.kv, ints, sizeof ints);
  key_array(&c, "nested", TL_GGUF_ARRAY, 1);
  put_u32(&c.kv, TL_GGUF_STRING);
  put_u64(&c.kv, 1);
  put_text(&c.kv, "deep");
  key_array(&c, "words", TL_GGUF_STRING, 2);
  put_text(&c.kv, "");
  put_text(&c.kv, "xy");
  compose_file(&c, "meta.gguf");
  tl_gguf g;
  CHECK_OK(tl_gguf_open(&g, at("meta.gguf")));
  tl_gguf_text t, *words = NULL;
  int64_t i = 0;
  double f = 0;
  bool b = false;
  int32_t *list = NULL;
  size_t n = 0, m = 0;
  CHECK(tl_gguf_string(&g, "s", &t) && t.n == 3 && memcmp(t.p, "h\xc3\xa9", 3) == 0);
  CHECK(tl_gguf_int(&g, "i64", &i) && i == big && tl_gguf_number(&g, "f64", &f) && f == 0.1 && tl_gguf_bool(&g, "b", &b) && b);
  CHECK(tl_gguf_ints(&g, "ints", &list, &n) && n == 3 && list[1] == -2);
  CHECK(tl_gguf_strings(&g, "words", &words, &m) && m == 2 && words[0].n == 0 && words[1].n == 2 && words[1].p[1] == 'y');
  CHECK(!tl_gguf_int(&g, "s", &i) && !tl_gguf_int(&g, "none", &i) && !tl_gguf_strings(&g, "ints", &words, &m));
  free(list);
  free(words);
  tl_gguf_close(&g);
}

// thousands of small files: nothing that makes the system write each to its disk (fsync, or truncating the one before)
static void put_file(const char *name, const char *p, size_t n) {
  unlink(at(name));
  FILE *f = fopen(at(name), "wb");
  CHECK(f && fwrite(p, 1, n, f) == n);
  if (f) fclose(f);
}

// Every prefix is refused with one line. Every byte before the data, set to each of four values, is survived.
static void damaged(void) {
  sizes z = {"llama", true, false, 1, 4, 2, 1, 2, 4, 5};
  composer c = {0};
  tl_str all;
  tl_model_options o = {.compute = TL_F32};
  tl_model *m = NULL;
  model_keys(&c, &z);
  model_tensors(&c, &z);
  size_t data = c.data.n;
  compose(&c, &all);
  for (size_t len = 0; len < all.n - 31; len++) {  // the last tensor is padded by up to 31 bytes
    put_file("cut.gguf", all.p, len);
    CHECK(tl_model_load(at("cut.gguf"), &o, &m) == TL_E_FORMAT, "length %zu", len);
    CHECK(strstr(tl_last_error(), "cut.gguf") && !strchr(tl_last_error(), '\n'));
  }
  static const uint8_t values[] = {0, 1, 0x7f, 0xff};
  int taken = 0, refused_ones = 0;
  for (size_t i = 0; i < all.n - data; i++)
    for (int v = 0; v < 4; v++) {
      char keep = all.p[i];
      all.p[i] = (char)values[v];
      put_file("flip.gguf", all.p, all.n);
      all.p[i] = keep;
      tl_status st = tl_model_load(at("flip.gguf"), &o, &m);
      st == TL_OK ? taken++ : refused_ones++;
      CHECK((st == TL_OK) == (m != NULL));
      tl_model_free(m);
    }
  CHECK(taken > 0 && refused_ones > taken / 4, "%d taken, %d refused", taken, refused_ones);
  tl_str_free(&all);
}

static void gguf_refused_by_name(void) {
  sizes z = llama_sizes;
  composer c = {0};
  key_text(&c, "general.architecture", "falcon");
  compose_file(&c, "arch.gguf");
  refused(at("arch.gguf"), TL_E_UNSUPPORTED, "unknown architecture falcon; known: llama, qwen2, qwen3");

  c = (composer){0};
  model_keys(&c, &z);
  model_tensors(&c, &z);
  key_text(&c, "llama.rope.scaling.type", "longrope");
  compose_file(&c, "longrope.gguf");
  refused(at("longrope.gguf"), TL_E_UNSUPPORTED, "longrope");

  float bias[28] = {0};
  c = (composer){0};
  model_keys(&c, &z);
  model_tensors(&c, &z);
  tensor(&c, "blk.1.ffn_up.bias", TL_GGML_F32, 28, 0, bias, sizeof bias);
  compose_file(&c, "bias.gguf");
  refused(at("bias.gguf"), TL_E_UNSUPPORTED, "blk.1.ffn_up.bias is no part of a llama model");

  c = (composer){0};
  model_keys(&c, &z);
  model_tensors(&c, &z);
  key(&c, "llama.attention.causal", TL_GGUF_BOOL);
  put(&c.kv, "", 1);
  compose_file(&c, "causal.gguf");
  refused(at("causal.gguf"), TL_E_UNSUPPORTED, "llama.attention.causal false is not supported");

  c = (composer){0};
  model_keys(&c, &z);
  model_tensors(&c, &z);
  tensor(&c, "rope_factors_long.weight", TL_GGML_F32, 5, 0, bias, 20);
  compose_file(&c, "factors.gguf");
  refused(at("factors.gguf"), TL_E_UNSUPPORTED, "rope_factors_long.weight is no part of a llama model");

  c = (composer){0};
  model_keys(&c, &z);
  model_tensors(&c, &z);
  tensor(&c, "output_norm.weight", TL_GGML_F32, 20, 0, bias, 80);
  compose_file(&c, "names.gguf");
  refused(at("names.gguf"), TL_E_FORMAT, "tensor output_norm.weight is there twice");

  c = (composer){0};
  model_keys(&c, &z);
  model_tensors(&c, &z);
  key_f32(&c, "llama.rope.freq_base", 500000);
  compose_file(&c, "keys.gguf");
  refused(at("keys.gguf"), TL_E_FORMAT, "key llama.rope.freq_base is there twice");

  c = (composer){0};
  model_keys(&c, &z);
  model_tensors(&c, &z);
  tensor(&c, "a", TL_GGML_F32, 8, 0, bias, 0);   // its 32 bytes are those of the next one
  tensor(&c, "b", TL_GGML_F32, 8, 0, bias, 32);
  compose_file(&c, "shared.gguf");
  refused(at("shared.gguf"), TL_E_FORMAT, "begins inside another one");

  c = (composer){0};
  model_keys(&c, &z);
  key_u32(&c, "llama.attention.sliding_window", 9);
  key_u32(&c, "llama.attention.sliding_window_pattern", 2);
  model_tensors(&c, &z);
  compose_file(&c, "every.gguf");
  refused(at("every.gguf"), TL_E_UNSUPPORTED, "sliding_window_pattern");

  uint8_t blocks[20 * 64] = {0};
  c = (composer){0};
  model_keys(&c, &z);
  tensor(&c, "token_embd.weight", 77, 23, 20, blocks, 64);
  compose_file(&c, "type.gguf");
  refused(at("type.gguf"), TL_E_UNSUPPORTED, "token_embd.weight is type 77, which is not supported");

  c = (composer){0};
  model_keys(&c, &z);
  tensor(&c, "token_embd.weight", 16, 1, 256, blocks, 66);
  compose_file(&c, "iq2.gguf");
  refused(at("iq2.gguf"), TL_E_UNSUPPORTED, "token_embd.weight is IQ2_XXS, which is not supported; known: F32");

  c = (composer){0};
  model_keys(&c, &z);
  tensor(&c, "token_embd.weight", TL_GGML_F16, 23, 24, blocks, 23 * 24 * 2);
  compose_file(&c, "shape.gguf");
  refused(at("shape.gguf"), TL_E_SHAPE, "token_embd.weight is (23, 24), the config wants (23, 20)");

  CHECK_OK(tl_write_file(at("v1.gguf"), "GGUF\1\0\0\0", 8));
  refused(at("v1.gguf"), TL_E_UNSUPPORTED, "GGUF version 1");
  CHECK_OK(tl_write_file(at("be.gguf"), "GGUF\0\0\0\3", 8));
  refused(at("be.gguf"), TL_E_UNSUPPORTED, "big-endian");
}

int main(void) {
  if (!temp_begin()) return 1;
  RUN(metadata);
  if (tl_gguf_open(&fixture, TL_SOURCE_DIR "/tests/parity/fixtures/quants.gguf") != TL_OK) {
    printf("not ok quants.gguf: %s\n", tl_last_error());
    return 1;
  }
  RUN(metadata_kinds);
  RUN(dequantisation);
  RUN(quantisation);
  tl_gguf_close(&fixture);
  RUN(llama_rows_put_back);
  RUN(qwen2_rows_stay);
  RUN(qwen3_norms);
  RUN(mistral_window);
  RUN(window_pattern);
  RUN(rope_yarn);
  RUN(quantised_rows);
  RUN(rope_tensor);
  RUN(gguf_refused_by_name);
  RUN(damaged);
  temp_end();
  return test_done();
}
