"""Makes tiny random language models as MLX model folders, and what mlx-lm computes from them.

    cargo xtask golden models      (or: python tools/golden_models.py crates/mlx-native-lm/tests/models, in that environment)

Each folder has config.json, the weights (one file, or two shards with an index) and golden.json; there is no tokenizer.
The weights are random, from a seed; the configurations differ in what a reader of models must get right: see MODELS.

golden.json: `cases`, each with `prompt_ids`, `logits` (all of the last position of the prompt), `greedy_ids` (the tokens
that follow) and `greedy_margins` (by how much each one's logit exceeds the second best). Activations are f32: stored bf16
and f16 weights, scales and biases are widened before the run, packed weights stay as they are. The seed is chosen so that no margin is so small
that rounding could turn a choice; every folder is loaded again by mlx-lm's own loader and compared.
"""

import contextlib
import io
import json
import pathlib
import shutil
import sys

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import llama, qwen3
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model, quantize_model

from golden import write_safetensors

# No size is a multiple of all the others, and the vocabulary is a multiple of nothing.
COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {**COMMON, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
QWEN3 = {**COMMON, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
# Scaling that acts: with so short an original context, the slow frequencies are divided and some lie in between.
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

MODELS = {
    # two shards, biases in attention, scaled rope, an output layer of its own
    "llama-f32-sharded": dict(
        config={**LLAMA, "attention_bias": True, "tie_word_embeddings": False, "rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0},
        dtype=mx.float32, shards=2),
    # tied, biases in the MLP, no num_key_value_heads (as many as heads), traditional rope
    "llama-bf16-tied": dict(
        config={**{k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}, "mlp_bias": True, "tie_word_embeddings": True, "rope_traditional": True},
        dtype=mx.bfloat16),
    # 8 bit in groups of 64; f16 scales; the output layer in 4 bit
    "llama-8bit": dict(
        config={**LLAMA, "intermediate_size": 128, "attention_bias": True, "tie_word_embeddings": False, "rope_scaling": LLAMA3_ROPE},
        dtype=mx.float16, bits=8, group_size=64, overrides={"lm_head": {"bits": 4, "group_size": 32}}),
    # a head_dim that is not hidden_size / heads, an output layer of its own
    "qwen3-f32": dict(
        config={**QWEN3, "head_dim": 32, "num_hidden_layers": 1, "tie_word_embeddings": False},
        dtype=mx.float32),
    # 4 bit in groups of 32; bf16 scales; one layer in 8 bit, one left as it is, and the tied table in 8 bit
    "qwen3-4bit": dict(
        config={**QWEN3, "head_dim": 32, "tie_word_embeddings": True},
        dtype=mx.bfloat16, bits=4, group_size=32, overrides={
            "model.embed_tokens": {"bits": 8, "group_size": 64},
            "model.layers.1.mlp.down_proj": {"bits": 8, "group_size": 32},
            "model.layers.0.self_attn.o_proj": False,
        }),
}

PROMPT_LENGTHS = (1, 7, 45)
GREEDY_TOKENS = 24
SMALLEST_MARGIN = 0.02


def random_model(recipe, seed):
    """The model in its stored form, and the configuration that says so."""
    config = recipe["config"]
    family = {"llama": llama, "qwen3": qwen3}[config["model_type"]]
    model = family.Model(family.ModelArgs.from_dict(config))
    rng = np.random.default_rng(seed)
    weights = []
    for path, value in sorted(tree_flatten(model.parameters())):
        noise = rng.standard_normal(value.shape)
        if "norm" in path:
            noise = 1.0 + 0.2 * noise
        elif path.endswith(".bias"):
            noise *= 0.3
        elif not path.startswith("model.embed_tokens"):
            # The layers must outweigh the token itself: a random model with a tied table repeats it otherwise.
            gain = 5.0 if path.endswith(("o_proj.weight", "down_proj.weight")) else 1.5
            noise *= gain / np.sqrt(value.shape[-1])
        weights.append((path, mx.array(noise.astype(np.float32)).astype(recipe["dtype"])))
    model.update(tree_unflatten(weights))
    if "bits" in recipe:
        overrides = recipe["overrides"]

        def predicate(path, _):
            params = overrides.get(path, True)
            return {**params, "mode": "affine"} if isinstance(params, dict) else params

        with contextlib.redirect_stdout(io.StringIO()):  # it reports every model that is tried
            model, config = quantize_model(model, config, recipe["group_size"], recipe["bits"], quant_predicate=predicate)
    config = {**config, "torch_dtype": {mx.float32: "float32", mx.float16: "float16", mx.bfloat16: "bfloat16"}[recipe["dtype"]]}
    return model, config


def save(folder, model, config, shards):
    folder.mkdir(parents=True)
    if "quantization" in config:
        config = {**config, "quantization_config": config["quantization"]}
    (folder / "config.json").write_text(json.dumps(config, indent=4, sort_keys=True) + "\n")
    weights = sorted(tree_flatten(model.parameters()))
    per_shard = -(-len(weights) // shards)
    weight_map = {}
    for shard in range(shards):
        part = dict(weights[shard * per_shard : (shard + 1) * per_shard])
        name = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(folder / name, part, {"format": "mlx"})
        weight_map.update(dict.fromkeys(part, name))
    if shards > 1:
        index = {"metadata": {"total_size": sum(w.nbytes for _, w in weights)}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=4) + "\n")


def run(model, prompt):
    """Logits after the prompt, then greedy decoding one token at a time."""
    cache = make_prompt_cache(model)
    logits = np.array(model(mx.array([prompt]), cache=cache))[0, -1]
    case = {"prompt_ids": prompt, "logits": [round(float(x), 5) for x in logits], "greedy_ids": [], "greedy_margins": []}
    for _ in range(GREEDY_TOKENS):
        second, best = np.argsort(logits)[-2:]
        case["greedy_ids"].append(int(best))
        case["greedy_margins"].append(round(float(logits[best] - logits[second]), 5))
        logits = np.array(model(mx.array([[int(best)]]), cache=cache))[0, -1]
    # The cache must not have changed anything: the same text in one piece gives the same logits.
    whole = np.array(model(mx.array([prompt + case["greedy_ids"]])))[0, -1]
    assert np.allclose(logits, whole, atol=2e-4), np.abs(logits - whole).max()
    return case


def telling(cases):
    """Whether rounding cannot turn a choice, and the choices are not the same few tokens."""
    safe = min(min(case["greedy_margins"]) for case in cases) >= SMALLEST_MARGIN
    return safe and all(len(set(case["greedy_ids"])) >= GREEDY_TOKENS // 3 for case in cases)


def make(folder, recipe):
    for seed in range(1000):
        model, config = random_model(recipe, seed)
        stored = [(path, value) for path, value in tree_flatten(model.parameters())]
        model.set_dtype(mx.float32)
        rng = np.random.default_rng(1000 + seed)
        vocab = config["vocab_size"]
        # The first and the last token of the vocabulary are always among them.
        prompts = [[int(t) for t in rng.integers(0, vocab, length)] for length in PROMPT_LENGTHS]
        prompts[1][0], prompts[1][3] = 0, vocab - 1
        cases = [run(model, prompt) for prompt in prompts]
        if telling(cases):
            break
    else:
        raise SystemExit(f"{folder}: no seed gives clear choices")
    widened = model.parameters()
    model.update(tree_unflatten(stored))
    save(folder, model, config, recipe.get("shards", 1))
    loaded, _ = load_model(folder, lazy=False)
    loaded.set_dtype(mx.float32)
    model.update(widened)
    for case in cases:
        prompt = mx.array([case["prompt_ids"]])
        assert mx.array_equal(loaded(prompt), model(prompt)), f"{folder}: mlx-lm reads another model"
    golden = {"mlx": mx.__version__, "mlx_lm": mlx_lm.__version__, "activations": "f32", "seed": seed, "cases": cases}
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{folder.name}: seed {seed}, smallest margin {min(min(c['greedy_margins']) for c in cases)}")


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, recipe in MODELS.items():
        if (folder / name).exists():
            shutil.rmtree(folder / name)
        make(folder / name, recipe)


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    main()
