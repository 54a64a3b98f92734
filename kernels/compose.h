// compose.h: ops that a backend of the host makes of its other ops, and the recordings it has not. The file that includes it says
// with COMPOSE(op) what its own op is called, and puts COMPOSED into its table.
#ifndef TLK_COMPOSE_H
#define TLK_COMPOSE_H
#include "ops.h"
#include <string.h>

static void composed_move_rows(const tlk_move *m, int n, int T) {
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

static int composed_records(void) { return 0; }
static void composed_record(void) {}
static tlk_recording *composed_recorded(void) { return NULL; }
static int composed_replay(tlk_recording *r) { return 0; }
static void composed_recording_free(tlk_recording *r) {}

#define COMPOSED                                                                                               \
  .records = composed_records, .record = composed_record, .recorded = composed_recorded, .replay = composed_replay, \
  .recording_free = composed_recording_free, .move_rows = composed_move_rows
#endif
