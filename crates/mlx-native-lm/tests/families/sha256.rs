//! SHA-256 (FIPS 180-4), for the hashes of packed weights.

/// Bits of the fractional parts of the `n`-th roots of the first primes, computed once in integers.
fn primes() -> impl Iterator<Item = u64> {
    (2u64..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0))
}

/// The first 32 bits of the fraction of `p^(1/n)`.
fn root_bits(p: u64, n: u32) -> u32 {
    // The largest x with x^n <= p · 2^(32 n).
    let (mut low, mut high) = (0u128, 1u128 << 40);
    let below = |x: u128| {
        // x is below 2^37, and its cube below 2^111.
        x.pow(n) <= u128::from(p) << (32 * n)
    };
    while high - low > 1 {
        let middle = (low + high) / 2;
        if below(middle) {
            low = middle
        } else {
            high = middle
        }
    }
    low as u32
}

pub fn sha256_hex(data: &[u8]) -> String {
    let k: Vec<u32> = primes().take(64).map(|p| root_bits(p, 3)).collect();
    let mut h: Vec<u32> = primes().take(8).map(|p| root_bits(p, 2)).collect();
    let mut message = data.to_vec();
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend((data.len() as u64 * 8).to_be_bytes());
    for block in message.as_chunks::<64>().0 {
        let mut w: Vec<u32> = block
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_be_bytes(*b))
            .collect();
        for i in 16..64 {
            let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ (w[i - 15] >> 3);
            let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ (w[i - 2] >> 10);
            w.push(w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1));
        }
        let mut v = h.clone();
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7]
                .wrapping_add(s1)
                .wrapping_add(choice)
                .wrapping_add(k[i])
                .wrapping_add(w[i]);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(s0.wrapping_add(majority));
        }
        h.iter_mut().zip(v).for_each(|(h, v)| *h = h.wrapping_add(v));
    }
    h.iter().map(|word| format!("{word:08x}")).collect()
}
