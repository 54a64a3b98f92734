// test_conformance_sample.c: what head_sample draws, for every backend.
//
// The distribution is worked out here a second way, by counting: a token's rank is the number of tokens before it, and the
// filters are conditions on the rank and on the mass before it. Then
//   grid        u runs over 4096 even steps: inverse CDF sampling gives each token its mass times 4096, at most one more or
//               less, and a token that was cut never appears; so the kept sets are checked exactly
//   chi-square  50000 random u against the softmax, at a significance of 1e-6 (the seed is fixed: it passes always or never)
//   ids         1031 tokens, logits from random products: the id must be the one whose interval holds u. A backend may sum in
//               fp32, so a u within 1e-5 of an interval's end, or a filter that cuts within 1e-5 of a mass, is not judged
//   greedy      the lowest id among equal logits, whatever u is
// Banned tokens are no candidates of any of these; what is reported of the drawn one is of the whole vocabulary.
#include "conformance.h"

enum { V = 64, C = 9 };

// fewer where a device is simulated: a row takes a millisecond there
static int grid(void) { return ops->host || getenv("TL_TEST_DEVICE") ? 4096 : 64; }
static int draws(void) { return ops->host || getenv("TL_TEST_DEVICE") ? 50000 : 1000; }

static int32_t *ids;
static float *logprobs;

static int is_banned(const tlk_sample_row *row, int id) {
  for (int i = 0; i < row->n_banned; i++)
    if (row->banned[i] == id) return 1;
  return 0;
}

// logits (n) -> kept mass of each token, 0 where it was cut; NULL when a cut is too close to call
static double *distribution(const double *logits, int n, const tlk_sample_row *row, double margin) {
  double *p = take(sizeof *p * (size_t)n), *kept = take(sizeof *kept * (size_t)n), max = -INFINITY, total = 0;
  int close = 0;
  for (int i = 0; i < n; i++)
    if (!is_banned(row, i)) max = fmax(max, logits[i] / row->temperature);
  for (int i = 0; i < n; i++) {
    int rank = 0;
    for (int j = 0; j < n; j++) rank += !is_banned(row, j) && (logits[j] > logits[i] || (logits[j] == logits[i] && j < i));
    p[i] = is_banned(row, i) || (row->top_k > 0 && rank >= row->top_k) ? 0 : exp(logits[i] / row->temperature - max);
    total += p[i];
  }
  for (int i = 0; i < n; i++) {
    double before = 0;
    for (int j = 0; j < n; j++)
      if (p[j] > p[i] || (p[j] == p[i] && j < i)) before += p[j];
    int keep = p[i] > 0 && (row->top_p >= 1 || before == 0 || before < row->top_p * total);
    if (row->top_p < 1 && p[i] > 0 && fabs(before / total - row->top_p) < margin) close = 1;
    if (row->min_p > 0 && p[i] > 0 && fabs(p[i] - row->min_p) < margin) close = 1;
    kept[i] = keep && p[i] >= row->min_p ? p[i] : 0;
  }
  return close ? NULL : kept;
}

static double sum(const double *p, int n) {
  double s = 0;
  for (int i = 0; i < n; i++) s += p[i];
  return s;
}

// A head whose logits are given numbers, exact in every compute dtype: h = (1, 0 ...), w_j = (logit_j, random ...).
static tlk_packed *head_of(const double *logits) {
  float *w = vec_random(V * C, 1);
  for (int j = 0; j < V; j++) w[j * C] = (float)logits[j];
  tlk_packed *p = ops->pack(w, TLK_F32, V, C, compute);
  if (!p) abort();
  return p;
}
static mat rows_of_h(int n) {
  mat h = mat_fill(n, C, compute, 0);
  for (int t = 0; t < n; t++) put(&h, t, 0, 1);
  return h;
}
static void make_logits(double *logits) {  // multiples of 1/8 in (-3, 3), many of them equal
  for (int j = 0; j < V; j++) logits[j] = (rng_below(49) - 24) / 8.0;
}

static void draw(const double *logits, tlk_sample_row row, const float *u, int n, int *count) {
  tlk_packed *w = head_of(logits);
  mat h = rows_of_h(n);
  tlk_sample_row *rows = take(sizeof *rows * (size_t)n);
  for (int t = 0; t < n; t++) rows[t] = row, rows[t].u = u[t];
  ids = take(4 * (size_t)n), logprobs = vec_nan((size_t)n);
  ops->head_sample(ids, logprobs, NULL, NULL, h.m, w, rows, n);
  ops->packed_free(w);
  memset(count, 0, sizeof *count * V);
  for (int t = 0; t < n; t++) {
    CHECK(ids[t] >= 0 && ids[t] < V, "id %d", ids[t]);
    if (ids[t] >= 0 && ids[t] < V) count[ids[t]]++;
  }
}

static const struct {
  const char *name;
  tlk_sample_row row;
} filters[] = {
  {"no filter", {1, 1, 0, 0, 0}},
  {"temperature 0.5", {0.5f, 1, 0, 0, 0}},
  {"temperature 2", {2, 1, 0, 0, 0}},
  {"top_k 1", {1, 1, 0, 1, 0}},
  {"top_k 5", {1, 1, 0, 5, 0}},
  {"top_k 17", {0.7f, 1, 0, 17, 0}},
  {"top_k beyond the vocabulary", {1, 1, 0, 1000, 0}},
  {"top_p 0", {1, 0, 0, 0, 0}},
  {"top_p 0.313", {1, 0.313f, 0, 0, 0}},
  {"top_p 0.9", {0.8f, 0.9f, 0, 0, 0}},
  {"top_p 0.999", {1, 0.999f, 0, 0, 0}},
  {"min_p 0.07", {1, 1, 0.07f, 0, 0}},
  {"min_p 1", {1, 1, 1, 0, 0}},
  {"top_k 20 and top_p 0.77: masses among the 20", {1, 0.77f, 0, 20, 0}},
  {"top_k 30, top_p 0.95 and min_p 0.2", {1.5f, 0.95f, 0.2f, 30, 0}},
  {"banned", {1, 1, 0, 0, 0, 4, {0, 17, 18, 63}}},
  {"banned, top_k 60 of the 59 that are left", {1, 1, 0, 60, 0, 5, {2, 31, 32, 33, 61}}},
  {"banned, top_p 0.9", {0.8f, 0.9f, 0, 0, 0, 8, {0, 8, 16, 24, 32, 40, 48, 56}}},
  {"banned, top_p 1 and min_p 0.07", {1, 1, 0.07f, 0, 0, 2, {5, 50}}},
};
enum { N_FILTERS = sizeof filters / sizeof *filters };

static int filter;

static void grid_case(void) {
  double logits[V];
  int count[V];
  make_logits(logits);
  int n = grid();
  float *u = take(4 * (size_t)n);
  for (int i = 0; i < n; i++) u[i] = ((float)i + 0.5f) / (float)n;
  tlk_sample_row row = filters[filter].row;
  double *p = distribution(logits, V, &row, row.min_p < 1 && row.top_p > 0 ? 1e-7 : 0);
  CHECK(p, "a filter cuts on a mass: choose another number");
  if (!p) return;
  draw(logits, row, u, n, count);
  double total = sum(p, V);
  for (int j = 0; j < V; j++) {
    double want = p[j] / total * n;
    CHECK(p[j] > 0 || count[j] == 0, "token %d was cut and drawn %d times", j, count[j]);
    CHECK(fabs(count[j] - want) <= 1.01, "token %d: %d draws, mass %.3f", j, count[j], want);
  }
}

static void chi_square_case(void) {
  double logits[V], chi = 0;
  int count[V];
  make_logits(logits);
  float *u = take(4 * (size_t)draws());
  for (int i = 0; i < draws(); i++) u[i] = (float)(rng_next() >> 40) * 0x1p-24f;
  tlk_sample_row row = {.temperature = 0.8f, .top_p = 1};
  double *p = distribution(logits, V, &row, 0), total = sum(p, V), df = V - 1;
  draw(logits, row, u, draws(), count);
  for (int j = 0; j < V; j++) {
    double want = p[j] / total * draws();
    chi += (count[j] - want) * (count[j] - want) / want;
  }
  double z = 4.75, x = 1 - 2 / (9 * df) + z * sqrt(2 / (9 * df)), limit = df * x * x * x;  // Wilson & Hilferty 1931
  CHECK(chi < limit, "chi-square %.1f with %g degrees of freedom, limit %.1f", chi, df, limit);
}

static void ids_case(void) {
  enum { VOCAB = 1031, WIDTH = 45, ROWS = 96 };
  float *weights = vec_random(VOCAB * WIDTH, 0.4), *row = vec_nan(WIDTH), u[ROWS], *logprob = vec_nan(ROWS);
  tlk_packed *w = ops->pack(weights, TLK_F32, VOCAB, WIDTH, compute);
  if (!w) abort();
  mat h = mat_random(ROWS, WIDTH, compute, 1);
  tlk_sample_row *rows = take(sizeof *rows * ROWS);
  int32_t *got = take(4 * ROWS);
  int judged = 0;
  for (int t = 0; t < ROWS; t++) {
    rows[t] = filters[t % N_FILTERS].row;
    for (int i = 0; rows[t].n_banned && i < 7; i++) rows[t].banned[i] = 1024 + i, rows[t].n_banned = 7;  // what is beyond two blocks of 512
    rows[t].u = u[t] = t == 0 ? 0 : t == N_FILTERS ? 1 - 0x1p-24f : (float)(rng_next() >> 40) * 0x1p-24f;
  }
  ops->head_sample(got, logprob, NULL, NULL, h.m, w, rows, ROWS);
  for (int t = 0; t < ROWS; t++) {
    double logits[VOCAB], at = 0;
    for (int j = 0; j < VOCAB; j++) {
      ops->unpack(row, w, j, j + 1);
      logits[j] = 0;
      for (int c = 0; c < WIDTH; c++) logits[j] += (double)row[c] * get(&h, t, c);
    }
    double *p = distribution(logits, VOCAB, &rows[t], rows[t].min_p < 1 && rows[t].top_p > 0 ? 1e-5 : 0);
    if (!p) continue;
    double goal = u[t] * sum(p, VOCAB), margin = 1e-5 * sum(p, VOCAB);
    int want = 0, sure = 1;
    for (int j = 0; j < VOCAB; at += p[j++]) {
      if (p[j] > 0 && fabs(at - goal) < margin && at > 0) sure = 0;
      if (at <= goal && at + p[j] > goal) want = j;
    }
    if (!sure) continue;
    judged++;
    CHECK(got[t] == want, "row %d (%s), u %.9g: id %d, expected %d", t, filters[t % N_FILTERS].name, u[t], got[t], want);
  }
  CHECK(judged > ROWS * 3 / 4, "only %d of %d rows could be judged", judged, ROWS);
  ops->packed_free(w);
}

static void greedy_case(void) {
  double logits[V];
  int count[V];
  make_logits(logits);
  logits[9] = logits[31] = logits[63] = 4;
  float u[] = {0, 0.3f, 0.999f};
  draw(logits, (tlk_sample_row){.temperature = 0, .top_p = 0.5f, .top_k = 3}, u, 3, count);
  CHECK(count[9] == 3, "%d of 3 greedy draws are the lowest of the equal ids", count[9]);
  double total = 0;
  for (int j = 0; j < V; j++) total += exp(logits[j]);
  CHECK(fabs(logprobs[0] - (4 - log(total))) < 1e-5, "logprob %.7g, expected %.7g", logprobs[0], 4 - log(total));
  draw(logits, (tlk_sample_row){.temperature = 1, .top_p = 1, .top_k = 2}, u, 3, count);
  CHECK(count[9] == 2 && count[31] == 1, "top_k 2 among three equal logits keeps the two lowest ids");
  draw(logits, (tlk_sample_row){.temperature = 0, .top_p = 1, .n_banned = 2, .banned = {31, 9}}, u, 3, count);
  CHECK(count[63] == 3, "%d of 3 greedy draws are the best token that is not banned", count[63]);
  CHECK(fabs(logprobs[0] - (4 - log(total))) < 1e-5, "logprob %.7g beside banned ones, expected %.7g", logprobs[0], 4 - log(total));
}

// a model whose activations left the range of its dtype: whatever is drawn, it is a token
static void no_number_case(void) {
  double logits[V];
  int count[V];
  make_logits(logits);
  float u[] = {0, 0.3f, 0.999f};
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < V; j++) logits[j] = i ? NAN : j % 3 ? logits[j] : NAN;
    for (int greedy = 0; greedy < 2; greedy++)
      for (int cut = 0; cut < 2; cut++)
        draw(logits, (tlk_sample_row){.temperature = greedy ? 0 : 1, .top_p = cut ? 0.5f : 1, .top_k = cut ? 3 : 0, .min_p = cut ? 0.1f : 0}, u, 3, count);
  }
  enum { ODD = 517, ROWS = 3 };  // a vocabulary that ends within a register, whose other lanes hold -inf
  tlk_packed *w = ops->pack(vec_random(ODD * C, 1), TLK_F32, ODD, C, compute);
  if (!w) abort();
  mat h = rows_of_h(ROWS);
  for (int t = 0; t < ROWS; t++) put(&h, t, 0, NAN);
  tlk_sample_row *rows = take(sizeof *rows * ROWS);
  for (int t = 0; t < ROWS; t++) rows[t] = (tlk_sample_row){.temperature = t > 0, .top_p = t == 2 ? 0.5f : 1};
  int32_t *got = take(4 * ROWS);
  ops->head_sample(got, vec_nan(ROWS), NULL, NULL, h.m, w, rows, ROWS);
  for (int t = 0; t < ROWS; t++) CHECK(got[t] >= 0 && got[t] < ODD, "row %d: id %d of %d", t, got[t], ODD);
  ops->packed_free(w);
}

static void one(const char *what, void (*fn)(void)) {
  char name[128];
  snprintf(name, sizeof name, "%s %s %s", backend_label(), compute_name(compute), what);
  rng_seed(17);
  test_run(name, fn);
  drop_all();
}

int main(void) {
  for (int b = 0; b < n_backends(); b++)
    for (compute = b < 5 ? TLK_F32 : TLK_BF16; compute <= (b < 5 ? TLK_F16 : TLK_BF16); compute++) {
      if (b == 2 + REVERSE) continue;  // of the simulator's orders forward and random, and bf16 checked: a row takes a millisecond
      ops = backend(b);
      ops->set_threads(2);
      char name[96];
      for (filter = 0; filter < N_FILTERS; filter++) {
        snprintf(name, sizeof name, "grid, %s", filters[filter].name);
        one(name, grid_case);
      }
      one("chi-square", chi_square_case);
      one("ids of 1031 tokens", ids_case);
      one("greedy and ties", greedy_case);
      one("logits that are no numbers", no_number_case);
    }
  return test_done();
}
