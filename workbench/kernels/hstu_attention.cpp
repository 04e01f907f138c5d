// The pointwise attention of HSTU on a CPU, with its gradient: one history at a time, in blocks of queries whose scores stay in
// the processor's cache. The gradient computes them again, so that nothing of the size of all pairs is ever stored.
//
// Scores have keys as lanes; sums over keys or queries have coordinates of values, queries or keys as lanes. Pairs in which the
// key comes after the query are left out but for the rest of a vector and of a strip. Histories write to places of their own
// (biases too, summed by the caller), so that the bits do not depend on the number of threads.

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

// What Python hands over; the fields and their order are those of `_Problem` in hstu_attention.py.
struct Problem {
    int64_t histories, heads, qk_dim, v_dim;  // B, H, dq, dv
    int64_t padded_length, time_buckets;      // N, and the number of time buckets
    int64_t threads;
    int64_t seed, threshold;                  // of the dropout: what is below is dropped, of 2^32; 0: nothing is
    double eps;                               // of the layer norm
    const int64_t* offsets;                   // (B + 1) of the histories' rows
    const uint8_t* buckets;                   // time buckets of the pairs, i + 1 for query i, history after history
    const float* projected;                   // (T, W), W = 2 H (dq + dv): u, v, q, k before SiLU, heads one after the other
    const float *position, *time;             // (2 N - 1), (time_buckets)
    float* attended;                          // (T, H dv) A V; written by the forward pass, read by the other
    float* gated;                             // (T, H dv) dropout(u · LN(A V))
    const float* to_gated;                    // its gradient; null in the forward pass
    float* to_projected;                      // (T, W)
    float *to_position, *to_time;             // (B, N), the others are 0; (B, time_buckets)
};
}

namespace {

constexpr int64_t STRIP = most_rows(2);  // queries whose scores are computed together
constexpr int64_t BLOCK = 4 * STRIP;     // queries whose scores are held together in the backward pass

// Where the rows of one head are, all with their coordinates padded to whole vectors; "lanes" is (coordinate, row).
struct Head {
    float *q, *k, *v, *k_lanes, *v_lanes, *above, *to_q, *to_k, *to_v;
};

struct Sizes {
    const Problem& p;
    std::vector<int64_t> pairs;      // (B) pairs of the histories before
    int64_t values, width, wide;     // H dv; W; H dv in whole vectors
    int64_t qk_wide, v_wide, tall;   // dq, dv and the longest history in whole vectors

    explicit Sizes(const Problem& problem) : p(problem) {
        values = p.heads * p.v_dim, width = 2 * p.heads * (p.qk_dim + p.v_dim), wide = whole_vectors(values);
        qk_wide = whole_vectors(p.qk_dim), v_wide = whole_vectors(p.v_dim), tall = 0;
        int64_t before = 0;
        for (int64_t b = 0; b < p.histories; ++b) {
            int64_t length = p.offsets[b + 1] - p.offsets[b];
            tall = std::max(tall, whole_vectors(length));
            pairs.push_back(before), before += length * (length + 1) / 2;
        }
    }
};

// The buffers of one thread.
struct Scratch {
    std::vector<float> memory;
    std::vector<Head> heads;
    float *active, *bias, *scores, *slopes, *sums, *mixed, *normed, *above, *valid, *to_position, *to_time;

    explicit Scratch(const Sizes& z) : heads(z.p.heads) {
        bool learns = z.p.to_gated;
        std::vector<Buffer> parts;
        auto part = [&](float*& at, int64_t size) { parts.push_back({&at, whole_vectors(size)}); };
        for (Head& head : heads) {
            part(head.k, z.tall * z.qk_wide), part(head.v, z.tall * z.v_wide), part(head.k_lanes, z.tall * z.qk_wide);
            if (!learns) continue;
            part(head.q, z.tall * z.qk_wide), part(head.v_lanes, z.tall * z.v_wide), part(head.above, z.tall * z.v_wide);
            part(head.to_q, z.tall * z.qk_wide), part(head.to_k, z.tall * z.qk_wide), part(head.to_v, z.tall * z.v_wide);
        }
        int64_t held = (learns ? BLOCK : STRIP) * z.tall;
        part(active, z.tall * z.width + LANES), part(bias, held), part(scores, held);
        part(slopes, learns ? held : 0), part(sums, learns ? held : 0), part(mixed, STRIP * z.v_wide);
        part(normed, z.wide), part(above, z.wide), part(valid, z.wide);
        part(to_position, z.p.padded_length + 2 * LANES + STRIP);
        part(to_time, 2 * z.p.time_buckets);
        lay_out(memory, parts);
        std::fill(valid, valid + z.values, 1.0f);
    }
};

inline Integers counted(int64_t from) {
    Integers lane;
    for (int i = 0; i < LANES; ++i) lane[i] = int32_t(from) + i;
    return lane;
}

// SiLU of `count` elements, and its derivative where `slope` is given.
void activated(const float* from, int64_t count, float* to, float* slope) {
    auto vector = [&](Vector x, float* value, float* derivative) {
        Vector sigma = sigmoid(x);
        store(value, x * sigma);
        if (slope) store(derivative, sigma * (1.0f + x * (1.0f - sigma)));
    };
    int64_t whole = count - count % LANES;
    for (int64_t i = 0; i < whole; i += LANES) vector(load<Vector>(from + i), to + i, slope + i);
    if (whole == count) return;
    float rest[LANES] = {}, value[LANES], derivative[LANES];
    std::copy(from + whole, from + count, rest);
    vector(load<Vector>(rest), value, derivative);
    std::copy(value, value + count - whole, to + whole);
    if (slope) std::copy(derivative, derivative + count - whole, slope + whole);
}

struct History {
    const Sizes& z;
    const Problem& p;
    Scratch& s;
    int64_t number, first, length;

    History(const Sizes& z, Scratch& s, int64_t number) : z(z), p(z.p), s(s), number(number) {
        first = p.offsets[number], length = p.offsets[number + 1] - first;
    }

    // One column block of the activated rows, each row in whole vectors, and transposed.
    void spread_out(int64_t column, int64_t count, int64_t wide, float* rows, float* lanes) const {
        for (int64_t i = 0; i < length; ++i)
            std::memcpy(rows + i * wide, s.active + i * z.width + column, count * sizeof(float));
        if (lanes) turned(rows, wide, whole_vectors(length), wide, lanes, z.tall);
    }

    const uint8_t* buckets(int64_t i) const { return p.buckets + z.pairs[number] + i * (i + 1) / 2; }

    // Biases of a strip's queries for the keys up to each.
    void set_bias(int64_t start, int64_t count, float* bias) const {
        for (int64_t i = start; i < start + count; ++i, bias += z.tall) {
            const uint8_t* bucket = buckets(i);
            const float* position = p.position + p.padded_length - 1 - i;
            for (int64_t j = 0; j <= i; ++j) bias[j] = p.time[bucket[j]] + position[j];
        }
    }

    void set_scores(int64_t head, int64_t start, int64_t count, int64_t reach, const float* bias, float* to) const {
        const float* queries = s.active + start * z.width + 2 * z.values + head * p.qk_dim;
        multiplied(count, reach, p.qk_dim, {queries, z.width, 1}, s.heads[head].k_lanes, z.tall, bias, z.tall, to, z.tall);
    }

    // Mean and inverse deviation of a row of A V, in s.normed.
    void normal(int64_t i, float& mean, float& scale) const {
        std::memcpy(s.normed, p.attended + (first + i) * z.values, z.values * sizeof(float));
        Vector sum{}, squares{};
        for (int64_t c = 0; c < z.wide; c += LANES) sum += load<Vector>(s.normed + c);
        mean = sum_of(sum) / float(z.values);
        for (int64_t c = 0; c < z.wide; c += LANES) {
            Vector off = (load<Vector>(s.normed + c) - mean) * load<Vector>(s.valid + c);
            squares += off * off;
        }
        scale = 1.0f / std::sqrt(sum_of(squares) / float(z.values) + float(p.eps));
    }

    void forward() {
        activated(p.projected + first * z.width, length * z.width, s.active, nullptr);
        for (int64_t h = 0; h < p.heads; ++h) {
            spread_out(z.values + h * p.v_dim, p.v_dim, z.v_wide, s.heads[h].v, nullptr);
            spread_out(2 * z.values + (p.heads + h) * p.qk_dim, p.qk_dim, z.qk_wide, s.heads[h].k, s.heads[h].k_lanes);
        }
        float share = 1.0f / float(p.padded_length);
        for (int64_t start = 0; start < length; start += STRIP) {
            int64_t count = std::min(STRIP, length - start), reach = whole_vectors(start + count);
            set_bias(start, count, s.bias);
            for (int64_t h = 0; h < p.heads; ++h) {
                set_scores(h, start, count, reach, s.bias, s.scores);
                for (int64_t row = 0; row < count; ++row) {
                    float* at = s.scores + row * z.tall;
                    int64_t i = start + row, whole = (i + 1) / LANES * LANES;
                    auto weight = [&](int64_t j) {
                        Vector x = load<Vector>(at + j);
                        return x * sigmoid(x);
                    };
                    for (int64_t j = 0; j < whole; j += LANES) store(at + j, weight(j));
                    for (int64_t j = whole; j < reach; j += LANES)
                        store(at + j, counted(j) > int32_t(i) ? Vector{} : weight(j));
                }
                multiplied(count, z.v_wide, start + count, {s.scores, z.tall, 1}, s.heads[h].v, z.v_wide, nullptr, 0, s.mixed,
                           z.v_wide);
                for (int64_t row = 0; row < count; ++row) {
                    float* to = p.attended + (first + start + row) * z.values + h * p.v_dim;
                    for (int64_t c = 0; c < p.v_dim; ++c) to[c] = s.mixed[row * z.v_wide + c] * share;
                }
            }
        }
        for (int64_t i = 0; i < length; ++i) {
            float mean, scale;
            normal(i, mean, scale);
            Mask mask(p.threshold, uint64_t(p.seed), first + i);
            for (int64_t c = 0; c < z.wide; c += LANES) {
                Vector y = (load<Vector>(s.normed + c) - mean) * scale * load<Vector>(s.active + i * z.width + c);
                store(s.above + c, mask.threshold ? y * mask((Unsigned)counted(c)) : y);
            }
            std::memcpy(p.gated + (first + i) * z.values, s.above, z.values * sizeof(float));
        }
    }

    // Back through the gate: into the rows `above` of each head (with the share 1 / N), and to u.
    void gate_backward() {
        for (int64_t i = 0; i < length; ++i) {
            float mean, scale;
            normal(i, mean, scale);
            Mask mask(p.threshold, uint64_t(p.seed), first + i);
            std::memcpy(s.above, p.to_gated + (first + i) * z.values, z.values * sizeof(float));
            float* to_u = p.to_projected + (first + i) * z.width;
            Vector sum{}, along{};
            for (int64_t c = 0; c < z.wide; c += LANES) {
                Vector above = load<Vector>(s.above + c), valid = load<Vector>(s.valid + c);
                Vector y = (load<Vector>(s.normed + c) - mean) * scale * valid;
                if (mask.threshold) above *= mask((Unsigned)counted(c));
                store(s.normed + c, y);
                Vector to_y = above * load<Vector>(s.active + i * z.width + c) * valid;
                store(s.above + c, to_y);
                sum += to_y, along += to_y * y;
                Vector gradient = above * y;
                for (int64_t k = c; k < std::min(c + LANES, z.values); ++k) to_u[k] *= gradient[k - c];
            }
            float off = sum_of(sum) / float(z.values), tilt = sum_of(along) / float(z.values);
            scale /= float(p.padded_length);
            for (int64_t h = 0; h < p.heads; ++h)
                for (int64_t c = 0; c < p.v_dim; ++c) {
                    int64_t k = h * p.v_dim + c;
                    s.heads[h].above[i * z.v_wide + c] = scale * (s.above[k] - off - s.normed[k] * tilt);
                }
        }
    }

    // From the scores of a query: its weights into them, the gradient of the scores into `slopes` (that of the weights before).
    void row_backward(int64_t i, int64_t reach, float* scores, float* slopes, float* sums, bool is_first) const {
        auto vector = [&](int64_t j, auto keep) {
            Vector x = load<Vector>(scores + j), sigma = sigmoid(x);
            Vector slope = load<Vector>(slopes + j) * sigma * (1.0f + x * (1.0f - sigma));
            slope = keep(slope, j);
            store(scores + j, keep(x * sigma, j));
            store(slopes + j, slope);
            store(sums + j, is_first ? slope : load<Vector>(sums + j) + slope);
        };
        int64_t whole = (i + 1) / LANES * LANES;
        for (int64_t j = 0; j < whole; j += LANES) vector(j, [](Vector x, int64_t) { return x; });
        for (int64_t j = whole; j < reach; j += LANES)
            vector(j, [&](Vector x, int64_t at) { return counted(at) > int32_t(i) ? Vector{} : x; });
    }

    void bias_backward(int64_t i, const uint8_t* buckets, const float* sums) const {
        float* to = s.to_position + p.padded_length - 1 - i;
        for (int64_t j = 0; j <= i; j += LANES) store(to + j, load<Vector>(to + j) + load<Vector>(sums + j));
        float *even = s.to_time, *odd = s.to_time + p.time_buckets;
        int64_t j = 0;
        for (; j < i; j += 2) even[buckets[j]] += sums[j], odd[buckets[j + 1]] += sums[j + 1];
        if (j == i) even[buckets[j]] += sums[j];
    }

    void backward() {
        activated(p.projected + first * z.width, length * z.width, s.active, p.to_projected + first * z.width);
        for (int64_t h = 0; h < p.heads; ++h) {
            Head& head = s.heads[h];
            spread_out(z.values + h * p.v_dim, p.v_dim, z.v_wide, head.v, head.v_lanes);
            spread_out(2 * z.values + h * p.qk_dim, p.qk_dim, z.qk_wide, head.q, nullptr);
            spread_out(2 * z.values + (p.heads + h) * p.qk_dim, p.qk_dim, z.qk_wide, head.k, head.k_lanes);
            std::fill(head.to_k, head.to_k + length * z.qk_wide, 0.0f);
            std::fill(head.to_v, head.to_v + length * z.v_wide, 0.0f);
        }
        std::fill(s.to_position, s.to_position + p.padded_length + 2 * LANES + STRIP, 0.0f);
        std::fill(s.to_time, s.to_time + 2 * p.time_buckets, 0.0f);
        gate_backward();
        for (int64_t block = 0; block < length; block += BLOCK) block_backward(block, std::min(block + BLOCK, length));
        float* to = p.to_projected + first * z.width;
        for (int64_t i = 0; i < length; ++i, to += z.width)
            for (int64_t h = 0; h < p.heads; ++h) {
                const Head& head = s.heads[h];
                auto scaled = [&](float* slope, int64_t count, const float* gradient) {
                    for (int64_t c = 0; c < count; ++c) slope[c] *= gradient[c];
                };
                scaled(to + z.values + h * p.v_dim, p.v_dim, head.to_v + i * z.v_wide);
                scaled(to + 2 * z.values + h * p.qk_dim, p.qk_dim, head.to_q + i * z.qk_wide);
                scaled(to + 2 * z.values + (p.heads + h) * p.qk_dim, p.qk_dim, head.to_k + i * z.qk_wide);
            }
        std::copy(s.to_position, s.to_position + p.padded_length, p.to_position + number * p.padded_length);
        for (int64_t bucket = 0; bucket < p.time_buckets; ++bucket)
            p.to_time[number * p.time_buckets + bucket] = s.to_time[bucket] + s.to_time[p.time_buckets + bucket];
    }

    // The queries from `block` to `end`: their gradient, and their part in that of keys, values and biases.
    void block_backward(int64_t block, int64_t end) {
        auto strips = [&](auto each) {
            for (int64_t start = block; start < end; start += STRIP) {
                int64_t count = std::min(STRIP, end - start);
                each(start, count, whole_vectors(start + count), (start - block) * z.tall);
            }
        };
        strips([&](int64_t start, int64_t count, int64_t, int64_t at) { set_bias(start, count, s.bias + at); });
        for (int64_t h = 0; h < p.heads; ++h) {
            Head& head = s.heads[h];
            strips([&](int64_t start, int64_t count, int64_t reach, int64_t at) {
                set_scores(h, start, count, reach, s.bias + at, s.scores + at);
                multiplied(count, reach, p.v_dim, {head.above + start * z.v_wide, z.v_wide, 1}, head.v_lanes, z.tall, nullptr, 0,
                           s.slopes + at, z.tall);
                for (int64_t row = 0; row < count; ++row, at += z.tall)
                    row_backward(start + row, reach, s.scores + at, s.slopes + at, s.sums + at, h == 0);
                at -= count * z.tall;
                multiplied(count, z.qk_wide, start + count, {s.slopes + at, z.tall, 1}, head.k, z.qk_wide, nullptr, 0,
                           head.to_q + start * z.qk_wide, z.qk_wide);
            });
            // Keys before the block meet all of its queries, those within it their own and later ones.
            auto keys = [&](int64_t key, int64_t count, int64_t query) {
                int64_t at = (query - block) * z.tall + key;
                float *to_v = head.to_v + key * z.v_wide, *to_k = head.to_k + key * z.qk_wide;
                multiplied(count, z.v_wide, end - query, {s.scores + at, 1, z.tall}, head.above + query * z.v_wide, z.v_wide,
                           to_v, z.v_wide, to_v, z.v_wide);
                multiplied(count, z.qk_wide, end - query, {s.slopes + at, 1, z.tall}, head.q + query * z.qk_wide, z.qk_wide,
                           to_k, z.qk_wide, to_k, z.qk_wide);
            };
            if (block) keys(0, block, block);
            strips([&](int64_t start, int64_t count, int64_t, int64_t) { keys(start, count, start); });
        }
        for (int64_t i = block; i < end; ++i) bias_backward(i, buckets(i), s.sums + (i - block) * z.tall);
    }
};

// Buckets of time differences by a table: their floating-point numbers are cut into cells of an eighth of an octave, each of which
// holds one bound or none.
struct Buckets {
    static constexpr int CELL_BITS = 49, CELLS = 64 * 8;  // mantissa bits below a cell; octaves of an int64, each in eighths
    int64_t bounds[CELLS];
    uint8_t below[CELLS], above[CELLS];

    static int64_t cell(int64_t apart) {
        double number = double(apart);
        int64_t bits;
        std::memcpy(&bits, &number, sizeof bits);
        return (bits >> CELL_BITS) - (int64_t(1023) << 3);
    }

    // Whether no cell holds two bounds.
    bool set(const int64_t* bound, int64_t count) {
        for (int64_t c = 0, next = 0; c < CELLS; ++c) {
            below[c] = uint8_t(next), bounds[c] = std::numeric_limits<int64_t>::max();
            if (next < count && cell(bound[next]) == c) bounds[c] = bound[next];
            while (next < count && bound[next] == bounds[c]) ++next;
            above[c] = uint8_t(next);
            if (next < count && cell(bound[next]) <= c) return false;
        }
        return true;
    }

    uint8_t operator()(int64_t difference) const {
        int64_t apart = std::abs(difference), c = cell(std::max<int64_t>(1, apart));
        return apart >= bounds[c] ? above[c] : below[c];
    }
};

}  // namespace

// The forward pass, or the other if there is a gradient of its result. 0; 1 if memory ran out.
extern "C" int hstu_attention(const Problem* problem) {
    const Problem& p = *problem;
    try {
        Sizes sizes(p);
        std::atomic<int64_t> next{0};
        spread(p.threads, p.threads, [&](int64_t) {
            Scratch scratch(sizes);
            for (int64_t number; (number = next.fetch_add(1)) < p.histories;) {
                History history(sizes, scratch, number);
                p.to_gated ? history.backward() : history.forward();
            }
        });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// The time bucket of each pair of a history's query and a key not after it, in the order of `Problem.buckets`. 0; 1 if memory ran
// out, 2 if bounds are too close together.
extern "C" int time_buckets(int64_t histories, int64_t threads, const int64_t* offsets, const int64_t* seen_at,
                            const int64_t* happened_at, const int64_t* bounds, int64_t count, uint8_t* to) {
    Buckets bucket;
    if (!bucket.set(bounds, count)) return 2;
    try {
        std::vector<uint8_t*> starts;
        for (int64_t b = 0; b < histories; ++b) {
            int64_t length = offsets[b + 1] - offsets[b];
            starts.push_back(to), to += length * (length + 1) / 2;
        }
        spread(threads, histories, [&](int64_t b) {
            uint8_t* next = starts[b];
            for (int64_t i = offsets[b]; i < offsets[b + 1]; ++i)
                for (int64_t j = offsets[b]; j <= i; ++j) *next++ = bucket(seen_at[i] - happened_at[j]);
        });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
