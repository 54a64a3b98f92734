// tokenizer.h: what the rest of runtime/ needs of a tokenizer beyond tl.h.
#ifndef TL_TOKENIZER_H
#define TL_TOKENIZER_H
#include "../base/base.h"

tl_tokenizer *tl_tokenizer_retain(tl_tokenizer *t);  // one more owner; tl_tokenizer_free gives it back
#endif
