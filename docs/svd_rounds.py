"""svd_rounds.py MODEL.safetensors: how many rounds the block Krylov SVD (runtime/tensor/svd.c, kernels/cuda/svd.cu) takes at rank 2 for
weights of every sixth layer: what the estimate in docs/cuda.md multiplies with. Needs numpy, torch and safetensors."""
import sys
import numpy as np
from safetensors import safe_open


def rounds(w, r=2, oversampling=6, steps=8, tolerance=1e-11, most=40):
    n, k = w.shape
    x = np.random.default_rng(1).uniform(-1, 1, (k, r + oversampling))
    for done in range(1, most + 1):
        q, y, block = np.zeros((k, 0)), np.zeros((n, 0)), x
        for _ in range(steps):
            for _ in range(2):
                block, _ = np.linalg.qr(block - q @ (q.T @ block))
            q, y = np.hstack([q, block]), np.hstack([y, w @ block])
            block = w.T @ (w @ block)
        u, s, vt = np.linalg.svd(y, full_matrices=False)
        x = q @ vt.T[:, :r + oversampling]
        if max(np.linalg.norm(w.T @ u[:, i] - s[i] * x[:, i]) for i in range(r)) < tolerance * s[0]:
            return done
    return most


print("normal random numbers (1024, 1024):", rounds(np.random.default_rng(0).normal(size=(1024, 1024))))
found = {}
with safe_open(sys.argv[1], "pt") as f:
    for name in f.keys():
        if "layers." in name and name.endswith("proj.weight") and int(name.split("layers.")[1].split(".")[0]) % 6 == 0:
            w = f.get_tensor(name).double().numpy()
            if min(w.shape) >= 512:
                found.setdefault(name.split(".")[-2], []).append(rounds(w))
for kind, list_ in found.items():
    print(f"{kind}: {min(list_)} to {max(list_)}")
