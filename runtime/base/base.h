// base.h: errors, strings, arenas and files for everything inside runtime/.
#ifndef TL_BASE_H
#define TL_BASE_H
#include "../tl.h"
#include "../../kernels/ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)TL_F32 == TLK_F32 && (int)TL_BF16 == TLK_BF16 && (int)TL_F16 == TLK_F16 && (int)TL_I32 == TLK_I32 &&
                   (int)TL_I8 == TLK_I8,
               "tl_dtype and the kernels' dtypes are the same numbers");

// Records the message of this thread's failure and returns the status: return tl_fail(TL_E_SHAPE, "%s: ...", path);
tl_status tl_fail(tl_status s, const char *format, ...) __attribute__((format(printf, 2, 3)));
// (the macro lets the compiler see that what comes back is not TL_OK)
#define tl_fail(s, ...) ((void)(tl_fail)((s), __VA_ARGS__), (s))
// Puts "text: " before the message of the failure just recorded; returns s.
tl_status tl_fail_in(tl_status s, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define TL_TRY(call)                      \
  do {                                    \
    tl_status tl_try_ = (call);           \
    if (tl_try_ != TL_OK) return tl_try_; \
  } while (0)
// A broken invariant: our own mistake, never bad input. Stays in release builds.
#define TL_ASSERT(cond) ((cond) ? (void)0 : tl_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void tl_assert_failed(const char *cond, const char *file, int line);

// The backend this process computes with (backend.c).
const tlk_ops *tl_ops(void);
const tlk_ops *tl_count_held(const tlk_ops *ops);  // of a device: its table, which counts for tl_held_bytes (held.c)

// ---- arena: one block of the ops' memory (kernels/ops.h), sized before a step starts; allocations are 64-byte aligned, freed all
// at once. Of the main thread alone.
typedef struct tl_arena {
  char *base;
  size_t size, used, peak;
  size_t block;                                  // bytes at base, at least size
} tl_arena;
tl_status tl_arena_init(tl_arena *a, size_t bytes, const char *what);
tl_status tl_arena_reuse(tl_arena *a, size_t bytes, int kind, const char *what);  // takes the block that was left, if that is large enough
void *tl_arena_take(tl_arena *a, size_t bytes);  // asserts that it fits: plans are exact
void tl_arena_reset(tl_arena *a);
void tl_arena_free(tl_arena *a);
void tl_arena_leave(tl_arena *a);  // the same, but a large block stays for the next tl_arena_reuse (memory.c)
void tl_arena_drop_left(void);     // gives that block back now: called by whoever is about to take other large memory
static inline size_t tl_align64(size_t n) { return (n + 63) & ~(size_t)63; }
void *tl_aligned_alloc(size_t bytes);  // 64-byte aligned, NULL when out of memory; release with free()

// How many cores' time the control groups leave to this process (cores.c); 0: no limit. self: /proc/self/cgroup, mount: /sys/fs/cgroup.
double tl_cpu_quota(const char *self, const char *mount);
// This process and n - 1 others share the cores: each counts its part of them, at least one.
void tl_share_cores(int n);
// This process is the k-th, from 0, of those that share the host's devices: "cuda" is then the k-th, where it can see so many.
void tl_share_devices(int k);

// The file of a module of this build, tl_<name>.so beside the program, or in the folder that TL_MODULES names instead. false: none there.
bool tl_module_path(char *out, size_t size, const char *name);

// ---- an array that the host and the ops both use: one block where the backend computes in the host's memory, else two, copied
// when asked. Contents start undefined. A sent range must stay as it is until the ops that read it are waited for.
typedef struct tl_pair {
  void *host, *ops;
  size_t bytes;
} tl_pair;
tl_status tl_pair_init(tl_pair *p, size_t bytes, const char *what);
void tl_pair_free(tl_pair *p);
void tl_pair_send(const tl_pair *p, const void *at, size_t bytes);  // at: a host address in the pair, bytes from there
void tl_pair_fetch(const tl_pair *p, void *at, size_t bytes);       // waits for the ops that write it
static inline void *tl_pair_ops(const tl_pair *p, const void *at) { // the ops' address of a host address; NULL stays NULL
  return at ? (char *)p->ops + ((const char *)at - (const char *)p->host) : NULL;
}

// ---- files
typedef struct tl_map {  // a file mapped read-only
  const uint8_t *data;
  size_t size;
  char *path;
} tl_map;
tl_status tl_map_open(tl_map *m, const char *path);
void tl_map_close(tl_map *m);
// the pages of a mapped file around p .. p + n leave the process's memory; they come back when they are read again
void tl_map_release(const void *p, size_t n);
tl_status tl_read_file(const char *path, char **data, size_t *n);  // NUL-terminated copy; free()
// json.c: text is one JSON object, with no key twice in any object of it; path: for messages
struct cJSON;
tl_status tl_json_parse(const char *path, const char *text, size_t n, struct cJSON **out);
bool tl_file_exists(const char *path);
bool tl_is_dir(const char *path);

// A file written in parts under a temporary name; only tl_out_commit (fsync, rename) puts it in the place of what was there.
// After a failed write or commit what was there is untouched. commit and abort both release the tl_out.
typedef struct tl_out {
  int fd;
  char *path, *tmp;
} tl_out;
tl_status tl_out_open(tl_out *o, const char *path);
tl_status tl_out_write(tl_out *o, const void *data, size_t n);
tl_status tl_out_commit(tl_out *o);
void tl_out_abort(tl_out *o);

// ---- a growing string
typedef struct tl_str {
  char *p;
  size_t n, cap;
} tl_str;
void tl_str_add(tl_str *s, const char *data, size_t n);
void tl_str_printf(tl_str *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void tl_str_free(tl_str *s);

// ---- http_server.c: whether a request's Host is this machine's own name for itself: "localhost", "127.0.0.1", with or without a port
bool tl_host_is_local(const char *host);

// ---- fp16 / bf16 scalars
static inline float tl_bf16_to_f32(uint16_t h) {
  union { uint32_t u; float f; } x = {(uint32_t)h << 16};
  return x.f;
}
uint16_t tl_f32_to_bf16(float f);  // nearest even, NaN kept
float tl_f16_to_f32(uint16_t h);
uint16_t tl_f32_to_f16(float f);   // nearest even
const char *tl_dtype_name(int dtype);  // "F32", "BF16", "F16", "I32"

// numbers first .. first + n - 1 of those that tl_normal_fill draws
void tl_normal_fill_from(float *x, size_t n, uint64_t seed, uint64_t stream, uint64_t first);

// fast non-cryptographic 128-bit content hash, for cache keys
void tl_hash128(const void *data, size_t n, uint64_t out[2]);
#endif
