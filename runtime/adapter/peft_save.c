// peft_save.c: an adapter as a PEFT directory (see peft.h). As TINYLORA with our own A and B (PEFT computes B R A with what it
// finds, so the paper's sigma placement loads exactly), LoRA-XS with the matrix units as P. As LORA: a LoRA as it is; TinyLoRA
// and LoRA-XS as the LoRA that they equal: lora_A = A, lora_B = B R, alpha = r. Values are those that the forward pass uses
// (rounded to the storage dtype), written as F32, which is what PEFT computes its adapters in. The same adapter gives the same
// bytes.
#include "../base/safetensors.h"
#include "peft.h"
#include <cjson/cJSON.h>
#include <math.h>

int tl_peft_n_groups(int n, double weight_tying) {
  double groups = rint(n * (1.0 - weight_tying));
  return groups < 1 ? 1 : groups > n ? n : (int)groups;
}

int tl_peft_group(int i, int n, int n_groups) {
  int size = n / n_groups > 1 ? n / n_groups : 1, g = i / size;
  return g < n_groups - 1 ? g : n_groups - 1;
}

const char *tl_peft_suffix(const char *module_name) {
  const char *dot = strrchr(module_name, '.');
  return dot ? dot + 1 : module_name;
}

// ---------------------------------------------------------------- what goes into the container
typedef struct {
  tl_st_entry *entries;
  size_t n, cap;
  void **owned;  // (n) buffers made for an entry, or NULL
  bool failed;
} bundle;

// name: copied; own: released with the bundle
static void add(bundle *b, const char *name, const float *data, void *own, int n_dims, int64_t d0, int64_t d1, int64_t d2) {
  if (b->n == b->cap) {
    size_t cap = b->cap ? 2 * b->cap : 64;
    tl_st_entry *e = realloc(b->entries, cap * sizeof *e);
    if (e) b->entries = e;
    void **o = realloc(b->owned, cap * sizeof *o);
    if (o) b->owned = o;
    if (!e || !o) {
      b->failed = true;
      free(own);
      return;
    }
    b->cap = cap;
  }
  char *copy = strdup(name);
  if (!copy || !data) {
    b->failed = true;
    free(copy);
    free(own);
    return;
  }
  b->entries[b->n] = (tl_st_entry){.name = copy, .dtype = TL_F32, .n_dims = n_dims, .shape = {d0, d1, d2}, .data = data};
  b->owned[b->n++] = own;
}

static void bundle_free(bundle *b) {
  for (size_t i = 0; i < b->n; i++) {
    free((void *)b->entries[i].name);
    free(b->owned[i]);
  }
  free(b->entries);
  free(b->owned);
}

// ---------------------------------------------------------------- adapter_config.json
static void json_string(tl_str *s, const char *text) {
  cJSON *item = text ? cJSON_CreateString(text) : cJSON_CreateNull();
  char *printed = item ? cJSON_PrintUnformatted(item) : NULL;
  tl_str_printf(s, "%s", printed ? printed : "null");
  free(printed);
  cJSON_Delete(item);
}

// The kinds by their suffix when a kind is targeted in every layer or none; otherwise every module by its full name.
static void json_targets(tl_str *s, const tl_adapter *a) {
  int n_layers = a->model->cfg.n_layers, count[TL_N_KINDS] = {0};
  bool whole = true;
  char name[128];
  for (int i = 0; i < a->n_modules; i++) count[a->modules[i].module % TL_N_KINDS]++;
  for (int k = 0; k < TL_N_KINDS; k++) whole = whole && (count[k] == 0 || count[k] == n_layers);
  tl_str_printf(s, "[");
  const char *comma = "";
  for (int i = 0; i < (whole ? TL_N_KINDS : a->n_modules); i++) {
    if (whole && !count[i]) continue;
    tl_module_name(name, sizeof name, whole ? i : a->modules[i].module);
    tl_str_printf(s, "%s\n    \"%s\"", comma, whole ? tl_peft_suffix(name) : name);
    comma = ",";
  }
  tl_str_printf(s, "\n  ]");
}

// The alpha that a reader divides by the rank to get the module's scale back, as short a number as does it
static double alpha_of(const tl_adapter_module *m) {
  double exact = (double)m->scale * m->rank;
  float rounded = (float)exact;
  return (float)((double)rounded / m->rank) == m->scale ? rounded : exact;
}

// "NAME": {"full name of a module": value, ...} of the modules whose value is not the first one's
static void json_pattern(tl_str *s, const tl_adapter *a, const char *name, bool ranks) {
  const char *comma = "";
  tl_str_printf(s, "  \"%s\": {", name);
  for (int i = 1; i < a->n_modules && a->kind == TL_LORA; i++) {
    const tl_adapter_module *m = &a->modules[i], *first = &a->modules[0];
    if (ranks ? m->rank == first->rank : alpha_of(m) == alpha_of(first)) continue;
    char module[128];
    tl_module_name(module, sizeof module, m->module);
    tl_str_printf(s, "%s\n    \"%s\": %.9g", comma, module, ranks ? m->rank : alpha_of(m));
    comma = ",";
  }
  tl_str_printf(s, *comma ? "\n  },\n" : "},\n");
}

static void config_lora(tl_str *s, const tl_adapter *a, const char *base_name) {
  bool own = a->kind == TL_LORA;
  tl_str_printf(s, "{\n");
  json_pattern(s, a, "alpha_pattern", false);
  tl_str_printf(s, "  \"auto_mapping\": null,\n  \"base_model_name_or_path\": ");
  json_string(s, base_name);
  tl_str_printf(s, ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n"
                   "  \"init_lora_weights\": true,\n  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n"
                   "  \"lora_alpha\": %.9g,\n  \"lora_dropout\": 0.0,\n  \"modules_to_save\": null,\n"
                   "  \"peft_type\": \"LORA\",\n  \"r\": %d,\n",
                own ? alpha_of(&a->modules[0]) : (double)a->rank, own ? a->modules[0].rank : a->rank);
  json_pattern(s, a, "rank_pattern", true);
  tl_str_printf(s, "  \"revision\": null,\n  \"target_modules\": ");
  json_targets(s, a);
  tl_str_printf(s, ",\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n  \"use_rslora\": false\n}\n");
}

static void config_tinylora(tl_str *s, const tl_adapter *a, const char *base_name, int u, double tying) {
  tl_str_printf(s, "{\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": ");
  json_string(s, base_name);
  tl_str_printf(s, ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n"
                   "  \"init_v_bound\": 0.02,\n  \"init_weights\": true,\n  \"layers_pattern\": null,\n"
                   "  \"layers_to_transform\": null,\n  \"modules_to_save\": null,\n  \"peft_type\": \"TINYLORA\",\n"
                   "  \"projection_seed\": %llu,\n  \"r\": %d,\n  \"revision\": null,\n  \"save_projection\": true,\n"
                   "  \"target_modules\": ",
                (unsigned long long)(a->seed & 0xffffffffu), a->rank);
  json_targets(s, a);
  tl_str_printf(s, ",\n  \"task_type\": \"CAUSAL_LM\",\n  \"tinylora_dropout\": 0.0,\n  \"u\": %d,\n"
                   "  \"weight_tying\": %.17g\n}\n", u, tying);
}

// ---------------------------------------------------------------- as TINYLORA
// Whether the groups lie as PEFT's ratio lays them; label (n_groups): our group -> PEFT's
static bool fits_ratio(const tl_adapter *a, double *tying, int *label) {
  int n = a->n_modules, G = a->n_groups;
  *tying = G == 1 ? 1.0 : 1.0 - (double)G / n;
  if (tl_peft_n_groups(n, *tying) != G) return false;
  for (int g = 0; g < G; g++) label[g] = -1;
  for (int i = 0; i < n; i++) {
    int want = tl_peft_group(i, n, G), *have = &label[a->modules[i].group];
    if (*have < 0) *have = want;
    if (*have != want) return false;
  }
  return true;  // every module agrees, and PEFT's map is onto: the labels are one to one
}

static void add_part(bundle *b, const char *module, const char *part, const float *x, void *own, int n_dims, int64_t d0,
                     int64_t d1, int64_t d2) {
  char name[256];
  snprintf(name, sizeof name, TL_PEFT_PREFIX "%s.%s", module, part);
  add(b, name, x, own, n_dims, d0, d1, d2);
}

// P: (u, r, r)
static void add_module(bundle *b, const tl_adapter *a, const tl_adapter_module *m, int u, const float *P, void *own) {
  const tl_config *c = &a->model->cfg;
  int kind = m->module % TL_N_KINDS, r = m->rank;
  char module[128];
  tl_module_name(module, sizeof module, m->module);
  add_part(b, module, "tinylora_A", m->A, NULL, 2, r, tl_linear_in(c, kind), 0);
  add_part(b, module, "tinylora_B", m->B, NULL, 2, tl_linear_out(c, kind), r, 0);
  add_part(b, module, "tinylora_P", P, own, 3, u, r, r);
}

// PEFT takes the config's r, or as much of it as a weight has, for every module.
static tl_status check_ranks(const tl_adapter *a) {
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    int out = tl_linear_out(&a->model->cfg, m->module % TL_N_KINDS), in = tl_linear_in(&a->model->cfg, m->module % TL_N_KINDS);
    int most = out < in ? out : in, want = a->rank < most ? a->rank : most;
    char module[128];
    tl_module_name(module, sizeof module, m->module);
    if (m->rank != want)
      return tl_fail(TL_E_UNSUPPORTED,
                     "adapter: %s has rank %d, another module %d: PEFT's TINYLORA has one rank; export it as LORA", module,
                     m->rank, a->rank);
  }
  return TL_OK;
}

static tl_status bundle_tinylora(bundle *b, const tl_adapter *a, const char *base_name, tl_str *config) {
  int *label = malloc(sizeof(int) * (size_t)a->n_groups);
  if (!label) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  double tying;
  bool ratio = fits_ratio(a, &tying, label);
  int u = ratio ? a->u : a->u * a->n_groups;
  char name[64];
  for (int g = 0; ratio && g < a->n_groups; g++) {
    snprintf(name, sizeof name, TL_PEFT_V "%d", label[g]);
    add(b, name, a->value + (size_t)g * a->u, NULL, 1, a->u, 0, 0);
  }
  if (!ratio) add(b, TL_PEFT_V "0", a->value, NULL, 1, a->n_params, 0, 0);
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    size_t rr = (size_t)m->rank * m->rank;
    float *wide = NULL;
    if (!ratio && (wide = calloc((size_t)u * rr, sizeof(float))))
      memcpy(wide + (size_t)m->group * a->u * rr, m->P, sizeof(float) * a->u * rr);
    add_module(b, a, m, u, ratio ? m->P : wide, wide);
  }
  config_tinylora(config, a, base_name, u, ratio ? tying : 1.0);
  free(label);
  return TL_OK;
}

// LoRA-XS: R = sum_i v_i P_i exactly, with v = R's entries (the scale included) and P_i the i-th matrix unit
static void bundle_units(bundle *b, const tl_adapter *a, const char *base_name, tl_str *config) {
  int u = a->rank * a->rank;
  char name[64];
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    size_t rr = (size_t)m->rank * m->rank;
    float *v = calloc((size_t)u, sizeof(float)), *P = calloc((size_t)u * rr, sizeof(float));
    if (v) memcpy(v, m->R, sizeof(float) * rr);
    for (size_t j = 0; P && j < rr; j++) P[j * rr + j] = 1;
    snprintf(name, sizeof name, TL_PEFT_V "%d", i);
    add(b, name, v, v, 1, u, 0, 0);
    add_module(b, a, m, u, P, P);
  }
  config_tinylora(config, a, base_name, u, 0.0);
}

// ---------------------------------------------------------------- as LORA
// B R (out, width), each entry summed in double; columns beyond the module's rank are zero
static float *folded(const tl_adapter_module *m, int out, int width) {
  int r = m->rank;
  float *b = calloc((size_t)out * width, sizeof(float));
  for (int i = 0; b && i < out; i++)
    for (int q = 0; q < r; q++) {
      double sum = 0;
      for (int p = 0; p < r; p++) sum += (double)m->B[(size_t)i * r + p] * m->R[p * r + q];
      b[(size_t)i * width + q] = (float)sum;
    }
  return b;
}

// A (rank, in) with rows of zeros up to `rows`
static float *padded(const tl_adapter_module *m, int rows, int in) {
  float *a = calloc((size_t)rows * in, sizeof(float));
  if (a) memcpy(a, m->A, sizeof(float) * (size_t)m->rank * in);
  return a;
}

// LoRA as it is; TinyLoRA and LoRA-XS as lora_A = A, lora_B = B R with alpha = r, one r for all
static void bundle_lora(bundle *b, const tl_adapter *a, const char *base_name, tl_str *config) {
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    char module[128];
    int kind = m->module % TL_N_KINDS, out = tl_linear_out(&a->model->cfg, kind), in = tl_linear_in(&a->model->cfg, kind);
    bool own = a->kind == TL_LORA;
    int r = own ? m->rank : a->rank;
    float *A = own ? NULL : padded(m, r, in), *B = own ? NULL : folded(m, out, r);
    tl_module_name(module, sizeof module, m->module);
    add_part(b, module, "lora_A.weight", own ? m->A : A, A, 2, r, in, 0);
    add_part(b, module, "lora_B.weight", own ? m->B : B, B, 2, out, r, 0);
  }
  config_lora(config, a, base_name);
}

// ---------------------------------------------------------------- entry
// What only this program reads. A folded adapter's numbers are fp32, whatever those it was made of were stored in.
static void describe(tl_str *s, const tl_adapter *a, bool tinylora) {
  static const char *const kinds[] = {"tinylora", "lora_xs", "lora", "full"};
  bool native = a->kind == TL_TINYLORA && tinylora, units = a->kind == TL_LORA_XS && tinylora;
  bool plain = native || a->kind == TL_LORA;
  tl_str_printf(s, "{");
  if (native || units) {
    tl_str_printf(s, "\"groups\":[");
    for (int i = 0; i < a->n_modules; i++) tl_str_printf(s, "%s%d", i ? "," : "", units ? i : a->modules[i].group);
    tl_str_printf(s, "],");
  }
  tl_str_printf(s, "\"kind\":\"%s\",\"seed\":\"%llu\",\"sigma\":\"%s\",\"storage\":\"%s\",\"u\":%d}", kinds[a->kind],
                (unsigned long long)a->seed, a->sigma == TL_SIGMA_PAPER ? "paper" : "peft",
                tl_dtype_name(plain ? a->storage : TL_F32), units ? a->rank * a->rank : a->u);
}

tl_status tl_adapter_save_as(const tl_adapter *a, const char *dir, const char *base_name, tl_peft_form form) {
  if (a->kind == TL_FULL)
    return tl_fail(TL_E_UNSUPPORTED, "%s: full finetuning is no PEFT adapter: save the model itself (tl_model_save)", dir);
  if (a->kind == TL_LORA && form == TL_PEFT_TINYLORA)
    return tl_fail(TL_E_UNSUPPORTED, "%s: a LoRA is no TinyLoRA: its A and B are trained", dir);
  bool tinylora = form == TL_PEFT_TINYLORA || (form == TL_PEFT_NATIVE && a->kind == TL_TINYLORA);
  if (tinylora) TL_TRY(check_ranks(a));
  TL_TRY(tl_mkdirs(dir));
  bundle b = {0};
  tl_str config = {0}, about = {0};
  char weights[4096], json[4096];
  tl_status s = TL_OK;
  if (snprintf(weights, sizeof weights, "%s/adapter_model.safetensors", dir) >= (int)sizeof weights ||
      snprintf(json, sizeof json, "%s/adapter_config.json", dir) >= (int)sizeof json)
    return tl_fail(TL_E_ARG, "%s: path too long", dir);
  if (!tinylora) bundle_lora(&b, a, base_name, &config);
  else if (a->kind == TL_LORA_XS) bundle_units(&b, a, base_name, &config);
  else s = bundle_tinylora(&b, a, base_name, &config);
  if (s == TL_OK && b.failed) s = tl_fail(TL_E_MEMORY, "%s: out of memory while collecting the tensors", dir);
  describe(&about, a, tinylora);
  const char *metadata[] = {"format", "pt", TL_PEFT_META, about.p, NULL};
  if (s == TL_OK) s = tl_safetensors_write(weights, b.entries, b.n, NULL, NULL, metadata);
  if (s == TL_OK) s = tl_write_file(json, config.p, config.n);
  tl_str_free(&config);
  tl_str_free(&about);
  bundle_free(&b);
  return s;
}

tl_status tl_adapter_save(const tl_adapter *a, const char *dir, const char *base_name) {
  return tl_adapter_save_as(a, dir, base_name, TL_PEFT_NATIVE);
}
