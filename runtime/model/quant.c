// quant.c: fp32 to ggml's storage types that are made from one block at a time without looking at a model's data: F32, F16,
// BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 (their layouts stand in dequant.c). Each gives the bytes that ggml's reference gives:
//
//   Q8_0        d = max |x| / 127, q = round(x / d), halves away from zero
//   Q4_0 Q5_0   d = (the x of largest magnitude) / -8 (-16): that x is met exactly, q = floor(x / d + 8.5) (16.5), at most 15
//   (31) Q4_1 Q5_1   m = min x, d = (max x - m) / 15 (31), q = floor((x - m) / d + 0.5)
// x / d is x times the fp32 reciprocal of the unrounded d; d and m are then rounded to fp16. Compiled without fused
// multiply-adds, as dequant.c.
#include "load.h"
#include <math.h>

static void put_half(uint8_t *p, float f) {
  uint16_t h = tl_f32_to_f16(f);
  memcpy(p, &h, 2);
}

static void to_f32(const float *x, uint8_t *y) {
  memcpy(y, x, 4);
}
static void to_f16(const float *x, uint8_t *y) {
  put_half(y, *x);
}
static void to_bf16(const float *x, uint8_t *y) {
  uint16_t h = tl_f32_to_bf16(*x);
  memcpy(y, &h, 2);
}

static void to_q8_0(const float *x, uint8_t *y) {
  float most = 0;
  for (int j = 0; j < 32; j++)
    most = fmaxf(most, fabsf(x[j]));
  float d = most / 127, inverse = d != 0 ? 1 / d : 0;
  put_half(y, d);
  for (int j = 0; j < 32; j++)
    y[2 + j] = (uint8_t)(int8_t)roundf(x[j] * inverse);
}

static int at_most(float v, int most) {
  return v > (float)most ? most : v > 0 ? (int)v : 0;
}

// 32 numbers of 4 or 5 bits as the blocks hold them; high: 4 bytes of fifth bits, NULL: there are none
static void put_bits(const int *q, uint8_t *high, uint8_t *low) {
  uint32_t fifth = 0;
  for (int j = 0; j < 16; j++) {
    low[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
    fifth |= (uint32_t)(q[j] >> 4) << j | (uint32_t)(q[j + 16] >> 4) << (j + 16);
  }
  if (high)
    memcpy(high, &fifth, 4);
}

static void centred(const float *x, uint8_t *y, int half) {
  float most = 0;
  for (int j = 0; j < 32; j++)
    if (fabsf(x[j]) > fabsf(most))
      most = x[j];
  float d = most / (float)-half, inverse = d != 0 ? 1 / d : 0;
  int q[32];
  for (int j = 0; j < 32; j++)
    q[j] = at_most(x[j] * inverse + ((float)half + 0.5f), 2 * half - 1);
  put_half(y, d);
  put_bits(q, half == 16 ? y + 2 : NULL, half == 16 ? y + 6 : y + 2);
}

static void between(const float *x, uint8_t *y, int most) {
  float low = x[0], high = x[0];
  for (int j = 1; j < 32; j++) {
    low = fminf(low, x[j]);
    high = fmaxf(high, x[j]);
  }
  float d = (high - low) / (float)most, inverse = d != 0 ? 1 / d : 0;
  int q[32];
  for (int j = 0; j < 32; j++)
    q[j] = at_most((x[j] - low) * inverse + 0.5f, most);
  put_half(y, d);
  put_half(y + 2, low);
  put_bits(q, most == 31 ? y + 4 : NULL, most == 31 ? y + 8 : y + 4);
}

static void to_q4_0(const float *x, uint8_t *y) {
  centred(x, y, 8);
}
static void to_q5_0(const float *x, uint8_t *y) {
  centred(x, y, 16);
}
static void to_q4_1(const float *x, uint8_t *y) {
  between(x, y, 15);
}
static void to_q5_1(const float *x, uint8_t *y) {
  between(x, y, 31);
}

static const struct {
  int type;
  void (*block)(const float *x, uint8_t *y);
} writers[] = {{TL_GGML_F32, to_f32},   {TL_GGML_F16, to_f16},   {TL_GGML_BF16, to_bf16}, {TL_GGML_Q8_0, to_q8_0},
               {TL_GGML_Q4_0, to_q4_0}, {TL_GGML_Q4_1, to_q4_1}, {TL_GGML_Q5_0, to_q5_0}, {TL_GGML_Q5_1, to_q5_1}};
enum { N_WRITERS = sizeof writers / sizeof *writers };

int tl_quant_named(const char *name) {
  for (int i = 0; i < N_WRITERS; i++)
    if (strcasecmp(tl_ggml_type_name(writers[i].type), name) == 0)
      return writers[i].type;
  return -1;
}

void tl_quant(int type, const float *x, uint8_t *y, size_t n) {
  int elements = 0, bytes = 0, w = 0;
  while (w < N_WRITERS && writers[w].type != type)
    w++;
  TL_ASSERT(w < N_WRITERS && tl_ggml_type_block(type, &elements, &bytes) && n % (size_t)elements == 0);
  for (size_t i = 0; i < n / (size_t)elements; i++)
    writers[w].block(x + i * (size_t)elements, y + i * (size_t)bytes);
}
