"""Writes crates/mlx-native-lm/tests/golden/convert.json: what mlx_lm.convert makes of golden models, by options.

    pip install mlx==0.32.4 mlx-lm==0.32.2 safetensors && python tools/golden_convert.py

A case names the golden model (tests/families/golden), the options, the `quantization` section that mlx-lm writes, and each
tensor of the new folder: name, type, shape, FNV-1a of its bytes. `dequantize` cases convert what the case `of` has made.
"""
import importlib
import json
import tempfile
from pathlib import Path
from unittest import mock

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model
from safetensors.numpy import save_file

from golden_layouts import ROOT, described, fnv

convert = importlib.import_module("mlx_lm.convert")
FAMILIES = ["llama", "qwen3_moe", "granitemoe"]
OPTIONS = {
    "plain": {},
    "bf16": {"dtype": "bfloat16"},
    "f16": {"dtype": "float16"},
    "q4": {"quantize": True},
    "q8": {"quantize": True, "q_bits": 8, "q_group_size": 32},
    "q4-bf16": {"quantize": True, "dtype": "bfloat16"},
    "mixed_2_6": {"quantize": True, "q_group_size": 32, "quant_predicate": "mixed_2_6"},
    "mixed_3_4": {"quantize": True, "q_group_size": 32, "quant_predicate": "mixed_3_4"},
    "mxfp4": {"quantize": True, "q_mode": "mxfp4"},
    "mxfp8": {"quantize": True, "q_mode": "mxfp8"},
    "nvfp4": {"quantize": True, "q_mode": "nvfp4"},
}


def weights(golden):
    """The elements of a golden model: tests/families/golden/README.md."""
    seed, out = golden["weights_seed"], {}
    for name, dtype, shape, c, a in golden["tensors"]:
        assert dtype == "F32"
        n = int(np.prod(shape))
        with np.errstate(over="ignore"):
            i = np.arange(n, dtype=np.uint64) + np.uint64(1)
            z = np.uint64(fnv(f"{name}#{seed}".encode())) + i * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        u = (2 * (z >> np.uint64(40)).astype(np.int64) + 1 - (1 << 24)).astype(np.float32) / np.float32(1 << 24)
        out[name] = (np.float32(c) + np.float32(a) * u).astype(np.float32).reshape(shape)
    return out


class NoTokenizer:
    def save_pretrained(self, path):
        pass


def run(source, target, options):
    def load(path, *_, **__):
        model, config = load_model(Path(source), lazy=True)
        return model, NoTokenizer(), config

    with mock.patch.object(convert, "load", load), mock.patch("mlx_lm.utils.create_model_card", lambda *_, **__: None):
        convert.convert(str(source), str(target), **options)
    made = mx.load(str(target / "model.safetensors"))
    rows = []
    for name, value in sorted(made.items()):
        dtype, shape, data = described(value)
        rows.append([name, dtype, shape, f"{fnv(data):016x}"])
    section = json.loads((target / "config.json").read_text()).get("quantization")
    return {"options": options, "quantization": section, "tensors": rows}


def main():
    cases = {}
    for family in FAMILIES:
        golden = json.loads((ROOT / f"families/golden/{family}.json").read_text())
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            source.mkdir()
            (source / "config.json").write_text(json.dumps(golden["config"]))
            save_file(weights(golden), source / "model.safetensors")
            for name, options in OPTIONS.items():
                cases[f"{family}:{name}"] = run(source, Path(folder) / name, options)
            for name in ("q4", "mxfp4", "q4-bf16"):
                case = run(Path(folder) / name, Path(folder) / f"{name}-d", {"dequantize": True})
                cases[f"{family}:{name}-d"] = {**case, "of": f"{family}:{name}"}
    lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(c, separators=(',', ':'))}" for n, c in sorted(cases.items()))
    (ROOT / "golden/convert.json").write_text("{\n" + lines + "\n}\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
