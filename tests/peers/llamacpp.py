"""llama.cpp's batched decode through its C API (llama-cpp-python), one measurement a process.

One shared prompt of --prompt-tokens tokens is evaluated once and its cache copied to --batch sequences; then --new-tokens tokens are
decoded for all of them at once, each drawn at temperature 1 over the whole vocabulary. The four settings of flash attention and of a
unified cache are tried on a few tokens first and the fastest is measured. Prints one JSON line: tokens_per_s (sampling included),
tokens_per_s_without_sampling, prefill_tokens_per_s (512 tokens), and the settings. With --make TYPE: requantises into --out instead.
"""
import argparse, ctypes, json, time
import llama_cpp as L

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("model")
p.add_argument("--make", choices=["F16", "BF16", "Q8_0", "Q4_0"])
p.add_argument("--out")
p.add_argument("--batch", type=int, default=64)
p.add_argument("--prompt-tokens", type=int, default=64)
p.add_argument("--new-tokens", type=int, default=96)
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()

silent = L.llama_log_callback(lambda *_: None)
L.llama_log_set(silent, ctypes.c_void_p(0))
L.llama_backend_init()
if a.make:
    q = L.llama_model_quantize_default_params()
    q.ftype = getattr(L, "LLAMA_FTYPE_MOSTLY_" + a.make)
    q.allow_requantize = True
    q.nthread = a.threads
    raise SystemExit(L.llama_model_quantize(a.model.encode(), a.out.encode(), ctypes.byref(q)))

model = L.llama_model_load_from_file(a.model.encode(), L.llama_model_default_params())
n_vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
prompt = [(7919 * i + 13) % (n_vocab - 1000) + 500 for i in range(a.prompt_tokens)]
PREFILL = 512
batch = L.llama_batch_init(PREFILL, 0, 1)
draw = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
L.llama_sampler_chain_add(draw, L.llama_sampler_init_temp(1.0))
L.llama_sampler_chain_add(draw, L.llama_sampler_init_dist(1))


def decode(ctx, rows):  # rows: (token, position, sequence, logits wanted)
    for i, (token, pos, seq, want) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, pos, 1, want
        batch.seq_id[i][0] = seq
    batch.n_tokens = len(rows)
    if L.llama_decode(ctx, batch) != 0:
        raise SystemExit("llama_decode failed")
    L.llama_synchronize(ctx)


def context(flash, unified):
    c = L.llama_context_default_params()
    each = len(prompt) + a.new_tokens
    need = len(prompt) + a.batch * a.new_tokens if unified else -(-each // 256) * 256 * a.batch
    c.n_ctx = max(1024, -(-need // 256) * 256)
    c.n_batch = c.n_ubatch = PREFILL
    c.n_seq_max, c.n_threads, c.n_threads_batch = a.batch, a.threads, a.threads
    c.flash_attn_type, c.kv_unified = flash, bool(unified)
    return L.llama_init_from_model(model, c)


def tokens_per_s(ctx, new, sample):
    L.llama_memory_clear(L.llama_get_memory(ctx), True)
    decode(ctx, [(t, i, 0, i == len(prompt) - 1) for i, t in enumerate(prompt)])
    for s in range(1, a.batch):
        L.llama_memory_seq_cp(L.llama_get_memory(ctx), 0, s, -1, -1)
    token = [1000 + 37 * s for s in range(a.batch)]
    began = time.perf_counter()
    for step in range(new):
        decode(ctx, [(token[s], len(prompt) + step, s, 1) for s in range(a.batch)])
        if sample:
            token = [L.llama_sampler_sample(draw, ctx, s) for s in range(a.batch)]
    return a.batch * new / (time.perf_counter() - began)


best = (0, None)
for flash in (0, 1):
    for unified in (0, 1) if a.batch > 1 else (1,):
        ctx = context(flash, unified)
        if not ctx:
            continue
        tokens_per_s(ctx, 2, False)
        best = max(best, (tokens_per_s(ctx, min(12, a.new_tokens), False), (flash, unified)))
        L.llama_free(ctx)
flash, unified = best[1]
ctx = context(flash, unified)
plain = tokens_per_s(ctx, a.new_tokens, False)
sampled = tokens_per_s(ctx, a.new_tokens, True)
L.llama_free(ctx)
ctx = context(1, 1)
times = []
for _ in range(3):
    L.llama_memory_clear(L.llama_get_memory(ctx), True)
    began = time.perf_counter()
    decode(ctx, [(prompt[i % len(prompt)], i, 0, i == PREFILL - 1) for i in range(PREFILL)])
    times.append(time.perf_counter() - began)
print(json.dumps({"tokens_per_s": sampled, "tokens_per_s_without_sampling": plain, "prefill_tokens_per_s": PREFILL / min(times),
                  "flash_attention": flash, "unified_cache": unified, "version": L.__version__}))
