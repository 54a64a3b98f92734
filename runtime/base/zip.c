// zip.c: one member out of a zip archive, through libzip. The member goes to its place whole or not at all.
#include "base.h"
#include <zip.h>

static zip_int64_t find_member(zip_t *z, const char *ending) {
  zip_int64_t exact = zip_name_locate(z, ending, 0);
  if (exact >= 0)
    return exact;
  zip_int64_t n = zip_get_num_entries(z, 0);
  for (zip_int64_t i = 0; i < n; i++) {
    const char *name = zip_get_name(z, (zip_uint64_t)i, 0);
    size_t a = name ? strlen(name) : 0, b = strlen(ending);
    if (a >= b && strcmp(name + a - b, ending) == 0)
      return i;
  }
  return -1;
}

static tl_status copy_member(zip_file_t *from, const char *archive, tl_out *to) {
  char *buffer = malloc(1 << 20);
  if (!buffer)
    return tl_fail(TL_E_MEMORY, "%s: out of memory", archive);
  tl_status s = TL_OK;
  zip_int64_t got = 0;
  while (s == TL_OK && (got = zip_fread(from, buffer, 1 << 20)) > 0)
    s = tl_interrupted() ? tl_fail(TL_E_INTERRUPTED, "%s: interrupted", archive) : tl_out_write(to, buffer, (size_t)got);
  if (s == TL_OK && got < 0)
    s = tl_fail(TL_E_FORMAT, "%s: %s", archive, zip_file_strerror(from));
  free(buffer);
  return s;
}

tl_status tl_unzip_member(const char *archive, const char *name_ending, const char *path) {
  int code = 0;
  zip_t *z = zip_open(archive, ZIP_RDONLY, &code);
  if (!z) {
    zip_error_t e;
    zip_error_init_with_code(&e, code);
    tl_status s = tl_fail(TL_E_FORMAT, "%s: not a readable zip archive: %s", archive, zip_error_strerror(&e));
    zip_error_fini(&e);
    return s;
  }
  zip_int64_t i = find_member(z, name_ending);
  zip_file_t *from = i >= 0 ? zip_fopen_index(z, (zip_uint64_t)i, 0) : NULL;
  tl_out to;
  tl_status s = from ? tl_out_open(&to, path) : tl_fail(TL_E_FORMAT, "%s: has no readable member '%s'", archive, name_ending);
  if (s == TL_OK) {
    s = copy_member(from, archive, &to);
    if (s == TL_OK)
      s = tl_out_commit(&to);
    else
      tl_out_abort(&to);
  }
  if (from)
    zip_fclose(from);
  zip_discard(z);
  return s;
}
