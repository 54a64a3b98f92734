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
        logits_last.0 (4, V)         F32, of the last four tokens of sequence 0
        grad.<key>                   d loss / d tensor for every trained tensor, key as in adapter_model.safetensors
    Cases: CASES below. v and lora_B are random, not zero. "nosave": the file is without P, which the reader must draw.

torch_normal.safetensors    n<N>.seed<S>.r<R> (N) F32: torch.normal(0, 1/sqrt(R), (N,)) with a generator seeded by S, as an x86
                            CPU with AVX2 gives it. Sizes on both sides of 16, ragged and not.
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
        if i == 0 and e is None:
            out["logits_last.0"] = logits[-4:].detach().clone()
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


def sort_targets(path):
    """PEFT writes sets as lists, in the order of this process's hashes."""
    with open(path) as f:
        config = json.load(f)
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    with open(path, "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)


def adapter_case(folder, build, config, ids, c):
    """build: a function that makes the base model"""
    torch.manual_seed(0)
    model = get_peft_model(build(), config)
    generator = torch.Generator().manual_seed(99)
    trained = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "lora_A" not in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(folder)
    sort_targets(os.path.join(folder, "adapter_config.json"))
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


def tiny(**k):
    return TinyLoraConfig(**{"r": 2, "u": 13, "target_modules": list(ALL), "task_type": "CAUSAL_LM", **k})


def lora(**k):
    return LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": list(ALL), "task_type": "CAUSAL_LM", **k})


CASES = {
    "llama": {
        "tinylora_ratio": tiny(u=4, weight_tying=0.6),
        "tinylora_full": tiny(weight_tying=1.0),
        "tinylora_none": tiny(u=3),
        "tinylora_qv": tiny(u=2, target_modules=["q_proj", "v_proj"], projection_seed=5),
        # 14 modules: groups of sizes that divide and that do not; 10.5 and 3.5 groups round to the even number
        "tinylora_tie_10_nosave": tiny(u=2, weight_tying=0.1, save_projection=False),
        "tinylora_tie_25": tiny(u=2, weight_tying=0.25),
        "tinylora_tie_40_nosave": tiny(u=1, weight_tying=0.4, save_projection=False),
        "tinylora_tie_50": tiny(u=2, weight_tying=0.5),
        "tinylora_tie_75_nosave": tiny(u=4, weight_tying=0.75, save_projection=False),
        "tinylora_tie_90": tiny(u=2, weight_tying=0.9, init_weights="uniform", init_v_bound=0.5),
        "tinylora_full_nosave": tiny(weight_tying=1.0, save_projection=False, projection_seed=7),
        "tinylora_regex_nosave": tiny(u=3, target_modules=r".*\.layers\.\d+\..*(q|up)_proj", save_projection=False),
        "tinylora_all_linear_nosave": tiny(u=5, target_modules="all-linear", weight_tying=1.0, save_projection=False),
        "tinylora_layers_nosave": tiny(u=2, layers_to_transform=[1], layers_pattern="layers", save_projection=False),
        "tinylora_layer": tiny(u=2, layers_to_transform=1, tinylora_dropout=0.1),
        # k_proj has 16 outputs: PEFT takes rank 16 there and 20 in gate_proj
        "tinylora_rank_nosave": tiny(r=20, u=2, target_modules=["k_proj", "gate_proj"], weight_tying=1.0, save_projection=False),
        "lora": lora(),
        "lora_rslora": lora(r=4, lora_alpha=8, use_rslora=True, lora_dropout=0.1),
        "lora_patterns": lora(rank_pattern={"q_proj": 5, "layers.1.mlp.down_proj": 2}, alpha_pattern={"gate_proj": 9, "o_proj": 1.5}),
        "lora_patterns_rslora": lora(target_modules=["q_proj", "down_proj"], rank_pattern={r"layers\.0.*q_proj": 1}, use_rslora=True,
                                     alpha_pattern={"(q|k)_proj": 7}),
        "lora_exclude": lora(target_modules="all-linear", exclude_modules=["down_proj", "model.layers.0.self_attn.q_proj"]),
    },
    "qwen2": {"tinylora_ratio": tiny(u=4, weight_tying=0.6), "tinylora_nosave": tiny(weight_tying=0.8, save_projection=False)},
}


def torch_normal():
    out = {}
    for n in [*range(1, 36), 52, 100, 127, 128, 1000]:
        seed, r = (42, 2) if n % 2 else (n * 1000003, 1 + n % 5)
        generator = torch.Generator().manual_seed(seed)
        out[f"n{n}.seed{seed}.r{r}"] = torch.normal(mean=0.0, std=1.0 / (r**0.5), size=(n,), generator=generator)
    save_file(out, os.path.join(OUT, "torch_normal.safetensors"), {"format": "pt"})


def main():
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        raise SystemExit("torch draws other last bits on this CPU (" + torch.backends.cpu.get_cpu_capability() + "): AVX2 is needed")
    shutil.rmtree(OUT, ignore_errors=True)
    ids, c, e = sequences()
    for family, cases in CASES.items():
        save_base(os.path.join(OUT, family), build(family), ids, c, e)
        for case, config in cases.items():
            adapter_case(os.path.join(OUT, family, case), lambda: build(family), config, ids, c)
    torch_normal()
    with open(os.path.join(OUT, "made_with.json"), "w") as f:
        versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
        json.dump(versions, f, indent=2, sort_keys=True)
        f.write("\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
