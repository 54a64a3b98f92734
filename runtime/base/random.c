// random.c: counter-based randomness. Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A draw is a pure function of (seed, stream, index): no state, no order of arrival.
//   key     = seed (64 bits)
//   counter = stream (64 bits), block (64 bits); index i lies in block i / 4, word i % 4
#include "base.h"
#include <math.h>

void tl_philox(const uint32_t *counter, const uint32_t *key, uint32_t *out) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static void draw(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[4]) {
  uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
  tl_philox(counter, key, out);
}

float tl_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t w[4];
  draw(seed, stream, index / 4, w);
  return (float)(w[index % 4] >> 8) * 0x1p-24f;
}

void tl_normal_fill_from(float *x, size_t n, uint64_t seed, uint64_t stream, uint64_t first) {
  uint64_t end = first + n;
  for (uint64_t i = first / 4 * 4; i < end; i += 4) {
    uint32_t w[4];
    draw(seed, stream, i / 4, w);
    double z[4];
    for (int h = 0; h < 2; h++) {  // Box-Muller on (0, 1] x [0, 1)
      double r = sqrt(-2.0 * log(((double)w[2 * h] + 1.0) * 0x1p-32)), a = 2.0 * M_PI * ((double)w[2 * h + 1] * 0x1p-32);
      z[2 * h] = r * cos(a);
      z[2 * h + 1] = r * sin(a);
    }
    for (uint64_t j = i < first ? first - i : 0; j < 4 && i + j < end; j++) x[i + j - first] = (float)z[j];
  }
}

void tl_normal_fill(float *x, size_t n, uint64_t seed, uint64_t stream) { tl_normal_fill_from(x, n, seed, stream, 0); }

void tl_permutation(int32_t *perm, int n, uint64_t seed, uint64_t stream) {
  for (int i = 0; i < n; i++) perm[i] = i;
  for (int i = n - 1; i > 0; i--) {
    uint32_t w[4];
    draw(seed, stream, (uint64_t)i, w);
    uint64_t wide = (uint64_t)w[1] << 32 | w[0];
    int j = (int)(wide % (uint64_t)(i + 1));  // bias below 2^-32 for any n
    int32_t t = perm[i];
    perm[i] = perm[j];
    perm[j] = t;
  }
}
