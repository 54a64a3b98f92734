// bench_kernels.c: speed of the CPU backend's ops at the shapes of real models, beside this machine's peak. Not a test:
//   ninja -C build bench_kernels && build/bench_kernels [THREADS]
// A row is the median of 5 blocks of at least 0.1 s. "cold" products rotate over copies of the weight that together exceed the
// caches, as a model's layers do. The peak line is one thread's:
// 24 independent accumulators of the same instruction, in registers.
#include "../kernels/ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const tlk_ops *ops;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}
static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}
static double seconds(void (*fn)(void *, int), void *ctx) {
  double r[5], t0 = now();
  int n = 0;
  while (now() - t0 < 0.1 || n < 2) fn(ctx, n++);
  for (int b = 0; b < 5; b++) {
    t0 = now();
    for (int i = 0; i < n; i++) fn(ctx, i);
    r[b] = (now() - t0) / n;
  }
  qsort(r, 5, sizeof *r, ascending);
  return r[2];
}

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("avx512f,avx512bf16"))) static void peak_bf16(void *ctx, int i) {
  __m512i x = _mm512_set1_epi32(0x3f803f80 + i);
  __m512 acc[24];
  for (int j = 0; j < 24; j++) acc[j] = _mm512_setzero_ps();
  for (int k = 0; k < 100000; k++) {
#pragma GCC unroll 24
    for (int j = 0; j < 24; j++) __asm__("vdpbf16ps %1, %1, %0" : "+v"(acc[j]) : "v"(x));
  }
  for (int j = 1; j < 24; j++) acc[0] = _mm512_add_ps(acc[0], acc[j]);
  if (_mm512_reduce_add_ps(acc[0]) == 1) *(volatile float *)ctx = 1;
}
#endif

static void *zeros(size_t n) {
  void *p = aligned_alloc(64, (n + 63) / 64 * 64);
  return memset(p, 0, n);
}
static void fill(tlk_mat m, int T, int C) {
  uint32_t s = 12345;
  for (size_t i = 0; i < (size_t)T * C; i++) {
    s = s * 1664525u + 1013904223u;
    float f = (float)(int32_t)s * 0x1p-33f;
    if (m.dtype == TLK_BF16) {
      uint32_t u;
      memcpy(&u, &f, 4);
      ((uint16_t *)m.p)[i] = (uint16_t)(u >> 16);
    } else {
      ((float *)m.p)[i] = f;
    }
  }
}
static tlk_mat mat(int T, int C, int dtype) {
  tlk_mat m = {zeros((size_t)T * C * tlk_dtype_size(dtype)), dtype, C};
  fill(m, T, C);
  return m;
}

enum { MAX_COPIES = 128 };
typedef struct {
  int T, N, K, copies;
  tlk_packed *w[MAX_COPIES];
  tlk_mat x, y, dx;
  float *dw;
} linear;

static void run_fwd(void *p, int i) {
  linear *c = p;
  ops->linear_fwd(c->y, NULL, c->x, c->w[i % c->copies], NULL, NULL, c->T, 0);
}
static void run_bwd_x(void *p, int i) {
  linear *c = p;
  ops->linear_bwd_x(c->dx, NULL, c->y, c->w[i % c->copies], NULL, c->T, 0);
}
static void run_bwd_w(void *p, int i) {
  linear *c = p;
  (void)i;
  ops->linear_bwd_w(c->dw, c->y, c->x, c->T, c->N, c->K);
}

static void bench_linear(int N, int K, int dtype) {
  static const int rows[] = {1, 8, 64, 512, 2048};
  double bytes = (double)N * K * tlk_dtype_size(dtype);
  linear c = {.N = N, .K = K, .copies = (int)(192e6 / bytes) + 1};
  if (c.copies > MAX_COPIES) c.copies = MAX_COPIES;
  tlk_mat w = mat(N, K, dtype);
  for (int i = 0; i < c.copies; i++) c.w[i] = ops->pack(w.p, dtype, N, K, dtype);
  c.dw = zeros((size_t)N * K * 4);
  for (int i = 0; i < 5; i++) {
    c.T = rows[i];
    c.x = mat(c.T, K, dtype), c.y = mat(c.T, N, dtype), c.dx = mat(c.T, K, TLK_F32);
    double flop = 2e-9 * c.T * N * K;
    printf("%-5s N %5d K %4d T %4d  fwd %6.1f", dtype ? "bf16" : "f32", N, K, c.T, flop / seconds(run_fwd, &c));
    if (c.T >= 64) printf("  bwd_x %6.1f", flop / seconds(run_bwd_x, &c));
    if (c.T >= 64 && N < 10000) printf("  bwd_w %6.1f", flop / seconds(run_bwd_w, &c));
    printf("  GFLOP/s\n");
    free(c.x.p), free(c.y.p), free(c.dx.p);
  }
  for (int i = 0; i < c.copies; i++) ops->packed_free(c.w[i]);
  free(w.p), free(c.dw);
}

typedef struct {
  int T, rows, H, G, D, n_units;
  tlk_mat q, k, v, o, dq, dk, dv;
  float *lse;
  tlk_attn_map map;
  int32_t *unit_off;
} attention;

static void run_attn_fwd(void *p, int i) {
  attention *c = p;
  (void)i;
  ops->attn_fwd(c->o, c->lse, c->q, c->k, c->v, &c->map, 0.125f, c->T, c->H, c->G, c->D);
}
static void run_attn_bwd(void *p, int i) {
  attention *c = p;
  (void)i;
  ops->attn_bwd(c->dq, c->dk, c->dv, c->q, c->o, c->lse, c->q, c->k, c->v, &c->map, c->unit_off, c->n_units, 0.125f, c->T, c->H,
                c->G, c->D);
}

// n sequences of `len` keys; decode: one query each, otherwise a query per key
static void bench_attention(const char *name, int n, int len, int decode, int H, int G, int D) {
  attention c = {.T = decode ? n : n * len, .rows = n * len, .H = H, .G = G, .D = D, .n_units = n};
  int32_t *off = zeros(sizeof *off * c.T), *lens = zeros(sizeof *lens * c.T), *rows = zeros(sizeof *rows * c.rows);
  c.unit_off = zeros(sizeof(int32_t) * (n + 1));
  for (int i = 0; i < c.rows; i++) rows[i] = i;
  for (int t = 0; t < c.T; t++) off[t] = decode ? t * len : t / len * len, lens[t] = decode ? len : t % len + 1;
  for (int i = 0; i <= n; i++) c.unit_off[i] = i * (decode ? 1 : len);
  c.map = (tlk_attn_map){off, lens, rows, 0};
  c.q = mat(c.T, H * D, TLK_BF16), c.o = mat(c.T, H * D, TLK_BF16), c.lse = zeros(4 * (size_t)c.T * H);
  c.k = mat(c.rows, G * D, TLK_BF16), c.v = mat(c.rows, G * D, TLK_BF16);
  c.dq = mat(c.T, H * D, TLK_F32), c.dk = mat(c.rows, G * D, TLK_F32), c.dv = mat(c.rows, G * D, TLK_F32);
  printf("attention %-8s %3d x %4d  H %d G %d D %d  fwd %7.3f ms", name, n, len, H, G, D, 1e3 * seconds(run_attn_fwd, &c));
  if (!decode) printf("  bwd %7.3f ms", 1e3 * seconds(run_attn_bwd, &c));
  printf("\n");
}

typedef struct {
  int T;
  tlk_mat h;
  tlk_packed *w;
  int32_t *ids, *targets;
  float *a, *b, *d, *dh, *dw;
  tlk_sample_row *rows;
} head;

static void run_head_fwd(void *p, int i) {
  head *c = p;
  (void)i;
  ops->head_fwd(c->a, c->b, NULL, NULL, c->h, c->w, c->targets, 1, c->T);
}
static void run_head_bwd(void *p, int i) {
  head *c = p;
  (void)i;
  ops->head_bwd(c->dh, c->dw, NULL, c->h, c->w, c->targets, c->b, NULL, c->d, NULL, 1, c->T);
}
static void run_head_sample(void *p, int i) {
  head *c = p;
  for (int t = 0; t < c->T; t++) c->rows[t].u = (float)((t * 37 + i * 11) % 101) / 101;
  ops->head_sample(c->ids, c->a, NULL, NULL, c->h, c->w, c->rows, c->T);
}

static void bench_head(int V, int C, int T) {
  tlk_mat w = mat(V, C, TLK_BF16);
  head c = {.T = T, .h = mat(T, C, TLK_BF16), .w = ops->pack(w.p, TLK_BF16, V, C, TLK_BF16)};
  c.ids = zeros(4 * (size_t)T), c.targets = zeros(4 * (size_t)T), c.a = zeros(4 * (size_t)T), c.b = zeros(4 * (size_t)T);
  c.d = zeros(4 * (size_t)T), c.dh = zeros(4 * (size_t)T * C), c.rows = zeros(sizeof *c.rows * (size_t)T);
  for (int t = 0; t < T; t++) c.rows[t] = (tlk_sample_row){1, 1, 0, 0, 0.5f}, c.d[t] = 0.01f, c.targets[t] = t * 7 % V;
  double gflop = 2e-9 * T * V * C, s;
  printf("head V %5d C %3d T %4d", V, C, T);
  s = seconds(run_head_fwd, &c), printf("  fwd %7.2f ms %5.1f GFLOP/s", 1e3 * s, gflop / s);
  s = seconds(run_head_bwd, &c), printf("  bwd %7.2f ms %5.1f GFLOP/s", 1e3 * s, 2 * gflop / s);
  c.dw = zeros(4 * (size_t)V * C);
  s = seconds(run_head_bwd, &c), printf("  with dw %7.2f ms %5.1f GFLOP/s", 1e3 * s, 3 * gflop / s);
  if (T <= 256) {
    printf("\n  sample %.2f ms", 1e3 * seconds(run_head_sample, &c));
    for (int t = 0; t < T; t++) c.rows[t].top_k = 50;
    printf("  top_k 50 %.2f ms", 1e3 * seconds(run_head_sample, &c));
    for (int t = 0; t < T; t++) c.rows[t].top_k = 0, c.rows[t].top_p = 0.9f;
    printf("  top_p 0.9 %.2f ms", 1e3 * seconds(run_head_sample, &c));
  }
  printf("\n");
  ops->packed_free(c.w);
}

int main(int argc, char **argv) {
  ops = tlk_cpu();
  int n_threads = argc > 1 ? atoi(argv[1]) : 0;
  ops->set_threads(n_threads);
  printf("%s, threads %d (0: all)\n", ops->isa, n_threads);
#if defined(__x86_64__)
  float sink = 0;
  if (strcmp(ops->isa, "avx512bf16") == 0)
    printf("peak bf16 %.1f GFLOP/s on one thread\n", 24e5 * 64 / seconds(peak_bf16, &sink) / 1e9);
#endif
  bench_linear(1536, 576, TLK_BF16);
  bench_linear(576, 1536, TLK_BF16);
  bench_linear(192, 576, TLK_BF16);
  bench_linear(49152, 576, TLK_BF16);
  bench_linear(4864, 896, TLK_BF16);
  bench_linear(1536, 576, TLK_F32);
  bench_linear(384, 128, TLK_BF16);
  bench_attention("decode", 64, 256, 1, 9, 3, 64);
  bench_attention("train", 16, 256, 0, 9, 3, 64);
  bench_attention("tiny", 64, 96, 0, 4, 4, 32);
  bench_head(49152, 576, 64);
  bench_head(49152, 576, 1024);
  bench_head(512, 128, 4096);
  return 0;
}
