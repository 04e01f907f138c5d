// Scores of Mixture-of-Logits on a CPU: component logits, gate and mixture of one tile of items at a time.
//
// Items are the lanes of the vectors: a tile of ITEMS of them is transposed once, to one row per component
// coordinate, and serves every query. All sums (over the coordinates of a component, the inputs of a layer of the gate,
// the components of a pair) then run down the rows, one multiply-add after the other, so that the score of a pair is the
// same bits wherever in a tile, a batch or a corpus it stands, and there are no sums across lanes.

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>
#include <vector>

#include "simd.h"
#include "parallel_for.h"

extern "C" {

// What Python hands over; the fields and their order are those of `_Problem` in mixture_native.py.
struct Problem {
    int64_t queries, items, candidates;               // B, N, C: of all queries together where there are owners
    int64_t query_groups, item_groups, width;         // Pq, Px, d
    int64_t hidden;                                   // of the pair gate; 0: linear, -1: none
    int64_t combination;                              // 0: glu_silu, 1: glu_silu_ln, 2: sum
    int64_t components_half, gate_half;               // bfloat16 instead of float
    int64_t threads;
    const float* query_components;                    // (B, Pq, d)
    const float* query_gate;                          // (B, P) or null
    const void* item_components;                      // (N, Px, d)
    const void* item_gate;                            // (N, P) or null
    const float *first_weight, *first_bias;           // (hidden, P), (hidden); null where there is no hidden layer
    const float *last_weight, *last_bias;             // (P, hidden or P), (P); null where there is no pair gate
    const int64_t* rows;                              // (B, C), where there are owners (C), or null: every item
    const int64_t* owners;                            // (C) or null: the query of each of `rows`, ascending
    const float* floors;                              // (B) or null: pairs whose largest logit is below score -inf
    float* scores;                                    // (B, N), or as `rows`
};
}

namespace {

constexpr int64_t ALIGNMENT = 64;
constexpr int64_t HELD = ITEMS + 2 * LANES;  // a tile, what a vector adds to it, and what is written past that
constexpr int64_t CHUNK = 32;  // queries whose pairs above a floor are held at the same time

struct Work {
    const Problem& p;
    bool maxima;  // the largest component score in the place of the mixture
    int64_t components, row_length, pairs, tiles, group;
    std::vector<float> queries, first, last;  // packed
    std::atomic<int64_t> next{0};

    Work(const Problem& problem, bool maxima) : p(problem), maxima(maxima) {
        components = p.query_groups * p.item_groups;
        row_length = p.item_groups * p.width;
        pairs = p.owners ? p.candidates : p.queries * p.candidates;  // where there are rows
        tiles = ((p.rows ? pairs : p.items) + ITEMS - 1) / ITEMS;
        // Tiles in a unit of work above floors: many, so that few lanes are left over; a few units for each thread.
        group = std::max<int64_t>(8, std::min<int64_t>(256, tiles / (3 * std::max<int64_t>(p.threads, 1)) + 1));
        int64_t query_length = p.query_groups * p.width;
        queries.resize(p.queries * query_length);
        for (int64_t b = 0; b < p.queries; ++b)
            packed(p.query_components + b * query_length, p.query_groups, p.width, &queries[b * query_length]);
        if (maxima || p.hidden < 0) return;
        if (p.hidden > 0) {
            first.resize(p.hidden * components);
            packed(p.first_weight, p.hidden, components, first.data());
        }
        int64_t inputs = p.hidden > 0 ? p.hidden : components;
        last.resize(components * inputs);
        packed(p.last_weight, components, inputs, last.data());
    }

    int64_t units() const {
        if (p.floors) return (tiles + group - 1) / group * ((p.queries + CHUNK - 1) / CHUNK);
        return tiles;
    }

    // Floats that one thread needs: the transposed items and their gates, the logits, the hidden units, the gate, and for pairs
    // the logits and the gates of another query.
    int64_t scratch() const {
        int64_t least = ITEMS * (row_length + (p.rows ? 5 : 3) * components + std::max<int64_t>(p.hidden, 0));
        return p.floors ? least + 2 * components * (ITEMS + CHUNK * HELD) : least;
    }

    template <typename T>
    void gather(const void* table, int64_t length, const int64_t* chosen, float* to) const {
        const T* from[ITEMS];
        for (int i = 0; i < ITEMS; ++i) from[i] = static_cast<const T*>(table) + chosen[i] * length;
        transposed(from, length, to);
    }

    void start(float* scratch) {
        if (p.floors) run_above(scratch);
        else if (p.rows) run_pairs(scratch);
        else run(scratch);
    }

    // Items of a tile, transposed, and their part of the gate.
    void gather_items(const int64_t* chosen, float* tile, float* gates) const {
        if (p.components_half) gather<uint16_t>(p.item_components, row_length, chosen, tile);
        else gather<float>(p.item_components, row_length, chosen, tile);
        if (!p.item_gate || maxima) return;
        if (p.gate_half) gather<uint16_t>(p.item_gate, components, chosen, gates);
        else gather<float>(p.item_gate, components, chosen, gates);
    }

    void component_scores(int64_t query, const float* tile, float* logits) const {
        const float* from = &queries[query * p.query_groups * p.width];
        for (int64_t j = 0; j < p.item_groups; ++j)  // component i · Px + j
            product(from, nullptr, p.query_groups, p.width, tile + j * p.width * ITEMS, logits + j * ITEMS,
                    p.item_groups * ITEMS);
    }

    const float* gate_of(int64_t query) const { return p.query_gate ? p.query_gate + query * components : nullptr; }

    void run(float* scratch) {
        float* tile = scratch;
        float* gates = tile + ITEMS * row_length;
        float* logits = gates + ITEMS * components;
        float* weights = logits + ITEMS * components;
        float* hidden = weights + ITEMS * components;
        for (int64_t unit; (unit = next.fetch_add(1)) < tiles;) {
            int64_t start = unit * ITEMS, valid = std::min<int64_t>(ITEMS, p.items - start);
            int64_t chosen[ITEMS];
            for (int64_t i = 0; i < ITEMS; ++i) chosen[i] = start + std::min(i, valid - 1);  // the last item fills a tile
            gather_items(chosen, tile, gates);
            for (int64_t b = 0; b < p.queries; ++b) {
                component_scores(b, tile, logits);
                Vector scores[VECTORS];
                if (maxima) largest(logits, scores);
                else mixed(gate_of(b), 0, logits, gates, weights, hidden, scores);
                float* to = p.scores + b * p.items + start;
                if (valid == ITEMS) std::memcpy(to, scores, sizeof scores);
                else std::memcpy(to, scores, valid * sizeof(float));
            }
        }
    }

    // Pairs side by side, of one query after the other: a tile has those of several where they have few.
    void run_pairs(float* scratch) {
        float* tile = scratch;
        float* gates = tile + ITEMS * row_length;
        float* logits = gates + ITEMS * components;
        float* weights = logits + ITEMS * components;
        float* others = weights + ITEMS * components;
        float* query_gates = others + ITEMS * components;
        float* hidden = query_gates + ITEMS * components;
        for (int64_t unit; (unit = next.fetch_add(1)) < tiles;) {
            int64_t start = unit * ITEMS, valid = std::min<int64_t>(ITEMS, pairs - start);
            int64_t chosen[ITEMS], owner[ITEMS];
            for (int64_t i = 0; i < ITEMS; ++i) {
                int64_t pair = start + std::min(i, valid - 1);
                chosen[i] = p.rows[pair];
                owner[i] = p.owners ? p.owners[pair] : pair / p.candidates;
            }
            gather_items(chosen, tile, gates);
            component_scores(owner[0], tile, logits);
            bool several = owner[0] != owner[ITEMS - 1];
            for (int64_t i = 1; several && i < ITEMS; ++i) {
                if (owner[i] == owner[i - 1]) continue;
                component_scores(owner[i], tile, others);
                for (int64_t c = 0; c < components; ++c)
                    std::memcpy(logits + c * ITEMS + i, others + c * ITEMS + i, (ITEMS - i) * sizeof(float));
            }
            for (int64_t c = 0; several && p.query_gate && c < components; ++c)
                for (int64_t i = 0; i < ITEMS; ++i) query_gates[c * ITEMS + i] = gate_of(owner[i])[c];
            Vector scores[VECTORS];
            if (several && p.query_gate) mixed(query_gates, 1, logits, gates, weights, hidden, scores);
            else mixed(gate_of(owner[0]), 0, logits, gates, weights, hidden, scores);
            std::memcpy(p.scores + start, scores, valid * sizeof(float));
        }
    }

    // The pairs whose largest component score reaches the floor of the query, or is NaN: their logits and gates are held
    // together, out of one tile after the other, until they fill a tile of which every lane is needed.
    void run_above(float* scratch) {
        float* tile = scratch;
        float* gates = tile + ITEMS * row_length;
        float* logits = gates + ITEMS * components;
        float* full = logits + ITEMS * components;  // (2 · components, ITEMS)
        float* weights = full + 2 * ITEMS * components;
        float* hidden = weights + ITEMS * components;
        float* held = hidden + ITEMS * std::max<int64_t>(p.hidden, 0);  // (CHUNK, 2 · components, HELD): logits, gates
        int64_t total = units(), groups = (tiles + group - 1) / group, size = 2 * components * HELD;
        int64_t kept_rows = p.item_gate ? 2 * components : components;
        std::fill(held, held + CHUNK * size, 0.0f);
        std::fill(full, weights, 0.0f);
        std::vector<int64_t> columns(CHUNK * (ITEMS + LANES)), counts(CHUNK);
        for (int64_t unit; (unit = next.fetch_add(1)) < total;) {
            int64_t first_query = unit / groups * CHUNK, last_query = std::min(p.queries, first_query + CHUNK);
            int64_t first = unit % groups * group, last = std::min(tiles, first + group);
            std::fill(counts.begin(), counts.end(), 0);
            auto score_held = [&](int64_t b, int64_t number) {  // the first of what is held; the rest moves up
                float* mine = held + (b - first_query) * size;
                int64_t* column = &columns[(b - first_query) * (ITEMS + LANES)];
                int64_t& count = counts[b - first_query];
                for (int64_t c = 0; c < kept_rows; ++c) {
                    std::memcpy(full + c * ITEMS, mine + c * HELD, ITEMS * sizeof(float));
                    store(mine + c * HELD, load<Vector>(mine + c * HELD + ITEMS));
                }
                Vector scores[VECTORS];
                mixed(gate_of(b), 0, full, full + ITEMS * components, weights, hidden, scores);
                float values[ITEMS];
                std::memcpy(values, scores, sizeof scores);
                for (int64_t i = 0; i < number; ++i) p.scores[b * p.items + column[i]] = values[i];
                for (int64_t i = number; i < count; ++i) column[i - number] = column[i];
                count -= number;
            };
            for (int64_t t = first; t < last; ++t) {
                int64_t chosen[ITEMS];
                for (int64_t i = 0; i < ITEMS; ++i) chosen[i] = std::min(t * ITEMS + i, p.items - 1);
                gather_items(chosen, tile, gates);
                for (int64_t b = first_query; b < last_query; ++b) {
                    float* to = p.scores + b * p.items;
                    float* mine = held + (b - first_query) * size;
                    int64_t* column = &columns[(b - first_query) * (ITEMS + LANES)];
                    int64_t& count = counts[b - first_query];
                    component_scores(b, tile, logits);
                    Vector most[VECTORS];
                    largest(logits, most);
                    for (int64_t v = 0; v < VECTORS; ++v) {
                        int64_t start = t * ITEMS + v * LANES;
                        int64_t valid = std::min<int64_t>(LANES, p.items - start);
                        uint32_t lanes = 0;
                        for (int64_t i = 0; i < valid; ++i) {
                            to[start + i] = -std::numeric_limits<float>::infinity();
                            lanes |= uint32_t(!(most[v][i] < p.floors[b])) << i;
                        }
                        if (!lanes) continue;
                        for (int64_t c = 0; c < components; ++c)
                            together(logits + c * ITEMS + v * LANES, lanes, mine + c * HELD + count);
                        if (p.item_gate)
                            for (int64_t c = 0; c < components; ++c)
                                together(gates + c * ITEMS + v * LANES, lanes, mine + (components + c) * HELD + count);
                        for (int64_t i = 0; i < LANES; ++i) {
                            column[count] = start + i;
                            count += lanes >> i & 1;
                        }
                        if (count >= ITEMS) score_held(b, ITEMS);
                    }
                }
            }
            for (int64_t b = first_query; b < last_query; ++b)
                if (counts[b - first_query]) score_held(b, counts[b - first_query]);
        }
    }

    // The chosen lanes of a vector side by side; up to LANES floats are written.
    static void together(const float* from, uint32_t lanes, float* to) {
#if defined(__AVX512F__)
        store(to, (Vector)_mm512_maskz_compress_ps(__mmask16(lanes), (__m512)load<Vector>(from)));
#else
        for (int i = 0; i < LANES; ++i) {
            *to = from[i];
            to += lanes >> i & 1;
        }
#endif
    }

    void largest(const float* logits, Vector (&scores)[VECTORS]) const {
        for (int v = 0; v < VECTORS; ++v) {
            Vector most = load<Vector>(logits + v * LANES), undefined = most;
            for (int64_t c = 1; c < components; ++c) {
                Vector s = load<Vector>(logits + c * ITEMS + v * LANES);
                most = larger(s, most);
                undefined = s == s ? undefined : s;  // a comparison would lose a NaN
            }
            scores[v] = undefined == undefined ? most : undefined;
        }
    }

    // `of_query`: the query's part of the gate, one number per component or, where `each`, one per component and item.
    void mixed(const float* of_query, bool each, const float* logits, const float* gates, float* weights, float* hidden,
               Vector (&scores)[VECTORS]) const {
        bool parts = p.query_gate || p.item_gate;
        if (p.hidden < 0 && !parts) {
            for (int v = 0; v < VECTORS; ++v) scores[v] = Vector{};
            for (int64_t c = 0; c < components; ++c)
                for (int v = 0; v < VECTORS; ++v) scores[v] += load<Vector>(logits + c * ITEMS + v * LANES);
            for (int v = 0; v < VECTORS; ++v) scores[v] /= float(components);
            return;
        }
        if (p.hidden > 0) {
            product(first.data(), p.first_bias, p.hidden, components, logits, hidden, ITEMS);
            for (int64_t i = 0; i < p.hidden * ITEMS; i += LANES) {
                Vector x = load<Vector>(hidden + i);
                store(hidden + i, x * sigmoid(x));
            }
            product(last.data(), p.last_bias, components, p.hidden, hidden, weights, ITEMS);
        } else if (p.hidden == 0) {
            product(last.data(), p.last_bias, components, components, logits, weights, ITEMS);
        } else {
            std::memset(weights, 0, sizeof(float) * components * ITEMS);
        }
        if (parts) join(of_query, each, gates, weights);
        activate(weights);
        Vector most[VECTORS], powers[VECTORS] = {}, sums[VECTORS] = {};
        for (int v = 0; v < VECTORS; ++v) most[v] = load<Vector>(weights + v * LANES);
        for (int64_t c = 1; c < components; ++c)
            for (int v = 0; v < VECTORS; ++v)
                most[v] = larger(load<Vector>(weights + c * ITEMS + v * LANES), most[v]);
        for (int64_t c = 0; c < components; ++c)
            for (int v = 0; v < VECTORS; ++v) {
                Vector power = exponential(load<Vector>(weights + c * ITEMS + v * LANES) - most[v]);
                powers[v] += power;
                sums[v] += power * load<Vector>(logits + c * ITEMS + v * LANES);
            }
        for (int v = 0; v < VECTORS; ++v) scores[v] = sums[v] / powers[v];
    }

    // weights += query part ⊙ item part, or + both for "sum".
    void join(const float* of_query, bool each, const float* gates, float* weights) const {
        for (int64_t c = 0; c < components; ++c)
            for (int v = 0; v < VECTORS; ++v) {
                float* to = weights + c * ITEMS + v * LANES;
                Vector a = load<Vector>(to), query{};
                if (of_query) query = each ? load<Vector>(of_query + c * ITEMS + v * LANES) : all(of_query[c]);
                if (!p.item_gate) {
                    a += query;
                } else {
                    Vector of_item = load<Vector>(gates + c * ITEMS + v * LANES);
                    if (!of_query) a += of_item;
                    else if (p.combination == 2) a += query + of_item;
                    else a += query * of_item;
                }
                store(to, a);
            }
    }

    void activate(float* weights) const {
        if (p.combination == 0) {
            for (int64_t i = 0; i < components * ITEMS; i += LANES) {
                Vector a = load<Vector>(weights + i);
                store(weights + i, a * sigmoid(a));
            }
        } else if (p.combination == 1) {
            for (int v = 0; v < VECTORS; ++v) {
                Vector mean{}, variance{};
                for (int64_t c = 0; c < components; ++c) mean += load<Vector>(weights + c * ITEMS + v * LANES);
                mean /= float(components);
                for (int64_t c = 0; c < components; ++c) {
                    Vector off = load<Vector>(weights + c * ITEMS + v * LANES) - mean;
                    variance += off * off;
                }
                Vector scale = variance / float(components) + 1e-5f;
                for (int lane = 0; lane < LANES; ++lane) scale[lane] = 1.0f / std::sqrt(scale[lane]);
                for (int64_t c = 0; c < components; ++c) {
                    float* at = weights + c * ITEMS + v * LANES;
                    Vector a = load<Vector>(at);
                    store(at, a * sigmoid((a - mean) * scale));
                }
            }
        }
    }
};

int solve(const Problem& p, bool maxima) {
    try {
        Work work(p, maxima);
        for (int64_t i = 0; p.rows && i < work.pairs; ++i)
            if (p.rows[i] < 0 || p.rows[i] >= p.items) return 2;
        for (int64_t i = 0; p.owners && i < work.pairs; ++i)
            if (p.owners[i] < 0 || p.owners[i] >= p.queries) return 3;
        // A thread is worth starting for some tenths of a millisecond of work.
        double pairs = double(work.tiles) * ITEMS * (p.rows ? 1 : p.queries);
        double operations = 2.0 * pairs * work.components * (p.width + 2.0 * std::max<int64_t>(p.hidden, 8));
        int64_t threads = std::min({p.threads, work.units(), int64_t(1 + operations / 2e7)});
        threads = std::max<int64_t>(threads, 1);
        int64_t each = (work.scratch() + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
        std::vector<float> memory(each * threads + ALIGNMENT);
        auto address = reinterpret_cast<uintptr_t>(memory.data());
        float* scratch = memory.data() + (ALIGNMENT - address % ALIGNMENT) % ALIGNMENT / sizeof(float);
        spread(threads, threads, [&](int64_t t) { work.start(scratch + t * each); });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

}  // namespace

// 0; 1 where memory ran out, 2 where a candidate is no row of the corpus, 3 where its owner is no query.
extern "C" int mixture_scores(const Problem* problem) { return solve(*problem, false); }
extern "C" int component_maxima(const Problem* problem) { return solve(*problem, true); }
extern "C" int64_t interface_version() { return 3; }
