// test_conformance_ops.c: every op of every backend against the reference, on shapes that are not multiples of anything.
//
// A row names an op, the case function that runs it, sizes, and the tolerance in each compute dtype. The same operands go
// through the reference and the backend. An op without a row fails the suite.
#include "ops_cases.h"
#include "svd_case.h"

// op, note, case, T, N, K, tolerance in f32 and in bf16 (tolerance() makes f16's of it), further members
#define ROW(op_, note_, run_, T_, N_, K_, f32_, bf16_, ...) \
  {.op = OP_##op_, .note = note_, .run = run_, .T = T_, .N = N_, .K = K_, .tol = {f32_, bf16_}, __VA_ARGS__}
static const row rows[] = {
  ROW(set_threads, "1 2 3 and all", set_threads_case, 21, 67, 45, EXACT, EXACT),
  ROW(pack, "from f32", pack_case, 0, 37, 29, EXACT, EXACT, .flags = TLK_F32),
  ROW(unpack, "from bf16", pack_case, 0, 131, 77, EXACT, EXACT, .flags = TLK_BF16),
  ROW(repack, "from f16", pack_case, 0, 50, 611, EXACT, EXACT, .flags = TLK_F16),
  ROW(packed_dims, "one column", pack_case, 0, 19, 1, EXACT, EXACT, .flags = TLK_F32),
  ROW(packed_bytes, "two rows", pack_case, 0, 2, 33, EXACT, EXACT, .flags = TLK_F32),
  ROW(packed_free, "17 x 64", pack_case, 0, 17, 64, EXACT, EXACT, .flags = TLK_F32),

  ROW(linear_fwd, "plain", linear_fwd_case, 13, 37, 29, SUM, STORE),
  ROW(linear_fwd, "one row", linear_fwd_case, 1, 131, 203, SUM, SUM, .flags = OUT_F32),
  ROW(linear_fwd, "one output", linear_fwd_case, 5, 1, 7, SUM, SUM, .flags = OUT_F32),
  ROW(linear_fwd, "bias", linear_fwd_case, 7, 65, 33, SUM, STORE, .flags = BIAS),
  ROW(linear_fwd, "accumulate", linear_fwd_case, 67, 101, 77, SUM, SUM, .flags = ACCUMULATE | BIAS),
  ROW(linear_fwd, "R", linear_fwd_case, 9, 43, 51, SUM, STORE, .r = 2, .flags = LOWRANK | BIAS),
  ROW(linear_fwd, "R of each row", linear_fwd_case, 70, 43, 51, SUM, SUM, .r = 3, .flags = LOWRANK | VARIANTS | OUT_F32),
  ROW(linear_fwd, "R, accumulate", linear_fwd_case, 9, 43, 51, SUM, SUM, .r = 5, .flags = LOWRANK | ACCUMULATE),
  ROW(linear_fwd, "R the identity", linear_fwd_case, 11, 43, 51, SUM, SUM, .r = 17, .flags = LOWRANK | IDENTITY | OUT_F32),
  ROW(linear_fwd, "identity or none", linear_fwd_case, 11, 43, 51, SUM, STORE, .r = 4, .flags = LOWRANK | IDENTITY | VARIANTS),
  ROW(linear_fwd, "few rows, long sums", linear_fwd_case, 5, 37, 1030, SUM, STORE, .r = 2, .flags = LOWRANK | BIAS),
  ROW(linear_fwd, "many rows", linear_fwd_case, 517, 131, 45, SUM, STORE, .r = 2, .flags = LOWRANK | VARIANTS),
  ROW(linear_fwd, "wide", linear_fwd_case, 130, 517, 1029, SUM, SUM, .r = 2, .flags = LOWRANK | OUT_F32),

  ROW(pack, "int8 from f32", pack_case, 0, 37, 29, EXACT, EXACT, .flags = BYTES | TLK_F32),
  ROW(pack, "int8 from bf16", pack_case, 0, 131, 78, EXACT, EXACT, .flags = BYTES | TLK_BF16),
  ROW(pack, "int8 from f16", pack_case, 0, 50, 611, EXACT, EXACT, .flags = BYTES | TLK_F16),
  ROW(linear_fwd, "int8", linear_fwd_case, 13, 67, 203, SUM, STORE, .flags = BYTES | BIAS),
  ROW(linear_fwd, "int8, few rows", linear_fwd_case, 5, 67, 1030, SUM, STORE, .flags = BYTES),
  ROW(linear_fwd, "int8, R of each row", linear_fwd_case, 70, 43, 51, SUM, SUM, .r = 3, .flags = BYTES | LOWRANK | VARIANTS | OUT_F32),
  ROW(linear_fwd, "int8, wide", linear_fwd_case, 130, 517, 1030, SUM, SUM, .flags = BYTES | ACCUMULATE),
  ROW(linear_fwd_group, "plain", linear_group_case, 70, 131, 53, EXACT, EXACT),
  ROW(linear_fwd_group, "few rows, R", linear_group_case, 3, 67, 131, EXACT, EXACT, .r = 2, .flags = LOWRANK),
  ROW(linear_fwd_group, "int8, R", linear_group_case, 9, 67, 131, EXACT, EXACT, .r = 5, .flags = BYTES | LOWRANK | VARIANTS),

  ROW(linear_fwd_group, "few rows, long sums, R", linear_group_case, 9, 67, 1030, EXACT, EXACT, .r = 2, .flags = LOWRANK),
  ROW(linear_swiglu_fwd, "", linear_swiglu_case, 13, 67, 53, EXACT, EXACT, .flags = BIAS),
  ROW(linear_swiglu_fwd, "few rows, long sums, R, kept", linear_swiglu_case, 5, 131, 1030, EXACT, EXACT, .r = 2, .flags = LOWRANK | EXTRA),
  ROW(linear_swiglu_fwd, "more rows, R of one", linear_swiglu_case, 70, 58, 600, EXACT, EXACT, .r = 3, .flags = LOWRANK | VARIANTS | NO_DX),
  ROW(linear_swiglu_fwd, "many rows, kept", linear_swiglu_case, 517, 67, 45, EXACT, EXACT, .flags = EXTRA),
  ROW(linear_swiglu_fwd, "int8", linear_swiglu_case, 9, 67, 131, EXACT, EXACT, .flags = BYTES),
  ROW(linear_swiglu_fwd, "int8, long sums", linear_swiglu_case, 5, 67, 1030, EXACT, EXACT, .r = 2, .flags = BYTES | LOWRANK),
  ROW(linear_rope_fwd, "", linear_rope_case, 13, 3, 53, EXACT, EXACT, .G = 32, .flags = BIAS),
  ROW(linear_rope_fwd, "few rows, long sums, R", linear_rope_case, 5, 4, 1030, EXACT, EXACT, .G = 16, .r = 2, .flags = LOWRANK),
  ROW(linear_rope_fwd, "more rows, R of each row", linear_rope_case, 70, 3, 77, EXACT, EXACT, .G = 64, .r = 3, .flags = LOWRANK | VARIANTS),
  ROW(linear_rope_fwd, "many rows", linear_rope_case, 517, 1, 45, EXACT, EXACT, .G = 128),
  ROW(linear_rope_fwd, "heads that divide no tile", linear_rope_case, 13, 3, 53, EXACT, EXACT, .G = 10, .r = 2, .flags = LOWRANK),
  ROW(linear_rope_fwd, "int8", linear_rope_case, 9, 2, 131, EXACT, EXACT, .G = 64, .r = 2, .flags = BYTES | LOWRANK | BIAS),

  ROW(linear_bwd_x, "plain", linear_bwd_x_case, 13, 37, 29, SUM, SUM),
  ROW(linear_bwd_x, "accumulate", linear_bwd_x_case, 67, 101, 77, SUM, SUM, .flags = ACCUMULATE),
  ROW(linear_bwd_x, "R", linear_bwd_x_case, 9, 43, 51, SUM, SUM, .r = 2, .flags = LOWRANK),
  ROW(linear_bwd_x, "R of each row", linear_bwd_x_case, 70, 43, 51, SUM, SUM, .r = 3, .flags = LOWRANK | VARIANTS | ACCUMULATE),
  ROW(linear_bwd_x, "R the identity", linear_bwd_x_case, 11, 43, 51, SUM, SUM, .r = 17, .flags = LOWRANK | IDENTITY),
  ROW(linear_bwd_x, "g alone", linear_bwd_x_case, 11, 43, 51, SUM, SUM, .r = 2, .flags = LOWRANK | NO_DX),
  ROW(linear_bwd_x, "few rows, long sums", linear_bwd_x_case, 5, 1030, 37, SUM, SUM),
  ROW(linear_bwd_x, "many rows", linear_bwd_x_case, 517, 45, 131, SUM, SUM),
  ROW(linear_bwd_x, "wide", linear_bwd_x_case, 130, 1029, 517, SUM, SUM, .r = 2, .flags = LOWRANK),

  ROW(linear_bwd_swiglu, "", linear_bwd_swiglu_case, 13, 37, 67, EXACT, EXACT),
  ROW(linear_bwd_swiglu, "aligned, R of each row", linear_bwd_swiglu_case, 101, 72, 128, EXACT, EXACT, .r = 3, .flags = LOWRANK | VARIANTS | ALIGNED),
  ROW(linear_bwd_swiglu, "long sums, R", linear_bwd_swiglu_case, 70, 1037, 77, EXACT, EXACT, .r = 2, .flags = LOWRANK),
  ROW(linear_bwd_swiglu, "one row", linear_bwd_swiglu_case, 1, 37, 131, EXACT, EXACT),

  ROW(linear_bwd_w, "both act", linear_bwd_w_case, 13, 37, 29, SUM, SUM),
  ROW(linear_bwd_w, "a f32", linear_bwd_w_case, 70, 3, 131, SUM, SUM, .flags = OUT_F32),
  ROW(linear_bwd_w, "b f32", linear_bwd_w_case, 301, 67, 5, SUM, SUM, .flags = EXTRA),
  ROW(linear_bwd_w, "one row", linear_bwd_w_case, 1, 67, 45, SUM, SUM),
  ROW(linear_bwd_w, "long", linear_bwd_w_case, 1029, 130, 203, SUM, SUM),
  ROW(linear_bwd_w, "aligned", linear_bwd_w_case, 37, 72, 40, SUM, SUM, .flags = ALIGNED),
  ROW(linear_bwd_w, "aligned, a f32", linear_bwd_w_case, 29, 24, 64, SUM, SUM, .flags = ALIGNED | OUT_F32),
  ROW(linear_bwd_w, "aligned, long", linear_bwd_w_case, 523, 64, 72, SUM, SUM, .flags = ALIGNED),
  ROW(colsum, "", colsum_case, 301, 67, 0, SUM, SUM),
  ROW(lowrank_bwd, "r 2", lowrank_bwd_case, 301, 0, 0, DOUBLE, DOUBLE, .r = 2),
  ROW(lowrank_bwd, "r 7", lowrank_bwd_case, 29, 0, 0, DOUBLE, DOUBLE, .r = 7),
  ROW(lowrank_bwd, "a unit at a time", lowrank_bwd_case, 29, 0, 0, DOUBLE, DOUBLE, .r = 130),

  ROW(rmsnorm_fwd, "", rmsnorm_fwd_case, 13, 37, 0, SUM, STORE),
  ROW(rmsnorm_fwd, "wide", rmsnorm_fwd_case, 5, 1029, 0, SUM, STORE),
  ROW(rmsnorm_fwd, "a multiple of 8", rmsnorm_fwd_case, 5, 2104, 0, SUM, STORE, .flags = ALIGNED),
  ROW(rmsnorm_fwd, "a head", rmsnorm_fwd_case, 29, 64, 0, SUM, STORE, .flags = ALIGNED),
  ROW(rmsnorm_bwd, "dx", rmsnorm_bwd_case, 13, 37, 0, SUM, SUM),
  ROW(rmsnorm_bwd, "a multiple of 8", rmsnorm_bwd_case, 5, 2104, 0, SUM, SUM, .flags = EXTRA),
  ROW(rmsnorm_bwd, "dx, dgain", rmsnorm_bwd_case, 301, 131, 0, SUM, SUM, .flags = EXTRA),
  ROW(rope_fwd, "", rope_case, 13, 3, 10, SUM, STORE),
  ROW(rope_fwd, "scattered", rope_case, 29, 2, 64, SUM, STORE, .flags = OUT_ROWS),
  ROW(rope_fwd, "act to f32", rope_case, 5, 1, 6, SUM, SUM, .flags = EXTRA | OUT_F32),
  ROW(rope_fwd, "aligned", rope_case, 13, 3, 48, SUM, STORE, .flags = ALIGNED | OUT_ROWS),
  ROW(rope_fwd, "aligned, act to act", rope_case, 5, 9, 64, SUM, STORE, .flags = ALIGNED | EXTRA),
  ROW(rope_bwd, "", rope_case, 13, 3, 10, SUM, STORE),
  ROW(rope_bwd, "aligned", rope_case, 13, 2, 32, SUM, STORE, .flags = ALIGNED),
  ROW(cast, "f32 to act", cast_case, 13, 37, 0, EXACT, EXACT),
  ROW(cast, "scattered", cast_case, 13, 67, 0, EXACT, EXACT, .flags = OUT_ROWS),
  ROW(cast, "act to f32", cast_case, 13, 37, 0, EXACT, EXACT, .flags = EXTRA | OUT_F32),
  ROW(cast, "act to act", cast_case, 13, 37, 0, EXACT, EXACT, .flags = EXTRA | OUT_ROWS),

  ROW(gather, "", gather_case, 13, 37, 0, EXACT, EXACT),
  ROW(gather, "aligned", gather_case, 5, 2064, 0, EXACT, EXACT, .flags = ALIGNED),
  ROW(move_rows, "", move_rows_case, 13, 37, 0, EXACT, EXACT),
  ROW(move_rows, "aligned", move_rows_case, 7, 64, 0, EXACT, EXACT, .flags = ALIGNED),
  ROW(records, "", record_case, 5, 37, 1030, EXACT, EXACT, .r = 2),
  ROW(record, "one chunk", record_case, 5, 67, 45, EXACT, EXACT, .r = 3),
  ROW(recorded, "one row", record_case, 1, 131, 203, EXACT, EXACT, .r = 1),
  ROW(replay, "many rows", record_case, 70, 131, 77, EXACT, EXACT, .r = 2),
  ROW(recording_free, "", record_case, 9, 3, 1030, EXACT, EXACT, .r = 2),
  ROW(alloc, "kinds", memory_case, 0, 1001, 0, EXACT, EXACT),
  ROW(copy, "both ways", memory_case, 0, 77, 0, EXACT, EXACT),
  ROW(zero, "a part", memory_case, 0, 5, 0, EXACT, EXACT),
  ROW(sync, "", memory_case, 0, 40000, 0, EXACT, EXACT),
  ROW(release, "", memory_case, 0, 63, 0, EXACT, EXACT),

  ROW(attn_fwd, "causal", attn_fwd_case, 0, 4, 10, EXP, PROBS, .G = 2, .map = MAP_PLAIN),
  ROW(attn_fwd, "shared prefix", attn_fwd_case, 0, 3, 64, EXP, PROBS, .G = 1, .map = MAP_PREFIX),
  ROW(attn_fwd, "window", attn_fwd_case, 0, 3, 22, EXP, PROBS, .G = 3, .map = MAP_PREFIX, .window = 5),
  ROW(attn_fwd, "decode", attn_fwd_case, 0, 9, 64, EXP, PROBS, .G = 3, .map = MAP_DECODE),
  ROW(attn_fwd, "decode, window", attn_fwd_case, 0, 2, 80, EXP, PROBS, .G = 2, .map = MAP_DECODE, .window = 3),
  ROW(attn_fwd, "long", attn_fwd_case, 0, 2, 128, EXP, PROBS, .G = 1, .flags = EXTRA, .map = MAP_PLAIN),
  ROW(attn_fwd, "long, shared prefix", attn_fwd_case, 0, 4, 64, EXP, PROBS, .G = 2, .flags = EXTRA, .map = MAP_PREFIX),
  ROW(attn_fwd, "large heads", attn_fwd_case, 0, 2, 136, EXP, PROBS, .G = 1, .map = MAP_PREFIX),
  ROW(attn_fwd, "large heads, long", attn_fwd_case, 0, 1, 136, EXP, PROBS, .G = 1, .flags = EXTRA, .map = MAP_PLAIN),
  ROW(attn_bwd, "large heads", attn_bwd_case, 0, 2, 136, EXP, PROBS, .G = 1, .map = MAP_PREFIX),
  ROW(attn_bwd, "causal", attn_bwd_case, 0, 4, 10, EXP, PROBS, .G = 2, .map = MAP_PLAIN),
  ROW(attn_bwd, "shared prefix", attn_bwd_case, 0, 3, 64, EXP, PROBS, .G = 1, .map = MAP_PREFIX),
  ROW(attn_bwd, "window", attn_bwd_case, 0, 3, 22, EXP, PROBS, .G = 3, .map = MAP_PREFIX, .window = 5),
  ROW(attn_bwd, "long", attn_bwd_case, 0, 2, 128, EXP, PROBS, .G = 1, .flags = EXTRA, .map = MAP_PREFIX),

  ROW(swiglu_fwd, "", swiglu_case, 13, 67, 0, EXP, STORE),
  ROW(swiglu_fwd, "aligned", swiglu_case, 5, 1096, 0, EXP, STORE, .flags = ALIGNED),
  ROW(swiglu_bwd, "", swiglu_case, 13, 67, 0, EXP, STORE),
  ROW(swiglu_bwd, "aligned", swiglu_case, 5, 1096, 0, EXP, STORE, .flags = ALIGNED),
  ROW(embed_fwd, "", embed_fwd_case, 29, 131, 37, EXACT, EXACT),
  ROW(embed_bwd, "", embed_bwd_case, 301, 31, 37, EXACT, EXACT),

  ROW(head_fwd, "", head_fwd_case, 13, 517, 37, EXP, EXP),
  ROW(head_fwd, "large vocabulary", head_fwd_case, 3, 5003, 131, EXP, EXP),
  ROW(head_fwd, "tiny vocabulary", head_fwd_case, 70, 11, 29, EXP, EXP),
  ROW(head_fwd, "no targets", head_fwd_case, 5, 517, 37, EXP, EXP, .flags = EXTRA),
  ROW(head_fwd, "int8", head_fwd_case, 13, 517, 39, EXP, EXP, .flags = BYTES),
  ROW(head_sample, "int8, greedy", head_sample_case, 67, 517, 37, EXP, EXP, .flags = BYTES),
  ROW(head_bwd, "logprob, entropy, dw", head_bwd_case, 13, 517, 37, EXP, PROBS, .flags = EXTRA),
  ROW(head_bwd, "logprob", head_bwd_case, 70, 131, 67, EXP, PROBS, .flags = NO_DX),
  ROW(head_bwd, "large vocabulary", head_bwd_case, 3, 5003, 131, EXP, PROBS, .flags = EXTRA),
  ROW(head_sample, "greedy", head_sample_case, 67, 517, 37, EXP, EXP),

  ROW(adamw, "3 steps", adamw_case, 0, 1003, 0, SUM, SUM),
  ROW(sumsq, "", sumsq_case, 0, 100003, 0, 1e-6, 1e-6),  // a backend may sum squares in fp32 blocks
  ROW(scale, "", scale_case, 0, 1003, 0, EXACT, EXACT),
  ROW(round_to, "bf16", round_to_case, 0, 1003, 0, EXACT, EXACT, .flags = TLK_BF16),
  ROW(round_to, "f16", round_to_case, 0, 1003, 0, EXACT, EXACT, .flags = TLK_F16),
  ROW(round_to, "f32", round_to_case, 0, 1003, 0, EXACT, EXACT, .flags = TLK_F32),

  ROW(relax, "plain", linear_fwd_case, 13, 72, 40, SUM, STORE, .flags = ALIGNED),
  ROW(relax, "one row, bias", linear_fwd_case, 1, 136, 200, SUM, STORE, .flags = ALIGNED | BIAS),
  ROW(relax, "bias, to f32", linear_fwd_case, 70, 40, 72, SUM, SUM, .flags = ALIGNED | BIAS | OUT_F32),
  ROW(relax, "accumulate", linear_fwd_case, 67, 104, 80, SUM, SUM, .flags = ALIGNED | BIAS | ACCUMULATE),
  ROW(relax, "R", linear_fwd_case, 9, 40, 56, SUM, SUM, .r = 2, .flags = ALIGNED | LOWRANK | OUT_F32),
  ROW(relax, "not aligned", linear_fwd_case, 9, 43, 51, SUM, STORE, .flags = BIAS),
  ROW(ranks_hello, "one", ranks_case, 0, 1, 0, EXACT, EXACT),
  ROW(ranks_join, "few numbers", ranks_case, 0, 1001, 0, EXACT, EXACT),
  ROW(ranks_sum, "many numbers", ranks_case, 0, 40003, 0, EXACT, EXACT),
  ROW(ranks_leave, "a share and a rest", ranks_case, 0, 16387, 0, EXACT, EXACT),
  ROW(svd, "tall", svd_case, 12, 97, 70, DOUBLE, DOUBLE, .r = 2),
  ROW(svd, "wide", svd_case, 20, 45, 131, DOUBLE, DOUBLE, .r = 3),
  ROW(svd, "of a lower rank", svd_case, 2, 41, 33, DOUBLE, DOUBLE, .r = 4, .flags = EXTRA),
  ROW(svd, "left to the host", svd_case, 0, 30, 25, EXACT, EXACT, .r = 9),
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static void op_list_is_whole(void) {
  size_t words = sizeof(tlk_ops) / sizeof(void *);
  CHECK(words == 3 + N_OPS, "the table has %zu ops, the list of the suite %d", words - 3, N_OPS);
  for (int i = 0; i < N_OPS; i++) {
    int found = 0;
    for (int k = 0; k < N_ROWS; k++) found += rows[k].op == i;
    CHECK(found, "%s has no row", op_infos[i].name);
    for (int b = 0; b < n_backends(); b++)
      CHECK(has_op(backend(b), i) || (op_infos[i].kind == OPTIONAL && backend(b)->host), "%s lacks %s", backend(b)->name, op_infos[i].name);
  }
}

static const row *current;
static void run_current(void) {
  rng_seed(7 + (uint64_t)(current - rows));
  gap = current->flags & ALIGNED ? 8 : 3;
  if (!ops->host && device_order == CHECKED) set_order(CHECKED, (unsigned)(current - rows));
  current->run(current);
  drop_all();
}

int main(void) {
  ref = tlk_reference();
  RUN(op_list_is_whole);
  for (int b = 0; b < n_backends(); b++)
    for (compute = TLK_F32; compute <= TLK_F16; compute++)
      for (current = rows; current < rows + N_ROWS; current++) {
        ops = backend(b);
        if (!has_op(ops, current->op)) continue;
        ops->set_threads(2);
        char name[128];
        snprintf(name, sizeof name, "%s %s %s %s", backend_label(), compute_name(compute), op_infos[current->op].name, current->note);
        test_run(name, run_current);
      }
  return test_done();
}
