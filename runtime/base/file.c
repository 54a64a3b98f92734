// file.c: mapping, reading, whole-file writing that cannot leave a part behind, and hashes.
#include "base.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

tl_status tl_map_open(tl_map *m, const char *path) {
  *m = (tl_map){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return tl_fail(TL_E_IO, "%s: %s", path, strerror(errno));
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    close(fd);
    return tl_fail(TL_E_IO, "%s: not a regular file", path);
  }
  void *p = st.st_size ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
  int e = errno;
  close(fd);
  if (p == MAP_FAILED) return tl_fail(TL_E_IO, "%s: cannot map: %s", path, strerror(e));
  *m = (tl_map){.data = p, .size = (size_t)st.st_size, .path = strdup(path)};
  return TL_OK;
}

void tl_map_release(const void *p, size_t n) {
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)p / page * page;
  if (n) madvise((void *)first, (uintptr_t)p + n - first, MADV_DONTNEED);
}

void tl_map_close(tl_map *m) {
  if (m->data) munmap((void *)m->data, m->size);
  free(m->path);
  *m = (tl_map){0};
}

tl_status tl_read_file(const char *path, char **data, size_t *n) {
  *data = NULL;
  FILE *f = fopen(path, "rbe");
  if (!f) return tl_fail(TL_E_IO, "%s: %s", path, strerror(errno));
  tl_str s = {0};
  char buf[65536];
  size_t got;
  tl_str_add(&s, "", 0);
  while ((got = fread(buf, 1, sizeof buf, f)) > 0) tl_str_add(&s, buf, got);
  int bad = ferror(f), e = errno;
  fclose(f);
  if (bad) {
    tl_str_free(&s);
    return tl_fail(TL_E_IO, "%s: %s", path, strerror(e));
  }
  *data = s.p;
  if (n) *n = s.n;
  return TL_OK;
}

bool tl_file_exists(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool tl_is_dir(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

tl_status tl_mkdirs(const char *path) {
  char p[4096];
  if (snprintf(p, sizeof p, "%s", path) >= (int)sizeof p) return tl_fail(TL_E_ARG, "%s: path too long", path);
  if (!*p) return tl_fail(TL_E_ARG, "a folder to make has no name");
  for (char *c = p + 1;; c++) {
    if (*c && *c != '/') continue;
    char keep = *c;
    *c = 0;
    if (mkdir(p, 0777) != 0 && errno != EEXIST) return tl_fail(TL_E_IO, "%s: cannot make the folder: %s", p, strerror(errno));
    *c = keep;
    if (!keep) break;
  }
  return tl_is_dir(path) ? TL_OK : tl_fail(TL_E_IO, "%s: exists and is not a folder", path);
}

tl_status tl_out_open(tl_out *o, const char *path) {
  *o = (tl_out){.fd = -1, .path = strdup(path), .tmp = malloc(strlen(path) + 48)};
  if (!o->path || !o->tmp) {
    tl_out_abort(o);
    return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  }
  int e = EEXIST;  // other threads write the path too, and processes of other hosts and containers that have this one's number
  for (int i = 0; o->fd < 0 && e == EEXIST; i++) {
    sprintf(o->tmp, "%s.%ld.%d.tmp", path, (long)getpid(), i);
    o->fd = open(o->tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    e = errno;
  }
  if (o->fd >= 0) return TL_OK;
  *o->tmp = 0;  // it is another's, or none
  tl_out_abort(o);
  return tl_fail(TL_E_IO, "%s: cannot write: %s", path, strerror(e));
}

static tl_status out_failed(const tl_out *o, int e) {
  return tl_fail(TL_E_IO, "%s: cannot write: %s (what was there before is untouched)", o->path, strerror(e));
}

tl_status tl_out_write(tl_out *o, const void *data, size_t n) {
  const char *p = data;
  while (n) {
    ssize_t w = write(o->fd, p, n < (1u << 30) ? n : (1u << 30));
    if (w < 0 && errno == EINTR) continue;
    if (w <= 0) return out_failed(o, w < 0 ? errno : ENOSPC);
    p += w;
    n -= (size_t)w;
  }
  return TL_OK;
}

// A rename outlasts a power cut once the folder is on the disk too. File systems that cannot sync a folder say so, and that is no error.
static void sync_folder_of(char *path) {
  char *slash = strrchr(path, '/');
  if (slash) *slash = 0;
  int fd = open(!slash ? "." : *path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (slash) *slash = '/';
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

tl_status tl_out_commit(tl_out *o) {
  bool ok = fsync(o->fd) == 0;
  int e = errno;
  if (close(o->fd) != 0 && ok) ok = false, e = errno;
  o->fd = -1;
  if (ok && rename(o->tmp, o->path) != 0) ok = false, e = errno;
  tl_status s = ok ? TL_OK : out_failed(o, e);
  if (ok) {
    *o->tmp = 0;  // it bears its final name: nothing to remove
    sync_folder_of(o->path);
  }
  tl_out_abort(o);
  return s;
}

void tl_out_abort(tl_out *o) {
  if (o->fd >= 0) close(o->fd);
  if (o->tmp && *o->tmp) unlink(o->tmp);
  free(o->tmp);
  free(o->path);
  *o = (tl_out){.fd = -1};
}

tl_status tl_write_file(const char *path, const void *data, size_t n) {
  tl_out o;
  TL_TRY(tl_out_open(&o, path));
  tl_status s = tl_out_write(&o, data, n);
  if (s == TL_OK) return tl_out_commit(&o);
  tl_out_abort(&o);
  return s;
}

static void hex(const unsigned char *d, unsigned n, char *out) {
  for (unsigned i = 0; i < n; i++) sprintf(out + 2 * i, "%02x", d[i]);
}

tl_status tl_sha256_bytes(const void *data, size_t n, char *out) {
  unsigned char d[EVP_MAX_MD_SIZE];
  unsigned len = 0;
  if (!EVP_Digest(data, n, d, &len, EVP_sha256(), NULL)) return tl_fail(TL_E_INTERNAL, "sha256 failed");
  hex(d, len, out);
  return TL_OK;
}

tl_status tl_sha256_file(const char *path, char *out) {
  tl_map m;
  TL_TRY(tl_map_open(&m, path));
  tl_status s = tl_sha256_bytes(m.data ? (const void *)m.data : "", m.size, out);
  tl_map_close(&m);
  return s;
}

// Two multiply-rotate lanes over 16 bytes at a time, finished by the 64-bit mixer of splitmix. Collision-resistant against
// accidents, not against adversaries: it names cache files whose content is checked besides.
static inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

void tl_hash128(const void *data, size_t n, uint64_t out[2]) {
  const uint8_t *p = data;
  uint64_t a = 0x9e3779b97f4a7c15u ^ n, b = 0xc2b2ae3d27d4eb4fu + n, w[2];
  for (; n >= 16; p += 16, n -= 16) {
    memcpy(w, p, 16);
    a = (a ^ w[0]) * 0x9fb21c651e98df25u;
    b = (b ^ w[1]) * 0xd6e8feb86659fd93u;
    a ^= a >> 32;
    b ^= b >> 32;
    a += b;
  }
  w[0] = w[1] = 0;
  memcpy(w, p, n);
  a = mix64((a ^ w[0]) + 0x9e3779b97f4a7c15u);
  b = mix64((b ^ w[1]) + a);
  out[0] = mix64(a + b);
  out[1] = mix64(b ^ out[0]);
}
