// conformance.h: what the conformance tests share: the list of ops, the backends, random operands, comparisons.
//
// A backend is judged by kernels/reference. Operands are drawn from a fixed seed; matrices have a row stride larger than their
// width, and the gap is checked to be untouched; outputs that must be overwritten start as NaN, outputs that are accumulated
// into start with random values. Buffers have exactly the size they need, so that a sanitizer build sees an access beyond them.
#ifndef CONFORMANCE_H
#define CONFORMANCE_H
#include "../../kernels/ops.h"
#include "../test.h"
#include <dlfcn.h>
#include <stdint.h>
#include <unistd.h>

static const tlk_ops *ops;  // the backend under test
static int compute;

// Every op of the table; 1 marks a backward op, which the gradient test must cover, OPTIONAL one that a backend whose memory is
// the host's may leave out (ops.h). The suite fails when this list and the struct differ in number, or when an op has no row.
enum { OPTIONAL = 2 };
#define OPS(X)  \
  X(set_threads, 0) X(alloc, 0) X(release, 0) X(copy, 0) X(zero, 0) X(sync, 0) X(records, 0) X(record, 0)  \
  X(recorded, 0) X(replay, 0) X(recording_free, 0) X(pack, 0) X(repack, 0) X(unpack, 0) X(packed_free, 0) X(packed_bytes, 0) X(packed_dims, 0)  \
  X(linear_fwd, 0) X(linear_fwd_group, 0) X(linear_swiglu_fwd, 0) X(linear_rope_fwd, 0) X(linear_bwd_x, 1) X(linear_bwd_swiglu, 1) X(linear_bwd_w, 1) X(colsum, 1) X(lowrank_bwd, 1) X(rmsnorm_fwd, 0) X(rmsnorm_bwd, 1)  \
  X(rope_fwd, 0) X(rope_bwd, 1) X(cast, 0) X(gather, 0) X(move_rows, 0) X(attn_fwd, 0) X(attn_bwd, 1) X(swiglu_fwd, 0) X(swiglu_bwd, 1) X(embed_fwd, 0)  \
  X(embed_bwd, 1) X(head_fwd, 0) X(head_bwd, 1) X(head_sample, 0) X(adamw, 0) X(sumsq, 0) X(scale, 0) X(round_to, 0)  \
  X(svd, OPTIONAL) X(relax, OPTIONAL) X(ranks_hello, OPTIONAL) X(ranks_join, OPTIONAL) X(ranks_sum, OPTIONAL) X(ranks_leave, OPTIONAL)

#define OP_INDEX(name, kind) OP_##name,
enum { OPS(OP_INDEX) N_OPS };

typedef struct {
  const char *name;
  int kind;  // 1: backward; OPTIONAL
  size_t offset;
} op_info;
#define OP_INFO(name, kind) {#name, kind, offsetof(tlk_ops, name)},
__attribute__((unused)) static const op_info op_infos[N_OPS] = {OPS(OP_INFO)};

// ---- backends: the reference, the CPU's, and the CUDA sources on the simulator (tests/cusim): plain in three orders of threads,
// where a missing barrier shows as another result, and once with every access checked, in another order for every case.
// TL_TEST_DEVICE=cuda puts the module of a real device in the simulator's place.
enum { FORWARD, REVERSE, RANDOM, CHECKED };
static int device_order;
static char *module_path(const char *name) {  // in TL_MODULES, or beside the program
  static char path[4200];
  const char *dir = getenv("TL_MODULES");
  ssize_t n = dir ? snprintf(path, 4096, "%s/", dir) : readlink("/proc/self/exe", path, 4096);
  path[n > 0 ? n : 0] = 0;
  if (n > 0) snprintf(strrchr(path, '/'), 64, "/tl_%s.so", name);
  return path;
}
static const tlk_ops *open_module(const char *name) {
  char why[256] = "";
  setenv("TL_SYNC", "1", 1);
  setenv("TL_GRAPH", "1", 1);
  void *module = dlopen(module_path(name), RTLD_NOW | RTLD_LOCAL);
  tlk_open_fn *open = NULL;
  if (module) *(void **)&open = dlsym(module, TLK_OPEN);
  const tlk_ops *opened = open ? open(0, why, sizeof why) : NULL;
  if (!opened) test_skip("the CUDA backend", !module && access(module_path(name), F_OK) ? "its simulator was not built (./dev test builds it)" : *why ? why : dlerror());
  return opened;
}
static const tlk_ops *device(int order) {
  static const tlk_ops *plain, *checked;
  static int tried;
  const char *real = getenv("TL_TEST_DEVICE");
  if (!tried++) {
    plain = open_module(real ? real : "cusim");
    if (plain && !real) checked = open_module("cusimcheck");
  }
  return order == CHECKED ? checked : plain;
}
static void set_order(int order, unsigned seed) {
  void (*set)(int, unsigned) = NULL;
  void *module = getenv("TL_TEST_DEVICE") ? NULL : dlopen(module_path(order == CHECKED ? "cusimcheck" : "cusim"), RTLD_NOW | RTLD_NOLOAD);
  if (module) *(void **)&set = dlsym(module, "cusim_set_order");
  if (set) set(order == CHECKED ? (int)(seed % 3) : order, seed);
  device_order = order;
}
static inline int n_backends(void) { return !device(FORWARD) ? 2 : getenv("TL_TEST_DEVICE") ? 3 : 6; }
static inline const tlk_ops *backend(int i) {
  if (i >= 2) set_order(i - 2, 7);
  return i == 0 ? tlk_reference() : i == 1 ? tlk_cpu() : device(i - 2);
}
__attribute__((unused)) static const char *backend_label(void) {
  static char text[128];
  static const char *orders[] = {"forward", "reverse", "random", "checked"};
  if (ops->host || getenv("TL_TEST_DEVICE")) snprintf(text, sizeof text, "%s(%s)", ops->name, ops->isa);
  else snprintf(text, sizeof text, "%s(%s, %s)", ops->name, ops->isa, orders[device_order]);
  return text;
}
static inline int has_op(const tlk_ops *b, int op) {
  void (*fn)(void);
  memcpy(&fn, (const char *)b + op_infos[op].offset, sizeof fn);
  return fn != NULL;
}
static inline const char *compute_name(int compute) { return compute == TLK_BF16 ? "bf16" : compute == TLK_F16 ? "f16" : "f32"; }

// ---- random numbers: splitmix64 (Steele, Lea & Flood 2014)
static uint64_t rng_state;
static inline void rng_seed(uint64_t seed) { rng_state = seed * 0x9e3779b97f4a7c15u + 1; }
static inline uint64_t rng_next(void) {
  uint64_t z = rng_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
static inline double rng_uniform(void) { return (double)(rng_next() >> 11) * 0x1p-53; }
static inline double rng_normal(void) { return sqrt(-2 * log(1 - rng_uniform())) * cos(6.283185307179586 * rng_uniform()); }
static inline int rng_below(int n) { return (int)(rng_next() % (uint64_t)n); }

// ---- memory of one case
static void *taken[4096];
static const tlk_ops *taken_from[4096];  // NULL: the host's
static int n_taken;
// A device's operands lie in memory that both sides reach.
static inline void *take(size_t bytes) {
  bytes = bytes ? bytes : 1;
  const tlk_ops *from = ops && !ops->host ? ops : NULL;
  void *p = from ? from->alloc(bytes, TLK_MEM_BOTH) : calloc(1, bytes);
  if (!p || n_taken == (int)(sizeof taken / sizeof *taken)) abort();
  if (from) memset(p, 0, bytes);
  taken_from[n_taken] = from;
  return taken[n_taken++] = p;
}
static inline void drop_to(int n) {
  while (n_taken > n) {
    n_taken--;
    if (taken_from[n_taken]) taken_from[n_taken]->release(taken[n_taken]);
    else free(taken[n_taken]);
  }
}
static inline void *take_copy(const void *from, size_t bytes) { return memcpy(take(bytes), from, bytes); }
static inline void drop_all(void) { drop_to(0); }

// ---- matrices
static int gap = 3;  // ld - width
static const float gap_mark = -77.0f;  // exact in bf16 and f16

typedef struct {
  tlk_mat m;
  int rows, cols;
} mat;

static inline float from_bf16(uint16_t h) {
  union { uint32_t u; float f; } x = {(uint32_t)h << 16};
  return x.f;
}
static inline uint16_t to_bf16(float f) {
  union { float f; uint32_t u; } x = {f};
  return f != f ? 0x7fc0 : (uint16_t)((x.u + 0x7fff + (x.u >> 16 & 1)) >> 16);
}
static inline float from_f16(uint16_t h) {
  int exponent = h >> 10 & 31, fraction = h & 1023;
  float v = exponent == 31 ? (fraction ? NAN : INFINITY) : (float)(exponent ? 1024 + fraction : fraction) * (float)(1u << (exponent ? exponent : 1)) * 0x1p-25f;
  return h >> 15 ? -v : v;
}
static inline uint16_t to_f16(float f) {
  uint16_t sign = signbit(f) ? 0x8000 : 0;
  float a = fabsf(f);
  if (!(a < 65520)) return (uint16_t)(sign | (a != a ? 0x7e00 : 0x7c00));
  if (a < 0x1p-14f) return (uint16_t)(sign | (int)nearbyintf(a * 0x1p24f));  // subnormal; 1024 of them are the first normal one
  union { float f; uint32_t u; } x = {a};
  return (uint16_t)(sign | (((x.u + 0xfff + (x.u >> 13 & 1)) >> 13) - (112 << 10)));
}
static inline float get(const mat *a, int t, int c) {
  size_t i = (size_t)t * a->m.ld + c;
  if (a->m.dtype == TLK_F32) return ((float *)a->m.p)[i];
  return a->m.dtype == TLK_BF16 ? from_bf16(((uint16_t *)a->m.p)[i]) : from_f16(((uint16_t *)a->m.p)[i]);
}
static inline void put(mat *a, int t, int c, float v) {
  size_t i = (size_t)t * a->m.ld + c;
  if (a->m.dtype == TLK_F32) ((float *)a->m.p)[i] = v;
  else ((uint16_t *)a->m.p)[i] = a->m.dtype == TLK_BF16 ? to_bf16(v) : to_f16(v);
}
static inline size_t mat_bytes(const mat *a) { return (size_t)a->rows * a->m.ld * tlk_dtype_size(a->m.dtype); }
static inline size_t row_bytes(const mat *a) { return (size_t)a->cols * tlk_dtype_size(a->m.dtype); }
static inline char *row_at(const mat *a, int t) { return (char *)a->m.p + (size_t)t * a->m.ld * tlk_dtype_size(a->m.dtype); }

static inline mat mat_fill(int rows, int cols, int dtype, float v) {
  mat a = {{NULL, dtype, cols + gap}, rows, cols};
  a.m.p = take(mat_bytes(&a));
  for (int t = 0; t < rows; t++)
    for (int c = 0; c < a.m.ld; c++) put(&a, t, c, c < cols ? v : gap_mark);
  return a;
}
static inline mat mat_nan(int rows, int cols, int dtype) { return mat_fill(rows, cols, dtype, NAN); }
static inline mat mat_random(int rows, int cols, int dtype, double scale) {
  mat a = mat_fill(rows, cols, dtype, 0);
  for (int t = 0; t < rows; t++)
    for (int c = 0; c < cols; c++) put(&a, t, c, (float)(scale * rng_normal()));
  return a;
}
static inline mat mat_copy(const mat *a) {
  mat b = *a;
  b.m.p = take_copy(a->m.p, mat_bytes(a));
  return b;
}
static inline float *vec_random(size_t n, double scale) {
  float *v = take(sizeof *v * n);
  for (size_t i = 0; i < n; i++) v[i] = (float)(scale * rng_normal());
  return v;
}
static inline float *vec_copy(const float *v, size_t n) { return take_copy(v, sizeof *v * n); }
static inline float *vec_nan(size_t n) {
  float *v = take(sizeof *v * n);
  for (size_t i = 0; i < n; i++) v[i] = NAN;
  return v;
}

// ---- comparisons: the largest difference over the largest expected value
static inline void close_vec(const char *what, const float *want, const float *got, size_t n, double tol) {
  double e = test_max_rel(got, want, n);
  CHECK(e <= tol, "%s differs by %.3g of its largest value, allowed %.3g", what, e, tol);
}
static inline void close_mat(const char *what, const mat *want, const mat *got, double tol) {
  double d = 0, s = 1e-30;
  for (int t = 0; t < want->rows; t++) {
    for (int c = 0; c < want->cols; c++) {
      double e = fabs((double)get(want, t, c) - get(got, t, c));
      if (!(e <= d)) d = e;
      if (fabs(get(want, t, c)) > s) s = fabs(get(want, t, c));
    }
    for (int c = want->cols; c < want->m.ld; c++) CHECK(get(got, t, c) == gap_mark, "%s: wrote beyond row %d", what, t);
  }
  CHECK(d <= tol * s, "%s differs by %.3g of its largest value, allowed %.3g", what, d / s, tol);
}
static inline void same_bits(const char *what, const void *a, const void *b, size_t bytes) {
  if (memcmp(a, b, bytes) == 0) return;
  size_t i = 0;
  while (((const char *)a)[i] == ((const char *)b)[i]) i++;
  test_fail("%s: bits differ from byte %zu of %zu on", what, i, bytes);
}

// ---- who attends to whom
typedef enum { MAP_PLAIN, MAP_PREFIX, MAP_DECODE } map_kind;
typedef struct {
  tlk_attn_map map;
  int32_t *unit_off, *pos;
  int T, n_rows, n_units;
} attn_case;

// lengths (n) of sequences, each a unit. MAP_PREFIX: the first is the prompt, the others its completions, twice over: two units
// with a shared prefix each. MAP_DECODE: one query a sequence, its keys scattered over a cache with unused slots.
static inline attn_case attn_make(map_kind kind, const int *lengths, int n, int window) {
  int total = 0, copies = kind == MAP_PREFIX ? 2 : 1;
  for (int i = 0; i < n; i++) total += lengths[i];
  attn_case c = {.T = kind == MAP_DECODE ? n : copies * total, .n_rows = kind == MAP_DECODE ? total + 5 : copies * total};
  int cap = copies * (total + n * lengths[0]);
  int32_t *off = take(sizeof *off * (size_t)c.T), *len = take(sizeof *len * (size_t)c.T);
  int32_t *rows = take(sizeof *rows * (size_t)cap);
  c.unit_off = take(sizeof *c.unit_off * (size_t)(n + 3));
  c.pos = take(sizeof *c.pos * (size_t)c.T);
  int32_t *slot = take(sizeof *slot * (size_t)c.n_rows);
  for (int i = 0; i < c.n_rows; i++) slot[i] = i;
  if (kind == MAP_DECODE)
    for (int i = c.n_rows - 1; i > 0; i--) {
      int j = rng_below(i + 1), s = slot[i];
      slot[i] = slot[j], slot[j] = s;
    }
  int t = 0, key = 0, list = 0;
  for (int copy = 0; copy < copies; copy++) {
    int prompt = key;
    for (int i = 0; i < n; i++) {
      int shared = kind == MAP_PREFIX && i > 0 ? lengths[0] : 0, start = list;
      if (kind != MAP_PREFIX || i == 0) c.unit_off[c.n_units++] = t;
      for (int j = 0; j < shared; j++) rows[list++] = slot[prompt + j];
      for (int j = 0; j < lengths[i]; j++) {
        rows[list++] = slot[key++];
        if (kind == MAP_DECODE && j + 1 < lengths[i]) continue;
        off[t] = start, len[t] = shared + j + 1, c.pos[t] = shared + j, t++;
      }
    }
  }
  c.unit_off[c.n_units] = t;
  c.map = (tlk_attn_map){off, len, rows, window};
  return c;
}

#endif
