// split.c: which part of a model one rank has when N ranks share it (tensor parallelism, after Shoeybi et al. 2019,
// arXiv:1909.08053).
//
//   q k v gate up   W (out, in) is cut by its outputs: rank p has rows p out/N .. and the bias of these; y_p = x W_p^T is its own
//                   heads, or its own columns of the feed-forward, and attention and swiglu go on with them alone
//   o down          cut by inputs: columns p in/N .., for what the rank has: x_p W_p^T is one of N terms whose sum is y. The bias is
//                   rank 0's, so that it is added once
//   all else        embedding, head, norms: whole on every rank
//
// tl_layer_fwd and tl_layer_bwd compute with tl_config `local`, a model with fewer heads and a narrower feed-forward, and sum over
// the ranks where terms of a sum are apart (layer.c). Heads are cut in whole groups of a key/value head.
//
// Some things need a weight whole though a rank has only its part: the singular vectors of an adapter's basis, and the hash by which
// an adapter's file knows its base. tl_whole reads it from the model's files again (or draws it again, where weights are random),
// rounded as the model computes with it, so the values are those of a model that is not split. The hash of a model that computes in fp16
// takes them as they are stored: fp16 has neither all of bf16's numbers nor only those, and the hash is of numbers rounded to bf16.
#include "load.h"

tl_status tl_split_config(const char *path, const tl_config *c, int shards, tl_config *local) {
  const struct { const char *key; int n; } counts[] = {
    {"num_attention_heads", c->n_heads}, {"num_key_value_heads", c->n_kv_heads}, {"intermediate_size", c->ffn}};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    if (counts[i].n % shards)
      return tl_fail(TL_E_SHAPE, "%s: %s is %d, which tensor parallelism over %d ranks does not divide: each rank has as many as the others", path,
                     counts[i].key, counts[i].n, shards);
  *local = *c;
  local->n_heads /= shards;
  local->n_kv_heads /= shards;
  local->ffn /= shards;
  return TL_OK;
}

tl_slice tl_slice_whole(const tl_part *p) { return (tl_slice){0, p->rows, 0, p->cols}; }

tl_slice tl_slice_of(const tl_model *m, const tl_part *p) {
  tl_slice s = tl_slice_whole(p);
  bool weight = p->role == TL_PART_WEIGHT;
  if (m->shards == 1 || (!weight && p->role != TL_PART_BIAS)) return s;
  if (tl_split_by_rows(p->kind)) {
    s.rows /= m->shards;
    s.row = m->shard * s.rows;
  } else if (weight) {
    s.cols /= m->shards;
    s.col = m->shard * s.cols;
  } else if (m->shard) {
    s.rows = 0;
  }
  return s;
}

tl_status tl_whole_only(const tl_model *m, const char *what) {
  if (m->shards == 1) return TL_OK;
  return tl_fail(TL_E_UNSUPPORTED, "%s needs the model in one process; here %d ranks share it (tensor parallelism)", what, m->shards);
}

// ---------------------------------------------------------------- reading whole weights
struct tl_whole {
  const tl_model *m;
  bool stored, again;  // again: weights are read from the file, or drawn, again
  tl_source s;         // of a model that was loaded
  tl_part *parts;      // (n) of one with random weights, in the order in which they are drawn
  int n;
};

tl_status tl_whole_open(const tl_model *m, bool stored, tl_whole **out) {
  *out = calloc(1, sizeof **out);
  if (!*out) return tl_fail(TL_E_MEMORY, "out of memory");
  **out = (tl_whole){.m = m, .stored = stored, .again = stored || m->shards > 1};
  tl_status st = TL_OK;
  if ((*out)->again && m->random) st = tl_parts_list(&m->cfg, &(*out)->parts, &(*out)->n);
  else if ((*out)->again) st = tl_source_open(&(*out)->s, m->path);
  if (st == TL_OK) return TL_OK;
  free(*out);
  *out = NULL;
  return st;
}

void tl_whole_close(tl_whole *w) {
  if (!w) return;
  if (w->again && !w->m->random) tl_source_close(&w->s);
  free(w->parts);
  free(w);
}

// fp32 values as a model that computes in bf16 or fp16 has them
static void round_to(int dtype, float *x, size_t n) {
  for (size_t i = 0; dtype == TL_BF16 && i < n; i++) x[i] = tl_bf16_to_f32(tl_f32_to_bf16(x[i]));
  for (size_t i = 0; dtype == TL_F16 && i < n; i++) x[i] = tl_f16_to_f32(tl_f32_to_f16(x[i]));
}

static const tlk_packed *matrix_of(const tl_model *m, const tl_part *p) {
  switch (p->role) {
  case TL_PART_EMBED: return m->w.embed;
  case TL_PART_HEAD: return m->w.head;
  default: return tl_weights_module(&m->w, p->layer * TL_N_KINDS + p->kind)->w;
  }
}

static tl_status read_stored(const tl_source *from, const tl_part *p, const tl_slice *s, float *out) {
  tl_stored t;
  TL_TRY(tl_source_find(from, p, &t));
  TL_TRY(tl_stored_read(&t, p, s, out));
  tl_map_release(t.data, t.bytes);
  return TL_OK;
}

tl_status tl_whole_rows(tl_whole *w, const tl_part *p, int row, int n, float *out) {
  const tl_model *m = w->m;
  if (!w->again) {
    TL_ASSERT(p->cols || n == p->rows);
#pragma omp critical(tl_backend)  // a backend is not for two callers
    if (p->cols) tl_ops()->unpack(out, matrix_of(m, p), row, row + n);
    else tl_weights_part(&m->w, p, out);
    return TL_OK;
  }
  tl_slice s = {row, n, 0, p->cols};
  if (m->random) {
    int place = 0;
    while (place < w->n && (w->parts[place].role != p->role || w->parts[place].layer != p->layer || w->parts[place].kind != p->kind)) place++;
    TL_ASSERT(place < w->n);
    tl_part_draw(m, p, place, &s, out);
  } else {
    TL_TRY(read_stored(&w->s, p, &s, out));
  }
  if (p->cols && !w->stored) round_to(m->compute, out, (size_t)n * (size_t)p->cols);
  return TL_OK;
}

tl_status tl_whole_weight(tl_whole *w, int module, float *out) {
  const tl_config *c = &w->m->cfg;
  int kind = module % TL_N_KINDS;
  tl_part p = {.role = TL_PART_WEIGHT, .layer = module / TL_N_KINDS, .kind = kind, .rows = tl_linear_out(c, kind), .cols = tl_linear_in(c, kind)};
  return tl_whole_rows(w, &p, 0, p.rows, out);
}
