// profile.h: private to runtime/: sections of the profile (profile.c), and the table that times the backend's ops.
#ifndef TL_PROFILE_H
#define TL_PROFILE_H
#include "base.h"

typedef struct tl_section {
  const char *name;
  double start, ops; // start < 0: no profile was running
} tl_section;
tl_section tl_section_begin(const char *name);
void tl_section_end(tl_section *s);
// The rest of the enclosing block is a section with this name (a literal). The time of a section inside another is its own alone.
#define TL_SECTION(literal) __attribute__((cleanup(tl_section_end), unused)) tl_section tl_section_ = tl_section_begin(literal)

// The table to use while a profile runs; NULL: none does.
const tlk_ops *tl_profile_ops(void);
#endif
