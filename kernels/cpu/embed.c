// embed.c: rows of the embedding out of its packed form, and the sum of rows back. The table is the packed one that the tied head
// multiplies with: a row is gathered from its panel, one word a step, a few microseconds beside a layer's milliseconds.
#include "cpu.h"

void OP(embed_fwd)(float *x, const tlk_packed *table, const int32_t *ids, int T) {
  int K = table->K, bf16 = table->compute == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)T * K)) schedule(static)
  for (int t = 0; t < T; t++) {
    const uint32_t *from = table->data + (size_t)(ids[t] / PANEL) * table->panel_words + ids[t] % PANEL;
    float *to = x + (size_t)t * K;
    for (int k = 0; k < K; k++) {
      union { uint32_t u; float f; } v;
      uint32_t word = from[(size_t)(bf16 ? k / 2 : k) * PANEL];
      v.u = !bf16 ? word : k & 1 ? word & 0xffff0000u : word << 16;
      to[k] = v.f;
    }
  }
}

// Threads share the columns, so every row's sum runs in order of t.
void OP(embed_bwd)(float *dtable, const float *dx, const int32_t *ids, int T, int C) {
  int threads = threads_for((double)T * C);
#pragma omp parallel num_threads(threads)
  {
    int a, b;
    share(div_up(C, VL), omp_get_thread_num(), threads, &a, &b);
    a *= VL;
    b = min_int(b * VL, C);
    for (int t = 0; t < T; t++) {
      float *to = dtable + (size_t)ids[t] * C;
      const float *from = dx + (size_t)t * C;
      for (int c = a; c < b; c += VL) v_storen(to + c, v_loadn(to + c, b - c, 0) + v_loadn(from + c, b - c, 0), b - c);
    }
  }
}
