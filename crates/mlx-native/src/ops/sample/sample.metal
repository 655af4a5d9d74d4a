// Chooses the next token of every sequence: penalties, then the likeliest, or top-p, min-p, top-k and a draw.
//
// The arithmetic is that of `rule.rs`: weights are whole numbers, in units of 2^-40 of the likeliest token's, so that sums
// do not depend on their order, and every device finds the token that the host finds.
//
// Launch: one threadgroup for each sequence, up to 1024 threads, whole simdgroups.

#include <metal_stdlib>
using namespace metal;

struct SampleParams {
    uint n_seqs;
    uint vocab;
    uint history_len;
    uint ring_len;
    uint n_ids;
    uint logits_stride;
};

// What is wanted for a sequence: `Sampling` in `state.rs`.
struct Sampling {
    uint is_on;
    float scale;     // log2(e) / temperature; 0: the likeliest
    uint top_p;      // of 2^32; 0: all
    float min_p;     // natural logarithm; -infinity: all
    uint top_k;      // 0: all
    float repetition;
    uint repetition_context;
    float presence;
    uint presence_context;
    float frequency;
    uint frequency_context;
    uint seed_low;
    uint seed_high;
    uint unused[3];
};

constant constexpr uint NO_TOKEN = 0xFFFFFFFFu;
constant constexpr uint MAX_SIMDGROUPS = 32;
constant constexpr float LOG2_E = 1.44269504088896340736f;

inline uint key_of(float logit) {
    const uint bits = as_type<uint>(logit);
    return bits == 0x80000000u ? bits : (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

inline bool is_possible(float logit) {
    return as_type<uint>(logit) != 0xFF800000u;
}

inline ulong weight_of(float distance, float scale) {
    const float powers = distance * scale;
    if (!(powers < 41.0f)) {
        return 0;
    }
    const uint fixed = uint(powers * 67108864.0f);
    const uint a = mulhi(fixed << 6, 2977044471u);
    uint sum = 0xFFFFFFFFu;
    for (uint n = 12; n >= 2; n--) {
        sum = 0xFFFFFFFFu - mulhi(mulhi(a, sum), 0xFFFFFFFFu / n);
    }
    sum = 0xFFFFFFFFu - mulhi(a, sum);
    return (ulong(sum) << 8) >> (fixed >> 26);
}

inline ulong part_of(ulong total, uint fraction) {
    return (total >> 32) * fraction + (((total & 0xFFFFFFFFul) * fraction) >> 32);
}

// The high half of a product of 64 bits each.
inline ulong high_of(ulong a, ulong b) {
    const ulong low = 0xFFFFFFFFul;
    const ulong ll = (a & low) * (b & low), lh = (a & low) * (b >> 32), hl = (a >> 32) * (b & low);
    const ulong middle = (ll >> 32) + (lh & low) + (hl & low);
    return (a >> 32) * (b >> 32) + (lh >> 32) + (hl >> 32) + (middle >> 32);
}

// Philox 4x32, 10 rounds: the first two words for a counter of stream 0.
inline ulong random_of(uint counter, uint seed_low, uint seed_high) {
    uint x[4] = {counter, 0, 0, 0};
    for (uint round = 0; round < 10; round++) {
        const uint a_high = mulhi(x[0], 0xD2511F53u), a_low = x[0] * 0xD2511F53u;
        const uint b_high = mulhi(x[2], 0xCD9E8D57u), b_low = x[2] * 0xCD9E8D57u;
        x[0] = b_high ^ x[1] ^ seed_low;
        x[1] = b_low;
        x[2] = a_high ^ x[3] ^ seed_high;
        x[3] = a_low;
        seed_low += 0x9E3779B9u;
        seed_high += 0xBB67AE85u;
    }
    return ulong(x[0]) | (ulong(x[1]) << 32);
}

inline ulong shuffled(ulong x, ushort mask) {
    return ulong(simd_shuffle_xor(uint(x), mask)) | (ulong(simd_shuffle_xor(uint(x >> 32), mask)) << 32);
}

inline ulong simd_total(ulong x) {
    for (ushort mask = 16; mask > 0; mask /= 2) {
        x += shuffled(x, mask);
    }
    return x;
}

// The sum of x over the lanes before this one.
inline ulong simd_before(ulong x, uint lane) {
    ulong sum = x;
    for (ushort step = 1; step < 32; step *= 2) {
        const ulong other = ulong(simd_shuffle_up(uint(sum), step)) | (ulong(simd_shuffle_up(uint(sum >> 32), step)) << 32);
        sum += lane >= step ? other : 0;
    }
    return sum - x;
}

struct Threads {
    uint index;
    uint count;
    uint simdgroup;
    uint n_simdgroups;
    uint lane;
};

// The sum over all threads.
inline ulong group_total(ulong x, Threads t, threadgroup ulong *totals) {
    x = simd_total(x);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t.lane == 0) {
        totals[t.simdgroup] = x;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    ulong sum = 0;
    for (uint i = 0; i < t.n_simdgroups; i++) {
        sum += totals[i];
    }
    return sum;
}

// The greatest key T such that tokens with keys of T and more have `wanted` in all: weight if WEIGHED, else number. There
// is that much. `above` becomes what those beyond T have.
template <bool WEIGHED>
uint threshold(device const float *logits, uint vocab, float max, ulong wanted, Threads t, threadgroup ulong *totals,
               thread ulong &above) {
    uint prefix = 0;
    above = 0;
    for (int shift = 28; shift >= 0; shift -= 4) {
        ulong at_least[15];
        for (uint j = 0; j < 15; j++) {
            at_least[j] = 0;
        }
        for (uint id = t.index; id < vocab; id += t.count) {
            const float logit = logits[id];
            const uint key = key_of(logit);
            if (is_possible(logit) && (shift == 28 || (key >> (shift + 4)) == (prefix >> (shift + 4)))) {
                const ulong worth = WEIGHED ? weight_of(max - logit, LOG2_E) : 1;
                const uint digit = (key >> shift) & 15;
                for (uint j = 0; j < 15; j++) {
                    at_least[j] += digit > j ? worth : 0;
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint j = 0; j < 15; j++) {
            const ulong sum = simd_total(at_least[j]);
            if (t.lane == 0) {
                totals[j * MAX_SIMDGROUPS + t.simdgroup] = sum;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint digit = 0;
        ulong beyond = 0;
        for (uint j = 15; j > 0; j--) {
            ulong sum = 0;
            for (uint i = 0; i < t.n_simdgroups; i++) {
                sum += totals[(j - 1) * MAX_SIMDGROUPS + i];
            }
            if (above + sum >= wanted) {
                digit = j;
                break;
            }
            beyond = sum;
        }
        above += beyond;
        prefix |= digit << shift;
    }
    return prefix;
}

// The id at which the running sum of `worth` over ascending ids passes `target`, which is less than the whole. Each simdgroup
// has a stretch of ids; the one in which it lies looks closer.
template <typename Worth>
uint find(uint vocab, ulong target, Worth worth, Threads t, threadgroup ulong *totals, threadgroup uint *found) {
    const uint stretch = (vocab + 32 * t.n_simdgroups - 1) / (32 * t.n_simdgroups) * 32;
    const uint start = min(vocab, stretch * t.simdgroup), end = min(vocab, start + stretch);
    ulong mine = 0;
    for (uint id = start + t.lane; id < end; id += 32) {
        mine += worth.of(id);
    }
    mine = simd_total(mine);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t.lane == 0) {
        totals[t.simdgroup] = mine;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    ulong before = 0;
    for (uint i = 0; i < t.simdgroup; i++) {
        before += totals[i];
    }
    if (target >= before && target < before + mine) {
        for (uint first = start; first < end; first += 32) {
            const ulong x = first + t.lane < end ? worth.of(first + t.lane) : 0;
            const ulong to_here = before + simd_before(x, t.lane);
            if (target >= to_here && target < to_here + x) {
                *found = first + t.lane;
            }
            before += simd_total(x);
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return *found;
}

// A tie of the last place of top-k.
struct Ties {
    device const float *logits;
    uint key;

    ulong of(uint id) const {
        return key_of(logits[id]) == key ? 1 : 0;
    }
};

// What the filters leave, at the temperature.
struct Weights {
    device const float *logits;
    float max;
    float scale;
    uint least;    // keys from this on
    uint tie;      // of keys equal to this
    uint last_id;  // the ids up to this

    ulong of(uint id) const {
        const float logit = logits[id];
        const uint key = key_of(logit);
        const bool stays = is_possible(logit) && key >= least && (key != tie || id <= last_id);
        return stays ? weight_of(max - logit, scale) : 0;
    }
};

// Latest first.
inline uint recent(device const uint *history, uint length, uint count, uint back) {
    return history[(count - 1 - back) % length];
}

// A thread does all that befalls one token, in the order of the host.
inline void penalise(device float *logits, device const uint *history, constant SampleParams &p,
                     constant Sampling &want, uint count, Threads t) {
    const uint rep = want.repetition != 1.0f ? want.repetition_context : 0;
    const uint pres = want.presence != 0.0f ? want.presence_context : 0;
    const uint freq = want.frequency != 0.0f ? want.frequency_context : 0;
    const uint context = min(max(rep, max(pres, freq)), min(count, p.history_len));
    for (uint back = t.index; back < context; back += t.count) {
        const uint id = recent(history, p.history_len, count, back);
        bool is_latest = id < p.vocab;
        for (uint later = 0; later < back && is_latest; later++) {
            is_latest = recent(history, p.history_len, count, later) != id;
        }
        if (!is_latest) {
            continue;
        }
        float logit = logits[id];
        if (back < rep) {
            logit = logit < 0.0f ? logit * want.repetition : precise::divide(logit, want.repetition);
        }
        if (back < pres) {
            logit -= want.presence;
        }
        for (uint earlier = back; earlier < min(freq, context); earlier++) {
            if (recent(history, p.history_len, count, earlier) == id) {
                logit -= want.frequency;
            }
        }
        logits[id] = logit;
    }
}

template <typename T>
[[kernel]] void sample(device const T *logits [[buffer(0)]],
                       device float *values [[buffer(1)]],
                       constant Sampling *wanted [[buffer(2)]],
                       constant uint *seq_starts [[buffer(3)]],
                       device uint *history [[buffer(4)]],
                       device uint *counts [[buffer(5)]],
                       device uint *ids [[buffer(6)]],
                       device uint *ring [[buffer(7)]],
                       constant SampleParams &p [[buffer(8)]],
                       uint s [[threadgroup_position_in_grid]],
                       uint thread_index [[thread_index_in_threadgroup]],
                       uint n_threads [[threads_per_threadgroup]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint n_simdgroups [[simdgroups_per_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
    threadgroup ulong totals[15 * MAX_SIMDGROUPS];
    threadgroup uint keys[MAX_SIMDGROUPS];
    threadgroup uint firsts[MAX_SIMDGROUPS];
    threadgroup uint bad[MAX_SIMDGROUPS];
    threadgroup uint found;
    constant Sampling &want = wanted[s];
    if (want.is_on == 0) {
        return;
    }
    Threads t;
    t.index = thread_index;
    t.count = n_threads;
    t.simdgroup = simdgroup;
    t.n_simdgroups = n_simdgroups;
    t.lane = lane;
    logits += ulong(s) * p.logits_stride;
    values += ulong(s) * p.vocab;
    history += ulong(s) * p.history_len;
    const uint count = counts[2 * s], sampled = counts[2 * s + 1];
    for (uint id = t.index; id < p.vocab; id += t.count) {
        values[id] = float(logits[id]);
    }
    threadgroup_barrier(mem_flags::mem_device);
    penalise(values, history, p, want, count, t);
    threadgroup_barrier(mem_flags::mem_device);

    // The likeliest, the first of equals; NaN and infinity are nobody's choice.
    uint best = 0, first = 0;
    bool is_bad = false;
    for (uint id = t.index; id < p.vocab; id += t.count) {
        const uint bits = as_type<uint>(values[id]);
        is_bad = is_bad || (bits & 0x7FFFFFFFu) > 0x7F800000u || bits == 0x7F800000u;
        const uint key = key_of(values[id]);
        if (key > best) {
            best = key;
            first = id;
        }
    }
    const uint simd_best = simd_max(best);
    const uint simd_first = simd_min(best == simd_best ? first : NO_TOKEN);
    const bool simd_bad = simd_any(is_bad);
    if (lane == 0) {
        keys[simdgroup] = simd_best;
        firsts[simdgroup] = simd_first;
        bad[simdgroup] = simd_bad ? 1 : 0;
        if (simdgroup == 0) {
            found = 0;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint any_bad = 0;
    best = 0;
    first = NO_TOKEN;
    for (uint i = 0; i < n_simdgroups; i++) {
        any_bad |= bad[i];
        if (keys[i] > best || (keys[i] == best && firsts[i] < first)) {
            best = keys[i];
            first = firsts[i];
        }
    }
    uint id = first;
    if (any_bad != 0 || !is_possible(values[first < p.vocab ? first : 0])) {
        id = NO_TOKEN;
    } else if (want.scale != 0.0f) {
        Weights weights;
        weights.logits = values;
        weights.max = values[first];
        weights.scale = want.scale;
        weights.least = 0;
        weights.tie = 0;
        weights.last_id = NO_TOKEN;
        ulong above = 0;
        if (want.top_p != 0) {
            ulong mine = 0;
            for (uint i = t.index; i < p.vocab; i += t.count) {
                mine += is_possible(values[i]) ? weight_of(weights.max - values[i], LOG2_E) : 0;
            }
            const ulong all = part_of(group_total(mine, t, totals), want.top_p);
            weights.least = threshold<true>(values, p.vocab, weights.max, all, t, totals, above);
        }
        weights.least = max(weights.least, key_of(weights.max + want.min_p));
        if (want.top_k != 0) {
            ulong mine = 0;
            for (uint i = t.index; i < p.vocab; i += t.count) {
                mine += is_possible(values[i]) ? 1 : 0;
            }
            if (group_total(mine, t, totals) > want.top_k) {
                weights.tie = threshold<false>(values, p.vocab, weights.max, want.top_k, t, totals, above);
                weights.least = max(weights.least, weights.tie);
                Ties ties;
                ties.logits = values;
                ties.key = weights.tie;
                weights.last_id = find(p.vocab, want.top_k - above - 1, ties, t, totals, &found);
            }
        }
        ulong mine = 0;
        for (uint i = t.index; i < p.vocab; i += t.count) {
            mine += weights.of(i);
        }
        const ulong total = group_total(mine, t, totals);
        const ulong target = high_of(total, random_of(sampled, want.seed_low, want.seed_high));
        id = find(p.vocab, target, weights, t, totals, &found);
    }
    threadgroup_barrier(mem_flags::mem_device);
    if (t.index == 0) {
        ring[ulong(s) * p.ring_len + sampled % p.ring_len] = id;
        counts[2 * s + 1] = sampled + 1;
        if (id != NO_TOKEN) {
            history[count % p.history_len] = id;
            counts[2 * s] = count + 1;
        }
        // The next step's row of this sequence; a token that there is not is 0 there, and the host will see.
        const uint row = seq_starts[s];
        if (seq_starts[s + 1] > row && row < p.n_ids) {
            ids[row] = id != NO_TOKEN ? id : 0;
        }
    }
}

template [[host_name("sample_f32")]] [[kernel]] decltype(sample<float>) sample<float>;
template [[host_name("sample_f16")]] [[kernel]] decltype(sample<half>) sample<half>;
template [[host_name("sample_bf16")]] [[kernel]] decltype(sample<bfloat>) sample<bfloat>;
