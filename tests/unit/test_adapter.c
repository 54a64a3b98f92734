// test_adapter.c: adapters without a model pass around them: tying and parameter counts, R from v, sigma placement, storage
// rounding, delta, gradients of v, R, A and B against finite differences of a scalar function made of the kernels' own
// linears, saving and loading. (Whole-model gradients: test_gradient.c; PEFT's own files: test_parity.c.)
#include "../../runtime/adapter/adapter.h"
#include "../../runtime/base/safetensors.h"
#include "tiny.h"

enum { n_modules = 21, rank = 2 };  // tiny_model: 3 layers of 7
typedef int (*tie_fn)(int module);
static int tie_none(int m) { return m; }
static int tie_full(int m) { return 0 * m; }
static int tie_structured(int m) { return m % 7; }  // by kind
static int tie_tiled(int m) { return m / 7; }       // by depth
static int tie_ratio(int m) { return m / 4 < 4 ? m / 4 : 4; }  // PEFT: 21 modules in 5 groups
static int tie_odd(int m) { return m == 20 ? 2 : m % 2; }
static int tie_reversed(int m) { return 20 - m; }
static const struct { const char *name; tie_fn group; int n_groups; } ties[] = {
  {"none", tie_none, 21}, {"full", tie_full, 1},  {"structured", tie_structured, 7},  {"tiled", tie_tiled, 3},
  {"ratio", tie_ratio, 5}, {"odd", tie_odd, 3}, {"reversed", tie_reversed, 21}};
enum { n_ties = sizeof ties / sizeof *ties };

static tl_adapter_options options(tl_adapter_kind kind) {
  static int32_t modules[n_modules];
  for (int i = 0; i < n_modules; i++) modules[i] = i;
  return (tl_adapter_options){.kind = kind, .modules = modules, .n_modules = n_modules, .rank = rank, .u = 3, .alpha = 5,
                              .storage = TL_F32, .seed = 9};
}

static tl_adapter *create(tl_model *m, tl_adapter_options o) {
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_create(m, &o, &a));
  return a;
}

static tl_adapter *create_tied(tl_model *m, int tie, tl_dtype storage) {
  int32_t groups[n_modules];
  for (int i = 0; i < n_modules; i++) groups[i] = ties[tie].group(i);
  tl_adapter_options o = options(TL_TINYLORA);
  o.groups = groups;
  o.storage = storage;
  return create(m, o);
}

static void randomise(tl_adapter *a, float size) {
  for (int64_t i = 0; i < tl_adapter_n_parameters(a); i++)
    tl_adapter_parameters(a)[i] += size * (2 * tl_uniform(4, 4, (uint64_t)i) - 1);
  CHECK_OK(tl_adapter_refresh(a));
}

static void counts_of_tyings(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  for (int t = 0; t < n_ties; t++) {
    tl_adapter *a = create_tied(m, t, TL_BF16);
    if (!a) break;
    CHECK(tl_adapter_n_parameters(a) == 3 * ties[t].n_groups, "%s: %lld", ties[t].name, (long long)tl_adapter_n_parameters(a));
    CHECK(tl_adapter_n_bytes(a) == 2 * 3 * ties[t].n_groups, "%s: bytes", ties[t].name);
    for (int i = 0; i < n_modules; i++) CHECK(a->modules[i].off == 3 * ties[t].group(i), "%s: module %d", ties[t].name, i);
    tl_adapter_free(a);
  }
  tl_adapter *xs = create(m, options(TL_LORA_XS)), *lora = create(m, options(TL_LORA));
  CHECK(tl_adapter_n_parameters(xs) == n_modules * rank * rank, "LoRA-XS");
  // q o: 36 and 40; k v: 36 and 20; gate up down: 36 and 58
  CHECK(tl_adapter_n_parameters(lora) == 3 * rank * (2 * 76 + 2 * 56 + 3 * 94), "LoRA %lld",
        (long long)tl_adapter_n_parameters(lora));
  tl_adapter_free(xs);
  tl_adapter_free(lora);
  tl_adapter_options o = {.kind = TL_FULL, .storage = TL_F32, .train_embeddings = true};
  tl_adapter *full = create(m, o);
  tl_model_info info;
  tl_model_get_info(m, &info);
  CHECK(tl_adapter_n_parameters(full) == info.n_parameters, "full: %lld of %lld", (long long)tl_adapter_n_parameters(full),
        (long long)info.n_parameters);
  tl_adapter_free(full);
  o.train_embeddings = false;
  full = create(m, o);
  CHECK(tl_adapter_n_parameters(full) == 3 * 36 * (2 * 40 + 2 * 20 + 3 * 58), "linears only");
  CHECK(!tl_adapter_grad_embed(full) && !tl_adapter_grad_norm(full, 0, 0), "embeddings are not trained");
  tl_adapter_free(full);
  tl_model_free(m);
}

// R = sum_i v_i P_i, P ~ normal(0, 1/sqrt(r)) and different for every module, tied or not
static void r_from_v(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = create_tied(m, 1, TL_F32);
  randomise(a, 0.7f);
  const float *v = tl_adapter_parameters(a);
  double square = 0;
  for (int i = 0; i < n_modules; i++) {
    const tl_adapter_module *mod = &a->modules[i];
    for (int j = 0; j < rank * rank; j++) {
      double want = 0;
      for (int k = 0; k < 3; k++) {
        want += (double)v[k] * mod->P[k * rank * rank + j];
        square += pow(mod->P[k * rank * rank + j], 2);
      }
      CHECK(fabs(mod->R[j] - want) < 1e-6, "module %d", i);
    }
    for (int k = 0; k < i; k++) CHECK(memcmp(mod->P, a->modules[k].P, sizeof(float) * 3 * rank * rank), "P of %d and %d", i, k);
  }
  // variance 1/r = 0.5 over 252 draws: standard error 0.5 sqrt(2 / 252) = 0.045; four of them
  CHECK(fabs(square / (n_modules * 3 * rank * rank) - 0.5) < 0.18, "variance of P %g", square / (n_modules * 3 * rank * rank));
  tl_adapter *b = create_tied(m, 1, TL_F32);
  CHECK(!memcmp(a->modules[4].P, b->modules[4].P, sizeof(float) * 3 * rank * rank), "P does not depend on the seed alone");
  CHECK(b->modules[4].R[0] == 0 && b->modules[4].R[3] == 0, "v = 0 gives R = 0");
  tl_adapter_free(a);
  tl_adapter_free(b);
  tl_model_free(m);
}

// B A is the rank-r part of W under either placement; paper: rows of A have length 1; PEFT: A and B share the weight
static void sigma_placement(void) {
  tl_model *m = tiny_model("qwen2", TL_F32);
  for (int s = 0; s < 2; s++) {
    tl_adapter_options o = options(TL_LORA_XS);
    o.sigma = s ? TL_SIGMA_PEFT : TL_SIGMA_PAPER;
    tl_adapter *a = create(m, o);
    for (int i = 0; i < n_modules; i++) {
      const tl_adapter_module *mod = &a->modules[i];
      int out = tl_linear_out(&m->cfg, i % 7), in = tl_linear_in(&m->cfg, i % 7);
      for (int q = 0; q < rank; q++) {
        double la = 0, lb = 0;
        for (int j = 0; j < in; j++) la += pow(mod->A[q * in + j], 2);
        for (int j = 0; j < out; j++) lb += pow(mod->B[j * rank + q], 2);
        CHECK(s ? fabs(la / lb - 1) < 1e-4 : fabs(la - 1) < 1e-5, "module %d: |A| %g, |B| %g", i, sqrt(la), sqrt(lb));
      }
    }
    tl_adapter_free(a);
  }
  tl_model_free(m);
}

// The forward pass uses rounded numbers, the master copy keeps its bits.
static void storage_rounds(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_dtype kinds[] = {TL_F32, TL_BF16, TL_F16};
  for (int k = 0; k < 3; k++) {
    tl_adapter *a = create_tied(m, 1, kinds[k]);
    tl_adapter_parameters(a)[0] = 1.0f / 3;
    CHECK_OK(tl_adapter_refresh(a));
    float rounded = kinds[k] == TL_F32 ? 1.0f / 3 : kinds[k] == TL_BF16 ? 0.333984375f : 0.333251953125f;
    CHECK(tl_adapter_parameters(a)[0] == 1.0f / 3, "the master copy was rounded");
    CHECK(a->modules[2].R[1] == (float)((double)rounded * a->modules[2].P[1]), "%s", tl_dtype_name((int)kinds[k]));
    tl_adapter_free(a);
  }
  tl_adapter_options o = {.kind = TL_FULL, .storage = TL_BF16, .train_embeddings = true};
  tl_adapter *a = create(m, o);
  float *w = malloc(sizeof(float) * 40 * 36);
  tl_ops()->unpack(w, a->full.layers[0].lin[TL_Q].w, 0, 40);
  for (int i = 0; i < 40 * 36; i++) CHECK(w[i] == tl_bf16_to_f32(tl_f32_to_bf16(w[i])), "full finetuning's weight is not bf16");
  free(w);
  tl_adapter_free(a);
  tl_model_free(m);
}

// y = linear(x) with the adapter minus without = x delta^T
static void delta_is_what_is_applied(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter_kind kinds[] = {TL_TINYLORA, TL_LORA_XS, TL_LORA};
  for (int k = 0; k < 3; k++) {
    tl_adapter *a = create(m, options(kinds[k]));
    randomise(a, 0.5f);
    for (int i = 0; i < n_modules; i += 5) {
      int out = tl_linear_out(&m->cfg, i % 7), in = tl_linear_in(&m->cfg, i % 7), T = 3;
      float *x = tl_ops()->alloc(sizeof(float) * (size_t)(T * in), TLK_MEM_BOTH), *y = tl_ops()->alloc(sizeof(float) * (size_t)(T * out), TLK_MEM_BOTH);
      float *y0 = tl_ops()->alloc(sizeof(float) * (size_t)(T * out), TLK_MEM_BOTH), *z = tl_ops()->alloc(sizeof(float) * 3 * rank, TLK_MEM_BOTH);
      float *dw = malloc(sizeof(float) * (size_t)(out * in));
      tl_normal_fill(x, (size_t)(T * in), 1, 1);
      const tlk_packed *w = tl_weights_module(&m->w, i)->w;
      tlk_mat xm = {x, TLK_F32, in};
      tl_ops()->linear_fwd((tlk_mat){y, TLK_F32, out}, z, xm, w, NULL, &a->lowrank[i], T, 0);
      tl_ops()->linear_fwd((tlk_mat){y0, TLK_F32, out}, NULL, xm, w, NULL, NULL, T, 0);
      CHECK_OK(tl_adapter_delta(a, i, dw));
      tl_ops()->sync();
      for (int t = 0; t < T; t++)
        for (int o = 0; o < out; o++) {
          double want = 0;
          for (int j = 0; j < in; j++) want += (double)dw[o * in + j] * x[t * in + j];
          CHECK(fabs(y[t * out + o] - y0[t * out + o] - want) < 1e-5, "kind %d, module %d", k, i);
        }
      tl_ops()->release(x);
      tl_ops()->release(y);
      tl_ops()->release(y0);
      tl_ops()->release(z);
      free(dw);
    }
    tl_adapter_free(a);
  }
  tl_model_free(m);
}

// ---------------------------------------------------------------- gradients
// f = sum over modules, rows t and outputs o of weight[t][o] * (module applied to x)[t][o]: linear in y, so dy = weight
enum { rows = 6, widest = 64 };
typedef struct {
  float x[rows * widest], dy[rows * widest], y[rows * widest];
} field;

static void fill(field *f, int module) {
  tl_normal_fill(f->x, rows * widest, 2, (uint64_t)module);
  tl_normal_fill(f->dy, rows * widest, 3, (uint64_t)module);
}

static double value_of(tl_adapter *a, field *f) {
  double sum = 0;
  float z[rows * rank];
  CHECK_OK(tl_adapter_refresh(a));
  for (int i = 0; i < n_modules; i += 3) {
    const tl_config *c = &a->model->cfg;
    int out = tl_linear_out(c, i % 7), in = tl_linear_in(c, i % 7);
    fill(f, i);
    tl_ops()->linear_fwd((tlk_mat){f->y, TLK_F32, out}, z, (tlk_mat){f->x, TLK_F32, in}, tl_weights_module(&a->model->w, i)->w,
                         NULL, &a->lowrank[i], rows, 0);
    for (int j = 0; j < rows * out; j++) sum += (double)f->y[j] * f->dy[j];
  }
  return sum;
}

static void accumulate(tl_adapter *a, field *f, int from, int to, const int32_t *unit_off, int n_units) {
  float z[rows * rank], g[rows * rank];
  for (int i = 0; i < n_modules; i += 3) {
    const tl_config *c = &a->model->cfg;
    int out = tl_linear_out(c, i % 7), in = tl_linear_in(c, i % 7), T = to - from;
    fill(f, i);
    const tlk_packed *w = tl_weights_module(&a->model->w, i)->w;
    tlk_mat x = {f->x + from * in, TLK_F32, in}, dy = {f->dy + from * out, TLK_F32, out};
    tl_ops()->linear_fwd((tlk_mat){f->y, TLK_F32, out}, z, x, w, NULL, &a->lowrank[i], T, 0);
    tl_ops()->linear_bwd_x((tlk_mat){NULL, TLK_F32, in}, g, dy, w, &a->lowrank[i], T, 0);
    tl_linear_grad lg = {.module = i, .x = x, .dy = dy, .z = z, .g = g, .unit_off = unit_off, .n_units = n_units, .T = T};
    tl_adapter_linear_grad(a, &lg);
  }
}

// The update is at most bilinear in the parameters, so central differences have no error but fp32's: 1e-3 relative.
static void gradient_case(tl_adapter *a) {
  static field f;
  int32_t units[] = {0, 2, 6};
  randomise(a, 0.3f);
  tl_adapter_zero_gradient(a);
  accumulate(a, &f, 0, rows, units, 2);
  const float *g = tl_adapter_gradient(a);
  int64_t n = tl_adapter_n_parameters(a), stride = n > 60 ? n / 60 : 1;
  float have[128], want[128];
  int count = 0;
  for (int64_t i = 0; i < n; i += stride, count++) {
    float *p = tl_adapter_parameters(a) + i, keep = *p, h = 0.25f;
    *p = keep + h;
    double up = value_of(a, &f), x = *p;
    *p = keep - h;
    want[count] = (float)((up - value_of(a, &f)) / (x - *p));
    have[count] = g[i];
    *p = keep;
  }
  CHECK(test_max_rel(have, want, (size_t)count) < 1e-3, "kind %d: differs by %.2e", (int)a->kind,
        test_max_rel(have, want, (size_t)count));
  CHECK_OK(tl_adapter_refresh(a));
}

// ranks and scales that differ by module
static tl_adapter *create_mixed(tl_model *m, tl_adapter_kind kind) {
  static int32_t ranks[n_modules];
  static float scales[n_modules];
  for (int i = 0; i < n_modules; i++) ranks[i] = 1 + i % 2, scales[i] = 0.5f + (float)(i % 4);
  tl_adapter_options o = options(kind);
  o.ranks = ranks;
  o.scales = scales;
  return create(m, o);
}

// These hand the ops arrays of the program's own. On a device gradients come through passes, in test_gradient and test_parity.
static bool in_device_memory(const char *name) {
  if (!tl_ops()->host) test_skip(name, "the arrays of this test lie in the host's memory");
  return !tl_ops()->host;
}

static void gradient_by_differences(void) {
  if (in_device_memory("gradient_by_differences")) return;
  tl_model *m = tiny_model("llama", TL_F32);
  for (int t = 0; t < n_ties; t++) {
    tl_adapter *a = create_tied(m, t, TL_F32);
    gradient_case(a);
    tl_adapter_free(a);
  }
  tl_adapter_kind kinds[] = {TL_LORA_XS, TL_LORA};
  for (int k = 0; k < 2; k++) {
    tl_adapter *a = create(m, options(kinds[k]));
    gradient_case(a);
    tl_adapter_free(a);
  }
  for (int k = TL_TINYLORA; k <= TL_LORA; k++) {
    tl_adapter *a = create_mixed(m, (tl_adapter_kind)k);
    CHECK(a->rank == 2 && a->modules[0].rank == 1 && a->lowrank[0].r == 1 && a->lowrank[1].r == 2, "ranks");
    gradient_case(a);
    tl_adapter_free(a);
  }
  tl_model_free(m);
}

// Units in one call or in two, and a read of the gradient between them: the same bits
static void gradient_in_parts(void) {
  if (in_device_memory("gradient_in_parts")) return;
  static field f;
  tl_model *m = tiny_model("llama", TL_F32);
  int32_t whole[] = {0, 1, 3, 4, 6}, first[] = {0, 1, 3}, second[] = {0, 1, 3};
  tl_adapter *a = create_tied(m, 3, TL_F32), *b = create_tied(m, 3, TL_F32);
  randomise(a, 0.3f);
  randomise(b, 0.3f);
  accumulate(a, &f, 0, 6, whole, 4);
  accumulate(b, &f, 0, 3, first, 2);
  (void)tl_adapter_gradient(b);
  accumulate(b, &f, 3, 6, second, 2);
  CHECK(!memcmp(tl_adapter_gradient(a), tl_adapter_gradient(b), sizeof(float) * (size_t)a->n_params), "depends on the cut");
  tl_adapter_zero_gradient(a);
  for (int64_t i = 0; i < a->n_params; i++) CHECK(tl_adapter_gradient(a)[i] == 0, "not zeroed");
  tl_adapter_free(a);
  tl_adapter_free(b);
  tl_model_free(m);
}

// ---------------------------------------------------------------- files
static void remove_adapter(const char *dir) {
  char path[128];
  const char *names[] = {"adapter_config.json", "adapter_model.safetensors"};
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, names[i]);
    unlink(path);
  }
  rmdir(dir);
}

static void same_deltas(const char *what, const tl_adapter *a, const tl_adapter *b, double tolerance) {
  static float x[widest * widest], y[widest * widest];
  for (int i = 0; i < n_modules; i++) {
    size_t n = (size_t)tl_linear_out(&a->model->cfg, i % 7) * (size_t)tl_linear_in(&a->model->cfg, i % 7);
    CHECK_OK(tl_adapter_delta(a, i, x));
    CHECK_OK(tl_adapter_delta(b, i, y));
    CHECK(test_max_rel(x, y, n) <= tolerance, "%s: module %d differs by %.2e", what, i, test_max_rel(x, y, n));
  }
}

static void save_and_load_tinylora(void) {
  tl_model *m = tiny_model("qwen2", TL_F32);
  for (int t = 0; t < n_ties; t++) {
    char dir[] = "/tmp/tl-adapter-XXXXXX";
    CHECK(mkdtemp(dir), "no temporary folder");
    tl_adapter *a = create_tied(m, t, t % 2 ? TL_BF16 : TL_F32), *b = NULL;
    randomise(a, 0.5f);
    CHECK_OK(tl_adapter_save(a, dir, "some/model"));
    CHECK_OK(tl_adapter_load(m, dir, &b));
    if (b) {
      CHECK(b->n_groups == a->n_groups && b->u == 3 && b->storage == a->storage && b->sigma == a->sigma, "%s", ties[t].name);
      CHECK(!memcmp(b->value, a->value, sizeof(float) * (size_t)a->n_params), "%s: v", ties[t].name);
      same_deltas(ties[t].name, a, b, 0);
    }
    tl_adapter_free(a);
    tl_adapter_free(b);
    remove_adapter(dir);
  }
  tl_model_free(m);
}

static void save_and_load_lora(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  for (int k = 0; k < 2; k++) {
    char dir[] = "/tmp/tl-adapter-XXXXXX";
    CHECK(mkdtemp(dir), "no temporary folder");
    tl_adapter *a = create(m, options(k ? TL_LORA_XS : TL_LORA)), *b = NULL;
    randomise(a, 0.5f);
    CHECK_OK(tl_adapter_save(a, dir, NULL));
    CHECK_OK(tl_adapter_load(m, dir, &b));
    // LoRA-XS comes back as the LoRA it equals: B R was rounded to fp32 once
    if (b) same_deltas(k ? "lora_xs" : "lora", a, b, k ? 1e-6 : 0);
    tl_adapter_free(a);
    tl_adapter_free(b);
    remove_adapter(dir);
  }
  tl_model_free(m);
}

// Every kind through every PEFT form that it has comes back as the same update; forms that it has not are refused. Would catch: a
// fold that forgets the scale, padding in the wrong place, patterns that name the wrong module.
static void save_in_every_form(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  for (int mixed = 0; mixed < 2; mixed++)
    for (int k = TL_TINYLORA; k <= TL_LORA; k++)
      for (int form = TL_PEFT_NATIVE; form <= TL_PEFT_TINYLORA; form++) {
        char dir[] = "/tmp/tl-adapter-XXXXXX";
        CHECK(mkdtemp(dir), "no temporary folder");
        tl_adapter *a = mixed ? create_mixed(m, (tl_adapter_kind)k) : create(m, options((tl_adapter_kind)k)), *b = NULL;
        randomise(a, 0.5f);
        bool tiny = form == TL_PEFT_TINYLORA || (form == TL_PEFT_NATIVE && k == TL_TINYLORA);
        tl_status s = tl_adapter_save_as(a, dir, "some/model", (tl_peft_form)form);
        if (tiny && (mixed || k == TL_LORA)) {
          CHECK(s == TL_E_UNSUPPORTED, "kind %d, form %d, mixed %d was written", k, form, mixed);
        } else {
          CHECK_OK(s);
          CHECK_OK(tl_adapter_load(m, dir, &b));
          CHECK(!b || b->kind == (tiny ? TL_TINYLORA : TL_LORA), "kind %d, form %d", k, form);
          if (b) same_deltas("form", a, b, 1e-6);  // B R is rounded to fp32 once
        }
        tl_adapter_free(a);
        tl_adapter_free(b);
        remove_adapter(dir);
      }
  tl_model_free(m);
}

// Replaces the first occurrence of `from` in a saved config and wants the load refused with a message that names `word`.
static void refuse_case(tl_model *m, const tl_adapter *a, const char *from, const char *to, const char *word) {
  char dir[] = "/tmp/tl-adapter-XXXXXX", path[128], *text = NULL;
  CHECK(mkdtemp(dir), "no temporary folder");
  CHECK_OK(tl_adapter_save(a, dir, NULL));
  snprintf(path, sizeof path, "%s/adapter_config.json", dir);
  CHECK_OK(tl_read_file(path, &text, NULL));
  char *at = strstr(text, from);
  CHECK(at, "no %s in the config", from);
  if (at) {
    tl_str s = {0};
    tl_str_add(&s, text, (size_t)(at - text));
    tl_str_printf(&s, "%s%s", to, at + strlen(from));
    CHECK_OK(tl_write_file(path, s.p, s.n));
    tl_str_free(&s);
    tl_adapter *b = NULL;
    CHECK(tl_adapter_load(m, dir, &b) != TL_OK && strstr(tl_last_error(), word), "%s -> %s: %s", from, to, tl_last_error());
    tl_adapter_free(b);
  }
  free(text);
  remove_adapter(dir);
}

static void load_refuses(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *tiny = create_tied(m, 3, TL_F32), *lora = create(m, options(TL_LORA));
  refuse_case(m, tiny, "TINYLORA", "VERA", "peft_type");
  refuse_case(m, tiny, "\"r\": 2", "\"r\": 3", "tinylora_A");
  refuse_case(m, tiny, "\"u\": 3", "\"u\": 4", "numbers");
  refuse_case(m, tiny, "\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save");
  refuse_case(m, tiny, "\"modules_to_save\": null", "\"use_newest_trick\": true", "use_newest_trick");
  refuse_case(m, tiny, "\"layers_to_transform\": null", "\"layers_to_transform\": [0, 1]", "does not select");
  refuse_case(m, tiny, "    \"k_proj\",\n", "", "target_modules");
  refuse_case(m, tiny, "\"target_modules\": [", "\"target_modules\": [\"lm_head\", ", "lm_head");
  refuse_case(m, tiny, "\"target_modules\": [", "\"target_modules\": [3, ", "target_modules");
  refuse_case(m, tiny, "\"weight_tying\": 0.8", "\"weight_tying\": 0.1", "groups");
  refuse_case(m, tiny, "{", "[", "JSON");
  refuse_case(m, lora, "\"use_dora\": false", "\"use_dora\": true", "use_dora");
  refuse_case(m, lora, "\"bias\": \"none\"", "\"bias\": \"all\"", "bias");
  refuse_case(m, lora, "\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q_proj\": \"3\"}", "alpha_pattern");
  refuse_case(m, lora, "\"alpha_pattern\": {}", "\"alpha_pattern\": {\"(q_proj\": 3}", "does not compile");
  refuse_case(m, lora, "\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 3}", "lora_A");
  refuse_case(m, lora, "\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 2000}", "rank_pattern");
  refuse_case(m, lora, "\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa_niter_4\"", "init_lora_weights");
  refuse_case(m, lora, "\"use_dora\": false", "\"lora_bias\": true", "lora_bias");
  refuse_case(m, lora, "\"lora_alpha\": 5", "\"lora_alpha\": \"5\"", "lora_alpha");
  tl_model *other = tiny_model("qwen2", TL_F32);
  tl_adapter_options o = {.kind = TL_FULL, .storage = TL_F32};
  tl_adapter *full = create(other, o);
  CHECK(tl_adapter_save(full, "/tmp", NULL) == TL_E_UNSUPPORTED, "full as PEFT");
  tl_adapter_free(full);
  tl_model_free(other);
  tl_adapter_free(tiny);
  tl_adapter_free(lora);
  tl_model_free(m);
}

static void create_refuses(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = NULL;
  tl_adapter_options o = options(TL_TINYLORA);
  int32_t falling[] = {3, 2}, outside[] = {0, 21}, hole[n_modules];
  for (int i = 0; i < n_modules; i++) hole[i] = i % 2 ? 2 : 0;
  o.rank = 21;  // k and v have 20 outputs
  CHECK(tl_adapter_create(m, &o, &a) == TL_E_SHAPE && strstr(tl_last_error(), "k_proj"), "%s", tl_last_error());
  o.rank = 2;
  o.groups = hole;
  CHECK(tl_adapter_create(m, &o, &a) == TL_E_ARG && strstr(tl_last_error(), "group 1"), "%s", tl_last_error());
  o.groups = NULL;
  o.n_modules = 2;
  o.modules = falling;
  CHECK(tl_adapter_create(m, &o, &a) == TL_E_ARG, "falling indices");
  o.modules = outside;
  CHECK(tl_adapter_create(m, &o, &a) == TL_E_ARG, "an index outside");
  o.u = 0;
  CHECK(tl_adapter_create(m, &o, &a) == TL_E_ARG && !a, "u of 0");
  tl_model_free(m);
}

// A handle kept by a child outlives its parents' frees, in any order.
static void frees_in_any_order(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = create_tied(m, 1, TL_F32);
  tl_adamw *o = NULL;
  CHECK_OK(tl_adamw_create(a, 0.9f, 0.99f, 1e-8f, 0, &o));
  tl_model_free(m);
  tl_adapter_free(a);
  CHECK_OK(tl_adamw_step(o, 0.1f, 0, NULL));
  tl_adamw_free(o);
}

int main(void) {
  RUN(counts_of_tyings);
  RUN(r_from_v);
  RUN(sigma_placement);
  RUN(storage_rounds);
  RUN(delta_is_what_is_applied);
  RUN(gradient_by_differences);
  RUN(gradient_in_parts);
  RUN(save_and_load_tinylora);
  RUN(save_and_load_lora);
  RUN(save_in_every_form);
  RUN(load_refuses);
  RUN(create_refuses);
  RUN(frees_in_any_order);
  return test_done();
}
