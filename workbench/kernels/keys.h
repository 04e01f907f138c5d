// An element to be ranked as one whole number: its score (as a number whose order is that of the scores, NaN last) above its
// column counted from the end. There are no ties, and of equal scores the first column wins.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

inline uint64_t key(float score, int64_t column) {
    uint32_t bits;
    if (score == 0) score = 0;  // -0 equals 0
    std::memcpy(&bits, &score, sizeof bits);
    bits = std::isnan(score) ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(bits) << 32 | (0xffffffffu - uint32_t(column));
}

inline float score_of(uint64_t key) {
    uint32_t bits = uint32_t(key >> 32);
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    float score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
}

inline uint32_t column_of(uint64_t key) { return 0xffffffffu - uint32_t(key); }

}  // namespace
