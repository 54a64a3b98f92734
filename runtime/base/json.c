// json.c: an object in JSON from outside. cJSON stops behind the first value and finds the first of two equal keys, where Python's
// json refuses what follows and takes the last: other programs would read another configuration. Both are refused.
#include "base.h"
#include <cjson/cJSON.h>

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

// a key that an object, or one inside of it, has twice; NULL: none. Out of memory counts as none.
static const char *twice(const cJSON *o) {
  const cJSON *item;
  const char *found = NULL;
  size_t n = 0;
  cJSON_ArrayForEach(item, o) {
    if (!found && (cJSON_IsObject(item) || cJSON_IsArray(item))) found = twice(item);
    n++;
  }
  const char **keys = !found && cJSON_IsObject(o) && n > 1 ? malloc(n * sizeof *keys) : NULL;
  if (!keys) return found;
  n = 0;
  cJSON_ArrayForEach(item, o) keys[n++] = item->string;
  qsort(keys, n, sizeof *keys, by_text);
  for (size_t i = 1; i < n && !found; i++)
    if (strcmp(keys[i - 1], keys[i]) == 0) found = keys[i];
  free(keys);
  return found;
}

tl_status tl_json_parse(const char *path, const char *text, size_t n, cJSON **out) {
  const char *end = text, *key;
  *out = cJSON_ParseWithLengthOpts(text, n, &end, 0);
  size_t at = (size_t)(end - text);
  while (*out && at < n && memchr(" \t\r\n", text[at], 4)) at++;
  tl_status s = TL_OK;
  if (!*out || at < n)
    s = tl_fail(TL_E_FORMAT, "%s: not JSON (wrong at byte %zu of %zu)", path, at, n);
  else if (!cJSON_IsObject(*out))
    s = tl_fail(TL_E_FORMAT, "%s: not a JSON object", path);
  else if ((key = twice(*out)))
    s = tl_fail(TL_E_FORMAT, "%s: key %.60s is there twice", path, key);
  if (s == TL_OK) return s;
  cJSON_Delete(*out);
  *out = NULL;
  return s;
}
