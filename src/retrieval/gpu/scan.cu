// Hamming distances, counts and ranks of codes. `mod.rs` says what each kernel gives; here is how.
//
// A part of the database holds `codes` codes, the first of them at position `base` of the whole. Word w of code i stands
// at above[w * codes + i], so that neighbouring threads read neighbouring words. `not_below` is the same of ternary codes,
// or null where neither side is ternary; then two half bits make a bit. Bit i % 64 of there[i / 64] is 1 for codes that
// were not removed (null: none was); bit i % 64 of labels[c * row + i / 64] is 1 for codes of class c.
//
// Nothing depends on the order of threads: counts are sums of integers, and ranks come from counts.

typedef unsigned long long word;

// Queries that a thread compares with a code it has read.
constexpr int GROUP = 8;
// Threads that walk together.
constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
// Sums of precisions that a query has for each cut, and items after which the first of them has its turn again: those of
// `measure/ranked.rs`, since the order in which numbers are added decides their last bits.
constexpr unsigned SUMS = 8;
constexpr word STRIP = 1024;

// Distances of QUERIES queries to one code; `queries` are [QUERIES, 1 or 2 sides, width].
template <int QUERIES>
__device__ void distances(const word* __restrict__ above, const word* __restrict__ not_below, word codes, int width,
                          word code, const word* queries, unsigned (&found)[QUERIES])
{
#pragma unroll
    for (int q = 0; q < QUERIES; ++q) found[q] = 0;
    if (not_below == nullptr) {
        for (int w = 0; w < width; ++w) {
            const word a = __ldg(above + w * codes + code);
#pragma unroll
            for (int q = 0; q < QUERIES; ++q) found[q] += __popcll(a ^ queries[q * width + w]);
        }
        return;
    }
    for (int w = 0; w < width; ++w) {
        const word a = __ldg(above + w * codes + code), n = __ldg(not_below + w * codes + code);
#pragma unroll
        for (int q = 0; q < QUERIES; ++q) {
            const word qa = queries[2 * q * width + w], qn = queries[(2 * q + 1) * width + w];
            found[q] += __popcll(a ^ qa) + __popcll(n ^ qa) + __popcll(a ^ qn) + __popcll(n ^ qn);
        }
    }
    // Four binary signs for a ternary one give four times the distance in bits.
#pragma unroll
    for (int q = 0; q < QUERIES; ++q) found[q] /= 2;
}

// How many of some classes a code has.
__device__ unsigned shared_classes(const word* __restrict__ labels, word row, word code,
                                   const unsigned* __restrict__ classes, unsigned from, unsigned to)
{
    unsigned found = 0;
    for (; from < to; ++from) found += (unsigned)(__ldg(labels + classes[from] * row + code / 64) >> (code % 64) & 1);
    return found;
}

__device__ bool is_there(const word* __restrict__ there, word code)
{
    return there == nullptr || (there[code / 64] >> (code % 64) & 1) == 1;
}

// Lanes of `among` whose value is this lane's; values have so many binary digits. All lanes must ask.
__device__ unsigned lanes_like(unsigned value, unsigned among, int digits)
{
    for (int digit = 0; digit < digits; ++digit) {
        const unsigned mine = value >> digit & 1, ones = __ballot_sync(ALL_LANES, (int)mine);
        among &= mine ? ones : ~ones;
    }
    return among;
}

// Counts codes by stretch of the database, query, shared classes and distance: counts are
// [stretches, rows of all queries, levels]. A query has a row for each number of shared classes, the last one for all that
// have more. A block counts one chunk of a stretch for one group of queries, in shared memory if the group's rows fit.
extern "C" __global__ void __launch_bounds__(256)
    count(const word* __restrict__ above, const word* __restrict__ not_below, const word* __restrict__ there,
          const word* __restrict__ labels, word codes, word row, word base, int width, const word* __restrict__ words,
          unsigned queries, const unsigned* __restrict__ classes, const unsigned* __restrict__ first_class,
          const unsigned* __restrict__ first_row, unsigned levels, unsigned group, unsigned in_shared, word stretch,
          word chunk, word first_stretch, unsigned* counts)
{
    extern __shared__ word shared[];
    const int length = not_below == nullptr ? width : 2 * width;
    word* mine = shared;
    unsigned* bins = (unsigned*)(shared + GROUP * length);

    const word chunks = (stretch + chunk - 1) / chunk;
    const word at = first_stretch + blockIdx.x / chunks;
    word from = at * stretch + blockIdx.x % chunks * chunk, to = from + chunk;
    if (to > (at + 1) * stretch) to = (at + 1) * stretch;
    if (from < base) from = base;
    if (to > base + codes) to = base + codes;
    if (from >= to) return;
    from -= base;
    to -= base;

    const unsigned first = blockIdx.y * group;
    const unsigned here = group < queries - first ? group : queries - first;
    for (unsigned i = threadIdx.x; i < (unsigned)(GROUP * length); i += blockDim.x)
        mine[i] = i < here * length ? words[(word)first * length + i] : 0;
    const unsigned rows = first_row[first + here] - first_row[first];
    if (in_shared)
        for (unsigned i = threadIdx.x; i < rows * levels; i += blockDim.x) bins[i] = 0;
    __syncthreads();

    unsigned* out = counts + (at * first_row[queries] + first_row[first]) * levels;
    for (word i = from + threadIdx.x; i < to; i += blockDim.x) {
        if (!is_there(there, i)) continue;
        unsigned found[GROUP];
        distances<GROUP>(above, not_below, codes, width, i, mine, found);
#pragma unroll
        for (int q = 0; q < GROUP; ++q) {
            if (q < (int)here) {
                const unsigned query = first + q, last = first_row[query + 1] - first_row[query] - 1;
                unsigned grade = 0;
                if (last > 0)
                    grade = shared_classes(labels, row, i, classes, first_class[query], first_class[query + 1]);
                if (grade > last) grade = last;
                const word bin = (word)(first_row[query] - first_row[first] + grade) * levels + found[q];
                if (in_shared)
                    atomicAdd(&bins[bin], 1u);
                else
                    atomicAdd(&out[bin], 1u);
            }
        }
    }
    __syncthreads();
    if (in_shared)
        for (unsigned i = threadIdx.x; i < rows * levels; i += blockDim.x)
            if (bins[i] != 0) atomicAdd(&out[i], bins[i]);
}

// Writes where the codes within a query's limit stand in the database: nearest first, ties in database order, if `digits`
// (of a distance) is not 0, else in database order. A warp walks one stretch for one query, 32 codes at a time. `next` is
// [stretches, queries, levels or 1]: the place of the next code there. What falls beyond the query's places is not written.
extern "C" __global__ void __launch_bounds__(32)
    place(const word* __restrict__ above, const word* __restrict__ not_below, const word* __restrict__ there,
          const word* __restrict__ labels, word codes, word row, word base, int width, const word* __restrict__ words,
          unsigned queries, const unsigned* __restrict__ classes, const unsigned* __restrict__ first_class,
          unsigned levels, int digits, word stretch, word first_stretch, const unsigned* __restrict__ limits,
          unsigned* next, const word* __restrict__ first_place, unsigned* __restrict__ places,
          unsigned short* __restrict__ keys)
{
    extern __shared__ word shared[];
    const int length = not_below == nullptr ? width : 2 * width;
    const unsigned slots = digits == 0 ? 1 : levels;
    word* mine = shared;
    unsigned* before = (unsigned*)(shared + length);

    const unsigned query = blockIdx.y, lane = threadIdx.x, lower = (1u << lane) - 1;
    const word at = first_stretch + blockIdx.x;
    word from = at * stretch, to = from + stretch;
    if (from < base) from = base;
    if (to > base + codes) to = base + codes;
    if (from >= to) return;
    from -= base;
    to -= base;

    unsigned* saved = next + (at * queries + query) * slots;
    for (unsigned i = lane; i < (unsigned)length; i += WARP) mine[i] = words[(word)query * length + i];
    for (unsigned i = lane; i < slots; i += WARP) before[i] = saved[i];
    __syncthreads();
    const word first = first_place[query], room = first_place[query + 1] - first;
    const unsigned limit = limits[query];
    for (word tile = from; tile < to; tile += WARP) {
        const word i = tile + lane;
        unsigned found[1] = {0};
        bool is_near = i < to && is_there(there, i);
        if (is_near) {
            distances<1>(above, not_below, codes, width, i, mine, found);
            is_near = found[0] <= limit;
        }
        const unsigned near = __ballot_sync(ALL_LANES, is_near);
        if (near == 0) continue;
        const unsigned slot = digits == 0 ? 0 : found[0], same = lanes_like(slot, near, digits);
        const unsigned here = is_near ? before[slot] : 0;
        __syncthreads();
        if (is_near && (same & lower) == 0) before[slot] = here + __popc(same);
        __syncthreads();
        const word rank = (word)here + __popc(same & lower);
        if (is_near && rank < room) {
            places[first + rank] = (unsigned)(base + i);
            if (keys != nullptr) {
                const bool is_relevant =
                    shared_classes(labels, row, i, classes, first_class[query], first_class[query + 1]) > 0;
                keys[first + rank] = (unsigned short)(2 * found[0] + (is_relevant ? 1 : 0));
            }
        }
    }
    __syncthreads();
    for (unsigned i = lane; i < slots; i += WARP) saved[i] = before[i];
}

// How many of `gone`, which ascend, stand before the item that has `place` among those that are left.
__device__ unsigned gone_before(const unsigned* __restrict__ gone, unsigned count, word place)
{
    unsigned low = 0, high = count;
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        if (gone[middle] - middle <= place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// How many items are left before `position`.
__device__ word left_before(const unsigned* __restrict__ gone, unsigned count, word position)
{
    unsigned low = 0, high = count;
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        if (gone[middle] < position)
            low = middle + 1;
        else
            high = middle;
    }
    return position - low;
}

// Adds up the precisions at relevant codes within each cut, and counts those codes. A warp walks the part for one query.
// `next` is [queries, levels]: codes, and relevant ones above them by 32 bits, that rank before the next one of a distance.
// Codes from distance `reads` on do not count. `sums` and `hits` are [queries, cuts, SUMS]; of each strip of items that are
// left, hit number h is added to sum h % SUMS. All of this, and `in_strip`, hits in the strip so far, goes on in the next part.
extern "C" __global__ void __launch_bounds__(32)
    rank(const word* __restrict__ above, const word* __restrict__ not_below, const word* __restrict__ labels, word codes,
         word row, word base, int width, const word* __restrict__ words, const unsigned* __restrict__ classes,
         const unsigned* __restrict__ first_class, unsigned levels, int digits, const unsigned* __restrict__ reads,
         const unsigned* __restrict__ gone, const unsigned* __restrict__ first_gone, const unsigned* __restrict__ cuts,
         unsigned cut_count, word* next, double* sums, unsigned* hits, unsigned* first_hit, unsigned* in_strip)
{
    extern __shared__ word shared[];
    const int length = not_below == nullptr ? width : 2 * width;
    const unsigned slots = cut_count * SUMS;
    word* mine = shared;
    word* before = mine + length;
    double* precision = (double*)(before + levels);
    double* sum = precision + WARP;
    unsigned* rank_of = (unsigned*)(sum + slots);
    unsigned* hit = rank_of + WARP;
    unsigned* cut = hit + slots;

    const unsigned query = blockIdx.x, lane = threadIdx.x, lower = (1u << lane) - 1;
    for (unsigned i = lane; i < (unsigned)length; i += WARP) mine[i] = words[(word)query * length + i];
    for (unsigned i = lane; i < levels; i += WARP) before[i] = next[(word)query * levels + i];
    for (unsigned i = lane; i < slots; i += WARP) {
        sum[i] = sums[(word)query * slots + i];
        hit[i] = hits[(word)query * slots + i];
    }
    for (unsigned i = lane; i < cut_count; i += WARP) cut[i] = cuts[(word)query * cut_count + i];
    __syncthreads();

    const unsigned* out = gone + first_gone[query];
    const unsigned out_count = first_gone[query + 1] - first_gone[query];
    const word from = left_before(out, out_count, base), to = left_before(out, out_count, base + codes);
    const unsigned read = reads[query], class0 = first_class[query], class1 = first_class[query + 1];
    unsigned done = in_strip[query], best = ALL_LANES;
    for (word tile = from / WARP * WARP; tile < to; tile += WARP) {
        if (tile % STRIP == 0 && from <= tile) done = 0;
        const word place = tile + lane;
        unsigned found[1] = {0};
        bool counts = place >= from && place < to, is_relevant = false;
        if (counts) {
            const word i = place + gone_before(out, out_count, place) - base;
            distances<1>(above, not_below, codes, width, i, mine, found);
            counts = found[0] < read;
            is_relevant = counts && shared_classes(labels, row, i, classes, class0, class1) > 0;
        }
        const unsigned all = __ballot_sync(ALL_LANES, counts), relevant = __ballot_sync(ALL_LANES, is_relevant);
        if (all == 0) continue;
        const unsigned same = lanes_like(found[0], all, digits);
        const word here = counts ? before[found[0]] : 0;
        __syncthreads();
        if (counts && (same & lower) == 0)
            before[found[0]] = here + (unsigned)__popc(same) + ((word)__popc(same & relevant) << 32);
        if (is_relevant) {
            const unsigned rank = (unsigned)here + __popc(same & lower) + 1;
            const unsigned hits_here = (unsigned)(here >> 32) + __popc(same & lower & relevant) + 1;
            const unsigned number = __popc(relevant & lower);
            rank_of[number] = rank;
            precision[number] = (double)hits_here / (double)rank;
            if (rank < best) best = rank;
        }
        __syncthreads();
        // Each sum belongs to one lane, which adds to it in the order of the database.
        const unsigned count = __popc(relevant);
        for (unsigned slot = lane; slot < slots; slot += WARP) {
            const unsigned last = cut[slot / SUMS];
            for (unsigned number = (slot - done) % SUMS; number < count; number += SUMS) {
                if (rank_of[number] <= last) {
                    sum[slot] += precision[number];
                    hit[slot] += 1;
                }
            }
        }
        done += count;
    }
    __syncthreads();
    for (unsigned i = lane; i < levels; i += WARP) next[(word)query * levels + i] = before[i];
    for (unsigned i = lane; i < slots; i += WARP) {
        sums[(word)query * slots + i] = sum[i];
        hits[(word)query * slots + i] = hit[i];
    }
    if (lane == 0) in_strip[query] = done;
    atomicMin(&first_hit[query], best);
}

// Adds up the ones of every word, changed by the first word of each query: as many population counts as distances of codes
// of one word need, and nothing else.
extern "C" __global__ void __launch_bounds__(256)
    total(const word* __restrict__ above, word count, word chunk, const word* __restrict__ words, unsigned queries,
          int length, word* sum)
{
    const unsigned first = blockIdx.y * GROUP;
    word changes[GROUP];
#pragma unroll
    for (int q = 0; q < GROUP; ++q) changes[q] = first + q < queries ? words[(word)(first + q) * length] : 0;
    const int here = queries - first < GROUP ? (int)(queries - first) : GROUP;
    const word from = blockIdx.x * chunk, to = from + chunk < count ? from + chunk : count;
    word ones = 0;
    for (word i = from + threadIdx.x; i < to; i += blockDim.x) {
        const word a = __ldg(above + i);
        unsigned found = 0;
#pragma unroll
        for (int q = 0; q < GROUP; ++q)
            if (q < here) found += __popcll(a ^ changes[q]);
        ones += found;
    }
    for (int step = 16; step > 0; step /= 2) ones += __shfl_down_sync(ALL_LANES, ones, step);
    if (threadIdx.x % WARP == 0) atomicAdd(sum, ones);
}
