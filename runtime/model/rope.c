// rope.c: the table of rotations. Position p turns the pair (i, i + D/2) by p * f_i with f_i = theta^(-2i/D) (Su et al. 2021,
// arXiv:2104.09864), computed in fp32 step by step as transformers does, so that long contexts agree with it too.
// Scalings: linear divides every f_i by a factor; llama3 divides the slow ones by the factor, leaves the fast ones and blends
// between, by wavelength; yarn (Peng et al. 2023, arXiv:2309.00071) blends by index and multiplies cos and sin by an attention
// factor; GGUF's rope_freqs tensor gives each divisor itself.
#include "model.h"
#include <math.h>

// Llama 3's scaling of one frequency: wavelengths above original/low are slow, below original/high fast
static float llama3(const tl_config *c, float f) {
  float wavelength = (float)(2 * M_PI) / f;
  if (wavelength < (float)c->rope_original / c->rope_high) return f;
  if (wavelength > (float)c->rope_original / c->rope_low) return f / c->rope_factor;
  float smooth = ((float)c->rope_original / wavelength - c->rope_low) / (c->rope_high - c->rope_low);
  return (1 - smooth) * f / c->rope_factor + smooth * f;
}

float tl_yarn_attention(float factor, float mscale) {
  return factor <= 1 ? 1 : (float)(0.1 * (double)mscale * log((double)factor) + 1);
}

// the index (not whole) at which a pair turns so many times over the original context
static double yarn_index(const tl_config *c, float turns) {
  double d = c->head_dim;
  return d * log(c->rope_original / ((double)turns * 2 * M_PI)) / (2 * log((double)c->rope_theta));
}

// YaRN's scaling: pairs that turn more than beta_fast times are left, those that turn less than beta_slow times are divided by
// the factor, with a ramp over the indices between.
static float yarn(const tl_config *c, int i) {
  float power = powf(c->rope_theta, (float)(2 * i) / (float)c->head_dim);
  double low = yarn_index(c, c->rope_fast), high = yarn_index(c, c->rope_slow);
  if (c->rope_whole) low = floor(low), high = ceil(high);
  low = fmax(low, 0);
  high = fmin(high, c->head_dim - 1);
  if (low == high) high += 0.001;  // no division by zero
  float ramp = fminf(fmaxf(((float)i - (float)low) / (float)(high - low), 0), 1), keep = 1 - ramp;
  return 1.0f / (c->rope_factor * power) * (1 - keep) + 1.0f / power * keep;
}

float tl_rope_frequency(const tl_config *c, int i) {
  float f = 1.0f / powf(c->rope_theta, (float)(2 * i) / (float)c->head_dim);
  switch (c->rope_type) {
  case TL_ROPE_LINEAR: return f / c->rope_factor;
  case TL_ROPE_LLAMA3: return llama3(c, f);
  case TL_ROPE_YARN: return yarn(c, i);
  case TL_ROPE_TENSOR: return f / c->rope_divisors[i];
  default: return f;
  }
}

static void fill(float *table, const tl_config *c, int first, int n) {
  int half = c->head_dim / 2;
  float scale = c->rope_type == TL_ROPE_YARN ? c->rope_attention : 1;
  for (int i = 0; i < half; i++) {
    float f = tl_rope_frequency(c, i);
    for (int p = first; p < n; p++) {
      float angle = (float)p * f;
      table[((size_t)p * (size_t)half + (size_t)i) * 2] = cosf(angle) * scale;
      table[((size_t)p * (size_t)half + (size_t)i) * 2 + 1] = sinf(angle) * scale;
    }
  }
}

int tl_config_context(const tl_config *c) {
  double n = c->max_positions;
  if (c->rope_type == TL_ROPE_LINEAR) n *= c->rope_factor;
  if (c->rope_type == TL_ROPE_YARN) n = fmax(n, (double)c->rope_original * c->rope_factor);
  return n < 1 << 28 ? (int)n : 1 << 28;
}

void tl_rope_table(float *table, const tl_config *c, int n) { fill(table, c, 0, n); }

// Grows by doubling; computed anew, on the host.
tl_status tl_model_need_positions(tl_model *m, int n) {
  if (n <= m->n_rope) return TL_OK;
  int64_t size = m->n_rope ? m->n_rope : 256;
  while (size < n) size *= 2;
  if (size > INT32_MAX) return tl_fail(TL_E_ARG, "%d positions are too many", n);
  size_t numbers = (size_t)size * (size_t)m->cfg.head_dim, bytes = numbers * sizeof(float) * (m->cfg.unrotated ? 2 : 1);
  float *host = tl_aligned_alloc(bytes), *table = host ? tl_ops()->alloc(bytes, TLK_MEM_OPS) : NULL;
  if (!table) free(host);
  if (!table)
    return tl_fail(TL_E_MEMORY, "out of memory: the rotation table of %d positions needs %.1f MiB", n,
                   (double)bytes / (1 << 20));
  fill(host, &m->cfg, 0, (int)size);
  for (size_t i = numbers; i < bytes / sizeof(float); i++) host[i] = i % 2 == 0;
  tl_ops()->copy(table, host, bytes);
  free(host);
  tl_ops()->release(m->rope);
  m->rope = table;
  m->no_rope = m->cfg.unrotated ? table + numbers : NULL;
  m->n_rope = (int)size;
  return TL_OK;
}
