// machine.c: what this machine can do at most, measured: multiply-adds in registers and reads from memory, on all threads.
// Benchmarks print their figures beside these limits.
//
// A limit is what was reached, not the average: each thread keeps the best of many windows of a tenth of a millisecond, short
// enough that on a busy machine some pass without another program taking the core, and the threads' bests are added. Memory is
// shared between the threads, so there a window is all threads' together.
#include "base.h"
#include <omp.h>

enum { WINDOWS = 500, CHAINS = 12 };

#if defined(__x86_64__)
#include <immintrin.h>

// CHAINS independent accumulators hide the latency and fit the 16 registers of every set; all values are zero.
#define SPIN(name, isa, vector, zero, step)                                                                                    \
  __attribute__((target(isa), noinline)) static void name(int rounds) {                                                        \
    vector x = zero, acc[CHAINS];                                                                                              \
    _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) acc[i] = zero;                                                   \
    for (int r = 0; r < rounds; r++) {                                                                                         \
      _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) {                                                              \
        acc[i] = step;                                                                                                         \
        __asm__ volatile("" : "+x"(acc[i]));                                                                                   \
      }                                                                                                                        \
    }                                                                                                                          \
  }
SPIN(spin_bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(acc[i], (__m512bh)x, (__m512bh)x))
SPIN(spin_i8, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(acc[i], x, x))
SPIN(spin_i8_256, "avx2", __m256i, _mm256_setzero_si256(), _mm256_add_epi32(acc[i], _mm256_madd_epi16(x, x)))
SPIN(spin_i8_128, "sse2", __m128i, _mm_setzero_si128(), _mm_add_epi32(acc[i], _mm_madd_epi16(x, x)))
SPIN(spin_512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(x, x, acc[i]))
SPIN(spin_256, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(x, x, acc[i]))
SPIN(spin_128, "sse2", __m128, _mm_setzero_ps(), _mm_add_ps(_mm_mul_ps(x, x), acc[i]))

// the widest multiply-add for a dtype: the function and its FLOPs per step
static void (*widest(tl_dtype dtype, int *flops))(int) {
  __builtin_cpu_init();
  bool wide = __builtin_cpu_supports("avx512f"), avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (dtype == TL_I8) {
    if (wide && __builtin_cpu_supports("avx512vnni"))
      return *flops = 128, spin_i8;
    return avx2 ? (*flops = 32, spin_i8_256) : (*flops = 16, spin_i8_128);
  }
  if (dtype == TL_BF16 && __builtin_cpu_supports("avx512bf16"))
    return *flops = 64, spin_bf16;
  if (wide)
    return *flops = 32, spin_512;
  return avx2 ? (*flops = 16, spin_256) : (*flops = 8, spin_128);
}

double tl_machine_gflops(tl_dtype dtype) {
  enum { ROUNDS = 20000 };
  int flops;
  void (*spin)(int) = widest(dtype, &flops);
  double sum = 0;
#pragma omp parallel num_threads(tl_threads()) reduction(+ : sum)
  {
    double best = 0;
    for (int w = 0; w < WINDOWS; w++) {
      double t0 = tl_seconds();
      spin(ROUNDS);
      double rate = (double)flops * CHAINS * ROUNDS / (tl_seconds() - t0) * 1e-9;
      if (rate > best)
        best = rate;
    }
    sum += best;
  }
  return sum;
}
#else
double tl_machine_gflops(tl_dtype dtype) {
  (void)dtype;
  return 0;
}
#endif

// one thread's share of a window: words lo .. hi of p
static uint64_t read_words(const uint64_t *p, size_t lo, size_t hi) {
  uint64_t a[8] = {0};
  for (size_t i = lo; i + 8 <= hi; i += 8)
    for (int k = 0; k < 8; k++)
      a[k] |= p[i + (size_t)k];
  return a[0] | a[1] | a[2] | a[3] | a[4] | a[5] | a[6] | a[7];
}

double tl_machine_read_gbs(void) {
  enum { MIB = 256, PIECES = 128, PASSES = 8 }; // a window reads 2 MiB, and no piece again before all others
  size_t words = (size_t)MIB << 17, piece = words / PIECES;
  uint64_t *p = tl_aligned_alloc(words * 8);
  if (!p)
    return 0;
  memset(p, 1, words * 8);
  int n = tl_threads();
  double best = 0;
  volatile uint64_t sink = 0;
  for (int w = 0; w < PASSES * PIECES; w++) {
    double t0 = tl_seconds();
#pragma omp parallel num_threads(n)
    {
      size_t me = (size_t)omp_get_thread_num(), at = (size_t)(w % PIECES) * piece, mine = piece / (size_t)n;
      if (read_words(p, at + me * mine, at + (me + 1) * mine) == 0)
        sink += 1; // never: keeps the reads
    }
    double rate = (double)piece * 8 / (tl_seconds() - t0) * 1e-9;
    if (rate > best)
      best = rate;
  }
  free(p);
  return best;
}
