// Beam search through the layers of a path model, and the items on the paths of a beam without duplicates: one query after the
// other in each thread, everything it needs in the processor's cache.

#include "buffers.h"
#include "parallel_for.h"

namespace {

constexpr float NOWHERE = -std::numeric_limits<float>::infinity();

struct Walk {
    int64_t queries, depth, width, hidden, beam, threads;
    const float* users;         // (depth, queries, hidden): what the user adds to the hidden units of each layer
    const float* lookups;       // (depth · (depth − 1) / 2, width, hidden): what an earlier node adds, layer by layer
    const float* outputs;       // (depth, width, hidden)
    const float* biases;        // (depth, width)
    const void* const* marks;   // of each layer: which beginnings lead anywhere, or null
    const int64_t* counts;      // their number if they are a sorted list, −1 if they are a table
    int64_t* paths;             // (queries, beam), −1 past the end
    float* log_probs;
};

struct Place {
    float score;
    int64_t place;  // parent · width + node
};

// NaN first, then the more probable, equal ones in the order of places.
bool before(const Place& a, const Place& b) {
    bool undefined = std::isnan(a.score), other = std::isnan(b.score);
    if (undefined != other) return undefined;
    return undefined || a.score == b.score ? a.place < b.place : a.score > b.score;
}

struct Walker {
    const Walk& p;
    int64_t wide;
    std::vector<float> memory;
    float *outputs, *biases, *units, *logits;
    std::vector<int64_t> codes, next_codes, nodes, next_nodes;  // nodes: (beam, depth)
    std::vector<float> scores;
    std::vector<Place> places;

    explicit Walker(const Walk& p) : p(p), wide((p.width + LANES - 1) / LANES * LANES) {
        lay_out(memory, {{&outputs, p.depth * p.hidden * wide},
                         {&biases, p.depth * wide},
                         {&units, (p.hidden + LANES - 1) / LANES * LANES},
                         {&logits, wide}});
        for (int64_t level = 0; level < p.depth; ++level)
            for (int64_t node = 0; node < p.width; ++node) {
                biases[level * wide + node] = p.biases[level * p.width + node];
                for (int64_t h = 0; h < p.hidden; ++h)
                    outputs[(level * p.hidden + h) * wide + node] = p.outputs[(level * p.width + node) * p.hidden + h];
            }
    }

    bool leads(int64_t level, int64_t code) const {
        if (!p.marks[level]) return true;
        if (p.counts[level] < 0) return static_cast<const uint8_t*>(p.marks[level])[code];
        auto list = static_cast<const int64_t*>(p.marks[level]);
        return std::binary_search(list, list + p.counts[level], code);
    }

    // The logits of a layer's nodes after the beginning in place `from` of the beam.
    void score(int64_t query, int64_t level, int64_t from) {
        const float* user = p.users + (level * p.queries + query) * p.hidden;
        std::copy_n(user, p.hidden, units);
        for (int64_t earlier = 0; earlier < level; ++earlier) {
            int64_t node = nodes[from * p.depth + earlier];
            const float* added = p.lookups + ((level * (level - 1) / 2 + earlier) * p.width + node) * p.hidden;
            for (int64_t h = 0; h < p.hidden; ++h) units[h] += added[h];
        }
        std::copy_n(biases + level * wide, wide, logits);
        for (int64_t h = 0; h < p.hidden; ++h) {
            if (units[h] <= 0) continue;  // a NaN goes on
            const float* column = outputs + (level * p.hidden + h) * wide;
            for (int64_t k = 0; k < wide; k += LANES)
                store(logits + k, load<Vector>(logits + k) + units[h] * load<Vector>(column + k));
        }
        float most = NOWHERE, sum = 0;
        for (int64_t k = 0; k < p.width; ++k) most = std::max(most, logits[k]);
        for (int64_t k = 0; k < p.width; k += LANES) {
            Vector powers = exponential(load<Vector>(logits + k) - most);
            for (int64_t lane = 0; lane < std::min<int64_t>(LANES, p.width - k); ++lane) sum += powers[lane];
        }
        float shift = most + std::log(sum);
        for (int64_t k = 0; k < p.width; ++k) logits[k] -= shift;
    }

    void run(int64_t query) {
        codes.assign(1, 0);
        scores.assign(1, 0.0f);
        nodes.assign(p.depth, 0);
        for (int64_t level = 0; level < p.depth; ++level) {
            places.clear();
            for (int64_t from = 0; from < int64_t(codes.size()); ++from) {
                score(query, level, from);
                for (int64_t node = 0; node < p.width; ++node)
                    if (leads(level, codes[from] * p.width + node))
                        places.push_back({scores[from] + logits[node], from * p.width + node});
            }
            int64_t kept = std::min<int64_t>(p.beam, places.size());
            if (kept < int64_t(places.size())) std::nth_element(places.begin(), places.begin() + kept, places.end(), before);
            std::sort(places.begin(), places.begin() + kept, before);
            next_codes.resize(kept), next_nodes.resize(kept * p.depth), scores.resize(kept);
            for (int64_t i = 0; i < kept; ++i) {
                int64_t parent = places[i].place / p.width, node = places[i].place % p.width;
                std::copy_n(&nodes[parent * p.depth], p.depth, &next_nodes[i * p.depth]);
                next_nodes[i * p.depth + level] = node;
                next_codes[i] = codes[parent] * p.width + node;
                scores[i] = places[i].score;
            }
            codes.swap(next_codes), nodes.swap(next_nodes);
        }
        for (int64_t i = 0; i < p.beam; ++i) {
            bool there = i < int64_t(codes.size());
            p.paths[query * p.beam + i] = there ? codes[i] : -1;
            p.log_probs[query * p.beam + i] = there ? scores[i] : NOWHERE;
        }
    }
};

struct Lists {
    int64_t queries, beam, items, longest, threads;
    const int64_t *starts, *sizes;  // (queries, beam): where the items of each path are, and how many
    const int64_t* rows;            // of all paths
    int64_t* merged;                // (queries, longest): ascending, 0 past the end
    int64_t* counts;                // (queries,)
};

void merge(const Lists& p, std::vector<uint64_t>& seen, int64_t query) {
    seen.assign((p.items + 63) / 64, 0);
    for (int64_t i = query * p.beam; i < (query + 1) * p.beam; ++i)
        for (int64_t e = p.starts[i]; e < p.starts[i] + p.sizes[i]; ++e) seen[p.rows[e] >> 6] |= uint64_t(1) << (p.rows[e] & 63);
    int64_t *first = p.merged + query * p.longest, *to = first;
    for (size_t word = 0; word < seen.size(); ++word)
        for (uint64_t left = seen[word]; left; left &= left - 1) *to++ = int64_t(word) * 64 + __builtin_ctzll(left);
    p.counts[query] = to - first;
    std::fill(to, first + p.longest, 0);
}

// Every thread takes the next query with a worker of its own.
template <typename Make>
int each_thread(int64_t threads, int64_t queries, Make make) {
    try {
        std::atomic<int64_t> next{0};
        spread(threads, std::min(threads, queries), [&](int64_t) {
            auto work = make();
            for (int64_t query; (query = next.fetch_add(1)) < queries;) work(query);
        });
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

// Both: 0, or 1 if there is no memory.
extern "C" int walk_paths(const Walk* p) {
    return each_thread(p->threads, p->queries, [p] { return [w = Walker(*p)](int64_t query) mutable { w.run(query); }; });
}

extern "C" int merge_lists(const Lists* p) {
    return each_thread(p->threads, p->queries, [p] {
        return [p, seen = std::vector<uint64_t>()](int64_t query) mutable { merge(*p, seen, query); };
    });
}
