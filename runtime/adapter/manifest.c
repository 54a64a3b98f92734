// manifest.c: the manifest of a compact file (artifact.h), out of an adapter and back into what it takes to build one. Reading
// checks every field against the model before anything is made of it.
#include "artifact.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>

static const char *const methods[] = {"tinylora", "lora_xs", "lora"};
static const char *const generators[] = {"philox4x32-10", "torch-mt19937", "stored"};
static const char covers[] = "targeted weights, 16 rows of every other matrix, norms, biases; rounded to bf16";

// ---------------------------------------------------------------- writing
static void add_ranges(cJSON *o, const char *key, const int32_t *x, int n) {
  tl_str s = {0};
  tl_ranges_write(&s, x, n);
  cJSON_AddStringToObject(o, key, s.p);
  tl_str_free(&s);
}

static void add_targets(cJSON *o, const tl_adapter *a, int32_t *layers) {
  cJSON *t = cJSON_AddObjectToObject(o, "targets");
  for (int k = 0; k < TL_N_KINDS; k++) {
    int n = 0;
    for (int i = 0; i < a->n_modules; i++)
      if (a->modules[i].module % TL_N_KINDS == k) layers[n++] = a->modules[i].module / TL_N_KINDS;
    if (n) add_ranges(t, tl_kind_names[k], layers, n);
  }
}

// one number where all are equal, else the list under the plural name
static void add_ranks(cJSON *o, const tl_adapter *a, int32_t *list) {
  bool same = true;
  for (int i = 0; i < a->n_modules; i++) {
    list[i] = a->modules[i].rank;
    same = same && list[i] == list[0];
  }
  if (same) cJSON_AddNumberToObject(o, "rank", list[0]);
  else add_ranges(o, "ranks", list, a->n_modules);
}

static void add_scales(cJSON *o, const tl_adapter *a) {
  bool same = true;
  for (int i = 0; i < a->n_modules; i++) same = same && a->modules[i].scale == a->modules[0].scale;
  if (same) {
    cJSON_AddNumberToObject(o, "scale", (double)a->modules[0].scale);
    return;
  }
  cJSON *list = cJSON_AddArrayToObject(o, "scales");
  for (int i = 0; i < a->n_modules; i++) cJSON_AddItemToArray(list, cJSON_CreateNumber((double)a->modules[i].scale));
}

static void add_projection(cJSON *o, const tl_adapter *a) {
  char seed[24];
  cJSON *p = cJSON_AddObjectToObject(o, "projection");
  cJSON_AddStringToObject(p, "generator", generators[a->projection]);
  snprintf(seed, sizeof seed, "%llu", (unsigned long long)a->seed);
  cJSON_AddStringToObject(p, "seed", seed);
}

// signs as hex, a bit for each pair, the first one highest; set: turned
static void add_signs(cJSON *o, const tl_adapter *a) {
  size_t n = tl_basis_pairs(a);
  tl_str s = {0};
  for (size_t at = 0; at < n; at += 4) {
    int digit = 0;
    for (size_t j = at; j < at + 4; j++) digit = 2 * digit + (j < n && a->signs[j] < 0);
    tl_str_printf(&s, "%x", digit);
  }
  cJSON_AddStringToObject(o, "signs", s.p);
  tl_str_free(&s);
}

static void add_basis(cJSON *o, const tl_adapter *a, bool carry) {
  cJSON *b = cJSON_AddObjectToObject(o, "basis");
  cJSON_AddStringToObject(b, "from", carry ? "file" : "svd");
  if (carry) return;
  if (a->signs) add_signs(b, a);
  char gap[24];
  snprintf(gap, sizeof gap, "%.2g", tl_basis_gap(a));
  cJSON_AddRawToObject(b, "closest", gap);
}

static tl_status add_base(cJSON *o, const tl_adapter *a, const char *name) {
  const tl_config *c = &a->model->cfg;
  char hash[33];
  uint8_t *targeted = calloc((size_t)c->n_layers * TL_N_KINDS, 1);
  if (!targeted) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (int i = 0; i < a->n_modules; i++) targeted[a->modules[i].module] = 1;
  tl_status s = tl_base_hash(a->model, targeted, hash);
  free(targeted);
  TL_TRY(s);
  cJSON *b = cJSON_AddObjectToObject(o, "base");
  cJSON_AddStringToObject(b, "name", name ? name : "");
  cJSON_AddStringToObject(b, "architecture", c->family->name);
  cJSON_AddNumberToObject(b, "layers", c->n_layers);
  cJSON_AddNumberToObject(b, "width", c->width);
  cJSON_AddStringToObject(b, "hash", hash);
  cJSON_AddStringToObject(b, "covers", covers);
  return TL_OK;
}

static tl_status add_provenance(cJSON *o, const char *text) {
  cJSON *p = text ? cJSON_Parse(text) : cJSON_CreateObject();
  if (!cJSON_IsObject(p)) {
    cJSON_Delete(p);
    return tl_fail(TL_E_ARG, "adapter: the provenance is not a JSON object");
  }
  if (!cJSON_GetObjectItemCaseSensitive(p, "tlrun")) cJSON_AddStringToObject(p, "tlrun", tl_version());
  cJSON_AddItemToObject(o, "provenance", p);
  return TL_OK;
}

static tl_status fill(cJSON *o, const tl_adapter *a, const tl_artifact_options *opt) {
  int32_t *list = malloc(sizeof(int32_t) * (size_t)a->n_modules);
  if (!list) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  cJSON_AddStringToObject(o, "format", "tlrun-adapter");
  cJSON_AddNumberToObject(o, "version", TL_ARTIFACT_VERSION);
  cJSON_AddStringToObject(o, "method", methods[a->kind]);
  cJSON_AddNumberToObject(o, "parameters", (double)a->n_params);
  cJSON_AddStringToObject(o, "dtype", tl_dtype_name(a->storage));
  add_ranks(o, a, list);
  if (a->kind == TL_TINYLORA) cJSON_AddNumberToObject(o, "u", a->u);
  else add_scales(o, a);
  if (a->kind != TL_LORA) cJSON_AddStringToObject(o, "sigma", a->sigma == TL_SIGMA_PAPER ? "paper" : "peft");
  if (a->kind == TL_TINYLORA) add_projection(o, a);
  add_targets(o, a, list);
  for (int i = 0; i < a->n_modules; i++) list[i] = a->modules[i].group;
  if (a->kind == TL_TINYLORA) add_ranges(o, "tying", list, a->n_modules);
  free(list);
  if (a->kind != TL_LORA) add_basis(o, a, opt->carry);
  TL_TRY(add_base(o, a, opt->base_name));
  return add_provenance(o, opt->provenance);
}

tl_status tl_manifest_write(const tl_adapter *a, const tl_artifact_options *opt, char **text) {
  cJSON *o = cJSON_CreateObject();
  *text = NULL;
  tl_status s = fill(o, a, opt);
  if (s == TL_OK && !(*text = cJSON_Print(o))) s = tl_fail(TL_E_MEMORY, "adapter: out of memory for the manifest");
  cJSON_Delete(o);
  return s;
}

// ---------------------------------------------------------------- reading
typedef struct {
  const cJSON *json;
  const char *path;
  const tl_model *m;
} source;

static const cJSON *field(const cJSON *o, const char *key) { return cJSON_GetObjectItemCaseSensitive(o, key); }

static tl_status text(const source *f, const cJSON *o, const char *key, const char **out) {
  const cJSON *v = field(o, key);
  if (!cJSON_IsString(v)) return tl_fail(TL_E_FORMAT, "%s: manifest field %s is missing or not a string", f->path, key);
  *out = v->valuestring;
  return TL_OK;
}

static tl_status whole(const source *f, const cJSON *o, const char *key, int64_t low, int64_t high, int64_t *out) {
  const cJSON *v = field(o, key);
  if (!cJSON_IsNumber(v) || !(v->valuedouble >= (double)low && v->valuedouble <= (double)high) ||
      v->valuedouble != floor(v->valuedouble))
    return tl_fail(TL_E_FORMAT, "%s: manifest field %s is not a whole number from %lld to %lld", f->path, key, (long long)low,
                   (long long)high);
  *out = (int64_t)v->valuedouble;
  return TL_OK;
}

static tl_status choice(const source *f, const cJSON *o, const char *key, const char *const *names, int n, int *out) {
  const char *v;
  TL_TRY(text(f, o, key, &v));
  for (*out = 0; *out < n; ++*out)
    if (!strcmp(v, names[*out])) return TL_OK;
  return tl_fail(TL_E_UNSUPPORTED, "%s: manifest field %s is '%.60s', which this version does not know", f->path, key, v);
}

// Another architecture or size is told before anything is compared weight by weight.
static tl_status read_base(tl_manifest *t, const source *f) {
  const cJSON *b = field(f->json, "base");
  const tl_config *c = &f->m->cfg;
  const char *name, *architecture, *hash;
  int64_t layers, width;
  TL_TRY(text(f, b, "name", &name));
  TL_TRY(text(f, b, "architecture", &architecture));
  TL_TRY(text(f, b, "hash", &hash));
  TL_TRY(whole(f, b, "layers", 1, 1 << 20, &layers));
  TL_TRY(whole(f, b, "width", 1, 1 << 30, &width));
  snprintf(t->base_name, sizeof t->base_name, "%s", name);
  snprintf(t->hash, sizeof t->hash, "%s", hash);
  if (layers != c->n_layers || width != c->width || strcmp(architecture, c->family->name) != 0)
    return tl_fail(TL_E_SHAPE, "%s: made for %s (%s, %d layers of width %d); this model is %s, %d layers of width %d", f->path,
                   *name ? name : "another model", architecture, (int)layers, (int)width, c->family->name, c->n_layers,
                   c->width);
  return TL_OK;
}

static tl_status read_targets(tl_manifest *t, const source *f) {
  const cJSON *targets = field(f->json, "targets"), *item = NULL;
  int layers = f->m->cfg.n_layers, total = layers * TL_N_KINDS;
  uint8_t *on = calloc((size_t)total, 1);
  int32_t *list = malloc(sizeof(int32_t) * (size_t)layers);
  tl_status s = on && list ? TL_OK : tl_fail(TL_E_MEMORY, "%s: out of memory", f->path);
  if (s == TL_OK && !cJSON_IsObject(targets)) s = tl_fail(TL_E_FORMAT, "%s: manifest field targets is missing", f->path);
  for (item = s == TL_OK ? targets->child : NULL; item && s == TL_OK; item = item->next) {
    int kind = 0, n;
    while (kind < TL_N_KINDS && strcmp(item->string, tl_kind_names[kind]) != 0) kind++;
    n = kind < TL_N_KINDS && cJSON_IsString(item) ? tl_ranges_read_some(item->valuestring, list, layers, layers) : -1;
    if (n < 0)
      s = tl_fail(TL_E_FORMAT, "%s: manifest: targets of '%.40s' are no list of this model's layers", f->path, item->string);
    for (int i = 0; i < n; i++) on[list[i] * TL_N_KINDS + kind] = 1;
  }
  for (int i = 0; s == TL_OK && i < total; i++)
    if (on[i]) t->modules[t->options.n_modules++] = i;
  if (s == TL_OK && !t->options.n_modules) s = tl_fail(TL_E_FORMAT, "%s: manifest: no module is targeted", f->path);
  free(on);
  free(list);
  return s;
}

static tl_status read_ranks(tl_manifest *t, const source *f) {
  int n = t->options.n_modules;
  int64_t rank = 0;
  if (field(f->json, "ranks")) {
    const char *list;
    TL_TRY(text(f, f->json, "ranks", &list));
    if (!tl_ranges_read(list, t->ranks, n, 1025))
      return tl_fail(TL_E_FORMAT, "%s: manifest: ranks is no list of %d ranks", f->path, n);
  } else {
    TL_TRY(whole(f, f->json, "rank", 1, 1024, &rank));
    for (int i = 0; i < n; i++) t->ranks[i] = (int32_t)rank;
  }
  for (int i = 0; i < n; i++) t->pairs += (size_t)t->ranks[i];
  return TL_OK;
}

static tl_status read_scales(tl_manifest *t, const source *f) {
  const cJSON *list = field(f->json, "scales"), *one = field(f->json, "scale");
  int n = t->options.n_modules;
  if (list && cJSON_GetArraySize(list) != n)
    return tl_fail(TL_E_FORMAT, "%s: manifest: scales is no list of %d numbers", f->path, n);
  for (int i = 0; i < n; i++) {
    const cJSON *v = list ? cJSON_GetArrayItem(list, i) : one;
    if (!cJSON_IsNumber(v))
      return tl_fail(TL_E_FORMAT, "%s: manifest field %s is not a number", f->path, list ? "scales" : "scale");
    t->scales[i] = (float)v->valuedouble;
  }
  return TL_OK;
}

static tl_status read_signs(tl_manifest *t, const source *f, const cJSON *basis) {
  const char *hex;
  if (!field(basis, "signs")) return TL_OK;
  TL_TRY(text(f, basis, "signs", &hex));
  size_t digits = (t->pairs + 3) / 4;
  if (strlen(hex) != digits || strspn(hex, "0123456789abcdef") != digits)
    return tl_fail(TL_E_FORMAT, "%s: manifest: signs has not %zu hex digits", f->path, digits);
  t->signs = malloc(t->pairs);
  if (!t->signs) return tl_fail(TL_E_MEMORY, "%s: out of memory", f->path);
  for (size_t i = 0; i < t->pairs; i++) {
    int digit = hex[i / 4] <= '9' ? hex[i / 4] - '0' : hex[i / 4] - 'a' + 10;
    t->signs[i] = digit >> (3 - i % 4) & 1 ? -1 : 1;
  }
  t->options.signs = t->signs;
  return TL_OK;
}

static tl_status read_basis(tl_manifest *t, const source *f) {
  static const char *const from[] = {"svd", "file"}, *const sigmas[] = {"paper", "peft"};
  const cJSON *basis = field(f->json, "basis");
  int which, sigma;
  TL_TRY(choice(f, f->json, "sigma", sigmas, 2, &sigma));
  TL_TRY(choice(f, basis, "from", from, 2, &which));
  t->options.sigma = sigma ? TL_SIGMA_PEFT : TL_SIGMA_PAPER;
  t->from_file = which == 1;
  return read_signs(t, f, basis);
}

static tl_status read_tinylora(tl_manifest *t, const source *f) {
  const cJSON *p = field(f->json, "projection");
  const char *seed, *tying;
  int generator, top = 0;
  int64_t u;
  TL_TRY(whole(f, f->json, "u", 1, 1 << 20, &u));
  TL_TRY(choice(f, p, "generator", generators, 3, &generator));
  TL_TRY(text(f, p, "seed", &seed));
  TL_TRY(text(f, f->json, "tying", &tying));
  if (!tl_ranges_read(tying, t->groups, t->options.n_modules, t->options.n_modules))
    return tl_fail(TL_E_FORMAT, "%s: manifest: tying is no list of %d groups", f->path, t->options.n_modules);
  for (int i = 0; i < t->options.n_modules; i++) top = t->groups[i] > top ? t->groups[i] : top;
  t->options.u = (int)u;
  t->options.groups = t->groups;
  char *end;
  errno = 0;
  t->options.seed = strtoull(seed, &end, 10);
  if (errno || end == seed || *end || *seed < '0' || *seed > '9') return tl_fail(TL_E_FORMAT, "%s: manifest: seed is \"%s\", wanted a whole number from 0", f->path, seed);
  t->stored = generator == TL_PROJECTION_STORED;
  t->options.projection = t->stored ? TL_PROJECTION_PHILOX : (tl_projection)generator;
  t->n_params = u * (top + 1);
  return TL_OK;
}

static tl_status read_fields(tl_manifest *t, const source *f) {
  const char *format;
  int64_t version, parameters;
  int method, dtype = 0;
  TL_TRY(text(f, f->json, "format", &format));
  if (strcmp(format, "tlrun-adapter") != 0)
    return tl_fail(TL_E_FORMAT, "%s: manifest field format is '%.40s'", f->path, format);
  TL_TRY(whole(f, f->json, "version", 1, 1 << 20, &version));
  if (version > TL_ARTIFACT_VERSION)
    return tl_fail(TL_E_UNSUPPORTED, "%s: format version %lld; this program reads up to %d", f->path, (long long)version,
                   TL_ARTIFACT_VERSION);
  const char *const dtypes[] = {tl_dtype_name(TL_F32), tl_dtype_name(TL_BF16), tl_dtype_name(TL_F16)};
  TL_TRY(choice(f, f->json, "method", methods, 3, &method));
  TL_TRY(choice(f, f->json, "dtype", dtypes, 3, &dtype));
  TL_TRY(whole(f, f->json, "parameters", 1, (int64_t)1 << 40, &parameters));
  TL_TRY(read_base(t, f));
  TL_TRY(read_targets(t, f));
  TL_TRY(read_ranks(t, f));
  t->options.kind = (tl_adapter_kind)method;
  t->options.storage = (tl_dtype)dtype;
  t->options.modules = t->modules;
  t->options.ranks = t->ranks;
  t->n_params = parameters;
  if (method != TL_LORA) TL_TRY(read_basis(t, f));
  if (method == TL_TINYLORA) TL_TRY(read_tinylora(t, f));
  else TL_TRY(read_scales(t, f));
  if (method != TL_TINYLORA) t->options.scales = t->scales;
  if (t->n_params != parameters)
    return tl_fail(TL_E_FORMAT, "%s: manifest: u and tying give %lld parameters, the field says %lld", f->path,
                   (long long)t->n_params, (long long)parameters);
  return TL_OK;
}

tl_status tl_manifest_read(tl_manifest *t, const cJSON *json, const tl_model *m, const char *path) {
  *t = (tl_manifest){0};
  size_t total = (size_t)m->cfg.n_layers * TL_N_KINDS;
  t->modules = malloc(sizeof(int32_t) * total);
  t->groups = malloc(sizeof(int32_t) * total);
  t->ranks = malloc(sizeof(int32_t) * total);
  t->scales = malloc(sizeof(float) * total);
  if (!t->modules || !t->groups || !t->ranks || !t->scales) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  source f = {json, path, m};
  return read_fields(t, &f);
}

void tl_manifest_free(tl_manifest *t) {
  free(t->modules);
  free(t->groups);
  free(t->ranks);
  free(t->scales);
  free(t->signs);
}
