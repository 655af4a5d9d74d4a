//! Bodies of `ngram_ids` for the CPU: too little work for a second thread.

use super::NgramParams;
use crate::backend::cpu::Launch;

pub(super) fn ids(launch: &Launch<'_>, part: usize, _parts: usize) {
    if part != 0 {
        return;
    }
    let p: NgramParams = launch.params(3);
    let (ids, history) = (launch.input::<u32>(0), launch.input::<f32>(1));
    // SAFETY: one part alone uses it.
    let output = unsafe { launch.output::<u32>(2).slice_mut(0..p.rows as usize) };
    let modulus = u64::from(p.modulus);
    for (row, id) in output.iter_mut().enumerate() {
        let term = |c: usize| {
            let token = match row.checked_sub(c) {
                Some(at) => ids[at],
                None => history[p.history as usize + row - c] as u32,
            };
            u64::from(token) * u64::from(p.multipliers[c]) % modulus
        };
        *id = ((0..p.order as usize).map(term).sum::<u64>() % modulus) as u32;
    }
}

pub(super) fn keep(launch: &Launch<'_>, part: usize, _parts: usize) {
    if part != 0 {
        return;
    }
    let p: NgramParams = launch.params(2);
    let (rows, n) = (p.rows as usize, p.history as usize);
    let ids = launch.input::<u32>(0);
    // SAFETY: one part alone uses it.
    let history = unsafe { launch.output::<f32>(1).slice_mut(0..n) };
    for j in 0..n {
        let from = j + rows;
        history[j] = if from < n { history[from] } else { ids[from - n] as f32 };
    }
}
