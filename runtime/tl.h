// tl.h: the whole public API of the tlrun runtime.
//
// This file is manual, API and FFI declaration in one: the build derives the LuaJIT cdef from it (between the marks
// TL_CDEF_BEGIN and TL_CDEF_END; only plain C declarations, no macros, stand there).
//
// Conventions
//   - Opaque handles, tl_<noun>_<verb>. Every create or load has its free; handles are reference-counted inside, a child
//     keeps its parent alive, so frees may come in any order (a garbage collector's).
//   - A fallible call returns tl_status; 0 is success. The message (file, field, what was found, what was expected) is in
//     tl_last_error(), per thread. Nothing here exits, aborts or prints on bad input.
//   - Shapes are written like x (T, C). T tokens, C width, V vocabulary, H query heads, G key/value heads, D head size,
//     F feed-forward width, r rank, u trained numbers per tied group. Floats are fp32 unless said otherwise.
//   - C never calls back into Lua.
#ifndef TL_H
#define TL_H
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
// TL_CDEF_BEGIN

// ---------------------------------------------------------------- status
typedef enum tl_status {
  TL_OK = 0,
  TL_E_ARG = 1,          // an argument is out of its range
  TL_E_IO = 2,           // a file cannot be read or written
  TL_E_FORMAT = 3,       // a file is not what it should be
  TL_E_SHAPE = 4,        // shapes disagree
  TL_E_UNSUPPORTED = 5,  // well-formed, but not something this program handles
  TL_E_MEMORY = 6,       // out of memory or over the budget
  TL_E_INTERRUPTED = 7,  // tl_interrupt() was called (Ctrl-C)
  TL_E_INTERNAL = 8
} tl_status;

typedef enum tl_dtype { TL_F32 = 0, TL_BF16 = 1, TL_F16 = 2, TL_I32 = 3, TL_I8 = 4 } tl_dtype;  // TL_I8: of packed weights only

const char *tl_last_error(void);     // message of this thread's last failure; never NULL
const char *tl_version(void);        // "0.2.0"
const char *tl_build_info(void);     // compiler, libraries and their versions, one line
void tl_interrupt(void);             // async-signal-safe: long calls return TL_E_INTERRUPTED at their next safe point
bool tl_interrupted(void);           // reads the flag
void tl_interrupt_clear(void);
void tl_interrupt_on_term(void);     // SIGTERM calls tl_interrupt(), once: the next one ends the process
void tl_set_threads(int n);          // threads for kernels; 0: a core each, of those that affinity and control groups leave to this process
int tl_threads(void);
double tl_seconds(void);             // monotonic clock, seconds
int64_t tl_peak_rss_bytes(void);     // peak resident memory of the process
int64_t tl_rss_bytes(void);
int64_t tl_left_bytes(void);         // of these, what a finished pass or sampler left for the next one
// What this process has taken of the memory that it computes in: of a device's what it asked for (weights, adapters, arrays; without the
// kernels' scratch and the driver's own); else resident memory less tl_left_bytes.
int64_t tl_held_bytes(void);
bool tl_on_device(void);             // whether that is a device's memory
// Where this process computes: "cpu", "cuda", "cuda:1" ... "cuda" is the first device, of a rank the one of its place on the host, counted
// round those that it can see: where a launcher shows every rank one, that one. The first call, or the first model, decides; another device
// later is an error. "cpu" means the CPU, or what the environment variable TL_BACKEND names (also "reference"); NULL the same, once a device
// is chosen that one.
tl_status tl_device_select(const char *device);
const char *tl_device_warning(void); // NULL, or why the CPU computes although another device was asked for
const char *tl_backend_name(void);   // "cpu", "reference", "cuda"
const char *tl_backend_isa(void);    // "avx512bf16", "avx512", "avx2", "portable"; of a device its name

// ---------------------------------------------------------------- ranks: processes that share the work of a run (docs/distributed.md)
typedef struct tl_comm_info {
  int rank, size;              // this process's place among all of them; alone: 0 of 1
  int local_rank, local_size;  // the same among those of this host
  int shard, shards;           // the same in the group that shares a model (tl_comm_split); 0 of 1: every rank has a whole one
  int part, parts;             // which share of the prompts this rank has: a group's ranks have the same
  const char *host;
  const char *kind;            // "mpi"; "none": alone
} tl_comm_info;
// Joins the other processes that mpirun or srun started with this one; alone when none did. Fails when there are others and they
// cannot be reached (a build without MPI). The first call of a program; threads are then counted among the ranks of a host.
tl_status tl_comm_start(void);
// Puts the ranks into groups of `shards` that share one model (tensor parallelism): ranks 0 .. shards-1 are the first. By all ranks, once,
// before a model is loaded; again with the same number it does nothing.
tl_status tl_comm_split(int shards);
void tl_comm_get_info(tl_comm_info *out);
// Who exchanges: all ranks; those of this rank's group; one of every group, which have the parts of the prompts between them.
typedef enum tl_comm_scope { TL_COMM_ALL = 0, TL_COMM_GROUP = 1, TL_COMM_PARTS = 2 } tl_comm_scope;
// What every rank in scope gives (n bytes), to each of them, in the order of ranks: sizes (how many there are), all (the sum of
// sizes; tl_string_free). They call it together with the same tag, a word for what is exchanged; TL_E_ARG where they do not.
tl_status tl_comm_gather(tl_comm_scope scope, const char *tag, const void *mine, int64_t n, char **all, int64_t *sizes);
void tl_comm_stop(int code);   // ends every rank at once with this exit code; does nothing alone
void tl_comm_leave(void);      // at the end, by every rank

// ---------------------------------------------------------------- this machine's limits, and where the time goes
// Measured on all threads; a limit is the best of many short windows, so that other work on the machine disturbs it little.
double tl_machine_gflops(tl_dtype dtype);  // multiply-adds in registers, 2 FLOPs each: TL_BF16, TL_F32 or TL_I8 (int32 sums); TL_F16 is TL_F32, which a CPU multiplies it in
double tl_machine_read_gbs(void);          // reading memory, GB/s
// A profile: time, FLOPs and bytes by op (and by shape of its weight), and the time of runtime calls outside of ops. start
// forgets what was there; rows stay until then. What is counted: runtime/base/profile.c.
typedef struct tl_profile_row {
  const char *name;         // an op ("linear_fwd") or a part of the runtime ("sampler")
  int n, k;                 // outputs and inputs of the op's weight; 0: it has none
  tl_dtype compute;         // the dtype of its products
  bool is_op;
  int64_t calls;
  double seconds, flops, bytes;
} tl_profile_row;
void tl_profile_start(void);
void tl_profile_stop(void);
bool tl_profile_get(int i, tl_profile_row *out);  // row i, from 0; false: there are no more

// ---------------------------------------------------------------- random numbers
// Philox4x32-10 (Salmon et al. 2011). A draw is a pure function of (key, counter): out (4) = philox(key (2), counter (4)).
void tl_philox(const uint32_t *counter, const uint32_t *key, uint32_t *out);
// uniform in [0, 1) with 24 bits, for (seed, stream, index)
float tl_uniform(uint64_t seed, uint64_t stream, uint64_t index);
// x (n) = standard normals of (seed, stream), Box-Muller over Philox draws
void tl_normal_fill(float *x, size_t n, uint64_t seed, uint64_t stream);
// perm (n) = a permutation of 0..n-1 (Fisher-Yates over Philox draws)
void tl_permutation(int32_t *perm, int n, uint64_t seed, uint64_t stream);

// ---------------------------------------------------------------- files
// out: 64 hex digits and a NUL
tl_status tl_sha256_file(const char *path, char *out);
tl_status tl_sha256_bytes(const void *data, size_t n, char *out);
// write a whole file so that either the old or the new content is there, never a part: temporary file, fsync, rename
tl_status tl_write_file(const char *path, const void *data, size_t n);
tl_status tl_mkdirs(const char *path);
int tl_path_kind(const char *path);               // 0 nothing is there, 1 a file, 2 a folder, 3 something else
int64_t tl_file_bytes(const char *path);          // -1: not a regular file
// What tells that a file has been written or replaced: stamp (4) = bytes, ns since 1970 of the last change to it or its inode, device,
// inode. false: nothing is there
bool tl_file_stamp(const char *path, int64_t *stamp);
// the names in a folder, sorted bytewise, as a JSON array of strings; release with tl_string_free
tl_status tl_list_dir(const char *path, char **json);
// one YAML document as JSON text, scalars by the core schema of YAML 1.2; errors name file:line:column. tl_string_free
tl_status tl_yaml_to_json(const char *path, char **json);
// the same of a text (n bytes) that errors call `name`
tl_status tl_yaml_text_to_json(const char *text, size_t n, const char *name, char **json);
// is the text (n bytes) well-formed XML? TL_E_FORMAT with line and column when it is not
tl_status tl_xml_check(const char *text, size_t n);
// Runs argv (NULL-terminated; argv[0] is looked up in PATH) with input (n_input bytes) on its standard input and a minimal
// environment. At the wall limit, or when it writes more than max_output bytes to stdout or stderr, its process group is killed.
typedef struct tl_process_result {
  int exit_code;                    // of the program; -1: it was ended by a signal
  int signal;                       // that ended it, or 0
  bool timed_out, flooded;          // it met the wall limit; it wrote more than max_output bytes
  char *out, *err;                  // what it wrote (n_out, n_err bytes, then a NUL); release with tl_string_free
  size_t n_out, n_err;
  double seconds, cpu_seconds;      // wall; user and system of it and its children
  int64_t peak_bytes;               // the largest resident size of one of its processes
} tl_process_result;
tl_status tl_process_run(const char *const *argv, const char *input, size_t n_input, int wall_ms, int64_t max_output, tl_process_result *out);
// A process beside this one: argv as above, this process's environment with env ("NAME=VALUE", NULL-terminated, or NULL) before it,
// no input, its output appended to log_path (NULL: to this process's).
tl_status tl_child_start(const char *const *argv, const char *const *env, const char *log_path, int64_t *pid);
// true when it has ended (or is no child of this process): exit_code, or -1 and the signal that ended it. Once per child.
bool tl_child_poll(int64_t pid, int *exit_code, int *signal);
void tl_child_kill(int64_t pid);
void tl_child_of(int64_t parent);                 // for a child: it is killed when its parent ends, at once if that is no longer `parent`
void tl_sleep(double seconds);

// One page of HTML served on 127.0.0.1 to this machine's browser, by a thread of its own: / is the page, /version how often it was set.
typedef struct tl_page_server tl_page_server;
tl_status tl_page_server_start(int port, tl_page_server **out, int *port_used);  // port 0: one that is free
tl_status tl_page_server_set(tl_page_server *s, const char *html, size_t n);     // copied
void tl_page_server_stop(tl_page_server *s);

// HTTP for a program that computes in one thread (runtime/base/http_server.c): requests are taken one by one, and answered whole or in parts.
typedef struct tl_http_server tl_http_server;
typedef struct tl_http_server_options {
  const char *key;          // what clients give as a bearer token; NULL or "": nothing is asked for
  const char
      *origin;  // whose pages in a browser may ask and read (CORS), as "http://localhost:3000", or "*"; NULL or "": those of no other
  int64_t most_body;        // bytes of a request's body; 0: 16 MiB. More is answered 413
  int most_waiting;         // requests that nobody has taken; 0: 1024. More are answered 503
} tl_http_server_options;
typedef struct tl_http_request {
  int64_t id;
  const char *method, *path;       // the path without the query
  const char *body;                // (n_body) bytes, valid until the next request is taken
  size_t n_body;
} tl_http_request;
// host: an IPv4 address of this machine, or "localhost"; port 0: one that is free. On 127.x.x.x only requests to localhost are answered.
tl_status tl_http_server_start(const char *host, int port, const tl_http_server_options *o, tl_http_server **out, int *port_used);
bool tl_http_server_take(tl_http_server *s, double seconds, tl_http_request *out);  // waits so long for one; false: none came
// One whole answer; allow: the methods that the path takes, for an answer 405, or NULL.
// Or: parts, the first of which begins an answer 200 of this type; false: the client is gone, or has left 64 MiB untaken.
// In both cases the id is then over: after answer, and after end, which must follow the last part (and a part that was refused).
void tl_http_server_answer(tl_http_server *s, int64_t id, int status, const char *type, const char *allow, const char *body, size_t n);
bool tl_http_server_push(tl_http_server *s, int64_t id, const char *type, const char *data, size_t n);
void tl_http_server_end(tl_http_server *s, int64_t id);
bool tl_http_server_gone(tl_http_server *s,
                         int64_t id);  // the client of a request that was taken has left; one that only sends no more (shutdown) has not
void tl_http_server_stop(tl_http_server *s);  // waits up to a second until what was answered is sent

// What a download has to be, and how it is shown; 0 or NULL: not known, not wanted.
typedef struct tl_download_options {
  const char *sha256;   // 64 hex digits
  const char *git_sha1; // 40 hex digits, git's name of the content
  int64_t bytes;        // the file's size
  const char *token;    // sent as a bearer token, to url's own host only
  const char *label;    // what the progress line on stderr calls it; NULL: no progress
} tl_download_options;
// Fetches url to path: into path.part (continued where an earlier try stopped), renamed to path when complete and right. Of two
// processes that fetch the same path one waits. options may be NULL.
tl_status tl_download(const char *url, const char *path, const tl_download_options *options);
// GET of a small document (at most max_bytes) into memory; accept, token: the Accept header and a bearer token, or NULL.
// tl_string_free
tl_status tl_http_get(const char *url, const char *accept, const char *token, int64_t max_bytes, char **body);
// a symbolic link at path; what was there (a link or nothing) is replaced
tl_status tl_symlink(const char *target, const char *path);
// one member of a zip archive to a file; exact name, or the first member whose name ends in it
tl_status tl_unzip_member(const char *archive, const char *name_ending, const char *path);

// ---------------------------------------------------------------- tensors
// Dense arrays of up to 4 dims for Lua code: a view (dims, strides, offset) of a reference-counted storage. Elements travel as
// double (exact for every dtype); arithmetic is done in double and rounded once to the output's dtype, matmul in fp32.
typedef struct tl_tensor tl_tensor;
typedef struct tl_tensor_info {
  tl_dtype dtype;
  int n_dims;
  int64_t dims[4], strides[4];      // in elements
  int64_t offset;                   // of the first element in its storage
  const char *device;               // "cpu"
  bool contiguous;                  // row-major without gaps
} tl_tensor_info;
typedef enum tl_binary_op { TL_ADD = 0, TL_SUB = 1, TL_MUL = 2, TL_DIV = 3 } tl_binary_op;
typedef enum tl_reduce_op { TL_SUM = 0, TL_MEAN = 1, TL_MAX = 2, TL_MIN = 3, TL_NORM = 4 } tl_reduce_op;  // norm: Euclidean
// filled with zeros; dims (n_dims), each at least 1; device NULL: "cpu"
tl_status tl_tensor_create(tl_dtype dtype, int n_dims, const int64_t *dims, const char *device, tl_tensor **out);
void tl_tensor_free(tl_tensor *t);
void tl_tensor_get_info(const tl_tensor *t, tl_tensor_info *out);
void *tl_tensor_data(tl_tensor *t);      // the first element; owned by the storage
// views: they share t's storage. slice: elements start .. stop - 1 of a dim. reshape wants a contiguous t.
tl_status tl_tensor_slice(tl_tensor *t, int dim, int64_t start, int64_t stop, tl_tensor **out);
tl_status tl_tensor_transpose(tl_tensor *t, int dim_a, int dim_b, tl_tensor **out);
tl_status tl_tensor_reshape(tl_tensor *t, int n_dims, const int64_t *dims, tl_tensor **out);
// index (n_dims), from 0
tl_status tl_tensor_get(const tl_tensor *t, const int64_t *index, double *value);
tl_status tl_tensor_set(tl_tensor *t, const int64_t *index, double value);
tl_status tl_tensor_fill(tl_tensor *t, double value);
tl_status tl_tensor_normal(tl_tensor *t, uint64_t seed, uint64_t stream, double mean, double std);   // Philox, in row-major order
tl_status tl_tensor_uniform(tl_tensor *t, uint64_t seed, uint64_t stream, double low, double high);  // in [low, high)
tl_status tl_tensor_copy(tl_tensor *out, const tl_tensor *a);                                        // converts; same dims
// out = a op b; a and b have out's dims, or 1 where they repeat (out may be a or b)
tl_status tl_tensor_binary(tl_tensor *out, const tl_tensor *a, const tl_tensor *b, tl_binary_op op);
tl_status tl_tensor_affine(tl_tensor *out, const tl_tensor *a, double scale, double shift);          // out = a * scale + shift
tl_status tl_tensor_reduce(const tl_tensor *a, tl_reduce_op op, double *value);
// over one dim: out has a's dims with 1 in its place
tl_status tl_tensor_reduce_dim(tl_tensor *out, const tl_tensor *a, tl_reduce_op op, int dim);
// out (n, m) = a (n, k) b (k, m)
tl_status tl_tensor_matmul(tl_tensor *out, const tl_tensor *a, const tl_tensor *b);

// ---------------------------------------------------------------- models
typedef struct tl_model tl_model;
typedef struct tl_tokenizer tl_tokenizer;
typedef struct tl_adapter tl_adapter;

typedef struct tl_model_options {
  tl_dtype compute;   // TL_BF16, TL_F16 or TL_F32: dtype of activations and packed weights; sums are fp32 in all
  const char *device; // as tl_device_select takes it
  bool split;         // this rank's part alone is loaded, of as many as tl_comm_split made (runtime/model/split.c); its group computes together
} tl_model_options;

typedef struct tl_model_info {
  const char *path;         // as given to tl_model_load
  const char *format;       // "hf" or "gguf"
  const char *architecture; // "llama", "qwen2"
  const char *file_dtype;   // dtype of most of the weights in the file: "BF16", "Q4_1", ...
  tl_dtype compute;
  int n_layers, width, n_heads, n_kv_heads, head_dim, ffn, vocab, max_positions;
  int context;              // positions that the model is made for: max_positions, and what linear scaling or YaRN makes of them
  bool tied;                // head shares the embedding
  float norm_eps, rope_theta;
  int bos, pad;             // -1: none
  int n_eos;
  int eos[8];
  int64_t n_parameters;
  int64_t packed_bytes;     // resident bytes of the weights as used, of a split model those of this rank
  int64_t quantised_bytes;  // what the weights take in a file that stores them quantised (they are expanded); 0: it does not
  int n_modules;            // linear layers that an adapter can target: 7 a layer (q k v o gate up down)
  int shards;               // ranks that share the model; all other sizes are the whole model's
} tl_model_info;

typedef struct tl_module_info {
  int index, layer;
  const char *kind;         // "q" "k" "v" "o" "gate" "up" "down"
  const char *name;         // "model.layers.0.self_attn.q_proj"
  int out, in;
} tl_module_info;

// path: a Hugging Face directory (config.json and safetensors) or a GGUF file
tl_status tl_model_load(const char *path, const tl_model_options *options, tl_model **out);
// a model with random weights, normal(0, 0.02) as Llama initialises, from a config.json; for training from scratch
tl_status tl_model_create(const char *config_path, const tl_model_options *options, uint64_t seed, tl_model **out);
void tl_model_free(tl_model *m);
void tl_model_get_info(const tl_model *m, tl_model_info *out);
tl_status tl_model_module(const tl_model *m, int index, tl_module_info *out);
// w (out, in) = the module's weight, exactly as the model computes with it
tl_status tl_model_weight(const tl_model *m, int module, float *w);
// Hugging Face directory (config.json, model.safetensors in dtype); adapter NULL: the base. A full or low-rank adapter is
// merged in fp32, then rounded once. The tokenizer's files are copied from the source's folder, or written from a GGUF's
// metadata where tokenizer.json can express it.
tl_status tl_model_save(const tl_model *m, const tl_adapter *a, const char *dir, tl_dtype dtype);
// The same with format "hf" (path: a folder) or "gguf" (a file that llama.cpp loads). dtype: "f32", "f16", "bf16"; as GGUF also
// "q8_0", "q5_1", "q5_0", "q4_1", "q4_0" (vectors F32; embedding and head Q8_0 with the 4- and 5-bit ones). tokenizer false: the
// model without one; true: a tokenizer that the format cannot express is refused. Each file appears whole or not at all.
tl_status tl_model_export(const tl_model *m, const tl_adapter *a, const char *path, const char *format, const char *dtype,
                          bool tokenizer);
// a copy of the model with the adapter merged in (W + dW rounded to the compute dtype); shares everything else
tl_status tl_model_merge(const tl_model *m, const tl_adapter *a, tl_model **out);
// The linears that a merged model has of its own need not give a row the same bits in every batch from here on: a device may then use
// faster products. For rollouts whose mismatch the trainer corrects. The CPU has none, and keeps its bits.
void tl_model_relax(tl_model *m);
// a copy of the model to sample from: linears and head in int8 with a scale per row, everything else shared. Its logprobs differ
// a little from m's. It takes m's adapters; it cannot be trained.
tl_status tl_model_quantize(const tl_model *m, tl_model **out);
// seconds of the matrix products alone of `rows` rows through all linears and the head: the best of `passes` for each weight
tl_status tl_model_products(const tl_model *m, int rows, int passes, double *seconds);
// what a model file or directory says, without loading the weights, as a JSON object (family, sizes, dtypes, tensors);
// release with tl_string_free
tl_status tl_model_inspect(const char *path, char **json);
void tl_string_free(char *s);

// ---------------------------------------------------------------- tokenizers
// path: a model directory, a tokenizer.json, or a GGUF file
tl_status tl_tokenizer_load(const char *path, tl_tokenizer **out);
void tl_tokenizer_free(tl_tokenizer *t);
int tl_tokenizer_vocab_size(const tl_tokenizer *t);      // ids are below this; added tokens included
// ids (capacity): returns the count through n_out; when it exceeds capacity nothing is lost: call again with more room.
// parse_special: match added special tokens in the text. add_special: what the post-processor adds (BOS).
tl_status tl_tokenizer_encode(tl_tokenizer *t, const char *text, size_t n_bytes, bool add_special, bool parse_special,
                              int32_t *ids, int capacity, int *n_out);
// text (capacity) of the ids, UTF-8, not NUL-terminated; parts that are not UTF-8 (the ids begin or end inside a character) are
// U+FFFD, as in the `tokenizers` library. n_out and capacity as above. Ids that no token has are left out.
tl_status tl_tokenizer_decode(tl_tokenizer *t, const int32_t *ids, int n, bool skip_special, char *text, int capacity, int *n_out);
// what one id adds to a text that has begun: n bytes, which may be part of a character; owned by t; NULL: no such id
const char *tl_tokenizer_bytes(tl_tokenizer *t, int id, int *n);
// Decoding while the ids come. What was given so far is final: a character comes out once its last token is there. All texts of
// push and finish together are tl_tokenizer_decode's. text (n bytes) is the decoder's until the next call on it.
typedef struct tl_decoder tl_decoder;
tl_status tl_decoder_create(tl_tokenizer *t, bool skip_special, tl_decoder **out);
void tl_decoder_free(tl_decoder *d);
tl_status tl_decoder_push(tl_decoder *d, int32_t id, const char **text, int *n);
tl_status tl_decoder_finish(tl_decoder *d, const char **text, int *n);  // the rest; the decoder is as new then
int tl_tokenizer_id(tl_tokenizer *t, const char *token); // id of a token's exact text ("<|im_end|>"); -1 when absent
const char *tl_tokenizer_token(tl_tokenizer *t, int id); // the token's text; NULL when out of range
bool tl_tokenizer_is_special(tl_tokenizer *t, int id);
int tl_tokenizer_bos(tl_tokenizer *t);                   // -1: none
int tl_tokenizer_eos(tl_tokenizer *t);                   // -1: none
// The chat template of a name (NULL: "default"), as Jinja source; NULL: there is none. The names, i from 0; NULL: no more
const char *tl_tokenizer_chat_template(tl_tokenizer *t, const char *name);
const char *tl_tokenizer_chat_template_name(tl_tokenizer *t, int i);

// ---------------------------------------------------------------- adapters
typedef enum tl_adapter_kind { TL_TINYLORA = 0, TL_LORA_XS = 1, TL_LORA = 2, TL_FULL = 3 } tl_adapter_kind;
typedef enum tl_sigma { TL_SIGMA_PAPER = 0, TL_SIGMA_PEFT = 1 } tl_sigma;  // U S R V^T, or U sqrt(S) R sqrt(S) V^T
// what TinyLoRA's P is drawn with: Philox from (seed, module), or torch's CPU generator from seed + the module's place among
// the targets, as PEFT draws it; or read from a file (never an option)
typedef enum tl_projection { TL_PROJECTION_PHILOX = 0, TL_PROJECTION_TORCH = 1, TL_PROJECTION_STORED = 2 } tl_projection;

typedef struct tl_adapter_options {
  tl_adapter_kind kind;
  const int32_t *modules;  // (n_modules) indices of the targeted linears, ascending; unused for TL_FULL
  const int32_t *groups;   // (n_modules) TinyLoRA: the tied group of each, 0..n_groups-1; NULL: each its own
  int n_modules;
  int rank;                // r
  const int32_t *ranks;    // (n_modules) the rank of each module; NULL: rank
  int u;                   // TinyLoRA: numbers per group
  float alpha;             // LoRA and LoRA-XS: scale alpha / rank
  const float *scales;     // (n_modules) LoRA and LoRA-XS: the scale of each module; NULL: alpha / its rank
  const int8_t *signs;     // (sum of ranks) TinyLoRA, LoRA-XS: -1 turns a singular pair (u, v) into (-u, -v); NULL: all 1
  tl_sigma sigma;
  tl_projection projection;
  tl_dtype storage;        // dtype of the trained parameters as stored and as used in the forward pass; master copy is fp32
  uint64_t seed;           // projection P, LoRA's A
  float init_std;          // LoRA-XS: R ~ normal(0, init_std), 0: zeros; TinyLoRA: v uniform(-init_std, init_std), 0: zeros
  bool train_embeddings;   // TL_FULL: embeddings, head and norms too (default of the Lua side: true)
  const char *cache_dir;   // SVD cache; NULL: none
  tl_adapter *basis_of;    // TinyLoRA, LoRA-XS: its A and B are used, not computed again; same modules, ranks and sigma. NULL: own
} tl_adapter_options;

tl_status tl_adapter_create(tl_model *m, const tl_adapter_options *o, tl_adapter **out);
// another one of the same kind, modules, tying, P and numbers, on the same A and B; TinyLoRA and LoRA-XS only
tl_status tl_adapter_clone(const tl_adapter *a, tl_adapter **out);
// TL_OK when a number of the one means what it means in the other: same model, kind, modules, ranks, tying, u, A, B and P
tl_status tl_adapter_alike(const tl_adapter *a, const tl_adapter *b);
void tl_adapter_free(tl_adapter *a);
tl_adapter_kind tl_adapter_get_kind(const tl_adapter *a);
int64_t tl_adapter_n_parameters(const tl_adapter *a);
int64_t tl_adapter_n_bytes(const tl_adapter *a);        // n_parameters in the storage dtype
float *tl_adapter_parameters(tl_adapter *a);            // (n_parameters) fp32 master copy; owned by the adapter
float *tl_adapter_gradient(tl_adapter *a);              // (n_parameters) fp32; owned by the adapter
double tl_adapter_gradient_norm(tl_adapter *a);         // its Euclidean norm
// after the master copy was changed: rounds to the storage dtype and rebuilds what the forward pass reads
tl_status tl_adapter_refresh(tl_adapter *a);
void tl_adapter_zero_gradient(tl_adapter *a);
// dw (out, in) = the update of one module as the forward pass applies it
tl_status tl_adapter_delta(const tl_adapter *a, int module, float *dw);
// PEFT directory: adapter_config.json and adapter_model.safetensors. base_name goes into base_model_name_or_path.
//   TL_PEFT_NATIVE     TinyLoRA as TINYLORA; LoRA as LORA; LoRA-XS as a LORA
//   TL_PEFT_LORA       as LORA: TinyLoRA and LoRA-XS with lora_A = A, lora_B = B R, alpha = r
//   TL_PEFT_TINYLORA   as TINYLORA: LoRA-XS with R's entries for v and matrix units for P
typedef enum tl_peft_form { TL_PEFT_NATIVE = 0, TL_PEFT_LORA = 1, TL_PEFT_TINYLORA = 2 } tl_peft_form;
tl_status tl_adapter_save_as(const tl_adapter *a, const char *dir, const char *base_name, tl_peft_form form);
tl_status tl_adapter_save(const tl_adapter *a, const char *dir, const char *base_name);  // TL_PEFT_NATIVE
tl_status tl_adapter_load(tl_model *m, const char *dir, tl_adapter **out);
// A LoRA for llama.cpp, as a GGUF file: lora_a = A and lora_b = B R with alpha = r, or LoRA's own A, B and alpha; fp32.
tl_status tl_adapter_save_gguf(const tl_adapter *a, const char *path);

// ---- the compact file of an adapter (docs/adapters.md): its numbers and a manifest that says on which base they mean what
typedef struct tl_artifact_options {
  const char *base_name;   // how people call the base; NULL: ""
  const char *provenance;  // a JSON object: where the numbers come from; NULL: only the program's version
  bool carry;              // A and B go into the file (they do anyway when they came from one)
} tl_artifact_options;
tl_status tl_artifact_write(const tl_adapter *a, const char *path, const tl_artifact_options *o);
// Refuses a damaged file and a model whose weights, or whose singular basis, are not those of the training; force passes over the
// second. cache_dir: SVD cache or NULL.
tl_status tl_artifact_read(tl_model *m, const char *path, bool force, const char *cache_dir, tl_adapter **out);
// The same, on the A and B of another adapter of this model where they are those that the file wants (basis NULL or others: its own).
tl_status tl_artifact_read_beside(tl_model *m, const char *path, bool force, const char *cache_dir, tl_adapter *basis, tl_adapter **out);
// {"bytes", "payload_bytes", "sha256", "values": [at most 64], "signature": {"signer", "key"} or null, "manifest"}; checks digest
// and signature. tl_string_free
tl_status tl_artifact_inspect(const char *path, char **json);
// Ed25519: path (PKCS 8 PEM, readable by its owner) and path.pub; neither may be there
tl_status tl_artifact_keygen(const char *path);
// puts the signature, with a name of at most 200 bytes, at the file's end (in the place of an earlier one)
tl_status tl_artifact_sign(const char *path, const char *key_path, const char *signer);
// fails unless the file is signed, unchanged since, and (public_key_path not NULL) signed with that key
tl_status tl_artifact_verify(const char *path, const char *public_key_path);
// Frobenius products of two adapters' updates of one module: aa = <dW, dW>, bb = <dW', dW'>, ab = <dW, dW'>
tl_status tl_adapter_compare(const tl_adapter *a, const tl_adapter *b, int module, double *aa, double *bb, double *ab);
// TinyLoRA or LoRA-XS whose A and B came from a file, on the basis this program computes, when each singular pair agrees within
// tolerance of its size but for its sign. worst: the largest disagreement.
tl_status tl_adapter_rebase(const tl_adapter *a, const char *cache_dir, double tolerance, double *worst, tl_adapter **out);

// ---------------------------------------------------------------- linear algebra
// Truncated SVD w (n, k) ~ U diag(S) V^T: U (n, rank), S (rank) falling, V (k, rank), computed in double. The entry of largest
// magnitude of each column of U is positive. error (or NULL): max_i ||w^T u_i - S_i v_i|| / S_1, as reached (runtime/tensor/svd.c)

// ---- populations (runtime/adapter/population.c): several adapters of one model computed with at once, each prompt and its
// completions with its own. Members (n) are retained: TinyLoRA or LoRA-XS with the same modules and ranks, and equal A and B; what
// they have of v, R, P, tying, u, seed and dtype is their own. Results are those of each member alone, to the bit. Members may change
// between passes. A sampler or a pass that is given a population takes no adapter.
typedef struct tl_population tl_population;
tl_status tl_population_create(tl_adapter *const *members, int n, tl_population **out);
void tl_population_free(tl_population *p);
int tl_population_n_members(const tl_population *p);

tl_status tl_svd(const float *w, int n, int k, int rank, float *U, float *S, float *V, double *error);

// ---------------------------------------------------------------- sampling
typedef struct tl_sampler tl_sampler;

// What a sampler keeps of its forward pass for the training pass that follows (runtime/model/kept.h): the activations of as many
// of the upper layers as memory_bytes hold. One for all steps of a run: a sampler empties it when it starts.
typedef struct tl_kept tl_kept;
typedef struct tl_kept_info {
  int n_layers;                     // layers that are kept; 0: memory_bytes is too little for one
  int64_t rows, bytes;              // rows in use; bytes of all rows that were expected
} tl_kept_info;
tl_status tl_kept_create(int64_t memory_bytes, tl_kept **out);
void tl_kept_free(tl_kept *k);
void tl_kept_get_info(const tl_kept *k, tl_kept_info *out);

typedef struct tl_sampling {
  float temperature, top_p, min_p;  // 0 greedy; 1 off; 0 off
  int top_k;                        // 0 off
  int max_new_tokens;               // or until the model's context is full, whichever comes first
  int min_new_tokens;               // what ends a completion comes after so many tokens: before, the end-of-sequence tokens are not
                                    // drawn and stop strings are not looked for (as Hugging Face's min_new_tokens, vLLM's min_tokens)
  uint64_t seed;
  const char *const *stop;          // (n_stop) stop strings; a completion ends at the first token that completes one
  int n_stop;
  bool ignore_eos;
  int member;                       // of the sampler's population, from 0; -1: the base model
  int n_top;                        // the so many likeliest tokens of every place are noted, with their logprobs; at most TL_MOST_TOP
  bool prompt_logprobs;             // the logprobs of the prompt's own tokens too, and with n_top the likeliest in their places
} tl_sampling;
enum { TL_MOST_TOP = 20 };

typedef struct tl_sampler_options {
  int max_sequences;                // decoded at once; 0: 64
  int64_t memory_bytes;             // for the KV cache; 0: as needed for max_sequences at the requests' own lengths
  bool whole_cache;                 // memory_bytes of cache from the start, for requests that come later: else it grows only when nothing runs
  int prefill_tokens;               // rows a prefill pass may take; 0: 512
  bool prefix_cache;                // prompts that begin as earlier prompts or answers did take their keys and values: the same bits, sooner
  int prefill_per_step;             // rows of prompts between two decode steps; 0: all that wait
  tl_kept *kept;                    // filled for a pass to train from; NULL: nothing is kept
  tl_population *population;        // instead of an adapter, or NULL; a request says whose it is (tl_sampling.member)
} tl_sampler_options;

typedef struct tl_completion {
  int64_t request;                  // as returned by submit
  int index;                        // 0 .. n-1 within its request
  const int32_t *ids;               // (n_tokens), the end-of-sequence token included when there is one
  const float *logprobs;            // (n_tokens) at the sampling temperature, before truncation (TRL's convention)
  const float *entropy;             // (n_tokens)
  int n_tokens;
  const char *finish;               // "stop" or "length"
  int n_top;                        // as the request said
  const int32_t *top_ids;           // (n_tokens, n_top) likeliest first, of equal ones the lower id; NULL: n_top is 0
  const float *top_logprobs;        // (n_tokens, n_top) at the temperature of logprobs
  int n_prompt;
  const float *prompt_logprobs;     // (n_prompt) at the same temperature; the first token's is NaN. NULL: not asked for
  const int32_t *prompt_top_ids;    // (n_prompt, n_top); of the first token -1. NULL: not asked for
  const float *prompt_top_logprobs; // (n_prompt, n_top); of the first token NaN
} tl_completion;

typedef struct tl_sampler_stats {
  int64_t prompt_tokens, new_tokens, decode_steps;
  int64_t reused_tokens;            // of prompt_tokens, those that the prefix cache had
  double prefill_seconds, decode_seconds;
  double fastest_step_seconds;      // of the decode steps in which the most completions continued
  int64_t kv_bytes;
  int64_t replays;                  // of recorded parts of steps, two a step, on a device that records (CUDA graphs)
} tl_sampler_stats;

// adapter NULL: the base model. tokenizer is needed only for stop strings (NULL otherwise).
tl_status tl_sampler_create(tl_model *m, tl_adapter *a, tl_tokenizer *t, const tl_sampler_options *o, tl_sampler **out);
void tl_sampler_free(tl_sampler *s);
// n completions of one prompt (prefilled once). The tokens of completion i depend only on (seed, sequence_id + i, prompt ids,
// the sampling settings, the weights), never on what else is sampled. request: an id > 0.
tl_status tl_sampler_submit(tl_sampler *s, const int32_t *prompt, int n_prompt, int n, uint64_t sequence_id,
                            const tl_sampling *p, int64_t *request);
// runs up to max_steps decode steps; returns as soon as a completion has finished, or when nothing is left. pending: how many
// completions are not finished yet.
tl_status tl_sampler_run(tl_sampler *s, int max_steps, int *pending);
// Puts a population with the same A and B in the place of the sampler's own, between two runs: members keep their places, and what is
// decoded goes on with the member that then has its place; new ones stand behind them.
tl_status tl_sampler_set_population(tl_sampler *s, tl_population *p);
// Ends a request now: its completions that have not finished are dropped, and never popped. False: there is no such request any more.
bool tl_sampler_cancel(tl_sampler *s, int64_t request);
// pops one finished completion, valid until the next call of pop or free; false: none is ready
bool tl_sampler_pop(tl_sampler *s, tl_completion *out);
// The ids so far of a completion that is being decoded, from the from-th on (0-based), for text that is shown while it is made:
// how many there are; the first `capacity` of them are written to ids, their logprobs to logprobs (NULL: not wanted). 0 too when it has not
// begun or has finished (then pop).
int tl_sampler_peek(const tl_sampler *s, int64_t request, int index, int from, int32_t *ids, float *logprobs, int capacity);
// the same of the likeliest tokens: ids and logprobs (capacity, n_top); 0 when the request has no n_top
int tl_sampler_peek_top(const tl_sampler *s, int64_t request, int index, int from, int32_t *ids, float *logprobs, int capacity);
// and of the prompt's tokens, when the request has prompt_logprobs, from the completion's first token on: logprobs (capacity), top_ids and
// top_logprobs (capacity, n_top)
int tl_sampler_peek_prompt(const tl_sampler *s, int64_t request, int index, float *logprobs, int32_t *top_ids, float *top_logprobs,
                           int capacity);
void tl_sampler_get_stats(const tl_sampler *s, tl_sampler_stats *out);

// ---------------------------------------------------------------- batches and passes: forward and backward for training
// A batch holds prompts and their completions; a prompt's tokens are stored and computed once for all its completions.
typedef struct tl_batch tl_batch;
typedef struct tl_pass tl_pass;

tl_status tl_batch_create(tl_batch **out);
void tl_batch_free(tl_batch *b);
tl_status tl_batch_prompt(tl_batch *b, const int32_t *ids, int n, int *prompt);                       // prompt: its index
tl_status tl_batch_completion(tl_batch *b, int prompt, const int32_t *ids, int n, int *completion);   // completion: its index
// the place of a prompt (its index) in the step's prompts of all ranks, for tl_pass_reduce; at first its index
tl_status tl_batch_place(tl_batch *b, int prompt, int64_t place);
// prompts added from here on belong to this member of the pass's population (at first 0; -1: the base model, not trained)
void tl_batch_member(tl_batch *b, int member);
// completion is what the sampler drew with this sequence id. When every completion of a batch is marked so and is in the pass's
// tl_kept, and model, adapter and temperature are still those it was sampled with, the pass takes the upper layers from there
// instead of computing them. The results are the same to the bit; if anything is missing the pass goes the ordinary way.
tl_status tl_batch_sampled(tl_batch *b, int completion, uint64_t sequence_id);
int tl_batch_n_completions(const tl_batch *b);
int64_t tl_batch_n_tokens(const tl_batch *b);            // completion tokens in all = length of the per-token arrays
int64_t tl_batch_offset(const tl_batch *b, int completion);  // where a completion's tokens start in the per-token arrays

typedef struct tl_pass_options {
  float temperature;                // logprobs are log_softmax(logits / temperature); 0 is taken as 1
  int64_t memory_bytes;             // budget for activations; 0: 768 MiB, and up to 2 GiB where a prompt
                                    // with its completions needs that. Decides micro-batches and recomputation
  bool backward;                    // gradients will be asked for
  bool want_entropy;                // entropy (and its gradient) is computed
  tl_kept *kept;                    // what the sampler kept of these completions, or NULL: see tl_batch_sampled
  tl_population *population;        // instead of an adapter, or NULL: gradients go to each member's own (tl_batch_member)
  bool ranks;                       // the gradient is summed over all ranks: tl_pass_reduce follows the last backward
  float loss_scale;                 // of a model that computes in fp16: a power of two by which gradients are multiplied on their way,
                                    // so that they are large enough for fp16 (Micikevicius et al. 2018); 0: 1. The result is without it
} tl_pass_options;

// A pass runs a batch through the model in micro-batches of whole prompts. For each micro-batch i, in order:
// tl_pass_forward fills the per-token arrays (n_tokens of the batch; only the micro-batch's tokens are written), then
// tl_pass_backward adds to the adapter's gradient. Per-token arrays are indexed through tl_batch_offset.
tl_status tl_pass_create(tl_model *m, tl_adapter *a, tl_batch *b, const tl_pass_options *o, tl_pass **out);
void tl_pass_free(tl_pass *p);
int tl_pass_n_micro(const tl_pass *p);
int tl_pass_first_kept(const tl_pass *p);                // layers from here on come from tl_kept; n_layers: none does
bool tl_pass_recomputes(const tl_pass *p);               // true: layers are recomputed in backward to fit the budget
int64_t tl_pass_planned_bytes(const tl_pass *p);
// completions of micro-batch i: first .. first + count - 1
void tl_pass_micro_range(const tl_pass *p, int micro, int *first, int *count);
tl_status tl_pass_forward(tl_pass *p, int micro, float *logprobs, float *entropy);
// dlogprob (n_tokens), dentropy (n_tokens) or NULL: d loss / d logprob of each token of the micro-batch
tl_status tl_pass_backward(tl_pass *p, int micro, const float *dlogprob, const float *dentropy);
// Of a pass with `ranks`, after its last backward (a pass without prompts too), by all ranks together: the adapter's gradient is
// the sum of all ranks' in a fixed order. TinyLoRA and LoRA-XS: prompt by prompt in the order of their places, so the bits do not
// depend on how many ranks there are. LoRA and full: rank by rank.
tl_status tl_pass_reduce(tl_pass *p);
// logprob of every token of ids but the first: logprobs (n - 1). For `tlrun logprobs`.
tl_status tl_logprobs(tl_model *m, tl_adapter *a, const int32_t *ids, int n, float temperature, float *logprobs);
// logits (n, V) of a short sequence, for experiments in the REPL
tl_status tl_logits(tl_model *m, tl_adapter *a, const int32_t *ids, int n, float *logits);

// ---------------------------------------------------------------- GRPO, with TRL's formulas and names
typedef enum tl_loss_type {
  TL_LOSS_GRPO = 0,
  TL_LOSS_DR_GRPO = 1,
  TL_LOSS_DAPO = 2,
  TL_LOSS_BNPO = 3,
  TL_LOSS_CISPO = 4,
  TL_LOSS_SAPO = 5,
  TL_LOSS_LUSPO = 6
} tl_loss_type;
typedef enum tl_scale_rewards { TL_SCALE_GROUP = 0, TL_SCALE_BATCH = 1, TL_SCALE_NONE = 2 } tl_scale_rewards;
typedef enum tl_is_level { TL_IS_TOKEN = 0, TL_IS_SEQUENCE = 1 } tl_is_level;
typedef enum tl_is_mode { TL_IS_OFF = 0, TL_IS_TRUNCATE = 1, TL_IS_MASK = 2 } tl_is_mode;

typedef struct tl_grpo_options {
  tl_loss_type loss_type;
  float epsilon, epsilon_high, delta;     // clip range; delta 0: no two-sided cap. cispo: epsilon_high is the largest ratio itself
  float sapo_temperature_pos, sapo_temperature_neg;  // of sapo's gate where the advantage is above 0, and elsewhere; above 0
  float beta;                             // KL coefficient
  bool use_bias_correction_kl;            // the KL term times the importance ratio, whose gradient is then the reverse KL's, unbiased
  float entropy_coef;                     // bonus: loss -= entropy_coef * mean entropy; 0 off
  int max_completion_length;              // dr_grpo's divisor
  tl_is_level ratio_level;                // importance ratio per token (GRPO) or per sequence (GSPO)
  tl_is_mode is_mode;                     // correction for sampler/trainer mismatch
  tl_is_level is_level;
  float is_min, is_max;                   // truncation or mask bounds C_min, C_max
} tl_grpo_options;

typedef struct tl_grpo_stats {            // sums over the call's tokens and sequences; the Lua side divides
  double loss;
  double kl, entropy, ratio;              // sums over tokens
  double clip_low, clip_high;             // tokens (ratio_level sequence: sequences) clipped below and above; cispo: above alone; sapo: none
  double logp_diff, logp_diff_max;        // |old - sampler|: sum, max
  double is_sum, is_min, is_max;          // importance weights: sum over tokens (is_level sequence: over sequences), min, max
  int64_t n_tokens, n_sequences;
} tl_grpo_stats;

// advantages (n) of rewards (n) in consecutive groups of group_size. A = (r - mean) / (std + 1e-4), std with n - 1.
// NaN rewards (abstentions) are left out of the statistics and get advantage 0. zero_std: how many groups have std 0.
tl_status tl_grpo_advantages(const float *rewards, int n, int group_size, tl_scale_rewards scale, float *advantages, int *zero_std);
// The GRPO objective over sequences first .. first + count - 1. offsets (n_sequences + 1) into the per-token arrays.
// logprob (current), old (at the start of the step; NULL: equal to logprob, ratio 1), ref (NULL unless beta > 0), sampler
// (what the sampler reported; NULL: no correction), advantage (n_sequences), mask (tokens, NULL: all 1), policy_mask (tokens, NULL: all 1:
// where the clipped term counts; divisors and KL do not look at it).
// total_sequences and total_tokens (those with mask 1): of the whole optimiser step, the divisors of grpo, sapo and luspo, of dapo and cispo, and
// of the entropy bonus; bnpo is the token mean of this call times count / total_sequences. is_max 0: no upper bound.
// dlogprob (tokens) and dentropy (tokens, or NULL) are overwritten for the call's tokens. stats are added to.
tl_status tl_grpo_objective(const tl_grpo_options *o, int first, int count, const int64_t *offsets, const float *logprob,
                            const float *old, const float *ref, const float *sampler, const float *entropy,
                            const float *advantage, const float *mask, const float *policy_mask, int64_t total_sequences,
                            int64_t total_tokens, float *dlogprob, float *dentropy, tl_grpo_stats *stats);

// ---------------------------------------------------------------- optimiser
typedef struct tl_adamw tl_adamw;
tl_status tl_adamw_create(tl_adapter *a, float beta1, float beta2, float eps, float weight_decay, tl_adamw **out);
void tl_adamw_free(tl_adamw *o);
// clips the gradient to max_norm (0: no clipping), updates the master copy, refreshes the adapter. grad_norm: before clipping
tl_status tl_adamw_step(tl_adamw *o, float lr, float max_norm, double *grad_norm);
tl_status tl_adamw_save(const tl_adamw *o, const char *path);
tl_status tl_adamw_load(tl_adamw *o, const char *path);

// ---------------------------------------------------------------- verifier pool: Lua functions in worker threads
typedef struct tl_pool tl_pool;
typedef struct tl_pool_options {
  int n_workers;                    // 0: 2
  int timeout_ms;                   // per call; 0: 1000. Time in which a worker waits for a processor is not counted
  int nice;                         // 0 to 19: how far the workers' priority is below that of other threads; 19: they only take what is left
  int64_t memory_bytes;             // per worker's Lua state; 0: 256 MiB
  int64_t instructions;             // of the Lua VM per call, counted in thousands: strikes at the same place on every machine; 0: no limit
  const char *lua_path;             // package.path of the workers
  const char *module;               // module whose value is a function(problem, completion) -> reward [, info], or a table
                                    // with field `verify` being one, or a function that makes one when called with config
                                    // (a table's field `make` is such a function too)
  const char *config_json;          // passed to the module when it is a factory; NULL: none
  const char *chunk;                // instead of module: the verifier function itself, as bytecode of string.dump
  size_t chunk_bytes;
} tl_pool_options;
typedef struct tl_verdict {
  int64_t job;
  double reward;                    // NaN unless outcome is "ok"
  const char *outcome;              // "ok", "abstain", "error", "timeout", "memory"
  const char *message;              // what went wrong, or the verifier's info as JSON; never NULL
  double seconds;
} tl_verdict;
tl_status tl_pool_create(const tl_pool_options *o, tl_pool **out);   // fails with the module's own error if it does not load
void tl_pool_free(tl_pool *p);
// problem and completion travel as JSON strings: {"answer":...,...} and {"text":...,"n_tokens":...,"finish":...}
tl_status tl_pool_submit(tl_pool *p, const char *problem_json, const char *completion_json, int64_t *job);
// waits up to wait_ms (negative: without limit) for one verdict, in the order in which they are reached; *got false: none yet,
// or none is pending. The verdict's strings are valid until the next take or free.
tl_status tl_pool_take(tl_pool *p, int wait_ms, tl_verdict *out, bool *got);
int tl_pool_pending(const tl_pool *p);      // submitted and not yet taken

// TL_CDEF_END
#ifdef __cplusplus
#error "tl.h is C; wrap it in extern \"C\""
#endif
#endif
