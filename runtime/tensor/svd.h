// svd.h: truncated SVD with an on-disk cache, for runtime/adapter. The uncached call is tl_svd in tl.h.
#ifndef TL_SVD_H
#define TL_SVD_H
#include "../base/base.h"

// As tl_svd, but looked up in and added to the folder cache_dir (NULL or "": no cache). A file that is damaged, or that
// cannot be written, costs time and nothing else: the result is computed. hit (or NULL): whether it came from the cache.
// Safe to call from several threads at once.
tl_status tl_svd_cached(const float *w, int n, int k, int rank, const char *cache_dir, float *U, float *S, float *V,
                        double *error, bool *hit);
#endif
