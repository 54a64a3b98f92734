"""Writes tests/parity/fixtures/quants.gguf with the `gguf` package: what it makes of blocks of every storage type.

    pip install gguf==0.19.0; python tests/parity/make_dequant.py

For every type T the file holds the tensor "T" (blocks of that type) and "T.values" (F32: the package's dequantisation of them;
Q8_K, which the package describes but does not decode, by its formula d q). For types that quant.c writes it also holds
"T.from" (F32) and "T.made" (the package's quantisation of it). Blocks are random bytes whose scales are set one block after
another to ordinary numbers, zeros, the smallest subnormal, the extremes of fp16 without infinities, and a negative zero.
The metadata has one value of every kind that GGUF knows.
"""
import os
import numpy as np
import gguf
from gguf.constants import GGMLQuantizationType as Q, GGUFValueType as V

PAIRS = [(0.0123, -0.37), (0.0, 0.0), (2.0**-24, -(2.0**-24)), (65504.0, 65504.0), (-65504.0, 2.0**-14), (-0.0, 1.0)]
# type: where its fp16 scales lie (MXFP4's is a byte, Q8_K's an fp32)
TYPES = {Q.F16: [0], Q.BF16: [], Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82], Q.Q3_K: [108],
         Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.Q8_K: [], Q.IQ4_NL: [0], Q.IQ4_XS: [0], Q.MXFP4: [],
         Q.TQ1_0: [52], Q.TQ2_0: [64]}
MADE = [Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0]
rng = np.random.default_rng(7)


def blocks(t, halves):
    elements, size = gguf.GGML_QUANT_SIZES[t]
    n = 64 if elements == 1 else len(PAIRS)
    b = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for i in range(n):
        for k, at in enumerate(halves):
            b[i, at:at + 2] = np.frombuffer(np.float16(PAIRS[i % len(PAIRS)][k]).tobytes(), np.uint8)
        if t == Q.Q8_K:
            b[i, :4] = np.frombuffer(np.float32(PAIRS[i][0]).tobytes(), np.uint8)
        if t == Q.MXFP4:
            b[i, 0] = [127, 0, 1, 2, 250, 119][i]
    if t == Q.F16:  # random bits without infinities and NaNs
        v = rng.integers(0, 65536, n).astype(np.uint16)
        v[(v & 0x7C00) == 0x7C00] &= 0xBFFF
        v[:4] = [0, 0x8000, 1, 0x7BFF]
        b = v.view(np.uint8).reshape(n, 2)
    if t == Q.BF16:
        b = rng.standard_normal(n).astype(np.float32).view(np.uint16)[1::2].copy().view(np.uint8).reshape(n, 2)
    return b.reshape(1, -1)


def values(t, b):
    if t == Q.Q8_K:
        b = b.reshape(-1, 292)
        return (np.ascontiguousarray(b[:, :4]).view(np.float32) * b[:, 4:260].view(np.int8).astype(np.float32)).reshape(1, -1)
    return gguf.quants.dequantize(b, t)


def source():
    x = rng.standard_normal((8, 32)).astype(np.float32)
    x[1] = 0
    x[2] *= 1e-7                        # scales that fp16 holds as subnormals
    x[3] *= 3e3
    x[4] = np.round(x[4] * 4) / 4       # ties
    x[5] = 2.5                          # no range
    x[6, 3], x[6, 20] = -4.0, 4.0       # two of the largest magnitude
    x[7] = np.abs(x[7])
    return x


here = os.path.dirname(os.path.abspath(__file__))
w = gguf.GGUFWriter(os.path.join(here, "fixtures", "quants.gguf"), "llama")
for kind, v in {V.UINT8: 200, V.INT8: -100, V.UINT16: 60000, V.INT16: -30000, V.UINT32: 4000000000, V.INT32: -2000000000, V.FLOAT32: 0.1,
                V.BOOL: True, V.STRING: "h\u00e9", V.UINT64: 2**63 + 1, V.INT64: -(2**60), V.FLOAT64: 0.1}.items():
    w.add_key_value("kind." + kind.name, v, kind)
w.add_array("kind.ARRAY", [[1, 2], [3]])
for t, halves in TYPES.items():
    b = blocks(t, halves)
    raw = b if t not in (Q.F16,) else b.view(np.float16)
    w.add_tensor(t.name, raw, raw_dtype=t if t != Q.F16 else None)
    with np.errstate(over="ignore"):
        w.add_tensor(t.name + ".values", values(t, b.view(np.float16) if t == Q.F16 else b).astype(np.float32))
for t in MADE:
    x = source()
    made = gguf.quants.quantize(x, t)
    w.add_tensor(t.name + ".from", x)
    w.add_tensor(t.name + ".made", made, raw_dtype=t if t != Q.F16 else None)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
