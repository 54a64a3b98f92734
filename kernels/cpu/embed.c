// embed.c: rows of the packed embedding table, and the gradient of the table.
//
// A row of a packed weight is strided: one word of 32 bits in every 256 bytes. Reading a few hundred rows that way costs far
// less than a second copy of the table. The gradient is divided among threads by columns, so rows are added in order of t.
#include "cpu.h"

void OP(embed_fwd)(float *x, const tlk_packed *table, const int32_t *ids, int T) {
  int K = table->K, bf16 = table->compute == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)T * K * 4)) schedule(static)
  for (int t = 0; t < T; t++) {
    const uint32_t *from = table->data + (size_t)(ids[t] / PANEL) * table->panel_words + ids[t] % PANEL;
    uint32_t *to = (uint32_t *)(x + (size_t)t * K);
    for (int s = 0; s < table->steps; s++, from += PANEL) {
      if (s + 8 < table->steps) __builtin_prefetch(from + 8 * PANEL);
      if (!bf16) {
        memcpy(to + s, from, 4);
        continue;
      }
      uint32_t low = *from << 16, high = *from & 0xffff0000u;
      memcpy(to + 2 * s, &low, 4);
      if (2 * s + 1 < K) memcpy(to + 2 * s + 1, &high, 4);
    }
  }
}

void OP(embed_bwd)(float *dtable, const float *dx, const int32_t *ids, int T, int C) {
#pragma omp parallel num_threads(threads_for((double)T * C))
  {
    int c0, c1;
    share(div_up(C, VL), omp_get_thread_num(), omp_get_num_threads(), &c0, &c1);
    for (int t = 0; t < T; t++)
      for (int c = c0 * VL; c < min_int(C, c1 * VL); c += VL) {
        float *to = dtable + (size_t)ids[t] * C + c;
        v_storen(to, v_loadn(to, C - c, 0) + v_loadn(dx + (size_t)t * C + c, C - c, 0), C - c);
      }
  }
}
