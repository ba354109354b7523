/* Much memory of which little is used: private, of memfd (its page filled by a child, which has gone),
 * System V's, huge pages where there are any. Says how much of the shared ones there is, before and after. */
#include "hazard.h"
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SHARED (1l << 31)
#define PRIVATE (1l << 42)

char *private, *shared, *segment;

static void report(int fd, int id)
{
    struct stat file;
    struct shmid_ds memory;
    struct shm_info all;
    CHECK(fstat(fd, &file) == 0);
    CHECK(shmctl(id, IPC_STAT, &memory) == 0);
    CHECK(shmctl(0, SHM_INFO, (struct shmid_ds *)&all) >= 0);
    say("blocks %ld\nresident %ld\n", (long)file.st_blocks, (long)all.shm_rss);
}

int main(void)
{
    int fd = memfd_create("reserved", 0), id = shmget(IPC_PRIVATE, SHARED, IPC_CREAT | 0600 | SHM_NORESERVE);
    CHECK(ftruncate(fd, SHARED) == 0);
    private = mmap(0, PRIVATE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    shared = mmap(0, SHARED, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    segment = shmat(id, 0, 0);
    CHECK(private != MAP_FAILED && shared != MAP_FAILED && segment != (void *)-1);
    CHECK(shmctl(id, IPC_RMID, 0) == 0);
    CHECK(madvise(private, PRIVATE, MADV_NOHUGEPAGE) == 0);
    strcpy(private + PRIVATE / 2, "in private memory");
    strcpy(private + PRIVATE - 4096, "at its end");
    if (fork() == 0) {
        strcpy(shared + SHARED / 2, "in shared memory");
        _exit(0);
    }
    CHECK(wait(0) > 0);
    strcpy(segment + SHARED / 4, "in a segment");
    report(fd, id);
    gate("ready");
    report(fd, id);
    gate("left");
    probed();
    return finish();
}
