// peft_load.c: a PEFT directory (TINYLORA or LORA) as an adapter. Both files are outside bytes: every field that changes what
// the adapter computes is understood or refused by name (peft_config.c), every tensor must be one that is expected, with the
// expected shape. A and B are read, never recomputed: the signs of singular vectors would change the update. P is read, or
// drawn again with torch's generator when the file does not have it.
#include "../base/safetensors.h"
#include "peft.h"
#include <cjson/cJSON.h>
#include <math.h>

typedef struct {
  tl_peft_config config;
  char weights_path[4096];
  cJSON *meta;           // our own key of the metadata, or NULL
  tl_safetensors st;
  uint8_t *used;         // (st.n)
  tl_adapter *a;
} loader;

// a string of our own metadata; NULL: absent
static const char *about(const loader *l, const char *field) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(l->meta, field);
  return cJSON_IsString(v) ? v->valuestring : NULL;
}

// ---------------------------------------------------------------- tensors
static tl_status find(loader *l, const char *name, int n_dims, int64_t d0, int64_t d1, int64_t d2, const tl_st_tensor **out) {
  const tl_st_tensor *t = tl_safetensors_find(&l->st, name);
  if (!t) return tl_fail(TL_E_FORMAT, "%s: no tensor %s", l->weights_path, name);
  int64_t want[3] = {d0, d1, d2};
  bool same = t->n_dims == n_dims;
  for (int i = 0; same && i < n_dims; i++) same = t->shape[i] == want[i];
  if (!same) {
    char have_text[128], want_text[128];
    tl_st_shape_text(have_text, sizeof have_text, t->shape, t->n_dims);
    tl_st_shape_text(want_text, sizeof want_text, want, n_dims);
    return tl_fail(TL_E_SHAPE, "%s: %s is %s, model and config want %s", l->weights_path, name, have_text, want_text);
  }
  if (t->type != TL_F32 && t->type != TL_BF16 && t->type != TL_F16)
    return tl_fail(TL_E_UNSUPPORTED, "%s: %s is %s; wanted F32, BF16 or F16", l->weights_path, name, t->dtype);
  l->used[t - l->st.tensors] = 1;
  *out = t;
  return TL_OK;
}

static tl_status read_tensor(loader *l, const tl_st_tensor *t, float *x) {
  for (int64_t i = 0; i < t->n; i++) {
    uint16_t h;
    if (t->type == TL_F32) {
      memcpy(&x[i], t->data + 4 * i, 4);
    } else {
      memcpy(&h, t->data + 2 * i, 2);
      x[i] = t->type == TL_BF16 ? tl_bf16_to_f32(h) : tl_f16_to_f32(h);
    }
    if (!isfinite(x[i])) return tl_fail(TL_E_FORMAT, "%s: %s has an entry that is not finite", l->weights_path, t->name);
  }
  return TL_OK;
}

static tl_status read_named(loader *l, const char *module, const char *part, int n_dims, int64_t d0, int64_t d1, int64_t d2,
                            float *x) {
  char name[256];
  const tl_st_tensor *t;
  snprintf(name, sizeof name, TL_PEFT_PREFIX "%s.%s", module, part);
  TL_TRY(find(l, name, n_dims, d0, d1, d2, &t));
  return read_tensor(l, t, x);
}

static bool has_part(const loader *l, const char *module, const char *part) {
  char name[256];
  snprintf(name, sizeof name, TL_PEFT_PREFIX "%s.%s", module, part);
  return tl_safetensors_find(&l->st, name) != NULL;
}

// TinyLoRA counts its targets (for P's seed and for tying), so the file must have exactly those that the config selects; a
// LoRA's file may have fewer: a module without tensors has no update.
static tl_status check_selected(const loader *l, const char *module, bool present, bool selected) {
  if (present && !selected)
    return tl_fail(TL_E_FORMAT, "%s: has tensors of %s, which target_modules of %s does not select", l->weights_path, module,
                   l->config.path);
  if (selected && !present && !l->config.lora)
    return tl_fail(TL_E_FORMAT, "%s: target_modules selects %s, of which %s has no tensor", l->config.path, module,
                   l->weights_path);
  return TL_OK;
}

// The modules that the file has tensors for, by the presence of `part`, into a->modules, in definition order.
static tl_status find_modules(loader *l, const char *part) {
  tl_adapter *a = l->a;
  int total = a->model->cfg.n_layers * TL_N_KINDS;
  const cJSON *targets = cJSON_GetObjectItemCaseSensitive(l->config.json, "target_modules");
  bool told = targets && !cJSON_IsNull(targets);
  a->modules = calloc((size_t)total, sizeof *a->modules);
  if (!a->modules) return tl_fail(TL_E_MEMORY, "%s: out of memory", l->weights_path);
  for (int i = 0; i < total; i++) {
    char module[128];
    bool selected;
    tl_module_name(module, sizeof module, i);
    bool present = has_part(l, module, part);
    TL_TRY(tl_peft_selects(&l->config, module, &selected));
    if (told) TL_TRY(check_selected(l, module, present, selected));
    if (present) a->modules[a->n_modules++] = (tl_adapter_module){.module = i};
  }
  a->n_groups = a->n_modules;
  if (!a->n_modules)
    return tl_fail(TL_E_FORMAT, "%s: no tensor named " TL_PEFT_PREFIX "<module>.%s for any module of this model",
                   l->weights_path, part);
  return TL_OK;
}

static tl_status all_used(const loader *l) {
  for (size_t i = 0; i < l->st.n; i++)
    if (!l->used[i])
      return tl_fail(TL_E_UNSUPPORTED, "%s: tensor %s belongs to no linear layer of this model's decoder", l->weights_path,
                     l->st.tensors[i].name);
  return TL_OK;
}

// The storage dtype our own files name; in a folded LoRA-XS it was R's, not that of lora_B = B R.
static int storage_of(const loader *l, int file_type) {
  const char *s = about(l, "storage"), *kind = about(l, "kind");
  if (kind && !strcmp(kind, "lora_xs")) return TL_F32;
  for (int t = TL_F32; s && t <= TL_F16; t++)
    if (!strcmp(s, tl_dtype_name(t))) return t;
  return file_type;
}

// ---------------------------------------------------------------- LORA
// rank and scale of each module: r and lora_alpha, or what rank_pattern and alpha_pattern say; rsLoRA (Kalajdzievski 2023,
// arXiv:2312.03732) scales by alpha / sqrt(r)
static tl_status lora_ranks(loader *l, const tl_peft_patterns *ranks, const tl_peft_patterns *alphas) {
  int64_t rank = 0;
  double alpha = 0;
  bool root = tl_peft_flag(&l->config, "use_rslora", false);
  TL_TRY(tl_peft_whole(&l->config, "r", 1, 1024, NAN, &rank));
  TL_TRY(tl_peft_number(&l->config, "lora_alpha", -1e6, 1e6, NAN, &alpha));
  for (int i = 0; i < l->a->n_modules; i++) {
    tl_adapter_module *m = &l->a->modules[i];
    char module[128];
    tl_module_name(module, sizeof module, m->module);
    double r = tl_peft_pattern(ranks, module, (double)rank);
    m->rank = (int)r;
    m->scale = (float)(tl_peft_pattern(alphas, module, alpha) / (root ? sqrt(r) : r));
  }
  return TL_OK;
}

static tl_status lora_tensors(loader *l) {
  tl_adapter *a = l->a;
  const tl_config *c = &a->model->cfg;
  char name[256], module[128];
  tl_module_name(module, sizeof module, a->modules[0].module);
  snprintf(name, sizeof name, TL_PEFT_PREFIX "%s.lora_A.weight", module);
  const tl_st_tensor *first = tl_safetensors_find(&l->st, name);
  a->storage = storage_of(l, first->type == TL_BF16 || first->type == TL_F16 ? first->type : TL_F32);
  TL_TRY(tl_lowrank_layout(a));
  TL_TRY(tl_adapter_vectors(a));
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    int kind = m->module % TL_N_KINDS, out = tl_linear_out(c, kind), in = tl_linear_in(c, kind);
    tl_module_name(module, sizeof module, m->module);
    TL_TRY(read_named(l, module, "lora_A.weight", 2, m->rank, in, 0, a->master + m->off));
    TL_TRY(read_named(l, module, "lora_B.weight", 2, out, m->rank, 0, a->master + m->off_b));
  }
  return TL_OK;
}

static tl_status load_lora(loader *l) {
  tl_peft_patterns ranks = {0}, alphas = {0};
  l->a->kind = TL_LORA;
  TL_TRY(find_modules(l, "lora_A.weight"));
  tl_status s = tl_peft_patterns_open(&ranks, &l->config, "rank_pattern", 1, 1024);
  if (s == TL_OK) s = tl_peft_patterns_open(&alphas, &l->config, "alpha_pattern", -1e6, 1e6);
  if (s == TL_OK) s = lora_ranks(l, &ranks, &alphas);
  tl_peft_patterns_close(&ranks);
  tl_peft_patterns_close(&alphas);
  return s == TL_OK ? lora_tensors(l) : s;
}

// ---------------------------------------------------------------- TINYLORA
// Our own groups from the metadata: TL_OK with *n_groups 0 when there are none to read.
static tl_status own_groups(loader *l, int32_t *groups, int *n_groups, int *u) {
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(l->meta, "groups");
  const cJSON *count = cJSON_GetObjectItemCaseSensitive(l->meta, "u");
  const cJSON *item = NULL;
  int n = l->a->n_modules, i = 0, top = 0;
  *n_groups = 0;
  if (!list) return TL_OK;
  if (cJSON_GetArraySize(list) != n)
    return tl_fail(TL_E_FORMAT, "%s: metadata has groups for %d modules, the file has %d", l->weights_path,
                   cJSON_GetArraySize(list), n);
  if (!cJSON_IsNumber(count) || count->valuedouble < 1 || count->valuedouble > 1 << 20)
    return tl_fail(TL_E_FORMAT, "%s: metadata field u is missing or out of range", l->weights_path);
  cJSON_ArrayForEach(item, list) {
    if (!cJSON_IsNumber(item) || item->valuedouble < 0 || item->valuedouble >= n)
      return tl_fail(TL_E_FORMAT, "%s: metadata group %d is out of range", l->weights_path, i);
    groups[i] = (int32_t)item->valuedouble;
    if (groups[i] > top) top = groups[i];
    i++;
  }
  *n_groups = top + 1;
  *u = (int)count->valuedouble;
  return TL_OK;
}

typedef struct {
  int u, n_groups;       // as PEFT's config says
  bool wide;             // one vector that holds the vectors of several groups, see peft.h
  int32_t *own;          // (n_modules) our groups, or PEFT's when the file has none of ours
} tying;

static tl_status read_tying(loader *l, tying *t) {
  tl_adapter *a = l->a;
  double ratio = 0;
  int64_t u = 0;
  TL_TRY(tl_peft_whole(&l->config, "u", 1, 1 << 20, 64, &u));
  TL_TRY(tl_peft_number(&l->config, "weight_tying", 0, 1, 0, &ratio));
  t->u = (int)u;
  t->n_groups = tl_peft_n_groups(a->n_modules, ratio);
  TL_TRY(own_groups(l, t->own, &a->n_groups, &a->u));
  t->wide = a->n_groups > 0 && t->n_groups == 1 && (int64_t)a->u * a->n_groups == t->u && a->n_groups > 1;
  if (t->wide) return TL_OK;
  if (a->n_groups && (a->n_groups != t->n_groups || a->u != t->u))
    return tl_fail(TL_E_FORMAT, "%s: metadata has %d groups of %d numbers, weight_tying and u give %d of %d", l->weights_path,
                   a->n_groups, a->u, t->n_groups, t->u);
  for (int i = 0; !a->n_groups && i < a->n_modules; i++) t->own[i] = tl_peft_group(i, a->n_modules, t->n_groups);
  a->n_groups = t->n_groups;
  a->u = t->u;
  return TL_OK;
}

// The vectors, each into the place of our group.
static tl_status read_v(loader *l, const tying *t) {
  tl_adapter *a = l->a;
  const tl_st_tensor *v;
  char name[64];
  if (t->wide) {
    TL_TRY(find(l, TL_PEFT_V "0", 1, t->u, 0, 0, &v));
    return read_tensor(l, v, a->master);
  }
  for (int i = 0; i < a->n_modules; i++) {
    int theirs = tl_peft_group(i, a->n_modules, t->n_groups);
    for (int j = 0; j < i; j++)  // one of ours must be one of theirs
      if (t->own[j] == t->own[i] && tl_peft_group(j, a->n_modules, t->n_groups) != theirs)
        return tl_fail(TL_E_FORMAT, "%s: metadata groups disagree with weight_tying at module %d", l->weights_path, i);
    snprintf(name, sizeof name, TL_PEFT_V "%d", theirs);
    TL_TRY(find(l, name, 1, t->u, 0, 0, &v));
    TL_TRY(read_tensor(l, v, a->master + (size_t)t->own[i] * a->u));
  }
  return TL_OK;
}

static tl_status read_p(loader *l, const tying *t, const char *module, tl_adapter_module *m) {
  int r = m->rank;
  if (!t->wide) return read_named(l, module, "tinylora_P", 3, t->u, r, r, m->P);
  size_t own = (size_t)l->a->u * r * r, n = (size_t)t->u * r * r, at = own * (size_t)m->group;
  float *wide = malloc(sizeof(float) * n);
  if (!wide) return tl_fail(TL_E_MEMORY, "%s: out of memory", l->weights_path);
  tl_status s = read_named(l, module, "tinylora_P", 3, t->u, r, r, wide);
  for (size_t i = 0; s == TL_OK && i < n; i++)
    if (wide[i] != 0 && (i < at || i >= at + own))
      s = tl_fail(TL_E_FORMAT, "%s: tinylora_P of %s reaches outside its group, against the metadata", l->weights_path, module);
  if (s == TL_OK) memcpy(m->P, wide + at, sizeof(float) * own);
  free(wide);
  return s;
}

// Whether every P is what a generator draws from the adapter's seed
static bool drawn_by(const tl_adapter *a, tl_projection generator) {
  bool same = true;
  for (int i = 0; same && i < a->n_modules; i++) {
    size_t bytes = sizeof(float) * (size_t)a->u * a->modules[i].rank * a->modules[i].rank;
    float *P = malloc(bytes);
    if (P) tl_lowrank_projection(a, i, generator, P);
    same = P && !memcmp(P, a->modules[i].P, bytes);
    free(P);
  }
  return same;
}

// P from the file; drawn anew from projection_seed when the file has none, or when save_projection says so (PEFT does the same)
static tl_status projections(loader *l, const tying *t) {
  tl_adapter *a = l->a;
  int64_t seed = 0;
  TL_TRY(tl_peft_whole(&l->config, "projection_seed", INT32_MIN, UINT32_MAX, 42, &seed));
  if (!about(l, "seed")) a->seed = (uint64_t)seed;
  bool saved = tl_peft_flag(&l->config, "save_projection", true), any = false;
  for (int i = 0; i < a->n_modules; i++) {
    char module[128];
    tl_module_name(module, sizeof module, a->modules[i].module);
    any = any || has_part(l, module, "tinylora_P");
  }
  a->projection = TL_PROJECTION_TORCH;
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    char module[128];
    tl_module_name(module, sizeof module, m->module);
    if (any) TL_TRY(read_p(l, t, module, m));
    if (!saved || !any) tl_lowrank_projection(a, i, TL_PROJECTION_TORCH, m->P);
  }
  if (saved && any && !drawn_by(a, TL_PROJECTION_TORCH))
    a->projection = drawn_by(a, TL_PROJECTION_PHILOX) ? TL_PROJECTION_PHILOX : TL_PROJECTION_STORED;
  return TL_OK;
}

static tl_status load_tinylora_parts(loader *l, const tying *t) {
  tl_adapter *a = l->a;
  const tl_config *c = &a->model->cfg;
  for (int i = 0; i < a->n_modules; i++) a->modules[i].group = t->own[i];
  const tl_st_tensor *v = tl_safetensors_find(&l->st, TL_PEFT_V "0");
  a->storage = storage_of(l, v && (v->type == TL_BF16 || v->type == TL_F16) ? v->type : TL_F32);
  TL_TRY(tl_lowrank_layout(a));
  TL_TRY(tl_adapter_vectors(a));
  TL_TRY(read_v(l, t));
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    int kind = m->module % TL_N_KINDS;
    char module[128];
    tl_module_name(module, sizeof module, m->module);
    TL_TRY(read_named(l, module, "tinylora_A", 2, m->rank, tl_linear_in(c, kind), 0, m->A));
    TL_TRY(read_named(l, module, "tinylora_B", 2, tl_linear_out(c, kind), m->rank, 0, m->B));
  }
  return projections(l, t);
}

// Embeddings and the head count among PEFT's targets; this program adapts neither.
static tl_status refuse_tables(const loader *l) {
  static const char *const tables[] = {"model.embed_tokens", "lm_head"};
  const cJSON *targets = cJSON_GetObjectItemCaseSensitive(l->config.json, "target_modules");
  for (size_t i = 0; targets && !cJSON_IsNull(targets) && i < sizeof tables / sizeof *tables; i++) {
    bool yes;
    TL_TRY(tl_peft_selects(&l->config, tables[i], &yes));
    if (yes)
      return tl_fail(TL_E_UNSUPPORTED, "%s: target_modules selects %s; only the decoder's linear layers can be adapted",
                     l->config.path, tables[i]);
  }
  return TL_OK;
}

static tl_status load_tinylora(loader *l) {
  tl_adapter *a = l->a;
  int64_t rank = 0;
  a->kind = TL_TINYLORA;
  TL_TRY(tl_peft_whole(&l->config, "r", 1, 1024, 2, &rank));
  TL_TRY(refuse_tables(l));
  TL_TRY(find_modules(l, "tinylora_A"));
  for (int i = 0; i < a->n_modules; i++) {  // PEFT takes no more than a weight has
    tl_adapter_module *m = &a->modules[i];
    int out = tl_linear_out(&a->model->cfg, m->module % TL_N_KINDS), in = tl_linear_in(&a->model->cfg, m->module % TL_N_KINDS);
    int most = out < in ? out : in;
    m->rank = rank < most ? (int)rank : most;
    m->scale = 1;
  }
  a->n_groups = 0;
  tying t = {.own = malloc(sizeof(int32_t) * (size_t)a->n_modules)};
  if (!t.own) return tl_fail(TL_E_MEMORY, "%s: out of memory", l->weights_path);
  tl_status s = read_tying(l, &t);
  if (s == TL_OK) s = load_tinylora_parts(l, &t);
  free(t.own);
  return s;
}

// ---------------------------------------------------------------- entry
static tl_status open_files(loader *l, const char *dir) {
  TL_TRY(tl_peft_config_open(&l->config, dir));
  if (snprintf(l->weights_path, sizeof l->weights_path, "%s/adapter_model.safetensors", dir) >= (int)sizeof l->weights_path)
    return tl_fail(TL_E_ARG, "%.60s...: path too long", dir);
  char pickled[4200];
  snprintf(pickled, sizeof pickled, "%s/adapter_model.bin", dir);
  if (!tl_file_exists(l->weights_path) && tl_file_exists(pickled))
    return tl_fail(TL_E_UNSUPPORTED, "%s: a pickled adapter is not read; save it as safetensors (PEFT's save_pretrained does)", pickled);
  TL_TRY(tl_safetensors_open(&l->st, l->weights_path));
  l->used = calloc(l->st.n + 1, 1);
  if (!l->used) return tl_fail(TL_E_MEMORY, "%s: out of memory", l->weights_path);
  const char *meta = tl_safetensors_metadata(&l->st, TL_PEFT_META);
  if (!meta) return TL_OK;
  l->meta = cJSON_Parse(meta);
  if (cJSON_IsObject(l->meta)) return TL_OK;
  return tl_fail(TL_E_FORMAT, "%s: metadata " TL_PEFT_META " is not a JSON object", l->weights_path);
}

static tl_status load(loader *l, const char *dir) {
  TL_TRY(open_files(l, dir));
  const char *sigma = about(l, "sigma"), *seed = about(l, "seed");
  l->a->sigma = sigma && !strcmp(sigma, "paper") ? TL_SIGMA_PAPER : TL_SIGMA_PEFT;
  l->a->seed = seed ? strtoull(seed, NULL, 10) : 0;
  TL_TRY(l->config.lora ? load_lora(l) : load_tinylora(l));
  TL_TRY(all_used(l));
  return tl_adapter_refresh(l->a);
}

tl_status tl_adapter_load(tl_model *m, const char *dir, tl_adapter **out) {
  *out = NULL;
  loader *l = calloc(1, sizeof *l);
  tl_adapter *a = calloc(1, sizeof *a);
  if (!l || !a) {
    free(l);
    free(a);
    return tl_fail(TL_E_MEMORY, "%s: out of memory", dir);
  }
  *a = (tl_adapter){.refs = 1, .model = tl_model_retain(m), .kind = TL_TINYLORA, .basis_from_file = true};
  l->a = a;
  tl_status s = load(l, dir);
  tl_peft_config_close(&l->config);
  cJSON_Delete(l->meta);
  tl_safetensors_close(&l->st);
  free(l->used);
  free(l);
  if (s == TL_OK) *out = a;
  else tl_adapter_free(a);
  return s;
}
