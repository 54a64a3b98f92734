// test_base.c: Philox against its published known answers, fp16 and bf16 rounding over every value, hashes, the block of memory that
// steps hand to each other, and a file that stays whole when the disk is full.
#include "../test.h"
#include "../../runtime/base/base.h"
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

// Known-answer vectors of philox4x32-10 as published with Random123 (kat_vectors).
static void philox_known_answers(void) {
  static const uint32_t cases[3][10] = {
      {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
      {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
      {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
  for (int i = 0; i < 3; i++) {
    uint32_t out[4];
    tl_philox(cases[i], cases[i] + 4, out);
    CHECK(!memcmp(out, cases[i] + 6, 16), "case %d: %08x %08x %08x %08x", i, out[0], out[1], out[2], out[3]);
  }
}

// 1e5 draws: the standard error of the mean is 0.0009 (uniform), 0.0032 (normal); five of them are allowed.
static void draws_have_their_moments(void) {
  enum { N = 100000 };
  double sum = 0, z1 = 0, z2 = 0;
  float *z = malloc(sizeof(float) * N);
  for (int i = 0; i < N; i++) sum += tl_uniform(1, 2, (uint64_t)i);
  tl_normal_fill(z, N, 1, 3);
  for (int i = 0; i < N; i++) z1 += z[i], z2 += (double)z[i] * z[i];
  CHECK(fabs(sum / N - 0.5) < 0.0046, "mean %g", sum / N);
  CHECK(fabs(z1 / N) < 0.016 && fabs(z2 / N - 1) < 0.0224, "normal mean %g, square %g", z1 / N, z2 / N);
  float part[3];
  tl_normal_fill(part, 3, 1, 3);
  CHECK(!memcmp(part, z, sizeof part), "a shorter fill differs");
  free(z);
}

static void permutation_is_one(void) {
  int32_t p[100], q[100], seen[100] = {0};
  tl_permutation(p, 100, 5, 6);
  tl_permutation(q, 100, 5, 7);
  for (int i = 0; i < 100; i++) CHECK(p[i] >= 0 && p[i] < 100 && !seen[p[i]]++, "entry %d", i);
  CHECK(memcmp(p, q, sizeof p) != 0, "another stream gave the same permutation");
}

static void f16_round_trip(void) {
  for (uint32_t h = 0; h < 65536; h++) {
    float f = tl_f16_to_f32((uint16_t)h);
    if (isnan(f)) CHECK(isnan(tl_f16_to_f32(tl_f32_to_f16(f))), "NaN %04x", h);
    else CHECK(tl_f32_to_f16(f) == h, "%04x -> %g -> %04x", h, f, tl_f32_to_f16(f));
  }
  CHECK(tl_f32_to_f16(65519.9f) == 0x7bff && tl_f32_to_f16(65520.0f) == 0x7c00, "overflow");
  CHECK(tl_f32_to_f16(1.00048828125f) == 0x3c00, "tie to even, down");   // 1 + 2^-11
  CHECK(tl_f32_to_f16(1.00146484375f) == 0x3c02, "tie to even, up");     // 1 + 3 * 2^-11
}

static void bf16_round_trip(void) {
  for (uint32_t h = 0; h < 65536; h++) {
    float f = tl_bf16_to_f32((uint16_t)h);
    if (!isnan(f)) CHECK(tl_f32_to_bf16(f) == h, "%04x", h);
    else CHECK(isnan(tl_bf16_to_f32(tl_f32_to_bf16(f))), "NaN %04x", h);
  }
  CHECK(tl_f32_to_bf16(1.00390625f) == 0x3f80 && tl_f32_to_bf16(1.01171875f) == 0x3f82, "ties go to even");
}

static void hashes(void) {
  char hex[65];
  CHECK_OK(tl_sha256_bytes("abc", 3, hex));  // FIPS 180-2, appendix B.1
  CHECK(!strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "%s", hex);
  uint64_t a[2], b[2];
  char text[100] = {0};
  tl_hash128(text, 33, a);
  tl_hash128(text, 34, b);
  CHECK(a[0] != b[0] && a[1] != b[1], "length is not hashed");
  text[32] = 1;
  tl_hash128(text, 33, b);
  CHECK(a[0] != b[0] && a[1] != b[1], "the last byte is not hashed");
}

// A limit on the file size stands in for a full disk: the write fails half-way in the same place.
static void full_disk_leaves_the_old_file(void) {
  char dir[] = "/tmp/tl-base-XXXXXX", path[64], *back = NULL;
  CHECK(mkdtemp(dir) != NULL);
  snprintf(path, sizeof path, "%s/file", dir);
  CHECK_OK(tl_write_file(path, "old content", 11));
  struct rlimit keep, small;
  getrlimit(RLIMIT_FSIZE, &keep);
  small = keep;
  small.rlim_cur = 1000;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  char big[5000] = {0};
  tl_status s = tl_write_file(path, big, sizeof big);
  char message[512];
  snprintf(message, sizeof message, "%s", tl_last_error());
  setrlimit(RLIMIT_FSIZE, &keep);
  CHECK(s == TL_E_IO && strstr(message, path), "status %d: %s", s, message);
  CHECK_OK(tl_read_file(path, &back, NULL));
  CHECK(back && !strcmp(back, "old content"), "%s", back ? back : "nothing");
  free(back);
  CHECK(unlink(path) == 0 && rmdir(dir) == 0, "something was left behind");
}

// Two threads that write one file, and one link: each has a temporary file of its own, so one of the two contents is there, never parts of both.
static void *write_often(void *arg) {
  const char *const *job = arg;  // path, letter
  static char big[2][1 << 20];
  char *content = big[job[1][0] == 'b'];
  memset(content, job[1][0], sizeof big[0]);
  char link[80];
  snprintf(link, sizeof link, "%s.link", job[0]);
  for (int i = 0; i < 40; i++)
    if (tl_write_file(job[0], content, sizeof big[0]) != TL_OK) return strdup(tl_last_error());
  for (int i = 0; i < 400; i++)
    if (tl_symlink(job[1], link) != TL_OK) return strdup(tl_last_error());
  return NULL;
}

static void two_writers_of_a_file(void) {
  char dir[] = "/tmp/tl-base-XXXXXX", path[64];
  CHECK(mkdtemp(dir) != NULL);
  snprintf(path, sizeof path, "%s/file", dir);
  const char *jobs[2][2] = {{path, "a"}, {path, "b"}};
  CHECK_OK(tl_write_file(path, "", 0));
  CHECK(tl_mkdirs("") == TL_E_ARG, "%s", tl_last_error());
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, write_often, jobs[i]) == 0);
  int parts = 0;
  for (int i = 0; i < 200; i++) {
    char *data = NULL;
    size_t n = 0;
    CHECK_OK(tl_read_file(path, &data, &n));
    parts += n && (n != 1 << 20 || data[0] != data[n - 1] || memcmp(data, data + 1, n - 1));
    free(data);
  }
  for (int i = 0; i < 2; i++) {
    void *why = NULL;
    pthread_join(threads[i], &why);
    CHECK(!why, "%s", why ? (char *)why : "");
    free(why);
  }
  CHECK(!parts, "%d of 200 times the file was not one of the two contents", parts);
  CHECK(unlink(path) == 0 && unlink(strcat(path, ".link")) == 0 && rmdir(dir) == 0, "something was left behind");
}

// The system tells nobody how a child ended whose parent ignores SIGCHLD: a program that failed must not look like one that did not.
static void child_that_nobody_is_told_of(void) {
  const char *const argv[] = {"false", NULL};
  tl_process_result r;
  CHECK(tl_process_run(argv, "", 0, 5000, 1000, &r) == TL_OK && r.exit_code == 1, "exit code %d", r.exit_code);
  tl_string_free(r.out), tl_string_free(r.err);
  void (*before)(int) = signal(SIGCHLD, SIG_IGN);
  CHECK(tl_process_run(argv, "", 0, 5000, 1000, &r) == TL_E_IO && strstr(tl_last_error(), "SIGCHLD"), "exit code %d: %s", r.exit_code, tl_last_error());
  signal(SIGCHLD, before);
}

static void put_file(const char *dir, const char *name, const char *text) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  *strrchr(path, '/') = 0;
  CHECK_OK(tl_mkdirs(path));
  path[strlen(path)] = '/';
  CHECK_OK(tl_write_file(path, text, strlen(text)));
}

// what /proc/self/cgroup and the folders of the control groups say, and the cores that they leave
static void quota_of_a_control_group(void) {
  static const struct {
    const char *self, *files[3][2];
    double cores;
  } cases[] = {
      {"0::/\n", {{"cpu.max", "200000 100000\n"}}, 2},                             // in a container
      {"0::/\n", {{"cpu.max", "max 100000\n"}}, 0},
      {"0::/a/b\n", {{"a/cpu.max", "150000 100000\n"}, {"a/b/cpu.max", "max 100000\n"}}, 1.5},  // the folder above has the limit
      {"0::/a/b\n", {{"a/cpu.max", "800000 100000\n"}, {"a/b/cpu.max", "50000 100000\n"}}, 0.5},
      {"0::/elsewhere\n", {{"cpu.max", "300000 100000\n"}}, 3},                    // a path of the host's
      {"5:memory:/x\n4:cpu,cpuacct:/x\n1:name=systemd:/x\n",
       {{"cpu/cpu.cfs_quota_us", "400000\n"}, {"cpu/cpu.cfs_period_us", "100000\n"}}, 4},
      {"4:cpuset:/x\n3:cpu:/x\n", {{"cpu/x/cpu.cfs_quota_us", "-1\n"}, {"cpu/x/cpu.cfs_period_us", "100000\n"}}, 0},
      {"nonsense\n::\n", {{"cpu.max", "nonsense"}}, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char dir[] = "/tmp/tl-base-XXXXXX", command[64], self[64];
    CHECK(mkdtemp(dir) != NULL);
    put_file(dir, "self", cases[i].self);
    for (int k = 0; k < 3 && cases[i].files[k][0]; k++) put_file(dir, cases[i].files[k][0], cases[i].files[k][1]);
    snprintf(self, sizeof self, "%s/self", dir);
    double cores = tl_cpu_quota(self, dir);
    CHECK(cores == cases[i].cores, "case %zu: %g cores, expected %g", i, cores, cases[i].cores);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
  }
  CHECK(tl_cpu_quota("/nowhere", "/nowhere") == 0);
}

// Would catch: a block that is taken twice, that is taken where it is too small, or that stays when it should not.
static void block_that_stays(void) {
  enum { SMALL = 1 << 20, LARGE = 32 << 20, LARGER = 64 << 20 };
  tl_arena a, b;
  if (!tl_ops()->host) {
    test_skip("block_that_stays", "a device's pool keeps what is given back");
    return;
  }
  CHECK(tl_arena_reuse(&a, LARGE, TLK_MEM_OPS, "a") == TL_OK && a.size == LARGE && a.block >= a.size, "size %zu, block %zu", a.size, a.block);
  memset(tl_arena_take(&a, LARGE), 1, LARGE);
  char *base = a.base;
  CHECK(tl_left_bytes() == 0, "%lld bytes are left before anything was", (long long)tl_left_bytes());
  tl_arena_leave(&a);
  CHECK(!a.base && tl_left_bytes() >= LARGE - (1 << 13), "%lld bytes are left", (long long)tl_left_bytes());
  CHECK(tl_arena_init(&b, LARGE, "b") == TL_OK && b.base != base, "an arena of its own was given the block that was left");
  tl_arena_free(&b);
  CHECK(tl_arena_reuse(&a, SMALL, TLK_MEM_SPARSE, "a") == TL_OK && a.base == base && a.size == SMALL && a.used == 0, "the block was not taken");
  CHECK(tl_left_bytes() == 0 && tl_arena_reuse(&b, SMALL, TLK_MEM_OPS, "b") == TL_OK && b.base != base, "the block was taken twice");
  tl_arena_leave(&b);  // too small to stay
  CHECK(tl_left_bytes() == 0, "%lld bytes of a small block are left", (long long)tl_left_bytes());
  tl_arena_leave(&a);
  CHECK(tl_arena_reuse(&b, LARGER, TLK_MEM_OPS, "b") == TL_OK && tl_left_bytes() == 0, "a block too small stays beside the larger one");
  memset(tl_arena_take(&b, LARGER), 1, LARGER);
  tl_arena_leave(&b);
  tl_arena_drop_left();
  CHECK(tl_left_bytes() == 0, "the block stays after it was dropped");
}

int main(void) {
  RUN(philox_known_answers);
  RUN(draws_have_their_moments);
  RUN(permutation_is_one);
  RUN(f16_round_trip);
  RUN(bf16_round_trip);
  RUN(hashes);
  RUN(block_that_stays);
  RUN(full_disk_leaves_the_old_file);
  RUN(two_writers_of_a_file);
  RUN(child_that_nobody_is_told_of);
  RUN(quota_of_a_control_group);
  return test_done();
}
