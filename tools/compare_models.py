"""Random checkpoints with real shapes, for `cargo xtask compare`: an MLX folder, and a GGUF file with as many bytes a weight.

Usage: compare_models.py OUT NAME BITS [--tokenizer FOLDER]

Codes are random bits and scales small, so that activations neither vanish nor overflow; nothing else matters to speed.
"""

import argparse
import json
import pathlib
import shutil

import gguf
import mlx.core as mx
import numpy as np

GROUP = 64

# hidden, intermediate, layers, heads, kv heads, head_dim, vocabulary, tied
SHAPES = {
    "qwen3-0.6b": ("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True),
    "qwen3-4b": ("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True),
    "llama-3.2-1b": ("llama", 2048, 8192, 16, 32, 8, 64, 128256, True),
    # Small enough for a test of the chore itself.
    "tiny": ("qwen3", 128, 256, 2, 4, 2, 64, 4096, True),
}


class Shape:
    def __init__(self, name):
        (self.family, self.hidden, self.inner, self.layers, self.heads, self.kv, self.dim, self.vocab, self.tied) = SHAPES[name]

    def matrices(self, layer):
        """Name in MLX, name in GGUF, rows, columns."""
        p, g = f"model.layers.{layer}.", f"blk.{layer}."
        h, q, kv = self.hidden, self.heads * self.dim, self.kv * self.dim
        return [
            (p + "self_attn.q_proj", g + "attn_q", q, h),
            (p + "self_attn.k_proj", g + "attn_k", kv, h),
            (p + "self_attn.v_proj", g + "attn_v", kv, h),
            (p + "self_attn.o_proj", g + "attn_output", h, q),
            (p + "mlp.gate_proj", g + "ffn_gate", self.inner, h),
            (p + "mlp.up_proj", g + "ffn_up", self.inner, h),
            (p + "mlp.down_proj", g + "ffn_down", h, self.inner),
        ]

    def norms(self, layer):
        p, g = f"model.layers.{layer}.", f"blk.{layer}."
        all = [
            (p + "input_layernorm", g + "attn_norm", self.hidden),
            (p + "post_attention_layernorm", g + "ffn_norm", self.hidden),
        ]
        if self.family == "qwen3":
            all += [(p + "self_attn.q_norm", g + "attn_q_norm", self.dim), (p + "self_attn.k_norm", g + "attn_k_norm", self.dim)]
        return all

    def every_matrix(self):
        yield "model.embed_tokens", "token_embd", self.vocab, self.hidden
        for layer in range(self.layers):
            yield from self.matrices(layer)

    def every_norm(self):
        yield "model.norm", "output_norm", self.hidden
        for layer in range(self.layers):
            yield from self.norms(layer)


def write_mlx(shape, bits, out, tokenizer):
    out.mkdir(parents=True, exist_ok=True)
    rng, tensors = np.random.default_rng(0), {}
    for name, _, rows, columns in shape.every_matrix():
        codes = rng.integers(0, 2**32, (rows, columns * bits // 32), dtype=np.uint32)
        # Values of a spread of about 0.02.
        scales = (0.02 * 3.4 / 2**bits * (0.75 + 0.5 * rng.random((rows, columns // GROUP)))).astype(np.float32)
        tensors[name + ".weight"] = mx.array(codes)
        tensors[name + ".scales"] = mx.array(scales).astype(mx.bfloat16)
        tensors[name + ".biases"] = mx.array(-scales * (2**bits - 1) / 2).astype(mx.bfloat16)
    for name, _, size in shape.every_norm():
        tensors[name + ".weight"] = mx.ones((size,)).astype(mx.bfloat16)
    mx.save_safetensors(str(out / "model.safetensors"), tensors, metadata={"format": "mlx"})
    config = {
        "architectures": ["Qwen3ForCausalLM" if shape.family == "qwen3" else "LlamaForCausalLM"],
        "model_type": shape.family,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv,
        "head_dim": shape.dim,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 40960,
        "hidden_act": "silu",
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": shape.vocab - 1,
        "quantization": {"group_size": GROUP, "bits": bits},
    }
    (out / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(pathlib.Path(tokenizer) / name, out / name)


def write_gguf(shape, bits, path):
    kind = {4: gguf.GGMLQuantizationType.Q4_0, 8: gguf.GGMLQuantizationType.Q8_0}[bits]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, shape.family)
    writer.add_context_length(40960)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv)
    writer.add_key_length(shape.dim)
    writer.add_value_length(shape.dim)
    writer.add_rope_dimension_count(shape.dim)
    writer.add_rope_freq_base(1000000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("none")
    writer.add_file_type(2 if bits == 4 else 7)
    for _, name, rows, columns in shape.every_matrix():
        blocks = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
        scale = np.full((rows, columns // block), 0.02 * 3.4 / 2**bits, dtype=np.float16)
        blocks[..., :2] = scale.view(np.uint8).reshape(rows, columns // block, 2)
        writer.add_tensor(name + ".weight", blocks.reshape(rows, -1), raw_dtype=kind)
    for _, name, n in shape.every_norm():
        writer.add_tensor(name + ".weight", np.ones(n, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("bits", type=int, choices=(4, 8))
    parser.add_argument("--tokenizer", required=True)
    args = parser.parse_args()
    shape = Shape(args.name)
    folder = args.out / f"{args.name}-{args.bits}bit"
    write_mlx(shape, args.bits, folder, args.tokenizer)
    write_gguf(shape, args.bits, args.out / f"{args.name}-{args.bits}bit.gguf")


main()
