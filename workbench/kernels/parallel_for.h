// Work spread over threads, for the kernels that search.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// each(0), …, each(count - 1), by so many threads; by fewer where no more can be started.
template <typename F>
void spread(int64_t threads, int64_t count, F each) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> memory{true};
    auto work = [&] {
        try {
            for (int64_t i; memory && (i = next.fetch_add(1)) < count;) each(i);
        } catch (const std::bad_alloc&) {
            memory = false;
        }
    };
    std::vector<std::thread> others;
    try {
        for (int64_t t = 1; t < std::min(threads, count); ++t) others.emplace_back(work);
    } catch (const std::system_error&) {
        // Those that run, and this one, do all of it.
    }
    work();
    for (auto& other : others) other.join();
    if (!memory) throw std::bad_alloc();
}

}  // namespace
