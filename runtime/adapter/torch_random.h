// torch_random.h: torch's CPU generator, as far as PEFT's TinyLoRA needs it.
#ifndef TL_TORCH_RANDOM_H
#define TL_TORCH_RANDOM_H
#include <stddef.h>
#include <stdint.h>

// x (n) = torch.normal(0.0, std, (n,), generator=torch.Generator().manual_seed(seed)) in float32, bit for bit as torch computes
// it on an x86 CPU with AVX2.
void tl_torch_normal(float *x, size_t n, uint64_t seed, double std);
#endif
