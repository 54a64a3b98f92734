// embed.c: rows of the embedding table, and their gradient (reference).
#include "ref.h"

void ref_embed_fwd(float *x, const tlk_packed *table, const int32_t *ids, int T) {
  for (int t = 0; t < T; t++) memcpy(x + (size_t)t * table->K, ref_row(table, ids[t]), sizeof *x * (size_t)table->K);
}

void ref_embed_bwd(float *dtable, const float *dx, const int32_t *ids, int T, int C) {
  for (int t = 0; t < T; t++)
    for (int c = 0; c < C; c++) dtable[(size_t)ids[t] * C + c] += dx[(size_t)t * C + c];
}
