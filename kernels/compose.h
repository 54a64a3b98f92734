// compose.h: ops that a backend of the host makes of its other ops, and the recordings it has not. The file that includes it says
// with COMPOSE(op) what its own op is called, and puts COMPOSED into its table.
#ifndef TLK_COMPOSE_H
#define TLK_COMPOSE_H
#include "ops.h"
#include <string.h>

static inline void composed_move_rows(const tlk_move *m, int n, int T) {
  for (int i = 0; i < n; i++) {
    size_t size = tlk_dtype_size(m[i].x.dtype);
    for (int t = 0; t < T; t++) {
      int to = m[i].to ? m[i].to[t] : t, from = m[i].from ? m[i].from[t] : t;
      if (to < 0 || from < 0) continue;
      memcpy((char *)m[i].y.p + (size_t)to * (size_t)m[i].y.ld * size, (const char *)m[i].x.p + (size_t)from * (size_t)m[i].x.ld * size,
             (size_t)m[i].C * size);
    }
  }
}

static inline void composed_linear_swiglu_fwd(tlk_mat h, const tlk_linear *gate_up, int keep, tlk_mat x, int T) {
  int F, K, compute;
  COMPOSE(packed_dims)(gate_up[0].w, &F, &K, &compute);
  COMPOSE(linear_fwd_group)(gate_up, 2, x, T);
  COMPOSE(swiglu_fwd)(h, gate_up[0].y, gate_up[1].y, T, F);
}

static inline void composed_linear_bwd_swiglu(tlk_mat dgate, tlk_mat dup, tlk_mat dh, float *g, tlk_mat dy, const tlk_packed *w,
                                              const tlk_lowrank *lr, tlk_mat gate, tlk_mat up, int T) {
  int N, F, compute;
  COMPOSE(packed_dims)(w, &N, &F, &compute);
  COMPOSE(linear_bwd_x)(dh, g, dy, w, lr, T, 0);
  COMPOSE(swiglu_bwd)(dgate, dup, dh, gate, up, T, F);
}

static inline void composed_linear_rope_fwd(const tlk_rotated *r, int n, const int32_t *pos, const float *table, tlk_mat x, int T, int D) {
  enum { MOST = 4 };
  for (int first = 0, k; first < n; first += k) {
    const tlk_rotated *q = r + first;
    tlk_linear l[MOST];
    k = n - first < MOST ? n - first : MOST;
    for (int i = 0; i < k; i++) {
      l[i] = q[i].linear;
      if (!q[i].heads && !q[i].out_rows) l[i].y = q[i].y;
    }
    COMPOSE(linear_fwd_group)(l, k, x, T);
    for (int i = 0; i < k; i++) {
      int N, K, compute;
      COMPOSE(packed_dims)(l[i].w, &N, &K, &compute);
      if (q[i].heads) COMPOSE(rope_fwd)(q[i].y, q[i].out_rows, l[i].y, pos, table, T, q[i].heads, D);
      else if (q[i].out_rows) COMPOSE(cast)(q[i].y, q[i].out_rows, l[i].y, T, N);
    }
  }
}

static inline int composed_records(void) { return 0; }
static inline void composed_record(void) {}
static inline tlk_recording *composed_recorded(void) { return NULL; }
static inline int composed_replay(tlk_recording *r) { return 0; }
static inline void composed_recording_free(tlk_recording *r) {}

#define COMPOSED                                                                                                    \
  .records = composed_records, .record = composed_record, .recorded = composed_recorded, .replay = composed_replay, \
  .recording_free = composed_recording_free, .move_rows = composed_move_rows
// for a backend that has none of its own
#define COMPOSED_FUSED                                                                                    \
  .linear_swiglu_fwd = composed_linear_swiglu_fwd, .linear_bwd_swiglu = composed_linear_bwd_swiglu,       \
  .linear_rope_fwd = composed_linear_rope_fwd
#endif
