// torch_random.c: torch.normal on torch's CPU generator, so that a TinyLoRA whose projections P were not saved can be read.
//
// Generator: MT19937 (Matsumoto and Nishimura 1998), seeded with the low 32 bits of the seed.
// Fewer than 16 values: one after another in double. Two uniforms of 53 bits (each of two draws, the first the high half) give
//   r = sqrt(-2 log1p(-u2)), t = 2 pi u1: r cos t, and r sin t for the next call.
// 16 values or more: all are filled with uniforms of 24 bits (one draw each); then every block of 16 is turned into normals in
//   float: value j of the first eight with value j + 8, r = sqrt(-2 log(1 - a)), t = 2 pi b: r cos t and r sin t. When 16 does
//   not divide the length, the last 16 are drawn anew and turned once more.
// On x86 with AVX2 torch computes the logarithm, sine and cosine of that second way by the polynomials of the Cephes library
// (Moshier, logf and sinf/cosf; public domain), each multiplication that feeds an addition fused with it. The bits depend on
// that, so the same is done here with fmaf, one value at a time; the build keeps the compiler from fusing anything else. A
// torch without AVX2 (ARM, ATEN_CPU_CAPABILITY=default) uses its C library there, with other last bits: such a P differs from
// ours by about 1e-7.
#include "torch_random.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { words = 624, middle = 397, block = 16, half = block / 2 };

typedef struct {
  uint32_t state[words];
  int at;
} mt19937;

static void seed_with(mt19937 *g, uint32_t seed) {
  g->state[0] = seed;
  for (int i = 1; i < words; i++)
    g->state[i] = 1812433253u * (g->state[i - 1] ^ (g->state[i - 1] >> 30)) + (uint32_t)i;
  g->at = words;
}

static void turn(mt19937 *g) {
  for (int i = 0; i < words; i++) {
    uint32_t y = (g->state[i] & 0x80000000u) | (g->state[(i + 1) % words] & 0x7fffffffu);
    g->state[i] = g->state[(i + middle) % words] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
  }
  g->at = 0;
}

static uint32_t draw(mt19937 *g) {
  if (g->at == words) turn(g);
  uint32_t y = g->state[g->at++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

static float uniform24(mt19937 *g) { return (float)(draw(g) & 0xffffffu) * 0x1p-24f; }

static double uniform53(mt19937 *g) {
  uint64_t high = draw(g), low = draw(g);
  return (double)(((high << 32) | low) & ((1ull << 53) - 1)) * 0x1p-53;
}

// ---------------------------------------------------------------- fewer than 16
static void normal_few(float *x, size_t n, mt19937 *g, double std) {
  double kept = 0;
  for (size_t i = 0; i < n; i++) {
    if (i % 2) {
      x[i] = (float)(kept * std);
      continue;
    }
    double u1 = uniform53(g), u2 = uniform53(g);
    double r = sqrt(-2.0 * log1p(-u2)), t = 2.0 * 3.14159265358979323846 * u1;
    kept = r * sin(t);
    x[i] = (float)(r * cos(t) * std);
  }
}

// ---------------------------------------------------------------- 16 and more
static float horner(float x, const float *c, int n) {
  float y = c[0];
  for (int i = 1; i < n; i++) y = fmaf(y, x, c[i]);
  return y;
}

// Cephes logf for a normal x in (0, 1]: x = m 2^e with m in [sqrt(1/2), sqrt(2)), log x = log m + e log 2 in two parts
static float log_poly(float x) {
  static const float c[] = {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                            -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
  int e;
  float m = frexpf(x, &e), exponent = (float)e;
  if (m < 0.707106781186547524f) {
    exponent -= 1;
    m = (m - 1) + m;
  } else {
    m -= 1;
  }
  float square = m * m, low = exponent * -2.12194440e-4f;
  float y = fmaf(horner(m, c, 9) * m, square, low);
  y = y - square * 0.5f;
  return fmaf(exponent, 0.693359375f, m + y);
}

// Cephes sinf and cosf for x in [0, 2 pi]: the octant j, x - j pi/4 in three parts, a polynomial for each
static void sin_cos_poly(float x, float *sine, float *cosine) {
  static const float c[] = {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f};
  static const float s[] = {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f};
  int j = ((int)(x * 1.27323954473516f) + 1) & ~1;
  float octant = (float)j;
  x = fmaf(octant, -0.78515625f, x);
  x = fmaf(octant, -2.4187564849853515625e-4f, x);
  x = fmaf(octant, -3.77489497744594108e-8f, x);
  float z = x * x;
  float even = fmaf(horner(z, c, 3) * z, z, -(z * 0.5f)) + 1;
  float odd = fmaf(horner(z, s, 3) * z, x, x);
  bool swap = (j & 2) != 0;
  *sine = swap ? even : odd;
  *cosine = swap ? odd : even;
  if (j & 4) *sine = -*sine;
  if (!((j - 2) & 4)) *cosine = -*cosine;
}

static void block_to_normals(float *x, float std) {
  for (int i = 0; i < half; i++) {
    float sine, cosine, r = sqrtf(-2.0f * log_poly(1.0f - x[i]));
    sin_cos_poly(6.283185307179586f * x[i + half], &sine, &cosine);
    x[i] = r * cosine * std;
    x[i + half] = r * sine * std;
  }
}

static void normal_many(float *x, size_t n, mt19937 *g, float std) {
  for (size_t i = 0; i < n; i++) x[i] = uniform24(g);
  for (size_t i = 0; i + block <= n; i += block) block_to_normals(x + i, std);
  if (n % block == 0) return;
  float *last = x + n - block;
  for (int i = 0; i < block; i++) last[i] = uniform24(g);
  block_to_normals(last, std);
}

void tl_torch_normal(float *x, size_t n, uint64_t seed, double std) {
  mt19937 g;
  seed_with(&g, (uint32_t)seed);
  if (n < block) normal_few(x, n, &g, std);
  else normal_many(x, n, &g, (float)std);
}
