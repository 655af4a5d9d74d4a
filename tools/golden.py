"""Makes the golden files of the compute operators: small inputs and what MLX computes from them.

    cargo xtask golden ops            (or: python tools/golden.py crates/mlx-native/tests/golden, in that environment)

Layout. One safetensors file per operator. A case is numbered from 0; its tensors are `case0.x`, `case0.out`, …, and the
file's `__metadata__` holds, beside `mlx` (the version) and `op`, one entry `case0` per case: a JSON object with the
parameters. README.md, which this script writes beside the files, lists the tensors and parameters of every operator.

What is trusted. MLX's CPU backend off Apple accumulates quantised products in the 16-bit type itself, so its 16-bit
results are no reference. Therefore:
  - packed weights, scales and biases are MLX's, bit for bit, in every dtype;
  - expected outputs come from runs in f32 on the same stored (f32, f16 or bf16) inputs, widened without loss;
  - every output is checked here against the formula in float64, and the largest difference is recorded in the case as
    `mlx_vs_f64`: a test need not be stricter than that. The script fails where MLX is further off than the operator allows.
"""

import json
import math
import pathlib
import struct
import sys

import mlx.core as mx
import numpy as np

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16
# dtype -> its name in safetensors and in the metadata
DTYPES = {F32: ("F32", "f32"), F16: ("F16", "f16"), BF16: ("BF16", "bf16"), mx.uint32: ("U32", "u32"), mx.int32: ("I32", "i32"), mx.uint8: ("U8", "u8")}
# Mode of small floats -> (group size, bits)
FLOAT_MODES = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def raw_bytes(array):
    """The elements in little-endian row-major order; numpy has no bf16, so 16-bit floats travel as integers."""
    if array.dtype in (F16, BF16):
        array = array.view(mx.uint16)
    return np.ascontiguousarray(np.array(array)).tobytes()


def write_safetensors(path, tensors, metadata):
    """Writes a file whose bytes depend on nothing but its content. Wide elements come first, so that every tensor is
    aligned to its own element."""
    header, body = {"__metadata__": dict(sorted(metadata.items()))}, []
    offset = 0
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].dtype.size, item[0])):
        data = raw_bytes(array)
        header[name] = {"dtype": DTYPES[array.dtype][0], "shape": list(array.shape), "data_offsets": [offset, offset + len(data)]}
        body.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))


def f64(array):
    return np.array(array.astype(F32)).astype(np.float64)


class Cases:
    """Collects the cases of one operator."""

    def __init__(self, op, seed):
        self.op, self.rng, self.tensors, self.metadata = op, np.random.default_rng(seed), {}, {}

    def normal(self, *shape, dtype=F32, scale=1.0):
        return mx.array((self.rng.standard_normal(shape) * scale).astype(np.float32)).astype(dtype)

    def add(self, params, tensors, reference=None, allowed=None):
        """`reference` is what `out` should be, in float64; `allowed` the relative error granted to MLX's f32 run."""
        params = dict(params)
        if reference is not None:
            out = f64(tensors["out"])
            assert out.shape == reference.shape, (self.op, params, out.shape, reference.shape)
            both = np.isfinite(reference) | np.isfinite(out)
            error = float(np.max(np.abs(np.where(both, out - reference, 0.0)), initial=0.0))
            size = max(1.0, float(np.max(np.abs(np.where(np.isfinite(reference), reference, 0.0)), initial=0.0)))
            assert error <= allowed * size, (self.op, params, error)
            params["mlx_vs_f64"] = float(f"{error:.2g}")
        case = f"case{len(self.metadata)}"
        self.metadata[case] = json.dumps(params, separators=(",", ":"))
        for name, array in tensors.items():
            assert array.size < 2**16, (self.op, params, name, "too large for a golden file")
            self.tensors[f"{case}.{name}"] = array

    def write(self, folder):
        metadata = {"op": self.op, "mlx": mx.__version__, **self.metadata}
        write_safetensors(folder / f"{self.op}.safetensors", self.tensors, metadata)


def name_of(dtype):
    return DTYPES[dtype][1]


def unpack(w_q, bits):
    """The codes of packed rows: each row is one little-endian stream of bits."""
    words = np.array(w_q)
    stream = np.unpackbits(words.view(np.uint8).reshape(*words.shape[:-1], -1), axis=-1, bitorder="little")
    return (stream.reshape(*words.shape[:-1], -1, bits) * 2 ** np.arange(bits)).sum(-1).astype(np.float64)


def dequantize64(w_q, scales, biases, bits, group_size):
    codes = unpack(w_q, bits)
    return codes * np.repeat(f64(scales), group_size, -1) + np.repeat(f64(biases), group_size, -1)


def small_float(codes, exponent_bits, mantissa_bits, bias):
    """Values of floats of a few bits, by the definition of such formats."""
    codes = np.asarray(codes).astype(np.int64)
    mantissa = (codes & (2**mantissa_bits - 1)) / 2.0**mantissa_bits
    exponent = (codes >> mantissa_bits) & (2**exponent_bits - 1)
    size = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    return np.where(codes >> (exponent_bits + mantissa_bits) & 1, -size, size)


def dequantize_floats64(w_q, scales, mode, global_scale=None):
    group_size, bits = FLOAT_MODES[mode]
    values = small_float(unpack(w_q, bits), *((4, 3, 7) if mode == "mxfp8" else (2, 1, 1)))
    codes = np.array(scales).astype(np.float64)
    factors = small_float(codes, 4, 3, 7) if mode == "nvfp4" else 2.0 ** (codes - 127)
    factors = factors * (1.0 if global_scale is None else float(global_scale) / 2688.0)
    return values * np.repeat(factors, group_size, -1)


def quantize_floats(w, mode, global_scale=None):
    group_size, bits = FLOAT_MODES[mode]
    given = {} if global_scale is None else {"global_scale": global_scale}
    w_q, scales = mx.quantize(w, group_size=group_size, bits=bits, mode=mode, **given)
    tensors = {"w_q": w_q, "scales": scales}
    if global_scale is not None:
        tensors["global_scale"] = global_scale.reshape(1)
    return tensors, {"mode": mode, "bits": bits, "group_size": group_size}


def quantize():
    """Also the cases of dequantize. `out` is MLX's dequantised matrix in the dtype of w: T(T(code * scale) + bias)."""
    cases = Cases("quantize", 1)

    def add(w, bits, group_size, what):
        w_q, scales, biases = mx.quantize(w, group_size=group_size, bits=bits)
        out = mx.dequantize(w_q, scales, biases, group_size=group_size, bits=bits)
        assert out.dtype == w.dtype and scales.dtype == w.dtype
        params = {"bits": bits, "group_size": group_size, "dtype": name_of(w.dtype), "what": what}
        allowed = {F32: 1e-6, F16: 2e-3, BF16: 2e-2}[w.dtype]
        cases.add(params, {"w": w, "w_q": w_q, "scales": scales, "biases": biases, "out": out}, dequantize64(w_q, scales, biases, bits, group_size), allowed)

    # Rows that are no multiple of anything, with 1, 3 and 5 groups in a row.
    shapes = [(1, 5), (7, 3), (33, 1)]
    turn = 0
    for dtype in (F32, F16, BF16):
        for bits in (4, 8):
            for group_size in (32, 64, 128):
                rows, groups = shapes[turn % 3]
                turn += 1 if group_size != 128 else 2
                add(cases.normal(rows, groups * group_size, dtype=dtype), bits, group_size, "normal")
    # One group per row: what a random matrix never shows.
    ramp = np.linspace(0.0, 1.0, 32)
    one = np.zeros(32)
    one[5] = 1.0
    special = np.stack([
        np.zeros(32), np.full(32, 3.0), np.full(32, -3.0),  # constant groups
        -1.0 - ramp, 1.0 + ramp,                            # one sign only
        2.0 * ramp - 1.0,                                   # both ends equally far from zero
        one, -one,                                          # a single value
        1e-9 * ramp, 1e30 * ramp,                           # smaller than the smallest scale, and large
    ])
    for bits in (4, 8):
        add(mx.array(special.astype(np.float32)), bits, 32, "special groups")
        add(mx.array(special[:8].astype(np.float32)).astype(BF16), bits, 32, "special groups")
    # The other widths, each with every dtype and group size; and what no matrix should hold.
    turn = 0
    for bits in (1, 2, 3, 5, 6):
        for dtype in (F32, F16, BF16):
            turn += 1
            group_size = (32, 64, 128)[(turn + bits) % 3]
            add(cases.normal(5, 2 * group_size, dtype=dtype), bits, group_size, "normal")
        add(mx.array(special.astype(np.float32)), bits, 32, "special groups")
    no_numbers = np.tile(2.0 * ramp - 1.0, (6, 1)).astype(np.float32)
    no_numbers[0, 5] = np.nan
    no_numbers[1] = np.nan
    no_numbers[2, 3] = np.inf
    no_numbers[3, 3] = -np.inf
    no_numbers[4, 3:5] = np.inf, -np.inf
    no_numbers[5] *= 2e38
    for bits in (1, 2, 3, 4, 5, 6, 8):
        for dtype in (F32, F16, BF16):
            w = mx.array(no_numbers).astype(dtype)
            w_q, scales, biases = mx.quantize(w, group_size=32, bits=bits)
            out = mx.dequantize(w_q, scales, biases, group_size=32, bits=bits)
            params = {"bits": bits, "group_size": 32, "dtype": name_of(dtype), "what": "no numbers"}
            cases.add(params, {"w": w, "w_q": w_q, "scales": scales, "biases": biases, "out": out})
    return cases


def quantize_floats_cases():
    """mxfp4, mxfp8, nvfp4. `out` is MLX's dequantised matrix in f32."""
    cases = Cases("quantize_floats", 8)

    def add(w, mode, what, global_scale=None):
        tensors, params = quantize_floats(w, mode, global_scale)
        given = {} if global_scale is None else {"global_scale": global_scale}
        out = mx.dequantize(tensors["w_q"], tensors["scales"], None, group_size=params["group_size"], bits=params["bits"], mode=mode, dtype=F32, **given)
        params = {**params, "dtype": name_of(w.dtype), "what": what}
        cases.add(params, {"w": w, **tensors, "out": out})

    ramp = np.linspace(-6.0, 6.0, 32)
    ties = np.tile([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -6], 2)
    special = np.stack([
        np.zeros(32), -np.zeros(32), np.full(32, 6.0), ramp, ties, ties * 7, ties * 448 / 6, ties * 2.0**-100, ties * 2.0**-127,
        np.full(32, 3e38), np.full(32, 1e-38), np.full(32, 1e-45), np.where(ramp > 5.9, 6.0001, ramp), np.where(ramp > 5.9, 449, ramp),
        np.full(32, np.nan), np.where(ramp > 5.9, np.nan, ramp), np.where(ramp > 5.9, np.inf, np.where(ramp < -5, 0, ramp)), np.where(ramp < -5.9, -np.inf, ramp),
    ]).astype(np.float32)
    for mode in FLOAT_MODES:
        for dtype in (F32, F16, BF16):
            w = cases.normal(9, 96, dtype=F32) * mx.array(np.exp2(np.arange(-12, 15, 3, dtype=np.float32)))[:, None]
            add(w.astype(dtype), mode, "normal")
            add(mx.array(special).astype(dtype), mode, "special groups")
            if mode == "nvfp4":
                add(cases.normal(7, 96, dtype=dtype), mode, "normal", mx.array(4.3125, dtype=F32))
                add(mx.array(special).astype(dtype), mode, "special groups", mx.array(448.0, dtype=F32))
    return cases


def quantized_matmul():
    """out = x @ W^T, W packed along K."""
    cases = Cases("quantized_matmul", 2)

    def add(m, n, k, bits, group_size, dtype):
        x = cases.normal(m, k, dtype=dtype)
        w_q, scales, biases = mx.quantize(cases.normal(n, k, dtype=dtype), group_size=group_size, bits=bits)
        wide = [a.astype(F32) for a in (x, scales, biases)]
        out = mx.quantized_matmul(wide[0], w_q, wide[1], wide[2], transpose=True, group_size=group_size, bits=bits)
        params = {"m": m, "n": n, "k": k, "bits": bits, "group_size": group_size, "dtype": name_of(dtype)}
        reference = f64(x) @ dequantize64(w_q, scales, biases, bits, group_size).T
        cases.add(params, {"x": x, "w_q": w_q, "scales": scales, "biases": biases, "out": out}, reference, 2e-5)

    for bits in (4, 8):
        for group_size in (32, 64, 128):
            add(1, 33, 3 * group_size, bits, group_size, F32)
            add(5, 7, group_size, bits, group_size, F32)
        add(1, 1, 32, bits, 32, F32)
        add(1, 65, 512, bits, 64, F32)
        add(2, 8, 576, bits, 64, F32)
        add(16, 33, 256, bits, 64, F32)
        add(33, 33, 96, bits, 32, F32)
        for dtype in (F16, BF16):
            add(1, 33, 384, bits, 64, dtype)
            add(9, 7, 128, bits, 128, dtype)
            add(33, 40, 160, bits, 32, dtype)
    for turn, bits in enumerate((1, 2, 3, 5, 6)):
        add(1, 9, 192, bits, 64, F32)
        add(3, 7, 256, bits, (32, 64, 128)[turn % 3], (F16, BF16)[turn % 2])
        add(17, 9, 128, bits, (128, 32, 64)[turn % 3], BF16)
    for mode in FLOAT_MODES:
        for m, n, k, dtype in ((1, 9, 160, F32), (5, 7, 96, BF16), (17, 9, 64, F16)):
            for global_scale in (None, mx.array(4.5, dtype=F32))[: 2 if mode == "nvfp4" else 1]:
                x = cases.normal(m, k, dtype=dtype)
                tensors, params = quantize_floats(cases.normal(n, k, dtype=dtype), mode, global_scale)
                given = {} if global_scale is None else {"global_scale": global_scale}
                w = mx.dequantize(tensors["w_q"], tensors["scales"], None, group_size=params["group_size"], bits=params["bits"], mode=mode, dtype=F32, **given)
                out = x.astype(F32) @ w.T
                reference = f64(x) @ dequantize_floats64(tensors["w_q"], tensors["scales"], mode, global_scale).T
                params = {"m": m, "n": n, "k": k, **params, "dtype": name_of(dtype)}
                cases.add(params, {"x": x, **tensors, "out": out}, reference, 2e-5)
    return cases


def sdpa():
    """softmax(scale * q k^T) v; query i of Tq sees the keys up to Tk - Tq + i."""
    cases = Cases("sdpa", 3)

    def add(b, heads, kv_heads, tq, tk, dim, dtype, scale=None):
        scale = 1.0 / math.sqrt(dim) if scale is None else scale
        # Queries of twice the usual size: a softmax that is neither flat nor a single key.
        q = cases.normal(b, heads, tq, dim, dtype=dtype, scale=2.0)
        k, v = (cases.normal(b, kv_heads, tk, dim, dtype=dtype) for _ in range(2))
        out = mx.fast.scaled_dot_product_attention(q.astype(F32), k.astype(F32), v.astype(F32), scale=scale, mask="causal")
        params = {"batch": b, "n_heads": heads, "n_kv_heads": kv_heads, "seq_len": tq, "kv_seq_len": tk, "head_dim": dim, "scale": scale, "dtype": name_of(dtype)}
        k64, v64 = (np.repeat(f64(a), heads // kv_heads, 1) for a in (k, v))
        scores = np.einsum("bhqd,bhkd->bhqk", f64(q), k64) * scale
        seen = np.arange(tk)[None, :] <= np.arange(tq)[:, None] + tk - tq
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        reference = np.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdims=True), v64)
        cases.add(params, {"q": q, "k": k, "v": v, "out": out}, reference, 5e-6)

    add(1, 1, 1, 1, 1, 64, F32)        # one key
    add(1, 4, 1, 1, 65, 64, F32)       # decode
    add(2, 7, 1, 1, 17, 128, F32)
    add(1, 8, 1, 1, 40, 80, F32)
    add(1, 2, 2, 7, 7, 64, F32)        # prefill
    add(1, 2, 1, 33, 33, 64, F32)
    add(1, 2, 1, 9, 9, 80, F32)
    add(1, 2, 2, 5, 5, 128, F32)
    add(1, 4, 1, 5, 38, 64, F32)       # a chunk after a cache
    add(1, 7, 1, 3, 20, 128, F32)
    add(1, 2, 1, 7, 33, 80, F32)
    add(1, 2, 1, 2, 9, 64, F32, 1.0)   # the caller's own scale
    for dtype in (F16, BF16):
        add(1, 8, 2, 1, 65, 64, dtype)
        add(1, 4, 1, 3, 20, 80, dtype)
        add(1, 2, 1, 17, 17, 128, dtype)
    return cases


def rms_norm():
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; a case without `weight` has none."""
    cases = Cases("rms_norm", 4)

    def add(shape, eps, weighted, dtype, scale=1.0):
        x = cases.normal(*shape, dtype=dtype, scale=scale)
        weight = cases.normal(shape[-1], dtype=dtype) if weighted else None
        out = mx.fast.rms_norm(x.astype(F32), weight.astype(F32) if weighted else None, eps)
        x64 = f64(x)
        reference = x64 / np.sqrt(np.mean(x64 * x64, -1, keepdims=True) + eps) * (f64(weight) if weighted else 1.0)
        params = {"eps": eps, "weight": weighted, "dtype": name_of(dtype)}
        cases.add(params, {"x": x, **({"weight": weight} if weighted else {}), "out": out}, reference, 2e-6)

    for weighted in (True, False):
        for shape in ((1, 1), (3, 7), (2, 65), (33, 64), (1, 1025)):
            add(shape, 1e-5, weighted, F32)
        add((2, 3, 4, 80), 1e-6, weighted, F32)   # per head
        add((2, 64), 1e-6, weighted, F32, 1e-4)   # eps counts
        for dtype in (F16, BF16):
            add((3, 33), 1e-5, weighted, dtype)
            add((2, 256), 1e-6, weighted, dtype)
    return cases


def rope():
    """x is [batch, heads, seq_len, head_dim]; the position of row t is (t + offset) * scale. A case has `base`, or
    `freqs` as a tensor; angle i is position * base^(-2i/dims), or position / freqs[i]."""
    cases = Cases("rope", 5)

    def add(shape, dims, traditional, offset=0, scale=1.0, base=10000.0, freqs=None, dtype=F32):
        x = cases.normal(*shape, dtype=dtype)
        out = mx.fast.rope(x.astype(F32), dims, traditional=traditional, base=base if freqs is None else None, scale=scale, offset=offset, freqs=freqs)
        half = dims // 2
        inverse = base ** (-np.arange(half) / half) if freqs is None else 1.0 / f64(freqs)
        angle = ((np.arange(shape[-2]) + offset) * scale)[:, None] * inverse
        cos, sin, x64 = np.cos(angle), np.sin(angle), f64(x)
        first, second = (slice(0, dims, 2), slice(1, dims, 2)) if traditional else (slice(0, half), slice(half, dims))
        reference = x64.copy()
        reference[..., first] = x64[..., first] * cos - x64[..., second] * sin
        reference[..., second] = x64[..., first] * sin + x64[..., second] * cos
        params = {"dims": dims, "traditional": traditional, "offset": offset, "scale": scale, "base": base if freqs is None else None, "dtype": name_of(dtype)}
        # The angle itself is a product in f32, in MLX and here: its error grows with the position.
        allowed = 2e-6 + 2e-7 * (shape[-2] + offset) * scale
        cases.add(params, {"x": x, **({} if freqs is None else {"freqs": freqs}), "out": out}, reference, allowed)

    for traditional in (False, True):
        add((1, 2, 5, 64), 64, traditional)
        add((2, 3, 3, 80), 80, traditional, offset=7)
        add((1, 2, 1, 128), 128, traditional, offset=1000, base=1e6)   # decode
        add((1, 2, 4, 64), 32, traditional, offset=3)                  # part of the head
        add((1, 1, 7, 2), 2, traditional)
        add((1, 2, 9, 64), 64, traditional, scale=0.25, offset=11)
        freqs = mx.array((np.float32(10000.0) ** (np.arange(0, 64, 2) / 64) * np.linspace(1.0, 8.0, 32)).astype(np.float32))
        add((1, 3, 4, 64), 64, traditional, offset=5, freqs=freqs)
        add((1, 2, 3, 96), 64, traditional, offset=40, scale=0.5, freqs=freqs)
        for dtype in (F16, BF16):
            add((1, 2, 3, 64), 64, traditional, offset=17, dtype=dtype)
            add((1, 1, 5, 80), 32, traditional, dtype=dtype)
    return cases


def softmax():
    """Over the last axis."""
    cases = Cases("softmax", 6)

    def add(x, what):
        out = mx.softmax(x.astype(F32), axis=-1, precise=True)
        x64 = f64(x)
        weights = np.exp(x64 - x64.max(-1, keepdims=True))
        cases.add({"dtype": name_of(x.dtype), "what": what}, {"x": x, "out": out}, weights / weights.sum(-1, keepdims=True), 1e-6)

    for dtype in (F32, F16, BF16):
        for shape in ((1, 1), (3, 7), (33, 33), (2, 65), (1, 1025)):
            add(cases.normal(*shape, dtype=dtype, scale=3.0), "normal")
    masked = np.array(cases.normal(5, 33, scale=3.0))
    masked[np.triu_indices(5, 1, 33)] = -np.inf
    add(mx.array(masked), "minus infinity behind the diagonal")
    add(mx.array(masked).astype(F16), "minus infinity behind the diagonal")
    add(cases.normal(3, 65, scale=1e4), "scores of ten thousands")
    return cases


def embedding():
    """Rows of a quantised table: out = dequantised table[ids], in f32."""
    cases = Cases("embedding", 7)
    for turn, (dtype, bits, group_size) in enumerate((d, b, g) for d in (F32, F16, BF16) for b in (4, 8) for g in (32, 64, 128)):
        rows, dim = (7, 12, 33)[turn % 3], group_size * (3, 1, 2)[turn // 3 % 3]
        w_q, scales, biases = mx.quantize(cases.normal(rows, dim, dtype=dtype), group_size=group_size, bits=bits)
        # The first and the last row, and one twice.
        ids = mx.array([0, rows - 1, 3, 3, rows // 2], dtype=mx.uint32)
        out = mx.dequantize(w_q[ids], scales[ids].astype(F32), biases[ids].astype(F32), group_size=group_size, bits=bits)
        params = {"rows": rows, "dim": dim, "bits": bits, "group_size": group_size, "dtype": name_of(dtype)}
        reference = dequantize64(w_q[ids], scales[ids], biases[ids], bits, group_size)
        cases.add(params, {"w_q": w_q, "scales": scales, "biases": biases, "ids": ids, "out": out}, reference, 1e-6)
    for mode in FLOAT_MODES:
        for global_scale in (None, mx.array(4.5, dtype=F32))[: 2 if mode == "nvfp4" else 1]:
            tensors, params = quantize_floats(cases.normal(7, 96, dtype=BF16), mode, global_scale)
            ids = mx.array([0, 6, 3, 3, 2], dtype=mx.uint32)
            given = {} if global_scale is None else {"global_scale": global_scale}
            out = mx.dequantize(tensors["w_q"][ids], tensors["scales"][ids], None, group_size=params["group_size"], bits=params["bits"], mode=mode, dtype=F32, **given)
            params = {"rows": 7, "dim": 96, **params, "dtype": "bf16"}
            reference = dequantize_floats64(tensors["w_q"][ids], tensors["scales"][ids], mode, global_scale)
            cases.add(params, {**tensors, "ids": ids, "out": out}, reference, 1e-6)
    return cases


README = """# Golden files of the compute operators

What MLX {version} computes, made by `cargo xtask golden ops` (tools/golden.py, which says what is trusted and why). Do not
edit: change the script and run it.

One safetensors file per operator. The tensors of case 0 are `case0.NAME`; the file's `__metadata__` holds `op`, `mlx`
and one JSON object per case under `case0`, `case1`, … In it, `dtype` is that of the inputs (f32, f16, bf16).
`out` is f32, computed in f32 from the stored inputs, and `mlx_vs_f64` is how far it lies from float64 at most. The one exception is
quantize, whose `out` has the dtype of `w`. Shapes are those of the tensors, rows first.

| file | cases | tensors | parameters | out |
|---|---|---|---|---|
{rows}

`ggml.bin` is made by `cargo xtask golden ggml` (tools/golden_ggml.py) with the PyPI package `gguf`: blocks of every GGML type that is read, and their values.
"""

DESCRIPTIONS = {
    "quantize": ("w, w_q, scales, biases, out", "bits, group_size, what", "w dequantised again; w_q (u32), scales and biases are exact to the bit"),
    "quantized_matmul": ("x, w_q, scales, biases or global_scale (optional), out", "m, n, k, bits, group_size, mode (affine if missing)", "x @ W^T, `[m, n]`"),
    "quantize_floats": ("w, w_q, scales (u8), global_scale (optional), out", "mode, bits, group_size, what", "w dequantised again; w_q and scales are exact to the byte"),
    "sdpa": ("q, k, v, out", "batch, n_heads, n_kv_heads, seq_len, kv_seq_len, head_dim, scale", "causal, queries at the end of the keys"),
    "rms_norm": ("x, weight (optional), out", "eps, weight", "over the last axis"),
    "rope": ("x, freqs (optional), out", "dims, traditional, offset, scale, base (null with freqs)", "x `[batch, heads, seq_len, head_dim]`, rotated"),
    "softmax": ("x, out", "what", "over the last axis"),
    "embedding": ("w_q, scales, biases or global_scale (optional), ids (u32), out", "rows, dim, bits, group_size, mode (affine if missing)", "the dequantised rows, `[ids, dim]`"),
}


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for make in (quantize, quantize_floats_cases, quantized_matmul, sdpa, rms_norm, rope, softmax, embedding):
        cases = make()
        cases.write(folder)
        tensors, params, out = DESCRIPTIONS[cases.op]
        rows.append(f"| {cases.op} | {len(cases.metadata)} | {tensors} | {params} | {out} |")
    (folder / "README.md").write_text(README.format(version=mx.__version__, rows="\n".join(rows)))


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    main()
