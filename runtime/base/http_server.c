// http_server.c: HTTP for a program that computes in one thread (tlrun serve). libmicrohttpd speaks the protocol in a thread of its own; a
// request whose body is whole waits in a queue until the program takes it, and its connection sleeps until there is something to send.
//
// An exchange (a request and its answer) belongs to both sides: the program's, from tl_http_server_take to tl_http_server_answer or
// tl_http_server_end, and libmicrohttpd's, until the connection has done with it. The last one frees it. One lock guards all of it;
// libmicrohttpd's callbacks and the program's calls hold it for the time of a copy.
//
// Who may ask: where the address is the machine's own (127.0.0.1), a request whose Host is another name is refused, so that a web page
// whose name was pointed at it cannot use the server through a reader's browser. With a key, all but /health want it as a bearer token.
// Pages of other origins may read answers only where an origin is allowed (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).
#include "base.h"
#include <arpa/inet.h>
#include <microhttpd.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>

typedef struct exchange {
  tl_http_server *server;
  struct MHD_Connection *connection;  // NULL: it is gone
  int64_t id;
  char *method, *path;
  tl_str body, out;                    // out: what was pushed; the first `sent` bytes of it are on their way
  size_t sent;
  bool whole, held, asleep;            // the body has come; the program has it; the connection waits
  bool takes_interim, asked;           // answers may be preceded by 1xx (HTTP/1.1); a client that sends no more was asked if it is there
  bool answered, streams, ended, cut;  // the status is known; what follows comes in parts; the last part has been pushed; it never will be
  unsigned status;
  char type[64], allow[16];
  struct exchange *next;
} exchange;

struct tl_http_server {
  struct MHD_Daemon *daemon;
  pthread_mutex_t lock;
  pthread_cond_t come;
  exchange *first;                    // all of them, the newest first
  int64_t next_id;
  int waiting;                        // whole requests that nobody took
  bool local, stopping;
  tl_str taken;        // the body of the request that was taken last
  char *key, *origin;  // NULL: none
  size_t most_body;
  int most_waiting;
};

enum { MOST_UNSENT = 64 << 20 };  // bytes of an answer in parts that its client has not taken

static void drop(tl_http_server *s, exchange *e) {
  if (e->connection || e->held) return;
  exchange **link = &s->first;
  while (*link != e) link = &(*link)->next;
  *link = e->next;
  free(e->method);
  free(e->path);
  tl_str_free(&e->body);
  tl_str_free(&e->out);
  free(e);
}

static void wake(exchange *e) {
  if (!e->asleep || !e->connection) return;
  e->asleep = false;
  MHD_resume_connection(e->connection);
}

static void sleep_until_woken(exchange *e) {
  e->asleep = true;
  MHD_suspend_connection(e->connection);
}

// A browser asks before it sends a page's request with a key or JSON, and without the key.
static bool is_preflight(const tl_http_server *s, const exchange *e) { return s->origin && !strcmp(e->method, MHD_HTTP_METHOD_OPTIONS); }

static enum MHD_Result queue_response(exchange *e, unsigned status, const char *type, struct MHD_Response *r) {
  if (!r) return MHD_NO;
  MHD_add_response_header(r, "Content-Type", type);
  MHD_add_response_header(r, "Cache-Control", "no-store");
  MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
  if (status == MHD_HTTP_UNAUTHORIZED) MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
  if (e->allow[0]) MHD_add_response_header(r, "Allow", e->allow);
  if (e->server->origin) MHD_add_response_header(r, "Access-Control-Allow-Origin", e->server->origin);
  if (e->streams) MHD_add_response_header(r, "X-Accel-Buffering", "no");  // nginx would hold parts back
  if (is_preflight(e->server, e)) {
    const char *headers = MHD_lookup_connection_value(e->connection, MHD_HEADER_KIND, "Access-Control-Request-Headers");
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST");
    if (headers) MHD_add_response_header(r, "Access-Control-Allow-Headers", headers);
  }
  enum MHD_Result ok = MHD_queue_response(e->connection, status, r);
  MHD_destroy_response(r);
  return ok;
}

static enum MHD_Result refuse(exchange *e, unsigned status, const char *message) {
  char text[256];
  int n = snprintf(text, sizeof text, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":%u}}", message,
                   status >= 500 ? "server_error" : "invalid_request_error", status);
  e->answered = true;
  return queue_response(e, status, "application/json", MHD_create_response_from_buffer((size_t)n, text, MHD_RESPMEM_MUST_COPY));
}

bool tl_host_is_local(const char *host) {
  char name[INET_ADDRSTRLEN];
  struct in_addr a;
  if (!host || strcspn(host, ":") >= sizeof name) return false;
  snprintf(name, sizeof name, "%.*s", (int)strcspn(host, ":"), host);
  return !strcasecmp(name, "localhost") || (inet_pton(AF_INET, name, &a) == 1 && ntohl(a.s_addr) >> 24 == 127);
}

// The time of the comparison does not tell how much of the key was right.
static bool has_key(const tl_http_server *s, const char *authorization) {
  static const char bearer[] = "Bearer ";
  if (!s->key) return true;
  if (!authorization || strncasecmp(authorization, bearer, sizeof bearer - 1)) return false;
  const char *given = authorization + sizeof bearer - 1;
  size_t n = strlen(s->key);
  return strlen(given) == n && !CRYPTO_memcmp(given, s->key, n);
}

// The parts of an answer that streams, as they come.
static ssize_t next_part(void *context, uint64_t at, char *buffer, size_t room) {
  exchange *e = context;
  tl_http_server *s = e->server;
  pthread_mutex_lock(&s->lock);
  size_t left = e->out.n - e->sent;
  ssize_t n = (ssize_t)(left < room ? left : room);
  if (n) {
    memcpy(buffer, e->out.p + e->sent, (size_t)n);
    e->sent += (size_t)n;
    if (e->sent >= e->out.n / 2) {  // not after every part: that would be quadratic
      memmove(e->out.p, e->out.p + e->sent, e->out.n -= e->sent);
      e->sent = 0;
    }
  } else if (e->cut) n = MHD_CONTENT_READER_END_WITH_ERROR;
  else if (e->ended) n = MHD_CONTENT_READER_END_OF_STREAM;
  else if (s->stopping) n = MHD_CONTENT_READER_END_WITH_ERROR;  // half of an answer does not pass for one
  else sleep_until_woken(e);
  pthread_mutex_unlock(&s->lock);
  return n;
}

static enum MHD_Result send_answer(exchange *e) {
  if (e->streams)
    return queue_response(e, e->status, e->type, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, next_part, e, NULL));
  return queue_response(e, e->status, e->type, MHD_create_response_from_buffer(e->out.n, e->out.p ? e->out.p : "", MHD_RESPMEM_MUST_COPY));
}

static exchange *begin(tl_http_server *s, struct MHD_Connection *c, const char *url, const char *method, const char *version) {
  exchange *e = calloc(1, sizeof *e);
  char *m = strdup(method), *p = strdup(url);
  if (!e || !m || !p) {
    free(e), free(m), free(p);
    return NULL;
  }
  *e = (exchange){.server = s,
                  .connection = c,
                  .id = ++s->next_id,
                  .method = m,
                  .path = p,
                  .takes_interim = !strcmp(version, MHD_HTTP_VERSION_1_1),
                  .next = s->first};
  return s->first = e;
}

// what a request's headers are answered with, before anything of its body is taken, most often a refusal: a status, or 0
static int answered_by_headers(const tl_http_server *s, const exchange *e, struct MHD_Connection *c) {
  if (s->local && !tl_host_is_local(MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host"))) return MHD_HTTP_FORBIDDEN;
  if (is_preflight(s, e)) return MHD_HTTP_NO_CONTENT;
  if (strcmp(e->path, "/health") && !has_key(s, MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization"))) return MHD_HTTP_UNAUTHORIZED;
  const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
  return length && strtoull(length, NULL, 10) > s->most_body ? MHD_HTTP_CONTENT_TOO_LARGE : 0;
}

static enum MHD_Result answer_by_headers(exchange *e) {
  if (e->status == MHD_HTTP_NO_CONTENT) {
    e->answered = true;
    return queue_response(e, e->status, "text/plain", MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT));
  }
  const char *why = e->status == MHD_HTTP_FORBIDDEN      ? "this server answers as localhost or 127.x.x.x only"
                    : e->status == MHD_HTTP_UNAUTHORIZED ? "the key is missing or wrong: Authorization: Bearer KEY"
                                                         : "the body is too large";
  return refuse(e, e->status, why);
}

static enum MHD_Result proceed(tl_http_server *s, exchange *e, struct MHD_Connection *c, const char *data, size_t *n_data) {
  if (*n_data) {
    size_t n = *n_data;
    *n_data = 0;
    if (e->status) return MHD_YES;  // its answer is known: its body is read and dropped
    if (e->body.n + n <= s->most_body) tl_str_add(&e->body, data, n);
    else e->status = MHD_HTTP_CONTENT_TOO_LARGE;
    if (e->status) tl_str_free(&e->body);
    return MHD_YES;
  }
  if (e->answered) return send_answer(e);
  if (s->stopping) return refuse(e, MHD_HTTP_SERVICE_UNAVAILABLE, "the server is stopping");
  if (!e->whole) {
    if (e->status) return answer_by_headers(e);
    if (s->waiting >= s->most_waiting) return refuse(e, MHD_HTTP_SERVICE_UNAVAILABLE, "too many requests are waiting");
    e->whole = true;
    s->waiting++;
    pthread_cond_signal(&s->come);
  }
  sleep_until_woken(e);
  return MHD_YES;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *c, const char *url, const char *method, const char *version,
                                  const char *data, size_t *n_data, void **state) {
  tl_http_server *s = context;
  pthread_mutex_lock(&s->lock);
  enum MHD_Result ok = MHD_YES;
  if (*state) {
    ok = proceed(s, *state, c, data, n_data);
  } else {  // the first call of a request: its headers are there
    exchange *e = *state = begin(s, c, url, method, version);
    if (e) e->status = (unsigned)answered_by_headers(s, e, c);
    ok = !e ? MHD_NO : e->status && MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Expect") ? answer_by_headers(e) : MHD_YES;
  }
  pthread_mutex_unlock(&s->lock);
  return ok;
}

static void on_completed(void *context, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why) {
  tl_http_server *s = context;
  exchange *e = *state;
  if (!e) return;
  pthread_mutex_lock(&s->lock);
  e->connection = NULL;
  if (e->whole && !e->held && !e->answered) s->waiting--;
  *state = NULL;
  drop(s, e);
  if (s->stopping) pthread_cond_signal(&s->come);
  pthread_mutex_unlock(&s->lock);
}

// How many connections there may be: what the system lets this process open (often 1024 until it asks for more), but for some files that the
// program opens meanwhile. Those beyond wait in the kernel until others end.
static unsigned most_connections(void) {
  enum { MOST = 4096, FILES = 64 };
  struct rlimit r;
  if (getrlimit(RLIMIT_NOFILE, &r)) return MOST / 8;
  if (r.rlim_cur < MOST + FILES && r.rlim_cur < r.rlim_max) {
    struct rlimit more = {.rlim_cur = r.rlim_max < MOST + FILES ? r.rlim_max : MOST + FILES, .rlim_max = r.rlim_max};
    if (!setrlimit(RLIMIT_NOFILE, &more)) r = more;
  }
  return r.rlim_cur >= MOST + FILES ? MOST : r.rlim_cur > FILES + FILES ? (unsigned)r.rlim_cur - FILES : FILES;
}

tl_status tl_http_server_start(const char *host, int port, const tl_http_server_options *o, tl_http_server **out, int *port_used) {
  *out = NULL;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1", &at.sin_addr) != 1)
    return tl_fail(TL_E_ARG, "'%s' is not an IPv4 address of this machine (127.0.0.1: itself alone; 0.0.0.0: all)", host);
  tl_http_server *s = calloc(1, sizeof *s);
  if (!s) return tl_fail(TL_E_MEMORY, "out of memory");
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->come, NULL);
  s->local = (ntohl(at.sin_addr.s_addr) >> 24) == 127;
  s->key = o && o->key && *o->key ? strdup(o->key) : NULL;
  s->origin = o && o->origin && *o->origin ? strdup(o->origin) : NULL;
  s->most_body = o && o->most_body > 0 ? (size_t)o->most_body : (size_t)16 << 20;
  s->most_waiting = o && o->most_waiting > 0 ? o->most_waiting : 1024;
  s->daemon = MHD_start_daemon(MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_ALLOW_SUSPEND_RESUME, (uint16_t)port, NULL, NULL,
                               on_request, s, MHD_OPTION_SOCK_ADDR, &at, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
                               MHD_OPTION_CONNECTION_TIMEOUT, 60u, MHD_OPTION_CONNECTION_LIMIT, most_connections(), MHD_OPTION_END);
  if (!s->daemon) {
    tl_http_server_stop(s);
    return tl_fail(TL_E_IO, "cannot serve on %s:%d: is the port taken?", host, port);
  }
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
  *port_used = info ? info->port : port;
  *out = s;
  return TL_OK;
}

static struct timespec in_seconds(double seconds) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  int64_t ns = t.tv_nsec + (int64_t)(seconds * 1e9);
  return (struct timespec){.tv_sec = t.tv_sec + ns / 1000000000, .tv_nsec = ns % 1000000000};
}

bool tl_http_server_take(tl_http_server *s, double seconds, tl_http_request *out) {
  struct timespec until = in_seconds(seconds);
  pthread_mutex_lock(&s->lock);
  while (!s->waiting && seconds > 0 && pthread_cond_timedwait(&s->come, &s->lock, &until) == 0) {}
  exchange *oldest = NULL;
  for (exchange *e = s->waiting ? s->first : NULL; e; e = e->next)
    if (e->whole && !e->held && !e->answered && e->connection) oldest = e;
  if (oldest) {
    oldest->held = true;
    s->waiting--;
    tl_str_free(&s->taken);
    s->taken = oldest->body, oldest->body = (tl_str){0};
    *out = (tl_http_request){
        .id = oldest->id, .method = oldest->method, .path = oldest->path, .body = s->taken.p ? s->taken.p : "", .n_body = s->taken.n};
  }
  pthread_mutex_unlock(&s->lock);
  return oldest != NULL;
}

// The exchange that the program holds; the lock is held.
static exchange *held(tl_http_server *s, int64_t id) {
  for (exchange *e = s->first; e; e = e->next)
    if (e->id == id && e->held) return e;
  return NULL;
}

static void begin_answer(exchange *e, int status, const char *type) {
  e->answered = true;
  e->status = (unsigned)status;
  snprintf(e->type, sizeof e->type, "%s", type);
}

void tl_http_server_answer(tl_http_server *s, int64_t id, int status, const char *type, const char *allow, const char *body, size_t n) {
  pthread_mutex_lock(&s->lock);
  exchange *e = held(s, id);
  if (e) {
    if (e->connection) {
      tl_str_add(&e->out, body, n);
      if (allow) snprintf(e->allow, sizeof e->allow, "%s", allow);
      begin_answer(e, status, type);
    }
    e->held = false;
    wake(e);
    drop(s, e);
  }
  pthread_mutex_unlock(&s->lock);
}

bool tl_http_server_push(tl_http_server *s, int64_t id, const char *type, const char *data, size_t n) {
  pthread_mutex_lock(&s->lock);
  exchange *e = held(s, id);
  bool there = e && e->connection && !e->cut;
  if (there && e->out.n - e->sent > MOST_UNSENT) {
    tl_str_free(&e->out);
    e->sent = 0, e->cut = true, there = false;
    wake(e);
  } else if (there) {
    if (!e->answered) begin_answer(e, MHD_HTTP_OK, type), e->streams = true;
    tl_str_add(&e->out, data, n);
    wake(e);
  }
  pthread_mutex_unlock(&s->lock);
  return there;
}

void tl_http_server_end(tl_http_server *s, int64_t id) {
  pthread_mutex_lock(&s->lock);
  exchange *e = held(s, id);
  if (e) {
    if (!e->answered) begin_answer(e, MHD_HTTP_SERVICE_UNAVAILABLE, "text/plain");  // nobody reads it, or nothing was said
    e->ended = true, e->held = false;
    wake(e);
    drop(s, e);
  }
  pthread_mutex_unlock(&s->lock);
}

// A client that has ended its sending looks the same whether it waits for the answer (shutdown) or has left (close). What is written to it
// tells: a system whose program has left answers with a reset. A line that every client passes over is enough for that.
static void ask_if_there(exchange *e, int fd) {
  static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n", comment[] = ":\n\n";
  e->asked = true;
  if (e->streams) tl_str_add(&e->out, comment, sizeof comment - 1), wake(e);
  else if (!e->answered && e->takes_interim) (void)!send(fd, interim, sizeof interim - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// A connection that sleeps is not watched by libmicrohttpd, so its socket is looked at here.
bool tl_http_server_gone(tl_http_server *s, int64_t id) {
  pthread_mutex_lock(&s->lock);
  exchange *e = held(s, id);
  bool gone = !e || !e->connection;
  const union MHD_ConnectionInfo *info =
      gone || !e->asleep ? NULL : MHD_get_connection_info(e->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  if (info) {
    struct pollfd p = {.fd = info->connect_fd, .events = POLLRDHUP};
    if (poll(&p, 1, 0) > 0) {
      gone = p.revents & (POLLERR | POLLHUP | POLLNVAL);
      if (!gone && !e->asked) ask_if_there(e, info->connect_fd);
    }
  }
  pthread_mutex_unlock(&s->lock);
  return gone;
}

static bool has_something_to_send(const tl_http_server *s) {
  for (const exchange *e = s->first; e; e = e->next)
    if (e->connection && e->whole) return true;
  return false;
}

void tl_http_server_stop(tl_http_server *s) {
  if (!s) return;
  struct timespec until = in_seconds(1);
  pthread_mutex_lock(&s->lock);
  s->stopping = true;
  for (exchange *e = s->first; e; e = e->next) wake(e);
  while (has_something_to_send(s) && pthread_cond_timedwait(&s->come, &s->lock, &until) == 0) {
  }
  pthread_mutex_unlock(&s->lock);
  if (s->daemon) MHD_stop_daemon(s->daemon);
  while (s->first) {
    s->first->held = false, s->first->connection = NULL;
    drop(s, s->first);
  }
  pthread_cond_destroy(&s->come);
  pthread_mutex_destroy(&s->lock);
  tl_str_free(&s->taken);
  free(s->key), free(s->origin);
  free(s);
}
