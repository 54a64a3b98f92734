// ranges.c: lists of whole numbers as short text, for the tying maps and layer lists of artifact.h. 210 modules in one group
// are "0*210", seven kinds over thirty layers "0-6*30" (the run of seven, thirty times); a list without any pattern is its
// numbers with commas.
//
//   list  = item {"," item}        item = unit ["*" count]        unit = number | number "-" number | "(" list ")"
//
// Writing is greedy: at each place the block that repeats over the longest stretch, then the longest rising run. Reading
// accepts any list of the grammar and checks every number and the count as it goes, so that a short text cannot ask for more
// than is wanted.
#include "artifact.h"

enum { max_depth = 8 };

// ---------------------------------------------------------------- writing
// how often x (n) begins with its first p numbers, one time after another
static int repeats(const int32_t *x, int n, int p) {
  int k = p;
  while (k < n && x[k] == x[k - p]) k++;
  return k / p;
}

static int rising(const int32_t *x, int n) {
  int k = 1;
  while (k < n && x[k] == x[k - 1] + 1) k++;
  return k;
}

static void write_unit(tl_str *s, const int32_t *x, int n) {
  if (n == 1) tl_str_printf(s, "%d", x[0]);
  else if (n > 2 && rising(x, n) == n) tl_str_printf(s, "%d-%d", x[0], x[n - 1]);
  else {
    tl_str_printf(s, "(");
    tl_ranges_write(s, x, n);
    tl_str_printf(s, ")");
  }
}

void tl_ranges_write(tl_str *s, const int32_t *x, int n) {
  for (int i = 0; i < n;) {
    int best = 0, times = 1, run = rising(x + i, n - i);
    for (int p = 1; p <= (n - i) / 2; p++) {
      int k = repeats(x + i, n - i, p);
      if (k > 1 && p * k > best * times) best = p, times = k;
    }
    if (i) tl_str_printf(s, ",");
    if (best && best * times >= run) {
      write_unit(s, x + i, best);
      tl_str_printf(s, "*%d", times);
      i += best * times;
    } else {
      if (run < 3) run = 1;
      write_unit(s, x + i, run);
      i += run;
    }
  }
}

// ---------------------------------------------------------------- reading
typedef struct {
  const char *p;
  int32_t *x;
  int n, room, limit, depth;
} reader;

static bool number(reader *r, int *out) {
  long v = 0;
  if (*r->p < '0' || *r->p > '9') return false;
  while (*r->p >= '0' && *r->p <= '9' && v < 1 << 30) v = 10 * v + (*r->p++ - '0');
  *out = (int)v;
  return v < 1 << 30;
}

static bool put(reader *r, int v) {
  if (r->n >= r->room || v >= r->limit) return false;
  r->x[r->n++] = v;
  return true;
}

static bool list(reader *r);

static bool unit(reader *r) {
  int a, b;
  if (*r->p == '(') {
    r->p++;
    if (++r->depth > max_depth || !list(r) || *r->p != ')') return false;
    r->p++;
    r->depth--;
    return true;
  }
  if (!number(r, &a)) return false;
  if (*r->p != '-') return put(r, a);
  r->p++;
  if (!number(r, &b) || b < a) return false;
  for (; a <= b; a++)
    if (!put(r, a)) return false;
  return true;
}

static bool list(reader *r) {
  do {
    int from = r->n, times = 1;
    if (*r->p == ',') r->p++;
    if (!unit(r)) return false;
    if (*r->p == '*' && (r->p++, !number(r, &times) || times < 1)) return false;
    int size = r->n - from;
    if (size < 1 || times > r->room / size) return false;
    for (int k = size * (times - 1); k > 0; k--)
      if (!put(r, r->x[r->n - size])) return false;
  } while (*r->p == ',');
  return true;
}

int tl_ranges_read_some(const char *text, int32_t *x, int n, int limit) {
  reader r = {.p = text, .x = x, .room = n, .limit = limit};
  return list(&r) && !*r.p ? r.n : -1;
}

bool tl_ranges_read(const char *text, int32_t *x, int n, int limit) { return tl_ranges_read_some(text, x, n, limit) == n; }
