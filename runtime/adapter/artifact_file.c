// artifact_file.c: the container of artifact.h: bytes taken apart and put together, digest, Ed25519 signatures (OpenSSL). The
// file is outside bytes: every length is checked against the file before it is used, and nothing is accepted that the digest,
// or the signature where there is one, does not cover: a changed byte anywhere is refused.
#include "artifact.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <unistd.h>

static const char magic[8] = "TLADAPT\1", sign_magic[8] = "TLSIGN\0\1";
enum { key_bytes = 32, signature_bytes = 64, max_name = 200, max_file = 1 << 30 };

// ---------------------------------------------------------------- little-endian
static uint64_t get(const char *p, int n) {
  uint64_t v = 0;
  for (int i = n - 1; i >= 0; i--) v = v << 8 | (uint8_t)p[i];
  return v;
}

static void put(tl_str *s, uint64_t v, int n) {
  char b[8];
  for (int i = 0; i < n; i++) b[i] = (char)(v >> (8 * i));
  tl_str_add(s, b, (size_t)n);
}

static void digest(const char *bytes, size_t n, uint8_t *out) {
  unsigned len = 0;
  TL_ASSERT(EVP_Digest(bytes, n, out, &len, EVP_sha256(), NULL) == 1 && len == TL_ARTIFACT_DIGEST);
}

// ---------------------------------------------------------------- reading
static tl_status check_signature(tl_artifact *f, const char *path) {
  const char *p = f->bytes + f->signed_at;
  size_t left = f->n - f->signed_at, fixed = sizeof sign_magic + 2 + key_bytes + signature_bytes;
  size_t name = left >= fixed ? get(p + sizeof sign_magic, 2) : 0;
  if (left < fixed || memcmp(p, sign_magic, sizeof sign_magic) != 0 || name > max_name || left != fixed + name)
    return tl_fail(TL_E_FORMAT, "%s: %zu bytes after the digest are no signature: the file is damaged", path, left);
  p += sizeof sign_magic + 2;
  memcpy(f->signer, p, name);
  memcpy(f->key, p + name, key_bytes);
  EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, f->key, key_bytes);
  EVP_MD_CTX *c = EVP_MD_CTX_new();
  bool ok = key && c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, key) == 1 &&
            EVP_DigestVerify(c, (const uint8_t *)f->bytes + f->n - signature_bytes, signature_bytes, (const uint8_t *)f->bytes,
                             f->n - signature_bytes) == 1;
  EVP_MD_CTX_free(c);
  EVP_PKEY_free(key);
  f->is_signed = true;
  return ok ? TL_OK : tl_fail(TL_E_FORMAT, "%s: the signature does not match: the file was changed after it was signed", path);
}

static tl_status take_apart(tl_artifact *f, const char *path) {
  if (f->n < TL_ARTIFACT_HEAD + TL_ARTIFACT_DIGEST || memcmp(f->bytes, magic, sizeof magic) != 0)
    return tl_fail(TL_E_FORMAT, "%s: not a tlrun adapter file", path);
  uint64_t m = get(f->bytes + 8, 4), n = get(f->bytes + 12, 8), most = f->n - TL_ARTIFACT_HEAD - TL_ARTIFACT_DIGEST;
  if (m > most || n > most - m)
    return tl_fail(TL_E_FORMAT,
                   "%s: it says %llu bytes of manifest and %llu of payload, the file has %llu: it is cut off or damaged", path,
                   (unsigned long long)m, (unsigned long long)n, (unsigned long long)most);
  size_t body = (size_t)(TL_ARTIFACT_HEAD + m + n);
  uint8_t sum[TL_ARTIFACT_DIGEST];
  digest(f->bytes, body, sum);
  if (memcmp(sum, f->bytes + body, sizeof sum) != 0)
    return tl_fail(TL_E_FORMAT, "%s: the file is damaged: its bytes do not have the digest they were written with", path);
  f->signed_at = body + TL_ARTIFACT_DIGEST;
  f->payload = (const uint8_t *)f->bytes + TL_ARTIFACT_HEAD + m;
  f->payload_bytes = (size_t)n;
  f->manifest = cJSON_ParseWithLength(f->bytes + TL_ARTIFACT_HEAD, (size_t)m);
  if (!cJSON_IsObject(f->manifest)) return tl_fail(TL_E_FORMAT, "%s: the manifest is not a JSON object", path);
  return f->signed_at < f->n ? check_signature(f, path) : TL_OK;
}

tl_status tl_artifact_open(tl_artifact *f, const char *path) {
  *f = (tl_artifact){0};
  int64_t bytes = tl_file_bytes(path);
  if (bytes > max_file) return tl_fail(TL_E_FORMAT, "%s: %lld bytes are no adapter file", path, (long long)bytes);
  TL_TRY(tl_read_file(path, &f->bytes, &f->n));
  tl_status s = take_apart(f, path);
  if (s != TL_OK) tl_artifact_close(f);
  return s;
}

void tl_artifact_close(tl_artifact *f) {
  cJSON_Delete(f->manifest);
  free(f->bytes);
  *f = (tl_artifact){0};
}

// ---------------------------------------------------------------- writing
tl_status tl_artifact_store(const char *path, const char *manifest, const void *payload, size_t payload_bytes) {
  tl_str s = {0};
  uint8_t sum[TL_ARTIFACT_DIGEST];
  tl_str_add(&s, magic, sizeof magic);
  put(&s, strlen(manifest), 4);
  put(&s, payload_bytes, 8);
  tl_str_add(&s, manifest, strlen(manifest));
  tl_str_add(&s, payload, payload_bytes);
  digest(s.p, s.n, sum);
  tl_str_add(&s, (const char *)sum, sizeof sum);
  tl_status st = tl_write_file(path, s.p, s.n);
  tl_str_free(&s);
  return st;
}

// ---------------------------------------------------------------- keys and signing
// Never over what is there; the secret half is its owner's alone from the first byte.
static tl_status write_pem(const char *path, EVP_PKEY *key, bool secret) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, secret ? 0600 : 0644);
  if (fd < 0) return tl_fail(TL_E_IO, "%s: cannot make the key's file: %s", path, strerror(errno));
  FILE *f = fdopen(fd, "w");
  bool ok = f && (secret ? PEM_write_PKCS8PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) : PEM_write_PUBKEY(f, key)) == 1;
  ok = f ? fclose(f) == 0 && ok : (close(fd), false);
  if (ok) return TL_OK;
  unlink(path);
  return tl_fail(TL_E_IO, "%s: the key could not be written", path);
}

tl_status tl_artifact_keygen(const char *path) {
  char public_path[4096];
  if (snprintf(public_path, sizeof public_path, "%s.pub", path) >= (int)sizeof public_path)
    return tl_fail(TL_E_ARG, "%.60s...: path too long", path);
  if (tl_path_kind(public_path)) return tl_fail(TL_E_IO, "%s: a key is there already; it is not overwritten", public_path);
  EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
  if (!key) return tl_fail(TL_E_INTERNAL, "OpenSSL could not make an Ed25519 key");
  tl_status s = write_pem(path, key, true);
  if (s == TL_OK) s = write_pem(public_path, key, false);
  EVP_PKEY_free(key);
  return s;
}

// secret: the private key of a PEM file; otherwise the public one
static tl_status read_key(const char *path, bool secret, EVP_PKEY **out) {
  FILE *f = fopen(path, "re");
  if (!f) return tl_fail(TL_E_IO, "%s: cannot be read", path);
  *out = secret ? PEM_read_PrivateKey(f, NULL, NULL, (void *)"") : PEM_read_PUBKEY(f, NULL, NULL, NULL);
  fclose(f);
  if (*out && EVP_PKEY_id(*out) == EVP_PKEY_ED25519) return TL_OK;
  EVP_PKEY_free(*out);
  *out = NULL;
  return tl_fail(TL_E_FORMAT, "%s: not an Ed25519 %s key in PEM form (without a passphrase)", path,
                 secret ? "private" : "public");
}

static tl_status raw_public(EVP_PKEY *key, uint8_t *out, const char *path) {
  size_t n = key_bytes;
  return EVP_PKEY_get_raw_public_key(key, out, &n) == 1 && n == key_bytes
             ? TL_OK
             : tl_fail(TL_E_INTERNAL, "%s: OpenSSL gives no public key", path);
}

tl_status tl_artifact_sign(const char *path, const char *key_path, const char *signer) {
  tl_artifact f;
  EVP_PKEY *key = NULL;
  uint8_t public_key[key_bytes], signature[signature_bytes];
  size_t n = sizeof signature;
  if (strlen(signer) > max_name)
    return tl_fail(TL_E_ARG, "the signer's name has %zu bytes; at most %d", strlen(signer), max_name);
  TL_TRY(tl_artifact_open(&f, path));
  tl_status s = read_key(key_path, true, &key);
  if (s == TL_OK) s = raw_public(key, public_key, key_path);
  tl_str out = {0};
  EVP_MD_CTX *c = EVP_MD_CTX_new();
  if (s == TL_OK) {
    tl_str_add(&out, f.bytes, f.signed_at);  // an earlier signature gives way
    tl_str_add(&out, sign_magic, sizeof sign_magic);
    put(&out, strlen(signer), 2);
    tl_str_add(&out, signer, strlen(signer));
    tl_str_add(&out, (const char *)public_key, key_bytes);
    bool ok = c && EVP_DigestSignInit(c, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestSign(c, signature, &n, (const uint8_t *)out.p, out.n) == 1 && n == sizeof signature;
    if (!ok) s = tl_fail(TL_E_INTERNAL, "%s: OpenSSL could not sign", path);
  }
  if (s == TL_OK) {
    tl_str_add(&out, (const char *)signature, sizeof signature);
    s = tl_write_file(path, out.p, out.n);
  }
  EVP_MD_CTX_free(c);
  EVP_PKEY_free(key);
  tl_str_free(&out);
  tl_artifact_close(&f);
  return s;
}

tl_status tl_artifact_verify(const char *path, const char *public_key_path) {
  tl_artifact f;
  EVP_PKEY *key = NULL;
  uint8_t want[key_bytes];
  TL_TRY(tl_artifact_open(&f, path));
  tl_status s = f.is_signed ? TL_OK : tl_fail(TL_E_FORMAT, "%s: not signed", path);
  if (s == TL_OK && public_key_path) {
    s = read_key(public_key_path, false, &key);
    if (s == TL_OK) s = raw_public(key, want, public_key_path);
    if (s == TL_OK && memcmp(want, f.key, key_bytes) != 0)
      s = tl_fail(TL_E_FORMAT, "%s: signed by another key than %s (the signer calls itself '%s')", path, public_key_path,
                  f.signer);
    EVP_PKEY_free(key);
  }
  tl_artifact_close(&f);
  return s;
}
