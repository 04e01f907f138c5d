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

// Has memory brought near that is read soon.
inline void ahead(const void* from, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(from) + at);
}

struct Walk {
    std::vector<uint64_t> visited, closed;  // a bit for each node; `closed` is empty where none is
    std::vector<Found> beam, fresh;
    std::vector<int32_t> pending;  // visited, and not handed out yet
    int64_t handed = 0;            // of `pending`
    int64_t first = 0;             // everything in the beam before it is expanded
    int64_t places = 0;            // taken in the beam: by nodes that may be found

    void visit(int32_t node) {
        uint64_t bit = uint64_t(1) << (node & 63);
        uint64_t& word = visited[node >> 6];
        if (word & bit) return;
        word |= bit;
        pending.push_back(node);
    }
};

struct Walks {
    int64_t nodes, degree, places, list, threads;
    const int32_t* neighbours;
    const uint8_t* allowed;  // (nodes) or null
    std::vector<Walk> walks;
    std::vector<int64_t> starts;  // (queries + 1): where the nodes of each query begin in the last step

    const int32_t* edges(const Found& found) const { return neighbours + int64_t(found.node) * degree; }

    void next(Walk& walk) {
        if (walk.handed) walk.pending.erase(walk.pending.begin(), walk.pending.begin() + walk.handed);
        int64_t size = walk.beam.size();
        auto unexpanded = [&](int64_t place) {
            while (place < size && walk.beam[place].expanded) ++place;
            return place;
        };
        walk.first = unexpanded(walk.first);
        while (walk.first < size && int64_t(walk.pending.size()) < list) {
            Found& best = walk.beam[walk.first];
            best.expanded = true;
            walk.first = unexpanded(walk.first);
            if (walk.first < size) ahead(edges(walk.beam[walk.first]), degree * sizeof(int32_t));
            const int32_t* to = edges(best);
            for (int64_t e = 0; e < degree && to[e] >= 0; ++e) ahead(&walk.visited[to[e] >> 6], 1);
            for (int64_t e = 0; e < degree && to[e] >= 0; ++e) walk.visit(to[e]);
        }
        walk.handed = std::min<int64_t>(list, walk.pending.size());
    }

    bool open(const Walk& walk, int32_t node) const {
        if (allowed && !allowed[node]) return false;
        return walk.closed.empty() || !(walk.closed[node >> 6] >> (node & 63) & 1);
    }

    // Puts the nodes of the last step into the beam, and cuts it after the last place.
    void absorb(Walk& walk, const double* scores) {
        std::vector<Found>& beam = walk.beam;
        bool full = walk.places == places;
        walk.fresh.clear();
        for (int64_t i = 0; i < walk.handed; ++i) {
            Found found{scores[i], walk.pending[i], false, false};
            if (full && !before(found, beam.back())) continue;
            found.open = open(walk, found.node);
            walk.places += found.open;
            walk.fresh.push_back(found);
        }
        if (walk.fresh.empty()) return;
        std::sort(walk.fresh.begin(), walk.fresh.end(), before);
        int64_t old = beam.size(), left = walk.fresh.size();
        beam.resize(old + left);
        for (int64_t to = old + left - 1; left; --to) {
            bool mine = old == 0 || before(beam[old - 1], walk.fresh[left - 1]);
            beam[to] = mine ? walk.fresh[--left] : beam[--old];
        }
        walk.first = std::min(walk.first, old);  // where the best of them stands
        while (walk.places > places || (walk.places == places && !beam.back().open)) {
            walk.places -= beam.back().open;
            beam.pop_back();
        }
    }
};

}  // namespace

// Walks that begin at `entries`; `excluded` (queries, excluded_each) and `allowed` (nodes), or null, say what may not be found.
// Null where there is no memory.
extern "C" void* walks_begin(int64_t queries, int64_t nodes, int64_t degree, const int32_t* neighbours, const int64_t* entries,
                             int64_t entry_count, const int64_t* excluded, int64_t excluded_each, const uint8_t* allowed,
                             int64_t places, int64_t list, int64_t threads) {
    Walks* all = nullptr;
    try {
        all = new Walks{nodes, degree, places, list, threads, neighbours, allowed, {}, {}};
        all->walks.resize(queries);
        all->starts.resize(queries + 1);
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

// The next nodes of all queries, one query after the other, to `rows`, and the query of each to `owners`; both have room for
// queries · list. How many, −1 where memory ran out.
extern "C" int64_t walks_next(void* handle, int64_t* owners, int64_t* rows) {
    Walks& all = *static_cast<Walks*>(handle);
    int64_t queries = all.walks.size(), count = 0;
    try {
        spread(queries < 8 ? 1 : all.threads, queries, [&](int64_t q) { all.next(all.walks[q]); });
    } catch (const std::bad_alloc&) {
        return -1;
    }
    for (int64_t q = 0; q < queries; ++q) {
        const Walk& walk = all.walks[q];
        std::fill_n(owners + count, walk.handed, q);
        std::copy_n(walk.pending.begin(), walk.handed, rows + count);
        all.starts[q + 1] = count += walk.handed;
    }
    return count;
}

// The scores of these nodes, in their places; 1 where memory ran out.
extern "C" int walks_scored(void* handle, const double* scores) {
    Walks& all = *static_cast<Walks*>(handle);
    try {
        spread(all.walks.size() < 8 ? 1 : all.threads, all.walks.size(),
               [&](int64_t q) { all.absorb(all.walks[q], scores + all.starts[q]); });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// The best `count` ≤ places nodes of each query that may be found, equal scores in the order of nodes; −inf and 0 past the end.
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
