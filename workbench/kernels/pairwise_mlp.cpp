// One hidden layer over pairs of rows and columns, and its gradient: output · ReLU(row + column + W · pair) + bias. Columns lie
// side by side in vectors; hidden values live in registers alone, and the gradient computes them again.
//
// A pair's value does not depend on the others. Gradients are summed in an order that the number of threads decides.

#include "buffers.h"
#include "parallel_for.h"

namespace {

struct Problem {
    int64_t groups, rows, columns, hidden, products, threads;
    const float *of_rows, *of_columns, *pairs, *of_pairs, *output, *bias;
    float* result;
    const float* above;  // the gradient of the result, or null: then nothing below is written
    float *to_rows, *to_columns, *to_pairs, *to_of_pairs, *to_output;
};

struct Part {  // rows first to last of all groups, one after the other
    const Problem& p;
    int64_t wide, first, last;
    std::vector<float> memory;
    float *columns, *pairs, *above, *to_columns, *to_pairs, *to_row, *to_weights, *to_output;
    int64_t group = -1;

    Part(const Problem& p, int64_t first, int64_t last)
        : p(p), wide((p.columns + LANES - 1) / LANES * LANES), first(first), last(last) {
        int64_t gradient = p.above != nullptr;
        lay_out(memory, {{&columns, p.hidden * wide},
                         {&pairs, p.products * wide},
                         {&above, gradient * wide},
                         {&to_columns, gradient * p.hidden * wide},
                         {&to_pairs, gradient * LANES * p.products},
                         {&to_row, gradient * LANES * p.hidden},
                         {&to_weights, gradient * LANES * p.hidden * p.products},
                         {&to_output, gradient * LANES * p.hidden}});
    }

    // The columns of a group, turned, so that those of one hidden unit are side by side.
    void enter(int64_t next) {
        group = next;
        const float* from = p.of_columns + group * p.columns * p.hidden;
        for (int64_t c = 0; c < p.columns; ++c)
            for (int64_t h = 0; h < p.hidden; ++h) columns[h * wide + c] = from[c * p.hidden + h];
    }

    // What the rows of this part add to the gradient of the group's columns; parts of one group take turns.
    void leave() {
        float* to = p.to_columns + group * p.columns * p.hidden;
        for (int64_t c = 0; c < p.columns; ++c)
            for (int64_t h = 0; h < p.hidden; ++h) to[c * p.hidden + h] += to_columns[h * wide + c];
        std::fill(to_columns, to_columns + p.hidden * wide, 0.0f);
    }

    void begin(int64_t row) {
        const float* from = p.pairs + row * p.columns * p.products;
        for (int64_t c = 0; c < p.columns; ++c)
            for (int64_t k = 0; k < p.products; ++k) pairs[k * wide + c] = from[c * p.products + k];
    }

    inline Vector sum(const float* row, int64_t h, int64_t c) const {
        Vector x = row[h] + load<Vector>(columns + h * wide + c);
        for (int64_t k = 0; k < p.products; ++k)
            x += p.of_pairs[h * p.products + k] * load<Vector>(pairs + k * wide + c);
        return x;
    }

    void forward(int64_t row) {
        begin(row);
        const float* own = p.of_rows + row * p.hidden;
        for (int64_t c = 0; c < p.columns; c += LANES) {
            Vector total{};
            for (int64_t h = 0; h < p.hidden; ++h) {
                Vector x = sum(own, h, c);
                total += p.output[h] * (x < 0.0f ? Vector{} : x);  // a NaN stays
            }
            total += p.bias[0];
            std::memcpy(p.result + row * p.columns + c, &total, sizeof(float) * std::min<int64_t>(LANES, p.columns - c));
        }
    }

    void backward(int64_t row) {
        begin(row);
        const float* own = p.of_rows + row * p.hidden;
        std::copy_n(p.above + row * p.columns, p.columns, above);  // beyond the columns it is 0
        std::fill_n(to_row, LANES * p.hidden, 0.0f);
        float* out = p.to_pairs + row * p.columns * p.products;
        for (int64_t c = 0; c < p.columns; c += LANES) {
            Vector here = load<Vector>(above + c);
            std::fill_n(to_pairs, LANES * p.products, 0.0f);
            for (int64_t h = 0; h < p.hidden; ++h) {
                Vector x = sum(own, h, c);
                Vector inside = x > 0.0f ? here * p.output[h] : Vector{};
                float* unit = to_output + h * LANES;
                store(unit, load<Vector>(unit) + here * (x < 0.0f ? Vector{} : x));
                unit = to_row + h * LANES;
                store(unit, load<Vector>(unit) + inside);
                unit = to_columns + h * wide + c;
                store(unit, load<Vector>(unit) + inside);
                for (int64_t k = 0; k < p.products; ++k) {
                    unit = to_weights + (h * p.products + k) * LANES;
                    store(unit, load<Vector>(unit) + inside * load<Vector>(pairs + k * wide + c));
                    unit = to_pairs + k * LANES;
                    store(unit, load<Vector>(unit) + inside * p.of_pairs[h * p.products + k]);
                }
            }
            for (int64_t lane = 0; lane < std::min<int64_t>(LANES, p.columns - c); ++lane)
                for (int64_t k = 0; k < p.products; ++k)
                    out[(c + lane) * p.products + k] = to_pairs[k * LANES + lane];
        }
        for (int64_t h = 0; h < p.hidden; ++h) p.to_rows[row * p.hidden + h] = sum_of(load<Vector>(to_row + h * LANES));
    }
};

void run(const Problem& p) {
    int64_t total = p.groups * p.rows;
    // The gradient of columns is that of a whole group: parts then end where groups do, unless there is one group alone.
    bool whole = p.above && p.groups > 1;
    int64_t units = whole ? p.groups : total, each = whole ? p.rows : 1;
    int64_t count = std::max<int64_t>(1, std::min(p.threads, units));
    std::vector<Part> parts;
    for (int64_t i = 0; i < count; ++i) parts.emplace_back(p, units * i / count * each, units * (i + 1) / count * each);
    spread(count, count, [&](int64_t i) {
        Part& part = parts[i];
        for (int64_t row = part.first; row < part.last; ++row) {
            if (row / p.rows != part.group) {
                if (p.above && part.group >= 0) part.leave();
                part.enter(row / p.rows);
            }
            p.above ? part.backward(row) : part.forward(row);
        }
        if (whole && part.group >= 0) part.leave();
    });
    if (!p.above) return;
    for (auto& part : parts) {
        if (!whole && part.group >= 0) part.leave();
        for (int64_t h = 0; h < p.hidden; ++h) p.to_output[h] += sum_of(load<Vector>(part.to_output + h * LANES));
        for (int64_t i = 0; i < p.hidden * p.products; ++i)
            p.to_of_pairs[i] += sum_of(load<Vector>(part.to_weights + i * LANES));
    }
}

}  // namespace

// 0, or 1 if there is no memory.
extern "C" int pairwise_mlp(const Problem* problem) {
    try {
        run(*problem);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
