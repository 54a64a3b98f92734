// ops.h: everything a compute backend must provide, with shapes.
//
// One table of function pointers, tlk_ops. The runtime holds a `const tlk_ops *` and never asks which backend it is.
// kernels/reference is scalar C that reads like the formulas and is the judge in tests/conformance;
// kernels/cpu is the fast CPU backend. An op has the same name in every backend.
//
// Conventions
//   Arguments are outputs, inputs, dims. Row-major. Every output says whether it is overwritten or accumulated into.
//   T rows (tokens), C width, K inputs of a linear, N its outputs, V vocabulary, H query heads, G key/value heads,
//   D head size, F feed-forward width, r rank.
//   "act" is the activation dtype: it equals the compute dtype chosen when the weights were packed
//   (TLK_BF16, TLK_F16: products of inputs of that dtype with fp32 accumulation; TLK_F32: fp32 throughout).
//   TLK_I8 is a compute dtype of weights only, for sampling; its activations are bf16, fp16 or fp32 (see pack).
//   What is beyond fp16's 65504 is stored as infinity in it.
//   `tlk_mat` is a pointer with a dtype and a row stride (in elements).
//
// Numerics contract (the conformance suite checks it)
//   Batch-invariant: the bits of a row of an output depend on that row's inputs and the weights only, never on T, on the
//   row's place in the batch, on the other rows or on the number of threads. Sums over rows (dW, dR, dgain) run in an order
//   fixed by T (of dW by its whole shape), not by the number of threads. Same build, same machine kind -> same bits.
//
// Memory. Every array that an op takes lies in memory of the table's own alloc (on a CPU that is the host's memory), but for
// what is marked "host". Structs and scalars are the host's. Ops run in the order in which they are called and may return
// before they are done: copy to the host and sync wait for them.
//
// Nothing here allocates per call after warm-up: scratch belongs to the backend, grows on demand and is kept.
//
// Recordings. A run of ops that comes again and again with the same arguments (a decode step) can be noted once and replayed, where
// the backend can do that (CUDA graphs); what changes from one replay to the next then lies in the ops' memory, at the same places.
//
// Optional entries stand at the end of the table; where one is NULL the backend has nothing better than what the runtime does itself.
#ifndef TL_KERNELS_OPS_H
#define TL_KERNELS_OPS_H
#include <stddef.h>
#include <stdint.h>

enum { TLK_F32 = 0, TLK_BF16 = 1, TLK_F16 = 2, TLK_I32 = 3, TLK_I8 = 4 };  // equal to tl_dtype in tl.h (asserted there)

static inline size_t tlk_dtype_size(int t) { return t == TLK_I8 ? 1 : t == TLK_BF16 || t == TLK_F16 ? 2 : 4; }

// kinds of memory: for the ops alone, or for the host too (pinned on a device: copies from it are asynchronous, ops are slow in it)
// kind sparse: for the ops alone, written to here and there: what never is takes no memory where the system can do that
enum { TLK_MEM_OPS = 0, TLK_MEM_BOTH = 1, TLK_MEM_SPARSE = 2 };

typedef struct tlk_packed tlk_packed;        // a weight in the backend's own layout; opaque above the backend
typedef struct tlk_recording tlk_recording;  // a run of ops that can be replayed
typedef struct tlk_ranks tlk_ranks;          // devices of several processes that are connected
enum { TLK_HELLO = 512 };                    // bytes that one says to the others before that

typedef struct {
  void *p;
  int dtype;    // TLK_F32, TLK_BF16 or TLK_F16
  int ld;       // row stride in elements
} tlk_mat;

// The low-rank term of a linear: y += B (R (A x)), per row of x.
typedef struct {
  int r;                   // rank
  const float *A;          // (r, K)
  const float *B;          // (N, r)
  const float *R;          // (n_variants, r, r); NULL means the identity
  const int32_t *variant;  // (T) which R a row uses, -1 none; NULL: every row uses R[0]
} tlk_lowrank;

// Who attends to what. Query row t attends to the n = kv_len[t] key/value rows kv_rows[kv_off[t] .. kv_off[t] + n), in
// that order (positions 0 .. n-1 of its sequence). The lists of sequences that share a prefix name the same rows, so a
// shared prompt is stored once; in decode the rows are slots of the cache. A list may be shared by all queries of a sequence.
typedef struct {
  const int32_t *kv_off;   // (T)
  const int32_t *kv_len;   // (T)
  const int32_t *kv_rows;
  int window;              // sliding window: a query sees only its last `window` keys; 0: all
  int longest;             // no kv_len is larger; 0: not known (a device then has to look)
} tlk_attn_map;

// One of the linears of linear_fwd_group, all over the same x: the arguments of linear_fwd.
typedef struct {
  tlk_mat y;
  float *z;
  const tlk_packed *w;
  const float *bias;
  const tlk_lowrank *lr;
} tlk_linear;

// One of the linears of linear_rope_fwd.
typedef struct {
  tlk_linear linear;          // its y (T, N) F32 is scratch, undefined afterwards
  tlk_mat y;                  // (.., N) act: where the result goes
  const int32_t *out_rows;    // (T) to which row of y; NULL: to row t; negative: nowhere
  int heads;                  // rotated in so many heads of D; 0: only converted
} tlk_rotated;

// One of the matrices of move_rows: its T rows, C wide.
typedef struct {
  tlk_mat y, x;               // of one dtype
  const int32_t *to, *from;   // (T) rows of y and of x; NULL: row t
  int C;
} tlk_move;

enum { TLK_BANNED = 8 };

// One row of the sampler. Banned tokens are no candidates. temperature 0 means greedy (ties to the lowest id). Otherwise the filters
// apply in the order top_k, top_p, min_p, each to the candidates the one before it left, with probabilities at the temperature
// renormalised over those; then the drawn token is the smallest id whose cumulative kept mass, in ascending order of ids,
// exceeds u * (kept mass).
typedef struct {
  float temperature;
  float top_p;             // 1 = off; kept: the smallest set of most likely tokens (ties: lowest ids) with mass >= top_p, never none
  float min_p;             // 0 = off; kept: p >= min_p * p_max
  int32_t top_k;           // 0 = off; ties at the k-th are all kept out but the lowest ids
  float u;                 // the draw, uniform in [0, 1)
  int32_t n_banned;        // 0 = none; at least one token of the vocabulary is left
  int32_t banned[TLK_BANNED];  // (n_banned) ids
} tlk_sample_row;

typedef struct tlk_ops {
  const char *name;  // "reference", "cpu"
  const char *isa;   // what was chosen at run time: "avx512bf16", "avx2", "portable"
  const void *host;  // not NULL: alloc gives the host's own memory, which host code may read and write between calls

  void (*set_threads)(int n);   // 0: all that are online

  // ---- memory
  void *(*alloc)(size_t bytes, int kind);                       // TLK_MEM_...; 64-byte aligned; NULL when there is none left
  void (*release)(void *p);                                     // NULL: nothing. What uses p still runs to its end.
  void (*copy)(void *dst, const void *src, size_t bytes);       // between any two places, also the host's. In order with the ops.
                                                                // A host dst is filled when it returns; a TLK_MEM_BOTH src must
                                                                // stay as it is until sync or a copy to the host has returned.
  void (*zero)(void *p, size_t bytes);
  void (*sync)(void);                                           // returns when everything is done

  // ---- recordings
  int (*records)(void);                                         // 0: nothing is recorded here, and the others are not to be called
  void (*record)(void);                                         // from here on ops are noted and not run. Until `recorded`: no alloc,
                                                                // release, sync, zero or copy with host memory; maps say `longest`
  tlk_recording *(*recorded)(void);                             // what was noted; NULL: not possible now (scratch would have had to
                                                                // grow), so call the ops themselves
  int (*replay)(tlk_recording *r);                              // runs it, in order with the ops. 0: it did not run and never will
                                                                // again (scratch has moved since, or no memory): free it
  void (*recording_free)(tlk_recording *r);                     // NULL: nothing. What was replayed still runs to its end.

  // ---- weights. pack: W (N, K) row-major in w_dtype (F32, BF16, F16) -> the backend's layout for compute = F32, BF16 or F16.
  // Values are rounded to nearest even in the compute dtype. NULL when out of memory.
  // w of pack and unpack is the host's.
  tlk_packed *(*pack)(const void *w, int w_dtype, int N, int K, int compute);
  void (*repack)(tlk_packed *p, const float *w);                     // overwrite p's values with W (N, K)
  void (*unpack)(float *w, const tlk_packed *p, int n0, int n1);     // w (n1 - n0, K): rows n0..n1 exactly as they are used
  void (*packed_free)(tlk_packed *p);
  size_t (*packed_bytes)(const tlk_packed *p);
  void (*packed_dims)(const tlk_packed *p, int *N, int *K, int *compute);

  // ---- linear. x (T, K) act; bias (N) or NULL; lr or NULL.
  // fwd: y (T, N) = x W^T + bias + B (R (A x)); accumulate: y (which must be F32) += instead. y is F32 or act.
  //      z (T, r) overwritten with A x when lr is given (NULL allowed when lr is NULL).
  //      A row whose R is all zero (or variant -1) gets bit for bit what it gets without lr.
  void (*linear_fwd)(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T,
                     int accumulate);
  // fwd_group: n linears of the same x, each y overwritten: the bits of n calls of linear_fwd, in one pass over x and the threads
  void (*linear_fwd_group)(const tlk_linear *l, int n, tlk_mat x, int T);
  // What follows linears of one x, with them: a backend saves the way of their outputs through memory, to the same bits.
  // swiglu_fwd: h (T, F) act = what swiglu_fwd makes of gate and up, gate_up[0] and [1] (their y act). keep: both y are overwritten
  //      with what linear_fwd_group gives; else they are undefined afterwards.
  void (*linear_swiglu_fwd)(tlk_mat h, const tlk_linear *gate_up, int keep, tlk_mat x, int T);
  // rope_fwd: n linears, each rotated by rope_fwd, or only converted by cast, into its rows of its own y
  void (*linear_rope_fwd)(const tlk_rotated *r, int n, const int32_t *pos, const float *table, tlk_mat x, int T, int D);
  // bwd_x: dx (T, K) F32, overwritten or accumulated into, = dy W + ((dy B) R) A.  dy (T, N) act.
  //      g (T, r) overwritten with dy B when lr is given. dx.p NULL: only g is computed.
  void (*linear_bwd_x)(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate);
  // bwd_swiglu: swiglu_bwd of the dh (T, F) that linear_bwd_x gives for dy (T, N), with w (N, F): the same bits. dgate, dup, gate and
  //      up (T, F) act. dh: scratch, undefined afterwards.
  void (*linear_bwd_swiglu)(tlk_mat dgate, tlk_mat dup, tlk_mat dh, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr,
                            tlk_mat gate, tlk_mat up, int T);
  // bwd_w: dw (N, K) F32 += a^T b, with a (T, N) and b (T, K), each F32 or act.
  void (*linear_bwd_w)(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K);
  // bias gradient: db (N) += sum over rows of dy (T, N)
  void (*colsum)(float *db, tlk_mat dy, int T, int N);
  // lowrank_bwd: dR (r, r) += sum over units, in order, of the unit's sum_t g_t z_t^T (rows unit_off[i] .. unit_off[i+1] of g and
  //      z (T, r), in order): dR[a][b] += g[t][a] z[t][b]. In double; a unit's sum is made first and then added.
  void (*lowrank_bwd)(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r);

  // ---- rmsnorm: y (T, C) act or F32 = x * rstd * gain, rstd = 1 / sqrt(mean(x^2) + eps); x (T, C) F32. rstd (T) overwritten.
  void (*rmsnorm_fwd)(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C);
  //      dx (T, C) F32 accumulated into; dgain (C) accumulated into, or NULL. dy (T, C) F32.
  void (*rmsnorm_bwd)(float *dx, float *dgain, const float *dy, const float *x, const float *gain, const float *rstd, int T,
                      int C);

  // ---- rope, half-split as in Hugging Face: (a, b) at (i, i + D/2) -> (a c - b s, b c + a s). table (n_pos, D/2, 2) holds
  //      (c, s). y and x are (T, heads * D); row t of x goes to row out_rows[t] of y (NULL: to row t; negative: nowhere). y act (or F32), x F32 or
  //      act.
  void (*rope_fwd)(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads, int D);
  //      dx (T, heads * D) act or F32, overwritten = the inverse rotation of dy (T, heads * D) F32
  void (*rope_bwd)(tlk_mat dx, tlk_mat dy, const int32_t *pos, const float *table, int T, int heads, int D);
  //      y row out_rows[t] (NULL: t; negative: nowhere) = x row t, converted
  void (*cast)(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C);
  //      y row t = x row rows[t], of the same dtype
  void (*gather)(tlk_mat y, tlk_mat x, const int32_t *rows, int T, int C);
  //      n matrices at once: y row to[t] = x row from[t]; where one of the two is negative nothing is moved
  void (*move_rows)(const tlk_move *m, int n, int T);

  // ---- attention, causal by construction of the map. q (T, H*D) act; k, v (rows, G*D) act; o (T, H*D) act overwritten;
  //      lse (T, H) F32 overwritten: log sum exp of the scaled scores. scale is 1/sqrt(D) as a rule. H is a multiple of G.
  void (*attn_fwd)(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T, int H,
                   int G, int D);
  //      dq (T, H*D) F32 overwritten; dk, dv (rows, G*D) F32 accumulated into. d_o (T, H*D) act. Query rows
  //      unit_off[i] .. unit_off[i+1] form unit i; queries of different units share no key row.
  void (*attn_bwd)(tlk_mat dq, tlk_mat dk, tlk_mat dv, tlk_mat d_o, tlk_mat o, const float *lse, tlk_mat q, tlk_mat k, tlk_mat v,
                   const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T, int H, int G, int D);

  // ---- swiglu: h (T, F) act = silu(gate) * up; gate, up (T, F) act
  void (*swiglu_fwd)(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F);
  //      dgate, dup (T, F) act overwritten; dh (T, F) F32
  void (*swiglu_bwd)(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F);

  // ---- embedding: x (T, C) F32 = rows ids[t] of the packed (V, C) table
  void (*embed_fwd)(float *x, const tlk_packed *table, const int32_t *ids, int T);
  //      dtable (V, C) F32 += dx rows, in order of t
  void (*embed_bwd)(float *dtable, const float *dx, const int32_t *ids, int T, int C);

  // ---- LM head, fused: logits (T, V) are never held. h (T, C) act; w packed (V, C).
  //      l = (h W^T) * inv_temp; lse = log sum_j exp l_j; logprob = l[target] - lse; entropy = lse - sum_j softmax_j l_j.
  //      All three (T) overwritten; entropy may be NULL; targets NULL: only lse and entropy.
  //      logits (T, V) F32 or NULL: where `host` is set, h w^T is left there for head_bwd; else it must be NULL.
  void (*head_fwd)(float *logprob, float *lse, float *entropy, float *logits, tlk_mat h, const tlk_packed *w,
                   const int32_t *targets, float inv_temp, int T);
  //      With p = exp(l - lse): dlogit_j = inv_temp * (dlogprob (1[j = target] - p_j) - dentropy p_j (l_j - lse + entropy)).
  //      dh (T, C) F32 overwritten; dw (V, C) F32 accumulated into, or NULL. dentropy (and then entropy) may be NULL.
  //      logits: what head_fwd left for the same h, or NULL: they are computed again, to the same bits.
  void (*head_bwd)(float *dh, float *dw, const float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets,
                   const float *lse, const float *entropy, const float *dlogprob, const float *dentropy, float inv_temp, int T);
  //      One token per row: ids (T), logprob (T) = log_softmax(l / temperature)[id] over the whole vocabulary (no
  //      renormalisation after truncation or bans; temperature 0: logprob at temperature 1). Bit-equal to head_fwd's logprob, lse
  //      and entropy for the same h row, target and inv_temp = 1 / temperature. lse (T) or NULL, entropy (T) or NULL.
  void (*head_sample)(int32_t *ids, float *logprob, float *lse, float *entropy, tlk_mat h, const tlk_packed *w,
                      const tlk_sample_row *rows, int T);

  // ---- optimiser and small things on (n) F32 vectors
  //      AdamW (Loshchilov & Hutter 2019), step counts from 1: m, v, param updated in place
  void (*adamw)(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
                float weight_decay, int step);
  double (*sumsq)(const float *x, size_t n);                       // fixed order
  void (*scale)(float *x, float a, size_t n);                      // x *= a
  void (*round_to)(float *y, const float *x, size_t n, int dtype); // y = x rounded to nearest even in dtype, as F32

  // ---- optional: the r largest singular triplets of w (n, k) F32, all pointers the host's: U (n, r), S (r) falling, V (k, r), signs
  //      as they come; error = max_i ||W^T u_i - s_i v_i|| / s_1, at most 1e-6 (as a rule below 1e-11), with W v_i = s_i u_i to
  //      rounding. The same bits for the same w. 0: left to the host (too small, r too near n or k, no memory, not converged, the
  //      library it needs is not here), the outputs are undefined; 1: done.
  int (*svd)(double *U, double *S, double *V, double *error, const float *w, int n, int k, int r);
  // ---- optional: from here on linear_fwd with w, without lr, need not be batch-invariant: equal shapes still give equal bits, but a
  //      device may use a library that sums in another order for another T. For sampling that is corrected afterwards.
  void (*relax)(tlk_packed *w);
  // ---- optional: sums over the ranks of a run that stay on the devices. hello (TLK_HELLO bytes; host) = what the others must know of
  //      this one, which has this place among them; join: hellos (size, TLK_HELLO) of all, in order, the same everywhere. NULL, on all
  //      ranks alike: they are not connected (one without the library, two on one card), and why (n bytes) says so. sum: x (n) F32 =
  //      all ranks' x, added in the order of ranks: the same bits on all. join and sum: all ranks together. leave: NULL is nothing.
  void (*ranks_hello)(void *hello, int rank);
  tlk_ranks *(*ranks_join)(const void *hellos, int rank, int size, char *why, size_t n);
  void (*ranks_sum)(tlk_ranks *r, float *x, size_t n);
  void (*ranks_leave)(tlk_ranks *r);
} tlk_ops;

const tlk_ops *tlk_reference(void);
const tlk_ops *tlk_cpu(void);

// A backend in a module of its own, loaded when it is asked for, exports this function under this name. device: 0, 1 ...; or -1 - k
// for the k-th process of a host, where nobody named one: the k-th of those that are visible, counted round. NULL when it cannot be
// used here; why (n bytes) then says so.
typedef const tlk_ops *tlk_open_fn(int device, char *why, size_t n);
#define TLK_OPEN "tlk_open"

#endif
