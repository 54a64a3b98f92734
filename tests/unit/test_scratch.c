// test_scratch.c: attention over long lists works in pieces of 8 MiB, on a simulated device with too little memory for the whole, and every row
// has the bits that it has alone. TL_TEST_DEVICE names another device. Would catch: scratch that grows with the context beyond what is planned
// for it (lua/tl/memory.lua), rows of a later piece that read or write another's.
#include "../conformance/conformance.h"

enum { T = 128, H = 64, G = 1, D = 64, KEYS = 1024 };  // 17 MB in one piece

static void *given(const void *from, size_t bytes) {
  void *p = ops->alloc(bytes, TLK_MEM_OPS);
  if (!p) abort();
  if (from) ops->copy(p, from, bytes);
  return p;
}
static void *random_rows(size_t n) {
  uint16_t *x = malloc(2 * n);
  for (size_t i = 0; i < n; i++) x[i] = to_bf16((float)rng_normal());
  void *p = given(x, 2 * n);
  free(x);
  return p;
}

static void long_lists_take_little_scratch(void) {
  static uint16_t all[T * H * D], one[H * D];
  static float all_lse[T * H], one_lse[H];
  int32_t off[T] = {0}, len[T], rows[KEYS];
  rng_seed(3);
  for (int t = 0; t < T; t++) len[t] = KEYS - t;
  for (int i = 0; i < KEYS; i++) rows[i] = KEYS - 1 - i;
  tlk_attn_map map = {given(off, sizeof off), given(len, sizeof len), given(rows, sizeof rows), 0, KEYS};
  tlk_mat q = {random_rows(T * H * D), TLK_BF16, H * D}, k = {random_rows(KEYS * D), TLK_BF16, D}, v = {random_rows(KEYS * D), TLK_BF16, D};
  tlk_mat o = {given(NULL, sizeof all), TLK_BF16, H * D};
  float *lse = given(NULL, sizeof all_lse);
  ops->attn_fwd(o, lse, q, k, v, &map, 0.125f, T, H, G, D);
  ops->copy(all, o.p, sizeof all);
  ops->copy(all_lse, lse, sizeof all_lse);
  for (int i = 0; i < 4; i++) {
    int t = (int[]){0, 62, 63, T - 1}[i];
    tlk_attn_map own = {map.kv_off + t, map.kv_len + t, map.kv_rows, 0, KEYS};
    ops->attn_fwd(o, lse, (tlk_mat){(uint16_t *)q.p + (size_t)t * H * D, TLK_BF16, H * D}, k, v, &own, 0.125f, 1, H, G, D);
    ops->copy(one, o.p, sizeof one);
    ops->copy(one_lse, lse, sizeof one_lse);
    CHECK(!memcmp(one, all + (size_t)t * H * D, sizeof one) && !memcmp(one_lse, all_lse + (size_t)t * H, sizeof one_lse), "row %d is not what it is alone", t);
  }
}

int main(void) {
  compute = TLK_BF16;
  setenv("CUSIM_MEMORY", "16", 1);
  ops = device(FORWARD);
  if (ops) RUN(long_lists_take_little_scratch);
  return test_done();
}
