// The largest of long rows of scores, of inner products that nobody holds, and masked places: what a search does besides
// scoring.
//
// A row is read twice: the maxima of groups of columns give a value that at least `count` elements reach, which leaves little
// more than those to be ranked. An element is ranked as one whole number, its score (as a number whose order is that of the
// scores, NaN last) above its column counted from the end: there are no ties, and of equal scores the first column wins.

#include <atomic>
#include <functional>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

#include "simd.h"
#include "parallel_for.h"

namespace {

constexpr int64_t GROUP = 16;   // columns of a group at most
constexpr int64_t FEWEST = 4;   // groups for each element that is asked for; of half as many all elements are ranked
constexpr int64_t SAMPLE = 32768;                // items of a sample, about
constexpr int64_t RANK = 48, DENSEST = 16;      // the place among them of the last result, below which no sample pays; one tile in so many
constexpr int64_t UNIT = 64;    // tiles that a thread takes at a time
constexpr int64_t KEYS = 40000; // elements to rank (a few tenths of a millisecond) that are worth one more thread
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

uint64_t key(float score, int64_t column) {
    uint32_t bits;
    if (score == 0) score = 0;  // -0 equals 0
    std::memcpy(&bits, &score, sizeof bits);
    bits = std::isnan(score) ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(bits) << 32 | (0xffffffffu - uint32_t(column));
}

struct Row {
    std::vector<float> maxima;
    std::vector<uint64_t> keys;

    // A value that at least `count` elements reach; NaN counts as the largest. -inf where groups would be too few.
    float reached(const float* row, int64_t width, int64_t count) {
        int64_t size = 2;
        while (size < GROUP && width / (2 * size) >= FEWEST * count) size *= 2;
        int64_t groups = width / size;
        if (groups < FEWEST / 2 * count) return NOTHING;
        // Group m holds columns m, m + groups, m + 2 · groups, …: no sums across lanes.
        maxima.assign(row, row + groups);
        for (int64_t i = 1; i < size; ++i)
            for (int64_t m = 0; m < groups; ++m) {
                float other = row[i * groups + m];
                maxima[m] = maxima[m] >= other ? maxima[m] : other;  // a NaN replaces, and is replaced
            }
        for (float& m : maxima) m = m == m ? m : std::numeric_limits<float>::infinity();
        std::nth_element(maxima.begin(), maxima.begin() + (count - 1), maxima.end(), std::greater<float>());
        return maxima[count - 1];
    }

    void gather(const float* row, int64_t width, float floor) {
        keys.clear();
        int64_t column = 0;
#if defined(__AVX512F__)
        __m512 least = _mm512_set1_ps(floor);
        for (; column + 16 <= width; column += 16) {
            uint32_t lanes = _mm512_cmp_ps_mask(_mm512_loadu_ps(row + column), least, _CMP_NLT_UQ);
            for (; lanes; lanes &= lanes - 1) {
                int64_t here = column + __builtin_ctz(lanes);
                keys.push_back(key(row[here], here));
            }
        }
#endif
        for (; column < width; ++column)
            if (!(row[column] < floor)) keys.push_back(key(row[column], column));
    }

    void select(const float* row, int64_t width, int64_t count) {
        gather(row, width, reached(row, width, count));
        if (int64_t(keys.size()) > count) {
            std::nth_element(keys.begin(), keys.begin() + count, keys.end(), std::greater<uint64_t>());
            keys.resize(count);
        }
    }
};

float score_of(uint64_t key) {
    uint32_t bits = uint32_t(key >> 32);
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    float score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
}

uint32_t column_of(uint64_t key) { return 0xffffffffu - uint32_t(key); }

}  // namespace

extern "C" {

// What Python hands over; the fields and their order are those of `_Products` in selection.py.
struct Products {
    int64_t queries, items, width, half, count, by_row, excluded_each, threads;
    const float* vectors;      // (Q, d)
    const void* table;         // (N, d), float or, where `half`, bfloat16
    const int64_t* excluded;   // (Q, H) rows that are not listed, -1 for none, or null
    const uint8_t* allowed;    // (N) or null
    float* scores;             // (Q, count), descending or, where `by_row`, in the order of rows; -inf past the end
    int64_t* rows;             // (Q, count), 0 past the end
    float* beyond;             // (Q), the largest that is not listed, -inf where all are
};
}

namespace {

// The rows of a table with the largest inner products, a tile at a time: what does not reach a floor is forgotten at once.
// The floor comes from a sample of the tiles; where it was too high the query is done again without, and wherever too
// much is kept the floor rises.
struct Scan {
    struct Kept {
        float floor = NOTHING;
        std::vector<uint64_t> keys;
        std::vector<float> sample;
    };

    const Products& p;
    int64_t tiles;
    std::vector<int64_t> wanted;  // keys of each query: the results, the one after them, and as many as may be excluded
    std::vector<float> floors;
    std::mutex together;
    std::vector<std::vector<uint64_t>> found;
    std::vector<std::vector<float>> sampled;

    explicit Scan(const Products& p)
        : p(p), tiles((p.items + ITEMS - 1) / ITEMS), wanted(p.queries), floors(p.queries, NOTHING), found(p.queries),
          sampled(p.queries) {
        for (int64_t q = 0; q < p.queries; ++q) {
            int64_t out = 0;
            for (int64_t h = 0; h < p.excluded_each; ++h) out += p.excluded[q * p.excluded_each + h] >= 0;
            wanted[q] = std::min(p.items, p.count + 1 + out);
        }
    }

    void solve() {
        std::vector<int64_t> all_queries(p.queries);
        for (int64_t q = 0; q < p.queries; ++q) all_queries[q] = q;
        int64_t fewest = p.queries ? *std::min_element(wanted.begin(), wanted.end()) : 0;
        int64_t step = std::min(fewest / RANK, std::max(DENSEST, p.items / SAMPLE));
        if (step >= DENSEST && tiles > 4 * step && !p.allowed) {
            run(all_queries, step);
            spread(p.threads, p.queries, [&](int64_t q) {
                int64_t rank = wanted[q] / step + 1;
                rank += 4 * int64_t(std::sqrt(double(rank)));
                auto& sample = sampled[q];
                for (float& s : sample) s = s == s ? s : NOTHING;
                if (rank >= int64_t(sample.size())) return;
                floors[q] = Row().reached(sample.data(), sample.size(), rank + 1);
                if (floors[q] > NOTHING) return;
                std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<float>());
                floors[q] = sample[rank];
            });
        }
        run(all_queries, 1);
        std::vector<int64_t> again;
        for (int64_t q = 0; q < p.queries; ++q)
            if (int64_t(found[q].size()) < wanted[q] && floors[q] > NOTHING) {
                again.push_back(q);
                floors[q] = NOTHING;
                found[q].clear();
            }
        if (!again.empty()) run(again, 1);
        int64_t keys = 0;
        for (const auto& all : found) keys += all.size();
        spread(std::min(p.threads, 1 + keys / KEYS), p.queries, [&](int64_t q) { answer(q); });
    }

    // Keys of at least the `wanted` largest, or of all there are. With a `step` above 1 a sample: all of every so manieth tile.
    void run(const std::vector<int64_t>& queries, int64_t step) {
        int64_t size = queries.size(), length = p.width;
        std::vector<float> chosen(size * length), rows(size * length);
        for (int64_t i = 0; i < size; ++i)
            std::memcpy(&chosen[i * length], p.vectors + queries[i] * length, length * sizeof(float));
        packed(chosen.data(), size, length, rows.data());
        std::atomic<int64_t> next{0};
        int64_t threads = std::min({p.threads, (tiles + UNIT - 1) / UNIT, 1 + p.items * size * length / 10000000});
        spread(threads, threads, [&](int64_t) {
            std::vector<float> tile(length * ITEMS), products(size * ITEMS);
            std::vector<Kept> kept(size);
            for (int64_t i = 0; i < size; ++i) {
                kept[i].floor = floors[queries[i]];
                if (step > 1) kept[i].sample.reserve((tiles / step + 1) * ITEMS);
            }
            for (int64_t unit; (unit = next.fetch_add(1)) * UNIT < tiles;)
                for (int64_t t = unit * UNIT; t < std::min(tiles, (unit + 1) * UNIT); ++t) {
                    if (t % step) continue;
                    read(t, tile.data());
                    product(rows.data(), nullptr, size, length, tile.data(), products.data(), ITEMS);
                    for (int64_t i = 0; i < size; ++i) {
                        const float* mine = &products[i * ITEMS];
                        auto& sample = kept[i].sample;
                        if (step > 1) sample.insert(sample.end(), mine, mine + std::min<int64_t>(ITEMS, p.items - t * ITEMS));
                        else keep(kept[i], mine, t, wanted[queries[i]]);
                    }
                }
            std::lock_guard<std::mutex> alone(together);
            for (int64_t i = 0; i < size; ++i) {
                auto& all = found[queries[i]];
                all.insert(all.end(), kept[i].keys.begin(), kept[i].keys.end());
                auto& sample = sampled[queries[i]];
                sample.insert(sample.end(), kept[i].sample.begin(), kept[i].sample.end());
            }
        });
    }

    void read(int64_t t, float* tile) const {
        if (p.half) read_as<uint16_t>(t, tile);
        else read_as<float>(t, tile);
    }

    template <typename T>
    void read_as(int64_t t, float* tile) const {
        const T* from[ITEMS];
        for (int64_t i = 0; i < ITEMS; ++i)
            from[i] = static_cast<const T*>(p.table) + std::min(t * ITEMS + i, p.items - 1) * p.width;
        transposed(from, p.width, tile);
    }

    void keep(Kept& kept, const float* products, int64_t t, int64_t most) const {
        int64_t valid = std::min<int64_t>(ITEMS, p.items - t * ITEMS);
        auto add = [&](int64_t i) {
            int64_t row = t * ITEMS + i;
            if (!p.allowed || p.allowed[row]) kept.keys.push_back(key(products[i], row));
        };
#if defined(__AVX512F__)
        for (int64_t start = 0; start < valid; start += LANES) {
            __m512 least = _mm512_set1_ps(kept.floor);
            uint32_t lanes = _mm512_cmp_ps_mask(_mm512_loadu_ps(products + start), least, _CMP_NLT_UQ);
            if (valid - start < LANES) lanes &= (1u << (valid - start)) - 1;
            for (; lanes; lanes &= lanes - 1) add(start + __builtin_ctz(lanes));
        }
#else
        for (int64_t i = 0; i < valid; ++i)
            if (!(products[i] < kept.floor)) add(i);
#endif
        if (int64_t(kept.keys.size()) < 4 * most + 4 * ITEMS) return;
        std::nth_element(kept.keys.begin(), kept.keys.begin() + most - 1, kept.keys.end(), std::greater<uint64_t>());
        float reached = score_of(kept.keys[most - 1]);
        if (reached > kept.floor) kept.floor = reached;  // not where it is NaN
        kept.keys.resize(most);
    }

    void answer(int64_t q) {
        auto& keys = found[q];
        if (p.excluded) {
            std::vector<int64_t> out(p.excluded + q * p.excluded_each, p.excluded + (q + 1) * p.excluded_each);
            std::sort(out.begin(), out.end());
            auto is_out = [&](uint64_t one) { return std::binary_search(out.begin(), out.end(), column_of(one)); };
            keys.erase(std::remove_if(keys.begin(), keys.end(), is_out), keys.end());
        }
        p.beyond[q] = NOTHING;
        if (int64_t(keys.size()) > p.count) {
            auto ranked = keys;
            std::nth_element(ranked.begin(), ranked.begin() + p.count, ranked.end(), std::greater<uint64_t>());
            uint64_t next = ranked[p.count];
            p.beyond[q] = score_of(next);
            keys.erase(std::remove_if(keys.begin(), keys.end(), [&](uint64_t one) { return one <= next; }), keys.end());
        }
        if (p.by_row) by_rows(keys);
        else std::sort(keys.begin(), keys.end(), std::greater<uint64_t>());
        float* scores = p.scores + q * p.count;
        int64_t* rows = p.rows + q * p.count;
        for (uint64_t one : keys) {
            *scores++ = score_of(one);
            *rows++ = column_of(one);
        }
        std::fill(scores, p.scores + (q + 1) * p.count, NOTHING);
        std::fill(rows, p.rows + (q + 1) * p.count, 0);
    }

    // Each thread kept its own in the order of rows, unless it had to forget some: a few runs, which are merged.
    static void by_rows(std::vector<uint64_t>& keys) {
        auto before = [](uint64_t a, uint64_t b) { return column_of(a) < column_of(b); };
        auto start = std::is_sorted_until(keys.begin(), keys.end(), before);
        for (int runs = 1; start != keys.end(); ++runs) {
            if (runs == 8) return std::sort(keys.begin(), keys.end(), before);
            auto end = std::is_sorted_until(start, keys.end(), before);
            std::inplace_merge(keys.begin(), start, end, before);
            start = end;
        }
    }
};

}  // namespace

// columns (rows, count): of the largest `count` elements of each row, in descending order of score, ties ascending.
// 1 where memory ran out. Width below 2^32.
extern "C" int largest(const float* scores, int64_t rows, int64_t width, int64_t stride, int64_t count,
                       int64_t threads, int64_t* columns) {
    try {
        int64_t work = rows * (width / 16 + 8 * count), chunk = std::max<int64_t>(1, rows / (4 * threads));
        spread(std::min(threads, 1 + work / KEYS), (rows + chunk - 1) / chunk, [&](int64_t part) {
            Row row;
            for (int64_t r = part * chunk; r < std::min(rows, (part + 1) * chunk); ++r) {
                row.select(scores + r * stride, width, count);
                auto& keys = row.keys;
                int64_t* to = columns + r * count;
                std::sort(keys.begin(), keys.end(), std::greater<uint64_t>());
                for (int64_t i = 0; i < count; ++i) to[i] = column_of(keys[i]);
            }
        });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// Give the score -inf to columns `chosen` (rows, each) less `first` of each row; others are ignored, and a NaN stays.
extern "C" void mask(float* scores, int64_t rows, int64_t width, int64_t stride, const int64_t* chosen, int64_t each,
                     int64_t first) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < each; ++i) {
            int64_t column = chosen[r * each + i] - first;
            if (column < 0 || column >= width) continue;
            float& score = scores[r * stride + column];
            if (score == score) score = NOTHING;
        }
}

// The rows with the largest inner products, in descending order, ties ascending; 1 where memory ran out.
extern "C" int largest_products(const Products* products) {
    try {
        Scan(*products).solve();
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
