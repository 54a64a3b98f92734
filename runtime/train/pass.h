// pass.h: what batch.c and pass.c share.
#ifndef TL_PASS_H
#define TL_PASS_H
#include "batch.h"
tl_batch *tl_batch_retain(tl_batch *b);
#endif
