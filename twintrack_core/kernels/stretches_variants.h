/* stretches.h once for any processor and once for x86-64 with AVX2 and F16C, chosen when a kernel is called; and what
   does not depend on the instruction set. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAVE_AVX2_VARIANT 1
#include <cpuid.h>
#include <immintrin.h>
#endif

/* As in twintrack_core.codes; compared when the module is imported. */
#define CODE_ONE 0x3C00
#define N_CODES (CODE_ONE + 1)
#define CODE_NEGATIVE_ZERO 0x8000
#define LOWEST_VALID (-0x1p-25f)
#define HIGHEST_VALID (1.0f + 0x1p-11f)

#define INVALID N_CODES /* where a look-up table keeps the value for invalid scores */
#define STRETCH 1024
#define BLOCK 64
#define WORTH_A_SECOND_TABLE (1 << 16) /* voxels */

enum scores_dtype { SCORES_FLOAT16, SCORES_FLOAT32, SCORES_UINT8 };

enum stretch_kind { STRETCH_EMPTY, STRETCH_CODES, STRETCH_SCORES }; /* all zero bits; codes as they are; anything */

struct scores { /* (members, n), C-contiguous */
    enum scores_dtype dtype;
    const uint8_t *data;
    size_t members, n;
};

struct table { /* the planes outside and inside the region, (patterns, N_CODES) each; both are one without a region */
    uint32_t *outside, *inside;
    size_t patterns;
};

static inline size_t scores_itemsize(enum scores_dtype dtype)
{
    return dtype == SCORES_FLOAT16 ? 2 : dtype == SCORES_FLOAT32 ? 4 : 1;
}

/* Ask for the scores of the next stretch, which arrive while the codes of this one are made. */
static inline void prefetch_next(const struct scores *scores, const uint8_t *const *rows, size_t n)
{
#ifdef __GNUC__
    const size_t bytes = n * scores_itemsize(scores->dtype);
    for (size_t member = 0; member < scores->members; member++)
        for (size_t i = 0; i < bytes; i += 64)
            __builtin_prefetch(rows[member] + bytes + i, 0, 2);
#else
    (void)scores, (void)rows, (void)n;
#endif
}

/* Voxels taken together. Codes that must be written first are read again only when their stores have left the store
   buffer, which forwards no halves of vectors; codes that are there already need no such distance, and a short stretch
   lets the memory run while the scatter does. */
static inline size_t stretch_of(const struct scores *scores)
{
    return scores->dtype == SCORES_FLOAT16 && scores->members == 1 ? 4 * BLOCK : STRETCH;
}

/* Value of a half's bits, by arithmetic that no processor mode can flush to zero. NaN and infinity become finite values
   above 1. */
static inline float float_of_half(uint16_t half)
{
    const uint32_t magnitude = half & 0x7fff, bits = (magnitude << 13) + (112u << 23);
    float value;
    memcpy(&value, &bits, 4);
    value = magnitude < 0x400 ? (float)magnitude * 0x1p-24f : value;
    return half & 0x8000 ? -value : value;
}

static inline float score_at(enum scores_dtype dtype, const uint8_t *row, size_t i)
{
    if (dtype == SCORES_UINT8)
        return (float)row[i] / 255.0f;
    if (dtype == SCORES_FLOAT16)
        return float_of_half(((const uint16_t *)row)[i]);
    return ((const float *)row)[i];
}

/* Code of a valid score: rounded to nearest, ties to even. Below 2^-14 halves are subnormal, multiples of 2^-24 as are
   the floats from 0.5 to 1, so adding 0.5 rounds. */
static inline uint16_t code_of(float score)
{
    uint32_t bits, small_bits;
    const float small = score + 0.5f;
    memcpy(&bits, &score, 4);
    memcpy(&small_bits, &small, 4);
    const uint32_t normal = (bits + 0xfff + ((bits >> 13) & 1)) >> 13;
    const uint32_t code = score < 0x1p-14f ? small_bits - 0x3f000000 : normal - (112 << 10);
    return score <= 0.0f ? 0 : (uint16_t)code;
}

static inline int is_nan(enum scores_dtype dtype, const uint8_t *row, size_t i)
{
    if (dtype == SCORES_FLOAT16)
        return (((const uint16_t *)row)[i] & 0x7fff) > 0x7c00;
    return dtype == SCORES_FLOAT32 && ((const float *)row)[i] != ((const float *)row)[i];
}

static inline float clipped(float score)
{
    return score < 0.0f ? 0.0f : score > 1.0f ? 1.0f : score;
}

/* Code of the mean of one voxel's members, INVALID if one of them is. */
static uint16_t careful_code(enum scores_dtype dtype, const uint8_t *const *rows, size_t members, size_t i, int clip)
{
    float total = 0.0f;
    for (size_t member = 0; member < members; member++) {
        float score = score_at(dtype, rows[member], i);
        if (is_nan(dtype, rows[member], i))
            return INVALID;
        if (clip)
            score = clipped(score);
        if (!(score >= LOWEST_VALID && score <= HIGHEST_VALID))
            return INVALID;
        total += score;
    }
    return code_of(total / (float)members);
}

static void codes_carefully(const struct scores *scores, const uint8_t *const *rows, size_t start, size_t n, int clip,
                            uint16_t *codes, int64_t *found)
{
    for (size_t i = 0; i < n; i++) {
        codes[i] = careful_code(scores->dtype, rows, scores->members, i, clip);
        if (codes[i] == INVALID && found[0]++ == 0)
            found[1] = (int64_t)(start + i);
    }
}

static void scatter_carefully(const struct scores *scores, const uint8_t *const *rows, const uint8_t *votes,
                              const uint8_t *region, size_t start, size_t n, const struct table *table, int clip,
                              int64_t *found)
{
    uint16_t codes[STRETCH];
    codes_carefully(scores, rows, start, n, clip, codes, found);
    for (size_t i = 0; i < n; i++) {
        const size_t pattern = votes == NULL ? 0 : votes[i];
        uint32_t *cells = region == NULL || region[i] != 0 ? table->inside : table->outside;
        if (pattern >= table->patterns) {
            if (found[2]++ == 0)
                found[3] = (int64_t)(start + i);
        } else if (codes[i] != INVALID) {
            cells[pattern * (size_t)N_CODES + codes[i]]++;
        }
    }
}

/* Count n codes that are inside the region or not, without a branch that nobody could predict. */
static inline void scatter_mixed(const uint16_t *codes, const uint8_t *votes, const uint8_t *region, size_t n,
                                 const struct table *table)
{
    const size_t apart = (size_t)(table->inside - table->outside);
    for (size_t i = 0; i < n; i++) {
        const size_t is_inside = region == NULL || region[i] != 0;
        const size_t pattern = votes == NULL ? 0 : votes[i];
        table->outside[is_inside * apart + pattern * N_CODES + codes[i]]++;
    }
}

/* A second table for the unmarked cells of a plane, made when it is first asked for and added to them at the end. */
struct second {
    uint32_t *cells, *counts;
};

/* The second table; the cells themselves where there is no memory for one. */
static uint32_t *second_table(struct second *second)
{
    if (second->counts == NULL)
        second->counts = (uint32_t *)calloc(N_CODES, sizeof(uint32_t));
    if (second->counts == NULL)
        second->counts = second->cells;
    return second->counts;
}

static void second_add(const struct second *second)
{
    if (second->counts == NULL || second->counts == second->cells)
        return;
    for (size_t code = 0; code < N_CODES; code++)
        second->cells[code] += second->counts[code];
    free(second->counts);
}

#define VARIANT(name) name##_portable
#include "stretches.h"
#undef VARIANT

#ifdef HAVE_AVX2_VARIANT
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif
#define STRETCHES_F16C
#define VARIANT(name) name##_avx2
#include "stretches.h"
#undef VARIANT
#undef STRETCHES_F16C
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

static int has_avx2(void)
{
#ifdef HAVE_AVX2_VARIANT
    unsigned eax, ebx, ecx = 0, edx;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
#else
    return 0;
#endif
}

static void accumulate(int avx2, const struct scores *scores, const uint8_t *votes, const uint8_t *region,
                       const struct table *table, int clip, int64_t *found, const uint8_t **rows)
{
#ifdef HAVE_AVX2_VARIANT
    if (avx2) {
        accumulate_avx2(scores, votes, region, table, clip, found, rows);
        return;
    }
#endif
    (void)avx2;
    accumulate_portable(scores, votes, region, table, clip, found, rows);
}

static void relabel(int avx2, const struct scores *scores, const void *lut, uint8_t *out, size_t item, int clip,
                    int64_t *found, const uint8_t **rows)
{
#ifdef HAVE_AVX2_VARIANT
    if (avx2) {
        relabel_avx2(scores, lut, out, item, clip, found, rows);
        return;
    }
#endif
    (void)avx2;
    relabel_portable(scores, lut, out, item, clip, found, rows);
}
