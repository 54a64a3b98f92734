"""TRL's GRPOTrainer with PEFT's TinyLoRA (13 trained numbers) on the CPU: seconds of one optimiser step, one measurement a process.

The prompts are read from a file of JSON lines, {"messages": [...], "answer": "..."}, and taken in its order. --reward parity: that of the
completion's length in bytes, as in `tlrun bench grpo` without a verifier, so that nearly every group has something to train on; --reward answer: 1 if the
completion's last number is the problem's answer, as in last_number.lua. The first step warms up.
Prints one JSON line: seconds_per_step, generate_s, tokens_per_step, equal_groups (share of groups whose rewards are all equal), peak_rss_bytes.
"""
import argparse, json, re, resource, statistics, tempfile, time

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("model")
p.add_argument("prompts")
p.add_argument("--n-prompts", type=int, default=8)
p.add_argument("--group", type=int, default=8)
p.add_argument("--new-tokens", type=int, default=128)
p.add_argument("--micro", type=int, default=16, help="sequences per forward and backward")
p.add_argument("--steps", type=int, default=2)
p.add_argument("--reward", choices=["parity", "answer"], default="parity")
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
import torch, trl, peft
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

torch.set_num_threads(a.threads)
problems = [json.loads(line) for line in open(a.prompts, encoding="utf-8")]
rows = [{"prompt": q["messages"], "answer": q["answer"]} for q in problems]
linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
steps = []


class Trainer(trl.GRPOTrainer):
    generate_s = 0.0

    def _generate(self, *args, **kw):
        began = time.perf_counter()
        out = super()._generate(*args, **kw)
        Trainer.generate_s += time.perf_counter() - began
        return out


class Clock(TrainerCallback):
    def on_step_begin(self, args, state, control, **kw):
        if not steps or "seconds" in steps[-1]:
            steps.append({"began": clock[0]})

    def on_log(self, args, state, control, logs=None, **kw):
        if "reward" in logs:
            now = time.perf_counter()
            steps[-1].update(seconds=now - clock[0], generate_s=Trainer.generate_s, length=logs["completions/mean_length"],
                             equal=logs["frac_reward_zero_std"])
            clock[0], Trainer.generate_s = now, 0.0


def last_number(text):
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return float(found[-1]) if found else None


def reward(completions, answer, **_):
    texts = [c[0]["content"] for c in completions]
    if a.reward == "parity":
        return [float(len(t.encode()) % 2) for t in texts]
    return [float(last_number(t) == float(right)) for t, right in zip(texts, answer)]


with tempfile.TemporaryDirectory() as out:
    config = trl.GRPOConfig(output_dir=out, use_cpu=True, bf16=False, fp16=False, learning_rate=1e-3, lr_scheduler_type="constant",
                            per_device_train_batch_size=a.micro, gradient_accumulation_steps=a.n_prompts * a.group // a.micro,
                            num_generations=a.group, max_completion_length=a.new_tokens, max_steps=a.steps, beta=0.0, temperature=1.0,
                            shuffle_dataset=False, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
                            gradient_checkpointing=False, weight_decay=0.0, max_grad_norm=1.0)
    trainer = Trainer(model=AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16), args=config, reward_funcs=reward,
                      train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(a.model),
                      peft_config=peft.TinyLoraConfig(r=2, u=13, weight_tying=1.0, target_modules=linears, task_type="CAUSAL_LM"),
                      callbacks=[Clock()])
    clock = [time.perf_counter()]
    trainer.train()
measured = steps[1:] or steps
median = lambda k: statistics.median(s[k] for s in measured)
print(json.dumps({"seconds_per_step": median("seconds"), "generate_s": median("generate_s"),
                  "tokens_per_step": median("length") * a.n_prompts * a.group,
                  "equal_groups": median("equal"), "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "trl": trl.__version__, "torch": torch.__version__}))
