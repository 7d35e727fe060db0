/* Enough of CUDA for a C++ compiler to make a program of our kernels.

   The warps of a block are threads of the operating system, so what they do to shared memory happens at the same time.
   The lanes of a warp are fibers of its thread, run in random order from one warp-wide operation to the next: 32 threads
   on two cores would spend their time waiting for each other. Now and then a warp is held up at the start of a block and
   after barriers, so that a missing barrier shows. Blocks run one after another, with shared memory full of rubbish.

   Checked on the way, because a processor would not mind: that accesses are aligned and lie within arrays, that every
   lane of a mask takes part, and that all threads reach a barrier.

   With SHIM_RUNTIME defined this file is what runs the kernels, a library of its own. Kernels then compile in a third of
   the time. */

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) uint4 *const name = shim::here().shared
#define threadIdx (shim::here().thread)
#define blockIdx (shim::here().block)
#define blockDim (shim::here().threads)
#define gridDim (shim::here().blocks)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};

namespace shim {

enum Exchange { ANY, ALL, MATCH, SHUFFLE };

struct Index {
    unsigned x;
};

/* Where a lane is. */
struct Here {
    Index thread, block, threads, blocks;
    uint4 *shared;
};

struct Array {
    const void *start;
    size_t size;
    bool writable;
};

struct Launch {
    unsigned grid, threads;
    size_t shared;
    const Array *arrays;
    size_t n_arrays;
    char *message; /* what went wrong */
    size_t room;
    void (*kernel)(const void *arguments);
    const void *arguments;
};

const Here &here();
void barrier();
unsigned long long exchange(Exchange what, unsigned mask, unsigned long long value, unsigned step);
void check(const void *at, size_t size, bool writing);
int launch(const Launch &launch);

template <typename T> inline T *checked(T *at, bool writing)
{
    check(at, sizeof(T), writing);
    return at;
}

} // namespace shim

#ifdef SHIM_RUNTIME

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csetjmp>
#include <cstdio>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <ucontext.h>
#include <vector>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace shim {

enum State { READY, AT_EXCHANGE, AT_BARRIER, DONE };

struct Warp;

struct Lane {
    Here here;
    Warp *warp;
    State state;
    Exchange exchange;
    unsigned mask, lane;
    unsigned long long value, result; /* handed in to an exchange, and what comes out */
    unsigned step;
    jmp_buf place;
    bool started;
    ucontext_t context;
};

struct Block {
    const Launch &launch;
    unsigned place = 0;
    std::vector<uint4> shared;
    /* The barrier of the block, and what went wrong in it. */
    std::mutex mutex;
    std::condition_variable changed;
    unsigned warps, waiting = 0, finished = 0, round = 0;
    std::string error;

    explicit Block(const Launch &launch)
        : launch(launch), shared((launch.shared + sizeof(uint4) - 1) / sizeof(uint4)), warps(launch.threads / 32)
    {
        spoil();
    }

    void spoil()
    {
        if (!shared.empty())
            std::memset(static_cast<void *>(shared.data()), 0xa5, shared.size() * sizeof(uint4));
    }

    void fail(const std::string &what)
    {
        const std::lock_guard<std::mutex> lock(mutex);
        if (error.empty())
            error = what;
        changed.notify_all();
    }

    bool failed()
    {
        const std::lock_guard<std::mutex> lock(mutex);
        return !error.empty();
    }

    /* Wait for all warps: to go on with the block, or having finished it. */
    void wait(bool finishing)
    {
        std::unique_lock<std::mutex> lock(mutex);
        (finishing ? finished : waiting)++;
        if (waiting && finished && error.empty())
            error = "a barrier that not all threads reach";
        const unsigned mine = round;
        if (waiting == warps || finished == warps) {
            waiting = finished = 0;
            if (finishing) { /* the next block */
                place++;
                spoil();
            }
            round++;
        }
        changed.notify_all();
        changed.wait(lock, [&] { return round != mine || !error.empty(); });
    }
};

constexpr size_t STACK = 1 << 16;

/* Stacks are kept for the next launch: new ones would cost more than most launches. */
struct Stacks {
    std::mutex mutex;
    std::vector<char *> free;

    char *take()
    {
        const std::lock_guard<std::mutex> lock(mutex);
        if (free.empty())
            return new char[32 * STACK];
        char *stack = free.back();
        free.pop_back();
        return stack;
    }

    void give(char *stack)
    {
        const std::lock_guard<std::mutex> lock(mutex);
        free.push_back(stack);
    }
};

static Stacks stacks;
static thread_local Lane *self;

struct Warp {
    Block *block;
    jmp_buf scheduler;
    Lane lanes[32];
    std::minstd_rand random;
    char *stack;

    static void enter()
    {
        const Launch &launch = self->warp->block->launch;
        launch.kernel(launch.arguments);
        self->state = DONE;
        _longjmp(self->warp->scheduler, 1);
    }

    void start(unsigned number)
    {
        for (unsigned i = 0; i < 32; i++) {
            Lane &lane = lanes[i];
            const Launch &launch = block->launch;
            lane.here = {{32 * number + i}, {block->place}, {launch.threads}, {launch.grid}, block->shared.data()};
            lane.warp = this;
            lane.lane = i;
            lane.state = READY;
            lane.started = false;
            getcontext(&lane.context);
            lane.context.uc_stack.ss_sp = stack + i * STACK;
            lane.context.uc_stack.ss_size = STACK;
            lane.context.uc_link = nullptr;
            makecontext(&lane.context, enter, 0);
        }
    }

    void run(Lane &lane)
    {
        if (_setjmp(scheduler))
            return;
        self = &lane;
        if (lane.started)
            _longjmp(lane.place, 1);
        lane.started = true;
        setcontext(&lane.context);
    }

    /* Let the lanes of a mask go on if all are there; false if one is missing. */
    bool release(Lane &first)
    {
        for (unsigned i = 0; i < 32; i++) {
            const Lane &lane = lanes[i];
            if (first.mask >> i & 1 &&
                (lane.state != AT_EXCHANGE || lane.mask != first.mask || lane.exchange != first.exchange))
                return false;
        }
        unsigned long long results[32] = {};
        for (unsigned i = 0; i < 32; i++) {
            bool any = false, all = true;
            for (unsigned j = 0; j < 32; j++) {
                if (!(first.mask >> j & 1))
                    continue;
                any |= lanes[j].value != 0;
                all &= lanes[j].value != 0;
                if (first.exchange == MATCH)
                    results[i] |= (unsigned long long)(lanes[j].value == lanes[i].value) << j;
            }
            if (first.exchange == ANY)
                results[i] = any;
            if (first.exchange == ALL)
                results[i] = all;
            if (first.exchange == SHUFFLE)
                results[i] = lanes[i ^ lanes[i].step].value;
        }
        const unsigned mask = first.mask;
        for (unsigned i = 0; i < 32; i++) {
            if (mask >> i & 1) {
                lanes[i].result = results[i];
                lanes[i].state = READY;
            }
        }
        return true;
    }

    void dawdle()
    {
        if (random() % 4 == 0)
            std::this_thread::sleep_for(std::chrono::microseconds(100 + random() % 100));
    }

    void run_block(unsigned number)
    {
        start(number);
        dawdle();
        while (!block->failed()) {
            unsigned count[4] = {};
            const unsigned turn = random();
            for (unsigned i = 0; i < 32; i++) {
                Lane &lane = lanes[(i * (2 * (turn / 32) + 1) + turn) % 32]; /* an odd step visits all */
                if (lane.state == READY)
                    run(lane);
            }
            for (Lane &lane : lanes)
                count[lane.state]++;
            if (count[DONE] == 32)
                break;
            if (count[AT_BARRIER] == 32) {
                block->wait(false);
                dawdle();
                for (Lane &lane : lanes)
                    lane.state = READY;
                continue;
            }
            bool released = false;
            for (Lane &lane : lanes)
                released |= lane.state == AT_EXCHANGE && release(lane);
            if (!released)
                block->fail("lanes of a warp that wait for others for ever");
        }
        block->wait(true);
    }
};

/* Leave the lane until others have come as far. */
static void pause(State state)
{
    self->state = state;
    if (!_setjmp(self->place))
        _longjmp(self->warp->scheduler, 1);
}

[[noreturn]] static void fail(const std::string &what)
{
    self->warp->block->fail(what);
    self->state = DONE;
    _longjmp(self->warp->scheduler, 1);
}

const Here &here() { return self->here; }

void barrier() { pause(AT_BARRIER); }

unsigned long long exchange(Exchange what, unsigned mask, unsigned long long value, unsigned step)
{
    Lane &lane = *self;
    if (!(mask >> lane.lane & 1))
        fail("a lane that is not in its own mask");
    lane.exchange = what;
    lane.mask = mask;
    lane.value = value;
    lane.step = step;
    pause(AT_EXCHANGE);
    return lane.result;
}

void check(const void *at, size_t size, bool writing)
{
    const Block &block = *self->warp->block;
    if (writing && self->warp->random() % 128 == 0) { /* let others see what lies between two steps */
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(3);
        while (std::chrono::steady_clock::now() < end)
            ;
    }
    const auto lies_in = [&](const void *start, size_t length) {
        const uintptr_t first = reinterpret_cast<uintptr_t>(at), low = reinterpret_cast<uintptr_t>(start);
        return first >= low && first + size <= low + length;
    };
    if (reinterpret_cast<uintptr_t>(at) % size)
        fail("an access of " + std::to_string(size) + " bytes that is not aligned");
    if (lies_in(block.shared.data(), block.shared.size() * sizeof(uint4)))
        return;
    for (size_t i = 0; i < block.launch.n_arrays; i++) {
        const Array &array = block.launch.arrays[i];
        if (lies_in(array.start, array.size) && (array.writable || !writing))
            return;
    }
    fail(std::string(writing ? "a write" : "a read") + " outside of all arrays");
}

/* A thread's arithmetic as NVRTC compiles it for CuPy, which asks for -ftz=true: subnormal floats are zeros. */
struct Flushing {
#ifdef __SSE__
    const unsigned before = _mm_getcsr();
    Flushing() { _mm_setcsr(before | 0x8040); }
    ~Flushing() { _mm_setcsr(before); }
#else
    Flushing() {}
#endif
};

int launch(const Launch &launch)
{
    Block block(launch);
    static std::atomic<unsigned> launches{1};
    const unsigned seed = launches.fetch_add(1);
    auto work = [&](unsigned number) {
        const Flushing flushing;
        const auto warp = std::make_unique<Warp>();
        warp->block = &block;
        warp->random.seed(64 * seed + number);
        warp->stack = stacks.take();
        for (unsigned i = 0; i < launch.grid && !block.failed(); i++)
            warp->run_block(number);
        stacks.give(warp->stack);
    };
    std::vector<std::thread> others;
    for (unsigned number = 1; number < block.warps; number++)
        others.emplace_back(work, number);
    work(0);
    for (std::thread &other : others)
        other.join();
    std::snprintf(launch.message, launch.room, "%s", block.error.c_str());
    return !block.error.empty();
}

} // namespace shim

#else

inline void __syncthreads() { shim::barrier(); }
inline int __any_sync(unsigned mask, bool value) { return (int)shim::exchange(shim::ANY, mask, value, 0); }
inline int __all_sync(unsigned mask, bool value) { return (int)shim::exchange(shim::ALL, mask, value, 0); }
inline unsigned __match_any_sync(unsigned mask, unsigned value)
{
    return (unsigned)shim::exchange(shim::MATCH, mask, value, 0);
}
template <typename T> inline T __shfl_xor_sync(unsigned mask, T value, int step)
{
    return (T)shim::exchange(shim::SHUFFLE, mask, value, (unsigned)step);
}

template <typename T> inline T __ldcs(const T *at) { return *shim::checked(at, false); }
template <typename T> inline T __ldg(const T *at) { return *shim::checked(at, false); }
template <typename T> inline void __stcs(T *at, T value) { *shim::checked(at, true) = value; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

template <typename T> inline T atomicAdd(T *at, T value)
{
    return __atomic_fetch_add(shim::checked(at, true), value, __ATOMIC_RELAXED);
}
template <typename T> inline T atomicMax(T *at, T value)
{
    T old = __atomic_load_n(shim::checked(at, true), __ATOMIC_RELAXED);
    while (value > old && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return old;
}
inline unsigned atomicCAS(unsigned *at, unsigned expected, unsigned value)
{
    __atomic_compare_exchange_n(shim::checked(at, true), &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs((int)bits); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector)
{
    const unsigned long long bytes = low | (unsigned long long)high << 32;
    unsigned result = 0;
    for (int i = 0; i < 4; i++)
        result |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}

inline float __uint_as_float(unsigned bits)
{
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }

inline float float_of_half(unsigned bits)
{
    const int exponent = bits >> 10 & 0x1f;
    const float fraction = (float)(bits & 0x3ff);
    float value = std::ldexp(exponent ? fraction + 1024.0f : fraction, (exponent ? exponent : 1) - 25);
    if (exponent == 0x1f)
        value = fraction != 0.0f ? NAN : INFINITY;
    return bits & 0x8000 ? -value : value;
}

/* Of any float but NaN: a sum of one with a power of two whose last bit is that of the half rounds as the half does. */
inline unsigned half_of_float(float value)
{
    const float size = std::fabs(value);
    const unsigned sign = std::signbit(value) ? 0x8000 : 0;
    if (!(size < 65520.0f))
        return sign | 0x7c00;
    int exponent;
    std::frexp(size, &exponent);
    exponent = size == 0.0f || exponent < -13 ? -13 : exponent;
    const unsigned last_bits = (unsigned)std::nearbyint(std::ldexp(size, 11 - exponent)); /* 1024 to 2048 if normal */
    return sign | (last_bits + ((unsigned)(exponent + 13) << 10));
}

inline unsigned halves_of_floats(float low, float high) { return half_of_float(low) | half_of_float(high) << 16; }

/* What Python calls, made of the kernels above it in the same text. */
template <typename Function> int launched(shim::Launch launch, Function function)
{
    launch.kernel = [](const void *kernel) { (*static_cast<const Function *>(kernel))(); };
    launch.arguments = &function;
    return shim::launch(launch);
}

#define ACCUMULATE                                                                                                     \
    extern "C" int run_accumulate(unsigned grid, unsigned block, size_t shared, const Score *scores, long long n,      \
                                  int members, const unsigned char *votes, const unsigned char *region,                \
                                  unsigned *table, unsigned long long *findings, char *message, size_t room)           \
    {                                                                                                                  \
        const shim::Array arrays[] = {{scores, (size_t)n * members * sizeof(Score), false},                            \
                                      {votes, votes ? (size_t)n : 0, false},                                           \
                                      {region, region ? (size_t)n : 0, false},                                         \
                                      {table, (size_t)REGIONS * PATTERNS * N_CODES * 4, true},                         \
                                      {findings, 32, true}};                                                           \
        return launched({grid, block, shared, arrays, 5, message, room, nullptr, nullptr},                             \
                        [=] { accumulate(scores, n, members, votes, region, table, findings); });                      \
    }                                                                                                                  \
    extern "C" int run_flush(unsigned grid, unsigned block, size_t shared, unsigned *table, long long *counts,         \
                             long long cells, char *message, size_t room)                                              \
    {                                                                                                                  \
        return launched({grid, block, shared, nullptr, 0, message, room, nullptr, nullptr},                            \
                        [=] { flush(table, counts, cells); });                                                         \
    }

#define RELABEL                                                                                                        \
    extern "C" int run_relabel(unsigned grid, unsigned block, size_t shared, const Score *scores, long long n,         \
                               int members, const Value *lut, Value *out, unsigned long long *findings,                \
                               char *message, size_t room)                                                             \
    {                                                                                                                  \
        const shim::Array arrays[] = {{scores, (size_t)n * members * sizeof(Score), false},                            \
                                      {lut, (N_CODES + 1) * sizeof(Value), false},                                     \
                                      {out, (size_t)n * sizeof(Value), true},                                          \
                                      {findings, 16, true}};                                                           \
        return launched({grid, block, shared, arrays, 4, message, room, nullptr, nullptr},                             \
                        [=] { relabel(scores, n, members, lut, out, findings); });                                     \
    }

#endif
