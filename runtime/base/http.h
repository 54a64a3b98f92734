// http.h: what http.c and download.c share: a request, its failure in words, and when to ask again.
#ifndef TL_BASE_HTTP_H
#define TL_BASE_HTTP_H
#include "base.h"
#include <curl/curl.h>

typedef struct tl_http {
  CURL *curl;
  const char *url;
  struct curl_slist *headers;
  char error[CURL_ERROR_SIZE]; // curl's own words
  char reason[240];            // the server's (X-Error-Message), or ""
} tl_http;

enum { TL_HTTP_TRIES = 5, TL_HTTP_MAX_WAIT_S = 120 };

// accept, token: NULL or the Accept header and a bearer token, which goes to url's own host only. Close also after a failure.
tl_status tl_http_open(tl_http *h, const char *url, const char *accept, const char *token);
void tl_http_close(tl_http *h);
// What went wrong with a request that ended with e. The server's status is in the message as "HTTP 404".
tl_status tl_http_failed(tl_http *h, CURLcode e);
// Whether a request that ended with e may succeed when it is made again; waits before try n + 1 (n from 0), as long as the
// server asks (Retry-After, at most TL_HTTP_MAX_WAIT_S) or 0.25 s, doubled each time. An interruption ends the wait.
bool tl_http_again(tl_http *h, CURLcode e, int n);
#endif
