#!/usr/bin/env python3
"""Makes tests/parity/fixtures/models: tiny random models of every family and key style, and what transformers and PEFT compute.

    python tests/parity/make_model_fixtures.py     (./dev fixtures runs it; versions used: fixtures/models/made_with.json)

Llama tied with llama3 scaling, Qwen2, and most adapters are fixtures of make_peft_fixtures.py already; sequences, loss and the
names of tensors are the same here.

    cases.json                     {CASE: {"weights": NAME, "adapters": [ADAPTER, ...]}}
    weights/NAME.safetensors       F32; a tensor's values depend on its name and shape only, so cases share files
    CASE/config.json               as transformers 5 writes it (rope_parameters, dtype, layer_types)
    CASE/config_v4.json            the same model in the keys of transformers 4 (rope_theta, rope_scaling, torch_dtype); the script
                                   has checked that transformers computes the same from both
    CASE/reference.safetensors     as in make_peft_fixtures.py, and
        left.1 (n, V)              logits of sequence 1 in a batch padded on the left to the longest, positions cumsum(mask) - 1
        grad.<parameter>           of all parameters, or of those in CHOSEN where only rotation differs from another case
    CASE/ADAPTER/...               as make_peft_fixtures.py writes them
The vocabulary has 48 rows, of which the sequences use 43.
"""
import json
import os
import shutil
import tempfile
import zlib

import peft
import torch
import transformers
from make_peft_fixtures import ALL, SIZES, adapter_case, base_case, sequences
from peft import LoraConfig, TinyLoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MinistralConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "models")
CHOSEN = ["model.embed_tokens.weight"] + [f"model.layers.0.self_attn.{k}_proj.weight" for k in "qkv"]
BASE = {**SIZES, "vocab_size": 48}
HEADS = {"head_dim": 8}  # not hidden / heads, which is 6
ADAPTERS = ["tinylora", "lora"]


def rope(kind="default", theta=10000.0, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


YARN = dict(kind="yarn", factor=4.0, original_max_position_embeddings=32)
#       case                  weights         configuration                                                gradients of all, adapters
CASES = {
    "llama_plain":          ("llama_plain",   LlamaConfig(**BASE, **rope()),                                          True, []),
    "llama_linear":         ("llama",         LlamaConfig(**BASE, **HEADS, **rope("linear", factor=2.5)),             False, []),
    "llama_llama3":         ("llama",         LlamaConfig(**BASE, **HEADS, **rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0,
                                               high_freq_factor=4.0, original_max_position_embeddings=16)),           False, []),
    "llama_yarn":           ("llama",         LlamaConfig(**BASE, **HEADS, **rope(**YARN)),                           True, ADAPTERS),
    "llama_yarn_betas":     ("llama",         LlamaConfig(**BASE, **HEADS, **rope(**YARN, attention_factor=0.9, beta_fast=4.0, beta_slow=0.5,
                                               truncate=False)),                                                      False, []),
    "llama_yarn_mscale":    ("llama",         LlamaConfig(**BASE, **HEADS, **rope(**YARN, mscale=1.2, mscale_all_dim=0.7)), False, []),
    "llama_bias":           ("llama_bias",    LlamaConfig(**BASE, **HEADS, **rope(), attention_bias=True),            True, []),
    "mistral":              ("llama",         MistralConfig(**BASE, **HEADS, **rope(), sliding_window=6),             True, ADAPTERS),
    "mistral_full":         ("llama",         MistralConfig(**BASE, **HEADS, **rope(theta=1000000.0), sliding_window=None), False, []),
    "mistral_layer_types":  ("llama",         MinistralConfig(**BASE, **HEADS, **rope(), sliding_window=5,
                                               layer_types=["full_attention", "sliding_attention"]),                  False, []),
    "qwen2_sliding":        ("qwen2",         Qwen2Config(**BASE, **rope(theta=100000.0), use_sliding_window=True, sliding_window=6,
                                               max_window_layers=1),                                                  True, ADAPTERS),
    "qwen2_layer_types":    ("qwen2",         Qwen2Config(**BASE, **rope(theta=100000.0), use_sliding_window=True, sliding_window=7,
                                               layer_types=["sliding_attention", "full_attention"]),                  False, []),
    "qwen3":                ("qwen3",         Qwen3Config(**BASE, **HEADS, **rope(theta=1000000.0), tie_word_embeddings=True), True, ADAPTERS),
    "qwen3_yarn":           ("qwen3",         Qwen3Config(**BASE, **HEADS, **rope(**YARN), tie_word_embeddings=True), False, []),
    "qwen3_bias_sliding":   ("qwen3_bias",    Qwen3Config(**BASE, **HEADS, **rope(), attention_bias=True, use_sliding_window=True,
                                               sliding_window=4, max_window_layers=0),                                True, []),
    "smollm3":              ("llama",         SmolLM3Config(**BASE, **HEADS, **rope(theta=100000.0), no_rope_layer_interval=2,
                                               tie_word_embeddings=False, pad_token_id=None),                          True, ADAPTERS),
}


def filled(config):
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            seed = zlib.crc32(f"{name} {tuple(p.shape)}".encode())
            noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
            p.copy_(1 + 0.2 * noise if "norm" in name else 0.25 * noise)
    return model.float().eval()


def config_v5(model):
    d = json.loads(model.config.to_json_string(use_diff=False))
    d = {k: v for k, v in d.items() if not k.startswith("_") and k not in ("id2label", "label2id", "problem_type", "chunk_size_feed_forward",
         "return_dict", "output_hidden_states", "output_attentions", "is_encoder_decoder")}
    d["architectures"], d["dtype"] = [type(model).__name__], "float32"
    return d


def config_v4(case, v5):
    d = dict(v5)
    d["torch_dtype"] = d.pop("dtype")
    scaling = d.pop("rope_parameters")
    d["rope_theta"] = scaling.pop("rope_theta")
    if scaling["rope_type"] == "linear":
        scaling["type"] = scaling.pop("rope_type")  # the oldest key
    d["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
    if not case.endswith("layer_types"):
        d.pop("layer_types", None)
    if d["model_type"] == "ministral":  # as checkpoints of that time say it: transformers 5 turns mistral with layer_types into ministral
        d["model_type"], d["architectures"] = "mistral", ["MistralForCausalLM"]
    d["transformers_version"] = "4.44.0"
    return d


def write_json(path, d):
    with open(path, "w") as f:
        json.dump(d, f, indent=2, sort_keys=True)
        f.write("\n")


def from_files(config, weights):
    with tempfile.TemporaryDirectory() as folder:
        write_json(os.path.join(folder, "config.json"), config)
        shutil.copy(weights, os.path.join(folder, "model.safetensors"))
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def left_padded(model, ids):
    width = max(len(x) for x in ids)
    batch = torch.zeros(len(ids), width, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for i, x in enumerate(ids):
        batch[i, width - len(x):], mask[i, width - len(x):] = x, 1
    with torch.no_grad():
        logits = model(input_ids=batch, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    return logits[1, width - len(ids[1]):].float()


def case_files(case, weights, config, all_gradients, adapters, data):
    ids, c, e = data
    folder = os.path.join(OUT, case)
    os.makedirs(folder)
    model = filled(config)
    path = os.path.join(OUT, "weights", weights + ".safetensors")
    if not os.path.exists(path):
        tied = config.tie_word_embeddings
        save_file({k: p.detach().contiguous() for k, p in model.state_dict().items() if not (tied and k == "lm_head.weight")}, path,
                  {"format": "pt"})
    v5 = config_v5(model)
    v4 = config_v4(case, config_v5(model))
    write_json(os.path.join(folder, "config.json"), v5)
    write_json(os.path.join(folder, "config_v4.json"), v4)
    out = base_case(model, ids, c, e)
    for d in (v5, v4):
        again = from_files(d, path)
        with torch.no_grad():
            assert torch.equal(again(input_ids=ids[0][None]).logits[0], out["logits.0"]), (case, d)
    out = {k: v for k, v in out.items() if all_gradients or not k.startswith("grad.") or k[5:] in CHOSEN}
    out["left.1"] = left_padded(model, ids)
    save_file(out, os.path.join(folder, "reference.safetensors"), {"format": "pt"})
    for name in adapters:
        adapter = (TinyLoraConfig(r=2, u=13, weight_tying=0.5, target_modules=list(ALL), task_type="CAUSAL_LM") if name == "tinylora" else
                   LoraConfig(r=2, lora_alpha=3, target_modules=list(ALL), task_type="CAUSAL_LM"))
        adapter_case(os.path.join(folder, name), lambda: filled(config), adapter, ids, c)
    return {"weights": weights, "adapters": adapters}


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(os.path.join(OUT, "weights"))
    data = sequences()
    write_json(os.path.join(OUT, "cases.json"), {case: case_files(case, *spec, data) for case, spec in CASES.items()})
    write_json(os.path.join(OUT, "made_with.json"), {m.__name__: m.__version__ for m in (torch, transformers, peft)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    main()
