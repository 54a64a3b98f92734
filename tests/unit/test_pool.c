// test_pool.c: the verifier pool. Every outcome is reached, none is a silent 0, no job is lost or answered twice, and a call
// that does not come back stops neither the pool, nor its destruction, nor the end of the program.
#include "../test.h"
#include "../../runtime/tl.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

static char dir[] = "/tmp/tl_pool_XXXXXX";
static char lua_path[64];

static void write_module(const char *name, const char *source) {
  char path[128];
  snprintf(path, sizeof path, "%s/%s.lua", dir, name);
  if (tl_write_file(path, source, strlen(source)) != TL_OK)
    test_fail("%s", tl_last_error());
}

// One verifier whose problem says what to do.
static const char *const VERIFIER =
    "return function(problem, completion)\n"
    "  local k = problem.kind\n"
    "  if k == 'number' then return problem.value, { seen = completion.text, list = { 1, 2 } } end\n"
    "  if k == 'bool' then return completion.text == problem.answer end\n"
    "  if k == 'abstain' then return nil, 'no opinion' end\n"
    "  if k == 'error' then return problem.missing.field end\n" // line 6
    "  if k == 'table' then error({}) end\n"                    // line 7
    "  if k == 'nan' then return 0/0 end\n"
    "  if k == 'string' then return 'yes' end\n"
    "  if k == 'loop' then while true do end end\n"
    "  if k == 'stubborn' then while true do pcall(function() while true do end end) end end\n"
    "  if k == 'coroutine' then return coroutine.wrap(function() while true do end end)() end\n"
    "  if k == 'pattern' then return (string.rep('a', 40)):find(string.rep('a-', 40) .. 'b') end\n"
    "  if k == 'grammar' then local l = require 'lpeg' return (l.P{ l.P'a' * l.V(1) * l.V(1) + l.P'a' * l.V(1) + 'a' } * "
    "'b'):match(string.rep('a', 60)) end\n"
    "  if k == 'sleep' then return #io.popen('sleep 0.9'):read('*a') end\n"
    "  if k == 'nap' then local f = require 'ffi' f.cdef 'int usleep(unsigned)' f.C.usleep(900000) return 1 end\n"
    "  if k == 'count' then local n = 0 for i = 1, problem.n do n = n + 1 end return n end\n"
    "  if k == 'memory' then local t = {} while true do t[#t + 1] = string.rep('x', 1000) .. #t end end\n"
    "  if k == 'rep' then return #string.rep('x', 1e9) end\n"
    "  if k == 'caught' then pcall(string.rep, 'x', 1e9) return 1 end\n"
    "  if k == 'exit' then os.exit(3) end\n"
    "  if k == 'nul' then return #completion.text end\n"
    "  if k == 'null' then return problem.nothing == nil and problem.list[3] == 3 end\n"
    "end\n";

static tl_pool *make_pool(const char *module, int workers, int timeout_ms, const char *config) {
  tl_pool *p = NULL;
  tl_pool_options o = {.n_workers = workers,
                       .timeout_ms = timeout_ms,
                       .memory_bytes = 32 << 20,
                       .lua_path = lua_path,
                       .module = module,
                       .config_json = config};
  CHECK_OK(tl_pool_create(&o, &p));
  return p;
}

// Runs one job to its end; the verdict stays valid until the next take.
static tl_verdict run_one(tl_pool *p, const char *problem, const char *completion) {
  int64_t id = 0;
  tl_verdict v = {.outcome = "none", .message = ""};
  bool got = false;
  CHECK_OK(tl_pool_submit(p, problem, completion, &id));
  CHECK(tl_pool_pending(p) == 1);
  CHECK_OK(tl_pool_take(p, 20000, &v, &got));
  CHECK(got, "no verdict on %s", problem);
  CHECK(v.job == id);
  return v;
}

static void expect(tl_pool *p, const char *problem, const char *completion, const char *outcome, double reward,
                   const char *text) {
  tl_verdict v = run_one(p, problem, completion);
  CHECK(strcmp(v.outcome, outcome) == 0, "%s: %s (%s), expected %s", problem, v.outcome, v.message, outcome);
  CHECK(strcmp(outcome, "ok") == 0 ? v.reward == reward : isnan(v.reward), "%s: reward %g", problem, v.reward);
  CHECK(strstr(v.message, text), "%s: message \"%s\" lacks \"%s\"", problem, v.message, text);
}

static void values(void) {
  tl_pool *p = make_pool("judge", 2, 2000, NULL);
  if (!p)
    return;
  expect(p, "{\"kind\":\"number\",\"value\":0.25}", "{\"text\":\"hi\"}", "ok", 0.25, "\"seen\":\"hi\"");
  expect(p, "{\"kind\":\"number\",\"value\":-3}", "{\"text\":\"hi\"}", "ok", -3, "\"list\":[1,2]");
  expect(p, "{\"kind\":\"bool\",\"answer\":\"42\"}", "{\"text\":\"42\"}", "ok", 1, "");
  expect(p, "{\"kind\":\"bool\",\"answer\":\"42\"}", "{\"text\":\"43\"}", "ok", 0, "");
  expect(p, "{\"kind\":\"abstain\"}", "{}", "abstain", 0, "\"no opinion\"");
  expect(p, "{\"kind\":\"nul\"}", "{\"text\":\"a\\u0000b\"}", "ok", 5, ""); // U+FFFD is 3 bytes
  expect(p, "{\"kind\":\"null\",\"nothing\":null,\"list\":[1,null,3]}", "{}", "ok", 1, "");
  tl_pool_free(p);
}

static void errors(void) {
  tl_pool *p = make_pool("judge", 1, 2000, NULL);
  if (!p)
    return;
  expect(p, "{\"kind\":\"error\"}", "{}", "error", 0, "judge.lua:6: ");
  expect(p, "{\"kind\":\"table\"}", "{}", "error", 0, "judge.lua:7: ");
  expect(p, "{\"kind\":\"nan\"}", "{}", "error", 0, "nan");
  expect(p, "{\"kind\":\"string\"}", "{}", "error", 0, "returned a string");
  expect(p, "{\"kind\":\"exit\"}", "{}", "error", 0, "os.exit");
  expect(p, "{\"kind\":", "{}", "error", 0, "problem is not JSON");
  expect(p, "{}", "nonsense", "error", 0, "completion is not JSON");
  expect(p, "{\"kind\":\"number\",\"value\":1}", "{\"text\":\"\"}", "ok", 1, ""); // and it still works
  tl_pool_free(p);
}

static void loops(void) {
  tl_pool *p = make_pool("judge", 1, 50, NULL);
  if (!p)
    return;
  expect(p, "{\"kind\":\"loop\"}", "{}", "timeout", 0, "time limit");
  expect(p, "{\"kind\":\"stubborn\"}", "{}", "timeout", 0, "time limit");
  expect(p, "{\"kind\":\"coroutine\"}", "{}", "timeout", 0, "time limit");
  expect(p, "{\"kind\":\"number\",\"value\":1}", "{\"text\":\"\"}", "ok", 1, "");
  tl_pool_free(p);
}

// The pattern takes longer than anybody waits: the thread is taken out of it, and goes on with the next job. More of them than
// a pool may have abandoned threads, so none may be left behind.
static void pattern_bomb(void) {
  tl_pool *p = make_pool("judge", 1, 50, NULL);
  if (!p)
    return;
  for (int i = 0; i < 40; i++) {
    expect(p, "{\"kind\":\"pattern\"}", "{}", "timeout", 0, "inside one call of a library");
    expect(p, "{\"kind\":\"number\",\"value\":1}", "{\"text\":\"\"}", "ok", 1, "");
  }
  expect(p, "{\"kind\":\"grammar\"}", "{}", "timeout", 0, "inside one call of a library");
  expect(p, "{\"kind\":\"number\",\"value\":1}", "{\"text\":\"\"}", "ok", 1, "");
  tl_pool_free(p);
}

// What waits in libc is not left by force: its thread is abandoned, the next job runs in a new one. A call that comes back, but
// too late, is a timeout too.
static void sleeping_call(void) {
  tl_pool *p = make_pool("judge", 1, 50, NULL);
  if (!p)
    return;
  expect(p, "{\"kind\":\"sleep\"}", "{}", "timeout", 0, "abandoned");
  expect(p, "{\"kind\":\"number\",\"value\":1}", "{\"text\":\"\"}", "ok", 1, "");
  expect(p, "{\"kind\":\"nap\"}", "{}", "timeout", 0, "time limit");
  tl_pool_free(p);
}

// The limit on instructions strikes whatever the clock says, and at the same place each time.
static void instructions(void) {
  tl_pool *p = NULL;
  tl_pool_options o = {.n_workers = 1, .timeout_ms = 20000, .lua_path = lua_path, .module = "judge", .instructions = 100000};
  CHECK_OK(tl_pool_create(&o, &p));
  if (!p)
    return;
  expect(p, "{\"kind\":\"loop\"}", "{}", "timeout", 0, "over the limit of 100000 instructions");
  expect(p, "{\"kind\":\"count\",\"n\":20000}", "{}", "ok", 20000, "");
  expect(p, "{\"kind\":\"count\",\"n\":200000}", "{}", "timeout", 0, "100000 instructions");
  tl_pool_free(p);
}

static void memory_bomb(void) {
  tl_pool *p = make_pool("judge", 1, 5000, NULL);
  if (!p)
    return;
  expect(p, "{\"kind\":\"memory\"}", "{}", "memory", 0, "memory limit of 32 MiB");
  expect(p, "{\"kind\":\"rep\"}", "{}", "memory", 0, "memory limit");
  expect(p, "{\"kind\":\"caught\"}", "{}", "memory", 0, "memory limit");
  expect(p, "{\"kind\":\"number\",\"value\":1}", "{\"text\":\"\"}", "ok", 1, "");
  tl_pool_free(p);
}

// 2,000 jobs, every tenth of them bad in one of five ways: each id is answered once, with its own reward.
static atomic_bool busy;
static void *spin(void *arg) {
  (void)arg;
  while (atomic_load(&busy)) {
  }
  return NULL;
}

// Workers give way, and what they wait for a processor is not held against a call. Would catch: a verifier that is told to have
// timed out because the sampler had every processor.
static void waiting_is_not_counted(void) {
  enum { SPINNERS = 8 };
  pthread_t spinners[SPINNERS];
  tl_pool *p = NULL;
  tl_pool_options o = {.n_workers = 1, .timeout_ms = 40, .nice = 10, .lua_path = lua_path, .module = "judge"};
  CHECK_OK(tl_pool_create(&o, &p));
  atomic_store(&busy, true);
  for (int i = 0; i < SPINNERS; i++)
    pthread_create(&spinners[i], NULL, spin, NULL);
  double began = tl_seconds();
  expect(p, "{\"kind\":\"count\",\"n\":500000}", "{\"text\":\"\"}", "ok", 500000, "");
  double took = tl_seconds() - began;
  atomic_store(&busy, false);
  for (int i = 0; i < SPINNERS; i++)
    pthread_join(spinners[i], NULL);
  expect(p, "{\"kind\":\"loop\"}", "{\"text\":\"\"}", "timeout", 0, "time limit"); // the limit holds
  tl_pool_free(p);
  printf("# the call took %.2f s of wall time with every processor taken\n", took);
}

static void many(void) {
  enum { N = 2000 };
  static const char *const bad[] = {"error", "abstain", "loop", "rep", "string"};
  static const char *const outcome[] = {"error", "abstain", "timeout", "memory", "error"};
  tl_pool *p = make_pool("judge", 3, 20, NULL);
  if (!p)
    return;
  static int job_of[N + 1], seen[N];
  memset(seen, 0, sizeof seen);
  for (int i = 0; i < N; i++) {
    char problem[96];
    int64_t id;
    if (i % 10)
      snprintf(problem, sizeof problem, "{\"kind\":\"number\",\"value\":%d}", i);
    else
      snprintf(problem, sizeof problem, "{\"kind\":\"%s\"}", bad[i / 10 % 5]);
    CHECK_OK(tl_pool_submit(p, problem, "{\"text\":\"t\"}", &id));
    CHECK(id >= 1 && id <= N);
    job_of[id] = i;
  }
  int wrong = 0;
  while (tl_pool_pending(p) > 0) {
    tl_verdict v;
    bool got;
    CHECK_OK(tl_pool_take(p, 20000, &v, &got));
    if (!got)
      break;
    int i = job_of[v.job];
    seen[i]++;
    // a loaded machine may let an honest call run into its 20 ms: that is a timeout, never a wrong reward
    if (strcmp(v.outcome, "timeout") == 0)
      continue;
    wrong += i % 10 ? strcmp(v.outcome, "ok") != 0 || v.reward != i : strcmp(v.outcome, outcome[i / 10 % 5]) != 0;
  }
  for (int i = 0; i < N; i++)
    CHECK(seen[i] == 1, "job %d was answered %d times", i, seen[i]);
  CHECK(wrong == 0, "%d verdicts are wrong", wrong);
  tl_verdict v;
  bool got = true;
  CHECK_OK(tl_pool_take(p, 0, &v, &got));
  CHECK(!got);
  tl_pool_free(p);
}

static void free_with_pending_jobs(void) {
  tl_pool *p = make_pool("judge", 2, 60000, NULL);
  if (!p)
    return;
  int64_t id;
  for (int i = 0; i < 100; i++)
    CHECK_OK(tl_pool_submit(p, i % 3 ? "{\"kind\":\"loop\"}" : "{\"kind\":\"pattern\"}", "{}", &id));
  usleep(20000);
  CHECK(tl_pool_pending(p) == 100);
  tl_pool_free(p);
}

static void does_not_load(void) {
  static const struct {
    const char *module, *config, *message;
  } cases[] = {
      {"absent_module", NULL, "absent_module"},     {"syntax", NULL, "syntax.lua:2:"},
      {"raises", NULL, "raises.lua:1: no licence"}, {"number", NULL, "is a number"},
      {"judge", "{\"a\":1}", "gave a nil"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    tl_pool *p = NULL;
    tl_pool_options o = {.lua_path = lua_path, .module = cases[i].module, .config_json = cases[i].config};
    CHECK(tl_pool_create(&o, &p) != TL_OK && !p, "%s loads", cases[i].module);
    CHECK(strstr(tl_last_error(), cases[i].message), "%s: %s", cases[i].module, tl_last_error());
  }
}

static void bad_options(void) {
  tl_pool *p = NULL;
  CHECK(tl_pool_create(&(tl_pool_options){.lua_path = lua_path}, &p) == TL_E_ARG);
  CHECK(tl_pool_create(&(tl_pool_options){.module = "judge", .n_workers = -1}, &p) == TL_E_ARG);
  CHECK(tl_pool_create(&(tl_pool_options){.module = "judge", .timeout_ms = -1}, &p) == TL_E_ARG);
  CHECK(tl_pool_create(&(tl_pool_options){.module = "judge", .memory_bytes = 5}, &p) == TL_E_ARG);
}

static void factories(void) {
  tl_pool *p = make_pool("factory", 1, 1000, "{\"reward\":0.5}");
  if (p)
    expect(p, "{}", "{}", "ok", 0.5, "");
  tl_pool_free(p);
  p = make_pool("maker", 1, 1000, "{\"reward\":0.75}");
  if (p)
    expect(p, "{}", "{}", "ok", 0.75, "");
  tl_pool_free(p);
  p = make_pool("maker", 1, 1000, NULL);
  if (p)
    expect(p, "{}", "{}", "ok", 7, "");
  tl_pool_free(p);
}

int main(void) {
  if (!mkdtemp(dir))
    return printf("not ok test_pool: no temporary directory\n"), 1;
  snprintf(lua_path, sizeof lua_path, "%s/?.lua", dir);
  write_module("judge", VERIFIER);
  write_module("syntax", "local x = 1\nreturn function( end\n");
  write_module("raises", "error('no licence')\n");
  write_module("number", "return 12\n");
  write_module("factory", "return function(config) return function() return config.reward end end\n");
  write_module("maker",
               "return { make = function(c) return function() return c.reward end end, verify = function() return 7 end }\n");
  RUN(values);
  RUN(errors);
  RUN(loops);
  RUN(pattern_bomb);
  RUN(sleeping_call);
  RUN(instructions);
  RUN(memory_bomb);
  RUN(waiting_is_not_counted);
  RUN(many);
  RUN(free_with_pending_jobs);
  RUN(does_not_load);
  RUN(bad_options);
  RUN(factories);
  return test_done();
}
