/* Comes and goes, and knows how often it met a probe: it looks at the first byte of `probed` before
 * and after each call. Where both times a breakpoint is there, the call was a hit for sure; where
 * only once, the probe went in or out meanwhile. Prints "calls sure unsure".
 *
 *     soaked quick N      N calls, and ends with status N % 7
 *     soaked slow N       the same, in half a second
 *     soaked threads N    N calls in each of eight threads
 *     soaked forks N      N calls in each of three children and in itself
 *     soaked spawns N     one after the other, two of `soaked quick N`
 *     soaked stays        N calls for each line N on its input; tells them line by line */
#include "hazard.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>

enum { THREADS = 8, CHILDREN = 3, HALF_A_SECOND = 500000 };

struct tally {
    long count, calls, sure, unsure;
};

static int is_probed(void)
{
    return *(volatile unsigned char *)probed == 0xcc;
}

static void call(struct tally *tally, long count, useconds_t pause)
{
    for (long i = 0; i < count; i++) {
        int before = is_probed();
        probed();
        int after = is_probed();
        tally->calls++;
        tally->sure += before && after;
        tally->unsure += before != after;
        if (pause)
            usleep(pause);
    }
}

static void *run_thread(void *tally)
{
    call(tally, ((struct tally *)tally)->count, 0);
    return NULL;
}

static void add(struct tally *sum, const struct tally *one)
{
    sum->calls += one->calls;
    sum->sure += one->sure;
    sum->unsure += one->unsure;
}

static void in_threads(struct tally *sum, long count)
{
    pthread_t threads[THREADS];
    struct tally tallies[THREADS] = {0};
    for (int i = 0; i < THREADS; i++) {
        tallies[i].count = count;
        CHECK(pthread_create(&threads[i], NULL, run_thread, &tallies[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        add(sum, &tallies[i]);
    }
}

static void in_children(struct tally *sum, long count)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            struct tally own = {0};
            call(&own, count, 0);
            CHECK(write(ends[1], &own, sizeof own) == sizeof own);
            _exit(0);
        }
    }
    call(sum, count, 0);
    for (int i = 0; i < CHILDREN; i++) {
        struct tally one;
        int status;
        CHECK(read(ends[0], &one, sizeof one) == sizeof one);
        add(sum, &one);
        CHECK(wait(&status) > 0 && status == 0);
    }
}

static void in_others(char *self, char *count)
{
    char *arguments[] = {self, "quick", count, NULL};
    char *environment[] = {NULL};
    for (int i = 0; i < 2; i++) {
        pid_t child;
        int status;
        CHECK(posix_spawn(&child, self, NULL, NULL, arguments, environment) == 0);
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == atol(count) % 7);
    }
}

static void tell(const struct tally *tally)
{
    say("%ld %ld %ld\n", tally->calls, tally->sure, tally->unsure);
}

static void stay(void)
{
    char line[32];
    while (fgets(line, sizeof line, stdin)) {
        struct tally tally = {0};
        call(&tally, atol(line), 0);
        tell(&tally);
    }
}

int main(int argc, char **argv)
{
    struct tally sum = {0};
    const char *mode = argc > 1 ? argv[1] : "";
    long count = argc > 2 ? atol(argv[2]) : 0;
    if (!strcmp(mode, "quick"))
        call(&sum, count, 0);
    else if (!strcmp(mode, "slow"))
        call(&sum, count, HALF_A_SECOND / count);
    else if (!strcmp(mode, "threads"))
        in_threads(&sum, count);
    else if (!strcmp(mode, "forks"))
        in_children(&sum, count);
    else if (!strcmp(mode, "spawns"))
        in_others(argv[0], argv[2]);
    else if (!strcmp(mode, "stays"))
        stay();
    else
        return 64;
    if (strcmp(mode, "stays") && strcmp(mode, "spawns"))
        tell(&sum);
    return count % 7;
}
