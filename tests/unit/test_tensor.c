// Tensors, YAML and folders from C: what the sanitizer build looks at. Catches: a view that outlives its storage, an index that is
// not checked, a leak on a refused document. (Values are checked in tests/lua/test_tensor.lua and test_json.lua.)
#include "../test.h"
#include "../../runtime/tl.h"
#include <unistd.h>

static void views_outlive_parents(void) {
  tl_tensor *t = NULL, *s = NULL, *u = NULL, *r = NULL;
  CHECK_OK(tl_tensor_create(TL_BF16, 3, (int64_t[]){3, 4, 5}, NULL, &t));
  CHECK_OK(tl_tensor_normal(t, 1, 2, 0, 1));
  CHECK_OK(tl_tensor_slice(t, 1, 1, 3, &s));
  CHECK_OK(tl_tensor_transpose(s, 0, 2, &u));
  CHECK(tl_tensor_reshape(u, 1, (int64_t[]){30}, &r) == TL_E_SHAPE);
  CHECK(r == NULL);
  double a, b;
  CHECK_OK(tl_tensor_get(t, (int64_t[]){2, 1, 4}, &a));
  tl_tensor_free(t);
  tl_tensor_free(s);
  CHECK_OK(tl_tensor_get(u, (int64_t[]){4, 0, 2}, &b));
  CHECK(a == b, "%g %g", a, b);
  tl_tensor_free(u);
}

static void bounds_are_checked(void) {
  tl_tensor *t = NULL, *s = NULL;
  double v;
  CHECK(tl_tensor_create(TL_F32, 0, NULL, NULL, &t) == TL_E_ARG);
  CHECK(tl_tensor_create(TL_F32, 2, (int64_t[]){1LL << 40, 1LL << 40}, NULL, &t) == TL_E_ARG);
  CHECK(tl_tensor_create((tl_dtype)9, 1, (int64_t[]){1}, NULL, &t) == TL_E_ARG);
  CHECK(tl_tensor_create(TL_F32, 1, (int64_t[]){1}, "moon", &t) == TL_E_UNSUPPORTED);
  CHECK_OK(tl_tensor_create(TL_I32, 2, (int64_t[]){2, 3}, "cpu", &t));
  CHECK(tl_tensor_get(t, (int64_t[]){2, 0}, &v) == TL_E_ARG);
  CHECK(tl_tensor_set(t, (int64_t[]){0, -1}, 1) == TL_E_ARG);
  CHECK(tl_tensor_slice(t, 2, 0, 1, &s) == TL_E_ARG);
  CHECK(tl_tensor_slice(t, 0, 1, 1, &s) == TL_E_ARG);
  CHECK(tl_tensor_slice(t, 0, 0, 3, &s) == TL_E_ARG);
  CHECK(tl_tensor_transpose(t, 0, 2, &s) == TL_E_ARG);
  CHECK(tl_tensor_reduce_dim(t, t, TL_SUM, 0) == TL_E_ARG);
  tl_tensor_free(t);
  tl_tensor_free(NULL);
}

static void in_place_and_overlapping(void) {
  tl_tensor *t = NULL, *a = NULL, *b = NULL;
  CHECK_OK(tl_tensor_create(TL_F32, 1, (int64_t[]){6}, NULL, &t));
  float *x = tl_tensor_data(t);
  for (int i = 0; i < 6; i++) x[i] = (float)i;
  CHECK_OK(tl_tensor_slice(t, 0, 1, 6, &a));
  CHECK_OK(tl_tensor_slice(t, 0, 0, 5, &b));
  CHECK_OK(tl_tensor_binary(a, a, b, TL_ADD));  // 0, 0+1, 1+2, ... from the old values
  for (int i = 1; i < 6; i++) CHECK(x[i] == (float)(2 * i - 1), "%d: %g", i, x[i]);
  tl_tensor_free(a);
  tl_tensor_free(b);
  tl_tensor_free(t);
}

static tl_status yaml(const char *text, char **json) {
  char path[] = "/tmp/tl-yaml-XXXXXX";
  int fd = mkstemp(path);
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) return TL_E_IO;
  close(fd);
  tl_status s = tl_yaml_to_json(path, json);
  unlink(path);
  return s;
}

static void yaml_documents(void) {
  static const struct { const char *text, *json; } good[] = {
      {"", "null"}, {"# only words\n", "null"}, {"a: 1\nb: [x, 'y', ~]\n", "{\"a\":1,\"b\":[\"x\",\"y\",null]}"},
      {"- 1e-4\n- 0x10\n- -0o7\n- +5\n- 1e\n- .\n- -\n", NULL}, {"[1.5, true, \"true\", yes]", "[1.5,true,\"true\",\"yes\"]"}};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    char *json = NULL;
    tl_status s = yaml(good[i].text, &json);
    if (good[i].json) CHECK(s == TL_OK && strcmp(json, good[i].json) == 0, "%zu: %s", i, s ? tl_last_error() : json);
    tl_string_free(json);
  }
  static const char *const bad[] = {"a: [1", "a: *b", "a: &b 1\nc: *b", "{a: 1, a: 2}", "a: !x 1", "[1]: 2", "a: 1\n--- 2", "\t- a", "a: 'x",
                                    "a: \"\\x00\"", "<<: {a: 1}", "a: .nan", "a: 1e999", "\xff\xfe\xfd", "%YAML 9.9\n--- a"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char *json = (char *)1;
    CHECK(yaml(bad[i], &json) == TL_E_FORMAT && json == NULL, "%s", bad[i]);
  }
  char deep[4096];
  memset(deep, '[', 2000);
  deep[2000] = 0;
  char *json;
  CHECK(yaml(deep, &json) == TL_E_FORMAT);
}

static void folders(void) {
  char dir[] = "/tmp/tl-dir-XXXXXX", path[64], *json = NULL;
  CHECK(mkdtemp(dir) != NULL);
  snprintf(path, sizeof path, "%s/b \"x\"", dir);
  CHECK_OK(tl_write_file(path, "12345", 5));
  CHECK_OK(tl_list_dir(dir, &json));
  CHECK(json && strcmp(json, "[\"b \\\"x\\\"\"]") == 0, "%s", json);
  tl_string_free(json);
  CHECK(tl_path_kind(dir) == 2 && tl_path_kind(path) == 1 && tl_file_bytes(path) == 5 && tl_file_bytes(dir) == -1);
  unlink(path);
  rmdir(dir);
  CHECK(tl_path_kind(dir) == 0 && tl_list_dir(dir, &json) == TL_E_IO && json == NULL);
}

static void archives(void) {
  char path[] = "/tmp/tl-zip-XXXXXX";
  int fd = mkstemp(path);
  CHECK(fd >= 0 && write(fd, "PK\003\004 no archive", 15) == 15);
  close(fd);
  CHECK(tl_unzip_member(path, "x", "/tmp/tl-zip-out") == TL_E_FORMAT);
  CHECK(tl_unzip_member("/none.zip", "x", "/tmp/tl-zip-out") == TL_E_FORMAT);
  CHECK(tl_path_kind("/tmp/tl-zip-out") == 0);
  unlink(path);
}

int main(void) {
  RUN(views_outlive_parents);
  RUN(bounds_are_checked);
  RUN(in_place_and_overlapping);
  RUN(yaml_documents);
  RUN(folders);
  RUN(archives);
  return test_done();
}
