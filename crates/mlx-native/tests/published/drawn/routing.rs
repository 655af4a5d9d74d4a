//! The routing of tokens to experts, and what a mixture of experts is made of.

use mlx_native::DType;
use mlx_native::ops::fused_norm_add::dispatch_fused_moe_routing_f32;
use mlx_native::ops::moe_dispatch::{self as moe, ExpertWeights, MoeDispatchParams};
use mlx_native::ops::moe_gate::MoeGateParams;

use crate::support::{Bench, Rng, close, values};

/// The `k` largest, the lowest index of equals first.
fn top(x: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|i, j| x[*j].total_cmp(&x[*i]).then(i.cmp(j)));
    order.truncate(k);
    order
}

/// Divided by their sum.
fn shares(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().sum();
    x.iter().map(|v| v / sum).collect()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh())
}

pub fn moe_gate(b: &mut Bench, r: &mut Rng) {
    let (seq, hidden, experts) = (r.range(1, 5), r.range(1, b.most(300)), r.range(1, b.most(400)));
    let k = r.range(1, experts.min(20));
    let x = b.floats(DType::BF16, &r.floats(seq * hidden, 2.0));
    let router = b.floats(DType::F32, &r.floats(experts * hidden, 1.0));
    let weight = b.floats(DType::F32, &r.floats(hidden, 2.0));
    let scale = b.floats(
        DType::F32,
        &(0..experts).map(|_| r.signed().abs() + 0.1).collect::<Vec<_>>(),
    );
    let (ids, weights) = (b.zeros(DType::U32, seq * k), b.zeros(DType::F32, seq * k));
    let params = MoeGateParams {
        hidden_dim: hidden,
        n_experts: experts,
        top_k: k,
        seq_len: seq,
        rms_eps: 1e-6,
    };
    b.run(|e, reg, d| {
        let device = d.metal_device();
        mlx_native::ops::moe_gate::moe_gate(
            e, reg, device, &x, &router, &weight, &scale, &ids, &weights, &params,
        )
    });
    let (x, router, weight, scale) = (values(&x), values(&router), values(&weight), values(&scale));
    let (ids, weights) = (ids.read::<u32>().unwrap(), values(&weights));
    for (t, x) in x.chunks(hidden).enumerate() {
        let root = (x.iter().map(|v| v * v).sum::<f64>() / hidden as f64 + 1e-6).sqrt();
        let normed: Vec<f64> = x.iter().zip(&weight).map(|(x, w)| x / root * w).collect();
        let logits: Vec<f64> = router
            .chunks(hidden)
            .map(|row| row.iter().zip(&normed).map(|(r, n)| r * n).sum())
            .collect();
        let chosen = &ids[t * k..][..k];
        // Logits whose sums in f32 may order otherwise: compare what they are worth.
        let want: Vec<f64> = top(&logits, k).iter().map(|i| logits[*i]).collect();
        let got: Vec<f64> = chosen.iter().map(|i| logits[*i as usize]).collect();
        close("logits of the chosen", &got, &want, 1e-4);
        let highest = got.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let parts: Vec<f64> = chosen
            .iter()
            .zip(&got)
            .map(|(i, l)| (l - highest).exp() * scale[*i as usize])
            .collect();
        close("weights", &weights[t * k..][..k], &shares(&parts), 1e-3);
    }
}

pub fn fused_moe_routing(b: &mut Bench, r: &mut Rng) {
    let experts = r.range(1, b.most(500));
    let k = r.range(1, experts.min(20));
    // From few values, so that there are equals.
    let logits: Vec<f32> = (0..experts).map(|_| r.range(0, 30) as f32 / 4.0).collect();
    let scale: Vec<f32> = (0..experts).map(|_| r.signed().abs() + 0.1).collect();
    let (logit_buffer, scale_buffer) = (b.floats(DType::F32, &logits), b.floats(DType::F32, &scale));
    let (ids, weights) = (b.zeros(DType::U32, k), b.zeros(DType::F32, k));
    b.run(|e, reg, d| {
        let device = d.metal_device();
        dispatch_fused_moe_routing_f32(
            e,
            reg,
            device,
            &logit_buffer,
            &ids,
            &weights,
            &scale_buffer,
            experts as u32,
            k as u32,
        )
    });
    let logits: Vec<f64> = logits.iter().map(|l| f64::from(*l)).collect();
    let chosen = top(&logits, k);
    assert_eq!(
        ids.read::<u32>().unwrap(),
        chosen.iter().map(|i| *i as u32).collect::<Vec<_>>()
    );
    let parts: Vec<f64> = chosen
        .iter()
        .map(|i| logits[*i].exp() * f64::from(scale[*i]))
        .collect();
    close("weights", &values(&weights), &shares(&parts), 1e-5);
}

pub fn gather_topk_weights(b: &mut Bench, r: &mut Rng) {
    let experts = r.range(1, b.most(300));
    let k = r.range(1, experts.min(20));
    let raw: Vec<f64> = (0..experts).map(|_| f64::from(r.signed().abs()) + 0.01).collect();
    let probs: Vec<f32> = shares(&raw).iter().map(|p| *p as f32).collect();
    let order: Vec<u32> = top(&raw, experts).iter().map(|i| *i as u32).collect();
    let scale: Vec<f32> = (0..experts).map(|_| r.signed().abs() + 0.1).collect();
    let (p, s) = (b.floats(DType::F32, &probs), b.floats(DType::F32, &scale));
    let (sorted, ids, weights) = (b.words(&order), b.zeros(DType::U32, k), b.zeros(DType::F32, k));
    b.run(|e, reg, d| {
        moe::moe_gather_topk_weights_encode(
            e,
            reg,
            d.metal_device(),
            &p,
            &sorted,
            &s,
            &ids,
            &weights,
            experts,
            k,
        )
    });
    assert_eq!(ids.read::<u32>().unwrap(), order[..k]);
    let best: Vec<f64> = order[..k].iter().map(|i| f64::from(probs[*i as usize])).collect();
    let want: Vec<f64> = shares(&best)
        .iter()
        .zip(&order)
        .map(|(w, i)| w * f64::from(scale[*i as usize]))
        .collect();
    close("weights", &values(&weights), &want, 1e-5);
}

pub fn moe_dispatch(b: &mut Bench, r: &mut Rng) {
    let (input, inner, n) = (r.range(1, b.most(120)), r.range(1, b.most(150)), r.range(1, 4));
    let x = b.floats(DType::F32, &r.floats(input, 1.0));
    let experts: Vec<_> = (0..n)
        .map(|_| [0; 3].map(|_| b.floats(DType::F32, &r.floats(input * inner, 0.5))))
        .collect();
    let routing: Vec<f32> = (0..n).map(|_| r.pick(&[0.0, 0.3, -0.5, 1.5])).collect();
    let out = b.zeros(DType::F32, input);
    let [gate, up, hidden] = [0; 3].map(|_| b.zeros(DType::F32, inner));
    let expert = b.zeros(DType::F32, input);
    let list: Vec<ExpertWeights<'_>> = experts
        .iter()
        .map(|[gate_proj, up_proj, down_proj]| ExpertWeights {
            gate_proj,
            up_proj,
            down_proj,
        })
        .collect();
    let params = MoeDispatchParams {
        input_dim: input,
        intermediate_dim: inner,
        n_selected: n,
    };
    b.run(|e, reg, d| {
        let device = d.metal_device();
        moe::moe_dispatch(
            e, reg, device, &x, &list, &routing, &out, &gate, &up, &hidden, &expert, &params,
        )
    });
    let x = values(&x);
    let times = |w: &[f64], x: &[f64]| -> Vec<f64> {
        w.chunks(x.len())
            .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
            .collect()
    };
    let mut want = vec![0.0; input];
    for ([gate, up, down], weight) in experts.iter().zip(&routing) {
        let (gate, up) = (times(&values(gate), &x), times(&values(up), &x));
        let hidden: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| gelu(*g) * u).collect();
        let result = times(&values(down), &hidden);
        want.iter_mut()
            .zip(result)
            .for_each(|(sum, v)| *sum += f64::from(*weight) * v);
    }
    close("moe_dispatch", &values(&out), &want, 1e-4);
}

pub fn parts(b: &mut Bench, r: &mut Rng) {
    let (inner, k) = (r.range(1, b.most(700)), r.range(1, 20));
    let gate_up = b.floats(DType::F32, &r.floats(2 * inner * k, 4.0));
    let (out, one) = (b.zeros(DType::F32, inner * k), b.zeros(DType::F32, inner + 3));
    let slot = r.range(0, k - 1);
    b.run(|e, reg, d| {
        let device = d.metal_device();
        moe::moe_swiglu_batch_encode(e, reg, device, &gate_up, &out, inner, k)?;
        moe::moe_swiglu_fused_encode_offset(e, reg, device, &gate_up, 8 * inner * slot, &one, 12, inner)
    });
    let both = values(&gate_up);
    let want: Vec<f64> = both
        .chunks(2 * inner)
        .flat_map(|row| {
            (0..inner)
                .map(|i| gelu(row[i]) * row[inner + i])
                .collect::<Vec<_>>()
        })
        .collect();
    close("swiglu_batch", &values(&out), &want, 1e-5);
    close(
        "swiglu_fused_offset",
        &values(&one)[3..],
        &want[slot * inner..][..inner],
        1e-5,
    );
    let weights = b.floats(DType::F32, &r.floats(k, 2.0));
    let (sum, factor) = (b.zeros(DType::F32, inner), r.signed());
    b.run(|e, reg, d| {
        let device = d.metal_device();
        moe::moe_weighted_sum_encode(e, reg, device, &out, &weights, &sum, inner, k)?;
        moe::moe_accumulate_encode_offset(e, reg, device, &sum, &out, 4 * inner * slot, factor, inner)
    });
    let (terms, weights) = (values(&out), values(&weights));
    let want: Vec<f64> = (0..inner)
        .map(|c| {
            let total: f64 = (0..k).map(|j| weights[j] * terms[j * inner + c]).sum();
            total + f64::from(factor) * terms[slot * inner + c]
        })
        .collect();
    close("weighted_sum", &values(&sum), &want, 1e-4);
    b.run(|e, reg, d| moe::moe_zero_buffer_encode(e, reg, d.metal_device(), &sum, inner));
    assert!(values(&sum).iter().all(|v| *v == 0.0));
}
