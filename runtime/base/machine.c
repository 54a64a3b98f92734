// machine.c: what this machine can do at most, measured: multiply-adds in registers and reads from memory, on all threads.
// Benchmarks print their figures beside these limits. About 0.1 s each; the best of several short runs is kept, since a limit
// is what was reached, not the average.
#include "base.h"
#include <omp.h>

#if defined(__x86_64__)
#include <immintrin.h>
enum { CHAINS = 16, ROUNDS = 4000000 };

// CHAINS independent accumulators hide the latency; the values stay finite (everything is zero).
__attribute__((target("avx512f,avx512bf16"), noinline)) static float spin_bf16(void) {
  __m512 acc[CHAINS];
  __m512bh x = (__m512bh)_mm512_setzero_si512();
  for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_setzero_ps();
  for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
      acc[i] = _mm512_dpbf16_ps(acc[i], x, x);
      __asm__ volatile("" : "+v"(acc[i]));
    }
  }
  float s = 0;
  for (int i = 0; i < CHAINS; i++) s += _mm512_reduce_add_ps(acc[i]);
  return s;
}

__attribute__((target("avx512f"), noinline)) static float spin_f32_512(void) {
  __m512 acc[CHAINS], x = _mm512_setzero_ps();
  for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_setzero_ps();
  for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
      acc[i] = _mm512_fmadd_ps(x, x, acc[i]);
      __asm__ volatile("" : "+v"(acc[i]));
    }
  }
  float s = 0;
  for (int i = 0; i < CHAINS; i++) s += _mm512_reduce_add_ps(acc[i]);
  return s;
}

__attribute__((target("avx2,fma"), noinline)) static float spin_f32_256(void) {
  __m256 acc[CHAINS], x = _mm256_setzero_ps();
  for (int i = 0; i < CHAINS; i++) acc[i] = _mm256_setzero_ps();
  for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
      acc[i] = _mm256_fmadd_ps(x, x, acc[i]);
      __asm__ volatile("" : "+v"(acc[i]));
    }
  }
  float s = 0;
  for (int i = 0; i < CHAINS; i++) s += acc[i][0];
  return s;
}

__attribute__((noinline)) static float spin_f32_128(void) {
  __m128 acc[CHAINS], x = _mm_setzero_ps();
  for (int i = 0; i < CHAINS; i++) acc[i] = _mm_setzero_ps();
  for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
      acc[i] = _mm_add_ps(_mm_mul_ps(x, x), acc[i]);
      __asm__ volatile("" : "+x"(acc[i]));
    }
  }
  float s = 0;
  for (int i = 0; i < CHAINS; i++) s += acc[i][0];
  return s;
}

// the widest multiply-add for a dtype: the function and its FLOPs per instruction
static float (*widest(tl_dtype dtype, int *flops))(void) {
  __builtin_cpu_init();
  if (dtype == TL_BF16 && __builtin_cpu_supports("avx512bf16")) return *flops = 64, spin_bf16;
  if (__builtin_cpu_supports("avx512f")) return *flops = 32, spin_f32_512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return *flops = 16, spin_f32_256;
  return *flops = 8, spin_f32_128;
}

double tl_machine_gflops(tl_dtype dtype) {
  int flops, n = tl_threads();
  float (*spin)(void) = widest(dtype, &flops);
  double best = 0;
  volatile float sink = 0;
  for (int run = 0; run < 5; run++) {
    double t0 = tl_seconds();
#pragma omp parallel num_threads(n)
    {
      float s = spin();
      if (s != 0) sink = s;  // never: keeps the loop
    }
    double rate = (double)flops * CHAINS * ROUNDS * n / (tl_seconds() - t0) * 1e-9;
    if (rate > best) best = rate;
  }
  return best;
}
#else
double tl_machine_gflops(tl_dtype dtype) {
  (void)dtype;
  return 0;
}
#endif

double tl_machine_read_gbs(void) {
  enum { MIB = 256 };
  size_t words = (size_t)MIB << 17;  // 8 bytes each
  uint64_t *p = tl_aligned_alloc(words * 8);
  if (!p) return 0;
  memset(p, 1, words * 8);
  int n = tl_threads();
  double best = 0;
  volatile uint64_t sink = 0;
  for (int run = 0; run < 5; run++) {
    double t0 = tl_seconds();
#pragma omp parallel num_threads(n)
    {
      size_t me = (size_t)omp_get_thread_num(), lo = words / (size_t)n * me, hi = words / (size_t)n * (me + 1);
      uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
      for (size_t i = lo; i + 8 <= hi; i += 8)
        a |= p[i], b |= p[i + 1], c |= p[i + 2], d |= p[i + 3], e |= p[i + 4], f |= p[i + 5], g |= p[i + 6], h |= p[i + 7];
      if ((a | b | c | d | e | f | g | h) == 0) sink = 1;  // never: keeps the reads
    }
    double rate = (double)words * 8 / (tl_seconds() - t0) * 1e-9;
    if (rate > best) best = rate;
  }
  free(p);
  return best;
}
