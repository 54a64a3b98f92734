"""Writes tests/unit/dequant_expected.h: what the `gguf` package makes of one block of every quantised type.

    pip install gguf==0.19.0; python tests/parity/make_dequant.py > tests/unit/dequant_expected.h

A block's bytes come from a linear congruential generator that test_load.c repeats; its fp16 scales are then set to fixed
values, so that none is infinite or not a number.
"""
import numpy as np
import gguf
from gguf.constants import GGMLQuantizationType as Q

# type: bytes a block, where its fp16 scales lie
TYPES = {Q.Q4_0: (18, [0]), Q.Q4_1: (20, [0, 2]), Q.Q5_0: (22, [0]), Q.Q5_1: (24, [0, 2]), Q.Q8_0: (34, [0]),
         Q.Q4_K: (144, [0, 2]), Q.Q5_K: (176, [0, 2]), Q.Q6_K: (210, [208])}


def block(n, halves):
    out, state = bytearray(), 12345
    for _ in range(n):
        state = (state * 1103515245 + 12345) % 2**32
        out.append(state >> 24)
    for k, at in enumerate(halves):
        out[at:at + 2] = np.float16([0.0123, -0.37][k]).tobytes()
    return np.frombuffer(bytes(out), np.uint8)


print("// dequant_expected.h: made by tests/parity/make_dequant.py with gguf's own dequantisation; not to be edited.")
for t, (n, halves) in TYPES.items():
    y = gguf.quants.dequantize(block(n, halves), t).reshape(-1)
    print(f"static const float expected_{t.name.lower()}[] = {{")
    words = [f"{v:.9g}" for v in y]
    words = [w if any(c in w for c in ".e") else w + ".0" for w in words]
    line = "   "
    for w in words:
        if len(line) + len(w) + 3 > 120:
            print(line)
            line = "   "
        line += f" {w}f,"
    print(line + "\n};")
