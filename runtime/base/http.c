// http.c: requests through libcurl (http, https, file), and small documents into memory.
//
// Cut connections, time-outs, 429 and 5xx answers are tried again, five times in all, after as long as the server asks or a
// pause that doubles. Redirects are followed (ten at most); a token is sent to the first host only. Proxies come from the
// environment, as libcurl reads it (https_proxy, no_proxy, ...). Certificates: the system's, or the file named by
// CURL_CA_BUNDLE, SSL_CERT_FILE or PIP_CERT. Time limits: 20 s to connect, 30 s without a byte.
#include "http.h"
#include <pthread.h>
#include <strings.h>
#include <unistd.h>

enum { CONNECT_S = 20, STALL_S = 30 };

static void init_curl(void) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
}

// The server's own words about a failure, as the model hub gives them.
static size_t take_header(char *line, size_t size, size_t n, void *user) {
  tl_http *h = user;
  static const char name[] = "x-error-message:";
  size_t bytes = size * n, skip = sizeof name - 1;
  if (bytes > 5 && memcmp(line, "HTTP/", 5) == 0)
    *h->reason = 0; // another answer begins
  if (bytes <= skip || strncasecmp(line, name, skip) != 0)
    return bytes;
  size_t end = bytes, to = 0;
  while (skip < end && line[skip] == ' ')
    skip++;
  while (end > skip && (unsigned char)line[end - 1] <= ' ')
    end--;
  for (; skip < end && to < sizeof h->reason - 1; skip++)
    if ((unsigned char)line[skip] >= ' ')
      h->reason[to++] = line[skip];
  h->reason[to] = 0;
  return bytes;
}

static void add_header(tl_http *h, const char *before, const char *value) {
  tl_str s = {0};
  tl_str_printf(&s, "%s%s", before, value);
  struct curl_slist *more = curl_slist_append(h->headers, s.p);
  if (more)
    h->headers = more;
  tl_str_free(&s);
}

tl_status tl_http_open(tl_http *h, const char *url, const char *accept, const char *token) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init_curl);
  *h = (tl_http){.curl = curl_easy_init(), .url = url};
  CURL *c = h->curl;
  if (!c)
    return tl_fail(TL_E_MEMORY, "%s: out of memory", url);
  static const char *const bundles[] = {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT"};
  for (size_t i = 0; i < sizeof bundles / sizeof *bundles; i++) {
    const char *file = getenv(bundles[i]);
    if (!file || !tl_file_exists(file))
      continue;
    curl_easy_setopt(c, CURLOPT_CAINFO, file);
    break;
  }
  if (accept)
    add_header(h, "Accept: ", accept);
  if (token)
    add_header(h, "Authorization: Bearer ", token);
  if (h->headers)
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, h->headers);
  curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, take_header);
  curl_easy_setopt(c, CURLOPT_HEADERDATA, h);
  curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->error);
  curl_easy_setopt(c, CURLOPT_URL, url);
#if LIBCURL_VERSION_NUM >= 0x075500 // 7.85
  curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https,file");
  curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
#else // Ubuntu 22.04
  curl_easy_setopt(c, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS | CURLPROTO_FILE);
  curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
  curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(c, CURLOPT_MAXREDIRS, 10L);
  curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
  curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
  curl_easy_setopt(c, CURLOPT_USERAGENT, "tlrun/" TL_VERSION);
  return TL_OK;
}

void tl_http_close(tl_http *h) {
  curl_slist_free_all(h->headers);
  if (h->curl)
    curl_easy_cleanup(h->curl);
  *h = (tl_http){0};
}

static long response_code(CURL *c) {
  long code = 0;
  curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &code);
  return code;
}

// The seconds that the server asks to wait, 0 when it does not say.
static int64_t retry_after_s(CURL *c) {
  curl_off_t s = 0;
  curl_easy_getinfo(c, CURLINFO_RETRY_AFTER, &s);
  return s > 0 ? (int64_t)s : 0;
}

tl_status tl_http_failed(tl_http *h, CURLcode e) {
  if (e == CURLE_ABORTED_BY_CALLBACK)
    return tl_fail(TL_E_INTERRUPTED, "%s: interrupted", h->url);
  if (e != CURLE_HTTP_RETURNED_ERROR)
    return tl_fail(TL_E_IO, "%s: %s", h->url, *h->error ? h->error : curl_easy_strerror(e));
  long code = response_code(h->curl);
  int64_t wait_s = retry_after_s(h->curl);
  if (wait_s > TL_HTTP_MAX_WAIT_S)
    return tl_fail(TL_E_IO, "%s: the server answers HTTP %ld and asks to wait %lld s; try again then", h->url, code,
                   (long long)wait_s);
  return tl_fail(TL_E_IO, "%s: the server answers HTTP %ld%s%s", h->url, code, *h->reason ? ": " : "", h->reason);
}

static bool may_pass(CURLcode e, long code) {
  switch (e) {
  case CURLE_PARTIAL_FILE:
  case CURLE_RECV_ERROR:
  case CURLE_SEND_ERROR:
  case CURLE_OPERATION_TIMEDOUT:
  case CURLE_GOT_NOTHING:
  case CURLE_COULDNT_CONNECT:
  case CURLE_HTTP2:
  case CURLE_HTTP2_STREAM:
    return true;
  case CURLE_HTTP_RETURNED_ERROR:
    return code >= 500 || code == 429 || code == 408;
  default:
    return false;
  }
}

bool tl_http_again(tl_http *h, CURLcode e, int n) {
  int64_t asked_s = retry_after_s(h->curl);
  if (n + 1 >= TL_HTTP_TRIES || !may_pass(e, response_code(h->curl)) || asked_s > TL_HTTP_MAX_WAIT_S)
    return false;
  int64_t wait_ms = asked_s > 0 ? 1000 * asked_s : 250LL << n;
  for (int64_t ms = 0; ms < wait_ms && !tl_interrupted(); ms += 50)
    usleep(50000);
  return !tl_interrupted();
}

// ---- small documents

typedef struct body {
  tl_str text;
  int64_t max;
} body;

static size_t take_body(char *data, size_t size, size_t n, void *user) {
  body *b = user;
  if ((int64_t)(b->text.n + size * n) > b->max)
    return 0;
  tl_str_add(&b->text, data, size * n);
  return size * n;
}

static int on_progress(void *user, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now) {
  (void)user, (void)total, (void)now, (void)up_total, (void)up_now;
  return tl_interrupted();
}

// One request into an empty body. *again: it may be made again.
static tl_status get_once(const char *url, const char *accept, const char *token, body *b, int n, bool *again) {
  tl_http h;
  *again = false;
  b->text.n = 0;
  tl_str_add(&b->text, "", 0);
  tl_status s = tl_http_open(&h, url, accept, token);
  if (s == TL_OK) {
    curl_easy_setopt(h.curl, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(h.curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(h.curl, CURLOPT_WRITEDATA, b);
    curl_easy_setopt(h.curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h.curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    CURLcode e = curl_easy_perform(h.curl);
    if (e == CURLE_WRITE_ERROR)
      s = tl_fail(TL_E_FORMAT, "%s: longer than %lld bytes", url, (long long)b->max);
    else if (e != CURLE_OK) {
      s = tl_http_failed(&h, e);
      *again = tl_http_again(&h, e, n);
    }
  }
  tl_http_close(&h);
  return s;
}

tl_status tl_http_get(const char *url, const char *accept, const char *token, int64_t max_bytes, char **out) {
  *out = NULL;
  body b = {.max = max_bytes};
  tl_status s;
  bool again;
  for (int n = 0;; n++) {
    s = get_once(url, accept, token, &b, n, &again);
    if (s == TL_OK || !again)
      break;
  }
  if (s == TL_OK)
    *out = b.text.p;
  else
    tl_str_free(&b.text);
  return s;
}
