// test_artifact.c: the compact file of an adapter. Would catch: a method, tying, rank, sign, generator or sigma placement that
// does not come back to the same bits; a cut or changed byte that is read; a base of other weights, another basis, or a pair
// with the other sign that is taken; a manifest that claims what the payload does not hold; a tying map whose short form is
// another map.
#include "../../runtime/adapter/artifact.h"
#include "tiny.h"
#include <cjson/cJSON.h>
#include <fcntl.h>
#include <unistd.h>

enum { n_modules = 21 };  // tiny_model: 3 layers of 7
static char file[64];

static tl_adapter *create(tl_model *m, tl_adapter_options o) {
  static int32_t all[n_modules];
  tl_adapter *a = NULL;
  for (int i = 0; i < n_modules; i++) all[i] = i;
  if (!o.modules) o.modules = all, o.n_modules = n_modules;
  if (!o.rank) o.rank = 2;
  if (!o.u) o.u = 3;
  if (o.alpha == 0) o.alpha = 5;
  o.seed = 9;
  CHECK_OK(tl_adapter_create(m, &o, &a));
  for (int64_t i = 0; a && i < a->n_params; i++) a->master[i] += 0.4f * (2 * tl_uniform(4, 4, (uint64_t)i) - 1);
  if (a) CHECK_OK(tl_adapter_refresh(a));
  return a;
}

static void write_file(const tl_adapter *a, bool carry) {
  tl_artifact_options o = {.base_name = "some/model", .provenance = "{\"recipe\":\"a test\"}", .carry = carry};
  CHECK_OK(tl_artifact_write(a, file, &o));
}

// everything that the forward pass reads
static void same(const char *what, const tl_adapter *a, const tl_adapter *b) {
  CHECK(a->kind == b->kind && a->storage == b->storage && a->n_params == b->n_params && a->n_modules == b->n_modules, "%s",
        what);
  CHECK((a->kind == TL_LORA || a->sigma == b->sigma) && a->n_groups == b->n_groups && a->projection == b->projection, "%s",
        what);
  CHECK(!memcmp(a->value, b->value, sizeof(float) * (size_t)a->n_params), "%s: numbers", what);
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *x = &a->modules[i], *y = &b->modules[i];
    size_t r = (size_t)x->rank, out = (size_t)tl_linear_out(&a->model->cfg, x->module % 7);
    size_t in = (size_t)tl_linear_in(&a->model->cfg, x->module % 7);
    CHECK(x->module == y->module && x->group == y->group && x->rank == y->rank && x->scale == y->scale, "%s: module %d", what,
          i);
    CHECK(!memcmp(x->R, y->R, sizeof(float) * r * r), "%s: R of %d", what, i);
    CHECK(!memcmp(x->A, y->A, sizeof(float) * r * in) && !memcmp(x->B, y->B, sizeof(float) * r * out), "%s: A, B of %d", what,
          i);
  }
}

static void round_trip(const char *what, tl_model *m, tl_adapter_options o, bool carry) {
  tl_adapter *a = create(m, o), *b = NULL;
  if (!a) return;
  write_file(a, carry);
  CHECK_OK(tl_artifact_read(m, file, false, NULL, &b));
  if (b) same(what, a, b);
  tl_adapter_free(a);
  tl_adapter_free(b);
}

static void every_kind_comes_back(void) {
  tl_model *m = tiny_model("qwen2", TL_F32);
  static int32_t some[] = {0, 2, 7, 11, 20}, ranks[n_modules], groups[n_modules];
  static float scales[n_modules];
  static int8_t signs[2 * n_modules];
  for (int i = 0; i < n_modules; i++) ranks[i] = 1 + i % 3, scales[i] = 0.1f * (float)(i + 1), groups[i] = (i * i) % 3;
  for (int i = 0; i < n_modules; i++) groups[i] = groups[i] == 2 ? 1 : groups[i];
  for (int i = 0; i < 2 * n_modules; i++) signs[i] = i % 3 ? 1 : -1;
  for (int k = TL_TINYLORA; k <= TL_LORA; k++)
    for (int t = TL_F32; t <= TL_F16; t++)
      for (int carry = 0; carry < 2; carry++) {
        tl_adapter_options o = {
            .kind = (tl_adapter_kind)k, .storage = (tl_dtype)t, .sigma = t == TL_F16 ? TL_SIGMA_PEFT : TL_SIGMA_PAPER};
        round_trip("all modules", m, o, carry);
        o.ranks = ranks;
        o.scales = scales;
        round_trip("ranks and scales", m, o, carry);
        o.ranks = NULL;
        o.modules = some;
        o.n_modules = 5;
        round_trip("five modules", m, o, carry);
      }
  tl_adapter_options o = {
      .kind = TL_TINYLORA, .storage = TL_BF16, .groups = groups, .projection = TL_PROJECTION_TORCH, .u = 13};
  round_trip("torch's P, two groups", m, o, false);
  o.signs = signs;
  round_trip("signs", m, o, false);
  round_trip("a LoRA of a higher rank than its matrices", m, (tl_adapter_options){.kind = TL_LORA, .rank = 70}, false);
  tl_model_free(m);
}

// 13 numbers of a model with as many modules as Qwen2.5-7B or SmolLM2-135M: what the file costs by its parts
static void size_of_thirteen(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a =
      create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16, .u = 13, .groups = (int32_t[n_modules]){0}});
  write_file(a, false);
  int64_t bytes = tl_file_bytes(file);
  tl_artifact f;
  CHECK_OK(tl_artifact_open(&f, file));
  CHECK(f.payload_bytes == 26 + 2 * n_modules * TL_PROBE_BYTES, "payload %zu", f.payload_bytes);
  // 210 modules need 189 more of 2 pairs each; the manifest's lists grow by some digits
  CHECK(bytes + 189 * 2 * TL_PROBE_BYTES + 100 < 4096, "%lld bytes with 21 modules", (long long)bytes);
  tl_artifact_close(&f);
  tl_adapter_free(a);
  tl_model_free(m);
}

// ---------------------------------------------------------------- damage
static void refused(tl_model *m, const char *what, size_t at) {
  tl_adapter *a = NULL;
  char *json = NULL;
  if (at % 8 == 0)  // both go through the same opening
    CHECK(tl_artifact_read(m, file, true, NULL, &a) != TL_OK, "%s at byte %zu is read", what, at);
  CHECK(tl_artifact_inspect(file, &json) != TL_OK, "%s at byte %zu is shown", what, at);
  tl_adapter_free(a);
  free(json);
}

static void damage(bool with_signature) {
  char key[80];
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16, .u = 13}), *b = NULL;
  write_file(a, false);
  snprintf(key, sizeof key, "%s.key", file);
  if (with_signature) {
    CHECK_OK(tl_artifact_keygen(key));
    CHECK_OK(tl_artifact_sign(file, key, "Grace"));
    CHECK_OK(tl_artifact_verify(file, NULL));
  }
  char *bytes = NULL;
  size_t n = 0;
  CHECK_OK(tl_read_file(file, &bytes, &n));
  CHECK_OK(tl_artifact_read(m, file, false, NULL, &b));
  size_t without = with_signature ? n - (8 + 2 + 5 + 32 + 64) : 0;  // cut there, a signed file is an unsigned one
  int fd = open(file, O_RDWR);
  for (size_t i = 0; i < n; i += with_signature && i < without ? 7 : 1) {
    char flipped = (char)(bytes[i] ^ 1 << (i % 8));
    CHECK(pwrite(fd, &flipped, 1, (off_t)i) == 1, "the test's file");
    refused(m, "a flipped bit", i);
    CHECK(pwrite(fd, bytes + i, 1, (off_t)i) == 1, "the test's file");
  }
  char *json = NULL;
  CHECK_OK(tl_artifact_inspect(file, &json));  // all bytes are back
  free(json);
  for (size_t i = n; i-- > (with_signature ? without + 1 : 0);) {
    CHECK(ftruncate(fd, (off_t)i) == 0, "the test's file");
    refused(m, "a cut", i);
  }
  close(fd);
  free(bytes);
  unlink(key);
  strcat(key, ".pub");
  unlink(key);
  tl_adapter_free(a);
  tl_adapter_free(b);
  tl_model_free(m);
}

static void damage_is_seen(void) { damage(false); }
static void damage_of_a_signed_file_is_seen(void) { damage(true); }

// A manifest with a good digest that lies: each field to something else. Refused by name or at least refused.
static void lying_manifests(void) {
  static const struct { const char *from, *to;
  } lies[] = {
      {"\"tlrun-adapter\"", "\"other\""},
      {"\"version\":\t1", "\"version\":\t2"},
      {"\"tinylora\"", "\"lora\""},
      {"\"tinylora\"", "\"lora_xs\""},
      {"\"tinylora\"", "7"},
      {"\"parameters\":\t13", "\"parameters\":\t26"},
      {"\"parameters\":\t13", "\"parameters\":\t1e300"},
      {"\"BF16\"", "\"F32\""},
      {"\"BF16\"", "\"I64\""},
      {"\"rank\":\t2", "\"rank\":\t3"},
      {"\"rank\":\t2", "\"rank\":\t-2"},
      {"\"rank\":\t2", "\"ranks\":\t\"2*20\""},
      {"\"u\":\t13", "\"u\":\t12"},
      {"\"u\":\t13", "\"u\":\t1e9"},
      {"\"u\":\t13", "\"u\":\tnull"},
      {"\"sigma\":\t\"paper\"", "\"sigma\":\t\"none\""},
      {"philox4x32-10", "mt"},
      {"philox4x32-10", "stored"},
      {"\"seed\":\t\"9\"", "\"seed\":\t\"abc\""},
      {"\"seed\":\t\"9\"", "\"seed\":\t\"-1\""},
      {"\"seed\":\t\"9\"", "\"seed\":\t\"99999999999999999999\""},
      {"\"q\":\t\"0-2\"", "\"q\":\t\"0-3\""},
      {"\"q\":\t\"0-2\"", "\"q\":\t\"0-1\""},
      {"\"q\":", "\"x\":"},
      {"\"tying\":\t\"0*21\"", "\"tying\":\t\"0*20\""},
      {"\"tying\":\t\"0*21\"", "\"tying\":\t\"0*20,1\""},
      {"\"tying\":\t\"0*21\"", "\"tying\":\t\"0*20,2\""},
      {"\"tying\":\t\"0*21\"", "\"tying\":\t\"((((((((((0*999999999))))))))))\""},
      {"\"svd\"", "\"file\""},
      {"\"svd\"", "\"svd\",\"signs\":\t\"f\""},
      {"\"layers\":\t3", "\"layers\":\t4"},
      {"\"llama\"", "\"qwen2\""},
      {"\"hash\":\t\"", "\"hash\":\t\"0"},
      {"\"targets\"", "\"target\""},
  };
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a =
      create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16, .u = 13, .groups = (int32_t[n_modules]){0}});
  write_file(a, false);
  tl_artifact f;
  CHECK_OK(tl_artifact_open(&f, file));
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    char *text = cJSON_Print(f.manifest), *at = strstr(text, lies[i].from);
    CHECK(at, "no %s in %s", lies[i].from, text);
    tl_str s = {0};
    if (at) tl_str_printf(&s, "%.*s%s%s", (int)(at - text), text, lies[i].to, at + strlen(lies[i].from));
    tl_adapter *b = NULL;
    CHECK_OK(tl_artifact_store(file, s.p, f.payload, f.payload_bytes));
    CHECK(tl_artifact_read(m, file, false, NULL, &b) != TL_OK, "%s -> %s is read", lies[i].from, lies[i].to);
    tl_adapter_free(b);
    tl_str_free(&s);
    free(text);
  }
  tl_artifact_close(&f);
  tl_adapter_free(a);
  tl_model_free(m);
}

// ---------------------------------------------------------------- another base
static float *weight(tl_model *m, int module, size_t *n) {
  int out = tl_linear_out(&m->cfg, module % 7), in = tl_linear_in(&m->cfg, module % 7);
  *n = (size_t)out * (size_t)in;
  float *w = malloc(sizeof(float) * *n);
  tl_ops()->unpack(w, tl_weights_module(&m->w, module)->w, 0, out);
  return w;
}

// the weights of a model stand, so it remembers their hash; these tests change them
static void changed(tl_model *m) {
  free(m->hashed);
  m->hashed = NULL;
}

// one weight by a bf16 step is another base; forced, it loads
static void another_base(void) {
  tl_model *m = tiny_model("llama", TL_F32), *other = tiny_model("llama", TL_F32), *shape = tiny_model("qwen2", TL_F32);
  tl_adapter *a = create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16}), *b = NULL;
  size_t n;
  write_file(a, false);
  CHECK_OK(tl_artifact_read(other, file, false, NULL, &b));
  tl_adapter_free(b);
  float *w = weight(other, 12, &n);
  w[77] *= 1.01f;
  tl_ops()->repack(tl_weights_module(&other->w, 12)->w, w);
  changed(other);
  CHECK(tl_artifact_read(other, file, false, NULL, &b) == TL_E_UNSUPPORTED && strstr(tl_last_error(), "other weights"), "%s",
        tl_last_error());
  CHECK_OK(tl_artifact_read(other, file, true, NULL, &b));
  tl_adapter_free(b);
  CHECK(tl_artifact_read(shape, file, true, NULL, &b) == TL_E_SHAPE && strstr(tl_last_error(), "llama"), "%s", tl_last_error());
  free(w);
  tl_adapter_free(a);
  tl_model_free(m);
  tl_model_free(other);
  tl_model_free(shape);
}

// an untargeted weight and a norm count too
static void add_to_norm(tl_model *m, int i, float by) {  // in the ops' memory
  float x;
  tl_ops()->copy(&x, m->w.final_norm + i, sizeof x);
  x += by;
  tl_ops()->copy(m->w.final_norm + i, &x, sizeof x);
}

static void the_rest_of_the_base(void) {
  tl_model *m = tiny_model("llama", TL_F32), *other = tiny_model("llama", TL_F32);
  int32_t q_only[] = {0, 7, 14};
  tl_adapter *a = create(m, (tl_adapter_options){.kind = TL_LORA, .storage = TL_F32, .modules = q_only, .n_modules = 3}),
             *b = NULL;
  write_file(a, false);
  CHECK_OK(tl_artifact_read(other, file, false, NULL, &b));
  tl_adapter_free(b);
  add_to_norm(other, 3, 0.5f);
  changed(other);
  CHECK(tl_artifact_read(other, file, false, NULL, &b) == TL_E_UNSUPPORTED, "another norm is taken");
  add_to_norm(other, 3, -0.5f);
  changed(other);
  size_t n;
  float *w = weight(other, 6, &n);
  for (size_t i = 0; i < n; i++) w[i] *= 0.5f;
  tl_ops()->repack(tl_weights_module(&other->w, 6)->w, w);
  changed(other);
  CHECK(tl_artifact_read(other, file, false, NULL, &b) == TL_E_UNSUPPORTED, "another down_proj is taken");
  free(w);
  tl_adapter_free(a);
  tl_model_free(m);
  tl_model_free(other);
}

// Read beside another adapter, A and B are that one's where they are the same, else its own; the update is the same in either case, and the
// hash that is remembered is that of the weights asked for.
static void beside_another(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16}), *alone = NULL, *shared = NULL, *own = NULL, *none = NULL;
  tl_adapter *wide = create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16, .rank = 3});
  int32_t q_only[] = {0, 7, 14};
  tl_adapter *few = create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16, .modules = q_only, .n_modules = 3});
  write_file(few, false);
  CHECK_OK(tl_artifact_read(m, file, false, NULL, &none));
  tl_adapter_free(none);
  write_file(a, false);
  CHECK_OK(tl_artifact_read(m, file, false, NULL, &alone));
  CHECK_OK(tl_artifact_read_beside(m, file, false, NULL, a, &shared));
  CHECK_OK(tl_artifact_read_beside(m, file, false, NULL, wide, &own));
  CHECK(shared->modules[0].A == a->modules[0].A && own->modules[0].A != wide->modules[0].A && alone->modules[0].A != a->modules[0].A, "A and B are shared");
  for (int i = 0; i < a->n_modules; i++)
    CHECK(!memcmp(shared->modules[i].R, alone->modules[i].R, 4 * sizeof(float)) && !memcmp(own->modules[i].R, alone->modules[i].R, 4 * sizeof(float)), "R of module %d", i);
  tl_adapter_free(a);  // what others use stays
  CHECK_OK(tl_adapter_refresh(shared));
  tl_adapter *list[] = {alone, shared, own, wide, few};
  for (int i = 0; i < 5; i++) tl_adapter_free(list[i]);
  tl_model_free(m);
}

// fp32 and bf16 computation of one fp32 file are one base, and its basis is within the probes' tolerance
static void computed_in_either_dtype(void) {
  tl_model *m = tiny_model("llama", TL_F32), *half = tiny_model("llama", TL_BF16);
  tl_adapter *a = create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16, .rank = 1}), *b = NULL;
  write_file(a, false);
  uint8_t all[n_modules];
  char x[33], y[33];
  memset(all, 1, sizeof all);
  CHECK_OK(tl_base_hash(m, all, x));
  CHECK_OK(tl_base_hash(half, all, y));
  CHECK(!strcmp(x, y), "%s and %s", x, y);
  CHECK_OK(tl_artifact_read(half, file, false, NULL, &b));
  tl_adapter_free(b);
  tl_adapter_free(a);
  tl_model_free(m);
  tl_model_free(half);
}

// The probes see a pair with the other sign, two pairs exchanged, a rotation of 0.2, a scale; and pass what rounding does.
static void probes_see_another_basis(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_BF16});
  uint8_t probes[TL_PROBE_BYTES * 2 * n_modules];
  CHECK_OK(tl_basis_probes(a, probes));
  tl_adapter_module *p = &a->modules[8];
  int out = tl_linear_out(&m->cfg, 8 % 7), in = tl_linear_in(&m->cfg, 8 % 7);
  for (int change = 0; change < 5; change++) {
    float *A = malloc(sizeof(float) * 2 * (size_t)in), *B = malloc(sizeof(float) * 2 * (size_t)out);
    memcpy(A, p->A, sizeof(float) * 2 * (size_t)in);
    memcpy(B, p->B, sizeof(float) * 2 * (size_t)out);
    const double angle[] = {3.14159265358979, 1.5707963, 0.2, 0, 1e-3}, scale = change == 3 ? 1.05 : 1;
    double c = cos(angle[change]), s = sin(angle[change]);
    if (change == 0) s = 0;  // the first pair turned round, the second as it is
    for (int j = 0; j < in; j++) {
      p->A[j] = (float)(c * A[j] + s * A[in + j]);
      p->A[in + j] = (float)(-s * A[j] + (change ? c : 1) * A[in + j]);
    }
    for (int i = 0; i < out; i++) {
      p->B[2 * i] = (float)(scale * (c * B[2 * i] + s * B[2 * i + 1]));
      p->B[2 * i + 1] = (float)(-s * B[2 * i] + (change ? c : 1) * B[2 * i + 1]);
    }
    tl_status st = tl_basis_check(a, probes, "x");
    CHECK(change == 4 ? st == TL_OK : st == TL_E_UNSUPPORTED && strstr(tl_last_error(), "model.layers.1.self_attn.k_proj"),
          "change %d: %s", change, tl_last_error());
    memcpy(p->A, A, sizeof(float) * 2 * (size_t)in);
    memcpy(p->B, B, sizeof(float) * 2 * (size_t)out);
    free(A);
    free(B);
  }
  tl_adapter_free(a);
  tl_model_free(m);
}

// ---------------------------------------------------------------- PEFT's basis onto ours
static void rebase_keeps_the_update(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  static int8_t signs[2 * n_modules];
  for (int i = 0; i < 2 * n_modules; i++) signs[i] = i % 3 ? 1 : -1;
  tl_adapter_options o = {
      .kind = TL_TINYLORA, .storage = TL_BF16, .sigma = TL_SIGMA_PEFT, .projection = TL_PROJECTION_TORCH, .signs = signs};
  tl_adapter *a = create(m, o), *b = NULL, *c = NULL;
  double worst = 1, aa, bb, ab;
  CHECK_OK(tl_adapter_rebase(a, NULL, 1e-3, &worst, &b));
  CHECK(worst < 1e-6, "worst %g", worst);
  if (b) {
    CHECK(!memcmp(b->signs, signs, sizeof signs), "signs");
    write_file(b, false);
    CHECK_OK(tl_artifact_read(m, file, false, NULL, &c));
    if (c) same("rebased", a, c);
  }
  for (int i = 0; c && i < n_modules; i++) {
    CHECK_OK(tl_adapter_compare(a, c, i, &aa, &bb, &ab));
    CHECK(aa > 0 && fabs(aa - bb) < 1e-9 * aa && fabs(aa - ab) < 1e-9 * aa, "module %d: %g %g %g", i, aa, bb, ab);
  }
  a->modules[3].A[5] += 1;
  tl_adapter_free(b);
  CHECK(tl_adapter_rebase(a, NULL, 1e-3, &worst, &b) == TL_E_UNSUPPORTED && strstr(tl_last_error(), "o_proj"), "%s",
        tl_last_error());
  tl_adapter_free(a);
  tl_adapter_free(c);
  tl_model_free(m);
}

// the factors' products are those of the dense updates
static void compare_is_frobenius(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = create(m, (tl_adapter_options){.kind = TL_TINYLORA, .storage = TL_F32}), *b =
      create(m, (tl_adapter_options){.kind = TL_LORA, .storage = TL_F32, .rank = 3});
  for (int i = 0; i < n_modules; i += 4) {
    size_t n = (size_t)tl_linear_out(&m->cfg, i % 7) * (size_t)tl_linear_in(&m->cfg, i % 7);
    float *x = malloc(sizeof(float) * n), *y = malloc(sizeof(float) * n);
    double want[3] = {0}, have[3];
    CHECK_OK(tl_adapter_delta(a, i, x));
    CHECK_OK(tl_adapter_delta(b, i, y));
    for (size_t k = 0; k < n; k++)
      want[0] += (double)x[k] * x[k], want[1] += (double)y[k] * y[k], want[2] += (double)x[k] * y[k];
    CHECK_OK(tl_adapter_compare(a, b, i, &have[0], &have[1], &have[2]));
    for (int k = 0; k < 3; k++)
      CHECK(fabs(have[k] - want[k]) < 1e-5 * sqrt(want[0] * want[1]) + 1e-5 * want[k], "module %d: %g, %g", i, have[k],
            want[k]);
    free(x);
    free(y);
  }
  tl_adapter_free(a);
  tl_adapter_free(b);
  tl_model_free(m);
}

// ---------------------------------------------------------------- lists
static void ranges(void) {
  enum { most = 300 };
  static int32_t x[most], y[most];
  for (int trial = 0; trial < 3000; trial++) {
    int n = 1 + (int)(tl_uniform(1, (uint64_t)trial, 0) * (trial % 10 ? 60 : most)), limit = 1 + trial % 40, form = trial % 5;
    for (int i = 0; i < n; i++) {
      int draw = (int)(tl_uniform(2, (uint64_t)trial, (uint64_t)i) * (float)limit);
      x[i] = form == 0   ? draw
             : form == 1 ? i % limit
             : form == 2 ? i / limit
             : form == 3 ? i % 7 + 7 * (i / 56)
             : i < n / 2 ? 0
                         : draw;
    }
    tl_str s = {0};
    tl_ranges_write(&s, x, n);
    CHECK(tl_ranges_read(s.p, y, n, most) && !memcmp(x, y, sizeof(int32_t) * (size_t)n), "trial %d: %s", trial, s.p);
    CHECK(!tl_ranges_read(s.p, y, n + 1, most) && (n == 1 || !tl_ranges_read(s.p, y, n - 1, most)), "trial %d: another length",
          trial);
    tl_str_free(&s);
  }
  const char *const forms[] = {"0*21", "0-20", "0-6*3"};
  for (int f = 0; f < 3; f++) {
    tl_str s = {0};
    for (int i = 0; i < 21; i++) x[i] = f == 0 ? 0 : f == 1 ? i : i % 7;
    tl_ranges_write(&s, x, 21);
    CHECK(!strcmp(s.p, forms[f]), "%s, wanted %s", s.p, forms[f]);
    tl_str_free(&s);
  }
  const char *bad[] = {"",   ",",  "1,",          "1*",         "1*0",
                       "(1", "1)", "3-1",         "-1",         "1**2",
                       "x",  "1 ", "99999999999", "0*99999999", "((((((((((1))))))))))",
                       "()"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    CHECK(tl_ranges_read_some(bad[i], y, most, most) < 0, "'%s' is read", bad[i]);
}

int main(void) {
  snprintf(file, sizeof file, "/tmp/tl-artifact-%ld.tla", (long)getpid());
  RUN(every_kind_comes_back);
  RUN(size_of_thirteen);
  RUN(damage_is_seen);
  RUN(damage_of_a_signed_file_is_seen);
  RUN(lying_manifests);
  RUN(another_base);
  RUN(the_rest_of_the_base);
  RUN(beside_another);
  RUN(computed_in_either_dtype);
  RUN(probes_see_another_basis);
  RUN(rebase_keeps_the_update);
  RUN(compare_is_frobenius);
  RUN(ranges);
  unlink(file);
  return test_done();
}
