// test_record.c: decode steps that are recorded and replayed draw what the ops draw one by one, to the bit, and leave the same for
// training; on the simulator of CUDA (or a device, TL_TEST_DEVICE), which refuses what a capture forbids and graphs whose memory was freed. Each way runs in a
// process of its own, since TL_GRAPH is read when a device is opened; one takes prompts whole, the other in cuts of 32. Would catch: an argument of a step that changes and is not
// in the ops' memory, rows that fill up a step and touch others, a recording that outlives its places (the adapter's state, longer
// lists, the rotation table, scratch), index arrays that are filled again while they are on their way, and recordings that are made but never replayed.
#include "tiny.h"
#include <sys/wait.h>

enum { PROMPTS = 6, GROUP = 2, NEW = 14, MOST = PROMPTS * GROUP, GRADIENT = 512 };
static const int prompt_length[PROMPTS] = {5, 17, 1, 122, 33, 8};  // 122: its list goes beyond 128 keys

typedef struct {
  int32_t n[MOST], ids[MOST * NEW];
  float logprobs[MOST * NEW], entropy[MOST * NEW], trained[MOST * NEW], gradient[GRADIENT];
  int64_t steps, replays;
  int first_kept, prefill;
} outcome;

static const char *device(void) {  // the simulator, or the device that tests are to run on
  const char *name = getenv("TL_TEST_DEVICE");
  return name ? name : "cusim";
}

static void collect(tl_sampler *s, const int64_t *request, outcome *o) {
  for (tl_completion c; tl_sampler_pop(s, &c);)
    for (int i = 0; i < PROMPTS; i++) {
      if (request[i] != c.request) continue;
      int k = i * GROUP + c.index;
      o->n[k] = c.n_tokens;
      memcpy(o->ids + k * NEW, c.ids, sizeof *c.ids * (size_t)c.n_tokens);
      memcpy(o->logprobs + k * NEW, c.logprobs, sizeof *c.logprobs * (size_t)c.n_tokens);
      memcpy(o->entropy + k * NEW, c.entropy, sizeof *c.entropy * (size_t)c.n_tokens);
    }
}

// between steps: memory that steps use moves (scratch and the rotation table by a pass over more rows; the adapter's state)
static void disturb(tl_model *m, tl_adapter *a, int step) {
  static int32_t ids[600];
  static float lp[600];
  tiny_ids(ids, 600, 9);
  if (step == 6) CHECK_OK(tl_logprobs(m, a, ids, 300, 1, lp));
  if (step == 12) CHECK_OK(tl_logprobs(m, a, ids, 600, 1, lp));
  if (step != 9 || !a) return;
  tl_adapter_parameters(a)[0] += 0.25f;
  CHECK_OK(tl_adapter_refresh(a));
}

static void sample(tl_model *m, tl_adapter *a, tl_population *pop, tl_kept *keep, bool disturbed, outcome *o) {
  tl_sampler_options opt = {.max_sequences = 7, .prefill_tokens = o->prefill, .kept = keep, .population = pop};
  tl_sampler *s = NULL;
  CHECK_OK(tl_sampler_create(m, a, NULL, &opt, &s));
  if (!s) return;
  int64_t request[PROMPTS];
  for (int i = 0; i < PROMPTS; i++) {
    int32_t ids[128];
    tiny_ids(ids, prompt_length[i], (uint64_t)i);
    tl_sampling p = {.temperature = i == 2 && !keep ? 0 : 0.9f, .top_p = i == 1 ? 0.8f : 1, .top_k = i == 4 ? 9 : 0, .max_new_tokens = NEW - i % 3, .seed = 4,
                     .member = pop ? i % 3 - 1 : 0};
    CHECK_OK(tl_sampler_submit(s, ids, prompt_length[i], GROUP, (uint64_t)(100 * i), &p, &request[i]));
  }
  int pending = 1;
  for (int step = 0; pending; step++) {
    tl_status st = tl_sampler_run(s, 1, &pending);
    CHECK(st == TL_OK, "%s", tl_last_error());
    if (st != TL_OK) break;
    collect(s, request, o);
    if (disturbed) disturb(m, a, step);
  }
  tl_sampler_stats stats;
  tl_sampler_get_stats(s, &stats);
  o->steps = stats.decode_steps, o->replays = stats.replays;
  tl_sampler_free(s);
}

// logprobs and the gradient of a weighted sum of them, from what the sampler kept
static void train(tl_model *m, tl_adapter *a, tl_kept *keep, outcome *o) {
  tl_batch *b = NULL;
  CHECK_OK(tl_batch_create(&b));
  for (int i = 0; i < PROMPTS; i++) {
    int32_t ids[128];
    int at, c;
    tiny_ids(ids, prompt_length[i], (uint64_t)i);
    CHECK_OK(tl_batch_prompt(b, ids, prompt_length[i], &at));
    for (int j = 0; j < GROUP; j++) {
      int k = i * GROUP + j;
      CHECK_OK(tl_batch_completion(b, at, o->ids + k * NEW, o->n[k], &c));
      CHECK_OK(tl_batch_sampled(b, c, (uint64_t)(100 * i + j)));
    }
  }
  tl_pass_options opt = {.temperature = 0.9f, .backward = true, .kept = keep};
  tl_pass *p = NULL;
  CHECK_OK(tl_pass_create(m, a, b, &opt, &p));
  if (!p) return;
  o->first_kept = tl_pass_first_kept(p);
  float d[MOST * NEW];
  for (int i = 0; i < MOST * NEW; i++) d[i] = tl_uniform(8, 8, (uint64_t)i) - 0.4f;
  for (int i = 0; i < tl_pass_n_micro(p); i++) {
    CHECK_OK(tl_pass_forward(p, i, o->trained, NULL));
    CHECK_OK(tl_pass_backward(p, i, d, NULL));
  }
  CHECK(tl_adapter_n_parameters(a) <= GRADIENT, "too many");
  memcpy(o->gradient, tl_adapter_gradient(a), sizeof(float) * (size_t)tl_adapter_n_parameters(a));
  tl_pass_free(p);
  tl_batch_free(b);
}

// ---- what is run both ways
static void moving(outcome *o) {
  tl_model *m = tiny_model("llama", TL_BF16);
  tl_adapter *a = m ? tiny_adapter(m, TL_TINYLORA, 3, 0.3f) : NULL;
  if (!a) return;
  sample(m, a, NULL, NULL, true, o);
  tl_adapter_free(a);
  tl_model_free(m);
}
static void kept_of(const char *family, tl_dtype compute, int64_t budget, outcome *o) {
  tl_model *m = tiny_model(family, compute);
  tl_adapter *a = m ? tiny_adapter(m, TL_LORA_XS, 21, 0.3f) : NULL;
  tl_kept *keep = NULL;
  CHECK_OK(tl_kept_create(budget, &keep));
  if (!a) return;
  sample(m, a, NULL, keep, false, o);
  train(m, a, keep, o);
  tl_kept_free(keep);
  tl_adapter_free(a);
  tl_model_free(m);
}
static void kept_whole(outcome *o) { kept_of("qwen3", TL_BF16, 16 << 20, o); }
static void kept_some(outcome *o) { kept_of("mistral", TL_F32, 600 << 10, o); }
static void members(outcome *o) {
  tl_model *m = tiny_model("qwen2", TL_BF16);
  tl_adapter *a[2] = {m ? tiny_adapter(m, TL_TINYLORA, 3, 0.3f) : NULL, NULL};
  a[1] = a[0] ? tiny_adapter(m, TL_TINYLORA, 3, 0.1f) : NULL;
  tl_population *p = NULL;
  if (!a[1]) return;
  CHECK_OK(tl_population_create(a, 2, &p));
  if (p) sample(m, NULL, p, NULL, false, o);
  tl_population_free(p);
  for (int i = 0; i < 2; i++) tl_adapter_free(a[i]);
  tl_model_free(m);
}

// in a process of its own, which takes so many rows of prompts at once; false: it ended badly, its words are on stderr
static bool run_as(const char *graph, int prefill, void (*scenario)(outcome *), outcome *o) {
  int pipes[2], status = 1;
  fflush(stdout);
  if (pipe(pipes)) return false;
  pid_t child = fork();
  if (child == 0) {
    close(pipes[0]);
    test_why[0] = 0;
    setenv("TL_GRAPH", graph, 1);
    setenv("TL_BACKEND", device(), 1);
    outcome *mine = calloc(1, sizeof *mine);
    mine->prefill = prefill;
    scenario(mine);
    if (tl_device_warning()) test_fail("%s", tl_device_warning());
    if (test_why[0]) fprintf(stderr, "TL_GRAPH=%s: %s\n", graph, test_why);
    const char *p = (const char *)mine;
    for (size_t left = sizeof *mine; left && !test_why[0];) {
      ssize_t n = write(pipes[1], p, left);
      if (n <= 0) break;
      p += n, left -= (size_t)n;
    }
    _exit(test_why[0] != 0);
  }
  close(pipes[1]);
  size_t got = 0;
  for (ssize_t n; got < sizeof *o && (n = read(pipes[0], (char *)o + got, sizeof *o - got)) > 0;) got += (size_t)n;
  close(pipes[0]);
  return child > 0 && waitpid(child, &status, 0) == child && status == 0 && got == sizeof *o;
}

// least, most: of the first layer that the trainer finds kept
static void compare(void (*scenario)(outcome *), int least, int most) {
  static outcome plain, replayed;
  memset(&plain, 0, sizeof plain), memset(&replayed, 0, sizeof replayed);
  CHECK(run_as("0", 512, scenario, &plain), "without recordings: see stderr");
  CHECK(run_as("1", 32, scenario, &replayed), "with recordings: see stderr");
  CHECK(plain.replays == 0 && replayed.steps == plain.steps, "%lld replays, %lld and %lld steps", (long long)plain.replays, (long long)plain.steps,
        (long long)replayed.steps);
  CHECK(replayed.replays > replayed.steps / 2, "only %lld replays in %lld steps", (long long)replayed.replays, (long long)replayed.steps);
  CHECK(plain.first_kept >= least && plain.first_kept <= most && plain.first_kept == replayed.first_kept, "layers kept from %d and %d", plain.first_kept,
        replayed.first_kept);
  CHECK(!memcmp(plain.n, replayed.n, sizeof plain.n) && !memcmp(plain.ids, replayed.ids, sizeof plain.ids), "tokens differ");
  CHECK(!memcmp(plain.logprobs, replayed.logprobs, sizeof plain.logprobs) && !memcmp(plain.entropy, replayed.entropy, sizeof plain.entropy),
        "logprobs or entropies differ");
  CHECK(!memcmp(plain.trained, replayed.trained, sizeof plain.trained), "the trainer's logprobs differ");
  CHECK(!memcmp(plain.gradient, replayed.gradient, sizeof plain.gradient), "gradients differ: %g, %g", plain.gradient[0], replayed.gradient[0]);
}
// A device of 96 MiB. 64 that are on their way back are waited for, and found again for 72; what there is no room for is
// said, and the rest goes on.
static void memory_that_comes_back(outcome *o) {
  const tlk_ops *ops = tl_ops();
  static float floats[64];
  CHECK(!strcmp(ops->name, "cuda"), "the backend is %s", ops->name);
  for (int i = 0; i < 3; i++) {
    void *p = ops->alloc((size_t)64 << 20, TLK_MEM_OPS);
    if (!p) test_fail("round %d: no 64 MiB", i);
    if (p) ops->zero(p, (size_t)64 << 20);
    ops->release(p);
    void *q = ops->alloc((size_t)72 << 20, TLK_MEM_OPS);
    if (!q) test_fail("round %d: no 72 MiB where 64 were given back", i);
    if (q) ops->zero(q, (size_t)72 << 20), ops->copy(floats, q, sizeof floats);
    CHECK(floats[63] == 0, "zeros are %g", floats[63]);
    ops->release(q);
  }
  CHECK(ops->alloc((size_t)97 << 20, TLK_MEM_OPS) == NULL, "97 MiB of 96");
  tl_arena arena;
  CHECK(tl_arena_init(&arena, (size_t)97 << 20, "this") == TL_E_MEMORY && arena.size == 0, "an arena of %zu bytes without memory", arena.size);
  void *p = ops->alloc((size_t)80 << 20, TLK_MEM_OPS);
  CHECK(p != NULL, "no 80 MiB after what could not be had");
  ops->release(p);
  // a recording that there is no memory to launch says so, and another one runs when there is some
  float *x = ops->alloc(256, TLK_MEM_OPS), halves[64] = {0};
  ops->zero(x, 256);
  size_t rest = (size_t)96 << 20;
  while (rest && !(p = ops->alloc(rest, TLK_MEM_OPS))) rest -= 32 << 10;
  for (int i = 0; i < 2; i++) {
    ops->record();
    ops->scale(x, 0.5f, 64);
    tlk_recording *r = ops->recorded();
    CHECK(r && ops->replay(r) == i, "recording %d: %s", i, r ? "launched where there is no memory, or not where there is" : "none");
    ops->recording_free(r);
    ops->release(p), p = NULL;
  }
  ops->copy(halves, x, 256);
  ops->release(x);
  // pinned memory that is given back while a copy from it is on its way
  int32_t *pinned = ops->alloc(256, TLK_MEM_BOTH), *there = ops->alloc(256, TLK_MEM_OPS), back = 0;
  pinned[63] = 12345;
  ops->copy(there, pinned, 256);
  ops->release(pinned);
  ops->copy(&back, there + 63, sizeof back);
  CHECK(back == 12345, "a copy from memory that was given back after it brought %d", back);
  ops->release(there);
  o->steps = 1;
}
static void memory_is_found_again(void) {
  static outcome o;
  setenv("CUSIM_MEMORY", "96", 1);
  CHECK(run_as("1", 0, memory_that_comes_back, &o) && o.steps == 1, "see stderr");
  unsetenv("CUSIM_MEMORY");
}

static void places_that_move(void) { compare(moving, 0, 0); }
static void all_layers_kept(void) { compare(kept_whole, 0, 0); }
static void some_layers_kept(void) { compare(kept_some, 1, 2); }
static void of_a_population(void) { compare(members, 0, 0); }

int main(void) {
  char path[4200];
  if (!tl_module_path(path, sizeof path, device())) {
    test_skip("recordings", "the simulator of CUDA (or the device's module) was not built (./dev test builds it)");
    return 0;
  }
  RUN(places_that_move);
  RUN(all_layers_kept);
  RUN(some_layers_kept);
  RUN(of_a_population);
  if (!strcmp(device(), "cusim")) RUN(memory_is_found_again);
  return test_done();
}
