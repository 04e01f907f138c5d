// Products of small matrices that stay in a processor's cache, and their transposes, for kernels that learn.

#pragma once

#include "simd.h"

namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int WIDEST = 4;  // vectors of a row of sums, where there are 32 registers
constexpr int most_rows(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : 12; }
#else
constexpr int WIDEST = 2;  // of 16 registers 12 hold sums
constexpr int most_rows(int vectors) { return vectors == 2 ? 6 : 8; }
#endif

inline int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// A matrix: element (row, column) is at[row · by_row + column · by_column].
template <typename Number>
struct Strided {
    const Number* at;
    int64_t by_row, by_column;
};

inline Vector with_product(Vector sum, float factor, Vector x) { return sum + all(factor) * x; }

template <int ROWS, int VECTORS_WIDE, typename Number>
inline void sums_of_block(Strided<Number> a, int64_t depth, const Number* b, int64_t b_stride, const float* from,
                          int64_t from_stride, float* to, int64_t to_stride) {
    Vector sums[ROWS][VECTORS_WIDE];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS_WIDE; ++v)
            sums[r][v] = from ? load<Vector>(from + r * from_stride + v * LANES) : Vector{};
    for (int64_t k = 0; k < depth; ++k) {
        Vector x[VECTORS_WIDE];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS_WIDE; ++v) x[v] = held(load<Vector>(b + k * b_stride + v * LANES));
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            Number factor = a.at[r * a.by_row + k * a.by_column];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS_WIDE; ++v) sums[r][v] = with_product(sums[r][v], factor, x[v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS_WIDE; ++v) store(to + r * to_stride + v * LANES, sums[r][v]);
}

template <int VECTORS_WIDE, typename Number>
void sums_of_columns(int64_t rows, int64_t depth, Strided<Number> a, const Number* b, int64_t b_stride, const float* from,
                     int64_t from_stride, float* to, int64_t to_stride) {
    constexpr int MOST = most_rows(VECTORS_WIDE);
    for (int64_t row = 0; row < rows;) {
        int64_t left = rows - row;
        int together = left >= MOST ? MOST : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        Strided<Number> mine{a.at + row * a.by_row, a.by_row, a.by_column};
        const float* start = from ? from + row * from_stride : nullptr;
        float* here = to + row * to_stride;
        if (together == MOST)
            sums_of_block<MOST, VECTORS_WIDE>(mine, depth, b, b_stride, start, from_stride, here, to_stride);
        else if (together == 4)
            sums_of_block<4, VECTORS_WIDE>(mine, depth, b, b_stride, start, from_stride, here, to_stride);
        else if (together == 2)
            sums_of_block<2, VECTORS_WIDE>(mine, depth, b, b_stride, start, from_stride, here, to_stride);
        else
            sums_of_block<1, VECTORS_WIDE>(mine, depth, b, b_stride, start, from_stride, here, to_stride);
        row += together;
    }
}

// to = from + a · b for a (rows, depth) and b (depth, columns), `columns` a multiple of LANES; `from` may be null (0), `to`
// itself, or one row for all (stride 0).
template <typename Number>
void multiplied(int64_t rows, int64_t columns, int64_t depth, Strided<Number> a, const Number* b, int64_t b_stride,
                const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    for (int64_t column = 0; column < columns;) {
        int64_t left = (columns - column) / LANES;
        int wide = left >= WIDEST ? WIDEST : int(left);
        const float* start = from ? from + column : nullptr;
        auto part = [&](auto width) {
            sums_of_columns<decltype(width)::value>(rows, depth, a, b + column, b_stride, start, from_stride, to + column,
                                                    to_stride);
        };
        if (wide == 4) part(std::integral_constant<int, WIDEST>());
        else if (wide == 3) part(std::integral_constant<int, 3>());
        else if (wide == 2) part(std::integral_constant<int, 2>());
        else part(std::integral_constant<int, 1>());
        column += wide * LANES;
    }
}

// to (columns, rows) = the transpose of from (rows, columns), both counts multiples of LANES.
void turned(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
    for (int64_t row = 0; row < rows; row += LANES)
        for (int64_t column = 0; column < columns; column += LANES) {
            Vector block[LANES];
#pragma GCC unroll 16
            for (int r = 0; r < LANES; ++r) block[r] = load<Vector>(from + (row + r) * from_stride + column);
            transpose_step<1>(block);
#pragma GCC unroll 16
            for (int r = 0; r < LANES; ++r) store(to + (column + r) * to_stride + row, block[r]);
        }
}

}  // namespace
