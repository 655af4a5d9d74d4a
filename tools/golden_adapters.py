"""Makes tiny LoRA and DoRA adapters with mlx-lm, and what mlx-lm computes with them.

    cargo xtask golden adapters      (or: python tools/golden_adapters.py crates/mlx-native-lm/tests/adapters, in that environment)

The models are those of tests/models. Each folder has adapter_config.json and adapters.safetensors as mlx-lm writes them, and golden.json:
`model`, `prompt_ids`, `logits` (of the last position, activations f32), and the same of the model that `mlx_lm fuse` makes: `fused`, with
--dequantize, and `packed`, without. The folders `peft-*` hold the same numbers under PEFT's names; what PEFT computes is the same product.
"""

import json
import pathlib
import sys

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import dequantize_model, load_model

from golden import write_safetensors

PROMPT = [1, 17, 94, 5, 62, 40, 99, 3, 71]
CASES = {
    # all matrices of all layers, packed ones with others beside
    "lora-4bit": dict(model="qwen3-4bit", dora=False, layers=2, rank=2, scale=3.0),
    "dora-4bit": dict(model="qwen3-4bit", dora=True, layers=2, rank=2, scale=2.0),
    # some matrices of the last layer, with biases
    "lora-bias": dict(model="llama-f32-sharded", dora=False, layers=1, rank=3, scale=1.5, keys=["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]),
    "dora-bias": dict(model="llama-f32-sharded", dora=True, layers=2, rank=1, scale=4.0, keys=["self_attn.k_proj", "self_attn.q_proj", "mlp.up_proj"]),
}


def wide(model):
    """Activations in f32: everything that is not packed codes, the scales of the embedding with it."""
    params = [(k, v.astype(mx.float32)) for k, v in tree_flatten(model.parameters()) if v.dtype in (mx.bfloat16, mx.float16)]
    model.update(tree_unflatten(params))


def logits(model):
    return [float(v) for v in model(mx.array([PROMPT]))[0, -1].astype(mx.float32)]


def fuse(model, adapter, dequantize):
    """As `mlx_lm fuse` does; the activations are f32 then."""
    model, config = load_model(model)
    load_adapters(model, str(adapter))
    fused = [(n, m.fuse(dequantize=dequantize)) for n, m in model.named_modules() if hasattr(m, "fuse")]
    model.update_modules(tree_unflatten(fused))
    if dequantize and "quantization" in config:
        model = dequantize_model(model)
    wide(model)
    return model


def main():
    target = pathlib.Path(sys.argv[1])
    models = target.parent / "models"
    for name, case in CASES.items():
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        model, _ = load_model(models / case["model"])
        parameters = {"rank": case["rank"], "scale": case["scale"], "dropout": 0.0}
        if "keys" in case:
            parameters["keys"] = case["keys"]
        config = {"fine_tune_type": "dora" if case["dora"] else "lora", "num_layers": case["layers"], "lora_parameters": parameters}
        mx.random.seed(7)
        linear_to_lora_layers(model, case["layers"], parameters, use_dora=case["dora"])
        adapter = {}
        for key, value in tree_flatten(model.parameters()):
            last = key.rsplit(".", 1)[-1]
            if last == "lora_b":
                adapter[key] = mx.random.normal(value.shape) * 0.03
            elif last == "lora_a":
                adapter[key] = value
            elif last == "m":
                adapter[key] = value.astype(mx.float32) * mx.random.uniform(0.7, 1.4, value.shape)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
        write_safetensors(folder / "adapters.safetensors", adapter, {"format": "mlx"})
        model, _ = load_model(models / case["model"])
        wide(model)
        plain = logits(model)
        load_adapters(model, str(folder))
        found = logits(model)
        moved = max(abs(a - b) for a, b in zip(plain, found))
        assert moved > 0.05, (name, moved)
        fused = {dequantize: logits(fuse(models / case["model"], folder, dequantize)) for dequantize in (True, False)}
        golden = {"model": case["model"], "prompt_ids": PROMPT, "logits": found, "fused": fused[True], "packed": fused[False]}
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")
        print(name, "moves logits by", moved, "fused differs by", max(abs(a - b) for a, b in zip(golden["fused"], found)), max(abs(a - b) for a, b in zip(golden["packed"], found)))
        if name == "lora-4bit" or name == "dora-bias":
            peft = target / f"peft-{name}"
            peft.mkdir(exist_ok=True)
            named = {}
            for key, value in adapter.items():
                path, last = key.rsplit(".", 1)
                ending = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}[last]
                named[f"base_model.model.{path}.{ending}"] = value if last == "m" else value.T
            write_safetensors(peft / "adapter_model.safetensors", named, {"format": "pt"})
            config = {
                "peft_type": "LORA", "r": case["rank"], "lora_alpha": case["scale"] * case["rank"], "lora_dropout": 0.05, "bias": "none",
                "use_dora": case["dora"], "use_rslora": False, "fan_in_fan_out": False, "rank_pattern": {}, "alpha_pattern": {},
                "target_modules": sorted({k.rsplit(".", 2)[1] for k in adapter}), "task_type": "CAUSAL_LM", "modules_to_save": None,
            }
            (peft / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
            (peft / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
