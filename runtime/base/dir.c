// dir.c: what is at a path, and what is in a folder.
#include "base.h"
#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

int tl_path_kind(const char *path) {
  struct stat st;
  if (stat(path, &st) != 0)
    return 0;
  return S_ISREG(st.st_mode) ? 1 : S_ISDIR(st.st_mode) ? 2 : 3;
}

int64_t tl_file_bytes(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISREG(st.st_mode) ? (int64_t)st.st_size : -1;
}

bool tl_file_stamp(const char *path, int64_t *stamp) {
  struct stat st;
  if (stat(path, &st) != 0)
    return false;
  stamp[0] = (int64_t)st.st_size;
  stamp[1] = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
  stamp[2] = (int64_t)st.st_dev;
  stamp[3] = (int64_t)st.st_ino;
  return true;
}

static int not_dots(const struct dirent *e) {
  return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}
static int bytewise(const struct dirent **a, const struct dirent **b) {
  return strcmp((*a)->d_name, (*b)->d_name);
}

tl_status tl_list_dir(const char *path, char **json) {
  *json = NULL;
  struct dirent **entries;
  int n = scandir(path, &entries, not_dots, bytewise);
  if (n < 0)
    return tl_fail(TL_E_IO, "%s: %s", path, strerror(errno));
  cJSON *list = cJSON_CreateArray();
  for (int i = 0; i < n; i++) {
    cJSON_AddItemToArray(list, cJSON_CreateString(entries[i]->d_name));
    free(entries[i]);
  }
  free(entries);
  *json = cJSON_PrintUnformatted(list);
  cJSON_Delete(list);
  return *json ? TL_OK : tl_fail(TL_E_MEMORY, "%s: out of memory", path);
}

tl_status tl_symlink(const char *target, const char *path) {
  tl_str tmp = {0};
  bool made = false;
  errno = EEXIST;
  for (int i = 0; !made && errno == EEXIST; i++) { // a name of its own, as tl_out_open
    tmp.n = 0;
    tl_str_printf(&tmp, "%s.%ld.%d.tmp", path, (long)getpid(), i);
    made = symlink(target, tmp.p) == 0;
  }
  bool ok = made && rename(tmp.p, path) == 0;
  tl_status s = ok ? TL_OK : tl_fail(TL_E_IO, "%s: cannot make a link: %s", path, strerror(errno));
  if (made && !ok)
    unlink(tmp.p);
  tl_str_free(&tmp);
  return s;
}
