// dequant.c: ggml's storage types to fp32, to the bit. A block holds 32 (or 256) elements:
//
//   Q4_0  d f16, 16 bytes of nibbles          x = d (q - 8)     byte j: element j in the low nibble, j + 16 in the high
//   Q4_1  d, m f16, 16 bytes                  x = d q + m
//   Q5_0  d f16, 32 high bits, 16 bytes       x = d (q - 16)
//   Q5_1  d, m f16, 32 high bits, 16 bytes    x = d q + m
//   Q8_0  d f16, 32 signed bytes              x = d q
//   IQ4_NL as Q4_0, but a nibble names one of 16 values      x = d v[q]
//   MXFP4 e: an exponent byte, 16 bytes       x = 2^(e - 128) v[q], v the twofold e2m1 numbers (OCP Microscaling 1.0)
//   Q2_K  16 bytes of nibbles: scale s low, minimum t high, 64 bytes of bit pairs, d, m f16
//                                             x = (d s) q - (m t), s and t per 16 elements
//   Q3_K  32 bytes of third bits (a 0 bit means -4), 64 bytes of bit pairs, 12 bytes: 16 6-bit scales s, d f16
//                                             x = (d (s - 32)) q, s per 16 elements
//   Q4_K  d, m f16, 12 bytes: eight 6-bit scales s and eight 6-bit minima t, 128 bytes of nibbles
//                                             x = (d s) q - (m t), s and t per 32 elements
//   Q5_K  as Q4_K with 32 bytes of fifth bits between the scales and the nibbles
//   Q6_K  128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales s, d f16
//                                             x = (d s) (q - 32), s per 16 elements
//   Q8_K  d f32, 256 signed bytes, 16 sums i16 (for dot products; not read here)     x = d q
//   IQ4_XS d f16, eight 2-bit upper parts and 4-bit lower parts of scales s, 128 bytes of nibbles
//                                             x = (d (s - 32)) v[q], s per 32 elements, v as in IQ4_NL
//   TQ1_0 48 + 4 bytes of five, four base-3 digits each, d f16        x = d (digit - 1)
//   TQ2_0 64 bytes of bit pairs, d f16        x = d (q - 1)
// Arithmetic is fp32 in the order of ggml's own reference, every operation rounded by itself: this file is compiled without
// fused multiply-adds.
//
// The grids of IQ1, IQ2 and IQ3 (tables of 256 to 2048 entries) and NVFP4 (whose tensors have companions that scale them) are
// not read.
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

// what the nibbles of IQ4_NL and IQ4_XS stand for: a codebook fitted to weights, denser near 0
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// 4-bit floats (sign, 2 of exponent, 1 of mantissa), doubled so that they are whole
static const int8_t e2m1_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 32 nibbles in 16 bytes, as Q4_0 lays them, each through a table
static void table32(const uint8_t *q, const int8_t *values, float d, float *y) {
  for (int j = 0; j < 16; j++) {
    y[j] = d * (float)values[q[j] & 15];
    y[j + 16] = d * (float)values[q[j] >> 4];
  }
}

static void iq4_nl(const uint8_t *x, float *y) { table32(x + 2, iq4_values, half_at(x), y); }

static void mxfp4(const uint8_t *x, float *y) {
  union { uint32_t u; float f; } d = {x[0] < 2 ? 0x00200000u << x[0] : (uint32_t)(x[0] - 1) << 23};  // 2^(e - 128)
  table32(x + 1, e2m1_values, d.f, y);
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

static void q2_k(const uint8_t *x, float *y) {
  float d = half_at(x + 80), m = half_at(x + 82);
  for (int i = 0; i < 16; i++) {  // the i-th 16 elements: a bit pair of 16 bytes
    float s = d * (float)(x[i] & 15), t = m * (float)(x[i] >> 4);
    const uint8_t *q = x + 16 + 32 * (i / 8) + 16 * (i & 1);
    for (int l = 0; l < 16; l++) y[16 * i + l] = s * (float)(q[l] >> 2 * (i / 2 % 4) & 3) - t;
  }
}

// Scale i of 16 in 12 bytes: low nibbles of bytes 0..7 then their high nibbles; upper bit pairs in bytes 8..11, four a byte,
// one of every four scales.
static void q3_k(const uint8_t *x, float *y) {
  float d = half_at(x + 108);
  const uint8_t *third = x, *scales = x + 96;
  for (int i = 0; i < 16; i++) {
    int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4, up = scales[8 + i % 4] >> 2 * (i / 4) & 3;
    float s = d * (float)((low | up << 4) - 32);
    const uint8_t *q = x + 32 + 32 * (i / 8) + 16 * (i & 1);
    for (int l = 0; l < 16; l++) {
      int set = third[16 * (i & 1) + l] >> i / 2 & 1;
      y[16 * i + l] = s * (float)((q[l] >> 2 * (i / 2 % 4) & 3) - (set ? 0 : 4));
    }
  }
}

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

static void q8_k(const uint8_t *x, float *y) {
  float d;
  memcpy(&d, x, 4);
  for (int j = 0; j < 256; j++) y[j] = d * (float)(int8_t)x[4 + j];
}

static void iq4_xs(const uint8_t *x, float *y) {
  float d = half_at(x);
  unsigned up = x[2] | (unsigned)x[3] << 8;
  for (int i = 0; i < 8; i++) {
    int s = (x[4 + i / 2] >> 4 * (i & 1) & 15) | (int)(up >> 2 * i & 3) << 4;
    table32(x + 8 + 16 * i, iq4_values, d * (float)(s - 32), y + 32 * i);
  }
}

// A byte b holds base-3 digits as the fraction b / 256: digit k is the whole part of 3 frac(3^k b / 256), minus 1.
static float ternary(uint8_t b, int k, float d) {
  static const uint8_t power[5] = {1, 3, 9, 27, 81};
  return (float)(((uint8_t)(b * power[k]) * 3 >> 8) - 1) * d;
}

static void tq1_0(const uint8_t *x, float *y) {
  float d = half_at(x + 52);
  for (int k = 0; k < 5; k++) {
    for (int l = 0; l < 32; l++) y[32 * k + l] = ternary(x[l], k, d);
    for (int l = 0; l < 16; l++) y[160 + 16 * k + l] = ternary(x[32 + l], k, d);
  }
  for (int k = 0; k < 4; k++)
    for (int l = 0; l < 4; l++) y[240 + 4 * k + l] = ternary(x[48 + l], k, d);
}

static void tq2_0(const uint8_t *x, float *y) {
  float d = half_at(x + 64);
  for (int i = 0; i < 8; i++)
    for (int l = 0; l < 32; l++) y[32 * i + l] = (float)((x[32 * (i / 4) + l] >> 2 * (i % 4) & 3) - 1) * d;
}

static const struct {
  int type;
  void (*block)(const uint8_t *x, float *y);
} readers[] = {{TL_GGML_F32, f32},       {TL_GGML_F16, f16},     {TL_GGML_BF16, bf16},     {TL_GGML_Q8_0, q8_0},
               {TL_GGML_Q4_0, q4_0},     {TL_GGML_Q4_1, q4_1},   {TL_GGML_Q5_0, q5_0},     {TL_GGML_Q5_1, q5_1},
               {TL_GGML_Q2_K, q2_k},     {TL_GGML_Q3_K, q3_k},   {TL_GGML_Q4_K, q4_k},     {TL_GGML_Q5_K, q5_k},
               {TL_GGML_Q6_K, q6_k},     {TL_GGML_Q8_K, q8_k},   {TL_GGML_IQ4_NL, iq4_nl}, {TL_GGML_IQ4_XS, iq4_xs},
               {TL_GGML_MXFP4, mxfp4},   {TL_GGML_TQ1_0, tq1_0}, {TL_GGML_TQ2_0, tq2_0}};
enum { N_READERS = sizeof readers / sizeof *readers };

bool tl_dequant_known(int type) {
  for (int i = 0; i < N_READERS; i++)
    if (readers[i].type == type) return true;
  return false;
}

const char *tl_dequant_list(void) {
  static _Thread_local char list[N_READERS * 8];
  size_t at = 0;
  for (int i = 0; i < N_READERS; i++)
    at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? " " : "", tl_ggml_type_name(readers[i].type));
  return list;
}

void tl_dequant(int type, const uint8_t *x, float *y, size_t n) {
  int elements = 0, bytes = 0, r = 0;
  while (r < N_READERS && readers[r].type != type) r++;
  TL_ASSERT(r < N_READERS && tl_ggml_type_block(type, &elements, &bytes) && n % (size_t)elements == 0);
  for (size_t i = 0; i < n / (size_t)elements; i++) readers[r].block(x + i * (size_t)bytes, y + i * (size_t)elements);
}
