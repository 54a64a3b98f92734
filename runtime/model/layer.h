// layer.h: one transformer layer, forward and backward, shared by the sampler and the trainer, so that both compute the
// same bits. Nothing here allocates: the caller brings activations and scratch.
//
//   xn = rmsnorm(x)            q, k, v = xn Wq^T, xn Wk^T, xn Wv^T     q, k rotated
//   x += attention(q, K, V) Wo^T                                        over the layer's window, if it has one
//   xn = rmsnorm(x)            x += (silu(xn Wg^T) * xn Wu^T) Wd^T
//
// The residual x is fp32; what enters a product is in the activation dtype ("act", the compute dtype of the weights).
// Of a model that ranks share (split.c) each has its heads and its columns of the feed-forward, and x whole. With n ranks, p this one:
//   forward   x += attention(..) Wo^T and x += (..) Wd^T are sums over ranks: rank 0 adds its term to x, the others put theirs in
//             place of x, and what all have afterwards is the sum over ranks, in their order: ((x + y_0) + y_1) + ...
//   backward  the gradient of xn is the sum of what comes back through each rank's rows of q k v, or of gate and up; that of the
//             inputs of o and down is each rank's own
//   low rank  y_p += B_p (R (A x)) in q k v gate up, with the rank's rows of B: A x is whole. In o and down the columns of A are
//             split: y_p += B (R (A_p x_p)), whose sum over ranks is B R (A x). Every term is linear in what is split, so the sums
//             above include it. What is handed to the gradient's sink, z = A x and g = dy B, is whole in one factor and a term in
//             the other: g in q k v gate up, z in o and down. So dR = sum_t g_t z_t^T is a sum over ranks too (adapter/ranks.c).
//
// Every linear may carry a low-rank term (kernels/ops.h), added in fp32 before any rounding. In families with norms on q and k,
// each head is normed before its rotation: q_raw = xn Wq^T in act, which is what backward needs, then rmsnorm and rotation in
// fp32.
#ifndef TL_LAYER_H
#define TL_LAYER_H
#include "model.h"

// What is being computed: rows, positions, who attends to whom.
typedef struct tl_rows {
  int T;
  const int32_t *pos;      // (T)
  const int32_t *kv_out;   // (T) the key/value row that a token writes; NULL: row t
  tlk_attn_map map;
} tl_rows;

// A model seen through an adapter: plain pointers, no ownership.
typedef struct tl_net {
  const tl_model *model;
  const tl_config *cfg;
  const tl_weights *w;
  const tlk_lowrank *lowrank;  // (n_modules) or NULL
  const int32_t *variant;      // (T) or NULL: which R each row uses
  int max_rank, act;           // act: TL_F32, TL_BF16 or TL_F16
  const float *rope;
  float scale;                 // 1 / sqrt(D)
  bool split;                  // ranks share the model: cfg is of this one's part
} tl_net;
void tl_net_init(tl_net *net, const tl_model *m, const tl_adapter_view *view);

// What one layer leaves for its backward. In recomputation and in decoding one set serves all layers. x_in and x_mid may be
// NULL when no backward follows; gate and up are then scratch. k and v may be rows of a cache.
typedef struct tl_acts {
  float *x_in, *x_mid;     // (T, C) residual before attention and before the feed-forward
  float *rstd1, *rstd2;    // (T)
  float *lse;              // (T, H)
  tlk_mat q, k, v, o;      // (T, H*D), (rows, G*D), (rows, G*D), (T, H*D), act
  tlk_mat gate, up;        // (T, F), act
  float *z[TL_N_KINDS];    // (T, r) A x of each linear with a low-rank term
  // families with norms on q and k only:
  tlk_mat q_raw, k_raw;    // (T, H*D), (T, G*D) act: before the norm
  float *rstd_q, *rstd_k;  // (T, H), (T, G)
} tl_acts;

// Scratch of a forward pass over at most T rows.
typedef struct tl_fwd_scratch {
  tlk_mat xn;              // (T, C) act
  tlk_mat q, k, v;         // (T, H*D), (T, G*D), (T, G*D) F32: before rotation and rounding
  tlk_mat h;               // (T, F) act
  tlk_mat normed;          // (T, H*D) F32: q, k after their norm; families with norms on q and k only
} tl_fwd_scratch;

typedef struct tl_bwd_scratch {
  tlk_mat dy;              // (T, max(C, H*D)) act
  tlk_mat dxn;             // (T, C) F32
  tlk_mat dh;              // (T, F) F32, for backends that need it
  tlk_mat dgate, dup;      // (T, F) act
  tlk_mat dq, dk, dv;      // (T, H*D), (T, G*D), (T, G*D) F32
  tlk_mat dq_act, dk_act, dv_act;  // the same, act
  float *g;                // (T, max_rank)
} tl_bwd_scratch;

// Where gradients go. linear is called once for every linear that `trains` says is trained.
typedef struct tl_grad_sink {
  void *ctx;
  bool (*trains)(void *ctx, int module);
  bool needs_x;                                           // linear wants the layer's inputs x, not only z
  void (*linear)(void *ctx, const tl_linear_grad *g);
  float *(*norm)(void *ctx, int layer, int which);        // gradient of a norm's gain (TL_NORM_1 ...), or NULL
  int lowest;                                             // no gradient below this layer's input is needed
  bool embeddings;                                        // ... unless the embedding is trained
  float loss_scale;                                       // gradients come in multiplied by it, g goes out without; dy as it is
} tl_grad_sink;

size_t tl_acts_bytes(const tl_net *net, int T, bool for_backward, bool own_kv);
void tl_acts_take(tl_acts *a, const tl_net *net, int T, bool for_backward, bool own_kv, tl_arena *arena);
size_t tl_fwd_scratch_bytes(const tl_net *net, int T);
void tl_fwd_scratch_take(tl_fwd_scratch *s, const tl_net *net, int T, tl_arena *arena);
size_t tl_bwd_scratch_bytes(const tl_net *net, int T);
void tl_bwd_scratch_take(tl_bwd_scratch *s, const tl_net *net, int T, tl_arena *arena);

// x (T, C) in and out
void tl_layer_fwd(const tl_net *net, int layer, const tl_rows *rows, float *x, tl_acts *a, const tl_fwd_scratch *s);
// dx (T, C): gradient of the layer's output in, of its input out. unit_off (n_units + 1): rows of sequences that share keys.
void tl_layer_bwd(const tl_net *net, int layer, const tl_rows *rows, const int32_t *unit_off, int n_units, float *dx,
                  const tl_acts *a, const tl_fwd_scratch *f, const tl_bwd_scratch *s, const tl_grad_sink *sink);

tlk_mat tl_mat_take(tl_arena *arena, int dtype, int T, int width);
static inline tlk_mat tl_mat_rows(tlk_mat m, int first) {  // the matrix from row `first` on
  return (tlk_mat){(char *)m.p + (size_t)first * m.ld * tlk_dtype_size(m.dtype), m.dtype, m.ld};
}
static inline tlk_mat tl_mat_f32(float *p, int width) { return (tlk_mat){p, TLK_F32, width}; }
#endif
