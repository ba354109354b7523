// A file system (FUSE, without a library) with one file, a copy of FILE, at MOUNT/NAME. "ready" when it is mounted.
// SIGUSR1: from now on it takes requests and does not answer; SIGUSR2: it answers, those too; SIGTERM: the end.
//   silent_fs FILE MOUNT NAME
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 256
static volatile sig_atomic_t mute, over;
static const char *name;
static char *data;
static long size;
static int device;
static char *waiting[MOST];
static int waiters;

static void on_signal(int number) {
    if (number == SIGTERM)
        over = 1;
    else
        mute = number == SIGUSR1;
}

static void answer(struct fuse_in_header *in, int error, const void *body, size_t length) {
    struct fuse_out_header out = {.len = sizeof out + length, .error = -error, .unique = in->unique};
    struct iovec parts[] = {{&out, sizeof out}, {(void *)body, length}};
    if (writev(device, parts, 2) < 0 && errno != ENOENT) // that one was interrupted
        perror("answer");
}

static struct fuse_attr attributes(unsigned long node) {
    struct fuse_attr found = {.ino = node, .nlink = 1, .blksize = 4096};
    found.mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0755;
    found.size = node == 1 ? 0 : size;
    found.blocks = (size + 511) / 512;
    return found;
}

static void serve(char *request) {
    struct fuse_in_header *in = (void *)request;
    void *body = request + sizeof *in;
    switch (in->opcode) {
    case FUSE_INIT: {
        struct fuse_init_in *asked = body;
        struct fuse_init_out out = {.major = 7, .minor = 31, .max_readahead = asked->max_readahead, .max_write = 4096};
        answer(in, 0, &out, sizeof out);
        return;
    }
    case FUSE_LOOKUP: {
        struct fuse_entry_out out = {.nodeid = 2, .attr = attributes(2)};
        if (strcmp(body, name))
            answer(in, ENOENT, 0, 0);
        else
            answer(in, 0, &out, sizeof out);
        return;
    }
    case FUSE_SETATTR: // it is as it was: what is written is forgotten
    case FUSE_GETATTR: {
        struct fuse_attr_out out = {.attr = attributes(in->nodeid)};
        answer(in, 0, &out, sizeof out);
        return;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out out = {.open_flags = FOPEN_KEEP_CACHE};
        answer(in, 0, &out, sizeof out);
        return;
    }
    case FUSE_READ: {
        struct fuse_read_in *asked = body;
        long left = asked->offset < (unsigned long)size ? size - (long)asked->offset : 0;
        answer(in, 0, data + asked->offset, left < asked->size ? left : asked->size);
        return;
    }
    case FUSE_WRITE: {
        struct fuse_write_out out = {.size = ((struct fuse_write_in *)body)->size};
        answer(in, 0, &out, sizeof out);
        return;
    }
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        return;
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        answer(in, 0, 0, 0);
        return;
    default:
        answer(in, ENOSYS, 0, 0);
    }
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    name = argv[3];
    FILE *file = fopen(argv[1], "r");
    if (!file || fseek(file, 0, SEEK_END))
        return 2;
    size = ftell(file);
    rewind(file);
    data = malloc(size);
    if (fread(data, 1, size, file) != (size_t)size)
        return 2;
    fclose(file);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, 0);
    sigaction(SIGUSR2, &action, 0);
    sigaction(SIGTERM, &action, 0);
    device = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    char options[100];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (device < 0 || mount("silent", argv[2], "fuse.silent", MS_NOSUID | MS_NODEV, options)) {
        perror("mount");
        return 3;
    }
    puts("ready");
    fflush(stdout);
    while (!over) {
        while (!mute && waiters) {
            serve(waiting[--waiters]);
            free(waiting[waiters]);
        }
        struct pollfd each = {device, POLLIN, 0};
        if (poll(&each, 1, 20) <= 0)
            continue;
        char *request = malloc(1 << 17);
        if (read(device, request, 1 << 17) <= 0) {
            free(request);
            if (errno == ENODEV)
                return 0;
        } else if (mute && waiters < MOST) {
            waiting[waiters++] = request;
        } else {
            serve(request);
            free(request);
        }
    }
    umount2(argv[2], MNT_DETACH); // and all requests end with it: the device is closed
    return 0;
}
