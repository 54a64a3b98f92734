// load.c: tl_model: loading from files, random initialisation, handles and what they tell.
//
// Memory: each part is packed as it is read, straight from the mapped file when its bytes can be packed as they lie
// (safetensors and GGUF in F32, F16, BF16), else from one part in fp32; then its pages of the file are let go. Parts are taken
// from the largest to the smallest, so that what is held beside the packed weights shrinks while they grow: the peak is the
// packed weights and little more, as long as the embedding is not most of the model.
#include "load.h"
#include "../comm/comm.h"

typedef struct scratch {
  float *p;
  size_t n;
} scratch;

static void scratch_free(scratch *s) {
  free(s->p);
  *s = (scratch){0};
}

static tl_status scratch_need(scratch *s, size_t n) {
  if (n <= s->n) return TL_OK;
  scratch_free(s);
  s->p = tl_aligned_alloc(n * sizeof(float));
  s->n = s->p ? n : 0;
  return s->p ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory: a tensor of %zu elements in fp32", n);
}

// the dtype in which a stored matrix can be packed as it lies, from *data on; -1: it has to be converted first
static int direct_dtype(const tl_stored *t, const tl_part *p, const tl_slice *mine, const uint8_t **data) {
  if (!p->cols || t->permuted_heads || mine->cols < p->cols) return -1;
  int dtype = t->type == TL_GGML_F32 ? TL_F32 : t->type == TL_GGML_F16 ? TL_F16 : t->type == TL_GGML_BF16 ? TL_BF16 : -1;
  if (dtype < 0) return -1;
  *data = t->data + (size_t)mine->row * (size_t)p->cols * tlk_dtype_size(dtype);
  return (uintptr_t)*data % tlk_dtype_size(dtype) == 0 ? dtype : -1;
}

static bool all_finite(const void *values, int dtype, size_t n) {
  const uint16_t *half = values;
  const uint32_t *word = values;
  uint32_t mask = dtype == TL_F32 ? 0x7f800000 : dtype == TL_BF16 ? 0x7f80 : 0x7c00, bad = 0;
  if (dtype == TL_F32) {
#pragma omp simd reduction(| : bad)
    for (size_t i = 0; i < n; i++) bad |= (word[i] & mask) == mask;
  } else {
#pragma omp simd reduction(| : bad)
    for (size_t i = 0; i < n; i++) bad |= (half[i] & mask) == mask;
  }
  return !bad;
}

static tl_status load_part(tl_model *m, const tl_source *s, const tl_part *p, scratch *tmp) {
  tl_stored t;
  tl_slice mine = tl_slice_of(m, p);
  TL_TRY(tl_source_find(s, p, &t));
  if (!mine.rows) return TL_OK;
  tl_part part = *p;
  part.rows = mine.rows, part.cols = mine.cols;
  const uint8_t *values = NULL;
  int dtype = direct_dtype(&t, p, &mine, &values);
  if (dtype < 0) {
    if (tmp->n > 2 * tl_part_size(&part)) scratch_free(tmp);
    TL_TRY(scratch_need(tmp, tl_part_size(&part)));
    TL_TRY(tl_stored_read(&t, p, &mine, tmp->p));
    tl_map_release(t.data, t.bytes);
    values = (const uint8_t *)tmp->p;
  }
  dtype = dtype < 0 ? TL_F32 : dtype;
  if (!all_finite(values, dtype, tl_part_size(&part)))
    return tl_fail(TL_E_FORMAT, "%s: tensor %s has an entry that is not finite", t.file, t.name);
  tl_status st = tl_weights_put(&m->w, &m->cfg, &part, values, dtype, m->compute);
  tl_map_release(t.data, t.bytes);
  return st;
}

static int larger_first(const void *a, const void *b) {
  size_t x = tl_part_size(a), y = tl_part_size(b);
  return (x < y) - (x > y);
}

static tl_status load_parts(tl_model *m, const tl_source *s, tl_part *parts, int n) {
  scratch tmp = {0};
  tl_status st = tl_source_check(s, parts, n);  // a wrong file is refused before the first weight is packed
  qsort(parts, (size_t)n, sizeof *parts, larger_first);
  for (int i = 0; i < n && st == TL_OK; i++) {
    st = tl_interrupted() ? tl_fail(TL_E_INTERRUPTED, "loading was interrupted") : load_part(m, s, &parts[i], &tmp);
    m->n_parameters += (int64_t)tl_part_size(&parts[i]);
  }
  scratch_free(&tmp);
  return st;
}

// As Llama is initialised: matrices normal(0, std), biases 0, norms 1. A number depends on the seed, on its part's place in the list of
// parts and on its own in the part only, so a rank draws its part of a model that it shares.
void tl_part_draw(const tl_model *m, const tl_part *p, int place, const tl_slice *s, float *out) {
  size_t cols = p->cols ? (size_t)s->cols : 1;
  float same = p->role == TL_PART_BIAS ? 0.0f : 1.0f;
#pragma omp parallel for num_threads(tl_threads()) schedule(static) if ((size_t)s->rows * cols > 1u << 16)
  for (int i = 0; i < s->rows; i++) {
    float *row = out + (size_t)i * cols;
    if (p->cols) tl_normal_fill_from(row, cols, m->seed, (uint64_t)place, (uint64_t)(s->row + i) * (uint64_t)p->cols + (uint64_t)s->col);
    for (size_t k = 0; k < cols; k++) row[k] = p->cols ? row[k] * m->init_std : same;
  }
}

static tl_status init_parts(tl_model *m, const tl_part *parts, int n) {
  scratch tmp = {0};
  tl_status st = TL_OK;
  for (int i = 0; i < n && st == TL_OK; i++) {
    tl_slice mine = tl_slice_of(m, &parts[i]);
    tl_part part = parts[i];
    part.rows = mine.rows, part.cols = mine.cols;
    m->n_parameters += (int64_t)tl_part_size(&parts[i]);
    if (!mine.rows) continue;
    st = scratch_need(&tmp, tl_part_size(&part));
    if (st == TL_OK) tl_part_draw(m, &parts[i], i, &mine, tmp.p);
    if (st == TL_OK) st = tl_weights_put(&m->w, &m->cfg, &part, tmp.p, TL_F32, m->compute);
  }
  scratch_free(&tmp);
  return st;
}

static tl_status name_modules(tl_model *m) {
  int n = m->cfg.n_layers * TL_N_KINDS;
  m->names = malloc((size_t)n * sizeof *m->names);
  if (!m->names) return tl_fail(TL_E_MEMORY, "out of memory: names of %d modules", n);
  for (int i = 0; i < n; i++) tl_module_name(m->names[i], sizeof m->names[i], i);
  return TL_OK;
}

// a model with its strings and options, no weights yet; takes over cfg
static tl_status new_model(const char *path, const char *format, const char *file_dtype, const tl_model_options *o,
                           tl_config *cfg, tl_model **out) {
  tl_model *m = calloc(1, sizeof *m);
  if (!m) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  m->refs = 1;
  m->compute = o ? (int)o->compute : TL_BF16;
  m->cfg = m->local = *cfg;
  m->shards = 1;
  *cfg = (tl_config){0};
  m->path = strdup(path);
  m->format = strdup(format);
  m->file_dtype = strdup(file_dtype);
  *out = m;
  if (!m->path || !m->format || !m->file_dtype) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  TL_TRY(name_modules(m));
  return tl_weights_alloc(&m->w, &m->cfg);
}

static tl_status check_options(const tl_model_options *o) {
  if (!o) return TL_OK;
  if (o->compute != TL_BF16 && o->compute != TL_F32 && o->compute != TL_F16)
    return tl_fail(TL_E_ARG, "compute dtype %d is not TL_F32, TL_BF16 or TL_F16", (int)o->compute);
  return tl_device_select(o->device);
}

// this rank's part of the model, when its options ask for it
static tl_status split(tl_model *m, const tl_model_options *o) {
  if (!o || !o->split) return TL_OK;
  m->shard = tl_comm_shard();
  m->shards = tl_comm_shards();
  return tl_split_config(m->path, &m->cfg, m->shards, &m->local);
}

static tl_status finish(tl_status st, tl_model *m, tl_part *parts, tl_model **out) {
  free(parts);
  if (st == TL_OK)
    *out = m;
  else
    tl_model_free(m);
  return st;
}

tl_status tl_model_load(const char *path, const tl_model_options *options, tl_model **out) {
  *out = NULL;
  TL_TRY(check_options(options));
  tl_arena_drop_left();  // a model is about to take that memory
  tl_source s;
  TL_TRY(tl_source_open(&s, path));
  tl_model *m = NULL;
  tl_part *parts = NULL;
  int n = 0;
  const char *type = tl_source_main_type(&s);
  tl_config cfg = s.cfg;
  tl_status st = tl_config_own(&cfg);
  if (st == TL_OK) st = new_model(path, s.is_gguf ? "gguf" : "hf", type, options, &cfg, &m);
  if (st == TL_OK) st = split(m, options);
  if (st == TL_OK) st = tl_parts_list(&m->cfg, &parts, &n);
  if (st == TL_OK) st = load_parts(m, &s, parts, n);
  if (m) m->quantised_bytes = tl_source_quantised_bytes(&s);
  tl_config_free(&cfg);
  tl_source_close(&s);
  return finish(st, m, parts, out);
}

tl_status tl_model_create(const char *config_path, const tl_model_options *options, uint64_t seed, tl_model **out) {
  *out = NULL;
  TL_TRY(check_options(options));
  tl_config cfg;
  float std;
  tl_model *m = NULL;
  tl_part *parts = NULL;
  int n = 0;
  tl_status st = tl_config_read(config_path, NULL, &cfg, &std);
  if (st == TL_OK) st = new_model(config_path, "hf", "F32", options, &cfg, &m);
  if (st == TL_OK) st = split(m, options);
  if (st == TL_OK) m->random = true, m->seed = seed, m->init_std = std;
  if (st == TL_OK) st = tl_parts_list(&m->cfg, &parts, &n);
  if (st == TL_OK) st = init_parts(m, parts, n);
  tl_config_free(&cfg);
  return finish(st, m, parts, out);
}

tl_status tl_model_derive(tl_model *m, tl_model **out) {
  *out = NULL;
  tl_model *d = calloc(1, sizeof *d);
  if (!d) return tl_fail(TL_E_MEMORY, "out of memory: a model");
  d->refs = 1;
  d->compute = m->compute;
  d->n_parameters = m->n_parameters;
  d->cfg = m->cfg;
  d->local = m->local;
  d->shard = m->shard, d->shards = m->shards;
  d->random = m->random, d->seed = m->seed, d->init_std = m->init_std;
  d->parent = tl_model_retain(m);
  d->path = strdup(m->path);
  d->format = strdup(m->format);
  d->file_dtype = strdup(m->file_dtype);
  tl_status st = tl_config_own(&d->cfg);
  d->local.rope_divisors = d->cfg.rope_divisors, d->local.slides = d->cfg.slides, d->local.unrotated = d->cfg.unrotated;
  if (st == TL_OK && (!d->path || !d->format || !d->file_dtype)) st = tl_fail(TL_E_MEMORY, "out of memory: a model");
  if (st == TL_OK) st = name_modules(d);
  if (st == TL_OK) st = tl_weights_share(&m->w, &d->w);
  return finish(st, d, NULL, out);
}

tl_model *tl_model_retain(tl_model *m) {
  __atomic_add_fetch(&m->refs, 1, __ATOMIC_RELAXED);
  return m;
}

void tl_model_free(tl_model *m) {
  if (!m || __atomic_sub_fetch(&m->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  tl_weights_free(&m->w);
  tl_config_free(&m->cfg);
  tl_ops()->release(m->rope);
  free(m->path);
  free(m->format);
  free(m->file_dtype);
  free(m->names);
  free(m->hashed);
  tl_model_free(m->parent);
  free(m);
}

void tl_model_get_info(const tl_model *m, tl_model_info *out) {
  const tl_config *c = &m->cfg;
  *out = (tl_model_info){.path = m->path,
                         .format = m->format,
                         .architecture = c->family->name,
                         .file_dtype = m->file_dtype,
                         .quantised_bytes = m->quantised_bytes,
                         .compute = (tl_dtype)m->compute,
                         .n_layers = c->n_layers,
                         .width = c->width,
                         .n_heads = c->n_heads,
                         .n_kv_heads = c->n_kv_heads,
                         .head_dim = c->head_dim,
                         .ffn = c->ffn,
                         .vocab = c->vocab,
                         .max_positions = c->max_positions,
                         .context = tl_config_context(c),
                         .tied = c->tied,
                         .norm_eps = c->norm_eps,
                         .rope_theta = c->rope_theta,
                         .bos = c->bos,
                         .pad = c->pad,
                         .n_eos = c->n_eos,
                         .n_parameters = m->n_parameters,
                         .packed_bytes = tl_weights_bytes(&m->w, &m->local),
                         .n_modules = c->n_layers * TL_N_KINDS,
                         .shards = m->shards};
  memcpy(out->eos, c->eos, sizeof out->eos);
}

static tl_status check_module(const tl_model *m, int index) {
  int n = m->cfg.n_layers * TL_N_KINDS;
  return index >= 0 && index < n ? TL_OK : tl_fail(TL_E_ARG, "module %d is outside 0 .. %d", index, n - 1);
}

tl_status tl_model_module(const tl_model *m, int index, tl_module_info *out) {
  TL_TRY(check_module(m, index));
  int kind = index % TL_N_KINDS;
  *out = (tl_module_info){.index = index,
                          .layer = index / TL_N_KINDS,
                          .kind = tl_kind_names[kind],
                          .name = m->names[index],
                          .out = tl_linear_out(&m->cfg, kind),
                          .in = tl_linear_in(&m->cfg, kind)};
  return TL_OK;
}

tl_status tl_model_weight(const tl_model *m, int module, float *w) {
  TL_TRY(check_module(m, module));
  tl_whole *whole;
  TL_TRY(tl_whole_open(m, false, &whole));
  tl_status st = tl_whole_weight(whole, module, w);
  tl_whole_close(whole);
  return st;
}
