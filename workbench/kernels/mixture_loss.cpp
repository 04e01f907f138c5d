// Sampled softmax of Mixture-of-Logits on a CPU, with its gradient: one position at a time, all of whose candidates' activations
// fit into a processor's cache, so that the gradient is computed while they are there and nothing is computed twice.
//
// Sums run over candidates as lanes where components of a pair are compared (softmax of the gate), and over hidden units,
// components or coordinates as lanes where matrices are multiplied; blocks of LANES × LANES are transposed between the two.
// In bfloat16, all products but those of the items' gradients round their factors, and sums stay float32.
// Each share of the positions adds into gradients of its own, in order: the same bits for the same number of shares.

#include <limits>
#include <new>
#include <vector>

#include "buffers.h"
#include "dropout.h"
#include "parallel_for.h"
#include "products_bf16.h"

extern "C" {

// What Python hands over; the fields and their order are those of `_Problem` in mixture_loss.py.
struct Problem {
    int64_t queries, candidates, items;        // T, C (the first is the positive), N
    int64_t query_groups, item_groups, width;  // Pq, Px, d, a multiple of 16
    int64_t hidden;                            // of the pair gate; 0: linear, -1: none
    int64_t combination;                       // 0: glu_silu, 1: glu_silu_ln, 2: sum
    int64_t shares;                            // S, each a thread
    int64_t bf16;                              // not 0: factors of products are rounded to bfloat16, if the processor has it
    int64_t seed;                              // of the dropout
    int64_t gate_threshold, input_threshold;   // what is below is dropped, of 2^32; 0: nothing is
    const float* query_components;             // (T, Pq, d)
    const float* query_gate;                   // (T, P) or null
    const float* item_components;              // (N, Px, d)
    const float* item_gate;                    // (N, P) or null
    const float *first_weight, *first_bias;    // (hidden, P), (hidden) or null
    const float *last_weight, *last_bias;      // (P, hidden or P), (P) or null
    const int64_t* rows;                       // (T, C)
    float* losses;                             // (T)
    float* to_query_components;                // (T, Pq, d), zeros before; gradients of the sum of the losses
    float* to_query_gate;                      // (T, P)
    float* to_item_components;                 // (S, N, Px, d), zeros before
    float* to_item_gate;                       // (S, N, P), zeros before
    float *to_first_weight, *to_first_bias;    // (S, P, hidden), transposed, and (S, hidden); zeros before
    float *to_last_weight, *to_last_bias;      // (S, P, hidden or P), (S, P); zeros before
};
}

namespace {

constexpr int64_t CHUNK = 3 * LANES;  // candidates whose components are transposed together
constexpr int64_t AHEAD = 4;          // rows of items that are fetched into the cache before their turn
constexpr float LEAST_SUM = 1e-6f;    // of the weights that dropout leaves

template <typename Number>
inline void fetch(const Number* row, int64_t length) {
    for (int64_t i = 0; i < length; i += 16) __builtin_prefetch(row + i, 1);
}

// Weights as matrices of whole vectors, zeros where there is nothing.
struct Layer {
    int64_t inputs, outputs;
    std::vector<float> memory;
    float *forwards, *backwards, *bias;  // (inputs, outputs), (outputs, inputs), (outputs)

    Layer(const float* weight, const float* shift, int64_t outputs, int64_t inputs)
        : inputs(whole_vectors(inputs)), outputs(whole_vectors(outputs)) {
        int64_t size = this->inputs * this->outputs;
        lay_out(memory, {{&forwards, size}, {&backwards, size}, {&bias, this->outputs}});
        for (int64_t o = 0; o < outputs; ++o)
            for (int64_t i = 0; i < inputs; ++i)
                forwards[i * this->outputs + o] = backwards[o * this->inputs + i] = weight[o * inputs + i];
        if (shift) std::copy(shift, shift + outputs, bias);
    }
};

struct Scratch;

struct Work {
    const Problem& p;
    int64_t components, row_length, wide, tall, units;  // P, Px · d; P, C and hidden units in whole vectors
    std::vector<Layer> layers;

    explicit Work(const Problem& problem) : p(problem) {
        components = p.query_groups * p.item_groups;
        row_length = p.item_groups * p.width;
        wide = whole_vectors(components), tall = whole_vectors(p.candidates);
        units = whole_vectors(std::max<int64_t>(p.hidden, 0));
        if (p.hidden > 0) layers.emplace_back(p.first_weight, p.first_bias, p.hidden, components);
        if (p.hidden >= 0) layers.emplace_back(p.last_weight, p.last_bias, components, p.hidden ? p.hidden : components);
    }

    template <typename Number>
    void run(const Number* items, int64_t share);
    void run_products(Scratch& s, int64_t share, int64_t first, int64_t last);
    float softmax(Scratch& s, const int64_t* chosen) const;
};

// The buffers of one thread. "Lanes" has candidates as lanes (component, candidate); "rows" is (candidate, component or unit).
struct Scratch {
    std::vector<float> memory;
    float *gathered, *gathered_lanes, *gates, *gates_lanes, *logits_lanes, *logits, *slopes, *units, *raw, *raw_lanes,
        *pi, *rho, *direct, *inner, *scores, *to_scores, *first, *last, *first_bias, *last_bias;

    explicit Scratch(const Work& w) {
        int64_t pair = w.tall * w.wide, hidden = w.tall * w.units;
        int64_t second = w.wide * std::max(w.units, w.wide);
        lay_out(memory, {{&gathered, w.tall * w.row_length}, {&gathered_lanes, w.row_length * CHUNK}, {&gates, pair},
                         {&gates_lanes, pair}, {&logits_lanes, pair}, {&logits, pair}, {&slopes, hidden}, {&units, hidden},
                         {&raw, pair}, {&raw_lanes, pair}, {&pi, pair}, {&rho, pair}, {&direct, pair}, {&inner, hidden},
                         {&scores, w.tall}, {&to_scores, w.tall}, {&first, w.wide * w.units}, {&last, second},
                         {&first_bias, w.units}, {&last_bias, w.wide}});
    }
};

// The gate of one position: weights and scores from the pair part, and back.
struct Gate {
    const Work& w;
    Scratch& s;
    const float* of_query;  // (P) or null
    bool of_item;
    Mask mask;

    Vector at(const float* lanes, int64_t c, int64_t v) const { return load<Vector>(lanes + c * w.tall + v); }

    Vector argument(int64_t c, int64_t v) const {  // a, of the combination
        Vector a = w.p.hidden < 0 ? Vector{} : at(s.raw_lanes, c, v);
        if (of_item) {
            Vector x = at(s.gates_lanes, c, v);
            return of_query ? w.p.combination == 2 ? a + of_query[c] + x : a + of_query[c] * x : a + x;
        }
        return of_query ? a + of_query[c] : a;
    }

    bool present() const { return of_query || of_item || w.p.hidden >= 0; }

    void normal(int64_t v, Vector& mean, Vector& scale) const {  // of LN(a) = (a − mean) · scale
        mean = scale = Vector{};
        for (int64_t c = 0; c < w.components; ++c) mean += at(s.raw_lanes, c, v);
        mean /= float(w.components);
        for (int64_t c = 0; c < w.components; ++c) {
            Vector off = at(s.raw_lanes, c, v) - mean;
            scale += off * off;
        }
        scale = scale / float(w.components) + 1e-5f;
        for (int lane = 0; lane < LANES; ++lane) scale[lane] = 1.0f / std::sqrt(scale[lane]);
    }

    Unsigned pairs(int64_t v) const {  // numbers of the first components of these lanes
        Unsigned lane{};
        for (int i = 0; i < LANES; ++i) lane[i] = uint32_t((v + i) * w.components);
        return lane;
    }

    // φ of the candidates from v on; π, ρ = what dropout leaves of it, and a (in raw_lanes) are kept.
    void forward(int64_t v) {
        Vector most = all(-std::numeric_limits<float>::infinity()), powers{}, kept{}, mean, scale;
        for (int64_t c = 0; c < w.components; ++c) store(s.raw_lanes + c * w.tall + v, argument(c, v));
        if (w.p.combination == 1 && present()) normal(v, mean, scale);
        for (int64_t c = 0; c < w.components; ++c) {
            Vector a = at(s.raw_lanes, c, v);
            if (present() && w.p.combination == 0) a *= sigmoid(a);
            if (present() && w.p.combination == 1) a *= sigmoid((a - mean) * scale);
            most = larger(a, most);
            store(s.pi + c * w.tall + v, a);
        }
        for (int64_t c = 0; c < w.components; ++c) {
            Vector power = exponential(at(s.pi, c, v) - most);
            powers += power;
            store(s.pi + c * w.tall + v, power);
        }
        Vector share = 1.0f / powers, score{};
        Unsigned pair = pairs(v);
        bool dropping = mask.threshold && present();
        for (int64_t c = 0; c < w.components; ++c) {
            Vector pi = at(s.pi, c, v) * share, rho = dropping ? pi * mask(pair + uint32_t(c)) : pi;
            kept += rho;
            score += rho * at(s.logits_lanes, c, v);
            store(s.pi + c * w.tall + v, pi);
            store(s.rho + c * w.tall + v, rho);
        }
        if (dropping) {
            Vector again = 1.0f / larger(kept, all(LEAST_SUM));
            score *= again;
            for (int64_t c = 0; c < w.components; ++c) {
                Vector pi = at(s.pi, c, v);
                store(s.rho + c * w.tall + v, at(s.rho, c, v) * again);
                // Where less is left, ρ is divided by a constant: the sign of π marks it for `backward`.
                store(s.pi + c * w.tall + v, kept < all(LEAST_SUM) ? -pi : pi);
            }
        }
        store(s.scores + v, score);
    }

    // From the gradient of φ: that of a into raw_lanes, that of the logits in φ itself into `direct`.
    void backward(int64_t v, Vector* to_query) {
        Vector above = load<Vector>(s.to_scores + v), score = load<Vector>(s.scores + v), mean, scale;
        bool layer_norm = w.p.combination == 1 && present();
        if (layer_norm) normal(v, mean, scale);
        Vector sum{}, along{};  // of the gradient of LN(a), and of its product with LN(a)
        for (int64_t c = 0; c < w.components; ++c) {
            Vector rho = at(s.rho, c, v), pi = at(s.pi, c, v), logit = at(s.logits_lanes, c, v);
            store(s.direct + c * w.tall + v, above * rho);
            if (!present()) continue;
            Vector change = above * (pi < Vector{} ? rho * logit + pi * score : rho * (logit - score));
            Vector a = at(s.raw_lanes, c, v);
            if (w.p.combination == 0) {
                Vector sigma = sigmoid(a);
                change *= sigma * (1.0f + a * (1.0f - sigma));
            } else if (layer_norm) {
                Vector y = (a - mean) * scale, sigma = sigmoid(y), of_y = change * a * sigma * (1.0f - sigma);
                sum += of_y, along += of_y * y;
                store(s.rho + c * w.tall + v, of_y);
                change *= sigma;
            }
            store(s.pi + c * w.tall + v, change);
        }
        if (!present()) return;
        for (int64_t c = 0; c < w.components; ++c) {
            Vector change = at(s.pi, c, v);
            if (layer_norm) {
                Vector y = (at(s.raw_lanes, c, v) - mean) * scale;
                change += scale * (at(s.rho, c, v) - (sum + y * along) / float(w.components));
            }
            if (of_query)
                to_query[c] += of_item && w.p.combination != 2 ? change * at(s.gates_lanes, c, v) : change;
            store(s.raw_lanes + c * w.tall + v, change);
        }
    }
};

// The loss of one position and the gradient of its scores: a softmax over candidates, without those that are the positive again.
float Work::softmax(Scratch& s, const int64_t* chosen) const {
    const float left_out = -std::numeric_limits<float>::infinity();
    std::copy(s.scores, s.scores + p.candidates, s.to_scores);
    for (int64_t c = 1; c < tall; ++c)
        if (c >= p.candidates || chosen[c] == chosen[0]) s.to_scores[c] = left_out;
    Vector most = all(left_out), powers{};
    for (int64_t c = 0; c < tall; c += LANES) most = larger(load<Vector>(s.to_scores + c), most);
    float largest = most[0];
    for (int lane = 1; lane < LANES; ++lane) largest = std::max(largest, most[lane]);
    for (int64_t c = 0; c < tall; c += LANES) {
        Vector x = load<Vector>(s.to_scores + c) - largest, power = x < -87.0f ? Vector{} : exponential(x);
        store(s.to_scores + c, power);
        powers += power;
    }
    float total = sum_of(powers);
    for (int64_t c = 0; c < tall; c += LANES) store(s.to_scores + c, load<Vector>(s.to_scores + c) / total);
    s.to_scores[0] -= 1.0f;
    return std::log(total) + largest - s.scores[0];
}

// One component and no gate: inner products, straight from the rows of the items.
void Work::run_products(Scratch& s, int64_t share, int64_t first, int64_t last) {
    float* to_items = p.to_item_components + share * p.items * p.width;
    for (int64_t t = first; t < last; ++t) {
        const int64_t* chosen = p.rows + t * p.candidates;
        const float* query = p.query_components + t * p.width;
        float* to_query = p.to_query_components + t * p.width;
        for (int64_t start = 0; start < tall; start += LANES) {
            Vector sums[LANES] = {};
            for (int64_t c = start; c < std::min(start + LANES, p.candidates); ++c) {
                const float* item = p.item_components + chosen[c] * p.width;
                for (int64_t k = 0; k < p.width; k += LANES) sums[c - start] += load<Vector>(query + k) * load<Vector>(item + k);
            }
            transpose_step<1>(sums);
            for (int lane = 1; lane < LANES; ++lane) sums[0] += sums[lane];
            store(s.scores + start, sums[0]);
        }
        p.losses[t] = softmax(s, chosen);
        for (int64_t c = 0; c < p.candidates; ++c) {
            const float* item = p.item_components + chosen[c] * p.width;
            float weight = s.to_scores[c];
            float* to_item = to_items + chosen[c] * p.width;
            if (c + AHEAD < p.candidates) fetch(to_items + chosen[c + AHEAD] * p.width, p.width);
            for (int64_t k = 0; k < p.width; k += LANES) {
                store(to_item + k, load<Vector>(to_item + k) + weight * load<Vector>(query + k));
                store(to_query + k, load<Vector>(to_query + k) + weight * load<Vector>(item + k));
            }
        }
    }
}

template <typename Number>
void Work::run(const Number* items, int64_t share) {
    Scratch s(*this);
    using Operand = Matrix<Number>;
    std::vector<Operand> forwards, backwards;
    for (auto& layer : layers) {
        forwards.emplace_back(layer.outputs).take(layer.forwards, layer.inputs);
        backwards.emplace_back(layer.inputs).take(layer.backwards, layer.outputs);
    }
    Operand query_rows(p.width), item_rows(row_length), logits(wide), hidden(units), change(wide), inner(units), above(wide);
    const float one = 1.0f;
    const Strided<float> ones{&one, 0, 0};
    int64_t numbers = Operand::depth(p.width), row_numbers = p.item_groups * numbers;
    auto gathered = reinterpret_cast<Number*>(s.gathered), lanes_of_items = reinterpret_cast<Number*>(s.gathered_lanes);
    int64_t first = p.queries * share / p.shares, last = p.queries * (share + 1) / p.shares;
    if (components == 1 && layers.empty() && !p.query_gate && !p.item_gate) return run_products(s, share, first, last);
    int64_t count = p.candidates, inputs = p.hidden > 0 ? p.hidden : components, depth = p.hidden > 0 ? units : wide;
    bool two = layers.size() == 2;
    float* to_items = p.to_item_components + share * p.items * row_length;
    float* to_item_gate = p.to_item_gate ? p.to_item_gate + share * p.items * components : nullptr;
    std::vector<float> sums(components * LANES + LANES);
    for (int64_t t = first; t < last; ++t) {
        const int64_t* chosen = p.rows + t * count;
        const float* query = p.query_components + t * p.query_groups * p.width;
        const float* of_query = p.query_gate ? p.query_gate + t * components : nullptr;
        for (int64_t c = 0; c < count; ++c) {
            if (c + AHEAD < count) {
                fetch(items + chosen[c + AHEAD] * row_numbers, row_numbers);
                if (p.item_gate) fetch(p.item_gate + chosen[c + AHEAD] * components, components);
            }
            std::memcpy(gathered + c * row_numbers, items + chosen[c] * row_numbers, row_numbers * sizeof(Number));
            if (p.item_gate)
                std::memcpy(s.gates + c * wide, p.item_gate + chosen[c] * components, components * sizeof(float));
        }
        query_rows.take(query, p.query_groups);
        item_rows.take(gathered, count);
        // Component logits: candidates as lanes.
        for (int64_t start = 0; start < tall; start += CHUNK) {
            int64_t lanes = std::min(CHUNK, tall - start);
            turned(s.gathered + start * row_numbers, row_numbers, lanes, whole_vectors(row_numbers), s.gathered_lanes, CHUNK);
            for (int64_t j = 0; j < p.item_groups; ++j)
                multiplied(p.query_groups, lanes, numbers, query_rows.left(), lanes_of_items + j * numbers * CHUNK, CHUNK, nullptr,
                           0, s.logits_lanes + j * tall + start, p.item_groups * tall);
        }
        if (p.item_gate) turned(s.gates, wide, tall, wide, s.gates_lanes, tall);
        // The pair part of the gate.
        Mask input_mask(p.input_threshold, ~uint64_t(p.seed), t);
        auto masked = [&](float* rows) {
            if (!input_mask.threshold) return;
            for (int64_t c = 0; c < count; ++c)
                for (int64_t k = 0; k < wide; k += LANES) {
                    Unsigned pair;
                    for (int i = 0; i < LANES; ++i) pair[i] = uint32_t(c * components + k + i);
                    float* at = rows + c * wide + k;
                    store(at, load<Vector>(at) * input_mask(pair));
                }
        };
        if (!layers.empty()) {
            turned(s.logits_lanes, tall, wide, tall, s.logits, wide);
            masked(s.logits);
            logits.take(s.logits, count);
            if (two) {
                multiplied(count, units, Operand::depth(components), logits.left(), forwards[0].right(), units,
                           layers[0].bias, 0, s.units, units);
                for (int64_t i = 0; i < count * units; i += LANES) {
                    Vector z = load<Vector>(s.units + i), sigma = sigmoid(z);
                    store(s.units + i, z * sigma);
                    store(s.slopes + i, sigma * (1.0f + z * (1.0f - sigma)));
                }
                hidden.take(s.units, count);
            }
            multiplied(count, wide, Operand::depth(inputs), (two ? hidden : logits).left(), forwards.back().right(), wide,
                       layers.back().bias, 0, s.raw, wide);
            turned(s.raw, wide, tall, wide, s.raw_lanes, tall);
        }
        Gate gate{*this, s, of_query, p.item_gate != nullptr, Mask(p.gate_threshold, uint64_t(p.seed), t)};
        for (int64_t v = 0; v < tall; v += LANES) gate.forward(v);
        p.losses[t] = softmax(s, chosen);
        // Back through the gate.
        auto address = reinterpret_cast<uintptr_t>(sums.data());
        Vector* to_query = reinterpret_cast<Vector*>(sums.data() + (-address / sizeof(float)) % LANES);
        std::fill(to_query, to_query + components, Vector{});
        for (int64_t v = 0; v < tall; v += LANES) gate.backward(v, to_query);
        if (of_query)
            for (int64_t c = 0; c < components; ++c) p.to_query_gate[t * components + c] = sum_of(to_query[c]);
        turned(s.direct, tall, wide, tall, s.gates, wide);  // what the gradient of the logits begins with
        float* to_logits = s.gates;
        if (!layers.empty() || p.item_gate) turned(s.raw_lanes, tall, wide, tall, s.raw, wide);
        if (p.item_gate)
            for (int64_t c = 0; c < count; ++c) {
                float* to = to_item_gate + chosen[c] * components;
                if (c + AHEAD < count) fetch(to_item_gate + chosen[c + AHEAD] * components, components);
                const float* from = s.raw + c * wide;
                bool product = of_query && p.combination != 2;
                for (int64_t k = 0; k < components; ++k) to[k] += product ? from[k] * of_query[k] : from[k];
            }
        if (!layers.empty()) {
            change.take(s.raw, count);
            multiplied(components, depth, Operand::depth(count), change.transposed(), (two ? hidden : logits).right(), depth, s.last,
                       depth, s.last, depth);
            multiplied(1, wide, count, ones, s.raw, wide, s.last_bias, wide, s.last_bias, wide);
            if (two) {
                multiplied(count, units, Operand::depth(components), change.left(), backwards[1].right(), units, nullptr, 0,
                           s.inner, units);
                for (int64_t i = 0; i < count * units; i += LANES)
                    store(s.inner + i, load<Vector>(s.inner + i) * load<Vector>(s.slopes + i));
                inner.take(s.inner, count);
                multiplied(components, units, Operand::depth(count), logits.transposed(), inner.right(), units, s.first, units,
                           s.first, units);
                multiplied(1, units, count, ones, s.inner, units, s.first_bias, units, s.first_bias, units);
            }
            float* through = s.logits;
            multiplied(count, wide, Operand::depth(inputs), (two ? inner : change).left(), backwards[0].right(), wide, nullptr, 0,
                       through, wide);
            masked(through);
            for (int64_t i = 0; i < count * wide; i += LANES)
                store(to_logits + i, load<Vector>(to_logits + i) + load<Vector>(through + i));
        }
        // Back to the components.
        float* to_query_row = p.to_query_components + t * p.query_groups * p.width;
        above.take(to_logits, count);
        for (int64_t j = 0; j < p.item_groups; ++j)
            multiplied(p.query_groups, p.width, Operand::depth(count), {above.right() + j, p.item_groups, wide},
                       item_rows.right() + j * p.width, row_length, j ? to_query_row : nullptr, p.width, to_query_row, p.width);
        for (int64_t c = 0; c < count; ++c) {
            float* to = to_items + chosen[c] * row_length;
            if (c + AHEAD < count) fetch(to_items + chosen[c + AHEAD] * row_length, row_length);
            multiplied(p.item_groups, p.width, p.query_groups, {to_logits + c * wide, 1, p.item_groups}, query, p.width, to,
                       p.width, to, p.width);
        }
    }
    auto hand_over = [&](const float* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
        if (!to) return;
        for (int64_t row = 0; row < rows; ++row)
            std::copy(from + row * stride, from + row * stride + columns, to + (share * rows + row) * columns);
    };
    hand_over(s.first, units, components, p.hidden, p.to_first_weight);
    hand_over(s.first_bias, units, 1, p.hidden, p.to_first_bias);
    hand_over(s.last, depth, components, inputs, p.to_last_weight);
    hand_over(s.last_bias, wide, 1, components, p.to_last_bias);
}

}  // namespace

extern "C" int has_bf16() { return HAS_BF16; }

// 0; 1 where memory ran out, 2 where a candidate is no row of the corpus.
extern "C" int mixture_loss(const Problem* problem) {
    const Problem& p = *problem;
    for (int64_t i = 0; i < p.queries * p.candidates; ++i)
        if (p.rows[i] < 0 || p.rows[i] >= p.items) return 2;
    try {
        Work work(p);
        auto run = [&](auto* items) { spread(p.shares, p.shares, [&](int64_t share) { work.run(items, share); }); };
#if HAS_BF16
        if (p.bf16) run(rounded(p.item_components, p.items * work.row_length).data());
        else
#endif
            run(p.item_components);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
