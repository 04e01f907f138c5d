// The bookkeeping of walks over a graph, one for each query: what was visited, the best so far, what to score next. Scores come
// from outside, a list of nodes at a time. Nodes that may not be found lead on like all others, and take no place in the beam.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "parallel_for.h"

namespace {

struct Found {
    double score;
    int32_t node;
    bool expanded, open;  // open: it may be found
};

// Higher scores first, equal ones in the order of nodes.
bool before(const Found& a, const Found& b) { return a.score != b.score ? a.score > b.score : a.node < b.node; }

struct Walk {
    std::vector<uint64_t> visited, closed;  // a bit for each node; `closed` is empty where none is
    std::vector<Found> beam, merged, fresh;
    std::vector<int32_t> pending;  // visited, and not handed out yet
    int64_t handed = 0;            // of `pending`
    int64_t first = 0;             // everything in the beam before it is expanded

    void visit(int32_t node) {
        uint64_t bit = uint64_t(1) << (node & 63);
        uint64_t& word = visited[node >> 6];
        if (word & bit) return;
        word |= bit;
        pending.push_back(node);
    }
};

struct Walks {
    int64_t nodes, degree, beam, list, threads;
    const int32_t* neighbours;
    const uint8_t* allowed;  // (nodes) or null
    std::vector<Walk> walks;
    std::vector<int64_t> counts;  // handed out in the last step

    void next(Walk& walk, int64_t* rows, int64_t& count) {
        if (walk.handed) walk.pending.erase(walk.pending.begin(), walk.pending.begin() + walk.handed);
        walk.handed = 0;
        int64_t size = walk.beam.size();
        while (int64_t(walk.pending.size()) < list) {
            while (walk.first < size && walk.beam[walk.first].expanded) ++walk.first;
            if (walk.first == size) break;
            walk.beam[walk.first].expanded = true;
            const int32_t* edges = neighbours + int64_t(walk.beam[walk.first].node) * degree;
            for (int64_t e = 0; e < degree && edges[e] >= 0; ++e) walk.visit(edges[e]);
        }
        count = walk.handed = std::min<int64_t>(list, walk.pending.size());
        for (int64_t i = 0; i < count; ++i) rows[i] = walk.pending[i];
    }

    bool open(const Walk& walk, int32_t node) const {
        if (allowed && !allowed[node]) return false;
        return walk.closed.empty() || !(walk.closed[node >> 6] >> (node & 63) & 1);
    }

    void absorb(Walk& walk, const double* scores, int64_t count) {
        walk.fresh.clear();
        for (int64_t i = 0; i < count; ++i)
            walk.fresh.push_back({scores[i], walk.pending[i], false, open(walk, walk.pending[i])});
        std::sort(walk.fresh.begin(), walk.fresh.end(), before);
        walk.merged.resize(walk.beam.size() + walk.fresh.size());
        std::merge(walk.beam.begin(), walk.beam.end(), walk.fresh.begin(), walk.fresh.end(), walk.merged.begin(), before);
        int64_t kept = 0, places = 0, size = walk.merged.size();
        while (kept < size && places < beam) places += walk.merged[kept++].open;
        walk.merged.resize(kept);
        walk.beam.swap(walk.merged);
        walk.first = 0;
    }
};

}  // namespace

// Walks that begin at `entries`; `excluded` (queries, excluded_each) and `allowed` (nodes), or null, say what may not be found.
// Null where there is no memory.
extern "C" void* walks_begin(int64_t queries, int64_t nodes, int64_t degree, const int32_t* neighbours, const int64_t* entries,
                             int64_t entry_count, const int64_t* excluded, int64_t excluded_each, const uint8_t* allowed,
                             int64_t beam, int64_t list, int64_t threads) {
    Walks* all = nullptr;
    try {
        all = new Walks{nodes, degree, beam, list, threads, neighbours, allowed, {}, {}};
        all->walks.resize(queries);
        all->counts.resize(queries);
        spread(threads, queries, [&](int64_t q) {
            Walk& walk = all->walks[q];
            walk.visited.assign((nodes + 63) / 64, 0);
            if (excluded_each) walk.closed.assign(walk.visited.size(), 0);
            for (int64_t h = 0; h < excluded_each; ++h)
                if (int64_t node = excluded[q * excluded_each + h]; node >= 0)
                    walk.closed[node >> 6] |= uint64_t(1) << (node & 63);
            for (int64_t e = 0; e < entry_count; ++e) walk.visit(int32_t(entries[e]));
        });
        return all;
    } catch (const std::bad_alloc&) {
        delete all;
        return nullptr;
    }
}

// The next nodes of each query to `rows` (queries, list) and how many to `counts`; the largest count, −1 where memory ran out.
extern "C" int64_t walks_next(void* handle, int64_t* rows, int64_t* counts) {
    Walks& all = *static_cast<Walks*>(handle);
    try {
        spread(all.walks.size() < 8 ? 1 : all.threads, all.walks.size(),
               [&](int64_t q) { all.next(all.walks[q], rows + q * all.list, all.counts[q]); });
    } catch (const std::bad_alloc&) {
        return -1;
    }
    int64_t most = 0;
    for (size_t q = 0; q < all.counts.size(); ++q) most = std::max(most, counts[q] = all.counts[q]);
    return most;
}

// The scores of these nodes, row q of `scores` at q · stride; 1 where memory ran out.
extern "C" int walks_scored(void* handle, const double* scores, int64_t stride) {
    Walks& all = *static_cast<Walks*>(handle);
    try {
        spread(all.walks.size() < 8 ? 1 : all.threads, all.walks.size(),
               [&](int64_t q) { all.absorb(all.walks[q], scores + q * stride, all.counts[q]); });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// The best `count` ≤ beam nodes of each query that may be found, equal scores in the order of nodes; −inf and 0 past the end.
extern "C" void walks_best(void* handle, int64_t count, double* scores, int64_t* rows) {
    Walks& all = *static_cast<Walks*>(handle);
    for (size_t q = 0; q < all.walks.size(); ++q) {
        int64_t place = q * count, end = place + count;
        for (const Found& found : all.walks[q].beam) {
            if (place == end) break;
            if (!found.open) continue;
            scores[place] = found.score;
            rows[place++] = found.node;
        }
        for (; place < end; ++place) {
            scores[place] = -std::numeric_limits<double>::infinity();
            rows[place] = 0;
        }
    }
}

extern "C" void walks_end(void* handle) { delete static_cast<Walks*>(handle); }
