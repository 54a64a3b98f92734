// test_models.c: models as they are found, against transformers and PEFT: every family and rotation, windows, biases, norms on
// q and k, vocabularies with spare rows, in the key styles of transformers 4 and 5 (tests/parity/make_model_fixtures.py). Would
// catch: a key read differently, a window off by one or on the wrong layer, a wrong gradient through a norm, YaRN's ramp or
// attention factor. Prints the largest differences of each case; docs/models.md quotes them. TL_TEST_DEVICE=cuda puts a device in the
// place of its simulator.
#include "parity.h"
#include <cjson/cJSON.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIXTURES TL_SOURCE_DIR "/tests/parity/fixtures/models/"

static char folder[64];

static void link_to(const char *name, const char *format, ...) {
  char path[1024], at[128];
  va_list ap;
  va_start(ap, format);
  vsnprintf(path, sizeof path, format, ap);
  va_end(ap);
  snprintf(at, sizeof at, "%s/%s", folder, name);
  unlink(at);
  CHECK(symlink(path, at) == 0, "%s", path);
}

// the case's model in one key style: "config.json" or "config_v4.json"
static tl_model *load_style(const char *name, const char *weights, const char *config) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  link_to("config.json", FIXTURES "%s/%s", name, config);
  link_to("model.safetensors", FIXTURES "weights/%s.safetensors", weights);
  CHECK_OK(tl_model_load(folder, &o, &m));
  return m;
}

static const cJSON *one; // the case being run

static void run_one(void) {
  const char *name = one->string, *weights = cJSON_GetObjectItem(one, "weights")->valuestring;
  char path[1024];
  tl_safetensors base;
  snprintf(path, sizeof path, FIXTURES "%s/reference.safetensors", name);
  CHECK_OK(tl_safetensors_open(&base, path));
  tl_model *v4 = load_style(name, weights, "config_v4.json"), *v5 = load_style(name, weights, "config.json");
  worst_forward = worst_gradient = 0;
  if (v4)
    compare_forward(name, v4, &base);
  if (v5)
    compare_forward(name, v5, &base);
  if (v5)
    compare_full(name, v5, &base);
  const cJSON *adapter;
  cJSON_ArrayForEach(adapter, cJSON_GetObjectItem(one, "adapters")) {
    snprintf(path, sizeof path, FIXTURES "%s/%s", name, adapter->valuestring);
    if (v5)
      compare_adapter(adapter->valuestring, v5, &base, path);
  }
  printf("  %-20s logits, logprobs %.1e   gradients %.1e\n", name, worst_forward, worst_gradient);
  tl_model_free(v4);
  tl_model_free(v5);
  tl_safetensors_close(&base);
}

static int run_all_cases(const char *backend) {
  char *text, name[64];
  size_t n;
  setenv("TL_BACKEND", backend, 1);
  if (tl_device_select(NULL) != TL_OK || tl_device_warning()) {  // else the CPU's results would pass for the device's
    printf("not ok %s: %s\n", backend, tl_device_warning() ? tl_device_warning() : tl_last_error());
    return 1;
  }
  snprintf(folder, sizeof folder, "/tmp/tl-models-XXXXXX");
  if (!mkdtemp(folder) || tl_read_file(FIXTURES "cases.json", &text, &n) != TL_OK) {
    printf("not ok cases: %s\n", tl_last_error());
    return 1;
  }
  printf("backend %s, largest differences by the largest value compared:\n", backend);
  cJSON *cases = cJSON_ParseWithLength(text, n);
  cJSON_ArrayForEach(one, cases) {
    snprintf(name, sizeof name, "%s %s", backend, one->string);
    test_run(name, run_one);
  }
  cJSON_Delete(cases);
  free(text);
  snprintf(name, sizeof name, "rm -r %s", folder);
  return system(name) != 0 || test_done();
}

int main(void) {
  const char *real = getenv("TL_TEST_DEVICE"); // ./dev gpu names it
  const char *const backends[] = {"cpu", "reference", real ? real : "cusim"};
  const char *modules = getenv("TL_MODULES"); // the simulator of CUDA is a module, which ./dev test builds
  char simulator[4096] = "";
  if (modules) snprintf(simulator, sizeof simulator, "%s/tl_cusim.so", modules);
  bool device = real || access(simulator, R_OK) == 0;
  if (!device) test_skip("cusim", "its simulator was not built (./dev test builds it)");
  int failed = 0;
  for (int i = 0; i < 2 + device; i++) { // a process chooses its backend once
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
      exit(run_all_cases(backends[i]));
    int status = 1;
    failed |= waitpid(child, &status, 0) != child || status != 0;
  }
  return failed;
}
