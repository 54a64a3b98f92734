// artifact.h: the compact file of an adapter (*.tla): the trained numbers, and what they mean.
//
// A TinyLoRA's A, B and P follow from the base model and a seed, so a file of 13 numbers is 26 bytes of numbers, a manifest,
// and four bytes for each singular pair by which a reader knows that its own A and B are the ones that were trained with. A
// base on which the numbers would mean something else is refused.
//
//   byte      0   8   magic "TLADAPT" 0x01
//             8   4   M, u32: bytes of the manifest
//            12   8   N, u64: bytes of the payload                                  (integers and floats: little-endian)
//            20   M   manifest: a JSON object, readable as it is
//        20 + M   N   payload:
//                       values   (parameters) in the manifest's dtype, as the forward pass uses them
//                       probes   basis "svd": for each pair of each module: sigma (bf16), u . g and v . g in 1/32 (two int8)
//                       A, B     basis "file": for each module A (r, in), B (out, r), F32
//                       P        generator "stored": for each module P (u, r, r), F32
//    20 + M + N  32   SHA-256 of all the bytes before it
//                     then nothing, or a signature:
//                 8   magic "TLSIGN" 0x00 0x01
//                 2   K, u16: bytes of the signer's name (at most 200)
//                 K   the name, UTF-8
//                32   Ed25519 public key
//                64   Ed25519 signature of every byte before it
//
// Manifest: format "tlrun-adapter", version 1, method (tinylora, lora_xs, lora), parameters, dtype, rank (or ranks), u, scale
// (or scales), sigma, projection {generator, seed}, targets {kind: layers}, tying, base {name, architecture, layers, width,
// hash, covers}, basis {from, signs, closest}, provenance (whatever the writer said). Lists of whole numbers are written short:
//   "5" | "3-7" (3,4,5,6,7) | "X*9" (X nine times over, X being any of these or a list in parentheses), joined by commas;
// any map of modules to groups has such a list.
//
// base.hash: the first 32 hex digits of a SHA-256 over a line for each part of the model: its name, shape and 128-bit hash.
// Targeted weights count in full, every other matrix by 16 rows, norms and biases in full; values are those the model computes
// with, rounded to bf16, so that fp32 and bf16 computation of one model give the same hash. (That a forger could find a
// collision is no matter: the hash guards against mistakes, the signature against forgers.)
//
// Probes. g is one seeded vector of standard normals, so u . g and v . g of a unit vector are of order 1, and turning the pair
// by a small angle t moves them by about t. Two SVDs of the same weights (other LAPACK, other threads) differ by rounding over
// the gap to the next singular value: 1e-6 at most, where the gap is 1% of sigma_1. A bf16 copy of fp32 weights moves them by
// about 2^-9 over the gap. Accepted: probe_tolerance, half a step of 1/32 and 0.05, an update that is 5% off, ten times what
// rounding v to bf16 does; a pair with the other sign moves its two probes by 2 |u . g| and 2 |v . g|, which both stay below
// that in one case of 1500. sigma within 1% (bf16 keeps 0.4%). Where two singular values are equal to rounding, their vectors
// are any basis of a plane, and another LAPACK may choose another one: then the load is refused, and the file must carry its A
// and B ("carry").
#ifndef TL_ARTIFACT_H
#define TL_ARTIFACT_H
#include "adapter.h"

enum { TL_ARTIFACT_HEAD = 20, TL_ARTIFACT_DIGEST = 32, TL_ARTIFACT_VERSION = 1, TL_PROBE_BYTES = 4 };

struct cJSON;
// A file taken apart; manifest and payload point into bytes.
typedef struct tl_artifact {
  char *bytes;
  size_t n;                 // of the file
  size_t signed_at;         // where the signature block starts; n: there is none
  struct cJSON *manifest;
  const uint8_t *payload;
  size_t payload_bytes;
  bool is_signed;
  char signer[201];
  uint8_t key[32];
} tl_artifact;

// Reads and checks: sizes, digest, and the signature where there is one. Nothing in the result is taken on trust but the
// manifest's meaning.
tl_status tl_artifact_open(tl_artifact *f, const char *path);
void tl_artifact_close(tl_artifact *f);
// Writes a container without a signature.
tl_status tl_artifact_store(const char *path, const char *manifest, const void *payload, size_t payload_bytes);

// ---- lists of whole numbers as short text
void tl_ranges_write(tl_str *s, const int32_t *x, int n);
// exactly n numbers, 0 .. limit - 1 each; false: something else
bool tl_ranges_read(const char *text, int32_t *x, int n, int limit);
// at most n numbers; the count, -1: something else
int tl_ranges_read_some(const char *text, int32_t *x, int n, int limit);

// ---- the base and the basis
// hex (33): base.hash. targeted: (n modules of the model) which weights count in full. The model remembers the last one: its weights stand
tl_status tl_base_hash(tl_model *m, const uint8_t *targeted, char *hex);
// out (TL_PROBE_BYTES * sum of ranks)
tl_status tl_basis_probes(const tl_adapter *a, uint8_t *out);
// Whether the adapter's A and B are those that the probes were taken of; the message says where not.
tl_status tl_basis_check(const tl_adapter *a, const uint8_t *probes, const char *path);
// the smallest (sigma_q - sigma_q+1) / sigma_1 inside a module's rank; 1 at rank 1
double tl_basis_gap(const tl_adapter *a);
size_t tl_basis_pairs(const tl_adapter *a);  // the sum of ranks

// ---- manifest
// JSON text; free() it
tl_status tl_manifest_write(const tl_adapter *a, const tl_artifact_options *o, char **text);
// What a manifest says, checked against the model: an adapter with modules, groups, ranks, scales, signs; no A, B, P yet.
typedef struct tl_manifest {
  tl_adapter_options options;   // its arrays are owned by this struct
  bool from_file, stored;       // A and B, P are in the payload
  int64_t n_params;
  size_t pairs;                 // the sum of ranks
  char base_name[256], hash[33];
  int32_t *modules, *groups, *ranks;
  float *scales;
  int8_t *signs;
} tl_manifest;
tl_status tl_manifest_read(tl_manifest *t, const struct cJSON *json, const tl_model *m, const char *path);
void tl_manifest_free(tl_manifest *t);
#endif
