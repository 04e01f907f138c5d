// The largest of long rows of scores, masked places, and proofs of lists: what a search does besides scoring.
//
// A row is read twice: the maxima of groups of columns give a value that at least `count` elements reach, which leaves little
// more than those to be ranked.

#include <atomic>
#include <functional>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

#include "keys.h"
#include "simd.h"
#include "parallel_for.h"

namespace {

constexpr int64_t GROUP = 16;   // columns of a group at most
constexpr int64_t FEWEST = 4;   // groups for each element that is asked for; of half as many all elements are ranked
constexpr int64_t KEYS = 40000; // elements to rank (a few tenths of a millisecond) that are worth one more thread

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

// The best `count` of each query's pairs, in descending order of score, ties in the order of pairs: their scores and rows (rows,
// count), -inf and row 0 past the end. `queries` ascending. 1 where memory ran out.
extern "C" int best_of_pairs(const int64_t* queries, const int64_t* rows, const float* scores, int64_t pairs, int64_t total,
                             int64_t count, float* best, int64_t* found) {
    try {
        Row row;
        for (int64_t q = 0, first = 0; q < total; ++q) {
            int64_t last = first;
            while (last < pairs && queries[last] == q) ++last;
            int64_t here = std::min(count, last - first);
            row.keys.clear();
            if (here) row.select(scores + first, last - first, here);
            std::sort(row.keys.begin(), row.keys.end(), std::greater<uint64_t>());
            for (uint64_t key : row.keys) {
                *best++ = scores[first + column_of(key)];
                *found++ = rows[first + column_of(key)];
            }
            std::fill_n(best, count - here, NOTHING), std::fill_n(found, count - here, 0);
            best += count - here, found += count - here;
            first = last;
        }
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// Of each list, whether its last score is at least what bounds all other scores, and how far it is below that otherwise: rounded
// up by the factor `above`, at least the smallest normal number; infinite where it is not a number. `last` is `stride` scores
// from one list to the next.
extern "C" void certify(const float* last, int64_t stride, const double* bound, int64_t lists, double above, uint8_t* exact,
                        float* gap) {
    for (int64_t i = 0; i < lists; ++i) {
        double known = last[i * stride];
        float more = float((bound[i] - known) * above);
        exact[i] = known >= bound[i];
        if (std::isnan(more)) more = std::numeric_limits<float>::infinity();
        gap[i] = exact[i] ? 0 : std::max(more, std::numeric_limits<float>::min());
    }
}

// The pairs (query, row) of two lists of them, each ascending, without doubles. How many there are.
extern "C" int64_t merged(const int64_t* queries, const int64_t* rows, int64_t size, const int64_t* other_queries,
                          const int64_t* other_rows, int64_t other_size, int64_t* to_queries, int64_t* to_rows) {
    int64_t a = 0, b = 0, count = 0;
    while (a < size || b < other_size) {
        bool all = b == other_size, none = a == size;
        bool less = all || (!none && (queries[a] < other_queries[b] || (queries[a] == other_queries[b] && rows[a] < other_rows[b])));
        bool same = !all && !none && queries[a] == other_queries[b] && rows[a] == other_rows[b];
        to_queries[count] = less ? queries[a] : other_queries[b];
        to_rows[count++] = less ? rows[a] : other_rows[b];
        a += less || same, b += !less;
    }
    return count;
}

// The distinct numbers of each row (rows, each) of at least 0, ascending: `queries` holds the row that each is of. How many
// there are, or -1 where memory ran out.
extern "C" int64_t distinct(const int64_t* numbers, int64_t rows, int64_t each, int64_t* queries, int64_t* found) {
    try {
        std::vector<uint64_t> marks;
        std::vector<int64_t> sorted;
        int64_t count = 0;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t *first = numbers + r * each, *last = first + each;
            int64_t start = count, words = each ? *std::max_element(first, last) / 64 + 1 : 0;
            if (words <= 64 * each) {  // one bit each takes less than to sort them
                marks.assign(words, 0);
                for (const int64_t* n = first; n < last; ++n)
                    if (*n >= 0) marks[*n / 64] |= uint64_t(1) << *n % 64;
                for (int64_t word = 0; word < words; ++word)
                    for (uint64_t bits = marks[word]; bits; bits &= bits - 1) found[count++] = 64 * word + __builtin_ctzll(bits);
            } else {
                sorted.assign(first, last);
                std::sort(sorted.begin(), sorted.end());
                sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
                for (int64_t n : sorted)
                    if (n >= 0) found[count++] = n;
            }
            std::fill(queries + start, queries + count, r);
        }
        return count;
    } catch (const std::bad_alloc&) {
        return -1;
    }
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
