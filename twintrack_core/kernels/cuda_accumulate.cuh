/* Counting voxels. cuda.py puts in front: PATTERNS (a power of two), REGIONS, PLANES, SLOTS, and ahead of those what
   cuda_scores.cuh needs.

   Counts go to the nearest place that takes them:

   - background, all bits zero, to a register of the thread, by groups: nearly all voxels of most volumes;
   - unmarked voxels to a private copy of their plane of the table in shared memory, where there is room for it: all
     codes of a softmax occur there, 61 KB a region;
   - others to a small cache of cells in shared memory. Who comes first takes a slot, so it is emptied now and then, or
     cells that were frequent once would keep out those that are frequent now;
   - what finds no slot, to the table itself, which lies in L2 (3.9 MB at most for five raters). Uniformly random scores
     and patterns end here, and cannot be merged by anyone.

   All but the first are atomic, and atomics to one address wait for each other. So a warp whose voxels are all the same
   is counted once a group, and otherwise lanes with the same cell are merged first, where two neighbours have one: that
   test costs two instructions and misses no cell that half of the lanes share. */

constexpr int VOXELS = BYTES ? MOST_VOXELS : 16 / sizeof(Score);
constexpr unsigned EVERY_VOXEL = (1u << VOXELS) - 1;
constexpr unsigned PLANE_CELLS = N_CODES, REGION_CELLS = PATTERNS * N_CODES;
constexpr int PRIVATE_CELLS = PLANES * N_CODES, N_SLOTS = SLOTS; /* either may be none */
constexpr unsigned NO_CELL = ~0u;
constexpr unsigned WAYS = 2;            /* slots that a cell may take */
constexpr int TILES_BETWEEN_FLUSHES = 64;
constexpr unsigned BITS_OF_UNKNOWN = 0x01010101u * (255 & ~(PATTERNS - 1)); /* set in a pattern that there is not */
constexpr unsigned HIGH_BITS = 0x80808080u;

typedef Words<VOXELS> Bytes; /* votes or region of a group */

/* The high bit of every byte that is not zero. */
__device__ __forceinline__ unsigned non_zero(unsigned bytes)
{
    return (((bytes & ~HIGH_BITS) + ~HIGH_BITS) | bytes) & HIGH_BITS;
}

struct Table {
    unsigned *cells, *planes, *tags, *counts;

    __device__ __forceinline__ Table(unsigned *table, uint4 *memory)
        : cells(table), planes(reinterpret_cast<unsigned *>(memory)), tags(planes + PRIVATE_CELLS),
          counts(tags + SLOTS)
    {
        for (int i = threadIdx.x; i < PRIVATE_CELLS; i += blockDim.x)
            planes[i] = 0;
        for (int i = threadIdx.x; i < N_SLOTS; i += blockDim.x) {
            tags[i] = NO_CELL;
            counts[i] = 0;
        }
    }

    /* Planes are those of the last regions: with room for one, it is that of the inside. */
    __device__ __forceinline__ void add(unsigned cell, unsigned count)
    {
        const unsigned region = REGIONS > 1 && cell >= REGION_CELLS;
        const unsigned place = cell - region * REGION_CELLS;
        if (PLANES && place < PLANE_CELLS && region + PLANES >= REGIONS) {
            atomicAdd(planes + (region - (REGIONS - PLANES)) * PLANE_CELLS + place, count);
            return;
        }
        if constexpr (SLOTS > 0) {
            const unsigned slot = cell * 2654435769u >> (32 - SLOT_BITS);
#pragma unroll
            for (unsigned way = 0; way < WAYS; way++) {
                unsigned tag = *static_cast<volatile unsigned *>(tags + (slot ^ way));
                if (tag == NO_CELL) {
                    tag = atomicCAS(tags + (slot ^ way), NO_CELL, cell);
                    tag = tag == NO_CELL ? cell : tag;
                }
                if (tag == cell) {
                    atomicAdd(counts + (slot ^ way), count);
                    return;
                }
            }
        }
        atomicAdd(cells + cell, count);
    }

    /* The same, called by all lanes of a warp, of which some may have NO_CELL. */
    __device__ __forceinline__ void add_merged(unsigned cell, unsigned count)
    {
        const unsigned neighbour = __shfl_xor_sync(ALL_LANES, cell, 1);
        bool mine = cell != NO_CELL;
        if (__any_sync(ALL_LANES, mine && cell == neighbour)) {
            const unsigned same = __match_any_sync(ALL_LANES, cell);
            mine = mine && lane_of_thread() + 1 == (unsigned)__ffs(same);
            count *= __popc(same);
        }
        if (mine)
            add(cell, count);
    }

    /* Empty the cache. Barriers are the caller's. */
    __device__ __forceinline__ void flush_slots()
    {
        for (int i = threadIdx.x; i < N_SLOTS; i += blockDim.x) {
            if (counts[i])
                atomicAdd(cells + tags[i], counts[i]);
            tags[i] = NO_CELL;
            counts[i] = 0;
        }
    }

    /* Blocks begin at places of their own, or they would wait for each other's atomics all the way. */
    __device__ __forceinline__ void flush_planes()
    {
        const int offset = (long long)PRIVATE_CELLS * blockIdx.x / gridDim.x;
        for (int i = threadIdx.x; i < PRIVATE_CELLS; i += blockDim.x) {
            const int at = i + offset < PRIVATE_CELLS ? i + offset : i + offset - PRIVATE_CELLS;
            const unsigned region = REGIONS - PLANES + at / PLANE_CELLS;
            if (planes[at])
                atomicAdd(cells + region * REGION_CELLS + at % PLANE_CELLS, planes[at]);
        }
    }
};

struct Input {
    const Score *scores;
    long long n;
    int members;
    const unsigned char *votes, *region;
};

struct Group {
    Scores<VOXELS> scores;
    Bytes votes, region;

    template <bool ALIGNED> __device__ __forceinline__ void read(const Input &input, long long voxel)
    {
        scores.template read<ALIGNED>(input.scores, input.n, input.members, voxel);
        if (input.votes)
            votes = load<VOXELS, ALIGNED>(input.votes + voxel);
        if constexpr (REGIONS > 1)
            region = load<VOXELS, ALIGNED>(input.region + voxel);
    }

    __device__ __forceinline__ bool is_inside(int i) const
    {
        return REGIONS > 1 && item<unsigned char>(region, i) != 0;
    }

    __device__ __forceinline__ unsigned voxels_inside() const
    {
        unsigned inside = 0;
        if constexpr (REGIONS > 1) {
#pragma unroll
            for (int i = 0; i < Bytes::COUNT; i++)
                inside += __popc(non_zero(region.word[i]));
        }
        return inside;
    }

    __device__ __forceinline__ bool is_unmarked() const
    {
        unsigned marks = 0;
#pragma unroll
        for (int i = 0; i < Bytes::COUNT; i++)
            marks |= votes.word[i];
        return marks == 0;
    }

    __device__ __forceinline__ unsigned unknown_patterns() const
    {
        unsigned unknown = 0, any = 0;
#pragma unroll
        for (int i = 0; i < Bytes::COUNT; i++)
            any |= votes.word[i] & BITS_OF_UNKNOWN;
        if (any) {
#pragma unroll
            for (int i = 0; i < VOXELS; i++)
                unknown |= (unsigned)(item<unsigned char>(votes, i) >= PATTERNS) << i;
        }
        return unknown;
    }

    /* Whether all voxels belong to one cell, their scores and patterns being valid. */
    __device__ __forceinline__ bool is_uniform(const Codes<VOXELS> &codes) const
    {
        const unsigned first_vote = __byte_perm(votes.word[0], 0, 0);
        unsigned differences = codes.pair[0] ^ __byte_perm(codes.pair[0], 0, 0x1010);
#pragma unroll
        for (int i = 1; i < VOXELS / 2; i++)
            differences |= codes.pair[i] ^ codes.pair[0];
#pragma unroll
        for (int i = 0; i < Bytes::COUNT; i++)
            differences |= votes.word[i] ^ first_vote;
        const unsigned inside = voxels_inside();
        return differences == 0 && (inside == 0 || inside == VOXELS);
    }
};

/* What a thread counts by itself until the end. */
struct Counter {
    Table table;
    unsigned background[REGIONS] = {};
    Invalid scores, votes;

    __device__ __forceinline__ Counter(unsigned *cells, uint4 *memory) : table(cells, memory)
    {
    }

    __device__ __forceinline__ void add_background(unsigned voxels, unsigned inside)
    {
        background[0] += voxels - inside;
        if constexpr (REGIONS > 1)
            background[1] += inside;
    }

    /* Count a group; called by all lanes of a warp, of which some may have none. */
    __device__ __forceinline__ void count(const Group &group, bool there_is_one, long long voxel, int members)
    {
        unsigned left = there_is_one ? EVERY_VOXEL : 0;
        if (there_is_one && group.scores.are_zero() && group.is_unmarked()) {
            const unsigned inside = group.voxels_inside();
            add_background(VOXELS, inside);
            left = 0;
        }
        if (!__any_sync(ALL_LANES, left))
            return;
        const Codes<VOXELS> codes = group.scores.codes(members);
        if (left) {
            const unsigned unknown = group.unknown_patterns();
            scores.note(codes.invalid, voxel);
            votes.note(unknown, voxel);
            left &= ~(codes.invalid | unknown);
        }
        const bool at_once = left == EVERY_VOXEL && group.is_uniform(codes);
        if (__all_sync(ALL_LANES, left == 0 || at_once)) {
            table.add_merged(left ? cell_of(group, codes, 0) : NO_CELL, VOXELS);
            return;
        }
#pragma unroll
        for (int i = 0; i < VOXELS; i++) {
            unsigned cell = NO_CELL;
            if (left >> i & 1) {
                cell = cell_of(group, codes, i);
                const bool inside = group.is_inside(i);
                if (cell == inside * REGION_CELLS) { /* the rest of a background: a register has no neighbours */
                    add_background(1, inside);
                    cell = NO_CELL;
                }
            }
            table.add_merged(cell, 1);
        }
    }

    __device__ __forceinline__ unsigned cell_of(const Group &group, const Codes<VOXELS> &codes, int i) const
    {
        return group.is_inside(i) * REGION_CELLS + item<unsigned char>(group.votes, i) * N_CODES + codes[i];
    }

    /* Count one voxel outside of groups. */
    __device__ __forceinline__ void count_single(const Input &input, long long voxel)
    {
        unsigned cell = NO_CELL;
        if (voxel < input.n) {
            bool invalid = false;
            const unsigned code = code_at(input.scores, input.n, input.members, voxel, invalid);
            const unsigned pattern = input.votes ? __ldcs(input.votes + voxel) : 0;
            const bool inside = REGIONS > 1 && __ldcs(input.region + voxel) != 0;
            scores.note(invalid, voxel);
            votes.note(pattern >= PATTERNS, voxel);
            if (!invalid && pattern < PATTERNS)
                cell = inside * REGION_CELLS + pattern * N_CODES + code;
        }
        table.add_merged(cell, 1);
    }

    /* Hand everything on. All threads of the block call this. */
    __device__ __forceinline__ void finish(unsigned long long *findings)
    {
#pragma unroll
        for (unsigned region = 0; region < REGIONS; region++) {
            unsigned voxels = background[region];
#pragma unroll
            for (int step = 16; step; step /= 2)
                voxels += __shfl_xor_sync(ALL_LANES, voxels, step);
            if (lane_of_thread() == 0 && voxels)
                table.add(region * REGION_CELLS, voxels);
        }
        scores.report(findings);
        votes.report(findings + 2);
        __syncthreads(); /* all counts are in */
        table.flush_slots();
        table.flush_planes();
    }
};

/* Blocks take tiles of one group a thread in turn. Loops have as many rounds for every thread of a block, because warps
   merge and blocks flush together. With one member the next group is on its way while this one is counted. */
template <bool ALIGNED>
__device__ __forceinline__ void count_groups(const Input &input, const Grouping<VOXELS> &grouping, Counter &counter)
{
    constexpr bool AHEAD = MEMBERS == 1;
    const long long tiles = (grouping.groups + blockDim.x - 1) / blockDim.x;
    long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long stride = (long long)gridDim.x * blockDim.x;
    Group next = {};
    if (place < grouping.groups)
        next.read<ALIGNED>(input, grouping.first_voxel(place));
    int until_flush = TILES_BETWEEN_FLUSHES;
    for (long long tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const Group group = next;
        const long long voxel = grouping.first_voxel(place);
        const bool there_is_one = place < grouping.groups;
        place += stride;
        const bool more = place < grouping.groups;
        if (AHEAD && more)
            next.read<ALIGNED>(input, grouping.first_voxel(place));
        counter.count(group, there_is_one, voxel, input.members);
        if (!AHEAD && more)
            next.read<ALIGNED>(input, grouping.first_voxel(place));
        if (SLOTS && --until_flush == 0) {
            until_flush = TILES_BETWEEN_FLUSHES;
            __syncthreads(); /* nobody adds to the cache while it is emptied */
            counter.table.flush_slots();
            __syncthreads(); /* nor before it is empty */
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
accumulate(const Score *scores, long long n, int members, const unsigned char *votes, const unsigned char *region,
           unsigned *table, unsigned long long *findings)
{
    SHARED_MEMORY(memory);
    const Input input = {scores, n, MEMBERS ? MEMBERS : members, votes, region};
    Counter counter(table, memory);
    __syncthreads(); /* planes and cache are zero */
    const long long head = voxels_to_alignment<Scores<VOXELS>::SIZE>(scores);
    const bool aligned = (input.members == 1 || n % VOXELS == 0) &&
                         (votes == nullptr || is_aligned<VOXELS>(votes + head)) &&
                         (REGIONS == 1 || is_aligned<VOXELS>(region + head));
    const Grouping<VOXELS> grouping(n, head, aligned);
    if (aligned)
        count_groups<true>(input, grouping, counter);
    else
        count_groups<false>(input, grouping, counter);
    if (blockIdx.x == 0)
        counter.count_single(input, grouping.single());
    counter.finish(findings);
}

/* Move counts to 64 bits, before 32 could overflow. */
extern "C" __global__ void __launch_bounds__(THREADS)
flush(unsigned *table, long long *counts, long long cells)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < cells; i += stride) {
        counts[i] += table[i];
        table[i] = 0;
    }
}
