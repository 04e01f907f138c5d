// The rows of tables with the largest inner products, by products in int8 with a proved error, and in float32 of the few rows
// that these do not rule out.
//
// A tile of 48 vectors x is kept as I_x = round(x / s), s the largest |number| of the tile / 127, with r >= |x - s I_x| and
// m >= |x| of all of them; a query q is s' I_q, off by e. By Cauchy and Schwarz q · x is within |s' I_q| r + |e| m of
// s s' (I_q · I_x), whose sum is exact, and its float32 value within γ |q| m (and underflow) of q · x. Where s s' (I_q · I_x)
// plus all of these is below a float32 product that `wanted` rows reach, the row is none of the best. That is a comparison
// of whole numbers: the floor of a tile and a query is the start of its sums, so that their signs say what is left.
//
// The first floor of a list is a value that `wanted` rows reach with their errors taken off: of the sums of some thousand rows,
// which are held for that.
//
// Vectors are kept unsigned, 128 more than I_x, in strips of 16 vectors: four numbers of each side by side, as the
// instructions of VNNI take them; with AVX2 they are widened to 16 bits; elsewhere it is plain C++. All sums are the same.

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <vector>

#include "keys.h"
#include "simd.h"
#include "parallel_for.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

extern "C" {

// What Python hands over; the fields and their order are those of `_Table` and `_Scan` in product_scan.py.
struct Table {
    int64_t stride;         // from one row to the next, in numbers
    const void* vectors;    // (N, d), float or, where `Scan::half`, bfloat16
    const uint8_t* packed;  // (tiles, 3, ⌈d / 4⌉, 16, 4)
    const double* scales;   // (tiles, 3): s, r, m
};

struct Scan {
    int64_t queries, groups, items, width, half, count, ordered, per_excluded, excluded_each, instructions, threads;
    double rounding, underflow;    // a float32 product is within rounding · |q| |x| + underflow · (1 + |q| + |x|) of the exact one
    double norm;                   // at least the largest |x|
    const float* vectors;          // (Q, d)
    const Table* tables;           // G of them
    const int64_t* excluded;       // (Q / per_excluded, H) rows that are not listed, -1 for none, or null
    const uint8_t* allowed;        // (N) or null
    float* scores;                 // (Q, G, count), descending where `ordered`; -inf past the end
    int64_t* rows;                 // (Q, G, count), -1 past the end and where a product is -inf
    double* beyond;                // (Q, G), at least the largest exact product that is not listed, -inf where all are listed
    double* error;                 // (Q): how far a float32 product can be from the exact one
};
}

namespace {

constexpr int64_t STRIP = 16, STRIPS = 3, TILE = STRIPS * STRIP;
constexpr int64_t MOST = 8;                 // queries of a block
constexpr int64_t UNIT = 96;                // tiles that a thread takes at a time
constexpr int64_t FEWEST = 4;               // groups of rows for each row of a list, of whose maxima a first floor is taken
constexpr int64_t AHEAD = 16384;             // bytes of tiles that are on their way from memory
constexpr int64_t SHORT = 32;               // rows of a list for which no sample pays
constexpr double ABOVE = 1 + 1e-6;          // what norms are multiplied by, so that they stay upper bounds when they are rounded
constexpr int32_t FARTHEST = 1 << 30;       // beyond all sums
constexpr float NOT_LISTED = std::numeric_limits<float>::quiet_NaN();
constexpr double INFINITE = std::numeric_limits<double>::infinity();

int64_t quads(int64_t width) { return (width + 3) / 4; }

typedef float Sixteen __attribute__((vector_size(64), may_alias));
typedef int32_t Whole __attribute__((vector_size(64), may_alias));

inline void put(float* to, Sixteen values) { std::memcpy(to, &values, sizeof values); }

// ---- sums of products of 8 bits

// to (ROWS, TILE) = start + the sums of a block of queries with a tile; whether any is 0 or more. Only then is `to` written.
// `queries` (⌈d / 4⌉, ROWS) hold four numbers each: in 8 bits for VNNI, in 16 elsewhere.
using Sums = bool (*)(const uint8_t* tile, int64_t columns, const void* queries, const int32_t* start, int32_t* to);

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr bool VNNI = true;

template <int ROWS>
bool vnni(const uint8_t* tile, int64_t columns, const void* queries, const int32_t* start, int32_t* to) {
    auto* four = static_cast<const int32_t*>(queries);
    __m512i sums[ROWS][STRIPS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < STRIPS; ++v) sums[r][v] = _mm512_set1_epi32(start[r]);
    for (int64_t k = 0; k < columns; ++k) {
        __m512i x[STRIPS];
#pragma GCC unroll 3
        for (int v = 0; v < STRIPS; ++v) x[v] = _mm512_loadu_si512(tile + (v * columns + k) * 64);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            __m512i q = _mm512_set1_epi32(four[k * ROWS + r]);
#pragma GCC unroll 3
            for (int v = 0; v < STRIPS; ++v) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], x[v], q);
        }
    }
    __m512i negative = sums[0][0];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < STRIPS; ++v) negative = _mm512_and_si512(negative, sums[r][v]);
    if (_mm512_movepi32_mask(negative) == 0xffff) return false;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < STRIPS; ++v) _mm512_storeu_si512(to + r * TILE + v * STRIP, sums[r][v]);
    return true;
}
#else
constexpr bool VNNI = false;
template <int ROWS>
bool vnni(const uint8_t*, int64_t, const void*, const int32_t*, int32_t*) { return false; }
#endif

#if defined(__AVX2__)
constexpr bool AVX2 = true;

// Eight vectors of a strip with so many of a block's ROWS queries: two vectors of partial sums each.
template <int ROWS, int PART>
__m256i eight(const uint8_t* strip, int64_t columns, const int64_t* four, const int32_t* start, int32_t* to) {
    __m256i sums[PART][2];
#pragma GCC unroll 4
    for (int r = 0; r < PART; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (int64_t k = 0; k < columns; ++k) {
        const uint8_t* from = strip + k * 64;
        __m256i low = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
        __m256i high = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 16)));
#pragma GCC unroll 4
        for (int r = 0; r < PART; ++r) {
            __m256i q = _mm256_set1_epi64x(four[k * ROWS + r]);
            sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(low, q));
            sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(high, q));
        }
    }
    __m256i negative = _mm256_set1_epi32(-1);
#pragma GCC unroll 4
    for (int r = 0; r < PART; ++r) {
        __m256i pairs = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[r][0], sums[r][1]), 0xd8);
        __m256i sum = _mm256_add_epi32(pairs, _mm256_set1_epi32(start[r]));
        negative = _mm256_and_si256(negative, sum);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + r * TILE), sum);
    }
    return negative;
}

template <int ROWS>
bool avx2(const uint8_t* tile, int64_t columns, const void* queries, const int32_t* start, int32_t* to) {
    constexpr int PART = ROWS < 4 ? ROWS : 4;
    auto* four = static_cast<const int64_t*>(queries);
    __m256i negative = _mm256_set1_epi32(-1);
    for (int64_t half = 0; half < 2 * STRIPS; ++half) {
        const uint8_t* strip = tile + half / 2 * columns * 64 + half % 2 * 32;
        for (int r = 0; r < ROWS; r += PART)
            negative = _mm256_and_si256(
                negative, eight<ROWS, PART>(strip, columns, four + r, start + r, to + r * TILE + half * 8));
    }
    return _mm256_movemask_ps(_mm256_castsi256_ps(negative)) != 0xff;
}
#else
constexpr bool AVX2 = false;
template <int ROWS>
bool avx2(const uint8_t*, int64_t, const void*, const int32_t*, int32_t*) { return false; }
#endif

template <int ROWS>
bool plain(const uint8_t* tile, int64_t columns, const void* queries, const int32_t* start, int32_t* to) {
    auto* four = static_cast<const int16_t*>(queries);
    int32_t negative = -1;
    for (int r = 0; r < ROWS; ++r)
        for (int64_t i = 0; i < TILE; ++i) {
            int32_t sum = start[r];
            for (int64_t k = 0; k < columns; ++k)
                for (int64_t n = 0; n < 4; ++n)
                    sum += four[(k * ROWS + r) * 4 + n] * tile[((i / STRIP * columns + k) * STRIP + i % STRIP) * 4 + n];
            to[r * TILE + i] = sum;
            negative &= sum;
        }
    return negative >= 0;
}

enum Instructions { BEST, WITH_AVX2, WITHOUT };

bool takes_bytes(int64_t instructions) { return instructions == BEST && VNNI; }

Sums sums_of(int64_t rows, int64_t instructions) {
    int64_t way = instructions == BEST && VNNI ? 0 : instructions != WITHOUT && AVX2 ? 1 : 2;
    static const Sums all[3][4] = {{vnni<1>, vnni<2>, vnni<4>, vnni<8>},
                                   {avx2<1>, avx2<2>, avx2<4>, avx2<8>},
                                   {plain<1>, plain<2>, plain<4>, plain<8>}};
    return all[way][rows == 8 ? 3 : rows / 2];
}

// ---- queries in 8 bits

// What the floors of a query follow from, in arrays that are longer than there are queries, for whole vectors of them.
struct Queries {
    std::vector<double> of_rest, of_norm, constant, inverse;  // the error is of_rest · r + of_norm · m + constant
    std::vector<int32_t> start;                               // minus 128 times the sum of a query's numbers
    std::vector<int8_t> packed;                               // in blocks of queries: see `Sums`
    std::vector<int64_t> blocks;                              // the first query of each, and the end

    Queries(const Scan& p, const std::vector<int64_t>& chosen) {
        int64_t size = chosen.size(), columns = quads(p.width), bytes = takes_bytes(p.instructions) ? 4 : 8;
        for (auto* all : {&of_rest, &of_norm, &constant, &inverse}) all->assign(size + MOST, 0.0);
        start.assign(size + MOST, 0);
        packed.assign(size * columns * bytes, 0);
        for (int64_t first = 0; first < size;) {
            int64_t together = MOST;
            while (together > size - first) together /= 2;
            blocks.push_back(first);
            for (int64_t i = first; i < first + together; ++i)
                take(p, i, chosen[i], [&](int64_t k, int value) {
                    int64_t place = first * columns * 4 + ((k / 4) * together + i - first) * 4 + k % 4;
                    if (bytes == 4) packed[place] = int8_t(value);
                    else reinterpret_cast<int16_t*>(packed.data())[place] = int16_t(value);
                });
            first += together;
        }
        blocks.push_back(size);
    }

    template <typename Put>
    void take(const Scan& p, int64_t i, int64_t query, Put put) {
        const float* q = p.vectors + query * p.width;
        double peak = 0, length = 0, kept = 0, lost = 0;
        for (int64_t k = 0; k < p.width; ++k) peak = std::max(peak, std::isfinite(q[k]) ? std::fabs(double(q[k])) : INFINITE);
        double step = peak > 0 && peak < INFINITE ? peak / 127 : 1;
        for (int64_t k = 0; k < p.width; ++k) {
            int value = peak < INFINITE ? int(std::lrint(q[k] / step)) : 0;
            put(k, value);
            start[i] -= 128 * value;
            double rest = q[k] - step * value;
            length += double(q[k]) * q[k];
            kept += step * value * step * value;
            lost += rest * rest;
        }
        length = std::sqrt(length) * ABOVE;
        bool known = length * p.norm < std::numeric_limits<float>::max() / 4;  // no product may overflow, and all is finite
        double rounding = (p.rounding * length * p.norm + p.underflow * (1 + length + p.norm)) * ABOVE;
        p.error[query] = known ? rounding : INFINITE;
        of_rest[i] = std::sqrt(kept) * ABOVE;
        of_norm[i] = (std::sqrt(lost) + p.rounding * length + p.underflow) * ABOVE;
        constant[i] = p.underflow * (1 + length) * ABOVE;
        inverse[i] = 1 / step;
        if (!known) constant[i] = INFINITE;
    }

    // Sums below 0 are of rows whose float32 products are below the floors, for sums that start with `to`: (t - error) / (s s')
    // rounded down, and one less. -2^30, below all sums, where that is not a number.
    void starts(int64_t first, const double* floors, const double* scales, int32_t* to) const {
        double step = 1 / scales[0];
        for (int64_t i = 0; i < MOST; ++i) {
            double least = (floors[first + i] - error(first + i, scales)) * (inverse[first + i] * step);
            least = least > -FARTHEST ? least : -FARTHEST;
            least = least < FARTHEST ? least : FARTHEST;
            to[i] = start[first + i] - (int32_t(least) - 2);
        }
    }

    // How far the float32 product of a query and a row of a tile can be from s s' times its sum.
    double error(int64_t i, const double* scales) const { return of_rest[i] * scales[1] + of_norm[i] * scales[2] + constant[i]; }
};

uint32_t not_negative(const int32_t* sums) {  // of a strip
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
    return uint16_t(~_mm512_movepi32_mask(_mm512_loadu_si512(sums)));
#else
    uint32_t lanes = 0;
    for (int i = 0; i < STRIP; ++i) lanes |= uint32_t(sums[i] >= 0) << i;
    return lanes;
#endif
}

uint32_t reaching(const float* values, float least) {  // of a strip; NaN does not
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_set1_ps(least), _CMP_GE_OQ);
#else
    uint32_t lanes = 0;
    for (int i = 0; i < STRIP; ++i) lanes |= uint32_t(values[i] >= least) << i;
    return lanes;
#endif
}

// A value that at least `wanted` of these reach, and little more than these; -inf where fewer are above that.
float reached_by(const float* values, int64_t count, int64_t wanted) {
    auto above = [&](float least) {
        int64_t total = 0;
        for (int64_t i = 0; i < count; i += STRIP) total += __builtin_popcount(reaching(values + i, least));
        return total;
    };
    float low = std::numeric_limits<float>::max(), high = NOTHING;
    for (int64_t i = 0; i < count; ++i) {
        high = values[i] > high ? values[i] : high;
        low = values[i] < low && values[i] > NOTHING ? values[i] : low;
    }
    if (!(low < high) || above(low) < wanted) return NOTHING;
    for (int step = 0; step < 24; ++step) {
        float middle = low / 2 + high / 2;
        int64_t total = above(middle);
        if (total < wanted) high = middle;
        else low = middle;
        if (total >= wanted && total <= wanted + wanted / 8) break;
    }
    return low;
}

// ---- products in float32

inline Sixteen sixteen(const float* from) { return load<Sixteen>(from); }

inline Sixteen sixteen(const uint16_t* from) {
    typedef uint16_t Short __attribute__((vector_size(32), may_alias));
    typedef uint32_t Long __attribute__((vector_size(64), may_alias));
    return (Sixteen)(__builtin_convertvector(load<Short>(from), Long) << 16);
}

// The inner product of a query, with zeros up to a multiple of 16 numbers, and a row: in 16 sums, which are added in pairs.
template <typename T>
float inner_product(const float* query, const T* row, int64_t width) {
    Sixteen sums = {};
    int64_t k = 0;
    for (; k + 16 <= width; k += 16) sums += sixteen(query + k) * sixteen(row + k);
    if (k < width) {
        T rest[16] = {};
        std::memcpy(rest, row + k, (width - k) * sizeof(T));
        sums += sixteen(query + k) * sixteen(rest);
    }
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)sums);  // adds them in the same order
#else
    float halves[16];
    std::memcpy(halves, &sums, sizeof sums);
#pragma GCC unroll 4
    for (int half = 8; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) halves[i] += halves[i + half];
    return halves[0];
#endif
}

// ---- the search

struct Search {
    const Scan& p;
    int64_t tiles, columns, padded;
    std::vector<float> vectors;                   // (Q, padded)
    std::vector<std::vector<int64_t>> excluded;   // ascending
    std::vector<double> floors;                   // (G, Q)
    std::vector<std::vector<uint64_t>> found;     // (G, Q)
    std::mutex together;

    explicit Search(const Scan& p)
        : p(p), tiles((p.items + TILE - 1) / TILE), columns(quads(p.width)), padded((p.width + 15) / 16 * 16),
          vectors(p.queries * padded), floors(p.groups * p.queries, -INFINITE), found(p.groups * p.queries) {
        for (int64_t q = 0; q < p.queries; ++q)
            std::copy_n(p.vectors + q * p.width, p.width, &vectors[q * padded]);
        if (!p.excluded) return;
        for (int64_t b = 0; b < p.queries / p.per_excluded; ++b) {
            excluded.emplace_back(p.excluded + b * p.excluded_each, p.excluded + (b + 1) * p.excluded_each);
            std::sort(excluded[b].begin(), excluded[b].end());
        }
    }

    // Long lists take their first floor from a sample of the tiles; where it was too high, the query is done again without.
    void solve() {
        std::vector<int64_t> all(p.queries);
        for (int64_t q = 0; q < p.queries; ++q) all[q] = q;
        int64_t wanted = std::min(p.items, p.count + 1);
        // A denser sample costs more to look at and to score, a sparser one leaves more. In the time of scoring a row, a sum
        // takes 1 / 150 of it, the sample scores some 4 rows for each of its best, and its floor is off by 4 of its deviations.
        double costs = (p.items / 150.0 + 4 * wanted) / std::sqrt(double(wanted));
        int64_t step = std::min<int64_t>(std::cbrt(costs * costs), tiles / 8);
        bool sampled = wanted > SHORT && step > 3 && tiles > UNIT;
        if (sampled) {
            int64_t rank = wanted / step + 1;
            rank += 4 * int64_t(std::sqrt(double(rank)));
            run(all, step, rank);
            for (size_t list = 0; list < found.size(); ++list) {
                auto& keys = found[list];
                if (int64_t(keys.size()) >= rank) {
                    std::nth_element(keys.begin(), keys.begin() + rank - 1, keys.end(), std::greater<uint64_t>());
                    raise(floors[list], keys[rank - 1]);
                }
                keys.clear();
            }
        }
        run(all, 1, wanted);
        std::vector<int64_t> again;
        for (int64_t q = 0; sampled && q < p.queries; ++q) {
            bool short_of = false;
            for (int64_t g = 0; g < p.groups; ++g) short_of |= int64_t(found[g * p.queries + q].size()) < wanted;
            if (!short_of) continue;
            again.push_back(q);
            for (int64_t g = 0; g < p.groups; ++g) {
                floors[g * p.queries + q] = -INFINITE;
                found[g * p.queries + q].clear();
            }
        }
        if (!again.empty()) run(again, 1, wanted);
        spread(p.threads, p.queries, [&](int64_t q) {
            for (int64_t g = 0; g < p.groups; ++g) answer(q, g);
        });
    }

    static void raise(double& floor, uint64_t key) {
        float reached = score_of(key);
        if (reached > floor) floor = reached;  // not where it is NaN
    }

    // Keys of at least the `wanted` largest of each list, or of all there are: of every `step`-th tile.
    void run(const std::vector<int64_t>& chosen, int64_t step, int64_t wanted) {
        int64_t size = chosen.size(), units = (tiles + UNIT - 1) / UNIT, total = units * p.groups;
        Queries queries(p, chosen);
        std::atomic<int64_t> next{0};
        int64_t threads = std::min({p.threads, total, 1 + p.groups * p.items * size * p.width / 40000000});
        spread(threads, threads, [&](int64_t) {
            Part part(*this, chosen, wanted);
            for (int64_t unit; (unit = next.fetch_add(1)) < total;) {
                int64_t first = unit % units * UNIT, last = std::min(tiles, first + UNIT);
                part.look_at(queries, unit / units, (first + step - 1) / step * step, last, step);
            }
            part.finish();
        });
    }

    // What one thread does: for each list the best so far, ranked by float32 products, and the floor that `wanted` of them
    // reach. Rows to be scored wait in a queue while they are read from memory.
    struct Part {
        struct Row {
            int64_t g, i, row;
        };
        static constexpr int64_t QUEUE = 128;

        Search& all;
        const Scan& p;
        const std::vector<int64_t>& chosen;
        int64_t size, wanted, queued = 0, taken = 0;
        Row queue[QUEUE];
        std::vector<double> reached;
        std::vector<std::vector<uint64_t>> keys;
        // Of the rows of a unit and a block of queries: what their float32 products are at least, the maxima of groups of them,
        // and twice the error that was taken off in a tile.
        std::vector<float> least, maxima, twice;

        Part(Search& all, const std::vector<int64_t>& chosen, int64_t wanted)
            : all(all), p(all.p), chosen(chosen), size(chosen.size()), wanted(wanted),
              reached(p.groups * size + MOST, INFINITE), keys(p.groups * size) {
            for (int64_t g = 0; g < p.groups; ++g)
                for (int64_t i = 0; i < size; ++i) reached[g * size + i] = all.floors[g * p.queries + chosen[i]];
        }

        // Queue every row of some tiles that its sum does not rule out.
        void look_at(const Queries& queries, int64_t g, int64_t from, int64_t to, int64_t step) {
            std::vector<int64_t> blocks;  // of queries that have a floor
            for (size_t block = 0; block + 1 < queries.blocks.size() && from < to; ++block) {
                int64_t first = queries.blocks[block], count = queries.blocks[block + 1] - first;
                const double* floors = &reached[g * size + first];
                if (*std::min_element(floors, floors + count) > -INFINITE) blocks.push_back(block);
                else begin(queries, g, block, from, to, step);
            }
            if (blocks.empty()) return;
            for (int64_t t = from; t < to; t += step) {
                const uint8_t* tile = tile_of(g, t);
                for (int64_t b = 0; b < TILE * all.columns * 4; b += 64) __builtin_prefetch(tile + AHEAD + b);
                int32_t start[MOST], sums[MOST * TILE];
                for (int64_t block : blocks) {
                    int64_t first = queries.blocks[block], count = queries.blocks[block + 1] - first;
                    queries.starts(first, &reached[g * size], p.tables[g].scales + 3 * t, start);
                    if (!sum(queries, block, tile, start, sums)) continue;
                    for (int64_t i = 0; i < count; ++i)
                        for (int64_t v = 0; v < STRIPS; ++v)
                            for (uint32_t lanes = not_negative(sums + i * TILE + v * STRIP); lanes; lanes &= lanes - 1)
                                add(g, first + i, t * TILE + v * STRIP + __builtin_ctz(lanes));
                }
            }
        }

        const uint8_t* tile_of(int64_t g, int64_t t) const { return p.tables[g].packed + t * TILE * all.columns * 4; }

        bool sum(const Queries& queries, int64_t block, const uint8_t* tile, const int32_t* start, int32_t* to) const {
            int64_t first = queries.blocks[block], count = queries.blocks[block + 1] - first;
            const void* four = queries.packed.data() + first * all.columns * (takes_bytes(p.instructions) ? 4 : 8);
            return sums_of(count, p.instructions)(tile, all.columns, four, start, to);
        }

        // The same for a block of queries of which one has no floor: they get one that `wanted` of these rows reach.
        void begin(const Queries& queries, int64_t g, int64_t block, int64_t from, int64_t to, int64_t step) {
            int64_t first = queries.blocks[block], count = queries.blocks[block + 1] - first, tiles = (to - from + step - 1) / step;
            if (least.empty()) {
                int64_t rows = std::min(UNIT, all.tiles) * TILE;
                least.resize((MOST - 1) * UNIT * TILE + rows), maxima.resize(rows), twice.resize(MOST * UNIT);
            }
            int32_t start[MOST], sums[MOST * TILE];
            for (int64_t i = 0; i < count; ++i) start[i] = queries.start[first + i] + FARTHEST;  // none is below 0
            for (int64_t n = 0; n < tiles; ++n) {
                const double* scales = p.tables[g].scales + 3 * (from + n * step);
                sum(queries, block, tile_of(g, from + n * step), start, sums);
                for (int64_t i = 0; i < count; ++i) {
                    double error = queries.error(first + i, scales);
                    // Room for float arithmetic: relative to the largest product, and what underflows.
                    error += 1e-6 * (queries.of_rest[first + i] * (scales[1] + scales[2]) + error) + queries.constant[first + i];
                    Sixteen scale = Sixteen{} + float(scales[0] / queries.inverse[first + i]), less = Sixteen{} + float(error);
                    bool known = error < std::numeric_limits<float>::max();
                    twice[i * UNIT + n] = float(2 * error);
                    for (int64_t v = 0; v < STRIPS; ++v) {
                        auto whole = load<Whole>(sums + i * TILE + v * STRIP) - FARTHEST;
                        Sixteen product = __builtin_convertvector(whole, Sixteen) * scale - less;
                        put(&least[(i * UNIT + n) * TILE + v * STRIP], known ? product : Sixteen{} + NOTHING);
                    }
                }
            }
            int64_t together = std::max<int64_t>(1, tiles * TILE / (FEWEST * wanted)), groups = (tiles + together - 1) / together;
            for (int64_t i = 0; i < count; ++i) {
                float* mine = &least[i * UNIT * TILE];
                leave_out(mine, chosen[first + i], from, tiles, step);
                for (int64_t m = 0; m < groups; ++m)
                    for (int64_t v = 0; v < STRIPS; ++v) {
                        Sixteen most = Sixteen{} + NOTHING;
                        for (int64_t n = m * together; n < std::min(tiles, (m + 1) * together); ++n) {
                            Sixteen value = load<Sixteen>(mine + n * TILE + v * STRIP);
                            most = value > most ? value : most;
                        }
                        put(&maxima[m * TILE + v * STRIP], most);
                    }
                double& floor = reached[g * size + first + i];
                floor = std::max(floor, double(reached_by(maxima.data(), groups * TILE, wanted)));
                for (int64_t n = 0; n < tiles; ++n) {
                    float apart = twice[i * UNIT + n], bound = apart < INFINITE ? float(floor) - apart : NOTHING;
                    for (int64_t v = 0; v < STRIPS; ++v)
                        for (uint32_t lanes = reaching(mine + n * TILE + v * STRIP, bound); lanes; lanes &= lanes - 1)
                            add(g, first + i, (from + n * step) * TILE + v * STRIP + __builtin_ctz(lanes));
                }
            }
        }

        // NOT_LISTED in the places of rows that are excluded, not allowed, or past the end.
        void leave_out(float* values, int64_t q, int64_t from, int64_t tiles, int64_t step) const {
            for (int64_t n = 0; n < tiles; ++n) {
                int64_t row = (from + n * step) * TILE, valid = std::min(TILE, p.items - row);
                std::fill(values + n * TILE + valid, values + (n + 1) * TILE, NOT_LISTED);
                for (int64_t i = 0; p.allowed && i < valid; ++i)
                    values[n * TILE + i] = p.allowed[row + i] ? values[n * TILE + i] : NOT_LISTED;
            }
            if (!p.excluded) return;
            for (int64_t row : all.excluded[q / p.per_excluded]) {
                int64_t n = row / TILE - from;
                if (row >= 0 && n >= 0 && n < tiles * step && n % step == 0) values[n / step * TILE + row % TILE] = NOT_LISTED;
            }
        }

        void add(int64_t g, int64_t i, int64_t row) {
            if (row >= p.items || (p.allowed && !p.allowed[row])) return;
            int64_t bytes = p.half ? 2 : 4;
            auto* address = static_cast<const char*>(p.tables[g].vectors) + row * p.tables[g].stride * bytes;
            for (int64_t b = 0; b < p.width * bytes; b += 64) __builtin_prefetch(address + b);
            if (queued - taken == QUEUE) score();
            queue[queued++ % QUEUE] = {g, i, row};
        }

        // The float32 product of the row that waited longest.
        void score() {
            Row one = queue[taken++ % QUEUE];
            int64_t g = one.g, q = chosen[one.i], at = one.row * p.tables[g].stride;
            const float* query = &all.vectors[q * all.padded];
            float product = p.half ? inner_product(query, static_cast<const uint16_t*>(p.tables[g].vectors) + at, p.width)
                                   : inner_product(query, static_cast<const float*>(p.tables[g].vectors) + at, p.width);
            double& floor = reached[g * size + one.i];
            if (product < floor) return;
            if (p.excluded) {
                const auto& out = all.excluded[q / p.per_excluded];
                if (std::binary_search(out.begin(), out.end(), one.row)) return;
            }
            auto& mine = keys[g * size + one.i];
            if (mine.empty()) mine.reserve(2 * wanted);
            mine.push_back(key(product, one.row));
            if (int64_t(mine.size()) < 2 * wanted) return;
            std::nth_element(mine.begin(), mine.begin() + wanted - 1, mine.end(), std::greater<uint64_t>());
            raise(floor, mine[wanted - 1]);
            mine.resize(wanted);
        }

        void finish() {
            while (taken < queued) score();
            std::lock_guard<std::mutex> alone(all.together);
            for (int64_t g = 0; g < p.groups; ++g)
                for (int64_t i = 0; i < size; ++i) {
                    auto &whole = all.found[g * p.queries + chosen[i]], &mine = keys[g * size + i];
                    if (whole.empty()) whole.swap(mine);
                    else whole.insert(whole.end(), mine.begin(), mine.end());
                }
        }
    };

    void answer(int64_t q, int64_t g) {
        auto& keys = found[g * p.queries + q];
        int64_t list = q * p.groups + g;
        double error = p.error[q];
        p.beyond[list] = error < INFINITE ? -INFINITE : INFINITE;
        if (int64_t(keys.size()) > p.count) {
            std::nth_element(keys.begin(), keys.begin() + p.count, keys.end(), std::greater<uint64_t>());
            float next = score_of(keys[p.count]);
            if (error < INFINITE && next > NOTHING) p.beyond[list] = next + error;
            keys.resize(p.count);
        }
        if (p.ordered) std::sort(keys.begin(), keys.end(), std::greater<uint64_t>());
        float* scores = p.scores + list * p.count;
        int64_t* rows = p.rows + list * p.count;
        for (uint64_t one : keys) {
            *scores = score_of(one);
            *rows++ = *scores++ == NOTHING ? -1 : int64_t(column_of(one));
        }
        std::fill(scores, p.scores + (list + 1) * p.count, NOTHING);
        std::fill(rows, p.rows + (list + 1) * p.count, -1);
    }
};

// Memory that is read from one end to the other, in large pages where the system has them: half as fast again.
void in_large_pages(uint8_t* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t PAGE = 1 << 21;
    auto first = (reinterpret_cast<uintptr_t>(memory) + PAGE - 1) / PAGE * PAGE;
    auto last = (reinterpret_cast<uintptr_t>(memory) + bytes) / PAGE * PAGE;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// One tile of vectors, in 8 bits.
template <typename T>
void quantize_tile(const T* table, int64_t stride, int64_t valid, int64_t width, uint8_t* to, double* scales) {
    int64_t columns = quads(width);
    std::fill(to, to + TILE * columns * 4, 128);
    float peak = 0;
    bool finite = true;
    for (int64_t i = 0; i < valid; ++i)
        for (int64_t k = 0; k < width; ++k) {
            float x = widened_one(table[i * stride + k]);
            peak = std::max(peak, std::fabs(x));
            finite &= std::isfinite(x);
        }
    double step = peak > 0 ? peak / 127.0 : 1, inverse = 1 / step, lost = 0, norm = 0;
    for (int64_t i = 0; finite && i < valid; ++i) {
        double length = 0, rest = 0;
        for (int64_t k = 0; k < width; ++k) {
            double x = widened_one(table[i * stride + k]);
            int value = int(std::nearbyint(x * inverse));
            double off = x - step * value;
            length += x * x;
            rest += off * off;
            to[((i / STRIP * columns + k / 4) * STRIP + i % STRIP) * 4 + k % 4] = uint8_t(128 + value);
        }
        norm = std::max(norm, length);
        lost = std::max(lost, rest);
    }
    scales[0] = step;
    scales[1] = finite ? std::sqrt(lost) * ABOVE : INFINITE;
    scales[2] = finite ? std::sqrt(norm) * ABOVE : INFINITE;
}

}  // namespace

// Vectors (N, d), float or bfloat16, rows `stride` numbers apart, as `Scan` takes them: packed (tiles, 3, ⌈d / 4⌉, 16, 4) and
// scales (tiles, 3).
extern "C" void quantize(const void* table, int64_t half, int64_t stride, int64_t items, int64_t width, int64_t threads,
                         uint8_t* packed, double* scales) {
    int64_t tiles = (items + TILE - 1) / TILE, bytes = TILE * quads(width) * 4;
    in_large_pages(packed, tiles * bytes);
    spread(threads, (tiles + UNIT - 1) / UNIT, [&](int64_t unit) {
        for (int64_t t = unit * UNIT; t < std::min(tiles, (unit + 1) * UNIT); ++t) {
            int64_t first = t * TILE * stride, valid = std::min(TILE, items - t * TILE);
            if (half)
                quantize_tile(static_cast<const uint16_t*>(table) + first, stride, valid, width, packed + t * bytes, scales + 3 * t);
            else quantize_tile(static_cast<const float*>(table) + first, stride, valid, width, packed + t * bytes, scales + 3 * t);
        }
    });
}

// 1 where memory ran out. At most 2^32 - 1 items, 4096 numbers wide.
extern "C" int largest_products(const Scan* problem) {
    try {
        Search(*problem).solve();
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
