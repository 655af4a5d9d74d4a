//! What an attention refuses.
#![cfg(test)]

use super::*;
use crate::buffer::MlxBuffer;
use crate::testing::{Bench, assert_invalid};

const POOL: KvPool = KvPool { n_blocks: 5, block_size: 8, n_seqs: 2, blocks_per_seq: 2 };
const OK: AttentionParams = AttentionParams {
    pool: POOL,
    n_rows: 3,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 8,
    v_dim: 6,
    scale: 1.0,
    softcap: 0.0,
    window: 0,
    causal: true,
    max_rows_per_seq: 2,
    max_kv_len: 16,
    q_row_stride: 0,
    family: Family::Auto,
};

#[test]
fn parameters_are_named_and_come_before_buffers() {
    let mut b = Bench::new();
    // Far too small for anything: parameters must be refused first.
    let (x, words) = (b.buffer(DType::F32, &[1]), b.buffer(DType::U32, &[1]));
    let state = KvState { block_table: &words, seq_starts: &words, kv_lens: &words };
    let mut refused = |p: AttentionParams, words: &[&str]| {
        let extras = Extras::default();
        let result = attention(&mut b.encoder, &mut b.registry, &b.device, &x, &x, &x, &x, &extras, &state, &p);
        assert_invalid(result, words);
    };
    refused(AttentionParams { head_dim: 0, ..OK }, &["head_dim"]);
    refused(AttentionParams { head_dim: 577, ..OK }, &["head_dim", "576"]);
    refused(AttentionParams { v_dim: 577, ..OK }, &["v_dim", "576"]);
    refused(AttentionParams { n_heads: 5, ..OK }, &["n_heads", "n_kv_heads", "divisible"]);
    refused(AttentionParams { n_kv_heads: 0, ..OK }, &["n_kv_heads"]);
    refused(AttentionParams { n_rows: 0, ..OK }, &["n_rows"]);
    refused(AttentionParams { max_rows_per_seq: 0, ..OK }, &["max_rows_per_seq"]);
    refused(AttentionParams { max_kv_len: 0, ..OK }, &["max_kv_len"]);
    refused(AttentionParams { max_kv_len: 17, ..OK }, &["block_size 8", "blocks_per_seq 2", "17 positions"]);
    refused(AttentionParams { max_kv_len: 99, window: 16, ..OK }, &["17 positions"]);
    refused(AttentionParams { max_kv_len: u32::MAX, window: 1, ..OK }, &["max_kv_len", "1073741824"]);
    refused(AttentionParams { window: 3, causal: false, ..OK }, &["window", "causal"]);
    refused(AttentionParams { scale: f32::NAN, ..OK }, &["scale"]);
    refused(AttentionParams { softcap: -1.0, ..OK }, &["softcap"]);
    refused(AttentionParams { softcap: f32::INFINITY, ..OK }, &["softcap"]);
    refused(AttentionParams { q_row_stride: 31, ..OK }, &["q_row_stride is 31", "32"]);
    refused(AttentionParams { pool: KvPool { block_size: 12, ..POOL }, ..OK }, &["block_size", "12"]);
    refused(AttentionParams { pool: KvPool { n_seqs: 0, ..POOL }, ..OK }, &["n_seqs"]);
    refused(AttentionParams { n_heads: 1 << 30, n_kv_heads: 1 << 30, ..OK }, &["row of q", "2^32"]);
    refused(OK, &["q holds 4 bytes"]);
}

#[test]
fn buffers_are_named() {
    let mut b = Bench::new();
    let (q, o) = (b.buffer(DType::F32, &[3, 4, 8]), b.buffer(DType::F32, &[3, 4, 6]));
    let (k, v) = (b.buffer(DType::F32, &[5, 2, 8, 8]), b.buffer(DType::F32, &[5, 2, 8, 6]));
    let [table, starts, lens] = [4, 3, 2].map(|n| b.buffer(DType::U32, &[n]));
    let state = KvState { block_table: &table, seq_starts: &starts, kv_lens: &lens };
    let (half, short) = (b.buffer(DType::F16, &[999]), b.buffer(DType::F32, &[3]));
    let bytes = b.buffer(DType::U8, &[95]);
    let none = Extras::default();
    let mut run = |[q, k, v, o]: [&MlxBuffer; 4], extras: &Extras<'_>, state: &KvState<'_>| {
        attention(&mut b.encoder, &mut b.registry, &b.device, q, k, v, o, extras, state, &OK)
    };
    assert!(run([&q, &k, &v, &o], &none, &state).is_ok());
    for (i, name) in ["q", "k_pool", "v_pool", "output"].into_iter().enumerate() {
        let mut with = |x| {
            let mut all = [&q, &k, &v, &o];
            all[i] = x;
            run(all, &none, &state)
        };
        assert_invalid(with(&short), &[&format!(" {name} holds 12 bytes")]);
        assert_invalid(with(&half), &["f16", "f32"]);
    }
    assert_invalid(run([&q, &k, &v, &k], &none, &state), &["output", "k_pool"]);
    assert_invalid(run([&q, &k, &v, &o], &none, &KvState { kv_lens: &q, ..state }), &["kv_lens", "f32"]);
    assert_invalid(run([&q, &k, &v, &o], &none, &KvState { block_table: &lens, ..state }), &["block_table holds 8"]);
    assert_invalid(run([&q, &k, &v, &o], &none, &KvState { seq_starts: &lens, ..state }), &["seq_starts holds 8"]);
    let sinks = |x| Extras { sinks: Some(x), ..none };
    assert_invalid(run([&q, &k, &v, &o], &sinks(&half), &state), &["sinks", "f16"]);
    assert_invalid(run([&q, &k, &v, &o], &sinks(&short), &state), &["sinks holds 12"]);
    let mask = |buffer, seq_stride, row_stride| Extras {
        mask: Some(Mask { buffer, seq_stride, head_stride: 0, row_stride }),
        ..none
    };
    assert!(run([&q, &k, &v, &o], &mask(&bytes, 63, 16), &state).is_ok());
    assert_invalid(run([&q, &k, &v, &o], &mask(&bytes, 64, 16), &state), &["mask holds 95 bytes"]);
    assert_invalid(run([&q, &k, &v, &o], &mask(&half, 0, 0), &state), &["mask", "f16"]);
    assert_invalid(run([&q, &k, &v, &o], &mask(&bytes, u32::MAX, u32::MAX), &state), &["mask"]);
}
