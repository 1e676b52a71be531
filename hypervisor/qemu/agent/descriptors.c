#include "hypervisor/qemu/agent/descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SWITCHED_MAX = 1024 };

static struct {
    size_t count;
    struct {
        int fd;
        dev_t device;
        ino_t inode;
    } files[SWITCHED_MAX];
} switched;

/* Calls `visit` for every descriptor, until it says false. Returns an errno. */
static int for_each_descriptor(int folder, bool (*visit)(int fd, void* context), void* context) {
    const int again = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* listing = again >= 0 ? fdopendir(again) : NULL;
    if (listing == NULL) {
        const int error = errno;
        (void)(again >= 0 ? close(again) : 0);
        return error;
    }
    for (const struct dirent* entry; (entry = readdir(listing)) != NULL;) {
        const int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && fd != again && !visit(fd, context)) {
            break;
        }
    }
    (void)closedir(listing);
    return 0;
}

struct search {
    uint64_t device, inode;
    struct handle best;
};

static bool is_file(int fd, const struct search* search) {
    struct stat about;
    return fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_dev == search->device && about.st_ino == search->inode;
}

static bool take_file(int number, void* context) {
    struct search* const search = context;
    if (!is_file(number, search)) {
        return true;
    }
    const int fd = fcntl(number, F_DUPFD_CLOEXEC, 0);
    if (fd < 0 || !is_file(fd, search)) { /* QEMU has closed and reused the number in between */
        (void)(fd >= 0 ? close(fd) : 0);
        return true;
    }
    const bool writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
    const int spare = search->best.fd < 0 ? -1 : writable ? search->best.fd : fd;
    if (spare != fd) {
        search->best = (struct handle){.fd = fd, .error = 0};
    }
    (void)(spare >= 0 ? close(spare) : 0);
    return !writable;
}

struct handle find_file(int folder, uint64_t device, uint64_t inode) {
    struct search search = {.device = device, .inode = inode, .best = {.fd = -1, .error = ENOENT}};
    const int error = for_each_descriptor(folder, take_file, &search);
    if (error != 0) {
        search.best.error = error;
    }
    return search.best;
}

/* What the page cache may still hold of a disk that was used past it, by this host or before by another one, is dropped. */
static bool set_direct(int fd, bool direct) {
    const int flags = fcntl(fd, F_GETFL);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return flags >= 0 && fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

struct switching {
    bool (*told)(int fd, void* context);
    void* context;
    int error;
};

static bool switch_file(int fd, void* context) {
    struct switching* const switching = context;
    struct stat about;
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_DIRECT) == 0 || fstat(fd, &about) != 0 || (!S_ISREG(about.st_mode) && !S_ISBLK(about.st_mode))) {
        return true;
    }
    if (switched.count == SWITCHED_MAX) {
        switching->error = EMFILE;
        return false;
    }
    if (!set_direct(fd, false)) {
        switching->error = errno;
        return false;
    }
    switched.files[switched.count].fd = fd;
    switched.files[switched.count].device = about.st_dev;
    switched.files[switched.count].inode = about.st_ino;
    ++switched.count;
    return switching->told(fd, switching->context);
}

int make_buffered(int folder, bool (*told)(int fd, void* context), void* context) {
    struct switching switching = {.told = told, .context = context, .error = 0};
    const int error = for_each_descriptor(folder, switch_file, &switching);
    return error != 0 ? error : switching.error;
}

void make_direct_again(void) {
    while (switched.count > 0) {
        --switched.count;
        const int fd = switched.files[switched.count].fd;
        struct stat about;
        if (fstat(fd, &about) == 0 && about.st_dev == switched.files[switched.count].device &&
            about.st_ino == switched.files[switched.count].inode) {
            (void)set_direct(fd, true);
        }
    }
}
