// test_memory.c: whose memory it is, and what happens when there is none. The sampler and the pass keep what they need alive, or find it where it
// lies now; a step for which the system has no memory changes nothing.
#include "tiny.h"
#include <sys/resource.h>

enum { NEW = 12 };

// The caller's tokenizer may go first: stop strings are looked for in the sampler's own.
static void sampler_keeps_its_tokenizer(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_tokenizer *t = NULL;
  tl_sampler *s = NULL;
  int32_t ids[4];
  int pending = 1;
  const char *const stop[] = {"no such text"};
  tl_sampling p = {.temperature = 1, .top_p = 1, .max_new_tokens = 30, .ignore_eos = true, .stop = stop, .n_stop = 1};
  tiny_ids(ids, 4, 1);
  CHECK_OK(tl_tokenizer_load(TL_SOURCE_DIR "/models/tiny/tiny-xs", &t));
  CHECK_OK(tl_sampler_create(m, NULL, t, NULL, &s));
  tl_tokenizer_free(t);
  CHECK_OK(tl_sampler_submit(s, ids, 4, 2, 0, &p, NULL));
  while (pending && !test_why[0]) {
    CHECK_OK(tl_sampler_run(s, 1 << 20, &pending));
    for (tl_completion c; tl_sampler_pop(s, &c);) CHECK(c.n_tokens == 30, "%d tokens", c.n_tokens);
  }
  tl_sampler_free(s);
  tl_model_free(m);
}

// bytes of this process's addresses
static size_t address_space(void) {
  unsigned long pages = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (f && fscanf(f, "%lu", &pages) != 1) pages = 0;
  if (f) fclose(f);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static bool no_limit_here(const char *test) {
#ifdef __SANITIZE_ADDRESS__
  const char *why = "a sanitizer's own memory has no room under a limit";
#else
  const char *why = tl_ops()->host ? NULL : "the limit is on the host's memory";
#endif
  if (why) test_skip(test, why);
  return why != NULL;
}

// One step of the sampler with so many MiB left to the process, which is too little for it.
static void step_finds_no_memory(tl_sampler *s, int mib) {
  struct rlimit before, limit;
  int pending;
  getrlimit(RLIMIT_AS, &before);
  limit = before;
  limit.rlim_cur = (rlim_t)address_space() + ((rlim_t)mib << 20);
  setrlimit(RLIMIT_AS, &limit);
  tl_status st = tl_sampler_run(s, 1, &pending);
  setrlimit(RLIMIT_AS, &before);
  CHECK(st == TL_E_MEMORY, "status %d", (int)st);
}

// What the system does not give: the sampler and what keeps activations are as before, and what needs less goes on.
static void memory_that_is_not_there(void) {
  if (no_limit_here("memory_that_is_not_there")) return;
  enum { MANY = 4096, LONG = 500 };
  tl_model *m = tiny_model("llama", TL_F32);
  tl_kept *keep = NULL;
  int32_t ids[4];
  int64_t request;
  int pending = 0;
  tl_sampling p = {.temperature = 1, .top_p = 1, .max_new_tokens = LONG, .ignore_eos = true};
  tiny_ids(ids, 4, 1);
  CHECK_OK(tl_kept_create((int64_t)6 << 30, &keep));
  for (int kept = 0; kept < 2; kept++) {
    tl_sampler *s = NULL;
    tl_sampler_options o = {.max_sequences = MANY, .kept = kept ? keep : NULL};
    CHECK_OK(tl_sampler_create(m, NULL, NULL, &o, &s));
    CHECK_OK(tl_sampler_submit(s, ids, 4, MANY, 0, &p, &request));
    step_finds_no_memory(s, 512);
    CHECK(tl_sampler_cancel(s, request), "the request is gone");
    tl_sampler_free(kept ? s : NULL);  // what is kept serves another one
    if (kept) CHECK_OK(tl_sampler_create(m, NULL, NULL, &(tl_sampler_options){.kept = keep}, &s));
    p.max_new_tokens = 5;
    CHECK_OK(tl_sampler_submit(s, ids, 4, 2, 0, &p, &request));
    CHECK_OK(tl_sampler_run(s, 1 << 20, &pending));
    tl_completion c;
    CHECK(tl_sampler_pop(s, &c) && c.n_tokens == 5, "no completion came");
    tl_sampler_free(s);
    p.max_new_tokens = LONG;
  }
  tl_kept_free(keep);
  tl_model_free(m);
}

// A step that fails when its rows are computed already is made again: the completions beside it go on as if nothing had been.
static void step_is_made_again(void) {
  if (no_limit_here("step_is_made_again")) return;
  enum { VOCAB = 400000 };  // the likeliest tokens want 64 rows of logits
  tl_model *m = tiny_model_of("llama", TL_F32, VOCAB);
  int32_t ids[4], got[2][NEW];
  tiny_ids(ids, 4, 1);
  for (int fails = 0; fails < 2; fails++) {
    tl_sampler *s = NULL;
    tl_sampling p = {.temperature = 1, .top_p = 1, .max_new_tokens = NEW, .ignore_eos = true};
    int pending = 1;
    int64_t first, second;
    tl_sampler_options o = {.max_sequences = 4, .prefill_tokens = 16, .memory_bytes = 1 << 20, .whole_cache = true};
    CHECK_OK(tl_sampler_create(m, NULL, NULL, &o, &s));
    CHECK_OK(tl_sampler_submit(s, ids, 4, 1, 0, &p, &first));
    CHECK_OK(tl_sampler_run(s, 3, &pending));
    p.n_top = 2;
    CHECK_OK(tl_sampler_submit(s, ids, 3, 1, 1, &p, &second));
    if (fails) step_finds_no_memory(s, 48);
    while (pending && !test_why[0]) {
      CHECK_OK(tl_sampler_run(s, 1 << 20, &pending));
      for (tl_completion c; tl_sampler_pop(s, &c);)
        if (c.request == first) memcpy(got[fails], c.ids, sizeof got[0]);
    }
    tl_sampler_free(s);
  }
  CHECK(!memcmp(got[0], got[1], sizeof got[0]), "other tokens");
  tl_model_free(m);
}

// A pass that was made before a longer one: the model's table of rotations has grown, and lies elsewhere.
static void pass_before_a_longer_one(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = tiny_adapter(m, TL_TINYLORA, 1, 0.1f);
  int32_t ids[512];
  float lp[2][20], grad[2][8] = {{0}}, *all = malloc(sizeof(float) * 512);
  tiny_ids(ids, 512, 1);
  for (int longer = 0; longer < 2; longer++) {
    tl_batch *b = NULL;
    tl_pass *p = NULL;
    tl_pass_options o = {.temperature = 1, .backward = true};
    CHECK_OK(tl_batch_create(&b));
    CHECK_OK(tl_batch_prompt(b, ids, 10, NULL));
    CHECK_OK(tl_batch_completion(b, 0, ids + 10, 20, NULL));
    CHECK_OK(tl_pass_create(m, a, b, &o, &p));
    tl_adapter_zero_gradient(a);
    for (int t = 0; t < 20; t++) all[t] = 1;
    if (longer) CHECK_OK(tl_model_need_positions(m, 400));
    CHECK_OK(tl_pass_forward(p, 0, lp[longer], NULL));
    if (longer) CHECK_OK(tl_model_need_positions(m, 4000));
    CHECK_OK(tl_pass_backward(p, 0, all, NULL));
    memcpy(grad[longer], tl_adapter_gradient(a), sizeof(float) * (size_t)tl_adapter_n_parameters(a));
    tl_pass_free(p);
    tl_batch_free(b);
  }
  CHECK(!memcmp(lp[0], lp[1], sizeof lp[0]), "other logprobs");
  CHECK(!memcmp(grad[0], grad[1], sizeof grad[0]), "another gradient");
  free(all);
  tl_adapter_free(a);
  tl_model_free(m);
}

int main(void) {
  RUN(sampler_keeps_its_tokenizer);
  RUN(memory_that_is_not_there);
  RUN(step_is_made_again);
  RUN(pass_before_a_longer_one);
  return test_done();
}
