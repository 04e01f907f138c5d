// Scores of Mixture-of-Logits on a CPU: component logits, gate and mixture of one tile of items at a time.
//
// Items are the lanes of the vectors: a tile of ITEMS of them is transposed once, to one row per component
// coordinate, and serves every query. All sums (over the coordinates of a component, the inputs of a layer of the gate,
// the components of a pair) then run down the rows, one multiply-add after the other, so that the score of a pair is the
// same bits wherever in a tile, a batch or a corpus it stands, and there are no sums across lanes.
//
// Written with the vector types of GCC and Clang: the compiler takes what the processor has (AVX-512, AVX2, NEON, SSE).
// Built without -ffast-math: NaN and infinite values must come through.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_ROWS = 8;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_ROWS = 4;
#elif defined(__aarch64__)
constexpr int LANES = 4, TILE_ROWS = 8;
#else
constexpr int LANES = 4, TILE_ROWS = 4;
#endif
constexpr int VECTORS = 3;  // TILE_ROWS × VECTORS sums live in registers
constexpr int ITEMS = VECTORS * LANES;
constexpr int64_t ALIGNMENT = 64;
constexpr int64_t HELD = ITEMS + 2 * LANES;  // a tile, what a vector adds to it, and what is written past that
constexpr int64_t CHUNK = 32;  // queries whose pairs above a floor are held at the same time

typedef float Vector __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t Unsigned __attribute__((vector_size(4 * LANES), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), may_alias));

inline Vector all(float value) { return value - Vector{}; }  // value + 0 would be an addition: -0 + 0 is 0

template <typename V>
inline V load(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Vector value) { std::memcpy(to, &value, sizeof value); }

// Where the processor has it, an instruction; a NaN stays.
inline Vector at_most(Vector x, float most) {
#if defined(__AVX512F__)
    return (Vector)_mm512_min_ps((__m512)all(most), (__m512)x);
#else
    return x > most ? all(most) : x;
#endif
}

// 1 / x for 1 <= x < 2^127.
inline Vector reciprocal(Vector x) {
#if defined(__AVX512F__)
    // 14 bits and one step of Newton's: a division takes four times as long.
    Vector r = (Vector)_mm512_rcp14_ps((__m512)x);
    return r + r * (1.0f - x * r);
#else
    return 1.0f / x;
#endif
}

// e^x for x <= 88: as 2^(n + r), n whole and |r| <= 1/2, 2^r by the polynomial of least relative error (9e-8). Relative
// error below 3e-7 where |x| <= 10, and 2e-8 |x| more beyond; 0 far below -87; NaN stays.
inline Vector exponential(Vector x) {
    const float to_base_2 = 1.44269504f;
#if defined(__AVX512F__)
    Vector whole = (Vector)_mm512_roundscale_ps((__m512)(x * to_base_2), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    x = x < -88.0f ? all(-88.0f) : x;
    const float magic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number, kept in the low bits
    Vector shifted = x * to_base_2 + magic;
    Vector whole = shifted - magic;
#endif
    Vector r = x * to_base_2 - whole;
    Vector p = all(1.326472725e-3f);
    p = p * r + 9.671512688e-3f;
    p = p * r + 5.550733744e-2f;
    p = p * r + 2.402224208e-1f;
    p = p * r + 6.931469776e-1f;
    p = p * r + 1.0f;
#if defined(__AVX512F__)
    return (Vector)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    return p * (Vector)(((Integers)shifted - 0x4B400000 + 127) << 23);
#endif
}

inline Vector sigmoid(Vector x) { return reciprocal(1.0f + exponential(at_most(-x, 88.0f))); }

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// ---- transposing items into lanes

inline Vector widened(const float* from) { return load<Vector>(from); }

inline Vector widened(const uint16_t* from) {  // bfloat16: the upper half of a float
    return (Vector)(__builtin_convertvector(load<Halves>(from), Unsigned) << 16);
}

inline float widened_one(float value) { return value; }

inline float widened_one(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// Where a lane of `interleaved` comes from: below LANES from a, else from b.
constexpr int origin(int distance, bool first, int lane) {
    if (first) return (lane & distance) ? LANES + lane - distance : lane;
    return (lane & distance) ? LANES + lane : lane + distance;
}

// Half of the lanes of a and half of those of b: the even and the odd blocks of DISTANCE lanes.
template <int DISTANCE, bool FIRST, int... LANE>
inline Vector interleaved(Vector a, Vector b, std::integer_sequence<int, LANE...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, origin(DISTANCE, FIRST, LANE)...);
#else
    return __builtin_shuffle(a, b, Integers{origin(DISTANCE, FIRST, LANE)...});
#endif
}

template <int DISTANCE>
inline void transpose_step(Vector (&rows)[LANES]) {
    if constexpr (DISTANCE < LANES) {
        constexpr auto lanes = std::make_integer_sequence<int, LANES>();
#pragma GCC unroll 16
        for (int row = 0; row < LANES; ++row)
            if (!(row & DISTANCE)) {
                Vector a = rows[row], b = rows[row + DISTANCE];
                rows[row] = interleaved<DISTANCE, true>(a, b, lanes);
                rows[row + DISTANCE] = interleaved<DISTANCE, false>(a, b, lanes);
            }
        transpose_step<2 * DISTANCE>(rows);
    }
}

// to[length][ITEMS] = the rows `from[0..ITEMS)`, transposed and as float.
template <typename T>
void transposed(const T* const* from, int64_t length, float* to) {
    int64_t whole = length - length % LANES;
    for (int64_t group = 0; group < ITEMS; group += LANES) {
        for (int64_t k = 0; k < whole; k += LANES) {
            Vector rows[LANES];
#pragma GCC unroll 16
            for (int row = 0; row < LANES; ++row) rows[row] = widened(from[group + row] + k);
            transpose_step<1>(rows);
#pragma GCC unroll 16
            for (int row = 0; row < LANES; ++row) store(to + (k + row) * ITEMS + group, rows[row]);
        }
        for (int64_t k = whole; k < length; ++k)
            for (int row = 0; row < LANES; ++row) to[k * ITEMS + group + row] = widened_one(from[group + row][k]);
    }
}

// ---- products of a small matrix with a tile

int rows_at_once(int64_t left) {
    int rows = TILE_ROWS;
    while (rows > left) rows /= 2;
    return rows;
}

// A matrix (rows, columns) in blocks of rows_at_once() rows, each block column by column.
void packed(const float* matrix, int64_t rows, int64_t columns, float* to) {
    for (int64_t row = 0; row < rows;) {
        int together = rows_at_once(rows - row);
        for (int64_t k = 0; k < columns; ++k)
            for (int r = 0; r < together; ++r) *to++ = matrix[(row + r) * columns + k];
        row += together;
    }
}

template <int ROWS>
inline void block_product(const float* packed_rows, const float* bias, int64_t columns, const float* tile, float* to,
                          int64_t stride) {
    Vector sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = all(bias ? bias[r] : 0.0f);
    for (int64_t k = 0; k < columns; ++k) {
        Vector x[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) x[v] = load<Vector>(tile + k * ITEMS + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            Vector weight = all(packed_rows[k * ROWS + r]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sums[r][v] += weight * x[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) store(to + r * stride + v * LANES, sums[r][v]);
}

// to[row · stride] = bias + matrix · tile, for a packed matrix (rows, columns) and a tile (columns, ITEMS).
void product(const float* packed_rows, const float* bias, int64_t rows, int64_t columns, const float* tile, float* to,
             int64_t stride) {
    for (int64_t row = 0; row < rows;) {
        int together = rows_at_once(rows - row);
        const float* from = packed_rows + row * columns;
        const float* shift = bias ? bias + row : nullptr;
        float* here = to + row * stride;
        switch (together) {
            case 8: block_product<8>(from, shift, columns, tile, here, stride); break;
            case 4: block_product<4>(from, shift, columns, tile, here, stride); break;
            case 2: block_product<2>(from, shift, columns, tile, here, stride); break;
            default: block_product<1>(from, shift, columns, tile, here, stride);
        }
        row += together;
    }
}

}  // namespace

extern "C" {

// What Python hands over; the fields and their order are those of `_Problem` in mixture_native.py.
struct Problem {
    int64_t queries, items, candidates;               // B, N, C (0: every item)
    int64_t query_groups, item_groups, width;         // Pq, Px, d
    int64_t hidden;                                   // of the pair gate; 0: linear, -1: none
    int64_t combination;                              // 0: glu_silu, 1: glu_silu_ln, 2: sum
    int64_t components_half, gate_half;               // bfloat16 instead of float
    int64_t threads;
    const float* query_components;                    // (B, Pq, d)
    const float* query_gate;                          // (B, P) or null
    const void* item_components;                      // (N, Px, d)
    const void* item_gate;                            // (N, P) or null
    const float *first_weight, *first_bias;           // (hidden, P), (hidden); null where there is no hidden layer
    const float *last_weight, *last_bias;             // (P, hidden or P), (P); null where there is no pair gate
    const int64_t* rows;                              // (B, C) or null
    const float* floors;                              // (B) or null: pairs whose largest logit is below score -inf
    float* scores;                                    // (B, N) or (B, C)
};
}

namespace {

struct Work {
    const Problem& p;
    bool maxima;  // the largest component score in the place of the mixture
    int64_t components, row_length, tiles, group;
    std::vector<float> queries, first, last;  // packed
    std::atomic<int64_t> next{0};

    Work(const Problem& problem, bool maxima) : p(problem), maxima(maxima) {
        components = p.query_groups * p.item_groups;
        row_length = p.item_groups * p.width;
        tiles = ((p.rows ? p.candidates : p.items) + ITEMS - 1) / ITEMS;
        // Tiles in a unit of work above floors: many, so that few lanes are left over; a few units for each thread.
        group = std::max<int64_t>(8, std::min<int64_t>(256, tiles / (3 * std::max<int64_t>(p.threads, 1)) + 1));
        int64_t query_length = p.query_groups * p.width;
        queries.resize(p.queries * query_length);
        for (int64_t b = 0; b < p.queries; ++b)
            packed(p.query_components + b * query_length, p.query_groups, p.width, &queries[b * query_length]);
        if (maxima || p.hidden < 0) return;
        if (p.hidden > 0) {
            first.resize(p.hidden * components);
            packed(p.first_weight, p.hidden, components, first.data());
        }
        int64_t inputs = p.hidden > 0 ? p.hidden : components;
        last.resize(components * inputs);
        packed(p.last_weight, components, inputs, last.data());
    }

    int64_t units() const {
        if (p.floors) return (tiles + group - 1) / group * ((p.queries + CHUNK - 1) / CHUNK);
        return p.rows ? p.queries * tiles : tiles;
    }

    // Floats that one thread needs: the transposed items and their gates, the logits, the hidden units, the gate.
    int64_t scratch() const {
        int64_t least = ITEMS * (row_length + 3 * components + std::max<int64_t>(p.hidden, 0));
        return p.floors ? least + 2 * components * (ITEMS + CHUNK * HELD) : least;
    }

    template <typename T>
    void gather(const void* table, int64_t length, const int64_t* chosen, float* to) const {
        const T* from[ITEMS];
        for (int i = 0; i < ITEMS; ++i) from[i] = static_cast<const T*>(table) + chosen[i] * length;
        transposed(from, length, to);
    }

    void start(float* scratch) {
        if (p.floors) run_above(scratch);
        else run(scratch);
    }

    void run(float* scratch) {
        float* tile = scratch;
        float* gates = tile + ITEMS * row_length;
        float* logits = gates + ITEMS * components;
        float* weights = logits + ITEMS * components;
        float* hidden = weights + ITEMS * components;
        int64_t total = units(), columns = p.rows ? p.candidates : p.items;
        for (int64_t unit; (unit = next.fetch_add(1)) < total;) {
            int64_t start = (p.rows ? unit % tiles : unit) * ITEMS;
            int64_t valid = std::min<int64_t>(ITEMS, columns - start);
            int64_t first_query = p.rows ? unit / tiles : 0;
            int64_t last_query = p.rows ? first_query + 1 : p.queries;
            int64_t chosen[ITEMS];
            for (int64_t i = 0; i < ITEMS; ++i) {  // the last item again fills an incomplete tile
                int64_t column = start + std::min(i, valid - 1);
                chosen[i] = p.rows ? p.rows[first_query * columns + column] : column;
            }
            if (p.components_half) gather<uint16_t>(p.item_components, row_length, chosen, tile);
            else gather<float>(p.item_components, row_length, chosen, tile);
            if (p.item_gate && !maxima) {
                if (p.gate_half) gather<uint16_t>(p.item_gate, components, chosen, gates);
                else gather<float>(p.item_gate, components, chosen, gates);
            }
            for (int64_t b = first_query; b < last_query; ++b) {
                const float* query = &queries[b * p.query_groups * p.width];
                for (int64_t j = 0; j < p.item_groups; ++j)  // component i · Px + j
                    product(query, nullptr, p.query_groups, p.width, tile + j * p.width * ITEMS, logits + j * ITEMS,
                            p.item_groups * ITEMS);
                Vector scores[VECTORS];
                if (maxima) largest(logits, scores);
                else mixed(b, logits, gates, weights, hidden, scores);
                float* to = p.scores + b * columns + start;
                if (valid == ITEMS) std::memcpy(to, scores, sizeof scores);
                else std::memcpy(to, scores, valid * sizeof(float));
            }
        }
    }

    // The pairs whose largest component score reaches the floor of the query, or is NaN: their logits and gates are held
    // together, out of one tile after the other, until they fill a tile of which every lane is needed.
    void run_above(float* scratch) {
        float* tile = scratch;
        float* gates = tile + ITEMS * row_length;
        float* logits = gates + ITEMS * components;
        float* full = logits + ITEMS * components;  // (2 · components, ITEMS)
        float* weights = full + 2 * ITEMS * components;
        float* hidden = weights + ITEMS * components;
        float* held = hidden + ITEMS * std::max<int64_t>(p.hidden, 0);  // (CHUNK, 2 · components, HELD): logits, gates
        int64_t total = units(), groups = (tiles + group - 1) / group, size = 2 * components * HELD;
        int64_t kept_rows = p.item_gate ? 2 * components : components;
        std::fill(held, held + CHUNK * size, 0.0f);
        std::fill(full, weights, 0.0f);
        std::vector<int64_t> columns(CHUNK * (ITEMS + LANES)), counts(CHUNK);
        for (int64_t unit; (unit = next.fetch_add(1)) < total;) {
            int64_t first_query = unit / groups * CHUNK, last_query = std::min(p.queries, first_query + CHUNK);
            int64_t first = unit % groups * group, last = std::min(tiles, first + group);
            std::fill(counts.begin(), counts.end(), 0);
            auto score_held = [&](int64_t b, int64_t number) {  // the first of what is held; the rest moves up
                float* mine = held + (b - first_query) * size;
                int64_t* column = &columns[(b - first_query) * (ITEMS + LANES)];
                int64_t& count = counts[b - first_query];
                for (int64_t c = 0; c < kept_rows; ++c) {
                    std::memcpy(full + c * ITEMS, mine + c * HELD, ITEMS * sizeof(float));
                    store(mine + c * HELD, load<Vector>(mine + c * HELD + ITEMS));
                }
                Vector scores[VECTORS];
                mixed(b, full, full + ITEMS * components, weights, hidden, scores);
                float values[ITEMS];
                std::memcpy(values, scores, sizeof scores);
                for (int64_t i = 0; i < number; ++i) p.scores[b * p.items + column[i]] = values[i];
                for (int64_t i = number; i < count; ++i) column[i - number] = column[i];
                count -= number;
            };
            for (int64_t t = first; t < last; ++t) {
                int64_t chosen[ITEMS];
                for (int64_t i = 0; i < ITEMS; ++i) chosen[i] = std::min(t * ITEMS + i, p.items - 1);
                if (p.components_half) gather<uint16_t>(p.item_components, row_length, chosen, tile);
                else gather<float>(p.item_components, row_length, chosen, tile);
                if (p.item_gate) {
                    if (p.gate_half) gather<uint16_t>(p.item_gate, components, chosen, gates);
                    else gather<float>(p.item_gate, components, chosen, gates);
                }
                for (int64_t b = first_query; b < last_query; ++b) {
                    float* to = p.scores + b * p.items;
                    float* mine = held + (b - first_query) * size;
                    int64_t* column = &columns[(b - first_query) * (ITEMS + LANES)];
                    int64_t& count = counts[b - first_query];
                    const float* query = &queries[b * p.query_groups * p.width];
                    for (int64_t j = 0; j < p.item_groups; ++j)
                        product(query, nullptr, p.query_groups, p.width, tile + j * p.width * ITEMS, logits + j * ITEMS,
                                p.item_groups * ITEMS);
                    Vector most[VECTORS];
                    largest(logits, most);
                    for (int64_t v = 0; v < VECTORS; ++v) {
                        int64_t start = t * ITEMS + v * LANES;
                        int64_t valid = std::min<int64_t>(LANES, p.items - start);
                        uint32_t lanes = 0;
                        for (int64_t i = 0; i < valid; ++i) {
                            to[start + i] = -std::numeric_limits<float>::infinity();
                            lanes |= uint32_t(!(most[v][i] < p.floors[b])) << i;
                        }
                        if (!lanes) continue;
                        for (int64_t c = 0; c < components; ++c)
                            together(logits + c * ITEMS + v * LANES, lanes, mine + c * HELD + count);
                        if (p.item_gate)
                            for (int64_t c = 0; c < components; ++c)
                                together(gates + c * ITEMS + v * LANES, lanes, mine + (components + c) * HELD + count);
                        for (int64_t i = 0; i < LANES; ++i) {
                            column[count] = start + i;
                            count += lanes >> i & 1;
                        }
                        if (count >= ITEMS) score_held(b, ITEMS);
                    }
                }
            }
            for (int64_t b = first_query; b < last_query; ++b)
                if (counts[b - first_query]) score_held(b, counts[b - first_query]);
        }
    }

    // The chosen lanes of a vector side by side; up to LANES floats are written.
    static void together(const float* from, uint32_t lanes, float* to) {
#if defined(__AVX512F__)
        store(to, (Vector)_mm512_maskz_compress_ps(__mmask16(lanes), (__m512)load<Vector>(from)));
#else
        for (int i = 0; i < LANES; ++i) {
            *to = from[i];
            to += lanes >> i & 1;
        }
#endif
    }

    void largest(const float* logits, Vector (&scores)[VECTORS]) const {
        for (int v = 0; v < VECTORS; ++v) {
            Vector most = load<Vector>(logits + v * LANES), undefined = most;
            for (int64_t c = 1; c < components; ++c) {
                Vector s = load<Vector>(logits + c * ITEMS + v * LANES);
                most = larger(s, most);
                undefined = s == s ? undefined : s;  // a comparison would lose a NaN
            }
            scores[v] = undefined == undefined ? most : undefined;
        }
    }

    void mixed(int64_t query, const float* logits, const float* gates, float* weights, float* hidden,
               Vector (&scores)[VECTORS]) const {
        bool parts = p.query_gate || p.item_gate;
        if (p.hidden < 0 && !parts) {
            for (int v = 0; v < VECTORS; ++v) scores[v] = Vector{};
            for (int64_t c = 0; c < components; ++c)
                for (int v = 0; v < VECTORS; ++v) scores[v] += load<Vector>(logits + c * ITEMS + v * LANES);
            for (int v = 0; v < VECTORS; ++v) scores[v] /= float(components);
            return;
        }
        if (p.hidden > 0) {
            product(first.data(), p.first_bias, p.hidden, components, logits, hidden, ITEMS);
            for (int64_t i = 0; i < p.hidden * ITEMS; i += LANES) {
                Vector x = load<Vector>(hidden + i);
                store(hidden + i, x * sigmoid(x));
            }
            product(last.data(), p.last_bias, components, p.hidden, hidden, weights, ITEMS);
        } else if (p.hidden == 0) {
            product(last.data(), p.last_bias, components, components, logits, weights, ITEMS);
        } else {
            std::memset(weights, 0, sizeof(float) * components * ITEMS);
        }
        if (parts) join(query, gates, weights);
        activate(weights);
        Vector most[VECTORS], powers[VECTORS] = {}, sums[VECTORS] = {};
        for (int v = 0; v < VECTORS; ++v) most[v] = load<Vector>(weights + v * LANES);
        for (int64_t c = 1; c < components; ++c)
            for (int v = 0; v < VECTORS; ++v)
                most[v] = larger(load<Vector>(weights + c * ITEMS + v * LANES), most[v]);
        for (int64_t c = 0; c < components; ++c)
            for (int v = 0; v < VECTORS; ++v) {
                Vector power = exponential(load<Vector>(weights + c * ITEMS + v * LANES) - most[v]);
                powers[v] += power;
                sums[v] += power * load<Vector>(logits + c * ITEMS + v * LANES);
            }
        for (int v = 0; v < VECTORS; ++v) scores[v] = sums[v] / powers[v];
    }

    // weights += query part ⊙ item part, or + both for "sum".
    void join(int64_t query, const float* gates, float* weights) const {
        const float* of_query = p.query_gate ? p.query_gate + query * components : nullptr;
        for (int64_t c = 0; c < components; ++c)
            for (int v = 0; v < VECTORS; ++v) {
                float* to = weights + c * ITEMS + v * LANES;
                Vector a = load<Vector>(to);
                if (!p.item_gate) {
                    a += of_query[c];
                } else {
                    Vector of_item = load<Vector>(gates + c * ITEMS + v * LANES);
                    if (!of_query) a += of_item;
                    else if (p.combination == 2) a += of_query[c] + of_item;
                    else a += of_query[c] * of_item;
                }
                store(to, a);
            }
    }

    void activate(float* weights) const {
        if (p.combination == 0) {
            for (int64_t i = 0; i < components * ITEMS; i += LANES) {
                Vector a = load<Vector>(weights + i);
                store(weights + i, a * sigmoid(a));
            }
        } else if (p.combination == 1) {
            for (int v = 0; v < VECTORS; ++v) {
                Vector mean{}, variance{};
                for (int64_t c = 0; c < components; ++c) mean += load<Vector>(weights + c * ITEMS + v * LANES);
                mean /= float(components);
                for (int64_t c = 0; c < components; ++c) {
                    Vector off = load<Vector>(weights + c * ITEMS + v * LANES) - mean;
                    variance += off * off;
                }
                Vector scale = variance / float(components) + 1e-5f;
                for (int lane = 0; lane < LANES; ++lane) scale[lane] = 1.0f / std::sqrt(scale[lane]);
                for (int64_t c = 0; c < components; ++c) {
                    float* at = weights + c * ITEMS + v * LANES;
                    Vector a = load<Vector>(at);
                    store(at, a * sigmoid((a - mean) * scale));
                }
            }
        }
    }
};

int solve(const Problem& p, bool maxima) {
    if (p.rows)
        for (int64_t i = 0; i < p.queries * p.candidates; ++i)
            if (p.rows[i] < 0 || p.rows[i] >= p.items) return 2;
    try {
        Work work(p, maxima);
        // A thread is worth starting for some tenths of a millisecond of work.
        double pairs = double(work.tiles) * ITEMS * p.queries;
        double operations = 2.0 * pairs * work.components * (p.width + 2.0 * std::max<int64_t>(p.hidden, 8));
        int64_t threads = std::min({p.threads, work.units(), int64_t(1 + operations / 2e7)});
        threads = std::max<int64_t>(threads, 1);
        int64_t each = (work.scratch() + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
        std::vector<float> memory(each * threads + ALIGNMENT);
        auto address = reinterpret_cast<uintptr_t>(memory.data());
        float* scratch = memory.data() + (ALIGNMENT - address % ALIGNMENT) % ALIGNMENT / sizeof(float);
        std::vector<std::thread> others;
        others.reserve(threads);
        try {
            for (int64_t t = 1; t < threads; ++t)
                others.emplace_back([&work, scratch, each, t] { work.start(scratch + t * each); });
        } catch (const std::system_error&) {
            // Fewer threads than asked for: they, and this one, do all of it.
        }
        work.start(scratch);
        for (auto& other : others) other.join();
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

}  // namespace

// 0; 1 where memory ran out, 2 where a candidate is no row of the corpus.
extern "C" int mixture_scores(const Problem* problem) { return solve(*problem, false); }
extern "C" int component_maxima(const Problem* problem) { return solve(*problem, true); }
extern "C" int64_t interface_version() { return 2; }
