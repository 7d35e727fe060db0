/* Both kernels in C, for the instruction set that the including file has chosen; see stretches_variants.h.

   Voxels are taken in stretches. A stretch whose scores and marks are all zero bits is recognised by the OR of its words,
   or the maximum of its halves, and counted or filled without looking at its voxels. Any other one is turned into codes first, a vectorised loop that
   also tells whether every score is valid, and then scattered or looked up in blocks; a block that is all the same is
   counted at once. Only a stretch that holds something invalid takes the careful path, voxel by voxel.

   Loads of several voxels go through memcpy: arrays are only as aligned as their items. */

/* Whether any of n bytes is not zero. No early exit, so that the loop vectorises. */
static int VARIANT(any_bits)(const uint8_t *bytes, size_t n)
{
    uint64_t bits = 0, word;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, bytes + i, 8);
        bits |= word;
    }
    for (; i < n; i++)
        bits |= bytes[i];
    return bits != 0;
}

static uint8_t VARIANT(largest_byte)(const uint8_t *bytes, size_t n)
{
    uint8_t largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = bytes[i] > largest ? bytes[i] : largest;
    return largest;
}

static uint16_t VARIANT(largest_half)(const uint16_t *halves, size_t n)
{
    uint16_t largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = halves[i] > largest ? halves[i] : largest;
    return largest;
}

#ifdef STRETCHES_F16C

static inline __m256 VARIANT(load_scores)(enum scores_dtype dtype, const uint8_t *stored)
{
    switch (dtype) {
    case SCORES_FLOAT16:
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)stored));
    case SCORES_FLOAT32:
        return _mm256_loadu_ps((const float *)stored);
    default:
        return _mm256_div_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)stored))),
                             _mm256_set1_ps(255.0f));
    }
}

/* Codes of the mean of the members at eight voxels, and'ing into `valid` whether every score is. */
static inline void VARIANT(eight_codes)(enum scores_dtype dtype, const uint8_t *const *rows, size_t members, size_t at,
                                        int clip, uint16_t *codes, __m256 *valid)
{
    const size_t item = scores_itemsize(dtype);
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f);
    const __m256 lowest = _mm256_set1_ps(LOWEST_VALID), highest = _mm256_set1_ps(HIGHEST_VALID);
    __m256 total = zero;
    for (size_t member = 0; member < members; member++) {
        __m256 score = VARIANT(load_scores)(dtype, rows[member] + at * item);
        if (dtype != SCORES_UINT8 && clip) {
            *valid = _mm256_and_ps(*valid, _mm256_cmp_ps(score, score, _CMP_ORD_Q));
            score = _mm256_min_ps(_mm256_max_ps(score, zero), one);
        } else if (dtype != SCORES_UINT8) {
            *valid = _mm256_and_ps(*valid, _mm256_and_ps(_mm256_cmp_ps(score, lowest, _CMP_GE_OQ),
                                                         _mm256_cmp_ps(score, highest, _CMP_LE_OQ)));
        }
        total = _mm256_add_ps(total, score);
    }
    if (members > 1)
        total = _mm256_div_ps(total, _mm256_set1_ps((float)members));
    const __m128i rounded = _mm256_cvtps_ph(total, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m128i negative_zero = _mm_cmpeq_epi16(rounded, _mm_set1_epi16((short)CODE_NEGATIVE_ZERO));
    _mm_storeu_si128((__m128i *)codes, _mm_andnot_si128(negative_zero, rounded));
}

/* Write the codes of the first n - n % 8 voxels, and return whether all of their scores are valid. */
static inline int VARIANT(most_codes)(enum scores_dtype dtype, const uint8_t *const *rows, size_t members, size_t n,
                                      int clip, uint16_t *codes)
{
    __m256 valid = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for (size_t i = 0; i + 8 <= n; i += 8)
        VARIANT(eight_codes)(dtype, rows, members, i, clip, codes + i, &valid);
    return _mm256_movemask_ps(valid) == 0xff;
}

#else

/* The same in portable C, member by member so that compilers vectorise what they can. */
static inline int VARIANT(most_codes)(enum scores_dtype dtype, const uint8_t *const *rows, size_t members, size_t n,
                                      int clip, uint16_t *codes)
{
    float total[STRETCH];
    int invalid = 0;
    const size_t most = n - n % 8;
    for (size_t i = 0; i < most; i++)
        total[i] = 0.0f;
    for (size_t member = 0; member < members; member++) {
        const uint8_t *row = rows[member];
        for (size_t i = 0; i < most; i++) {
            const float score = score_at(dtype, row, i);
            invalid |= clip ? is_nan(dtype, row, i) : !(score >= LOWEST_VALID) | !(score <= HIGHEST_VALID);
            total[i] += clip ? clipped(score) : score;
        }
    }
    const float divisor = (float)members;
    for (size_t i = 0; i < most; i++)
        codes[i] = code_of(total[i] / divisor);
    return !invalid;
}

#endif

static inline int VARIANT(codes_of_dtype)(enum scores_dtype dtype, const uint8_t *const *rows, size_t members, size_t n,
                                          int clip, uint16_t *codes)
{
    int valid = VARIANT(most_codes)(dtype, rows, members, n, clip, codes);
    for (size_t i = n - n % 8; i < n; i++) {
        codes[i] = careful_code(dtype, rows, members, i, clip);
        valid &= codes[i] != INVALID;
    }
    return valid;
}

/* Write the codes of n voxels; 0 if a score is invalid, and then `codes` is not to be used. */
static int VARIANT(fill_codes)(enum scores_dtype dtype, const uint8_t *const *rows, size_t members, size_t n,
                               int clip, uint16_t *codes)
{
    switch (dtype) { /* each dtype, and one member, compiled on its own */
    case SCORES_FLOAT16:
        return VARIANT(codes_of_dtype)(SCORES_FLOAT16, rows, members, n, clip, codes);
    case SCORES_FLOAT32:
        if (members == 1)
            return VARIANT(codes_of_dtype)(SCORES_FLOAT32, rows, 1, n, clip, codes);
        return VARIANT(codes_of_dtype)(SCORES_FLOAT32, rows, members, n, clip, codes);
    default:
        if (members == 1)
            return VARIANT(codes_of_dtype)(SCORES_UINT8, rows, 1, n, clip, codes);
        return VARIANT(codes_of_dtype)(SCORES_UINT8, rows, members, n, clip, codes);
    }
}

/* The codes of a stretch: the scores themselves if they are that, else written to `buffer`; NULL if one is invalid. */
static const uint16_t *VARIANT(stretch_codes)(enum stretch_kind kind, const struct scores *scores,
                                              const uint8_t *const *rows, size_t n, int clip, uint16_t *buffer)
{
    if (kind == STRETCH_CODES)
        return (const uint16_t *)rows[0];
    prefetch_next(scores, rows, n);
    return VARIANT(fill_codes)(scores->dtype, rows, scores->members, n, clip, buffer) ? buffer : NULL;
}

static int VARIANT(same_codes)(const uint16_t *codes)
{
    if (codes[0] != codes[BLOCK - 1] || codes[0] != codes[BLOCK / 2])
        return 0; /* nearly always enough */
    uint64_t first = codes[0] * UINT64_C(0x0001000100010001), bits = 0, word;
    for (size_t i = 0; i < BLOCK; i += 4) {
        memcpy(&word, codes + i, 8);
        bits |= word ^ first;
    }
    return bits == 0;
}

static int VARIANT(same_bytes)(const uint8_t *bytes)
{
    uint64_t first = bytes[0] * UINT64_C(0x0101010101010101), bits = 0, word;
    for (size_t i = 0; i < BLOCK; i += 8) {
        memcpy(&word, bytes + i, 8);
        bits |= word ^ first;
    }
    return bits == 0;
}

/* Count a block of codes that nobody marked. Neighbours go to two tables: voxels of one code would wait for each
   other. */
static inline void VARIANT(scatter_unmarked)(const uint16_t *codes, uint32_t *cells, uint32_t *others)
{
    if (VARIANT(same_codes)(codes)) {
        cells[codes[0]] += BLOCK;
        return;
    }
    for (size_t i = 0; i < BLOCK; i += 4) {
        uint64_t four;
        memcpy(&four, codes + i, 8);
        cells[four & 0xffff]++;
        others[(four >> 16) & 0xffff]++;
        cells[(four >> 32) & 0xffff]++;
        others[four >> 48]++;
    }
}

/* Count a block of codes with their marks. */
static inline void VARIANT(scatter_marked)(const uint16_t *codes, const uint8_t *votes, uint32_t *cells)
{
    if (VARIANT(same_codes)(codes) && VARIANT(same_bytes)(votes)) {
        cells[votes[0] * (size_t)N_CODES + codes[0]] += BLOCK;
        return;
    }
    for (size_t i = 0; i < BLOCK; i += 8) { /* one load for several voxels leaves more to the scatter */
        uint64_t low, high, marks;
        memcpy(&low, codes + i, 8);
        memcpy(&high, codes + i + 4, 8);
        memcpy(&marks, votes + i, 8);
        cells[(marks & 0xff) * N_CODES + (low & 0xffff)]++;
        cells[((marks >> 8) & 0xff) * N_CODES + ((low >> 16) & 0xffff)]++;
        cells[((marks >> 16) & 0xff) * N_CODES + ((low >> 32) & 0xffff)]++;
        cells[((marks >> 24) & 0xff) * N_CODES + (low >> 48)]++;
        cells[((marks >> 32) & 0xff) * N_CODES + (high & 0xffff)]++;
        cells[((marks >> 40) & 0xff) * N_CODES + ((high >> 16) & 0xffff)]++;
        cells[((marks >> 48) & 0xff) * N_CODES + ((high >> 32) & 0xffff)]++;
        cells[(marks >> 56) * N_CODES + (high >> 48)]++;
    }
}

static size_t VARIANT(count_inside)(const uint8_t *region, size_t n)
{
    size_t inside = 0;
    for (size_t i = 0; i < n; i++)
        inside += region[i] != 0;
    return inside;
}

/* Count the codes of a stretch, block by block. */
static void VARIANT(scatter)(const uint16_t *codes, const uint8_t *votes, const uint8_t *region, size_t n, int marked,
                             const struct table *table, struct second *second)
{
    uint32_t *const inside = second_table(second + 1);
    uint32_t *const outside = region == NULL ? inside : second_table(second);
    size_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        const size_t n_inside = region == NULL ? BLOCK : VARIANT(count_inside)(region + i, BLOCK);
        if (n_inside != 0 && n_inside != BLOCK)
            scatter_mixed(codes + i, marked ? votes + i : NULL, region + i, BLOCK, table);
        else if (marked)
            VARIANT(scatter_marked)(codes + i, votes + i, n_inside ? table->inside : table->outside);
        else if (n_inside)
            VARIANT(scatter_unmarked)(codes + i, table->inside, inside);
        else
            VARIANT(scatter_unmarked)(codes + i, table->outside, outside);
    }
    scatter_mixed(codes + i, marked ? votes + i : NULL, region == NULL ? NULL : region + i, n - i, table);
}

/* Point `rows` at the members' scores from voxel `start` on, and say what the n there are. */
static enum stretch_kind VARIANT(look_at)(const struct scores *scores, size_t start, size_t n, const uint8_t **rows)
{
    const size_t item = scores_itemsize(scores->dtype);
    int any = 0;
    rows[0] = scores->data + start * item;
    if (scores->dtype == SCORES_FLOAT16 && scores->members == 1) { /* one look tells both */
        const uint16_t largest = VARIANT(largest_half)((const uint16_t *)rows[0], n);
        return largest == 0 ? STRETCH_EMPTY : largest <= CODE_ONE ? STRETCH_CODES : STRETCH_SCORES;
    }
    for (size_t member = 0; member < scores->members; member++) {
        rows[member] = scores->data + (member * scores->n + start) * item;
        any |= VARIANT(any_bits)(rows[member], n * item);
    }
    return any ? STRETCH_SCORES : STRETCH_EMPTY;
}

static void VARIANT(accumulate)(const struct scores *scores, const uint8_t *votes, const uint8_t *region,
                                const struct table *table, int clip, int64_t *found, const uint8_t **rows)
{
    const size_t stretch = stretch_of(scores);
    uint16_t buffer[STRETCH];
    struct second second[2] = {{table->outside, NULL}, {table->inside, NULL}};
    if (scores->n < WORTH_A_SECOND_TABLE)
        second[0].counts = table->outside, second[1].counts = table->inside;
    for (size_t start = 0; start < scores->n; start += stretch) {
        const size_t n = scores->n - start < stretch ? scores->n - start : stretch;
        const uint8_t *marks = votes == NULL ? NULL : votes + start;
        const uint8_t *inside = region == NULL ? NULL : region + start;
        const enum stretch_kind kind = VARIANT(look_at)(scores, start, n, rows);
        const uint8_t pattern = marks == NULL ? 0 : VARIANT(largest_byte)(marks, n);
        if (kind == STRETCH_EMPTY && pattern == 0) {
            const size_t n_inside = inside == NULL ? n : VARIANT(count_inside)(inside, n);
            table->inside[0] += (uint32_t)n_inside;
            table->outside[0] += (uint32_t)(n - n_inside);
            continue;
        }
        const uint16_t *codes = NULL;
        if (pattern < table->patterns)
            codes = VARIANT(stretch_codes)(kind, scores, rows, n, clip, buffer);
        if (codes != NULL)
            VARIANT(scatter)(codes, marks, inside, n, pattern != 0, table, second);
        else
            scatter_carefully(scores, rows, marks, inside, start, n, table, clip, found);
    }
    second_add(second);
    second_add(second + 1);
}

/* Write values[i] = lut[codes[i]] for items of a type. */
#define LOOK_UP(type)                                                                                                  \
    static void VARIANT(look_up_##type)(const uint16_t *restrict codes, size_t n, const type *restrict lut,            \
                                        type *restrict values)                                                         \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + BLOCK <= n; i += BLOCK) {                                                                           \
            if (VARIANT(same_codes)(codes + i)) {                                                                      \
                const type value = lut[codes[i]];                                                                      \
                for (size_t j = i; j < i + BLOCK; j++)                                                                 \
                    values[j] = value;                                                                                 \
            } else {                                                                                                   \
                VARIANT(look_up_block_##type)(codes + i, lut, values + i);                                             \
            }                                                                                                          \
        }                                                                                                              \
        for (; i < n; i++)                                                                                             \
            values[i] = lut[codes[i]];                                                                                 \
    }

#define LOOK_UP_BLOCK(type)                                                                                            \
    static inline void VARIANT(look_up_block_##type)(const uint16_t *restrict codes, const type *restrict lut,         \
                                                     type *restrict values)                                            \
    {                                                                                                                  \
        for (size_t i = 0; i < BLOCK; i++)                                                                             \
            values[i] = lut[codes[i]];                                                                                 \
    }

#ifdef STRETCHES_F16C
/* Two loads of codes, eight insertions and one store: a quarter faster than eight stores. */
static inline void VARIANT(look_up_block_uint16_t)(const uint16_t *restrict codes, const uint16_t *restrict lut,
                                                   uint16_t *restrict values)
{
    for (size_t i = 0; i < BLOCK; i += 8) {
        uint64_t low, high;
        memcpy(&low, codes + i, 8);
        memcpy(&high, codes + i + 4, 8);
        __m128i first = _mm_cvtsi32_si128(lut[low & 0xffff]), second = _mm_cvtsi32_si128(lut[high & 0xffff]);
        first = _mm_insert_epi16(first, lut[(low >> 16) & 0xffff], 1);
        second = _mm_insert_epi16(second, lut[(high >> 16) & 0xffff], 1);
        first = _mm_insert_epi16(first, lut[(low >> 32) & 0xffff], 2);
        second = _mm_insert_epi16(second, lut[(high >> 32) & 0xffff], 2);
        first = _mm_insert_epi16(first, lut[low >> 48], 3);
        second = _mm_insert_epi16(second, lut[high >> 48], 3);
        _mm_storeu_si128((__m128i *)(values + i), _mm_unpacklo_epi64(first, second));
    }
}
#else
LOOK_UP_BLOCK(uint16_t)
#endif
LOOK_UP_BLOCK(uint8_t)
LOOK_UP_BLOCK(uint32_t)
LOOK_UP_BLOCK(uint64_t)
LOOK_UP(uint8_t)
LOOK_UP(uint16_t)
LOOK_UP(uint32_t)
LOOK_UP(uint64_t)
#undef LOOK_UP
#undef LOOK_UP_BLOCK

#define FILL(type)                                                                                                     \
    static void VARIANT(fill_##type)(type *values, size_t n, type value)                                               \
    {                                                                                                                  \
        for (size_t i = 0; i < n; i++)                                                                                 \
            values[i] = value;                                                                                         \
    }
FILL(uint8_t)
FILL(uint16_t)
FILL(uint32_t)
FILL(uint64_t)
#undef FILL

/* Write n values of `item` bytes: those of the codes, or those of code 0 where `codes` is NULL. */
static void VARIANT(write_values)(size_t item, const uint16_t *codes, size_t n, const void *lut, uint8_t *values)
{
#define WRITE(type)                                                                                                    \
    case sizeof(type):                                                                                                 \
        if (codes == NULL)                                                                                             \
            VARIANT(fill_##type)((type *)values, n, *(const type *)lut);                                               \
        else                                                                                                           \
            VARIANT(look_up_##type)(codes, n, (const type *)lut, (type *)values);                                      \
        break;
    switch (item) {
        WRITE(uint8_t)
        WRITE(uint16_t)
        WRITE(uint32_t)
        WRITE(uint64_t)
    }
#undef WRITE
}

#ifdef STRETCHES_F16C
#define STREAM_FROM ((size_t)1 << 24) /* bytes that no cache holds */

/* Copy past the caches. */
static void VARIANT(stream)(uint8_t *to, const uint8_t *from, size_t bytes)
{
    const size_t head = -(uintptr_t)to % 16 < bytes ? -(uintptr_t)to % 16 : bytes;
    memcpy(to, from, head);
    size_t i = head;
    for (; i + 16 <= bytes; i += 16)
        _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
    memcpy(to + i, from + i, bytes - i);
}
#define STREAM_END _mm_sfence()
#else
#define STREAM_FROM SIZE_MAX

static void VARIANT(stream)(uint8_t *to, const uint8_t *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
#define STREAM_END (void)0
#endif

static void VARIANT(relabel)(const struct scores *scores, const void *lut, uint8_t *out, size_t item, int clip,
                             int64_t *found, const uint8_t **rows)
{
    const size_t stretch = stretch_of(scores);
    const int past_caches = scores->n * item >= STREAM_FROM; /* else lines are read only to be overwritten */
    uint16_t buffer[STRETCH];
    uint64_t values[STRETCH];
    for (size_t start = 0; start < scores->n; start += stretch) {
        const size_t n = scores->n - start < stretch ? scores->n - start : stretch;
        const uint16_t *codes = NULL;
        const enum stretch_kind kind = VARIANT(look_at)(scores, start, n, rows);
        if (kind != STRETCH_EMPTY) {
            codes = VARIANT(stretch_codes)(kind, scores, rows, n, clip, buffer);
            if (codes == NULL) {
                codes_carefully(scores, rows, start, n, clip, buffer, found);
                codes = buffer;
            }
        }
        VARIANT(write_values)(item, codes, n, lut, past_caches ? (uint8_t *)values : out + start * item);
        if (past_caches)
            VARIANT(stream)(out + start * item, (const uint8_t *)values, n * item);
    }
    STREAM_END;
}
#undef STREAM_END
#undef STREAM_FROM
