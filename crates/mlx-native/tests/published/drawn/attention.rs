//! Attention.

use mlx_native::DType;
use mlx_native::ops::flash_attn_vec::{self as flash, FlashAttnVecParams};
use mlx_native::ops::flash_attn_vec_tq::{self as tq, FlashAttnVecTqParams};
use mlx_native::ops::sdpa::SdpaParams;
use mlx_native::ops::sdpa_sliding::SdpaSlidingParams;
use mlx_native::turboquant::CODEBOOK_4BIT;

use crate::support::{Bench, Rng, close, hadamard as transform, tolerance, values};

/// Sizes of an attention.
struct Shape {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    seq: usize,
    keys: usize,
    capacity: usize,
}

impl Shape {
    fn draw(b: &Bench, r: &mut Rng) -> Self {
        let kv_heads = r.range(1, 3);
        let keys = r.range(1, b.most(90));
        Shape {
            batch: r.range(1, 2),
            heads: kv_heads * r.range(1, 7),
            kv_heads,
            dim: r.pick(if b.is_slow {
                &[1, 20, 64]
            } else {
                &[1, 33, 64, 80, 96, 128, 192, 256, 512]
            }),
            seq: r.range(1, keys.min(12)),
            keys,
            capacity: keys + r.range(0, 9),
        }
    }

    fn q_len(&self) -> usize {
        self.batch * self.heads * self.seq * self.dim
    }

    fn kv_len(&self) -> usize {
        self.batch * self.kv_heads * self.capacity * self.dim
    }

    /// Keys and values whose places behind the keys that count are NaN.
    fn cache(&self, r: &mut Rng) -> Vec<f32> {
        let mut x = r.floats(self.kv_len(), 1.0);
        for (i, v) in x.iter_mut().enumerate() {
            if i / self.dim % self.capacity >= self.keys {
                *v = f32::NAN;
            }
        }
        x
    }

    /// The reference; `first(position)` is the first key that a query at `position` sees.
    fn attend(
        &self,
        [q, k, v]: [&[f64]; 3],
        score: impl Fn(f64) -> f64,
        first: impl Fn(usize) -> usize,
    ) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..self.batch * self.heads * self.seq {
            let (batch, head, i) = (
                row / self.seq / self.heads,
                row / self.seq % self.heads,
                row % self.seq,
            );
            let kv_head = batch * self.kv_heads + head / (self.heads / self.kv_heads);
            let position = self.keys - self.seq + i;
            let at = |key: usize| (kv_head * self.capacity + key) * self.dim;
            let seen = first(position)..position + 1;
            let q = &q[row * self.dim..][..self.dim];
            let scores: Vec<f64> = seen
                .clone()
                .map(|key| score(q.iter().zip(&k[at(key)..]).map(|(q, k)| q * k).sum::<f64>()))
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..self.dim).map(|c| {
                seen.clone()
                    .zip(&weights)
                    .map(|(key, w)| w * v[at(key) + c])
                    .sum::<f64>()
                    / sum
            }));
        }
        out
    }
}

pub fn sdpa(b: &mut Bench, r: &mut Rng) {
    let (s, dtype) = (Shape::draw(b, r), r.pick(&[DType::F32, DType::BF16]));
    let q = b.floats(dtype, &r.floats(s.q_len(), 1.0));
    let [k, v] = [0; 2].map(|_| b.floats(dtype, &s.cache(r)));
    let out = b.zeros(dtype, s.q_len());
    let scale = 1.0 / (s.dim as f32).sqrt();
    let params = SdpaParams {
        n_heads: s.heads as u32,
        n_kv_heads: s.kv_heads as u32,
        head_dim: s.dim as u32,
        seq_len: s.seq as u32,
        kv_seq_len: s.keys as u32,
        scale,
        kv_capacity: s.capacity as u32,
    };
    b.run(|e, reg, d| mlx_native::ops::sdpa::sdpa(e, reg, d, &q, &k, &v, &out, &params, s.batch as u32));
    let want = s.attend(
        [&values(&q), &values(&k), &values(&v)],
        |x| x * f64::from(scale),
        |_| 0,
    );
    close("sdpa", &values(&out), &want, tolerance(dtype));
}

pub fn sdpa_sliding(b: &mut Bench, r: &mut Rng) {
    let (s, dtype) = (Shape::draw(b, r), r.pick(&[DType::F32, DType::BF16]));
    let window = r.pick(&[1, 3, 8, 64, u32::MAX]);
    let q = b.floats(dtype, &r.floats(s.q_len(), 1.0));
    let [k, v] = [0; 2].map(|_| b.floats(dtype, &s.cache(r)));
    let out = b.zeros(dtype, s.q_len());
    let params = SdpaSlidingParams {
        n_heads: s.heads as u32,
        n_kv_heads: s.kv_heads as u32,
        head_dim: s.dim as u32,
        seq_len: s.seq as u32,
        kv_seq_len: s.keys as u32,
        window_size: window,
        scale: 0.2,
        kv_capacity: s.capacity as u32,
    };
    b.run(|e, reg, d| {
        mlx_native::ops::sdpa_sliding::sdpa_sliding(e, reg, d, &q, &k, &v, &out, &params, s.batch as u32)
    });
    // One key more than the window.
    let first = |position: usize| position.saturating_sub(window as usize);
    let want = s.attend(
        [&values(&q), &values(&k), &values(&v)],
        |x| x * f64::from(0.2f32),
        first,
    );
    close("sdpa_sliding", &values(&out), &want, tolerance(dtype));
}

/// Mask, window and cap of a decode attention, and the functions that they mean.
fn decode(r: &mut Rng, s: &Shape) -> (u32, u32, f32, f32) {
    (
        r.range(0, 2) as u32,
        r.range(0, s.keys + 2) as u32,
        r.pick(&[0.0, 0.0, 5.0]),
        r.pick(&[1.0, 0.1]),
    )
}

fn score(scale: f32, softcap: f32) -> impl Fn(f64) -> f64 {
    move |x| {
        let (x, cap) = (x * f64::from(scale), f64::from(softcap));
        if cap == 0.0 { x } else { cap * (x / cap).tanh() }
    }
}

fn first_key(s: &Shape, mask_type: u32, window: u32) -> usize {
    if mask_type == 2 && window > 0 {
        s.keys.saturating_sub(window as usize)
    } else {
        0
    }
}

pub fn flash_attn_vec(b: &mut Bench, r: &mut Rng) {
    let mut s = Shape {
        batch: 1,
        seq: 1,
        ..Shape::draw(b, r)
    };
    s.dim = if b.is_slow {
        40
    } else {
        r.pick(&[1, 64, 100, 256, 512])
    };
    let (mask_type, sliding_window, softcap, scale) = decode(r, &s);
    let dtype = r.pick(&[DType::F32, DType::F16]);
    let q = b.floats(DType::F32, &r.floats(s.q_len(), 1.0));
    let [k, v] = [0; 2].map(|_| b.floats(dtype, &s.cache(r)));
    let out = b.zeros(DType::F32, s.q_len());
    let bytes = flash::tmp_buffer_bytes(s.heads as u32, s.dim as u32);
    assert_eq!(bytes, s.heads * 32 * (s.dim + 2) * 4);
    let tmp = b.zeros(DType::F32, bytes / 4);
    let params = FlashAttnVecParams {
        num_heads: s.heads as u32,
        num_kv_heads: s.kv_heads as u32,
        head_dim: s.dim as u32,
        kv_seq_len: s.keys as u32,
        kv_capacity: s.capacity as u32,
        scale,
        mask_type,
        sliding_window,
        softcap,
    };
    b.run(|e, reg, d| flash::flash_attn_vec(e, reg, d, &q, &k, &v, &out, &tmp, &params));
    let first = first_key(&s, mask_type, sliding_window);
    let want = s.attend(
        [&values(&q), &values(&k), &values(&v)],
        score(scale, softcap),
        |_| first,
    );
    close(
        "flash_attn_vec",
        &values(&out),
        &want,
        if dtype == DType::F16 { 3e-3 } else { 2e-5 },
    );
}

pub fn flash_attn_vec_tq(b: &mut Bench, r: &mut Rng) {
    let mut s = Shape {
        batch: 1,
        seq: 1,
        ..Shape::draw(b, r)
    };
    s.dim = if b.is_slow {
        32
    } else {
        r.pick(&[2, 64, 128, 256, 512])
    };
    let (mask_type, sliding_window, softcap, scale) = decode(r, &s);
    let q = b.floats(DType::F32, &r.floats(s.q_len(), 1.0));
    let slots = s.kv_heads * s.capacity;
    let mut draw = || {
        let packed = r.bytes(slots * s.dim / 2);
        let norms: Vec<f32> = (0..slots)
            .map(|i| {
                if i % s.capacity < s.keys {
                    r.signed().abs() * 4.0
                } else {
                    f32::NAN
                }
            })
            .collect();
        let level = |i: usize| {
            let nibble = packed[i / 2] >> (4 * (i % 2)) & 15;
            f64::from(CODEBOOK_4BIT[nibble as usize]) * f64::from(norms[i / s.dim]) / (s.dim as f64).sqrt()
        };
        let decoded: Vec<f64> = (0..slots * s.dim).map(level).collect();
        (packed, norms, decoded)
    };
    let ((k_packed, k_norms, k), (v_packed, v_norms, v)) = (draw(), draw());
    let [k_packed, v_packed] = [k_packed, v_packed].map(|p| b.bytes(&p));
    let [k_norms, v_norms] = [k_norms, v_norms].map(|n| b.floats(DType::F32, &n));
    let out = b.zeros(DType::F32, s.q_len());
    let tmp = b.zeros(DType::F32, tq::tmp_buffer_bytes(s.heads as u32, s.dim as u32) / 4);
    let params = FlashAttnVecTqParams {
        num_heads: s.heads as u32,
        num_kv_heads: s.kv_heads as u32,
        head_dim: s.dim as u32,
        kv_seq_len: s.keys as u32,
        kv_capacity: s.capacity as u32,
        scale,
        mask_type,
        sliding_window,
        softcap,
    };
    b.run(|e, reg, d| {
        tq::flash_attn_vec_tq(
            e, reg, d, &q, &k_packed, &k_norms, &v_packed, &v_norms, &out, &tmp, &params,
        )
    });
    let mut turned = values(&q);
    turned.chunks_mut(s.dim).for_each(transform);
    let first = first_key(&s, mask_type, sliding_window);
    let mut want = s.attend([&turned, &k, &v], score(scale, softcap), |_| first);
    want.chunks_mut(s.dim).for_each(transform);
    close("flash_attn_vec_tq", &values(&out), &want, 1e-4);
}
