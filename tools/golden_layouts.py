"""Writes crates/mlx-native-lm/tests/golden/layouts.json: folders as Hugging Face has them, and the tensors that mlx-lm makes of them.

    pip install mlx==0.32.4 mlx-lm==0.32.2 safetensors && python tools/golden_layouts.py

A case is the configuration of a golden model (tests/families/golden), the names, types and shapes of its tensors turned back
to the layout that mlx-lm's `sanitize` takes ("from"), and what `sanitize` makes of them ("to": name, type, shape, FNV-1a of the
bytes). Elements follow from the name: see `fill`. What passes unchanged is left out.
"""
import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import _get_classes, _transform_awq_weights

mx.set_default_device(mx.cpu)
ROOT = Path(__file__).resolve().parent.parent / "crates/mlx-native-lm/tests"
MASK = (1 << 64) - 1


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & MASK
    return h


def stream(name, n):
    """The first n numbers of splitmix64 from the hash of the name on."""
    with np.errstate(over="ignore"):
        i = np.arange(n, dtype=np.uint64) + np.uint64(1)
        z = np.uint64(fnv(name.encode())) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def fill(name, dtype, shape):
    """Floats: 24 bits between -1 and 1, rounded; whole numbers: the upper bits; e4m3: finite and no more than 1.75 * 2^7."""
    z = stream(name, int(np.prod(shape)))
    if dtype in ("F32", "F16"):
        k = (z >> np.uint64(40)).astype(np.int64)
        values = (2 * k + 1 - (1 << 24)).astype(np.float32) / np.float32(1 << 24)
        return values.astype(np.float32 if dtype == "F32" else np.float16).reshape(shape)
    if dtype == "I32":
        return (z >> np.uint64(32)).astype(np.uint32).view(np.int32).reshape(shape)
    bytes_ = (z >> np.uint64(56)).astype(np.uint8)
    return (bytes_ & 0x77 if dtype == "F8_E4M3" else bytes_).reshape(shape)


def unstack(t,frm,to,parts):
    out={}
    for k,v in t.items():
        m=re.match(r'(.*)'+re.escape(frm)+r'([a-z_0-9]+)\.(weight|bias)$',k)
        if m and m.group(2) in parts and v.ndim==(3 if m.group(3)=='weight' else 2):
            for e in range(v.shape[0]): out[f'{m.group(1)}{to}{e}.{parts[m.group(2)]}.{m.group(3)}']=v[e].copy()
        else: out[k]=v
    return out
N={x:x for x in('gate_proj','up_proj','down_proj')}
W={'gate_proj':'w1','down_proj':'w2','up_proj':'w3'}
def mlp(t,c): return unstack(t,'.mlp.switch_mlp.','.mlp.experts.',N)
def inplace(t,c): return unstack(t,'.mlp.experts.','.mlp.experts.',N)
def bsm(t,c): return unstack(t,'.block_sparse_moe.switch_mlp.','.block_sparse_moe.experts.',W)
def conv(pat):
    def f(t,c): return {k:(np.ascontiguousarray(v.swapaxes(1,2)) if re.search(pat,k) and v.ndim==3 else v) for k,v in t.items()}
    return f
def sub(*pairs):
    def f(t,c):
        out={}
        for k,v in t.items():
            for a,b in pairs: k=re.sub(a,b,k)
            out[k]=v
        return out
    return f
def minus(pat):
    def f(t,c): return {k:(v-np.float32(1) if re.search(pat,k) and v.ndim==1 else v) for k,v in t.items()}
    return f
def fuse(path,a,b,to,turn=False,axis=-2):
    def f(t,c):
        t=dict(t)
        for k in [k for k in t if k.endswith(path+a)]:
            p=k[:-len(path+a)]
            g,u=t.pop(k),t.pop(p+path+b)
            v=np.concatenate([g,u],axis)
            t[p+to]=np.ascontiguousarray(v.swapaxes(-1,-2)) if turn else v
        return t
    return f
def turn(a,b):
    def f(t,c): return {(k[:-len(a)]+b if k.endswith(a) else k):(np.ascontiguousarray(v.swapaxes(-1,-2)) if k.endswith(a) else v) for k,v in t.items()}
    return f
def kvb(t,c):
    t=dict(t)
    for k in [k for k in t if k.endswith('.embed_q.weight')]:
        p=k[:-len('embed_q.weight')]
        q=t.pop(k).swapaxes(-1,-2); u=t.pop(p+'unembed_out.weight')
        v=np.concatenate([q,u],1)
        t[p+'kv_b_proj.weight']=np.ascontiguousarray(v.reshape(-1,v.shape[-1]))
    return t
def extra(*names):
    def f(t,c):
        t=dict(t)
        for n in names: t[n]=np.ones((4,4),np.float32)
        return t
    return f
NORMS=r'(\.input_layernorm|\.post_attention_layernorm|model\.norm|\.q_norm|\.k_norm)\.weight$'
VL=(sub((r'^language_model\.model\.',r'model.language_model.'),(r'^language_model\.lm_head',r'lm_head')),extra('model.visual.blocks.0.attn.proj.weight'))
gate=sub((r'\.mlp\.gate\.gate_proj\.',r'.mlp.gate.'))
c1=conv(r'conv1d\.weight')
def gpt2(t,c):
    o={}
    for k,v in t.items():
        k=k.removeprefix('model.')
        if re.search(r'attn\.c_attn\.weight|attn\.c_proj\.weight|mlp\.c_fc\.weight|mlp\.c_proj\.weight',k): v=np.ascontiguousarray(v.T)
        o[k]=v
    return o
def dbrx(t,c):
    o={};g={}
    for k,v in t.items():
        m=re.match(r'(.*\.experts)\.(\d+)\.(\w+)\.weight',k)
        if m: g.setdefault((m[1],m[3]),{})[int(m[2])]=v
        else:o[k]=v
    for (p,w),x in g.items():
        o[f'{p}.mlp.{w}']=np.ascontiguousarray(np.concatenate([x[e].T if w=='w2' else x[e] for e in sorted(x)],0))
    return o
def rw(t,c): return {k:(v.reshape(-1) if ('k_k' in k or 'k_a' in k or 'g_norm' in k) else v) for k,v in t.items()}
def kimi(t,c):
    t=unstack(t,'.mlp.switch_mlp.','.block_sparse_moe.experts.',W)
    moe={k.split('.block_sparse_moe.')[0] for k in t if '.block_sparse_moe.' in k}
    o={}
    for k,v in t.items():
        p=k.split('.mlp.')[0]
        if '.mlp.' in k and p in moe:
            k=k.replace('.mlp.e_score_correction_bias','.block_sparse_moe.gate.e_score_correction_bias').replace('.mlp.','.block_sparse_moe.')
        m=re.match(r'(.*)\.([qkv])_conv\.conv\.weight',k)
        if m: k=f'{m[1]}.{m[2]}_conv1d.weight'; v=np.ascontiguousarray(v.swapaxes(1,2))
        if k.endswith('dt_bias'): v=v.reshape(2,-1)
        o[k]=v
    return o
def k3(t,c):
    o={}
    for k,v in t.items():
        if k.endswith('qkv_proj.weight') or k.endswith('qkv_conv.conv.weight'):
            for x,p in zip('qkv',np.split(v,3,0)): o[k.replace('.qkv_',f'.{x}_')]=p.copy()
        else:
            k=re.sub(r'_res_(proj|norm)\.weight$',r'_res.\1_weight',k)
            o[k]=v
    return kimi(o,c)
def gdense(t,c):
    if c.get('num_local_experts'): return t
    t=dict(t)
    for k in [k for k in t if k.endswith('.mlp.gate_proj.weight')]:
        p=k[:-len('.mlp.gate_proj.weight')]
        t[p+'.shared_mlp.input_linear.weight']=np.concatenate([t.pop(k),t.pop(p+'.mlp.up_proj.weight')],0)
        t[p+'.shared_mlp.output_linear.weight']=t.pop(p+'.mlp.down_proj.weight')
    return t
def m3(t,c):
    t=dict(t)
    for k in [k for k in t if '.switch_mlp.' in k and k.endswith('gate_proj.weight')]:
        p=k[:-len('gate_proj.weight')]; g,u,d=t.pop(k),t.pop(p+'up_proj.weight'),t.pop(p+'down_proj.weight')
        s=p.replace('switch_mlp','shared_experts'); sg,su,sd=(t.pop(s+x+'.weight') for x in('gate_proj','up_proj','down_proj'))
        t[p+'gate_up_proj.weight']=np.concatenate([np.concatenate([g,u],1),np.concatenate([sg,su],0)[None]],0)
        t[p+'down_proj.weight']=np.concatenate([d,sd[None]],0)
    for k in [k for k in t if re.search(r'\.mlp\.(gate|up|down)_proj\.weight',k)]: t[k.replace('.mlp.','.block_sparse_moe.')]=t.pop(k)
    return t
def falcon(t,c):
    return c1(t,c)
def step(t,c):
    return {re.sub(r'\.mlp\.share_expert\.','.share_expert.',re.sub(r'\.mlp\.gate\.(gate\.|router_bias)',lambda m:'.moe.'+m[1],re.sub(r'\.mlp\.switch_mlp\.','.moe.',k))):(v-np.float32(1) if k.endswith('.weight') and 'norm' in k else v) for k,v in t.items()}
GEM=(fuse('.experts.switch_glu.','gate_proj.weight','up_proj.weight','.experts.gate_up_proj'),sub((r'\.experts\.switch_glu\.down_proj\.weight$','.experts.down_proj')))
GR=(fuse('.block_sparse_moe.switch_mlp.','gate_proj.weight','up_proj.weight','.block_sparse_moe.input_linear.weight'),sub((r'\.switch_mlp\.down_proj\.weight','.output_linear.weight')))
FU=fuse('.mlp.switch_mlp.','gate_proj.weight','up_proj.weight','.mlp.experts.gate_up_proj')
FD=sub((r'\.mlp\.switch_mlp\.down_proj\.weight$','.mlp.experts.down_proj'))
T={
**{f:(mlp,) for f in 'deepseek deepseek_v2 deepseek_v2.lite ernie4_5_moe glm4_moe solar_open mellum mimo_v2_flash olmoe qwen2_moe qwen3_moe'.split()},
**{f:(inplace,) for f in 'Klear afmoe dots1 dots1.biased'.split()},
**{f:(mlp,kvb) for f in 'deepseek_v3 deepseek_v32 glm_moe_dsa glm_moe_dsa.one_expert glm4_moe_lite kimi_k25 longcat_flash'.split()},
'kimi_vl':(mlp,),
'longcat_flash_ngram':(mlp,kvb,sub((r'^model\.ngram_embeddings\.word_embeddings\.weight','model.embed_tokens.weight'))),
'bailing_moe_v3':(mlp,kvb,conv('_conv1d.weight')),
'bailing_hybrid':(mlp,gate,kvb),'bailing_moe':(mlp,gate),'bailing_moe.one_group':(mlp,gate),'bailing_moe_linear':(mlp,gate),
'mixtral':(bsm,),'minimax':(bsm,),'phimoe':(bsm,),
'exaone_moe':(mlp,sub((r'\.mlp\.gate\.e_score','.mlp.e_score'))),
'mamba':(c1,),'mamba2':(c1,),'falcon_mamba':(c1,),'olmo_hybrid':(c1,),'plamo2':(c1,),
'recurrent_gemma':(conv(r'conv_1d\.weight'),),'gear':(conv(r'(key|value)_conv\.weight'),),
'lfm2':(conv(r'conv\.weight'),),
'lfm2_moe':(lambda t,c:unstack(t,'.feed_forward.switch_mlp.','.feed_forward.experts.',N),conv(r'conv\.weight'),sub((r'(feed_forward.*)gate_proj\.weight',r'\1w1.weight'),(r'(feed_forward.*)down_proj\.weight',r'\1w2.weight'),(r'(feed_forward.*)up_proj\.weight',r'\1w3.weight'))),
'jamba':(c1,lambda t,c:unstack(t,'.feed_forward.switch_mlp.','.feed_forward.experts.',N)),
'nemotron_h':(c1,lambda t,c:unstack(t,'.mixer.switch_mlp.','.mixer.experts.',{'fc1':'up_proj','fc2':'down_proj'}),extra('mtp.x.weight')),
'nemotron_h.dense':(c1,),
'phixtral':(lambda t,c:unstack(t,'.moe.switch_mlp.','.moe.mlp.',{'fc1':'fc1','fc2':'fc2'}),),
'qwen3_next':(mlp,c1,minus(NORMS),extra('mtp.layers.0.input_layernorm.weight')),
'qwen3_5':(c1,minus(NORMS),*VL,extra('mtp.fc.weight')),
'qwen3_5_moe':(c1,minus(NORMS),FU,FD,*VL,extra('mtp.fc.weight')),
'qwen2_vl':VL,'qwen3_vl':VL,
'qwen3_vl_moe':(fuse('.mlp.switch_mlp.','gate_proj.weight','up_proj.weight','.mlp.experts.gate_up_proj',True),turn('.mlp.switch_mlp.down_proj.weight','.mlp.experts.down_proj'),*VL),
'llama4':(fuse('.feed_forward.experts.','gate_proj.weight','up_proj.weight','.feed_forward.experts.gate_up_proj',True),turn('.feed_forward.experts.down_proj.weight','.feed_forward.experts.down_proj'),extra('vision_model.x.weight')),
'mistral3':(sub((r'^language_model\.model\.','model.language_model.'),(r'^language_model\.lm_head','lm_head')),extra('model.vision_tower.x.weight')),
'mistral3.ministral3':(sub((r'^language_model\.model\.','model.language_model.'),(r'^language_model\.lm_head','lm_head')),),
'mistral4':(FU,FD,kvb),
'gemma4':(sub((r'^language_model\.model\.','model.language_model.')),extra('model.vision_tower.x.weight')),
'gemma4.moe':(*GEM,sub((r'^language_model\.model\.','model.language_model.'))),
'gemma4_text':GEM,
'gemma3':(extra('vision_tower.x.weight','multi_modal_projector.y'),),
'gemma3n':(extra('model.vision_tower.x.weight','model.audio_tower.x.weight','model.embed_audio.x.weight'),),
'granitemoe':GR,'granitemoehybrid':(c1,*GR),'granitemoehybrid.dense':(c1,gdense),
'gpt_neox':(lambda t,c:{('gpt_neox.layers.'+k[len('model.h.'):] if k.startswith('model.h.') else k.replace('model.','gpt_neox.',1) if not 'embed_out' in k else k.removeprefix('model.')):v for k,v in t.items()},),
'gptj':(sub((r'^model\.','transformer.')),),
'gpt2':(gpt2,),
'spark2_5':(sub((r'^model\.embedding\.weight','model.embed_tokens.weight')),),
'laguna':(mlp,sub((r'\.mlp\.gate\.proj\.weight','.mlp.gate.weight'),(r'\.mlp\.gate\.e_score_correction_bias','.mlp.experts.e_score_correction_bias'),(r'^','language_model.'))),
'muse_glimmer':(sub((r'^model\.','language_model.model.'),(r'^lm_head','language_model.lm_head')),extra('vision_tower.x')),
'step3p5':(step,),
'kimi_linear':(kimi,kvb),'kimi_k3':(k3,kvb),
'apertus':(lambda t,c:{k:(v.reshape(1) if 'alpha_' in k else v) for k,v in t.items()},),
'rwkv7':(rw,),'dbrx':(dbrx,),'hunyuan':(mlp,),'minimax_m3_vl':(m3,),
'falcon_h1':(falcon,),'falcon_h1.biased':(falcon,),
}


def to_mlx(config, tensors, packed=None):
    if packed:
        return _transform_awq_weights(tensors, packed)[0]
    model_class, args = _get_classes(dict(config))
    model = model_class(args.from_dict(dict(config)))
    return model.sanitize(dict(tensors)) if hasattr(model, "sanitize") else tensors


NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.int32: "I32", mx.uint32: "U32", mx.uint8: "U8"}


def described(value):
    shape = list(value.shape)
    value = mx.contiguous(value).reshape(-1)
    data = np.array(value.view(mx.uint8)).tobytes()
    return NAMES[value.dtype], shape, data


def case_of(config, layout, awq=None):
    """layout: name -> (dtype, shape)."""
    arrays = {n: mx.array(fill(n, d, s)) for n, (d, s) in layout.items()}
    made = {n: described(v) for n, v in to_mlx(config, arrays, awq).items()}
    same = {n for n, v in arrays.items() if n in made and made[n] == described(v)}
    return {
        "config": config,
        "from": [[n, d, list(s)] for n, (d, s) in layout.items() if n not in same],
        "to": [[n, d, s, f"{fnv(b):016x}"] for n, (d, s, b) in sorted(made.items()) if n not in same],
    }


def family(case):
    golden = json.loads((ROOT / f"families/golden/{case}.json").read_text())
    tensors = {row[0]: np.zeros(row[2], np.float32) for row in golden["tensors"]}
    return golden["config"], tensors


def matrix(name, shape):
    return len(shape) == 2 and name.endswith(".weight") and "_proj" in name


def packed_cases():
    cases = {}
    config, tensors = family("llama")
    for method, zeros, dtype in (("awq", True, "F16"), ("gptq", False, "F32")):
        layout = {}
        for n, v in tensors.items():
            if matrix(n, v.shape):
                p, (rows, columns) = n[:-7], v.shape
                layout[p + ".qweight"] = ("I32", (columns, rows // 8))
                layout[p + ".scales"] = ("F16", (columns // 32, rows))
                if zeros:
                    layout[p + ".qzeros"] = ("I32", (columns // 32, rows // 8))
            else:
                layout[n] = (dtype, v.shape)
        section = {"quant_method": method, "bits": 4, "group_size": 32}
        cases[f"llama:{method}"] = case_of({**config, "quantization_config": section}, layout, section)
    for name in ("deepseek_v3", "minimax", "mimo_v2_flash", "mistral4"):
        config, tensors = family(name)
        layout = {n: ("F32", v.shape) for n, v in tensors.items() if not n.startswith("model.layers.")}
        for shape in ((130, 200), (128, 128), (7, 300)):
            n = f"model.layers.0.self_attn.x{shape[0]}_proj.weight"
            layout[n] = ("F8_E4M3", shape)
            layout[n + "_scale_inv"] = ("F32", (-(-shape[0] // 128), -(-shape[1] // 128)))
        if name == "mistral4":
            layout["model.layers.0.self_attn.y_proj.weight"] = ("F8_E4M3", (6, 8))
            layout["model.layers.0.self_attn.y_proj.weight_scale_inv"] = ("F32", ())
            for part, shape in (("gate_up_proj", (3, 8, 6)), ("down_proj", (3, 6, 4))):
                layout[f"model.layers.0.mlp.experts.{part}"] = ("F8_E4M3", shape)
                layout[f"model.layers.0.mlp.experts.{part}_scale_inv"] = ("F32", (3, 1, 1))
        cases[f"{name}:fp8"] = case_of({**config, "quantization_config": {"quant_method": "fp8"}}, layout)
    config, tensors = family("deepseek_v3")
    layout = {}
    for n, v in mlp(tensors, config).items():
        if ".mlp.experts." in n:
            p, (rows, columns) = n[:-7], v.shape
            layout[p + ".weight_packed"] = ("I32", (rows, columns // 8))
            layout[p + ".weight_scale"] = ("F16", (rows, columns // 32))
            layout[p + ".weight_shape"] = ("I32", (2,))
        else:
            layout[n] = ("F32", v.shape)
    section = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    cases["deepseek_v3:pack-quantized"] = case_of({**config, "quantization_config": section}, layout)
    config, tensors = family("gpt_oss")
    layout = {}
    for n, v in tensors.items():
        path, part, plane = n.rsplit(".", 2) if ".mlp.experts." in n else (n, "", "")
        if part == "gate_proj" or part == "down_proj":
            rows = 2 if part == "gate_proj" else 1
            to = path + (".gate_up_proj" if rows == 2 else ".down_proj")
            if plane == "weight":
                e, m, k = v.shape
                layout[to + "_blocks"] = ("U8", (e, rows * m, k // 32, 16))
                layout[to + "_scales"] = ("U8", (e, rows * m, k // 32))
            else:
                layout[to + "_bias"] = ("F32", (v.shape[0], rows * v.shape[1]))
        elif part != "up_proj":
            layout[n] = ("F32", v.shape)
    section = {"quant_method": "mxfp4"}
    cases["gpt_oss:mxfp4"] = case_of({**config, "quantization_config": section}, layout)
    config, tensors = family("kimi_k3")
    layout = {}
    for n, v in k3(tensors, config).items():
        if ".experts." in n and "shared" not in n:
            p, (rows, columns) = n[:-7], v.shape
            layout[p + ".weight_packed"] = ("U8", (rows, columns // 2))
            layout[p + ".weight_scale"] = ("U8", (rows, columns // 32))
        else:
            layout[n] = ("F32", v.shape)
    cases["kimi_k3:mxfp4"] = case_of(config, layout)
    config, tensors = family("minimax_m3_vl")
    layout = {}
    for n, v in bsm(tensors, config).items():
        if len(v.shape) == 2 and n.endswith(".weight") and ".experts." in n:
            layout[n] = ("F8_E4M3", v.shape)
            layout[n + "_scale_inv"] = ("U8", (v.shape[0], v.shape[1] // 32))
        else:
            layout[n] = ("F32", v.shape)
    cases["minimax_m3_vl:mxfp8"] = case_of(config, layout)
    return cases


def main():
    cases = {}
    for case, steps in T.items():
        config, tensors = family(case)
        for step in steps:
            tensors = step(tensors, config)
        cases[case] = case_of(config, {n: ("F32", v.shape) for n, v in tensors.items()})
    cases.update(packed_cases())
    lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(c, separators=(',', ':'))}" for n, c in sorted(cases.items()))
    (ROOT / "golden/layouts.json").write_text("{\n" + lines + "\n}\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
