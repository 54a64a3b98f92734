// page_server.c: one page of HTML, served on 127.0.0.1 while its content changes (tlrun report --follow). libmicrohttpd does
// HTTP, in a thread of its own; the page is swapped under a lock.
//
// Who may read it: processes of this machine. A request whose Host is not this machine's own name for itself is refused (403),
// so that a web page whose name was pointed at 127.0.0.1 cannot read the report through the reader's browser. Nothing but GET
// (and HEAD) is answered.
#include "base.h"
#include <arpa/inet.h>
#include <microhttpd.h>
#include <pthread.h>

struct tl_page_server {
  struct MHD_Daemon *daemon;
  pthread_mutex_t lock;
  char *html;
  size_t n;
  unsigned version;
};

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type, const char *text, size_t n) {
  struct MHD_Response *r = MHD_create_response_from_buffer(n, (void *)text, MHD_RESPMEM_MUST_COPY);
  if (!r)
    return MHD_NO;
  MHD_add_response_header(r, "Content-Type", type);
  MHD_add_response_header(r, "Cache-Control", "no-store");
  MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
  enum MHD_Result ok = MHD_queue_response(c, status, r);
  MHD_destroy_response(r);
  return ok;
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *text) {
  return answer(c, status, "text/plain", text, strlen(text));
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *n_data, void **state) {
  tl_page_server *s = context;
  static int begun;
  if (!*state) { // the first call of a request: its headers are there, what follows is not
    *state = &begun;
    return MHD_YES;
  }
  if (*n_data) {
    *n_data = 0;
    return MHD_YES;
  }
  if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
    return refuse(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
  if (!tl_host_is_local(MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host")))
    return refuse(c, MHD_HTTP_FORBIDDEN, "ask for localhost\n");
  enum MHD_Result ok;
  pthread_mutex_lock(&s->lock);
  if (strcmp(url, "/") == 0)
    ok = answer(c, MHD_HTTP_OK, "text/html; charset=utf-8", s->html ? s->html : "", s->n);
  else if (strcmp(url, "/version") == 0) {
    char text[16];
    ok = answer(c, MHD_HTTP_OK, "text/plain", text, (size_t)snprintf(text, sizeof text, "%u", s->version));
  } else
    ok = refuse(c, MHD_HTTP_NOT_FOUND, "there is one page: /\n");
  pthread_mutex_unlock(&s->lock);
  return ok;
}

tl_status tl_page_server_start(int port, tl_page_server **out, int *port_used) {
  *out = NULL;
  tl_page_server *s = calloc(1, sizeof *s);
  if (!s)
    return tl_fail(TL_E_MEMORY, "out of memory");
  pthread_mutex_init(&s->lock, NULL);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  s->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, (uint16_t)port, NULL, NULL, on_request, s, MHD_OPTION_SOCK_ADDR,
                               &at, MHD_OPTION_CONNECTION_TIMEOUT, 10u, MHD_OPTION_CONNECTION_LIMIT, 64u, MHD_OPTION_END);
  if (!s->daemon) {
    tl_page_server_stop(s);
    return tl_fail(TL_E_IO, "cannot serve on 127.0.0.1:%d: is the port taken?", port);
  }
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
  *port_used = info ? info->port : port;
  *out = s;
  return TL_OK;
}

tl_status tl_page_server_set(tl_page_server *s, const char *html, size_t n) {
  char *copy = malloc(n + 1);
  if (!copy)
    return tl_fail(TL_E_MEMORY, "out of memory for a page of %zu bytes", n);
  memcpy(copy, html, n);
  pthread_mutex_lock(&s->lock);
  free(s->html);
  s->html = copy;
  s->n = n;
  s->version++;
  pthread_mutex_unlock(&s->lock);
  return TL_OK;
}

void tl_page_server_stop(tl_page_server *s) {
  if (!s)
    return;
  if (s->daemon)
    MHD_stop_daemon(s->daemon);
  pthread_mutex_destroy(&s->lock);
  free(s->html);
  free(s);
}
