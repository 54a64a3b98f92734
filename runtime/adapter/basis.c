// basis.c: by what a compact file knows its base model again: the weights' hash, and probes of the singular pairs (artifact.h
// has the reasons). A pair's u is column q of B, its v row q of A, whatever the placement of sigma: sigma_q = |A_q| |B_q|.
//
// Memory: one weight in fp32 per thread. Time: one pass over the targeted weights.
#include "artifact.h"
#include <math.h>

enum { sampled_rows = 16, probe_seed = 0x7a11e };
static const double probe_step = 1.0 / 32, probe_tolerance = 0.05 + 0.5 / 32, sigma_tolerance = 0.01;

// ---------------------------------------------------------------- the base's hash
typedef struct {
  uint64_t hash[2];
} part_hash;

// To bf16, nearest even, kept as fp32; weights are finite. (The backend's round_to works in the backend's memory.)
static void round_all(float *x, size_t n) {
  for (size_t i = 0; i < n; i++) {
    union { float f; uint32_t u; } v = {x[i]};
    v.u = (v.u + 0x7fff + (v.u >> 16 & 1)) & 0xffff0000u;
    x[i] = v.f;
  }
}

static tl_status hash_part(tl_whole *w, const tl_part *p, bool whole, part_hash *out) {
  int rows = !p->cols || whole || p->rows < sampled_rows ? p->rows : sampled_rows;
  size_t width = p->cols ? (size_t)p->cols : 1, n = (size_t)rows * width;
  float *x = malloc(sizeof(float) * n);
  if (!x) return tl_fail(TL_E_MEMORY, "out of memory for a model's hash");
  tl_status s = rows == p->rows ? tl_whole_rows(w, p, 0, rows, x) : TL_OK;
  for (int i = 0; s == TL_OK && rows < p->rows && i < rows; i++)
    s = tl_whole_rows(w, p, (int)((int64_t)i * p->rows / rows), 1, x + (size_t)i * width);
  if (s == TL_OK) {
    round_all(x, n);
    tl_hash128(x, sizeof(float) * n, out->hash);
  }
  free(x);
  return s;
}

static void hash_lines(const tl_part *parts, const part_hash *hashes, int n, char *hex) {
  tl_str s = {0};
  char whole[65];
  for (int i = 0; i < n; i++) {
    char name[128];
    tl_part_name(name, sizeof name, &parts[i]);
    tl_str_printf(&s, "%s %d %d %016llx%016llx\n", name, parts[i].rows, parts[i].cols, (unsigned long long)hashes[i].hash[0],
                  (unsigned long long)hashes[i].hash[1]);
  }
  TL_ASSERT(tl_sha256_bytes(s.p, s.n, whole) == TL_OK);
  tl_str_free(&s);
  snprintf(hex, 33, "%.32s", whole);
}

static void remember(tl_model *m, const uint8_t *targeted, const char *hex) {
  size_t n = (size_t)m->cfg.n_layers * TL_N_KINDS;
  if (m->parent) return;  // a merged model's weights change with its adapter
  if (!m->hashed) m->hashed = malloc(n);
  if (!m->hashed) return;
  memcpy(m->hashed, targeted, n);
  memcpy(m->hash, hex, sizeof m->hash);
}

tl_status tl_base_hash(tl_model *m, const uint8_t *targeted, char *hex) {
  if (m->hashed && !memcmp(m->hashed, targeted, (size_t)m->cfg.n_layers * TL_N_KINDS)) {
    memcpy(hex, m->hash, sizeof m->hash);
    return TL_OK;
  }
  tl_part *parts = NULL;
  tl_whole *w;
  int n = 0, failed = 0;
  TL_TRY(tl_whole_open(m, m->compute == TL_F16 && !m->parent, &w));  // split.c says why
  tl_status s = tl_parts_list(&m->cfg, &parts, &n);
  part_hash *hashes = calloc((size_t)n + 1, sizeof *hashes);
#pragma omp parallel for schedule(dynamic) num_threads(tl_threads()) reduction(+ : failed)
  for (int i = 0; i < n; i++) {
    const tl_part *p = &parts[i];
    bool whole = p->role == TL_PART_WEIGHT && targeted[p->layer * TL_N_KINDS + p->kind];
    failed += !hashes || hash_part(w, p, whole, &hashes[i]) != TL_OK;
  }
  if (s == TL_OK && !failed) {
    hash_lines(parts, hashes, n, hex);
    remember(m, targeted, hex);
  }
  free(hashes);
  free(parts);
  tl_whole_close(w);
  return failed ? tl_fail(TL_E_MEMORY, "%s: out of memory for the hash of its weights, or its files cannot be read again", m->path) : s;
}

// ---------------------------------------------------------------- probes
typedef struct {
  double sigma, u, v;
} probe;

static float *probe_vector(const tl_adapter *a) {
  int n = 1;
  for (int k = 0; k < TL_N_KINDS; k++) {
    int out = tl_linear_out(&a->model->cfg, k), in = tl_linear_in(&a->model->cfg, k);
    n = out > n ? out : n;
    n = in > n ? in : n;
  }
  float *g = malloc(sizeof(float) * (size_t)n);
  if (g) tl_normal_fill(g, (size_t)n, probe_seed, 0);
  return g;
}

// g NULL: sigma alone
static probe take(const tl_adapter *a, const tl_adapter_module *m, int q, const float *g) {
  int out = tl_linear_out(&a->model->cfg, m->module % TL_N_KINDS), in = tl_linear_in(&a->model->cfg, m->module % TL_N_KINDS);
  double uu = 0, ug = 0, vv = 0, vg = 0;
  for (int i = 0; i < out; i++) {
    double x = m->B[(size_t)i * m->rank + q];
    uu += x * x;
    ug += g ? x * g[i] : 0;
  }
  for (int j = 0; j < in; j++) {
    double x = m->A[(size_t)q * in + j];
    vv += x * x;
    vg += g ? x * g[j] : 0;
  }
  return (probe){.sigma = sqrt(uu * vv), .u = uu > 0 ? ug / sqrt(uu) : 0, .v = vv > 0 ? vg / sqrt(vv) : 0};
}

size_t tl_basis_pairs(const tl_adapter *a) {
  size_t n = 0;
  for (int i = 0; i < a->n_modules; i++) n += (size_t)a->modules[i].rank;
  return n;
}

static double clipped(double x) { return fmax(-127 * probe_step, fmin(127 * probe_step, x)); }
static int8_t steps(double x) { return (int8_t)lrint(clipped(x) / probe_step); }

tl_status tl_basis_probes(const tl_adapter *a, uint8_t *out) {
  float *g = probe_vector(a);
  if (!g) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (int i = 0; i < a->n_modules; i++)
    for (int q = 0; q < a->modules[i].rank; q++, out += TL_PROBE_BYTES) {
      probe p = take(a, &a->modules[i], q, g);
      uint16_t sigma = tl_f32_to_bf16((float)p.sigma);
      out[0] = (uint8_t)sigma;
      out[1] = (uint8_t)(sigma >> 8);
      out[2] = (uint8_t)steps(p.u);
      out[3] = (uint8_t)steps(p.v);
    }
  free(g);
  return TL_OK;
}

static tl_status differs(const tl_adapter *a, const tl_adapter_module *m, int q, const probe *have, const probe *want,
                         const char *path) {
  char name[128];
  tl_module_name(name, sizeof name, m->module);
  return tl_fail(TL_E_UNSUPPORTED,
                 "%s: singular pair %d of %s is not the one the numbers were trained with: sigma %.4g, probes %.2f "
                 "and %.2f; the file has %.4g, %.2f and %.2f (closest singular values of this base: %.1e of the largest apart)",
                 path, q, name, have->sigma, have->u, have->v, want->sigma, want->u, want->v, tl_basis_gap(a));
}

tl_status tl_basis_check(const tl_adapter *a, const uint8_t *probes, const char *path) {
  float *g = probe_vector(a);
  if (!g) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  tl_status s = TL_OK;
  for (int i = 0; s == TL_OK && i < a->n_modules; i++)
    for (int q = 0; s == TL_OK && q < a->modules[i].rank; q++, probes += TL_PROBE_BYTES) {
      probe have = take(a, &a->modules[i], q, g);
      probe want = {.sigma = tl_bf16_to_f32((uint16_t)(probes[0] | probes[1] << 8)), .u = (int8_t)probes[2] * probe_step,
                    .v = (int8_t)probes[3] * probe_step};
      bool same = fabs(have.sigma - want.sigma) <= sigma_tolerance * fmax(fabs(have.sigma), fabs(want.sigma)) &&
                  fabs(clipped(have.u) - want.u) <= probe_tolerance && fabs(clipped(have.v) - want.v) <= probe_tolerance;
      if (!same) s = differs(a, &a->modules[i], q, &have, &want, path);
    }
  free(g);
  return s;
}

double tl_basis_gap(const tl_adapter *a) {
  double gap = 1;
  for (int i = 0; i < a->n_modules; i++) {
    double first = take(a, &a->modules[i], 0, NULL).sigma, last = first;
    for (int q = 1; q < a->modules[i].rank; q++) {
      double sigma = take(a, &a->modules[i], q, NULL).sigma;
      if (first > 0 && (last - sigma) / first < gap) gap = (last - sigma) / first;
      last = sigma;
    }
  }
  return gap;
}
