// Causal softmax attention on a CPU, with its gradient: one history at a time, in blocks of queries whose scores stay in the
// processor's cache. The gradient computes them again from the logarithm of each query's sum.
//
// Scores have keys as lanes; sums over keys or queries have coordinates as lanes. Histories write to places of their own, so that
// the bits do not depend on the number of threads.

#include <algorithm>
#include <atomic>
#include <limits>
#include <new>
#include <vector>

#include "buffers.h"
#include "dropout.h"
#include "parallel_for.h"
#include "products.h"

extern "C" {

// What Python hands over; the fields and their order are those of `_Problem` in causal_attention.py.
struct Problem {
    int64_t histories, heads, dim;  // B, H, d
    int64_t threads;
    int64_t seed, threshold;        // of the dropout: what is below is dropped, of 2^32; 0: nothing is
    const int64_t* offsets;         // (B + 1) of the histories' rows
    const float* qkv;               // (T, 3 H d): queries, keys, values, heads one after the other
    float* mixed;                   // (T, H d) softmax(Q K / √d) V; written by the forward pass, read by the other
    float* logs;                    // (T, H) logarithms of the sums of the softmax, likewise
    const float* to_mixed;          // its gradient; null in the forward pass
    float* to_qkv;                  // (T, 3 H d)
};
}

namespace {

constexpr int64_t STRIP = most_rows(2);  // queries whose scores are computed together
constexpr int64_t BLOCK = 4 * STRIP;     // queries whose scores are held together in the backward pass

// The buffers of one thread, for one head at a time; "lanes" is (coordinate, row).
struct Scratch {
    std::vector<float> memory;
    float *q, *k, *v, *k_lanes, *v_lanes, *above, *to_q, *to_k, *to_v, *scores, *slopes, *mixed;

    Scratch(int64_t tall, int64_t wide) {
        int64_t rows = tall * wide, held = BLOCK * tall;
        lay_out(memory, {{&q, rows}, {&k, rows}, {&v, rows}, {&k_lanes, rows}, {&v_lanes, rows}, {&above, rows}, {&to_q, rows},
                         {&to_k, rows}, {&to_v, rows}, {&scores, held}, {&slopes, held}, {&mixed, STRIP * wide}});
    }
};

// One head of one history.
struct Head {
    const Problem& p;
    Scratch& s;
    int64_t tall, wide, first, length, head, width;  // rows of a buffer's lanes, d in whole vectors; H d
    float scale;

    Head(const Problem& p, Scratch& s, int64_t tall, int64_t wide, int64_t history, int64_t head)
        : p(p), s(s), tall(tall), wide(wide), first(p.offsets[history]), length(p.offsets[history + 1] - first), head(head),
          width(p.heads * p.dim), scale(1.0f / std::sqrt(float(p.dim))) {
        for (int64_t i = 0; i < length; ++i) {
            const float* row = p.qkv + (first + i) * 3 * width + head * p.dim;
            for (int64_t c = 0; c < p.dim; ++c) s.q[i * wide + c] = row[c] * scale;
            std::copy(row + width, row + width + p.dim, s.k + i * wide);
            std::copy(row + 2 * width, row + 2 * width + p.dim, s.v + i * wide);
        }
        turned(s.k, wide, whole_vectors(length), wide, s.k_lanes, tall);
    }

    Mask mask(int64_t i) const { return Mask(p.threshold, uint64_t(p.seed), (first + i) * p.heads + head); }

    static Integers keys(int64_t from) {
        Integers lane;
        for (int i = 0; i < LANES; ++i) lane[i] = int32_t(from) + i;
        return lane;
    }

    void set_scores(int64_t start, int64_t count, float* to) const {
        multiplied(count, whole_vectors(start + count), p.dim, {s.q + start * wide, wide, 1}, s.k_lanes, tall, nullptr, 0, to,
                   tall);
    }

    void forward() {
        const Vector none = all(-std::numeric_limits<float>::infinity());
        for (int64_t start = 0; start < length; start += STRIP) {
            int64_t count = std::min(STRIP, length - start), reach = whole_vectors(start + count);
            set_scores(start, count, s.scores);
            for (int64_t row = 0; row < count; ++row) {
                float* at = s.scores + row * tall;
                int64_t i = start + row, last = i / LANES * LANES;  // the last vector with a key that counts
                store(at + last, keys(last) > int32_t(i) ? none : load<Vector>(at + last));
                Vector most = none, powers{};
                for (int64_t j = 0; j <= last; j += LANES) most = larger(load<Vector>(at + j), most);
                float largest = most[0];
                for (int lane = 1; lane < LANES; ++lane) largest = std::max(largest, most[lane]);
                for (int64_t j = 0; j <= last; j += LANES) {
                    Vector power = exponential(larger(load<Vector>(at + j) - largest, all(-87.0f)));
                    if (j == last) power = keys(j) > int32_t(i) ? Vector{} : power;
                    powers += power;
                    store(at + j, power);
                }
                float sum = sum_of(powers);
                p.logs[(first + i) * p.heads + head] = largest + std::log(sum);
                Mask kept = mask(i);
                for (int64_t j = 0; j <= last; j += LANES) {
                    Vector weight = load<Vector>(at + j) / sum;
                    store(at + j, kept.threshold ? weight * kept((Unsigned)keys(j)) : weight);
                }
                for (int64_t j = last + LANES; j < reach; j += LANES) store(at + j, Vector{});
            }
            multiplied(count, wide, start + count, {s.scores, tall, 1}, s.v, wide, nullptr, 0, s.mixed, wide);
            for (int64_t row = 0; row < count; ++row)
                std::copy(s.mixed + row * wide, s.mixed + row * wide + p.dim, p.mixed + (first + start + row) * width + head * p.dim);
        }
    }

    // From the scores of a query and the gradient of its weights: the weights, and the gradient of the scores.
    void row_backward(int64_t i, int64_t reach, float* scores, float* slopes) const {
        const float *mixed = p.mixed + (first + i) * width + head * p.dim, *above = s.above + i * wide;
        float log = p.logs[(first + i) * p.heads + head], along = 0;
        for (int64_t c = 0; c < p.dim; ++c) along += mixed[c] * above[c];
        Mask kept = mask(i);
        for (int64_t j = 0; j < reach; j += LANES) {
            Vector x = load<Vector>(scores + j) - log, weight = exponential(larger(x, all(-87.0f)));
            Vector share = kept.threshold ? kept((Unsigned)keys(j)) : all(1.0f);
            Vector slope = weight * (share * load<Vector>(slopes + j) - along);
            if (j + LANES > i + 1) {
                Integers later = keys(j) > int32_t(i);
                weight = later ? Vector{} : weight, slope = later ? Vector{} : slope;
            }
            store(scores + j, weight * share);
            store(slopes + j, slope);
        }
    }

    void backward() {
        turned(s.v, wide, whole_vectors(length), wide, s.v_lanes, tall);
        for (int64_t i = 0; i < length; ++i) {
            const float* from = p.to_mixed + (first + i) * width + head * p.dim;
            std::copy(from, from + p.dim, s.above + i * wide);
        }
        std::fill(s.to_k, s.to_k + length * wide, 0.0f);
        std::fill(s.to_v, s.to_v + length * wide, 0.0f);
        for (int64_t block = 0; block < length; block += BLOCK) block_backward(block, std::min(block + BLOCK, length));
        for (int64_t i = 0; i < length; ++i) {
            float* row = p.to_qkv + (first + i) * 3 * width + head * p.dim;
            for (int64_t c = 0; c < p.dim; ++c) row[c] = s.to_q[i * wide + c] * scale;
            std::copy(s.to_k + i * wide, s.to_k + i * wide + p.dim, row + width);
            std::copy(s.to_v + i * wide, s.to_v + i * wide + p.dim, row + 2 * width);
        }
    }

    void block_backward(int64_t block, int64_t end) {
        // Keys before the block meet all of its queries, those within it their own and later ones.
        auto to_keys = [&](int64_t key, int64_t count, int64_t query) {
            int64_t at = (query - block) * tall + key;
            float *to_v = s.to_v + key * wide, *to_k = s.to_k + key * wide;
            multiplied(count, wide, end - query, {s.scores + at, 1, tall}, s.above + query * wide, wide, to_v, wide, to_v, wide);
            multiplied(count, wide, end - query, {s.slopes + at, 1, tall}, s.q + query * wide, wide, to_k, wide, to_k, wide);
        };
        for (int64_t start = block; start < end; start += STRIP) {
            int64_t count = std::min(STRIP, end - start), reach = whole_vectors(start + count), at = (start - block) * tall;
            set_scores(start, count, s.scores + at);
            multiplied(count, reach, p.dim, {s.above + start * wide, wide, 1}, s.v_lanes, tall, nullptr, 0, s.slopes + at, tall);
            for (int64_t row = 0; row < count; ++row)
                row_backward(start + row, reach, s.scores + at + row * tall, s.slopes + at + row * tall);
            multiplied(count, wide, start + count, {s.slopes + at, tall, 1}, s.k, wide, nullptr, 0, s.to_q + start * wide, wide);
        }
        if (block) to_keys(0, block, block);
        for (int64_t start = block; start < end; start += STRIP) to_keys(start, std::min(STRIP, end - start), start);
    }
};

}  // namespace

// The forward pass, or the other if there is a gradient of its result. 0; 1 if memory ran out.
extern "C" int causal_attention(const Problem* problem) {
    const Problem& p = *problem;
    int64_t tall = 0, wide = whole_vectors(p.dim);
    for (int64_t b = 0; b < p.histories; ++b) tall = std::max(tall, whole_vectors(p.offsets[b + 1] - p.offsets[b]));
    try {
        std::atomic<int64_t> next{0};
        spread(p.threads, p.threads, [&](int64_t) {
            Scratch scratch(tall, wide);
            for (int64_t task; (task = next.fetch_add(1)) < p.histories * p.heads;) {
                Head head(p, scratch, tall, wide, task / p.heads, task % p.heads);
                p.to_mixed ? head.backward() : head.forward();
            }
        });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
