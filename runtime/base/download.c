// download.c: a file from an address to a path.
//
// A download goes to PATH.part and gets its name only when it is complete, of the right size and of the right checksum. What an
// earlier try left in PATH.part is continued with a range request; a server that does not know ranges is asked for the whole
// again. A wrong checksum after a continued download is given one fresh start (the part may have been of another file); after a
// fresh one the part is removed and the failure says what was found and what was expected.
//
// PATH.lock is held meanwhile: a second process that wants the same file waits, and finds it there.
#include "http.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { PROGRESS_BYTES = 1 << 20 }; // a try that brought so much is no failure in a row

typedef struct download {
  const char *url, *path;
  const tl_download_options *o;
  char *part;
  FILE *file;
  int64_t start; // bytes that were there before this try
  int write_errno;
  double shown_s;  // when progress was last shown
  int shown_tenth; // for plain lines
  double began_s;
  bool wrote_line;
} download;

// ---------------------------------------------------------------- progress

static void show(download *d, int64_t have, int64_t total, bool last) {
  if (!d->o->label || total <= 0)
    return;
  double now = tl_seconds(), mib = 1024.0 * 1024.0;
  double rate = (double)(have - d->start) / mib / (now - d->began_s + 1e-9);
  int tenth = (int)(10 * have / total);
  bool terminal = isatty(STDERR_FILENO);
  if (terminal ? !last && now - d->shown_s < 0.2 : tenth == d->shown_tenth)
    return;
  d->shown_s = now;
  d->shown_tenth = tenth;
  fprintf(stderr, "%s%s: %.1f of %.1f MiB (%d%%), %.1f MiB/s%s", terminal ? "\r" : "", d->o->label, (double)have / mib,
          (double)total / mib, (int)(100 * have / total), rate, terminal ? "\033[K" : "\n");
  d->wrote_line = terminal;
}

static int on_progress(void *user, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now) {
  (void)up_total, (void)up_now;
  download *d = user;
  if (total > 0 && now > 0)
    show(d, d->start + now, d->start + total, now == total);
  return tl_interrupted();
}

// ---------------------------------------------------------------- one request

static size_t write_part(char *data, size_t size, size_t n, void *user) {
  download *d = user;
  size_t wrote = fwrite(data, 1, size * n, d->file);
  if (wrote != size * n)
    d->write_errno = errno ? errno : ENOSPC;
  return wrote;
}

static void close_part(download *d) {
  errno = 0;
  bool ok = fflush(d->file) == 0 && fsync(fileno(d->file)) == 0;
  if (!ok && !d->write_errno)
    d->write_errno = errno;
  if (fclose(d->file) != 0 && !d->write_errno)
    d->write_errno = errno;
  d->file = NULL;
}

// Appends what the server has beyond the part. *again: what failed may pass, or the server wants no range (the part is emptied
// then).
static tl_status request(download *d, int n, bool *again) {
  tl_http h;
  tl_status s = tl_http_open(&h, d->url, NULL, d->o->token);
  *again = false;
  if (s != TL_OK)
    return s;
  d->file = fopen(d->part, "abe");
  if (!d->file) {
    tl_http_close(&h);
    return tl_fail(TL_E_IO, "%s: cannot write: %s", d->part, strerror(errno));
  }
  d->start = tl_file_bytes(d->part);
  d->write_errno = 0;
  d->began_s = tl_seconds();
  curl_easy_setopt(h.curl, CURLOPT_RESUME_FROM_LARGE, (curl_off_t)d->start);
  curl_easy_setopt(h.curl, CURLOPT_WRITEFUNCTION, write_part);
  curl_easy_setopt(h.curl, CURLOPT_WRITEDATA, d);
  curl_easy_setopt(h.curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(h.curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(h.curl, CURLOPT_XFERINFODATA, d);
  CURLcode e = curl_easy_perform(h.curl);
  long code = 0;
  curl_easy_getinfo(h.curl, CURLINFO_RESPONSE_CODE, &code);
  close_part(d);
  bool no_range = d->start > 0 && (e == CURLE_RANGE_ERROR || e == CURLE_BAD_DOWNLOAD_RESUME || code == 416);
  bool checked = d->o->sha256 || d->o->git_sha1;
  if (d->write_errno)
    s = tl_fail(TL_E_IO, "%s: cannot write: %s", d->part, strerror(d->write_errno));
  else if (no_range && code == 416 && checked)
    s = TL_OK; // nothing after the part: it may be the whole
  else if (no_range) {
    s = tl_fail(TL_E_IO, "%s: the server cannot continue a download", d->url);
    *again = n + 1 < TL_HTTP_TRIES && remove(d->part) == 0;
  } else if (e != CURLE_OK) {
    s = tl_http_failed(&h, e);
    *again = tl_http_again(&h, e, tl_file_bytes(d->part) - d->start >= PROGRESS_BYTES ? 0 : n);
  }
  tl_http_close(&h);
  return s;
}

// ---------------------------------------------------------------- the whole file

// Before anything is asked for: whether the rest fits on the disk.
static tl_status check_room(const download *d) {
  struct statvfs v;
  int64_t have = tl_file_bytes(d->part);
  tl_str copy = {0};
  tl_str_printf(&copy, "%s", d->path);
  bool known = d->o->bytes > 0 && statvfs(dirname(copy.p), &v) == 0;
  tl_str_free(&copy);
  if (!known)
    return TL_OK;
  int64_t room = (int64_t)v.f_bavail * (int64_t)v.f_frsize, wanted = d->o->bytes - (have > 0 ? have : 0);
  if (wanted <= room)
    return TL_OK;
  return tl_fail(TL_E_IO, "%s: needs %.1f MiB, the disk has %.1f MiB left", d->path, (double)wanted / 1048576.0,
                 (double)room / 1048576.0);
}

// The whole into the part, over several requests.
static tl_status fill_part(download *d) {
  if (d->o->bytes > 0 && tl_file_bytes(d->part) > d->o->bytes)
    remove(d->part); // longer than the file: of another one
  TL_TRY(check_room(d));
  if (d->o->bytes > 0 && tl_file_bytes(d->part) == d->o->bytes)
    return TL_OK;
  for (int n = 0;; n++) {
    int64_t before = tl_file_bytes(d->part);
    bool again;
    tl_status s = request(d, n, &again);
    if (s == TL_OK || !again)
      return s;
    if (tl_interrupted())
      return tl_fail(TL_E_INTERRUPTED, "%s: interrupted", d->url);
    if (tl_file_bytes(d->part) - (before > 0 ? before : 0) >= PROGRESS_BYTES)
      n = -1;
  }
}

// git's name of a file: SHA-1 of "blob SIZE" NUL content; out: 40 hex digits and a NUL
static tl_status git_sha1(const char *path, char *out) {
  tl_map m;
  TL_TRY(tl_map_open(&m, path));
  char head[40];
  size_t n = (size_t)snprintf(head, sizeof head, "blob %zu", m.size) + 1;
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned bytes = 0;
  EVP_MD_CTX *c = EVP_MD_CTX_new();
  bool ok = c && EVP_DigestInit_ex(c, EVP_sha1(), NULL) && EVP_DigestUpdate(c, head, n) &&
            (m.size == 0 || EVP_DigestUpdate(c, m.data, m.size)) && EVP_DigestFinal_ex(c, sum, &bytes);
  EVP_MD_CTX_free(c);
  tl_map_close(&m);
  if (!ok)
    return tl_fail(TL_E_INTERNAL, "sha1 failed");
  for (unsigned i = 0; i < bytes; i++)
    sprintf(out + 2 * i, "%02x", sum[i]);
  return TL_OK;
}

// *right: the part is what it should be. Not right is a failure with both values in its message.
static tl_status check_part(const download *d, bool *right) {
  const tl_download_options *o = d->o;
  char found[65];
  int64_t bytes = tl_file_bytes(d->part);
  *right = o->bytes <= 0 || bytes == o->bytes;
  if (!*right)
    return tl_fail(TL_E_FORMAT, "%s: %" PRId64 " bytes came, expected %" PRId64 "; the file was removed", d->url, bytes,
                   o->bytes);
  if (o->sha256)
    TL_TRY(tl_sha256_file(d->part, found));
  else if (o->git_sha1)
    TL_TRY(git_sha1(d->part, found));
  else
    return TL_OK;
  const char *expected = o->sha256 ? o->sha256 : o->git_sha1;
  *right = strcmp(found, expected) == 0;
  if (*right)
    return TL_OK;
  return tl_fail(TL_E_FORMAT, "%s: %s is %s, expected %s; the file was removed", d->url, o->sha256 ? "SHA-256" : "git's SHA-1",
                 found, expected);
}

static tl_status fetch(download *d) {
  bool continued = tl_file_bytes(d->part) > 0, right = true;
  TL_TRY(fill_part(d));
  tl_status s = check_part(d, &right);
  if (!right) {
    remove(d->part);
    if (!continued)
      return s;
    TL_TRY(fill_part(d));
    s = check_part(d, &right);
    if (!right)
      remove(d->part);
  }
  if (s != TL_OK)
    return s;
  return rename(d->part, d->path) == 0 ? TL_OK : tl_fail(TL_E_IO, "%s: cannot rename: %s", d->part, strerror(errno));
}

// ---------------------------------------------------------------- one process at a time

// The lock's descriptor, -1 after a failure. The file is removed by who holds it; who gets a removed one asks again.
static int take_lock(const char *path, const char *label) {
  bool told = false;
  for (;;) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
      (void)tl_fail(TL_E_IO, "%s: cannot write: %s", path, strerror(errno));
      return -1;
    }
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (tl_interrupted() || (errno != EWOULDBLOCK && errno != EINTR)) {
        if (tl_interrupted())
          (void)tl_fail(TL_E_INTERRUPTED, "%s: interrupted", path);
        else
          (void)tl_fail(TL_E_IO, "%s: cannot lock: %s", path, strerror(errno));
        close(fd);
        return -1;
      }
      if (label && !told)
        fprintf(stderr, "%s: waiting for another process that fetches it\n", label);
      told = true;
      usleep(100000);
    }
    struct stat ours, there;
    if (fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino)
      return fd;
    close(fd);
  }
}

tl_status tl_download(const char *url, const char *path, const tl_download_options *options) {
  static const tl_download_options none = {0};
  tl_str part = {0}, lock = {0};
  tl_str_printf(&part, "%s.part", path);
  tl_str_printf(&lock, "%s.lock", path);
  download d = {.url = url, .path = path, .o = options ? options : &none, .part = part.p, .shown_tenth = -1};
  struct stat before, now;
  bool was_there = stat(path, &before) == 0;
  int fd = take_lock(lock.p, d.o->label);
  tl_status s = TL_E_IO;
  if (fd >= 0) {
    // another process may have brought it while this one waited
    bool came = stat(path, &now) == 0 && (!was_there || before.st_ino != now.st_ino);
    s = came ? TL_OK : fetch(&d);
    unlink(lock.p);
    close(fd);
  } else if (tl_interrupted())
    s = TL_E_INTERRUPTED;
  if (d.wrote_line)
    fputc('\n', stderr);
  tl_str_free(&part);
  tl_str_free(&lock);
  return s;
}
