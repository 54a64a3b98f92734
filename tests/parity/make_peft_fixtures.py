#!/usr/bin/env python3
"""Makes tests/parity/fixtures/model: what transformers and PEFT compute for two tiny random models.

    python tests/parity/make_peft_fixtures.py     (torch, transformers, peft; versions used: fixtures/model/made_with.json)

Layout, FAMILY being llama (tied head, GQA, explicit head_dim, llama3 RoPE scaling) and qwen2 (untied head, q k v biases):
    FAMILY/config.json, FAMILY/model.safetensors     the model, F32
    FAMILY/reference.safetensors                     the base model:
        n_prompt (n_sequences)       I32; how many of a sequence's ids are its prompt. Sequences 0 and 1 share their prompt.
        ids.<i> (n)                  I32
        logprobs.<i> (n - 1)         F32; log_softmax(logits)[next id], of ids 1 .. n-1
        entropy.<i> (n - 1)          F32
        logits.0 (n, V)              F32, of sequence 0 only
        c.<i>, e.<i> (n - 1)         F32; the loss is sum_i sum_t c_t logprob_t + e_t entropy_t; 0 where the prompt is predicted
        loss (1)                     F32
        grad.<parameter name>        F32; d loss / d parameter, all parameters trained (tied: embedding and head summed)
    FAMILY/CASE/adapter_config.json, adapter_model.safetensors    as PEFT's save_pretrained writes them
    FAMILY/CASE/reference.safetensors
        logprobs.<i>, loss           with the adapter; c as above and e = 0
        grad.<key>                   d loss / d tensor for every trained tensor, key as in adapter_model.safetensors
    Cases: tinylora_ratio (weight_tying 0.6); for llama also tinylora_full (one v of 13), tinylora_none (a v for each module),
    tinylora_qv (q_proj and v_proj only), lora (rank 3, alpha 5). v and lora_B are random, not zero.
"""
import json
import os
import shutil

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, TinyLoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "model")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = dict(hidden_size=24, intermediate_size=34, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=43,
             max_position_embeddings=128, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
LENGTHS = [(9, 21), (9, 14), (5, 34)]  # (prompt, all)


def build(family):
    if family == "llama":
        config = LlamaConfig(head_dim=8, rms_norm_eps=1e-5, tie_word_embeddings=True,
                             rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
                                              "high_freq_factor": 4.0, "original_max_position_embeddings": 16}, **SIZES)
        model = LlamaForCausalLM(config)
    else:
        config = Qwen2Config(rms_norm_eps=1e-6, tie_word_embeddings=False,
                             rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, **SIZES)
        model = Qwen2ForCausalLM(config)
    generator = torch.Generator().manual_seed(20260204)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if "norm" in name else 0.25 * noise)
    return model.float().eval()


def sequences():
    generator = torch.Generator().manual_seed(7)
    draw = lambda n: torch.randint(3, SIZES["vocab_size"], (n,), generator=generator)
    first = draw(LENGTHS[0][0])
    ids = [torch.cat([first if i < 2 else draw(p), draw(n - p)]) for i, (p, n) in enumerate(LENGTHS)]
    c = [torch.randn(n - 1, generator=generator) * (torch.arange(1, n) >= p) for p, n in LENGTHS]
    e = [torch.randn(n - 1, generator=generator) * (torch.arange(1, n) >= p) for p, n in LENGTHS]
    return ids, c, e


def measure(model, ids):
    logits = model(input_ids=ids[None]).logits[0].float()
    logp = torch.log_softmax(logits[:-1], -1)
    return logits, logp.gather(1, ids[1:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def reference(model, ids, c, e):
    """-> (tensors, loss) without gradients of the tensors"""
    out, loss = {}, 0
    for i, x in enumerate(ids):
        logits, logprob, entropy = measure(model, x)
        out[f"logprobs.{i}"] = logprob.detach().clone()
        loss = loss + (c[i] * logprob).sum()
        if e is not None:
            out[f"entropy.{i}"] = entropy.detach().clone()
            loss = loss + (e[i] * entropy).sum()
        if i == 0 and e is not None:
            out["logits.0"] = logits.detach().clone()
    out["loss"] = loss.detach().reshape(1)
    return out, loss


def base_case(model, ids, c, e):
    """-> the tensors of the base model's reference.safetensors"""
    out, loss = reference(model, ids, c, e)
    loss.backward()
    for name, p in model.named_parameters():
        out["grad." + name] = p.grad.clone()
    out["n_prompt"] = torch.tensor([p for p, _ in LENGTHS], dtype=torch.int32)
    for i, x in enumerate(ids):
        out[f"ids.{i}"] = x.to(torch.int32)
        out[f"c.{i}"], out[f"e.{i}"] = c[i], e[i]
    return out


def save_base(folder, model, ids, c, e):
    model.save_pretrained(folder)
    for extra in ("generation_config.json",):
        path = os.path.join(folder, extra)
        if os.path.exists(path):
            os.remove(path)
    save_file(base_case(model, ids, c, e), os.path.join(folder, "reference.safetensors"), {"format": "pt"})


def adapter_case(folder, build, config, ids, c):
    """build: a function that makes the base model"""
    model = get_peft_model(build(), config)
    generator = torch.Generator().manual_seed(99)
    trained = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_A" not in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(folder)
    readme = os.path.join(folder, "README.md")
    if os.path.exists(readme):
        os.remove(readme)
    model = PeftModel.from_pretrained(build(), folder, is_trainable=True).eval()
    out, loss = reference(model, ids, c, None)
    loss.backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            group = name.rpartition("tinylora_v.default.")[2] if "tinylora_v" in name else None
            key = f"base_model.tinylora_v.{group}" if group else name.replace(".default", "")
            trained["grad." + key] = p.grad.clone()
    out.update(trained)
    save_file(out, os.path.join(folder, "reference.safetensors"), {"format": "pt"})


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    ids, c, e = sequences()
    for family in ("llama", "qwen2"):
        save_base(os.path.join(OUT, family), build(family), ids, c, e)
        tiny = lambda **k: TinyLoraConfig(**{"r": 2, "u": 13, "target_modules": list(ALL), "task_type": "CAUSAL_LM", **k})
        cases = {"tinylora_ratio": tiny(u=4, weight_tying=0.6)}
        if family == "llama":
            cases["tinylora_full"] = tiny(weight_tying=1.0)
            cases["tinylora_none"] = tiny(u=3)
            cases["tinylora_qv"] = tiny(u=2, target_modules=["q_proj", "v_proj"], projection_seed=5)
            cases["lora"] = LoraConfig(r=3, lora_alpha=5, target_modules=list(ALL), task_type="CAUSAL_LM")
        for case, config in cases.items():
            adapter_case(os.path.join(OUT, family, case), lambda: build(family), config, ids, c)
    with open(os.path.join(OUT, "made_with.json"), "w") as f:
        versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
        json.dump(versions, f, indent=2, sort_keys=True)
        f.write("\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    main()
