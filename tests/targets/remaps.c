/* Changes its own address space, as its argument says: the page of its probed code, or whatever
 * executable memory it finds mapped that it knows nothing of. Without probes that is none.
 *
 * "hunts": unmaps that again and again, while two threads call what is probed. */
#include "hazard.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* counts like probed(), in a page that has nothing else but a system call */
void alone(void);
long reads(int fd, void *to, long size);
extern char page[];
__asm__(".pushsection .text\n.balign 4096\n.globl page,alone,reads,reads_call\n"
        ".type alone,@function\n.type reads,@function\n.type reads_call,@function\n"
        "page: .skip 64,0x90\nalone: lock incq calls(%rip)\n\tret\n.size alone,.-alone\n"
        "reads: xor %eax,%eax\nreads_call: syscall\n\tret\n.size reads,.-reads\n"
        ".balign 4096\n.popsection");

static void call(int times)
{
    for (int i = 0; i < times; i++)
        alone();
}

/* The same bytes at the same place, of no file: so code gets into huge pages. */
static void remap(void)
{
    char *copy = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(copy != MAP_FAILED);
    memcpy(copy, page, 4096);
    CHECK(mprotect(copy, 4096, PROT_READ | PROT_EXEC) == 0);
    CHECK(mremap(copy, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, page) == page);
}

/* A program that writes code fills its memory so. */
static void replace(void)
{
    char *fresh = mmap(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(fresh == page);
    memset(fresh, 0xcc, 4096);
}

static struct strange {
    char *start;
    size_t size;
} strange[16];
static int found, taken;

static void find_strange(void)
{
    char line[512];
    unsigned long low, high;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "r-xp 00000000 00:00 0") && !strchr(line, '[') &&
            sscanf(line, "%lx-%lx", &low, &high) == 2 && found < 16)
            strange[found++] = (struct strange){(char *)low, high - low};
    fclose(maps);
}

static void take(struct strange *each)
{
    CHECK(munmap(each->start, each->size) == 0);
    char *mine = mmap(each->start, each->size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(mine == each->start);
    memset(mine, 0x5a, each->size);
    taken = 1;
}

static void touch(const char *how)
{
    find_strange();
    say("strange %d\n", found);
    for (struct strange *each = strange; each < strange + found; each++) {
        if (!strcmp(how, "protects"))
            CHECK(mprotect(each->start, each->size, PROT_NONE) == 0);
        else if (!strcmp(how, "keeps"))
            CHECK(madvise(each->start, each->size, MADV_DONTFORK) == 0);
        else if (!strcmp(how, "unmaps"))
            CHECK(munmap(each->start, each->size) == 0);
        else
            take(each);
    }
    gate("touched");
}

static void in_child(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        call(10);
        _exit(calls);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(status == (calls + 10) << 8);
}

/* What it has in memory is what it put there, and what it calls is what it always was. */
static void go_on(const char *how)
{
    for (struct strange *each = strange; taken && each < strange + found; each++)
        for (size_t i = 0; i < each->size; i++)
            CHECK(each->start[i] == 0x5a);
    if (!strcmp(how, "replaces")) {
        for (int i = 0; i < 4096; i++)
            CHECK(page[i] == (char)0xcc);
        return;
    }
    call(10);
    in_child();
}

static int ends[2];

static void *read_on(void *unused)
{
    char byte;
    (void)unused;
    CHECK(reads(ends[0], &byte, 1) == 1 && byte == 'x');
    return 0;
}

static volatile int over;

static void *call_on(void *unused)
{
    (void)unused;
    while (!over)
        alone();
    return 0;
}

static void hunt(void)
{
    pthread_t callers[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&callers[i], 0, call_on, 0) == 0);
    gate("ready");
    for (int i = 0; i < 300; i++) {
        found = 0;
        find_strange();
        for (struct strange *each = strange; each < strange + found; each++)
            CHECK(munmap(each->start, each->size) == 0);
        usleep(5000);
    }
    say("hunted\n");
    over = 1;
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(callers[i], 0) == 0);
    gate("stopped");
}

int main(int argc, char **argv)
{
    pthread_t reader;
    CHECK(argc == 2 && pipe(ends) == 0);
    const char *how = argv[1];
    if (!strcmp(how, "hunts")) {
        hunt();
        return finish();
    }
    gate("ready");
    if (strcmp(how, "replaces"))
        CHECK(pthread_create(&reader, 0, read_on, 0) == 0);
    call(10);
    gate("reading");
    if (!strcmp(how, "remaps"))
        remap();
    else if (!strcmp(how, "replaces"))
        replace();
    else if (!strcmp(how, "drops"))
        CHECK(madvise(page, 4096, MADV_DONTNEED) == 0);
    else if (!strcmp(how, "closes"))
        CHECK(mprotect(page, 4096, PROT_NONE) == 0 &&
              mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    else
        touch(how);
    if (strcmp(how, "replaces")) {
        CHECK(write(ends[1], "x", 1) == 1);
        CHECK(pthread_join(reader, 0) == 0);
    }
    void *library = dlopen("libm.so.6", RTLD_NOW);
    CHECK(library && dlclose(library) == 0);
    go_on(how);
    gate("changed");
    go_on(how);
    gate("left");
    go_on(how);
    return finish();
}
