// Matrices of products in float32, and in bfloat16 with sums in float32 if the processor has an instruction for it (AVX-512 BF16,
// two products where there was one).

#pragma once

#include <type_traits>
#include <vector>

#include "products.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif

namespace {

// A matrix (rows, columns), `columns` a multiple of LANES, to be multiplied: on the left, on the left transposed, or on the right.
// `Number` is what sums run over: a float, or a pair of bfloat16.
template <typename Number>
struct Matrix;

template <>
struct Matrix<float> {
    int64_t columns;
    const float* rows = nullptr;

    explicit Matrix(int64_t columns) : columns(columns) {}

    static int64_t depth(int64_t count) { return count; }
    void take(const float* from, int64_t) { rows = from; }
    Strided<float> left() const { return {rows, columns, 1}; }
    Strided<float> transposed() const { return {rows, 1, columns}; }
    const float* right() const { return rows; }
};

#if HAS_BF16
struct Pair {
    uint32_t bits;  // the first of the two is the lower half
};

inline Vector with_product(Vector sum, Pair factor, Vector x) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(factor.bits), (__m512bh)x);
}

inline __m256i loaded(const Pair* from) { return _mm256_loadu_si256((const __m256i*)from); }

inline __m512i side_by_side(const float* first, const float* second) {
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)load<Vector>(second), (__m512)load<Vector>(first));
}

inline __m512i side_by_side(const Pair* first, const Pair* second) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(loaded(first)), loaded(second), 1);
}

std::vector<Pair> rounded(const float* from, int64_t count) {  // `count` is a multiple of LANES
    std::vector<Pair> to(count / 2);
    for (int64_t i = 0; i < count; i += LANES)
        _mm256_storeu_si256((__m256i*)(to.data() + i / 2), (__m256i)_mm512_cvtneps_pbh((__m512)load<Vector>(from + i)));
    return to;
}

template <>
struct Matrix<Pair> {
    int64_t columns;
    std::vector<Pair> along, across;  // pairs of neighbours in a row (rows, columns / 2), and in a column (⌈rows / 2⌉, columns)

    explicit Matrix(int64_t columns) : columns(columns) {}

    static int64_t depth(int64_t count) { return (count + 1) / 2; }

    // Rows of floats, which are rounded; or of pairs, for `transposed` and `right` alone. A zero follows an odd number of rows.
    template <typename From>
    void take(const From* from, int64_t rows) {
        constexpr bool floats = std::is_same<From, float>::value;
        alignas(64) static const uint32_t zeros[LANES] = {};
        alignas(64) uint16_t order[2 * LANES];
        for (int i = 0; i < 2 * LANES; ++i) order[i] = uint16_t(i / 2 + i % 2 * LANES);
        const __m512i interleave = _mm512_load_si512(order);
        int64_t length = floats ? columns : columns / 2;
        if (floats) along.resize(depth(rows) * columns);
        across.resize(depth(rows) * columns);
        for (int64_t row = 0; row < rows; row += 2)
            for (int64_t k = 0; k < columns; k += LANES) {
                const From* first = from + row * length + (floats ? k : k / 2);
                __m512i both = side_by_side(first, row + 1 < rows ? first + length : (const From*)zeros);
                _mm512_storeu_si512(across.data() + row / 2 * columns + k, _mm512_permutexvar_epi16(interleave, both));
                if (!floats) continue;
                Pair* to = along.data() + (row * columns + k) / 2;
                _mm256_storeu_si256((__m256i*)to, _mm512_castsi512_si256(both));
                _mm256_storeu_si256((__m256i*)(to + columns / 2), _mm512_extracti64x4_epi64(both, 1));
            }
    }

    Strided<Pair> left() const { return {along.data(), columns / 2, 1}; }
    Strided<Pair> transposed() const { return {across.data(), 1, columns}; }
    const Pair* right() const { return across.data(); }
};
#endif

}  // namespace
