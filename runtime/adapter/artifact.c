// artifact.c: an adapter to a compact file and back (artifact.h has the format and its reasons). Reading refuses a base on
// which the numbers would mean something else: first by its sizes, then by the hash of its weights, before anything expensive
// is done; then, when the basis has been computed, by the probes. `force` passes over the hash and the probes, never over the
// sizes.
#include "artifact.h"
#include <cjson/cJSON.h>
#include <math.h>

enum { shown_values = 64 };

static size_t values_bytes(int64_t n, int dtype) { return (size_t)n * tlk_dtype_size(dtype); }

static void module_dims(const tl_config *c, int module, size_t *out, size_t *in) {
  *out = (size_t)tl_linear_out(c, module % TL_N_KINDS);
  *in = (size_t)tl_linear_in(c, module % TL_N_KINDS);
}

// ---------------------------------------------------------------- writing
static void put_values(tl_str *s, const tl_adapter *a) {
  for (int64_t i = 0; i < a->n_params; i++) {
    uint16_t h = a->storage == TL_BF16 ? tl_f32_to_bf16(a->value[i]) : tl_f32_to_f16(a->value[i]);
    if (a->storage == TL_F32) tl_str_add(s, (const char *)&a->value[i], 4);
    else tl_str_add(s, (const char *)&h, 2);
  }
}

static void put_basis(tl_str *s, const tl_adapter *a) {
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    size_t out, in, r = (size_t)m->rank;
    module_dims(&a->model->cfg, m->module, &out, &in);
    tl_str_add(s, (const char *)m->A, sizeof(float) * r * in);
    tl_str_add(s, (const char *)m->B, sizeof(float) * out * r);
  }
}

static void put_projections(tl_str *s, const tl_adapter *a) {
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    tl_str_add(s, (const char *)m->P, sizeof(float) * (size_t)a->u * m->rank * m->rank);
  }
}

static tl_status put_probes(tl_str *s, const tl_adapter *a) {
  size_t n = TL_PROBE_BYTES * tl_basis_pairs(a);
  uint8_t *probes = malloc(n);
  if (!probes) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  tl_status st = tl_basis_probes(a, probes);
  if (st == TL_OK) tl_str_add(s, (const char *)probes, n);
  free(probes);
  return st;
}

tl_status tl_artifact_write(const tl_adapter *a, const char *path, const tl_artifact_options *o) {
  if (a->kind == TL_FULL)
    return tl_fail(TL_E_UNSUPPORTED, "%s: full finetuning is no adapter file: save the model itself (tl_model_save)", path);
  tl_artifact_options opt = *o;
  opt.carry = opt.carry || a->basis_from_file;
  char *manifest = NULL;
  tl_str s = {0};
  TL_TRY(tl_manifest_write(a, &opt, &manifest));
  put_values(&s, a);
  tl_status st = TL_OK;
  if (a->kind != TL_LORA && opt.carry) put_basis(&s, a);
  else if (a->kind != TL_LORA) st = put_probes(&s, a);
  if (a->kind == TL_TINYLORA && a->projection == TL_PROJECTION_STORED) put_projections(&s, a);
  if (st == TL_OK) st = tl_artifact_store(path, manifest, s.p, s.n);
  tl_str_free(&s);
  free(manifest);
  return st;
}

// ---------------------------------------------------------------- reading
// the payload's length by the manifest
static uint64_t expected_bytes(const tl_manifest *t, const tl_model *m) {
  uint64_t n = values_bytes(t->n_params, (int)t->options.storage);
  bool lora = t->options.kind == TL_LORA;
  if (!lora && !t->from_file) n += TL_PROBE_BYTES * t->pairs;
  for (int i = 0; i < t->options.n_modules; i++) {
    size_t out, in;
    uint64_t r = (uint64_t)t->ranks[i];
    module_dims(&m->cfg, t->modules[i], &out, &in);
    if (!lora && t->from_file) n += sizeof(float) * r * (in + out);
    if (t->stored) n += sizeof(float) * (uint64_t)t->options.u * r * r;
  }
  return n;
}

static tl_status check_base(const tl_manifest *t, tl_model *m, const char *path) {
  char hash[33];
  uint8_t *targeted = calloc((size_t)m->cfg.n_layers * TL_N_KINDS, 1);
  if (!targeted) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  for (int i = 0; i < t->options.n_modules; i++) targeted[t->modules[i]] = 1;
  tl_status s = tl_base_hash(m, targeted, hash);
  free(targeted);
  TL_TRY(s);
  if (!strcmp(hash, t->hash)) return TL_OK;
  return tl_fail(
      TL_E_UNSUPPORTED,
      "%s: made for other weights than %s has: the base '%s' has hash %.12s..., this one %.12s... of the "
      "same shape. On a quantised copy, a finetune or another revision the numbers mean another update; --force loads "
      "them all the same",
      path, m->path, t->base_name, t->hash, hash);
}

static tl_status take_floats(float *x, size_t n, const uint8_t **p, int dtype, const char *path) {
  for (size_t i = 0; i < n; i++, *p += tlk_dtype_size(dtype)) {
    uint16_t h;
    if (dtype == TL_F32) memcpy(&x[i], *p, 4);
    else memcpy(&h, *p, 2);
    if (dtype != TL_F32) x[i] = dtype == TL_BF16 ? tl_bf16_to_f32(h) : tl_f16_to_f32(h);
    if (!isfinite(x[i])) return tl_fail(TL_E_FORMAT, "%s: a number in the payload is not finite", path);
  }
  return TL_OK;
}

static tl_status take_basis(tl_adapter *a, const uint8_t **p, const char *path) {
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    size_t out, in, r = (size_t)m->rank;
    module_dims(&a->model->cfg, m->module, &out, &in);
    TL_TRY(take_floats(m->A, r * in, p, TL_F32, path));
    TL_TRY(take_floats(m->B, out * r, p, TL_F32, path));
  }
  return TL_OK;
}

static tl_status take_payload(tl_adapter *a, const tl_manifest *t, const uint8_t *p, bool force, const char *path) {
  TL_TRY(take_floats(a->master, (size_t)a->n_params, &p, a->storage, path));
  if (a->kind != TL_LORA && t->from_file) {
    TL_TRY(take_basis(a, &p, path));
    a->basis_sent = false;
  } else if (a->kind != TL_LORA) {
    if (!force) TL_TRY(tl_basis_check(a, p, path));
    p += TL_PROBE_BYTES * t->pairs;
  }
  for (int i = 0; t->stored && i < a->n_modules; i++)
    TL_TRY(take_floats(a->modules[i].P, (size_t)a->u * a->modules[i].rank * a->modules[i].rank, &p, TL_F32, path));
  if (t->stored) a->projection = TL_PROJECTION_STORED;
  return tl_adapter_refresh(a);
}

static tl_status build(tl_model *m, const tl_artifact *f, const tl_manifest *t, const char *path, bool force,
                       tl_adapter **out) {
  uint64_t want = expected_bytes(t, m);
  if (want != f->payload_bytes)
    return tl_fail(TL_E_FORMAT, "%s: the payload has %zu bytes, the manifest means %llu", path, f->payload_bytes,
                   (unsigned long long)want);
  if (!force) TL_TRY(check_base(t, m, path));
  tl_adapter *a;
  TL_TRY(tl_adapter_create_on(m, &t->options, t->from_file, &a));
  tl_status s = a->n_params == t->n_params
                    ? take_payload(a, t, f->payload, force, path)
                    : tl_fail(TL_E_FORMAT, "%s: the manifest says %lld parameters, the method has %lld", path,
                              (long long)t->n_params, (long long)a->n_params);
  if (s == TL_OK) *out = a;
  else tl_adapter_free(a);
  return s;
}

tl_status tl_artifact_read(tl_model *m, const char *path, bool force, const char *cache_dir, tl_adapter **out) {
  return tl_artifact_read_beside(m, path, force, cache_dir, NULL, out);
}

tl_status tl_artifact_read_beside(tl_model *m, const char *path, bool force, const char *cache_dir, tl_adapter *basis, tl_adapter **out) {
  tl_artifact f;
  tl_manifest t;
  *out = NULL;
  TL_TRY(tl_artifact_open(&f, path));
  tl_status s = tl_manifest_read(&t, f.manifest, m, path);
  t.options.cache_dir = cache_dir;
  if (s == TL_OK && basis && !t.from_file && !basis->basis_from_file && tl_adapter_basis_fits(m, &t.options, basis)) t.options.basis_of = basis;
  if (s == TL_OK) s = build(m, &f, &t, path, force, out);
  tl_manifest_free(&t);
  tl_artifact_close(&f);
  return s;
}

// ---------------------------------------------------------------- looking at a file
static void add_values(cJSON *o, const tl_artifact *f) {
  const cJSON *n = cJSON_GetObjectItemCaseSensitive(f->manifest, "parameters");
  const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(f->manifest, "dtype");
  int type = -1;
  for (int t = TL_F32; t <= TL_F16; t++)
    if (cJSON_IsString(dtype) && !strcmp(dtype->valuestring, tl_dtype_name(t))) type = t;
  if (type < 0 || !cJSON_IsNumber(n) || !(n->valuedouble >= 1 && n->valuedouble <= 1e12)) return;
  int64_t shown = n->valuedouble < shown_values ? (int64_t)n->valuedouble : shown_values;
  if (values_bytes(shown, type) > f->payload_bytes) return;
  cJSON *list = cJSON_AddArrayToObject(o, "values");
  const uint8_t *p = f->payload;
  for (int64_t i = 0; i < shown; i++) {
    float x;
    if (take_floats(&x, 1, &p, type, "") == TL_OK) cJSON_AddItemToArray(list, cJSON_CreateNumber((double)x));
    else cJSON_AddItemToArray(list, cJSON_CreateNull());
  }
}

static void add_signature(cJSON *o, const tl_artifact *f) {
  char hex[65];
  if (!f->is_signed) {
    cJSON_AddNullToObject(o, "signature");
    return;
  }
  for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", f->key[i]);
  cJSON *s = cJSON_AddObjectToObject(o, "signature");
  cJSON_AddStringToObject(s, "signer", f->signer);
  cJSON_AddStringToObject(s, "key", hex);
}

tl_status tl_artifact_inspect(const char *path, char **json) {
  tl_artifact f;
  char sum[65];
  *json = NULL;
  TL_TRY(tl_artifact_open(&f, path));
  tl_status s = tl_sha256_bytes(f.bytes, f.n, sum);
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "bytes", (double)f.n);
  cJSON_AddNumberToObject(o, "payload_bytes", (double)f.payload_bytes);
  cJSON_AddStringToObject(o, "sha256", s == TL_OK ? sum : "");
  add_values(o, &f);
  add_signature(o, &f);
  cJSON_AddItemToObject(o, "manifest", cJSON_Duplicate(f.manifest, true));
  char *printed = cJSON_PrintUnformatted(o);
  cJSON_Delete(o);
  tl_artifact_close(&f);
  if (s == TL_OK && !printed) s = tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  if (s == TL_OK) *json = printed;
  else free(printed);
  return s;
}
