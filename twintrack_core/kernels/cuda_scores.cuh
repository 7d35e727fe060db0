/* What both CUDA kernels share: loading voxels, averaging members, rounding to codes, reporting what is invalid.

   cuda.py puts in front of this file: Score (unsigned integer as wide as a stored score), MEMBERS (0: known at run time
   only), CLIP, N_CODES, LOWEST_VALID, HIGHEST_VALID, THREADS.

   A thread takes a group of neighbouring voxels at a time, as many as fill 16 bytes of the widest array, so that the
   lanes of a warp read and write whole cache lines. Voxels that do not fill groups are taken one at a time, by one
   block; they are fewer than 64, and so no more than its threads. */

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr unsigned long long NOWHERE = ~0ull; /* place of the first invalid voxel where there is none */
constexpr unsigned NEGATIVE_ZEROS = 0x80008000u;
constexpr bool HALVES = sizeof(Score) == 2, BYTES = sizeof(Score) == 1;
constexpr int MOST_VOXELS = MEMBERS == 1 ? 16 : 8; /* of a group: more sums would not fit the registers */

#ifdef __CUDACC__ /* the tests compile the rest of this text with a C++ compiler, and bring their own of these */

#define SHARED_MEMORY(name) extern __shared__ uint4 name[]

__device__ __forceinline__ float float_of_half(unsigned bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((unsigned short)bits));
    return value;
}

/* Two floats rounded to nearest-even halves, the first in the low bits. */
__device__ __forceinline__ unsigned halves_of_floats(float low, float high)
{
#if __CUDA_ARCH__ >= 800
    unsigned halves;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(halves) : "f"(high), "f"(low));
    return halves;
#else
    unsigned short first, second;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(first) : "f"(low));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(second) : "f"(high));
    return first | (unsigned)second << 16;
#endif
}

#endif

__device__ __forceinline__ unsigned lane_of_thread()
{
    return threadIdx.x % 32;
}

/* 2, 4, 8 or 16 bytes as words; what is read once should not displace tables from the caches, hence __ldcs. */
template <int SIZE> struct Words {
    static constexpr int COUNT = SIZE < 4 ? 1 : SIZE / 4;
    unsigned word[COUNT];
};

template <int SIZE> __device__ __forceinline__ Words<SIZE> load_aligned(const void *at)
{
    if constexpr (SIZE == 16) {
        const uint4 loaded = __ldcs(static_cast<const uint4 *>(at));
        return {{loaded.x, loaded.y, loaded.z, loaded.w}};
    } else if constexpr (SIZE == 8) {
        const uint2 loaded = __ldcs(static_cast<const uint2 *>(at));
        return {{loaded.x, loaded.y}};
    } else if constexpr (SIZE == 4) {
        return {{__ldcs(static_cast<const unsigned *>(at))}};
    } else {
        return {{__ldcs(static_cast<const unsigned short *>(at))}};
    }
}

/* The 64 bits that begin `bytes` (0 to 7) after the low end of two words. */
__device__ __forceinline__ unsigned long long shifted(unsigned long long low, unsigned long long high, unsigned bytes)
{
    return bytes ? low >> 8 * bytes | high << (64 - 8 * bytes) : low;
}

/* Loads that need not be aligned are put together from the two aligned ones around them, without a branch: loads of
   several arrays then still start together, and the second finds its line in L1. */
template <int SIZE, bool ALIGNED> __device__ __forceinline__ Words<SIZE> load(const void *at)
{
    if constexpr (ALIGNED)
        return load_aligned<SIZE>(at);
    const unsigned past = reinterpret_cast<unsigned long long>(at) % SIZE;
    const unsigned char *start = static_cast<const unsigned char *>(at) - past;
    const Words<SIZE> low = load_aligned<SIZE>(start), high = load_aligned<SIZE>(start + SIZE);
    if constexpr (SIZE == 16) {
        const unsigned long long a = low.word[0] | (unsigned long long)low.word[1] << 32;
        const unsigned long long b = low.word[2] | (unsigned long long)low.word[3] << 32;
        const unsigned long long c = high.word[0] | (unsigned long long)high.word[1] << 32;
        const unsigned long long d = high.word[2] | (unsigned long long)high.word[3] << 32;
        const bool half = past >= 8;
        const unsigned long long first = shifted(half ? b : a, half ? c : b, past % 8);
        const unsigned long long second = shifted(half ? c : b, half ? d : c, past % 8);
        return {{(unsigned)first, (unsigned)(first >> 32), (unsigned)second, (unsigned)(second >> 32)}};
    } else if constexpr (SIZE == 8) {
        const unsigned long long all = shifted(low.word[0] | (unsigned long long)low.word[1] << 32,
                                               high.word[0] | (unsigned long long)high.word[1] << 32, past);
        return {{(unsigned)all, (unsigned)(all >> 32)}};
    } else {
        const unsigned long long all = low.word[0] | (unsigned long long)high.word[0] << 8 * SIZE;
        return {{(unsigned)(all >> 8 * past)}};
    }
}

template <int SIZE> __device__ __forceinline__ bool is_aligned(const void *at)
{
    return reinterpret_cast<unsigned long long>(at) % SIZE == 0;
}

/* Bits of one stored item of a group. */
template <typename Item, int SIZE> __device__ __forceinline__ unsigned item(const Words<SIZE> &words, int i)
{
    constexpr int PER_WORD = 4 / sizeof(Item);
    return words.word[i / PER_WORD] >> i % PER_WORD * 8 * sizeof(Item) & ~0u >> 8 * (4 - sizeof(Item));
}

/* Score of stored bits. k / 255 is k times a reciprocal and one step of Newton's: a division would cost more than the
   byte takes to load, and all 256 come out the same. Added to 2^23, a byte is the low bits of a float. */
__device__ __forceinline__ float score_of(unsigned bits)
{
    if constexpr (HALVES)
        return float_of_half(bits);
    if constexpr (!BYTES)
        return __uint_as_float(bits);
    constexpr float RECIPROCAL = 1.0f / 255.0f;
    const float k = __fadd_rn(__uint_as_float(0x4b000000u | bits), -8388608.0f);
    const float near = __fmul_rn(k, RECIPROCAL);
    return __fmaf_rn(__fmaf_rn(-near, 255.0f, k), RECIPROCAL, near);
}

/* A score as it is averaged; sets `invalid` if it must not be. Comparisons are false for NaN. */
__device__ __forceinline__ float checked(float score, bool &invalid)
{
    if constexpr (BYTES)
        return score;
    if constexpr (CLIP) {
        invalid |= score != score;
        return fminf(fmaxf(score, 0.0f), 1.0f);
    }
    invalid |= !(score >= LOWEST_VALID && score <= HIGHEST_VALID);
    return score;
}

/* Two codes of valid means, the first in the low bits; a mean that rounds to zero may be negative. */
__device__ __forceinline__ unsigned codes_of(float low, float high)
{
    return halves_of_floats(low, high) & ~NEGATIVE_ZEROS;
}

/* Division by the number of members, exact as IEEE's but without its branches: two steps of Newton's, of which the first
   comes within one unit of the last place and the second rounds correctly, the reciprocal being rounded correctly too
   (Markstein 1990). Remainders may underflow for totals below 1e-30 only, which round to code 0 either way. */
struct Divisor {
    float number, reciprocal;

    __device__ __forceinline__ explicit Divisor(int members) : number((float)members)
    {
        if constexpr (MEMBERS > 0)
            reciprocal = 1.0f / (float)(MEMBERS > 0 ? MEMBERS : 1);
        else
            reciprocal = __fdiv_rn(1.0f, number);
    }

    __device__ __forceinline__ float mean(float total) const
    {
        float quotient = __fmul_rn(total, reciprocal);
        quotient = __fmaf_rn(__fmaf_rn(-number, quotient, total), reciprocal, quotient);
        return __fmaf_rn(__fmaf_rn(-number, quotient, total), reciprocal, quotient);
    }
};

/* Code of the mean at one voxel; sets `invalid` and returns something if a score is. */
__device__ __forceinline__ unsigned code_at(const Score *scores, long long n, int members, long long voxel,
                                            bool &invalid)
{
    float total = 0.0f;
    for (int member = 0; member < members; member++)
        total = __fadd_rn(total, checked(score_of(__ldcs(scores + member * n + voxel)), invalid));
    return codes_of(Divisor(members).mean(total), 0.0f);
}

/* Codes of a group, two a word, and a bit for every voxel that has none. */
template <int VOXELS> struct Codes {
    unsigned pair[VOXELS / 2];
    unsigned invalid;

    __device__ __forceinline__ unsigned operator[](int i) const
    {
        return pair[i / 2] >> i % 2 * 16 & 0xffffu;
    }
};

/* Scores of a group. One member stays as it was loaded, so that the load can run while another group is counted; more
   are added up. Either way it is known whether all bits are zero. */
template <int VOXELS> struct Scores {
    static constexpr int SIZE = VOXELS * sizeof(Score);
    static constexpr bool STORED = MEMBERS == 1;
    Words<SIZE> stored;
    float total[STORED ? 1 : VOXELS];
    unsigned bits, invalid;

    template <bool ALIGNED>
    __device__ __forceinline__ void read(const Score *scores, long long n, int members, long long voxel)
    {
        if constexpr (STORED) {
            stored = load<SIZE, ALIGNED>(scores + voxel);
            return;
        }
        bits = invalid = 0;
#pragma unroll
        for (int i = 0; i < VOXELS; i++)
            total[i] = 0.0f;
        if constexpr (MEMBERS > 1 && ALIGNED) {
            Words<SIZE> row[MEMBERS > 1 ? MEMBERS : 1];
#pragma unroll
            for (int member = 0; member < MEMBERS; member++)
                row[member] = load<SIZE, ALIGNED>(scores + member * n + voxel);
#pragma unroll
            for (int member = 0; member < MEMBERS; member++)
                add(row[member]);
        } else {
#pragma unroll(ALIGNED ? 4 : 2) /* the latter are two loads each */
            for (int member = 0; member < members; member++)
                add(load<SIZE, ALIGNED>(scores + member * n + voxel));
        }
    }

    __device__ __forceinline__ void add(const Words<SIZE> &row)
    {
#pragma unroll
        for (int i = 0; i < Words<SIZE>::COUNT; i++)
            bits |= row.word[i];
#pragma unroll
        for (int i = 0; i < VOXELS; i++) {
            bool wrong = false;
            total[i] = __fadd_rn(total[i], checked(score_of(item<Score>(row, i)), wrong));
            invalid |= (unsigned)wrong << i;
        }
    }

    __device__ __forceinline__ bool are_zero() const
    {
        if constexpr (!STORED)
            return bits == 0;
        unsigned any = 0;
#pragma unroll
        for (int i = 0; i < Words<SIZE>::COUNT; i++)
            any |= stored.word[i];
        return any == 0;
    }

    __device__ __forceinline__ Codes<VOXELS> codes(int members) const
    {
        if constexpr (STORED && HALVES)
            return codes_of_halves();
        const Divisor divisor(MEMBERS ? MEMBERS : members);
        Codes<VOXELS> result;
        float mean[VOXELS];
        result.invalid = STORED ? 0 : invalid;
#pragma unroll
        for (int i = 0; i < VOXELS; i++) {
            if constexpr (STORED) {
                bool wrong = false;
                mean[i] = checked(score_of(item<Score>(stored, i)), wrong);
                result.invalid |= (unsigned)wrong << i;
            } else {
                mean[i] = divisor.mean(total[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < VOXELS; i += 2)
            result.pair[i / 2] = codes_of(mean[i], mean[i + 1]);
        return result;
    }

    /* Halves from 0 to 1 are their own codes. Only a group that holds anything else, -0 included, is looked at voxel by
       voxel. Without a sign, adding 0x43ff carries into the sign bit exactly above 0x3c00. */
    __device__ __forceinline__ Codes<VOXELS> codes_of_halves() const
    {
        Codes<VOXELS> result;
        unsigned others = 0;
        result.invalid = 0;
#pragma unroll
        for (int i = 0; i < VOXELS / 2; i++) {
            result.pair[i] = stored.word[i];
            others |= stored.word[i] | ((stored.word[i] & ~NEGATIVE_ZEROS) + 0x43ff43ffu);
        }
        if (others & NEGATIVE_ZEROS) {
#pragma unroll
            for (int i = 0; i < VOXELS; i += 2) {
                bool first = false, second = false;
                const float low = checked(score_of(item<Score>(stored, i)), first);
                const float high = checked(score_of(item<Score>(stored, i + 1)), second);
                result.pair[i / 2] = codes_of(low, high);
                result.invalid |= (unsigned)first << i | (unsigned)second << (i + 1);
            }
        }
        return result;
    }
};

/* Which voxels are taken in groups: `groups` of them from `start` on. Groups of arrays that are not aligned keep away
   from both ends, because their loads reach over those of the group. */
template <int VOXELS> struct Grouping {
    long long start, groups;

    __device__ __forceinline__ Grouping(long long n, long long head, bool aligned) : start(head), groups(0)
    {
        if (!aligned)
            start += VOXELS;
        if (n > start)
            groups = (n - start) / VOXELS - !aligned;
        if (groups <= 0)
            start = groups = 0;
    }

    __device__ __forceinline__ long long first_voxel(long long group) const
    {
        return start + group * VOXELS;
    }

    /* Of the voxels outside of groups the one that a thread takes, n or more if there is none for it. */
    __device__ __forceinline__ long long single() const
    {
        return threadIdx.x < start ? threadIdx.x : threadIdx.x + groups * VOXELS;
    }
};

/* Voxels until an array is aligned to the bytes of a group. */
template <int SIZE, typename Item> __device__ __forceinline__ long long voxels_to_alignment(const Item *array)
{
    return (SIZE - reinterpret_cast<unsigned long long>(array) % SIZE) % SIZE / sizeof(Item);
}

/* Invalid voxels that one thread saw, in the order of their places. */
struct Invalid {
    unsigned count = 0;
    unsigned long long first = NOWHERE;

    __device__ __forceinline__ void note(unsigned bits, long long voxel)
    {
        if (bits == 0)
            return;
        count += __popc(bits);
        const unsigned long long place = voxel + __ffs(bits) - 1;
        first = place < first ? place : first;
    }

    /* Add up what the lanes of a warp saw, all of which must call this. A place is handed on as its complement, so that
       findings begin as zeros, which a device fills in by itself. */
    __device__ __forceinline__ void report(unsigned long long *findings)
    {
        if (!__any_sync(ALL_LANES, count != 0))
            return;
#pragma unroll
        for (int step = 16; step; step /= 2) {
            count += __shfl_xor_sync(ALL_LANES, count, step);
            const unsigned long long other = __shfl_xor_sync(ALL_LANES, first, step);
            first = other < first ? other : first;
        }
        if (lane_of_thread() == 0) {
            atomicAdd(findings, (unsigned long long)count);
            atomicMax(findings + 1, ~first);
        }
    }
};
