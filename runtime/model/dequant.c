// dequant.c: ggml's storage types to fp32. A block holds 32 (or 256) elements:
//
//   Q4_0  d f16, 16 bytes of nibbles          x = d (q - 8)     byte j: element j in the low nibble, j + 16 in the high
//   Q4_1  d, m f16, 16 bytes                  x = d q + m
//   Q5_0  d f16, 32 high bits, 16 bytes       x = d (q - 16)
//   Q5_1  d, m f16, 32 high bits, 16 bytes    x = d q + m
//   Q8_0  d f16, 32 signed bytes              x = d q
//   Q4_K  d, m f16, 12 bytes: eight 6-bit scales s and eight 6-bit minima t, 128 bytes of nibbles
//                                             x = (d s) q - (m t), s and t per 32 elements
//   Q5_K  as Q4_K with 32 bytes of fifth bits between the scales and the nibbles
//   Q6_K  128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales s, d f16
//                                             x = (d s) (q - 32), s per 16 elements
// Arithmetic is fp32 in the order of ggml's own reference.
#include "load.h"

static float half_at(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return tl_f16_to_f32(h);
}

static uint32_t u32_at(const uint8_t *p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return v;
}

static void f32(const uint8_t *x, float *y) { memcpy(y, x, 4); }
static void f16(const uint8_t *x, float *y) { *y = half_at(x); }
static void bf16(const uint8_t *x, float *y) {
  uint16_t h;
  memcpy(&h, x, 2);
  *y = tl_bf16_to_f32(h);
}

static void q4_0(const uint8_t *x, float *y) {
  float d = half_at(x);
  for (int j = 0; j < 16; j++) {
    y[j] = (float)((x[2 + j] & 15) - 8) * d;
    y[j + 16] = (float)((x[2 + j] >> 4) - 8) * d;
  }
}

static void q4_1(const uint8_t *x, float *y) {
  float d = half_at(x), m = half_at(x + 2);
  for (int j = 0; j < 16; j++) {
    y[j] = (float)(x[4 + j] & 15) * d + m;
    y[j + 16] = (float)(x[4 + j] >> 4) * d + m;
  }
}

static void q5_0(const uint8_t *x, float *y) {
  float d = half_at(x);
  uint32_t high = u32_at(x + 2);
  for (int j = 0; j < 16; j++) {
    y[j] = (float)((int)((x[6 + j] & 15u) | (high >> j & 1) << 4) - 16) * d;
    y[j + 16] = (float)((int)((x[6 + j] >> 4) | (high >> (j + 16) & 1) << 4) - 16) * d;
  }
}

static void q5_1(const uint8_t *x, float *y) {
  float d = half_at(x), m = half_at(x + 2);
  uint32_t high = u32_at(x + 4);
  for (int j = 0; j < 16; j++) {
    y[j] = (float)((x[8 + j] & 15u) | (high >> j & 1) << 4) * d + m;
    y[j + 16] = (float)((uint32_t)(x[8 + j] >> 4) | (high >> (j + 16) & 1) << 4) * d + m;
  }
}

static void q8_0(const uint8_t *x, float *y) {
  float d = half_at(x);
  for (int j = 0; j < 32; j++) y[j] = (float)(int8_t)x[2 + j] * d;
}

// the i-th of eight 6-bit scales and minima in 12 bytes: the first four lie in the low 6 bits of bytes 0..3 and 4..7; of the
// others the low nibbles share bytes 8..11 and the upper two bits are the top bits of bytes 0..7
static void scale_min(const uint8_t *q, int i, float *scale, float *min) {
  if (i < 4) {
    *scale = (float)(q[i] & 63);
    *min = (float)(q[i + 4] & 63);
  } else {
    *scale = (float)((q[i + 4] & 15) | (q[i - 4] >> 6) << 4);
    *min = (float)((q[i + 4] >> 4) | (q[i] >> 6) << 4);
  }
}

// fifth: 32 bytes whose bit i belongs to the i-th group of 32 elements, or NULL
static void k_quant(const uint8_t *scales, const uint8_t *fifth, const uint8_t *q, float d, float m, float *y) {
  for (int i = 0; i < 8; i++) {
    float s, t;
    scale_min(scales, i, &s, &t);
    s *= d;
    t *= m;
    for (int l = 0; l < 32; l++) {
      int v = i & 1 ? q[32 * (i / 2) + l] >> 4 : q[32 * (i / 2) + l] & 15;
      if (fifth) v |= (fifth[l] >> i & 1) << 4;
      y[32 * i + l] = s * (float)v - t;
    }
  }
}

static void q4_k(const uint8_t *x, float *y) { k_quant(x + 4, NULL, x + 16, half_at(x), half_at(x + 2), y); }
static void q5_k(const uint8_t *x, float *y) { k_quant(x + 4, x + 16, x + 48, half_at(x), half_at(x + 2), y); }

static void q6_k(const uint8_t *x, float *y) {
  float d = half_at(x + 208);
  for (int part = 0; part < 2; part++) {
    const uint8_t *low = x + 64 * part, *high = x + 128 + 32 * part;
    const int8_t *s = (const int8_t *)x + 192 + 8 * part;
    for (int k = 0; k < 4; k++)  // the k-th 32 elements of this half
      for (int l = 0; l < 32; l++) {
        int nibble = low[32 * (k & 1) + l] >> (k < 2 ? 0 : 4) & 15;
        int q = (nibble | (high[l] >> 2 * k & 3) << 4) - 32;
        y[128 * part + 32 * k + l] = d * (float)s[2 * k + l / 16] * (float)q;
      }
  }
}

static const struct {
  int type;
  void (*block)(const uint8_t *x, float *y);
} readers[] = {{TL_GGML_F32, f32},   {TL_GGML_F16, f16},   {TL_GGML_BF16, bf16}, {TL_GGML_Q4_0, q4_0},
               {TL_GGML_Q4_1, q4_1}, {TL_GGML_Q5_0, q5_0}, {TL_GGML_Q5_1, q5_1}, {TL_GGML_Q8_0, q8_0},
               {TL_GGML_Q4_K, q4_k}, {TL_GGML_Q5_K, q5_k}, {TL_GGML_Q6_K, q6_k}};
enum { N_READERS = sizeof readers / sizeof *readers };

bool tl_dequant_known(int type) {
  for (int i = 0; i < N_READERS; i++)
    if (readers[i].type == type) return true;
  return false;
}

void tl_dequant(int type, const uint8_t *x, float *y, size_t n) {
  int elements = 0, bytes = 0, r = 0;
  while (r < N_READERS && readers[r].type != type) r++;
  TL_ASSERT(r < N_READERS && tl_ggml_type_block(type, &elements, &bytes) && n % (size_t)elements == 0);
  for (size_t i = 0; i < n / (size_t)elements; i++) readers[r].block(x + i * (size_t)bytes, y + i * (size_t)elements);
}
