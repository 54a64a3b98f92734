// record.c: the parts of a decode step as recordings (kernels/ops.h): on a GPU, CUDA graphs.
//
// Two runs of ops come again in every step: the layers over the rows that continue, and the head over all rows. A recording is
// good for one number of rows and for lists up to one length. So that a few of them serve all steps, rows are filled up to the
// next of a few counts by rows that go nowhere (tl_sampler's fill_up), and lengths are rounded up to a few. Neither changes a bit
// of a row that counts: ops are batch-invariant, and attention leaves out what lies beyond a list's end.
//
// A run is recorded when it comes for the second time: by then scratch has grown to what it needs, and one that came once is not
// worth it. What it is given lies at the same places in every step; when one of them moves (a larger cache, longer lists, another
// state of the adapter) all recordings are dropped. Memory: the driver's, some hundred bytes a launch; at most TL_RECORD_MOST are
// held, of which the one that was not used for longest goes first.
#include "sampler.h"

// 1, 2, 4, then steps of 8 up to 64, of 16 up to 128, of 32 up to 256 ...: an eighth at most is filled up from 64 on
int tl_record_rows(int T, int most) {
  int n = 1;
  for (; n < 8 && n < T; n *= 2) {}
  if (T > 8) {
    int step = 8;
    while (T > 8 * step) step *= 2;
    n = (T + step - 1) / step * step;
  }
  return n < most ? n : most;
}

// 128, 256, 384, 512, 768, 1024, 1536 ...
int tl_record_longest(int n) {
  int top = 128;
  while (top < n) top *= 2;
  return top >= 512 && n <= top / 4 * 3 ? top / 4 * 3 : top;
}

void tl_record_drop(tl_sampler *s) {
  for (int i = 0; i < s->recordings.n; i++) tl_ops()->recording_free(s->recordings.list[i].recording);
  s->recordings.n = 0;
}

void tl_record_check(tl_sampler *s) {
  const tl_population *p = s->opt.population;
  tl_places now = {.weights = s->net.w, .lowrank = s->net.lowrank, .variant = s->net.variant, .rope = s->net.rope, .cache = s->cache.block.base,
                   .lists = s->lists.ops, .kept = s->opt.kept ? s->opt.kept->arena.base : NULL,
                   .version = p ? p->version : s->adapter ? s->adapter->version : 0};
  if (memcmp(&now, &s->recordings.places, sizeof now) == 0) return;
  tl_record_drop(s);
  s->recordings.places = now;
}

// the entry of a run; new: *fresh, in the place of the one that was not used for longest when there are too many
static tl_recorded *entry(tl_sampler *s, int part, int rows, int longest, bool *fresh) {
  tl_recordings *r = &s->recordings;
  tl_recorded *oldest = &r->list[0];
  *fresh = false;
  for (int i = 0; i < r->n; i++) {
    tl_recorded *e = &r->list[i];
    if (e->part == part && e->rows == rows && e->longest == longest) return e;
    if (e->used < oldest->used) oldest = e;
  }
  *fresh = true;
  if (r->n < TL_RECORD_MOST) oldest = &r->list[r->n++];
  else tl_ops()->recording_free(oldest->recording);
  *oldest = (tl_recorded){.part = part, .rows = rows, .longest = longest};
  return oldest;
}

void tl_record_run(tl_sampler *s, int part, int rows, int longest, void (*fn)(tl_sampler *s, int rows, int longest)) {
  const tlk_ops *ops = tl_ops();
  bool fresh = true;
  tl_recorded *e = s->recordings.on ? entry(s, part, rows, longest, &fresh) : NULL;
  if (e) e->used = ++s->recordings.clock;
  if (e && e->recording && !ops->replay(e->recording)) {  // scratch has moved
    ops->recording_free(e->recording);
    e->recording = NULL;
  } else if (e && e->recording) {
    s->stats.replays++;
    return;
  }
  if (!fresh) {
    ops->record();
    fn(s, rows, longest);
    e->recording = ops->recorded();
    if (e->recording && ops->replay(e->recording)) {
      s->stats.replays++;
      return;
    }
  }
  fn(s, rows, longest);
}
