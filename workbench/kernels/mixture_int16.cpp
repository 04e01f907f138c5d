// Scores of Mixture-of-Logits from components and gate weights in int16, with how far each can be off.
//
// Items are the lanes, as in mixture.cpp. All matrix products are sums of int16 products in int32 (VNNI: twice as many to an
// instruction as of floats), which are exact: mixture_int16.py chooses the scales so that none overflows, and derives the
// error from what was rounded before and after them. What lies between the products is float arithmetic.

#include <atomic>
#include <limits>
#include <new>
#include <vector>

#include "simd.h"
#include "parallel_for.h"

extern "C" {

// What Python hands over; the fields and their order are those of `_Screen` in mixture_int16.py.
struct Screen {
    int64_t queries, items, query_groups, item_groups;  // B, N, Pq, Px
    int64_t width, hidden;                              // pairs of int16: ⌈d / 2⌉; hidden units of the gate, even
    int64_t threads;
    const int32_t* query_components;                    // (B, Pq, width) pairs
    const int32_t* item_components;                     // (tiles, Px, width, ITEMS) pairs
    const float *query_gate, *item_gate;                // (B, P), (N, P); either may be null
    const int32_t *first, *last;                        // (hidden, ⌈P / 2⌉), (P, hidden / 2) pairs
    const float *first_scale, *first_bias;              // (hidden)
    const float *last_scale, *last_bias;                // (P)
    const float *logit_step, *hidden_step;              // (B): what 1 means, of a component score and of a hidden unit
    const float *slope, *offset;                        // (B): the error is slope · |π (s − φ)| + offset
    float *lower, *upper;                               // (B, N)
};
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

namespace {

constexpr int64_t ALIGNMENT = 64;
constexpr int32_t HALF = 1 << 15;  // component scores are rounded to their upper 16 bits
constexpr uint32_t ODD = 0xAAAAAAAA;  // the upper int16 of each lane

inline __m512i loaded(const void* from) { return _mm512_loadu_si512(from); }

template <int ROWS>
inline void block_dots(const int32_t* packed_rows, int64_t columns, const int32_t* tile, int32_t start, int32_t* to,
                       int64_t stride) {
    __m512i sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = _mm512_set1_epi32(start);
    for (int64_t k = 0; k < columns; ++k) {
        __m512i x[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) x[v] = loaded(tile + k * ITEMS + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            __m512i weight = _mm512_set1_epi32(packed_rows[k * ROWS + r]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sums[r][v] = _mm512_dpwssd_epi32(sums[r][v], weight, x[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) _mm512_storeu_si512(to + r * stride + v * LANES, sums[r][v]);
}

// to[row · stride] = start + matrix · tile, for a packed matrix (rows, columns) of pairs and a tile (columns, ITEMS).
void dots(const int32_t* packed_rows, int64_t rows, int64_t columns, const int32_t* tile, int32_t start, int32_t* to,
          int64_t stride) {
    for (int64_t row = 0; row < rows;) {
        int together = rows_at_once(rows - row);
        const int32_t* from = packed_rows + row * columns;
        int32_t* here = to + row * stride;
        switch (together) {
            case 8: block_dots<8>(from, columns, tile, start, here, stride); break;
            case 4: block_dots<4>(from, columns, tile, start, here, stride); break;
            case 2: block_dots<2>(from, columns, tile, start, here, stride); break;
            default: block_dots<1>(from, columns, tile, start, here, stride);
        }
        row += together;
    }
}

// 1 / (1 + 2^y), relative error below 1.5e-4: 2^y by the cubic of least relative error (7.5e-5), 14 bits of the reciprocal.
inline __m512 rough_logistic(__m512 y) {
    __m512 whole = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_sub_ps(y, whole);
    __m512 p = _mm512_set1_ps(5.517166906e-2f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.426111222e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.932609855e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.999280735e-1f));
    return _mm512_rcp14_ps(_mm512_add_ps(_mm512_scalef_ps(p, whole), _mm512_set1_ps(1.0f)));
}

struct Work {
    const Screen& p;
    int64_t components, pairs, tiles, query_length;
    std::vector<int32_t> queries, first, last;  // packed
    std::atomic<int64_t> next{0};

    Work(const Screen& problem) : p(problem) {
        components = p.query_groups * p.item_groups;
        pairs = (components + 1) / 2;
        tiles = (p.items + ITEMS - 1) / ITEMS;
        query_length = p.query_groups * p.width;
        queries.resize(p.queries * query_length);
        for (int64_t b = 0; b < p.queries; ++b)
            packed(p.query_components + b * query_length, p.query_groups, p.width, &queries[b * query_length]);
        first.resize(p.hidden * pairs);
        packed(p.first, p.hidden, pairs, first.data());
        last.resize(components * p.hidden / 2);
        packed(p.last, components, p.hidden / 2, last.data());
    }

    // Numbers of 4 bytes that one thread needs.
    int64_t scratch() const {
        return ITEMS * (2 * components + 1 + pairs + p.hidden / 2 + std::max(p.hidden, components)) + 4 * p.hidden;
    }

    void run(float* scratch) {
        float* gates = scratch;                                               // (P, ITEMS)
        auto* logits = reinterpret_cast<int32_t*>(gates + ITEMS * components);  // (P, ITEMS), and one row of zeros
        int32_t* inputs = logits + ITEMS * (components + 1);                  // (⌈P / 2⌉, ITEMS) pairs
        int32_t* units = inputs + ITEMS * pairs;                              // (hidden / 2, ITEMS) pairs
        int32_t* sums = units + ITEMS * p.hidden / 2;                         // (hidden or P, ITEMS)
        auto* scales = reinterpret_cast<float*>(sums + ITEMS * std::max(p.hidden, components));  // (4, hidden)
        std::fill(logits + ITEMS * components, inputs, 0);
        for (int64_t tile; (tile = next.fetch_add(1)) < tiles;) {
            int64_t start = tile * ITEMS, valid = std::min<int64_t>(ITEMS, p.items - start);
            const int32_t* items = p.item_components + tile * p.item_groups * p.width * ITEMS;
            if (p.item_gate) {
                const float* from[ITEMS];
                for (int64_t i = 0; i < ITEMS; ++i) from[i] = p.item_gate + (start + std::min(i, valid - 1)) * components;
                transposed(from, components, gates);
            }
            for (int64_t b = 0; b < p.queries; ++b) {
                for (int64_t j = 0; j < p.item_groups; ++j)  // component i · Px + j
                    dots(&queries[b * query_length], p.query_groups, p.width, items + j * p.width * ITEMS, HALF,
                         logits + j * ITEMS, p.item_groups * ITEMS);
                for (int64_t c = 0; c < pairs; ++c)
                    for (int v = 0; v < VECTORS; ++v) {
                        const int32_t* from = logits + 2 * c * ITEMS + v * LANES;
                        __m512i even = _mm512_srli_epi32(loaded(from), 16), odd = loaded(from + ITEMS);
                        _mm512_storeu_si512(inputs + c * ITEMS + v * LANES, _mm512_mask_blend_epi16(ODD, even, odd));
                    }
                dots(first.data(), p.hidden, pairs, inputs, 0, sums, ITEMS);
                hidden_units(b, sums, units, scales);
                dots(last.data(), components, p.hidden / 2, units, 0, sums, ITEMS);
                Vector low[VECTORS], high[VECTORS];
                mixed(b, gates, logits, sums, low, high);
                std::memcpy(p.lower + b * p.items + start, low, valid * sizeof(float));
                std::memcpy(p.upper + b * p.items + start, high, valid * sizeof(float));
            }
        }
    }

    // SiLU of the sums in float, and back to int16: two rows to a row of pairs.
    void hidden_units(int64_t b, const int32_t* sums, int32_t* units, float* scales) const {
        float *slope = scales, *shift = scales + p.hidden, *unit = shift + p.hidden, *unit_shift = unit + p.hidden;
        float input_step = p.logit_step[b] * 65536.0f, inverse = 1.0f / p.hidden_step[b];
        for (int64_t j = 0; j < p.hidden; ++j) {
            float scale = p.first_scale[j] * input_step, bias = p.first_bias[j];
            slope[j] = -1.44269504f * scale;
            shift[j] = -1.44269504f * bias;
            unit[j] = scale * inverse;
            unit_shift[j] = bias * inverse;
        }
        for (int64_t j = 0; j < p.hidden; j += 2)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) {
                __m512i two[2];
#pragma GCC unroll 2
                for (int s = 0; s < 2; ++s) {
                    __m512 sum = _mm512_cvtepi32_ps(loaded(sums + (j + s) * ITEMS + v * LANES));
                    __m512 y = _mm512_fmadd_ps(sum, _mm512_set1_ps(slope[j + s]), _mm512_set1_ps(shift[j + s]));
                    __m512 z = _mm512_fmadd_ps(sum, _mm512_set1_ps(unit[j + s]), _mm512_set1_ps(unit_shift[j + s]));
                    two[s] = _mm512_cvtps_epi32(_mm512_mul_ps(z, rough_logistic(y)));
                }
                __m512i both = _mm512_mask_blend_epi16(ODD, two[0], _mm512_slli_epi32(two[1], 16));
                _mm512_storeu_si512(units + j / 2 * ITEMS + v * LANES, both);
            }
    }

    // The mixture, less and plus its error; the gate takes the place of the sums.
    void mixed(int64_t b, const float* gates, const int32_t* logits, int32_t* sums, Vector (&low)[VECTORS],
               Vector (&high)[VECTORS]) const {
        const float* of_query = p.query_gate ? p.query_gate + b * components : nullptr;
        auto* weights = reinterpret_cast<float*>(sums);
        float step = p.hidden_step[b];
        Vector most[VECTORS], powers[VECTORS] = {}, totals[VECTORS] = {}, off[VECTORS] = {};
        for (int v = 0; v < VECTORS; ++v) most[v] = all(-std::numeric_limits<float>::infinity());
        for (int64_t c = 0; c < components; ++c) {
            float scale = p.last_scale[c] * step;
            for (int v = 0; v < VECTORS; ++v) {
                float* at = weights + c * ITEMS + v * LANES;
                Vector a = (Vector)_mm512_cvtepi32_ps(loaded(at)) * scale + p.last_bias[c];
                if (p.item_gate) {
                    Vector of_item = load<Vector>(gates + c * ITEMS + v * LANES);
                    a += of_query ? of_query[c] * of_item : of_item;
                } else if (of_query) {
                    a += of_query[c];
                }
                a *= sigmoid(a);
                most[v] = larger(a, most[v]);
                store(at, a);
            }
        }
        for (int64_t c = 0; c < components; ++c)
            for (int v = 0; v < VECTORS; ++v) {
                float* at = weights + c * ITEMS + v * LANES;
                Vector power = exponential(load<Vector>(at) - most[v]);
                store(at, power);
                powers[v] += power;
                totals[v] += power * (Vector)_mm512_cvtepi32_ps(loaded(logits + c * ITEMS + v * LANES));
            }
        for (int v = 0; v < VECTORS; ++v) totals[v] /= powers[v];
        for (int64_t c = 0; c < components; ++c)
            for (int v = 0; v < VECTORS; ++v) {
                Vector s = (Vector)_mm512_cvtepi32_ps(loaded(logits + c * ITEMS + v * LANES));
                Vector moved = load<Vector>(weights + c * ITEMS + v * LANES) * (s - totals[v]);
                off[v] += moved * moved;
            }
        for (int v = 0; v < VECTORS; ++v) {
            Vector score = (totals[v] - float(HALF)) * p.logit_step[b];
            Vector root = (Vector)_mm512_sqrt_ps((__m512)off[v]) / powers[v];
            Vector error = root * (p.logit_step[b] * p.slope[b]) + p.offset[b];
            low[v] = score - error;
            high[v] = score + error;
        }
    }
};

}  // namespace

// 0; 1 if memory ran out.
extern "C" int mixture_int16(const Screen* problem) {
    try {
        Work work(*problem);
        double operations = 2.0 * work.tiles * ITEMS * problem->queries * work.components *
                            (2 * problem->width + 2.0 * std::max<int64_t>(problem->hidden, 8));
        int64_t threads = std::min({problem->threads, work.tiles, int64_t(1 + operations / 4e7)});
        threads = std::max<int64_t>(threads, 1);
        int64_t each = (work.scratch() + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
        std::vector<float> memory(each * threads + ALIGNMENT);
        auto address = reinterpret_cast<uintptr_t>(memory.data());
        float* scratch = memory.data() + (ALIGNMENT - address % ALIGNMENT) % ALIGNMENT / sizeof(float);
        spread(threads, threads, [&](int64_t t) { work.run(scratch + t * each); });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
extern "C" int64_t items_of_a_tile() { return ITEMS; }

#else

extern "C" int mixture_int16(const Screen*) { return 2; }
extern "C" int64_t items_of_a_tile() { return 0; }

#endif

extern "C" int64_t interface_version() { return 1; }
