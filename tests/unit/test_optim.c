// test_optim.c: AdamW against torch (tests/parity/make_grpo_fixtures.py), clipping, refusal of a gradient that is not finite,
// and that a saved state continues with the same bits. Would catch: a wrong bias correction, decay order or clip factor, and a
// resume that forgets the step count or the fp32 master copy.
#include "../../runtime/adapter/adapter.h"
#include "tiny.h"
#include <cjson/cJSON.h>

enum { n_fixture = 11, steps = 5 };
static const cJSON *cases;

static int list(const cJSON *array, float *x) {
  int n = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, array) x[n++] = (float)item->valuedouble;
  return n;
}
static double num(const cJSON *o, const char *key) { return cJSON_GetObjectItemCaseSensitive(o, key)->valuedouble; }

// A TinyLoRA whose parameter vector has n numbers: what the optimiser sees of an adapter.
static tl_adapter *vector_of(tl_model *m, int n, tl_dtype storage) {
  int32_t module = 0;
  tl_adapter_options o = {.kind = TL_TINYLORA, .modules = &module, .n_modules = 1, .rank = 2, .u = n, .storage = storage,
                          .seed = 1};
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_create(m, &o, &a));
  return a;
}

static void adamw_as_torch(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  const cJSON *c;
  cJSON_ArrayForEach(c, cases) {
    tl_adapter *a = vector_of(m, n_fixture, TL_F32);
    tl_adamw *o = NULL;
    CHECK_OK(tl_adamw_create(a, (float)num(c, "beta1"), (float)num(c, "beta2"), (float)num(c, "eps"),
                             (float)num(c, "weight_decay"), &o));
    list(cJSON_GetObjectItem(c, "start"), tl_adapter_parameters(a));
    for (int i = 0; i < steps; i++) {
      float want[n_fixture];
      double norm, want_norm = cJSON_GetArrayItem(cJSON_GetObjectItem(c, "norms"), i)->valuedouble;
      list(cJSON_GetArrayItem(cJSON_GetObjectItem(c, "gradients"), i), tl_adapter_gradient(a));
      list(cJSON_GetArrayItem(cJSON_GetObjectItem(c, "params"), i), want);
      CHECK_OK(tl_adamw_step(o, (float)num(c, "lr"), (float)num(c, "max_norm"), &norm));
      // fp32 on both sides: a few roundings a step
      CHECK(test_max_rel(tl_adapter_parameters(a), want, n_fixture) < 2e-6, "step %d: %.2e", i,
            test_max_rel(tl_adapter_parameters(a), want, n_fixture));
      CHECK(fabs(norm - want_norm) < 1e-6 * want_norm, "norm %g, wanted %g", norm, want_norm);
    }
    tl_adamw_free(o);
    tl_adapter_free(a);
  }
  tl_model_free(m);
}

static void adamw_refuses_nan(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = vector_of(m, 4, TL_F32);
  tl_adamw *o = NULL;
  CHECK_OK(tl_adamw_create(a, 0.9f, 0.999f, 1e-8f, 0, &o));
  tl_adapter_gradient(a)[2] = NAN;
  CHECK(tl_adamw_step(o, 0.1f, 1, NULL) == TL_E_ARG);
  for (int i = 0; i < 4; i++) CHECK(tl_adapter_parameters(a)[i] == 0, "parameters were changed");
  CHECK(tl_adamw_create(a, 1, 0.9f, 0, 0, &(tl_adamw *){NULL}) == TL_E_ARG, "beta1 of 1");
  tl_adamw_free(o);
  tl_adapter_free(a);
  tl_model_free(m);
}

static void fake_steps(tl_adamw *o, tl_adapter *a, int from, int to) {
  for (int i = from; i < to; i++) {
    float *g = tl_adapter_gradient(a);
    tl_normal_fill(g, (size_t)tl_adapter_n_parameters(a), 5, (uint64_t)i);
    CHECK_OK(tl_adamw_step(o, 1e-2f, 1, NULL));
  }
}

static void adamw_resumes(void) {
  char dir[] = "/tmp/tl-optim-XXXXXX", path[64];
  CHECK(mkdtemp(dir), "no temporary folder");
  snprintf(path, sizeof path, "%s/state.safetensors", dir);
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = vector_of(m, 13, TL_BF16), *b = vector_of(m, 13, TL_BF16), *c = vector_of(m, 12, TL_BF16);
  tl_adamw *oa = NULL, *ob = NULL, *oc = NULL;
  CHECK_OK(tl_adamw_create(a, 0.9f, 0.99f, 1e-8f, 0.01f, &oa));
  CHECK_OK(tl_adamw_create(b, 0.9f, 0.99f, 1e-8f, 0.01f, &ob));
  CHECK_OK(tl_adamw_create(c, 0.9f, 0.99f, 1e-8f, 0.01f, &oc));
  fake_steps(oa, a, 0, 3);
  CHECK_OK(tl_adamw_save(oa, path));
  CHECK_OK(tl_adamw_load(ob, path));
  fake_steps(oa, a, 3, 6);
  fake_steps(ob, b, 3, 6);
  CHECK(!memcmp(tl_adapter_parameters(a), tl_adapter_parameters(b), 13 * sizeof(float)), "a resumed run differs");
  CHECK(!memcmp(a->modules[0].R, b->modules[0].R, 4 * sizeof(float)), "the adapter was not refreshed");
  CHECK(tl_adamw_load(oc, path) == TL_E_SHAPE && strstr(tl_last_error(), "13"), "%s", tl_last_error());
  unlink(path);
  rmdir(dir);
  tl_adamw_free(oa);
  tl_adamw_free(ob);
  tl_adamw_free(oc);
  tl_adapter_free(a);
  tl_adapter_free(b);
  tl_adapter_free(c);
  tl_model_free(m);
}

int main(void) {
  char *text = NULL;
  cJSON *document = NULL;
  if (tl_read_file(TL_SOURCE_DIR "/tests/parity/fixtures/grpo.json", &text, NULL) == TL_OK) document = cJSON_Parse(text);
  free(text);
  cases = cJSON_GetObjectItemCaseSensitive(document, "adamw");
  if (!cases) {
    printf("not ok adamw_fixtures: %s\n", tl_last_error());
    return 1;
  }
  RUN(adamw_as_torch);
  RUN(adamw_refuses_nan);
  RUN(adamw_resumes);
  cJSON_Delete(document);
  return test_done();
}
