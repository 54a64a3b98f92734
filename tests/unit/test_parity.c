// test_parity.c: the model, its gradients and PEFT's adapters against transformers and PEFT (tests/parity/make_peft_fixtures.py
// documents the fixtures). Would catch: a wrong RoPE, norm, bias or head; a wrong gradient anywhere; a PEFT key, tying or scale
// read differently from PEFT.
#include "parity.h"

#define FIXTURES TL_SOURCE_DIR "/tests/parity/fixtures/model/"

static tl_model *load_base(const char *family, tl_safetensors *base) {
  char path[1024];
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  snprintf(path, sizeof path, FIXTURES "%s", family);
  CHECK_OK(tl_model_load(path, &o, &m));
  snprintf(path, sizeof path, FIXTURES "%s/reference.safetensors", family);
  CHECK_OK(tl_safetensors_open(base, path));
  return m;
}

static void forward_case(const char *family) {
  tl_safetensors base;
  tl_model *m = load_base(family, &base);
  if (!m) return;
  compare_forward(family, m, &base);
  tl_safetensors_close(&base);
  tl_model_free(m);
}

static void full_case(const char *family) {
  tl_safetensors base;
  tl_model *m = load_base(family, &base);
  if (!m) return;
  compare_full(family, m, &base);
  tl_safetensors_close(&base);
  tl_model_free(m);
}

static void peft_case(const char *family, const char *name) {
  tl_safetensors base;
  char dir[1024];
  snprintf(dir, sizeof dir, FIXTURES "%s/%s", family, name);
  tl_model *m = load_base(family, &base);
  if (!m) return;
  compare_adapter(name, m, &base, dir);
  tl_safetensors_close(&base);
  tl_model_free(m);
}

static void llama_forward(void) { forward_case("llama"); }
static void qwen2_forward(void) { forward_case("qwen2"); }
static void llama_gradient_of_all_weights(void) { full_case("llama"); }
static void qwen2_gradient_of_all_weights(void) { full_case("qwen2"); }
static void peft_tinylora_one_vector(void) { peft_case("llama", "tinylora_full"); }
static void peft_tinylora_vector_per_module(void) { peft_case("llama", "tinylora_none"); }
static void peft_tinylora_ratio(void) { peft_case("llama", "tinylora_ratio"); }
static void peft_tinylora_two_kinds(void) { peft_case("llama", "tinylora_qv"); }
static void peft_tinylora_ratio_qwen2(void) { peft_case("qwen2", "tinylora_ratio"); }
static void peft_lora(void) { peft_case("llama", "lora"); }

int main(void) {
  RUN(llama_forward);
  RUN(qwen2_forward);
  RUN(llama_gradient_of_all_weights);
  RUN(qwen2_gradient_of_all_weights);
  RUN(peft_tinylora_one_vector);
  RUN(peft_tinylora_vector_per_module);
  RUN(peft_tinylora_ratio);
  RUN(peft_tinylora_two_kinds);
  RUN(peft_tinylora_ratio_qwen2);
  RUN(peft_lora);
  return test_done();
}
