// Dropout by a hash, for kernels that learn.

#pragma once

#include "simd.h"

namespace {

uint64_t scrambled(uint64_t x) {  // splitmix64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

inline Unsigned every(uint32_t value) { return value - Unsigned{}; }

// What dropout multiplies the elements of a row with. It depends on the seed, the row and the element's number alone: `kept` of
// dropout.py.
struct Mask {
    uint32_t threshold, add, flip;
    float scale;

    Mask(int64_t threshold, uint64_t seed, int64_t row) : threshold(uint32_t(threshold)) {
        uint64_t key = scrambled(seed + (uint64_t(row) + 1) * 0x9E3779B97F4A7C15u);
        add = uint32_t(key), flip = uint32_t(key >> 32);
        scale = float(4294967296.0 / (4294967296.0 - double(threshold)));
    }

    Vector operator()(Unsigned number) const {
        Unsigned x = number * 0x9E3779B1u + add;
        x ^= x >> 16;
        x = x * 0x7FEB352Du ^ flip;
        x ^= x >> 15;
        x *= 0x846CA68Bu;
        x ^= x >> 16;
        return x >= every(threshold) ? all(scale) : Vector{};
    }
};

}  // namespace
