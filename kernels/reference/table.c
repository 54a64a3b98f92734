// table.c: the reference backend's table: scalar C that reads like the formulas, the judge of every other backend in
// tests/conformance. TL_BACKEND=reference runs everything on it.
#include "ref.h"
#define COMPOSE(op) ref_##op
#include "../compose.h"

static void set_threads(int n) {}  // always one
static void *host_alloc(size_t bytes, int kind) {
  void *p = NULL;
  return posix_memalign(&p, 64, (bytes ? bytes + 63 : 64) / 64 * 64) == 0 ? p : NULL;
}
static void host_copy(void *dst, const void *src, size_t bytes) { memmove(dst, src, bytes); }
static void host_zero(void *p, size_t bytes) { memset(p, 0, bytes); }
static void host_sync(void) {}

static const tlk_ops ops = {
  .name = "reference",
  .isa = "scalar",
  .host = &ops,
  .set_threads = set_threads,
  .alloc = host_alloc,
  .release = free,
  .copy = host_copy,
  .zero = host_zero,
  .sync = host_sync,
  COMPOSED, COMPOSED_FUSED,
  .pack = ref_pack,
  .repack = ref_repack,
  .unpack = ref_unpack,
  .packed_free = ref_packed_free,
  .packed_bytes = ref_packed_bytes,
  .packed_dims = ref_packed_dims,
  .linear_fwd = ref_linear_fwd,
  .linear_fwd_group = ref_linear_fwd_group,
  .linear_bwd_x = ref_linear_bwd_x,
  .linear_bwd_w = ref_linear_bwd_w,
  .colsum = ref_colsum,
  .lowrank_bwd = ref_lowrank_bwd,
  .rmsnorm_fwd = ref_rmsnorm_fwd,
  .rmsnorm_bwd = ref_rmsnorm_bwd,
  .rope_fwd = ref_rope_fwd,
  .rope_bwd = ref_rope_bwd,
  .cast = ref_cast,
  .gather = ref_gather,
  .attn_fwd = ref_attn_fwd,
  .attn_bwd = ref_attn_bwd,
  .swiglu_fwd = ref_swiglu_fwd,
  .swiglu_bwd = ref_swiglu_bwd,
  .embed_fwd = ref_embed_fwd,
  .embed_bwd = ref_embed_bwd,
  .head_fwd = ref_head_fwd,
  .head_bwd = ref_head_bwd,
  .head_sample = ref_head_sample,
  .adamw = ref_adamw,
  .sumsq = ref_sumsq,
  .scale = ref_scale,
  .round_to = ref_round_to,
};

const tlk_ops *tlk_reference(void) { return &ops; }
