/* Functions that exceptions are thrown through, and coroutines of the language. */
#include "hazard.h"
#include <coroutine>
#include <stdexcept>

#define ALONE extern "C" __attribute__((noipa))

ALONE long thrower(long depth)
{
    if (!depth)
        throw std::runtime_error("thrown");
    long below = depth > 0 ? thrower(depth - 1) : 8;
    __asm__ volatile("" : "+r"(below)); /* no loop is made of it */
    return below + 1;
}

ALONE long catcher(long depth)
{
    try {
        return thrower(depth);
    } catch (const std::runtime_error &) {
        return 1000 + depth;
    }
}

ALONE long rethrower(long depth)
{
    try {
        return thrower(depth);
    } catch (...) {
        throw;
    }
}

struct Counter {
    struct promise_type {
        long value = 0;
        Counter get_return_object()
        {
            return {std::coroutine_handle<promise_type>::from_promise(*this)};
        }
        std::suspend_always initial_suspend() { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        std::suspend_always yield_value(long next)
        {
            value = next;
            return {};
        }
        void return_void() {}
        void unhandled_exception() {}
    };
    std::coroutine_handle<promise_type> handle;
};

ALONE long doubled(long n) { return 2 * n; }

static Counter count_to(long most)
{
    for (long i = 0; i < most; i++)
        co_yield doubled(i);
}

ALONE long next(Counter *counter)
{
    counter->handle.resume();
    return counter->handle.promise().value;
}

int main()
{
    gate("ready");
    for (long depth = 0; depth < 5; depth++)
        CHECK(catcher(depth) == 1000 + depth);
    for (long i = 0; i < 4; i++)
        CHECK(catcher(-1) == 9);
    for (long i = 0; i < 3; i++)
        try {
            rethrower(2);
            CHECK(false);
        } catch (const std::runtime_error &) {
        }
    Counter one = count_to(6), two = count_to(6);
    for (long i = 0; i < 6; i++)
        CHECK(next(&one) == 2 * i && next(&two) == 2 * i);
    one.handle.destroy();
    two.handle.destroy();
    gate("stopped");
    return finish();
}
