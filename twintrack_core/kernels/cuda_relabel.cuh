/* Looking codes up. cuda.py puts in front: Value (unsigned integer as wide as a result), TABLE_IN_SHARED, and ahead of
   those what cuda_scores.cuh needs.

   Look-ups are as random as the scores are. Shared memory answers 32 of them in three or four cycles, bank conflicts
   included; through L1 each would be a line of its own. So the table is copied there, 15 to 123 KB, once a block. A
   group of zeros is filled without looking anything up. */

constexpr int WIDEST = sizeof(Score) > sizeof(Value) ? sizeof(Score) : sizeof(Value);
constexpr int VOXELS = WIDEST == 1 ? MOST_VOXELS : 16 / WIDEST;
constexpr int SIZE_IN = VOXELS * sizeof(Score), SIZE_OUT = VOXELS * sizeof(Value);

/* Groups a thread loads before it looks the first one up: 32 bytes of scores where registers allow. Members are as good
   for keeping the memory busy. */
constexpr int AT_ONCE = MEMBERS != 1 ? 1 : VOXELS < 4 ? 4 : 16 / VOXELS;

typedef Words<SIZE_OUT> Values;

template <typename Item> __device__ __forceinline__ void put(Values &values, int i, Item value)
{
    if constexpr (sizeof(Item) == 8) {
        values.word[2 * i] = (unsigned)value;
        values.word[2 * i + 1] = (unsigned)(value >> 32);
    } else {
        constexpr int PER_WORD = 4 / sizeof(Item);
        values.word[i / PER_WORD] |= (unsigned)value << i % PER_WORD * 8 * sizeof(Item);
    }
}

__device__ __forceinline__ void store(Value *out, const Values &values)
{
    if constexpr (SIZE_OUT == 16)
        __stcs(reinterpret_cast<uint4 *>(out),
               make_uint4(values.word[0], values.word[1], values.word[2], values.word[3]));
    else if constexpr (SIZE_OUT == 8)
        __stcs(reinterpret_cast<uint2 *>(out), make_uint2(values.word[0], values.word[1]));
    else
        __stcs(reinterpret_cast<unsigned *>(out), values.word[0]);
}

__device__ __forceinline__ Value look_up(const Value *table, unsigned code)
{
    if constexpr (TABLE_IN_SHARED)
        return table[code];
    return __ldg(table + code);
}

__device__ __forceinline__ void relabel_group(const Scores<VOXELS> &scores, const Value *table, int members, Value *out,
                                              long long voxel, Invalid &invalid)
{
    Values values = {};
    if (scores.are_zero()) {
        const Value background = look_up(table, 0);
#pragma unroll
        for (int i = 0; i < VOXELS; i++)
            put(values, i, background);
    } else {
        const Codes<VOXELS> codes = scores.codes(members);
        invalid.note(codes.invalid, voxel);
#pragma unroll
        for (int i = 0; i < VOXELS; i++)
            put(values, i, look_up(table, codes.invalid >> i & 1 ? N_CODES : codes[i]));
    }
    store(out + voxel, values);
}

template <bool ALIGNED>
__device__ __forceinline__ void relabel_groups(const Score *scores, long long n, int members, const Value *table,
                                               Value *out, const Grouping<VOXELS> &grouping, Invalid &invalid)
{
    const long long stride = (long long)gridDim.x * blockDim.x;
#pragma unroll 1
    for (long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x; place < grouping.groups;
         place += AT_ONCE * stride) {
        Scores<VOXELS> group[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (place + i * stride < grouping.groups)
                group[i].template read<ALIGNED>(scores, n, members, grouping.first_voxel(place + i * stride));
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (place + i * stride < grouping.groups)
                relabel_group(group[i], table, members, out, grouping.first_voxel(place + i * stride), invalid);
        }
    }
}

/* One block a multiprocessor is enough: left to itself, the compiler spills to make room for two. */
extern "C" __global__ void __launch_bounds__(THREADS, 1)
relabel(const Score *scores, long long n, int members, const Value *lut, Value *out, unsigned long long *findings)
{
    SHARED_MEMORY(memory);
    const Value *table = lut;
    if constexpr (TABLE_IN_SHARED) {
        Value *copy = reinterpret_cast<Value *>(memory);
        for (unsigned i = threadIdx.x; i <= N_CODES; i += blockDim.x)
            copy[i] = __ldg(lut + i);
        __syncthreads(); /* the table is whole */
        table = copy;
    }
    const int n_members = MEMBERS ? MEMBERS : members;
    const long long head = voxels_to_alignment<SIZE_OUT>(out);
    const bool aligned = is_aligned<SIZE_IN>(scores + head) && (n_members == 1 || n % VOXELS == 0);
    const Grouping<VOXELS> grouping(n, head, aligned);
    Invalid invalid;
    if (aligned)
        relabel_groups<true>(scores, n, n_members, table, out, grouping, invalid);
    else
        relabel_groups<false>(scores, n, n_members, table, out, grouping, invalid);
    const long long single = grouping.single();
    if (blockIdx.x == 0 && single < n) {
        bool wrong = false;
        const unsigned code = code_at(scores, n, n_members, single, wrong);
        invalid.note(wrong, single);
        out[single] = look_up(table, wrong ? N_CODES : code);
    }
    invalid.report(findings);
}
