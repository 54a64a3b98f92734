#!/usr/bin/env python3
"""Checks models in GGUF against llama.cpp: what the metadata means, not only that it is read.

    python tests/parity/check_gguf_models.py [build/tlrun]        (gguf, llama-cpp-python 0.3.36, numpy, safetensors)

The models of fixtures/models are written as F32 GGUF files by the gguf package; tlrun's logprobs (fp32) must be llama.cpp's to 1e-4
of the largest. In these architectures llama.cpp applies neither attention.sliding_window nor rope.scaling.yarn_beta_fast and
yarn_beta_slow, so those are compared with transformers only (fixtures/models). Prints one line a case, exits 1 on a difference.
"""
import json
import os
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODELS = os.path.join(ROOT, "tests", "parity", "fixtures", "models")
IDS = [3 + (i * 7) % 40 for i in range(30)]
CASES = [("llama_plain", {}), ("llama_linear", {}), ("llama_bias", {}), ("llama_yarn", {}), ("mistral_full", {}), ("qwen3", {}), ("qwen3_yarn", {}),
         ("qwen3_yarn", {"attn_factor": 0.8}), ("llama_llama3", {})]


def add_scaling(g, arch, scaling, more, c):
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "llama3":
        head, old = c["head_dim"], scaling["original_max_position_embeddings"]
        f = c["rope_theta"] ** -(np.arange(0, head, 2, dtype=np.float32) / head)
        smooth = np.clip((old * f / (2 * np.pi) - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"]), 0, 1)
        g.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32))
        return
    g.add_rope_scaling_type(gguf.RopeScalingType(kind))
    g.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        g.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    for key, value in more.items():
        g.add_float32(f"{arch}.rope.scaling.{key}", value)


def interleaved(t, heads):
    return t.reshape(heads, 2, t.shape[0] // heads // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def write(path, case, weights, more):
    with open(os.path.join(MODELS, case, "config_v4.json")) as f:
        c = json.load(f)
    arch = "llama" if c["model_type"] == "mistral" else c["model_type"]
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    head = c.get("head_dim") or c["hidden_size"] // heads
    g = gguf.GGUFWriter(path, arch)
    for add, value in ((g.add_block_count, c["num_hidden_layers"]), (g.add_context_length, c["max_position_embeddings"]),
                       (g.add_embedding_length, c["hidden_size"]), (g.add_feed_forward_length, c["intermediate_size"]),
                       (g.add_head_count, heads), (g.add_head_count_kv, kv_heads), (g.add_key_length, head), (g.add_value_length, head),
                       (g.add_rope_dimension_count, head), (g.add_rope_freq_base, c["rope_theta"]),
                       (g.add_layer_norm_rms_eps, c["rms_norm_eps"]), (g.add_vocab_size, c["vocab_size"]), (g.add_tokenizer_model, "no_vocab")):
        add(value)
    if c["rope_scaling"]:
        add_scaling(g, arch, c["rope_scaling"], more, c)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], c["num_hidden_layers"])
    for name, t in load_file(os.path.join(MODELS, "weights", weights + ".safetensors")).items():
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            t = interleaved(t, heads if "q_proj" in name else kv_heads)
        g.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(t))
    g.write_header_to_file()
    g.write_kv_data_to_file()
    g.write_tensors_to_file()
    g.close()


def llama_cpp_logprobs(path):
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 128
    options.type_k = options.type_v = 0  # F32
    options.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, options)
    batch = llama_cpp.llama_batch_init(len(IDS), 0, 1)
    batch.n_tokens = len(IDS)
    for i, token in enumerate(IDS):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    assert llama_cpp.llama_decode(context, batch) == 0
    n = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), shape=(n,)).astype(np.float64) for i in range(len(IDS) - 1)]
    out = np.array([r[t] - r.max() - np.log(np.exp(r - r.max()).sum()) for r, t in zip(rows, IDS[1:])])
    llama_cpp.llama_model_free(model)
    return out


def main():
    tlrun = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "tlrun"))
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    with open(os.path.join(MODELS, "cases.json")) as f:
        cases = json.load(f)
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        for i, (case, more) in enumerate(CASES):
            path = os.path.join(work, f"{i}.gguf")
            write(path, case, cases[case]["weights"], more)
            out = subprocess.run([tlrun, "logprobs", "--model", path, "--compute", "fp32", "--json", "--ids", ",".join(map(str, IDS))],
                                 check=True, capture_output=True, text=True).stdout
            have, want = np.array(json.loads(out)["logprobs"]), llama_cpp_logprobs(path)
            worst = abs(have - want).max() / abs(want).max()
            failed |= not worst <= 1e-4
            print(f"{'ok' if worst <= 1e-4 else 'not ok'} {case}{' ' + json.dumps(more) if more else ''}: largest difference {worst:.1e}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
