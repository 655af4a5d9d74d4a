//! Caches: copies into them, and their quantised form.

use half::f16;
use mlx_native::DType;
use mlx_native::ops::{
    fwht_standalone, hadamard as had, hadamard_quantize_kv as quantize, kv_cache_copy as copies,
};
use mlx_native::turboquant::{CODEBOOK_4BIT, fwht_inplace};

use crate::support::{Bench, Rng, close, hadamard as transform, values};

pub fn hadamard(b: &mut Bench, r: &mut Rng) {
    let (heads, dim) = (r.range(0, 4), 1 << r.range(0, if b.is_slow { 7 } else { 13 }));
    let x = r.floats((heads * dim).max(1), 3.0);
    let (data, again) = (b.floats(DType::F32, &x), b.floats(DType::F32, &x));
    b.run(|e, reg, d| {
        let device = d.metal_device();
        had::dispatch_hadamard_transform(e, reg, device, &data, dim as u32, heads as u32)?;
        if heads == 0 {
            return Ok(());
        }
        fwht_standalone::dispatch_fwht_f32(e, reg, device, &again, heads as u32, dim as u32)
    });
    let mut want: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let mut host = x.clone();
    if heads > 0 {
        want.chunks_mut(dim).for_each(transform);
        host.chunks_mut(dim).for_each(|row| fwht_inplace(row).unwrap());
    }
    close("hadamard", &values(&data), &want, 1e-4);
    close("fwht", &values(&again), &want, 1e-4);
    // The same order of operations as on the host.
    assert_eq!(data.read::<f32>().unwrap(), host);
}

pub fn hadamard_quantize_kv(b: &mut Bench, r: &mut Rng) {
    let (heads, dim) = (r.range(1, 4), 1 << r.range(1, if b.is_slow { 7 } else { 12 }));
    let (capacity, is_sliding) = (r.range(1, 9), r.flip());
    let position = if is_sliding {
        r.range(0, 40)
    } else {
        r.range(0, capacity - 1)
    };
    let mut x = r.floats(heads * dim, 2.0);
    if r.range(0, 5) == 0 {
        x[..dim].fill(0.0);
    }
    let src = b.floats(DType::F32, &x);
    let packed = b.bytes(&vec![0xEE; heads * capacity * dim / 2]);
    let norms = b.floats(DType::F32, &vec![-1.0; heads * capacity]);
    b.run(|e, reg, d| {
        let [heads, dim, capacity, position] = [heads, dim, capacity, position].map(|v| v as u32);
        quantize::dispatch_hadamard_quantize_kv(
            e,
            reg,
            d.metal_device(),
            &src,
            &packed,
            &norms,
            heads,
            dim,
            capacity,
            position,
            is_sliding,
        )
    });
    let (packed, norms) = (packed.read::<u8>().unwrap(), norms.read::<f32>().unwrap());
    for slot in 0..heads * capacity {
        let codes = &packed[slot * dim / 2..][..dim / 2];
        if slot % capacity != position % capacity {
            assert!(
                norms[slot] == -1.0 && codes.iter().all(|c| *c == 0xEE),
                "slot {slot} is not the one"
            );
            continue;
        }
        let mut row = x[slot / capacity * dim..][..dim].to_vec();
        fwht_inplace(&mut row).unwrap();
        let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        close("norm", &[f64::from(norms[slot])], &[norm], 1e-5);
        for (i, v) in row.iter().enumerate() {
            let v = if norm > 1e-10 {
                f64::from(*v) / norm * (dim as f64).sqrt()
            } else {
                0.0
            };
            let bounds = CODEBOOK_4BIT
                .windows(2)
                .map(|w| (f64::from(w[0]) + f64::from(w[1])) / 2.0);
            // At a boundary the last bit of the norm decides.
            let (least, most) = bounds.fold((0, 0), |(a, z), bound| {
                (a + u8::from(bound < v - 1e-5), z + u8::from(bound < v + 1e-5))
            });
            let got = codes[i / 2] >> (4 * (i % 2)) & 15;
            assert!(
                (least..=most).contains(&got) || (norm < 1e-10 && got == 7),
                "{i}: {got}, wanted {least}..={most}"
            );
        }
    }
}

pub fn kv_cache_copy(b: &mut Bench, r: &mut Rng) {
    let (row, capacity, is_sliding) = (r.range(1, b.most(300)), r.range(1, 20), r.flip());
    let new = if is_sliding {
        r.range(0, 45)
    } else {
        r.range(0, capacity)
    };
    let position = if is_sliding {
        r.range(0, 100)
    } else {
        r.range(0, capacity - new)
    };
    let [position_, row_, new_, capacity_] = [position, row, new, capacity].map(|v| v as u32);
    for dtype in [DType::F32, DType::BF16] {
        let x = r.floats((new * row).max(1), 1.0);
        let (src, cache) = (b.floats(dtype, &x), b.floats(dtype, &vec![9.0; capacity * row]));
        let copy = if dtype == DType::F32 {
            copies::dispatch_kv_cache_copy_f32
        } else {
            copies::dispatch_kv_cache_copy
        };
        b.run(|e, reg, d| {
            copy(
                e,
                reg,
                d.metal_device(),
                &src,
                &cache,
                position_,
                row_,
                new_,
                capacity_,
                is_sliding,
            )
        });
        let (x, mut want) = (values(&src), vec![9.0; capacity * row]);
        for t in 0..new {
            let at = if is_sliding {
                (position + t) % capacity
            } else {
                position + t
            };
            want[at * row..][..row].copy_from_slice(&x[t * row..][..row]);
        }
        close("kv_cache_copy", &values(&cache), &want, 0.0);
    }
    let (heads, dim) = (r.range(1, 5), row);
    let position = r.range(0, capacity - 1);
    let x = r.floats(heads * dim, 1.0);
    let src = b.floats(DType::F32, &x);
    for dtype in [DType::F32, DType::F16] {
        let cache = b.floats(dtype, &vec![9.0; heads * capacity * dim]);
        let [heads_, dim_, position_] = [heads, dim, position].map(|v| v as u32);
        let copy = if dtype == DType::F32 {
            copies::dispatch_kv_cache_copy_batch_f32
        } else {
            copies::dispatch_kv_cache_copy_batch_f32_to_f16
        };
        b.run(|e, reg, d| {
            copy(
                e,
                reg,
                d.metal_device(),
                &src,
                &cache,
                heads_,
                dim_,
                capacity_,
                position_,
            )
        });
        let mut want = vec![9.0; heads * capacity * dim];
        for (i, v) in x.iter().enumerate() {
            let v = if dtype == DType::F32 {
                f64::from(*v)
            } else {
                f16::from_f32(*v).to_f64()
            };
            want[(i / dim * capacity + position) * dim + i % dim] = v;
        }
        close("kv_cache_copy_batch", &values(&cache), &want, 0.0);
    }
}
