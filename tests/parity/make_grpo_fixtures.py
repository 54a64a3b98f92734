#!/usr/bin/env python3
"""Makes tests/parity/fixtures/grpo.json: what TRL's GRPOTrainer and torch's AdamW compute on small random inputs.

    python tests/parity/make_grpo_fixtures.py        (torch, trl, and what trl imports; versions used stand in the file)

    {"advantages": [{"rewards" (null: no reward), "group_size", "scale", "advantages", "zero_std"}],
     "sequences": {"lengths", "logprob", "old", "ref", "sampler", "entropy", "mask", "advantage",     one set, used by all cases
                   "policy_mask": what TRL's top_entropy_quantile = 0.6 leaves of the tokens in "mask"},
     "objective": [{"options": {...}, "use": ["old", ...], "total_tokens", "loss", "dlogprob", "dentropy", "stats": {...}}],
     "adamw": [{"lr", "beta1", "beta2", "eps", "weight_decay", "max_norm", "start", "gradients", "norms", "params"}]}
Per-token lists are flat, sequence after sequence. The objective is TRL's own _compute_loss with its logprobs and entropies
replaced by leaves; its gradient is autograd's. Advantages and importance ratios are inline in a method of TRL's that also
generates, so their few lines are written out here with TRL's helper nanstd. All in double, inputs rounded to fp32.
"""
import collections
import json
import os
import types

import torch
import trl
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import nanstd

torch.set_default_dtype(torch.float64)
LENGTHS = [7, 3, 5, 1, 6, 4]
MAX_COMPLETION = 9
TOP_ENTROPY = 0.6


def advantages(rewards, group_size, scale):
    r = torch.tensor([float("nan") if x is None else x for x in rewards])
    mean = torch.nanmean(r.view(-1, group_size), dim=1).repeat_interleave(group_size)
    if scale == "batch":
        std = nanstd(r).expand_as(r) if r.numel() > 1 else torch.zeros_like(r)
    else:
        std = nanstd(r.view(-1, group_size), dim=1).repeat_interleave(group_size) if group_size > 1 else torch.zeros_like(r)
    a = r - mean
    if scale != "none":
        a = a / (std + 1e-4)
    zero = torch.isclose(std, torch.zeros_like(std)).view(-1, group_size)[:, 0]
    return {"rewards": rewards, "group_size": group_size, "scale": scale, "advantages": torch.nan_to_num(a, nan=0.0).tolist(),
            "zero_std": int(zero.sum())}


def f32(x):
    return x.to(torch.float32).to(torch.float64)


def sequences():
    g = torch.Generator().manual_seed(11)
    n = sum(LENGTHS)
    logprob = f32(-2 * torch.rand(n, generator=g) - 0.05)
    near = lambda size: f32(logprob + size * torch.randn(n, generator=g))
    mask = torch.ones(n)
    mask[[2, 9, 20]] = 0
    old, ref, sampler = near(0.25), near(0.4), near(0.3)
    entropy = f32(3 * torch.rand(n, generator=g))
    me = types.SimpleNamespace(accelerator=Accelerator())
    policy = GRPOTrainer.get_high_entropy_mask(me, pad(entropy), pad(mask), 1 - TOP_ENTROPY)
    return {"policy_mask": policy[pad(torch.ones(n)).bool()].double(),
            "lengths": LENGTHS, "logprob": logprob, "old": old, "ref": ref, "sampler": sampler,
            "entropy": entropy, "mask": mask,
            "advantage": f32(torch.tensor([1.1, -0.7, 0.0, -1.6, 0.4, 2.0]))}


def pad(flat, value=0.0):
    rows = torch.split(flat, LENGTHS)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def importance(old, sampler, mask, mode, low, high):
    diff = torch.nan_to_num((old - sampler) * mask, nan=0.0)
    if mode.startswith("sequence"):
        diff = diff.sum(dim=-1, keepdim=True)
    ratio = torch.exp(diff)
    if mode.endswith("truncate"):
        return torch.clamp(ratio, min=low, max=high)
    return ratio.masked_fill((ratio < low) | (ratio > high), value=0.0)


class Accelerator:
    num_processes, sync_gradients = 1, True
    reduce = staticmethod(lambda x, reduction: x)
    gather = gather_for_metrics = staticmethod(lambda x: x)
    pad_across_processes = staticmethod(lambda x, dim, pad_index: x)


def objective(s, options, use):
    leaf = lambda name: s[name].clone().requires_grad_(True)
    logprob, entropy = leaf("logprob"), leaf("entropy")
    shape = pad(torch.ones(sum(LENGTHS)))
    mask = pad(s["mask"]) if "mask" in use else shape
    old = pad(s["old"]) if "old" in use else None
    o = options
    me = types.SimpleNamespace(
        model=types.SimpleNamespace(training=True), aux_loss_enabled=False,
        top_entropy_quantile=TOP_ENTROPY if "policy_mask" in use else 1.0, off_policy_mask_threshold=None, accelerator=Accelerator(),
        importance_sampling_level=o["ratio_level"], beta=o["beta"], loss_type=o["loss_type"], epsilon_low=o["epsilon"],
        epsilon_high=o["epsilon_high"], max_completion_length=MAX_COMPLETION, current_gradient_accumulation_steps=1,
        use_vllm="sampler" in use, vllm_importance_sampling_correction=True, _entropy_bonus_enabled=o["entropy_coef"] != 0,
        use_adaptive_entropy=False, entropy_coef=o["entropy_coef"],
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        args=types.SimpleNamespace(use_bias_correction_kl=o["use_bias_correction_kl"], delta=o["delta"] or None, steps_per_generation=1,
                                   sapo_temperature_pos=o["sapo_temperature_pos"], sapo_temperature_neg=o["sapo_temperature_neg"]),
        get_high_entropy_mask=lambda entropies, mask, threshold: pad(s["policy_mask"]),
        _get_per_token_logps_and_entropies=lambda *a, **k: (pad(logprob), pad(entropy), None))
    ids = torch.zeros(shape.shape, dtype=torch.long)
    inputs = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": mask,
              "advantages": s["advantage"], "num_items_in_batch": mask.sum(), "ref_per_token_logps": pad(s["ref"])}
    if old is not None:
        inputs["old_per_token_logps"] = old
    if "sampler" in use:
        base = pad(logprob).detach() if old is None else old
        inputs["importance_sampling_ratio"] = importance(base, pad(s["sampler"]), mask, o["is_level"] + "_" + o["is_mode"],
                                                         o["is_min"], o["is_max"])
    loss = GRPOTrainer._compute_loss(me, me.model, inputs)
    loss.backward()
    stats = {k: v[0] for k, v in me._metrics["train"].items() if not k.endswith(("_min", "_max")) and v}
    flat = lambda g: (torch.zeros(sum(LENGTHS)) if g is None else g).tolist()
    return {"options": {**options, "max_completion_length": MAX_COMPLETION}, "use": sorted(use),
            "total_tokens": int(mask.sum()), "loss": loss.item(), "dlogprob": flat(logprob.grad), "dentropy": flat(entropy.grad),
            "stats": stats}


def objectives(s):
    base = {"loss_type": "grpo", "epsilon": 0.2, "epsilon_high": 0.2, "delta": 0.0, "beta": 0.0, "use_bias_correction_kl": False, "entropy_coef": 0.0,
            "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05, "ratio_level": "token", "is_mode": "off", "is_level": "token", "is_min": 0.0, "is_max": 0.0}
    cases = []
    add = lambda use=("old",), **k: cases.append(objective(s, {**base, **k}, set(use)))
    for loss_type in ("grpo", "dr_grpo", "dapo", "bnpo"):
        add(use=(), loss_type=loss_type)
        add(loss_type=loss_type)
        add(use=("old", "mask"), loss_type=loss_type, beta=0.04, epsilon_high=0.28, entropy_coef=0.01)
        add(use=("old", "mask"), loss_type=loss_type, ratio_level="sequence", epsilon=0.05, epsilon_high=0.08, beta=0.1)
    for ratio_level in ("token", "sequence"):
        add(use=(), loss_type="dapo", ratio_level=ratio_level, beta=0.2, use_bias_correction_kl=True)
        add(use=("old", "mask", "sampler"), ratio_level=ratio_level, epsilon=0.05, delta=1.15, beta=0.2, use_bias_correction_kl=True,
            is_mode="truncate", is_max=1.2)
    add(delta=1.15, epsilon=0.1, epsilon_high=0.4)
    for level in ("token", "sequence"):
        add(use=("old", "sampler", "mask"), is_mode="truncate", is_level=level, is_min=0.5, is_max=1.2)
        add(use=("old", "sampler"), is_mode="mask", is_level=level, is_min=0.8, is_max=1.5, beta=0.02)
        add(use=("sampler",), is_mode="truncate", is_level=level, is_max=2.0, loss_type="dapo")
    add(use=("old", "sampler", "mask"), is_mode="truncate", is_level="token", is_max=1.1, ratio_level="sequence", beta=0.03)
    for loss_type in ("cispo", "sapo", "luspo"):
        for ratio_level in ("token", "sequence"):
            add(loss_type=loss_type, ratio_level=ratio_level, epsilon_high=1.1)
            add(use=("old", "mask", "sampler"), loss_type=loss_type, ratio_level=ratio_level, epsilon_high=1.3, beta=0.1, use_bias_correction_kl=True,
                entropy_coef=0.01, is_mode="truncate", is_max=1.2, sapo_temperature_pos=1.4, sapo_temperature_neg=0.7)
        add(use=(), loss_type=loss_type, epsilon_high=5.0)
    for loss_type in ("grpo", "dapo", "cispo"):
        add(use=("old", "mask", "policy_mask", "sampler"), loss_type=loss_type, beta=0.05, epsilon_high=0.9, is_mode="truncate", is_max=1.2)
    return cases


def adamw(lr, beta1, beta2, eps, weight_decay, max_norm, steps=5, n=11):
    g = torch.Generator().manual_seed(3)
    draw = lambda size: (size * torch.randn(n, generator=g)).to(torch.float32)
    p = torch.nn.Parameter(draw(0.5))
    out = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm,
           "start": p.tolist(), "gradients": [], "norms": [], "params": []}
    opt = torch.optim.AdamW([p], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    for _ in range(steps):
        p.grad = draw(1.0)
        out["gradients"].append(p.grad.tolist())
        out["norms"].append(torch.nn.utils.clip_grad_norm_([p], max_norm if max_norm else float("inf")).item())
        opt.step()
        out["params"].append(p.tolist())
    return out


def main():
    s = sequences()
    mixed = [1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.5, 0.5, None, 1.0, 0.25, 0.0, None, None, None, None, 1.0, None, None, None]
    document = {
        "advantages": [advantages(mixed, 4, scale) for scale in ("group", "batch", "none")]
        + [advantages([0.1, 0.1, 0.1, 0.7, 0.3, -2.0], 3, "group"), advantages([0.5, 0.5], 1, "group")],
        "sequences": {k: v.tolist() if torch.is_tensor(v) else v for k, v in s.items()},
        "objective": objectives(s),
        "adamw": [adamw(1e-2, 0.9, 0.999, 1e-8, 0.0, 0.0), adamw(5e-2, 0.8, 0.95, 1e-6, 0.1, 1.0)],
        "made_with": {m.__name__: m.__version__ for m in (torch, trl)},
    }
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "grpo.json")
    with open(path, "w") as f:
        json.dump(document, f, separators=(",", ":"), sort_keys=True)
        f.write("\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
