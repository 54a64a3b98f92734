// cache.h: the key/value cache: a pool of rows, one per (sequence, position), the same row index in every layer.
// A prompt's rows are shared by the completions of its group: lists of row indices name them, nothing is copied.
#ifndef TL_CACHE_H
#define TL_CACHE_H
#include "../model/layer.h"

typedef struct tl_kv_cache {
  tlk_mat *k, *v;      // (n_layers) each (rows, G*D) act
  int n_layers, rows, n_free;
  int32_t *free_rows;  // a stack
  int32_t *holders;    // (rows) of each row; 0: it is free
  tl_arena block;
  int64_t bytes;
} tl_kv_cache;

int64_t tl_kv_row_bytes(const tl_net *net);                       // of one row, all layers, k and v
tl_status tl_kv_cache_init(tl_kv_cache *c, const tl_net *net, int rows);
void tl_kv_cache_free(tl_kv_cache *c);
int32_t tl_kv_take(tl_kv_cache *c);                               // asserts that one is free: admission reserves
void tl_kv_hold(tl_kv_cache *c, const int32_t *rows, int n);      // one holder more of each
void tl_kv_give(tl_kv_cache *c, const int32_t *rows, int n);      // one less; the last one frees it
#endif
