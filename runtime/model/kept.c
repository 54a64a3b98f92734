// kept.c: see kept.h.
//
// Memory: one block, used front to back; pages that no row reaches are never touched. It stays for the next steps: on a host it is
// as large as the budget from the start, where a step needs an eighth of that, since a new block's pages must be zeroed.
#include "kept.h"

tl_status tl_kept_create(int64_t memory_bytes, tl_kept **out) {
  *out = calloc(1, sizeof **out);
  if (!*out) return tl_fail(TL_E_MEMORY, "out of memory");
  (*out)->refs = 1;
  (*out)->budget = memory_bytes;
  return TL_OK;
}

tl_kept *tl_kept_retain(tl_kept *k) {
  k->refs++;
  return k;
}

static void drop_sequences(tl_kept *k) {
  for (int i = 0; i < k->n_sequences; i++) {
    free(k->sequences[i].rows);
    free(k->sequences[i].logprob);
  }
  k->n_sequences = 0;
}

void tl_kept_free(tl_kept *k) {
  if (!k || --k->refs) return;
  drop_sequences(k);
  free(k->sequences);
  free(k->acts);
  tl_arena_free(&k->arena);
  free(k);
}

void tl_kept_get_info(const tl_kept *k, tl_kept_info *out) {
  *out = (tl_kept_info){.n_layers = k->n_layers - k->first_layer, .rows = k->used, .bytes = (int64_t)k->arena.used};
}

tl_status tl_kept_plan(tl_kept *k, const tl_net *net, int64_t version, int64_t rows) {
  int L = net->cfg->n_layers, T = (int)rows;
  drop_sequences(k);
  k->model = NULL;
  k->n_layers = k->first_layer = L;
  k->width = net->cfg->width;
  k->used = k->capacity = 0;
  if (rows < 1 || rows > INT32_MAX / 2) return TL_OK;
  int64_t out = (int64_t)tl_align64((size_t)T * (size_t)k->width * 4), layer = (int64_t)tl_acts_bytes(net, T, true, true) + 64 * 24;
  int64_t n = (k->budget - out) / layer;
  if (n > L) n = L;
  if (n < 1) return TL_OK;
  size_t need = (size_t)(out + n * layer);
  if (k->arena.size < need) {
    tl_arena_free(&k->arena);
    if (tl_ops()->host && need > (size_t)k->budget / 8) need = (size_t)k->budget;
    TL_TRY(tl_arena_init(&k->arena, need, "what the sampler keeps for training"));
  }
  tl_arena_reset(&k->arena);
  free(k->acts);
  k->acts = calloc((size_t)n, sizeof *k->acts);
  if (!k->acts) return tl_fail(TL_E_MEMORY, "out of memory");
  k->x_out = tl_arena_take(&k->arena, (size_t)T * (size_t)k->width * 4);
  for (int l = 0; l < (int)n; l++) tl_acts_take(&k->acts[l], net, T, true, true, &k->arena);
  k->model = net->model;
  k->version = version;
  k->first_layer = L - (int)n;
  k->capacity = T;
  return TL_OK;
}

// a layer's tl_acts as matrices with a row a token; those that the model does not have are NULL
enum { PIECE_K = 8, PIECE_V, N_PIECES = 15 + TL_N_KINDS };

// rank of a linear's low-rank term, 0: none
static int rank_of(const tl_net *net, int l, int kind) { return net->lowrank ? net->lowrank[l * TL_N_KINDS + kind].r : 0; }

static void pieces(const tl_acts *a, const tl_net *net, int l, tlk_mat *out) {
  const tl_config *c = net->cfg;
  const tlk_mat parts[] = {tl_mat_f32(a->x_in, c->width), tl_mat_f32(a->x_mid, c->width), tl_mat_f32(a->rstd1, 1),
                           tl_mat_f32(a->rstd2, 1), tl_mat_f32(a->lse, c->n_heads), tl_mat_f32(a->rstd_q, c->n_heads),
                           tl_mat_f32(a->rstd_k, c->n_kv_heads), a->q, a->k, a->v, a->o, a->gate, a->up, a->q_raw, a->k_raw};
  memcpy(out, parts, sizeof parts);
  for (int k = 0; k < TL_N_KINDS; k++) out[15 + k] = tl_mat_f32(rank_of(net, l, k) ? a->z[k] : NULL, rank_of(net, l, k));
}

static tlk_mat from_row(tlk_mat m, int row) { return m.p ? tl_mat_rows(m, row) : m; }
static float *floats_from(float *p, int row, int width) { return p ? p + (size_t)row * width : NULL; }

bool tl_kept_layer(const tl_kept *k, const tl_net *net, int l, int row, tl_acts *out) {
  if (l < k->first_layer) return false;
  const tl_acts *a = &k->acts[l - k->first_layer];
  const tl_config *c = net->cfg;
  *out = (tl_acts){.x_in = floats_from(a->x_in, row, c->width), .x_mid = floats_from(a->x_mid, row, c->width),
                   .rstd1 = a->rstd1 + row, .rstd2 = a->rstd2 + row, .lse = floats_from(a->lse, row, c->n_heads),
                   .q = from_row(a->q, row), .k = from_row(a->k, row), .v = from_row(a->v, row), .o = from_row(a->o, row),
                   .gate = from_row(a->gate, row), .up = from_row(a->up, row), .q_raw = from_row(a->q_raw, row),
                   .k_raw = from_row(a->k_raw, row), .rstd_q = floats_from(a->rstd_q, row, c->n_heads),
                   .rstd_k = floats_from(a->rstd_k, row, c->n_kv_heads)};
  for (int i = 0; i < TL_N_KINDS; i++) out->z[i] = floats_from(a->z[i], row, rank_of(net, l, i));
  return true;
}

void tl_kept_gather(const tl_kept *k, const tl_net *net, int l, const int32_t *list, int T, tl_acts *out) {
  tlk_mat from[N_PIECES], to[N_PIECES];
  pieces(&k->acts[l - k->first_layer], net, l, from);
  pieces(out, net, l, to);
  for (int i = 0; i < N_PIECES; i++)
    if (from[i].p) tl_ops()->gather(to[i], from[i], list, T, from[i].ld);
}

void tl_kept_scatter(const tl_kept *k, const tl_net *net, int l, const tl_acts *a, const int32_t *kv_rows, const int32_t *list, int T) {
  tlk_mat from[N_PIECES], to[N_PIECES];
  tlk_move moves[N_PIECES];
  int n = 0;
  pieces(a, net, l, from);
  pieces(&k->acts[l - k->first_layer], net, l, to);
  for (int i = 0; i < N_PIECES; i++)
    if (to[i].p) moves[n++] = (tlk_move){to[i], from[i], list, i == PIECE_K || i == PIECE_V ? kv_rows : NULL, to[i].ld};
  tl_ops()->move_rows(moves, n, T);
}

int tl_kept_add(tl_kept *k, const tl_kept_sequence *s) {
  if (k->n_sequences == k->cap_sequences) {
    int cap = k->cap_sequences ? 2 * k->cap_sequences : 64;
    tl_kept_sequence *more = realloc(k->sequences, sizeof *more * (size_t)cap);
    if (!more) return -1;
    k->sequences = more;
    k->cap_sequences = cap;
  }
  size_t n = (size_t)s->n, f = s->logprob ? n + 1 : 0;
  tl_kept_sequence c = *s;
  c.rows = malloc(sizeof *c.rows * (n + 1));
  c.logprob = malloc(sizeof(float) * (3 * f + 1));
  if (!c.rows || !c.logprob) {
    free(c.rows), free(c.logprob);
    return -1;
  }
  memcpy(c.rows, s->rows, sizeof *c.rows * n);
  c.lse = c.logprob + f, c.entropy = c.lse + f;
  if (f) memcpy(c.logprob, s->logprob, sizeof(float) * f), memcpy(c.lse, s->lse, sizeof(float) * f), memcpy(c.entropy, s->entropy, sizeof(float) * f);
  k->sequences[k->n_sequences] = c;
  return k->n_sequences++;
}

const tl_kept_sequence *tl_kept_find(const tl_kept *k, int member, uint64_t id) {
  for (int i = 0; i < k->n_sequences; i++)
    if (k->sequences[i].prompt >= 0 && k->sequences[i].member == member && k->sequences[i].id == id) return &k->sequences[i];
  return NULL;
}
