"""Makes ggml.bin: random blocks of every GGML type that the library reads, and their values
by the PyPI package `gguf`.

usage: python golden_ggml.py FOLDER      (pip install numpy gguf)
"""

import struct
import sys
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

TYPES = [T.F32, T.F16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K,
         T.IQ4_NL, T.IQ4_XS, T.BF16, T.MXFP4]
# Where the f16 numbers of a block lie: random bytes there would be huge, infinite or NaN too often.
HALVES = {T.F16: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0]}


def main():
    rng = np.random.default_rng(20261125)
    out = bytearray()
    for ty in TYPES:
        values, size = GGML_QUANT_SIZES[ty]
        count = 40 if values == 1 else 9 if values == 32 else 4
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        for at in HALVES.get(ty, []):
            half = (rng.standard_normal(count) * 0.05).astype(np.float16)
            half[0] = np.float16(6e-8)  # subnormal
            blocks[:, at:at + 2] = half.view(np.uint8).reshape(count, 2)
        if ty == T.F32:
            blocks = rng.standard_normal(count).astype(np.float32).view(np.uint8).reshape(count, 4)
        if ty == T.BF16:
            top = rng.standard_normal(count).astype(np.float32).view(np.uint32) >> 16
            blocks = top.astype(np.uint16).view(np.uint8).reshape(count, 2)
        if ty == T.MXFP4:
            blocks[:, 0] = [0, 1, 2, 3, 100, 127, 128, 140, 254]
        row = blocks.reshape(1, -1)
        flat = dequantize(row.view(np.float32) if ty == T.F32 else row, ty)
        flat = np.ascontiguousarray(flat.reshape(-1), dtype=np.float32)
        assert flat.size == count * values, (ty, flat.size)
        out += struct.pack("<II", ty.value, count) + blocks.tobytes() + flat.tobytes()
    Path(sys.argv[1], "ggml.bin").write_bytes(out)


main()
