// cuda_pipeline.h (cusim): asynchronous copies from global to shared memory. A copy is performed when the thread that made it
// waits for it and not before, so that a missing wait reads what was there earlier (poison, at first).
#ifndef CUSIM_CUDA_PIPELINE_H
#define CUSIM_CUDA_PIPELINE_H
#include "cuda_runtime.h"

// size 4, 8 or 16; both addresses aligned to it. zfill: so many bytes at the end are zeros and not read.
void __pipeline_memcpy_async(void *shared, const void *global, size_t size, size_t zfill = 0);
void __pipeline_commit();
void __pipeline_wait_prior(size_t n);  // all but the latest n commits of this thread
#endif
