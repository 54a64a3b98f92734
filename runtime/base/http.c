// http.c: downloads through libcurl (http, https, file), and one member out of a zip archive through libzip.
//
// A download goes to PATH.part and gets its name only when it is complete and its checksum is right. What an earlier try left
// in PATH.part is continued with a range request; a server that does not know ranges is asked for the whole again. Cut
// connections, time-outs and 5xx answers are tried again, five times in all, each going on where the one before stopped.
// A wrong checksum after a continued download is given one fresh start (the part may have been of another file); after a fresh
// one the part is removed and the failure says what was found and what was expected.
//
// Proxies come from the environment, as libcurl reads it (https_proxy, no_proxy, ...). Certificates: the system's, or the file
// named by CURL_CA_BUNDLE, SSL_CERT_FILE or PIP_CERT. Time limits: 20 s to connect, 30 s without a byte.
#include "base.h"
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <unistd.h>
#include <zip.h>

enum { TRIES = 5, CONNECT_S = 20, STALL_S = 30 };

static void init_curl(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

static CURL *new_request(const char *url, char *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init_curl);
  CURL *c = curl_easy_init();
  if (!c) return NULL;
  static const char *const bundles[] = {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT"};
  for (size_t i = 0; i < sizeof bundles / sizeof *bundles; i++) {
    const char *file = getenv(bundles[i]);
    if (!file || !tl_file_exists(file)) continue;
    curl_easy_setopt(c, CURLOPT_CAINFO, file);
    break;
  }
  *error = 0;
  curl_easy_setopt(c, CURLOPT_ERRORBUFFER, error);
  curl_easy_setopt(c, CURLOPT_URL, url);
  curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https,file");
  curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(c, CURLOPT_MAXREDIRS, 10L);
  curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
  curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
  curl_easy_setopt(c, CURLOPT_USERAGENT, "tlrun/" TL_VERSION);
  return c;
}

static long response_code(CURL *c) {
  long code = 0;
  curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &code);
  return code;
}

static tl_status request_failed(CURL *c, CURLcode e, const char *url, const char *error) {
  if (e == CURLE_ABORTED_BY_CALLBACK) return tl_fail(TL_E_INTERRUPTED, "%s: interrupted", url);
  if (e == CURLE_HTTP_RETURNED_ERROR) return tl_fail(TL_E_IO, "%s: the server answers HTTP %ld", url, response_code(c));
  return tl_fail(TL_E_IO, "%s: %s", url, *error ? error : curl_easy_strerror(e));
}

// ---- small documents

typedef struct body {
  tl_str text;
  int64_t max;
} body;

static size_t take_body(char *data, size_t size, size_t n, void *user) {
  body *b = user;
  if ((int64_t)(b->text.n + size * n) > b->max) return 0;
  tl_str_add(&b->text, data, size * n);
  return size * n;
}

tl_status tl_http_get(const char *url, const char *accept, int64_t max_bytes, char **out) {
  *out = NULL;
  char error[CURL_ERROR_SIZE];
  CURL *c = new_request(url, error);
  if (!c) return tl_fail(TL_E_MEMORY, "%s: out of memory", url);
  body b = {.max = max_bytes};
  tl_str_add(&b.text, "", 0);
  struct curl_slist *headers = NULL;
  if (accept) {
    tl_str h = {0};
    tl_str_printf(&h, "Accept: %s", accept);
    headers = curl_slist_append(NULL, h.p);
    tl_str_free(&h);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
  }
  curl_easy_setopt(c, CURLOPT_ACCEPT_ENCODING, "");
  curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_body);
  curl_easy_setopt(c, CURLOPT_WRITEDATA, &b);
  CURLcode e = curl_easy_perform(c);
  tl_status s = TL_OK;
  if (e == CURLE_WRITE_ERROR) s = tl_fail(TL_E_FORMAT, "%s: longer than %lld bytes", url, (long long)max_bytes);
  else if (e != CURLE_OK) s = request_failed(c, e, url, error);
  curl_slist_free_all(headers);
  curl_easy_cleanup(c);
  if (s == TL_OK) *out = b.text.p;
  else tl_str_free(&b.text);
  return s;
}

// ---- downloads

typedef struct download {
  const char *url, *path, *sha256, *label;
  char *part;
  FILE *file;
  int64_t start;            // bytes that were there before this try
  int write_errno;
  double shown_s;           // when progress was last shown
  int shown_tenth;          // for plain lines
  double began_s;
  bool wrote_line;
} download;

static size_t write_part(char *data, size_t size, size_t n, void *user) {
  download *d = user;
  size_t wrote = fwrite(data, 1, size * n, d->file);
  if (wrote != size * n) d->write_errno = errno ? errno : ENOSPC;
  return wrote;
}

static void show(download *d, int64_t have, int64_t total, bool last) {
  if (!d->label || total <= 0) return;
  double now = tl_seconds(), mib = 1024.0 * 1024.0;
  double rate = (double)(have - d->start) / mib / (now - d->began_s + 1e-9);
  int tenth = (int)(10 * have / total);
  bool terminal = isatty(STDERR_FILENO);
  if (terminal ? !last && now - d->shown_s < 0.2 : tenth == d->shown_tenth) return;
  d->shown_s = now;
  d->shown_tenth = tenth;
  fprintf(stderr, "%s%s: %.1f of %.1f MiB (%d%%), %.1f MiB/s%s", terminal ? "\r" : "", d->label, (double)have / mib,
          (double)total / mib, (int)(100 * have / total), rate, terminal ? "\033[K" : "\n");
  d->wrote_line = terminal;
}

static int on_progress(void *user, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now) {
  (void)up_total, (void)up_now;
  download *d = user;
  if (total > 0 && now > 0) show(d, d->start + now, d->start + total, now == total);
  return tl_interrupted();
}

static bool worth_another_try(CURLcode e, long code) {
  switch (e) {
  case CURLE_PARTIAL_FILE: case CURLE_RECV_ERROR: case CURLE_SEND_ERROR: case CURLE_OPERATION_TIMEDOUT: case CURLE_GOT_NOTHING:
  case CURLE_COULDNT_CONNECT: case CURLE_HTTP2: case CURLE_HTTP2_STREAM:
    return true;
  case CURLE_HTTP_RETURNED_ERROR: return code >= 500 || code == 429;
  default: return false;
  }
}

// One request. *again: what failed may pass, or the server wants no range (the part is emptied then).
static tl_status try_once(download *d, bool *again) {
  *again = false;
  char error[CURL_ERROR_SIZE];
  CURL *c = new_request(d->url, error);
  if (!c) return tl_fail(TL_E_MEMORY, "%s: out of memory", d->url);
  d->file = fopen(d->part, "abe");
  if (!d->file) {
    curl_easy_cleanup(c);
    return tl_fail(TL_E_IO, "%s: cannot write: %s", d->part, strerror(errno));
  }
  d->start = tl_file_bytes(d->part);
  d->write_errno = 0;
  d->began_s = tl_seconds();
  curl_easy_setopt(c, CURLOPT_RESUME_FROM_LARGE, (curl_off_t)d->start);
  curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, write_part);
  curl_easy_setopt(c, CURLOPT_WRITEDATA, d);
  curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(c, CURLOPT_XFERINFODATA, d);
  CURLcode e = curl_easy_perform(c);
  long code = response_code(c);
  if (fclose(d->file) != 0 && !d->write_errno) d->write_errno = errno;
  tl_status s = TL_OK;
  bool no_range = d->start > 0 && (e == CURLE_RANGE_ERROR || e == CURLE_BAD_DOWNLOAD_RESUME || code == 416);
  if (d->write_errno) s = tl_fail(TL_E_IO, "%s: cannot write: %s", d->part, strerror(d->write_errno));
  else if (no_range && code == 416 && d->sha256) s = TL_OK;  // nothing after the part: it may be the whole
  else if (no_range) {
    s = tl_fail(TL_E_IO, "%s: the server cannot continue a download", d->url);
    *again = remove(d->part) == 0;
  } else if (e != CURLE_OK) {
    s = request_failed(c, e, d->url, error);
    *again = worth_another_try(e, code);
  }
  curl_easy_cleanup(c);
  return s;
}

static void pause_before_try(int n) {
  for (int ms = 0; ms < 250 << n && !tl_interrupted(); ms += 50) usleep(50000);
}

// The whole into the part, over several requests.
static tl_status fill_part(download *d) {
  for (int n = 0;; n++) {
    bool again;
    tl_status s = try_once(d, &again);
    if (s == TL_OK || !again || n + 1 >= TRIES) return s;
    if (tl_interrupted()) return tl_fail(TL_E_INTERRUPTED, "%s: interrupted", d->url);
    pause_before_try(n);
  }
}

static tl_status check_sum(const download *d, bool *same) {
  char found[65];
  *same = true;
  if (!d->sha256) return TL_OK;
  TL_TRY(tl_sha256_file(d->part, found));
  *same = strcmp(found, d->sha256) == 0;
  return *same ? TL_OK : tl_fail(TL_E_FORMAT, "%s: SHA-256 is %s, expected %s; the file was removed", d->url, found, d->sha256);
}

static tl_status fetch(download *d) {
  bool continued = tl_file_bytes(d->part) > 0, same = false;
  TL_TRY(fill_part(d));
  tl_status s = check_sum(d, &same);
  if (s != TL_OK && !same) {
    remove(d->part);
    if (!continued) return s;
    TL_TRY(fill_part(d));
    s = check_sum(d, &same);
    if (s != TL_OK && !same) remove(d->part);
  }
  if (s != TL_OK) return s;
  return rename(d->part, d->path) == 0 ? TL_OK : tl_fail(TL_E_IO, "%s: cannot rename: %s", d->part, strerror(errno));
}

tl_status tl_download(const char *url, const char *path, const char *sha256, const char *label) {
  tl_str part = {0};
  tl_str_printf(&part, "%s.part", path);
  download d = {.url = url, .path = path, .sha256 = sha256, .label = label, .part = part.p, .shown_tenth = -1};
  tl_status s = fetch(&d);
  if (d.wrote_line) fputc('\n', stderr);
  tl_str_free(&part);
  return s;
}

// ---- zip

static zip_int64_t find_member(zip_t *z, const char *ending) {
  zip_int64_t exact = zip_name_locate(z, ending, 0);
  if (exact >= 0) return exact;
  zip_int64_t n = zip_get_num_entries(z, 0);
  for (zip_int64_t i = 0; i < n; i++) {
    const char *name = zip_get_name(z, (zip_uint64_t)i, 0);
    size_t a = name ? strlen(name) : 0, b = strlen(ending);
    if (a >= b && strcmp(name + a - b, ending) == 0) return i;
  }
  return -1;
}

static tl_status copy_member(zip_file_t *from, const char *archive, tl_out *to) {
  char *buffer = malloc(1 << 20);
  if (!buffer) return tl_fail(TL_E_MEMORY, "%s: out of memory", archive);
  tl_status s = TL_OK;
  zip_int64_t got = 0;
  while (s == TL_OK && (got = zip_fread(from, buffer, 1 << 20)) > 0)
    s = tl_interrupted() ? tl_fail(TL_E_INTERRUPTED, "%s: interrupted", archive) : tl_out_write(to, buffer, (size_t)got);
  if (s == TL_OK && got < 0) s = tl_fail(TL_E_FORMAT, "%s: %s", archive, zip_file_strerror(from));
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
  tl_status s = from ? tl_out_open(&to, path)
                     : tl_fail(TL_E_FORMAT, "%s: has no readable member '%s'", archive, name_ending);
  if (s == TL_OK) {
    s = copy_member(from, archive, &to);
    if (s == TL_OK) s = tl_out_commit(&to);
    else tl_out_abort(&to);
  }
  if (from) zip_fclose(from);
  zip_discard(z);
  return s;
}
