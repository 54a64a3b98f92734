// cache.c: see cache.h.
#include "cache.h"

int64_t tl_kv_row_bytes(const tl_net *net) {
  return (int64_t)net->cfg->n_layers * 2 * net->cfg->n_kv_heads * net->cfg->head_dim * (int64_t)tlk_dtype_size(net->act);
}

tl_status tl_kv_cache_init(tl_kv_cache *c, const tl_net *net, int rows) {
  int L = net->cfg->n_layers, width = net->cfg->n_kv_heads * net->cfg->head_dim;
  *c = (tl_kv_cache){0};  // without rows it stays when there is no memory
  size_t one = tl_align64((size_t)rows * width * tlk_dtype_size(net->act));
  char what[64];
  snprintf(what, sizeof what, "a key/value cache of %d rows", rows);
  TL_TRY(tl_arena_reuse(&c->block, one * 2 * (size_t)L, TLK_MEM_SPARSE, what));
  c->k = calloc(2 * (size_t)L, sizeof *c->k);
  c->free_rows = malloc(sizeof(int32_t) * ((size_t)rows + 1));
  c->holders = calloc((size_t)rows + 1, sizeof *c->holders);
  if (!c->k || !c->free_rows || !c->holders) {
    tl_kv_cache_free(c);
    return tl_fail(TL_E_MEMORY, "out of memory");
  }
  c->n_layers = L, c->rows = c->n_free = rows;
  c->bytes = (int64_t)(one * 2 * (size_t)L);
  c->v = c->k + L;
  for (int l = 0; l < L; l++) {
    c->k[l] = (tlk_mat){c->block.base + one * 2 * (size_t)l, net->act, width};
    c->v[l] = (tlk_mat){c->block.base + one * (2 * (size_t)l + 1), net->act, width};
  }
  for (int i = 0; i < rows; i++) c->free_rows[i] = rows - 1 - i;  // row 0 is taken first
  return TL_OK;
}

void tl_kv_cache_free(tl_kv_cache *c) {
  tl_arena_leave(&c->block);
  free(c->k);
  free(c->free_rows);
  free(c->holders);
  *c = (tl_kv_cache){0};
}

int32_t tl_kv_take(tl_kv_cache *c) {
  TL_ASSERT(c->n_free > 0);
  int32_t row = c->free_rows[--c->n_free];
  c->holders[row] = 1;
  return row;
}

void tl_kv_hold(tl_kv_cache *c, const int32_t *rows, int n) {
  for (int i = 0; i < n; i++) c->holders[rows[i]]++;
}

void tl_kv_give(tl_kv_cache *c, const int32_t *rows, int n) {
  for (int i = n - 1; i >= 0; i--) {
    TL_ASSERT(c->holders[rows[i]] > 0);
    if (--c->holders[rows[i]] == 0) c->free_rows[c->n_free++] = rows[i];
  }
}
