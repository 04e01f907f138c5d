// The buffers of one thread, one after another in one piece of memory.

#pragma once

#include <vector>

#include "simd.h"

namespace {

struct Buffer {
    float** at;
    int64_t size;
};

// Make `memory` hold them all, and point at each: at a whole vector, if the sizes are those of whole vectors.
inline void lay_out(std::vector<float>& memory, const std::vector<Buffer>& buffers) {
    int64_t total = LANES;
    for (auto& buffer : buffers) total += buffer.size;
    memory.resize(total);  // zeros: what pads a vector stays so
    auto address = reinterpret_cast<uintptr_t>(memory.data());
    float* next = memory.data() + (-address / sizeof(float)) % LANES;
    for (auto& buffer : buffers) *buffer.at = next, next += buffer.size;
}

}  // namespace
