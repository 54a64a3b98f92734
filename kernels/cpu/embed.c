// embed.c: rows of the packed embedding table, and the gradient of the table.
//
// A row of a packed weight is strided: one word of 32 bits in every 256 bytes. Reading a few hundred rows that way costs far
// less than a second copy of the table. The gradient is divided among threads by columns, so rows are added in order of t.
#include "cpu.h"

enum { COLUMNS = 64 };

typedef struct {
  float *out;
  const float *dx;
  const tlk_packed *table;
  const int32_t *ids;
  int T, C;
} job;

static void fwd_row(const void *ctx, int t, int thread) {
  const job *q = ctx;
  OP(packed_row)(q->out + (size_t)t * q->C, q->table, q->ids[t]);
}

void OP(embed_fwd)(float *x, const tlk_packed *table, const int32_t *ids, int T) {
  job q = {.out = x, .table = table, .ids = ids, .C = table->K};
  tlk_run(T, (double)T * table->K * 4, fwd_row, &q);
}

static void bwd_columns(const void *ctx, int i, int thread) {
  const job *q = ctx;
  for (int t = 0; t < q->T; t++)
    for (int c = i * COLUMNS; c < min_int(q->C, (i + 1) * COLUMNS); c += VL) {
      float *to = q->out + (size_t)q->ids[t] * q->C + c;
      v_storen(to, v_loadn(to, q->C - c, 0) + v_loadn(q->dx + (size_t)t * q->C + c, q->C - c, 0), q->C - c);
    }
}

void OP(embed_bwd)(float *dtable, const float *dx, const int32_t *ids, int T, int C) {
  job q = {.out = dtable, .dx = dx, .ids = ids, .T = T, .C = C};
  tlk_run(div_up(C, COLUMNS), (double)T * C, bwd_columns, &q);
}
