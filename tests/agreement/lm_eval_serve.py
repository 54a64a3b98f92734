#!/usr/bin/env python3
"""lm_eval_serve.py: lm-evaluation-harness against `tlrun serve`, beside the same questions put to transformers.

  PYTHON tests/agreement/lm_eval_serve.py MODEL_DIR [N] [TLRUN]

PYTHON has torch, transformers and lm_eval[api]; MODEL_DIR is a Hugging Face folder (`tlrun export` writes one), N the number of questions, 60.
The questions are multiplications and additions with four answers to choose from, made here. Three kinds of request: log-likelihoods of the
answers (multiple choice: echo, logprobs), rolling log-likelihoods (perplexity), and greedy generation. Both sides calculate in fp32. Prints what
each of them measured and, answer by answer, the largest difference of a log-likelihood and how many of the "is it what greedy would say"
differ. Exit code 1 when log-likelihoods are 1e-2 apart or anything else differs.
"""
import json, os, random, signal, subprocess, sys, tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import lm_eval
from lm_eval.tasks import TaskManager

TASKS = {
    "choice": {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "choices", "doc_to_target": "answer", "target_delimiter": "",
               "metric_list": [{"metric": "acc"}]},
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}{{choices[answer]}}", "metric_list": [{"metric": "byte_perplexity"}]},
    "greedy": {"output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{choices[answer]}}",
               "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}, "metric_list": [{"metric": "exact_match"}]},
}


def questions(n):
    rng = random.Random(1)
    for _ in range(n):
        a, b, op = rng.randint(2, 20), rng.randint(2, 20), rng.choice("+*")
        right = a * b if op == "*" else a + b
        wrong = rng.sample([x for x in range(max(1, right - 12), right + 12) if x != right], 3)
        at = rng.randint(0, 3)
        yield {"question": "Q: %d %s %d = ?\nA: The answer is" % (a, op, b), "choices": [" %d." % x for x in wrong[:at] + [right] + wrong[at:]], "answer": at}


def measure(folder, kind, **args):
    out = lm_eval.simple_evaluate(model=kind, model_args=args, tasks=list(TASKS), task_manager=TaskManager(include_path=folder, include_defaults=False),
                                  log_samples=True, bootstrap_iters=0, batch_size=1)
    figures = {t: {k[:-len(",none")]: float(v) for k, v in r.items() if k.endswith(",none")} for t, r in out["results"].items()}
    samples = {t: [s["filtered_resps"] for s in sorted(out["samples"][t], key=lambda s: s["doc_id"])] for t in TASKS}
    return figures, samples


def main():
    model, n, tlrun = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60, sys.argv[3] if len(sys.argv) > 3 else "build/tlrun"
    with tempfile.TemporaryDirectory() as t:
        with open(t + "/docs.jsonl", "w") as f:
            f.writelines(json.dumps(q) + "\n" for q in questions(n))
        for name, task in TASKS.items():
            metrics = [{**m, "aggregation": "mean" if m["metric"] != "byte_perplexity" else "weighted_perplexity", "higher_is_better": True} for m in task["metric_list"]]
            with open("%s/%s.yaml" % (t, name), "w") as f:  # JSON is YAML
                json.dump({"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": t + "/docs.jsonl"}}, "test_split": "test", **task, "metric_list": metrics}, f)
        server = subprocess.Popen([tlrun, "serve", "--model", model, "--compute", "fp32", "--port", "0", "--json", "--no-log"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            hello = json.loads(server.stdout.readline())
            ours = measure(t, "local-completions", model=hello["model"], base_url="http://127.0.0.1:%d/v1/completions" % hello["port"], tokenizer=model,
                           tokenizer_backend="huggingface", num_concurrent=8)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
        theirs = measure(t, "hf", pretrained=model, dtype="float32", device="cpu")
    for name in TASKS:
        print("%-8s tlrun %s   transformers %s" % (name, ours[0][name], theirs[0][name]))
    choice = [(a, b) for x, y in zip(ours[1]["choice"], theirs[1]["choice"]) for a, b in zip(x, y)]
    apart = max(abs(a[0] - b[0]) for a, b in choice)
    rolling = max(abs(x[0] - y[0]) for x, y in zip(ours[1]["rolling"], theirs[1]["rolling"]))
    greedy = sum(bool(a[1]) != bool(b[1]) for a, b in choice)
    texts = sum(x != y for x, y in zip(ours[1]["greedy"], theirs[1]["greedy"]))
    print("%d answers: log-likelihoods at most %.1e apart, %d of them otherwise likeliest; %d rolling ones at most %.1e apart; %d of %d greedy texts differ"
          % (len(choice), apart, greedy, n, rolling, texts, n))
    sys.exit(apart > 1e-2 or rolling > 1e-2 or greedy > 0 or texts > 0)


main()
