// Vectors of items side by side, for mixture.cpp, mixture_int16.cpp and product_scan.cpp: elementary functions, tiles that are transposed into lanes, and products
// of a small matrix with a tile.
//
// Written with the vector types of GCC and Clang: the compiler takes what the processor has (AVX-512, AVX2, NEON, SSE).
// Built without -ffast-math: NaN and infinite values must come through.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

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

// x, in a register from here on: where there are few, GCC would read it again for each product it takes part in.
inline Vector held(Vector x) {
#if defined(__x86_64__)
    asm("" : "+v"(x));
#endif
    return x;
}

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

inline float sum_of(Vector x) {
    float sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += x[lane];
    return sum;
}

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
template <typename T>
void packed(const T* matrix, int64_t rows, int64_t columns, T* to) {
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
        for (int v = 0; v < VECTORS; ++v) x[v] = held(load<Vector>(tile + k * ITEMS + v * LANES));
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
