/* The agent: preloaded into QEMU, the only code of Pageferry's in its address space. See agent_protocol.h.
 *
 * It holds what only QEMU's own process can make (userfaultfds, pagemap), made before QEMU drops privileges or closes its
 * sandbox, hands it out, and, when asked, zaps page tables and switches disks between direct and buffered I/O. It counts holes
 * that are punched into shared memory (discards.c). It must not
 * disturb QEMU: one thread with all signals blocked, no heap after the start but to list descriptors, no output, nothing
 * inherited by QEMU's children.
 */
#include "hypervisor/qemu/agent/agent_protocol.h"
#include "hypervisor/qemu/agent/descriptors.h"
#include "hypervisor/qemu/agent/discards.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* Linux 6.1 */
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* Linux 5.11 */
#endif
#define HUGETLBFS_TYPE 0x958458f6

static struct {
    int socket;
    int userfaultfd_device;
    int maps;      /* opened at the start: /proc may be out of reach later (-chroot) */
    int fd_folder; /* likewise */
    struct handle tracking;
    struct handle faults[PF_AGENT_FAULT_HANDLES];
    struct handle pagemap;
    struct handle clear_refs;
    struct handle discards;
} agent = {.socket = -1, .userfaultfd_device = -1, .maps = -1, .fd_folder = -1};

/* A shell script may stand before QEMU (Debian's qemu-system-i386 does): only QEMU itself takes the socket. It has glib, or says
 * its name. */
extern void g_malloc(void) __attribute__((weak));

static bool in_qemu(void) {
    char path[PF_AGENT_PATH_BYTES];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (g_malloc != NULL || length <= 0) {
        return g_malloc != NULL;
    }
    path[length] = '\0';
    const char* slash = strrchr(path, '/');
    return strstr(slash != NULL ? slash : path, "qemu") != NULL;
}

static int number_in_environment(const char* name) {
    const char* text = getenv(name);
    char* end = NULL;
    const long number = text != NULL ? strtol(text, &end, 10) : -1;
    return text == NULL || end == text || *end != '\0' || number < 0 || number > INT32_MAX ? -1 : (int)number;
}

static void close_on_exec(int fd) {
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void close_list_on_exec(const char* list) {
    for (char* end = NULL; list != NULL && *list != '\0'; list = *end == ',' ? end + 1 : NULL) {
        close_on_exec((int)strtol(list, &end, 10));
    }
}

/* Takes our variables and our library out of what QEMU's children will inherit. Other preloaded libraries stay. */
static void clean_environment(void) {
    for (char** entry = environ; entry != NULL && *entry != NULL;) {
        char name[64];
        const size_t length = strcspn(*entry, "=");
        if (strncmp(*entry, "PAGEFERRY_", 10) == 0 && length < sizeof name) {
            (void)snprintf(name, sizeof name, "%.*s", (int)length, *entry);
            (void)unsetenv(name); /* moves the next entry here */
        } else {
            ++entry;
        }
    }
    const char* given = getenv("LD_PRELOAD");
    char* preload = given != NULL ? strdup(given) : NULL;
    char* rest = preload != NULL ? calloc(1, strlen(preload) + 2) : NULL;
    char* next = NULL;
    for (char* name = rest != NULL ? strtok_r(preload, ": ", &next) : NULL; name != NULL; name = strtok_r(NULL, ": ", &next)) {
        if (strstr(name, "libpageferry-agent.so") == NULL) {
            strcat(strcat(rest, *rest != '\0' ? ":" : ""), name);
        }
    }
    if (rest != NULL) {
        (void)(*rest != '\0' ? setenv("LD_PRELOAD", rest, 1) : unsetenv("LD_PRELOAD"));
    }
    free(rest);
    free(preload);
}

static struct handle opened(int fd) {
    return (struct handle){.fd = fd, .error = fd < 0 ? errno : 0};
}

/* Faults of KVM happen in the kernel, so a fault userfaultfd needs more than user mode; write tracking (WP_ASYNC) sends no
 * messages. */
static struct handle new_userfaultfd(bool user_mode_will_do) {
    const int flags = O_CLOEXEC | O_NONBLOCK;
    struct handle result = {.fd = -1, .error = ENODEV};
    if (agent.userfaultfd_device >= 0) {
        result = opened(ioctl(agent.userfaultfd_device, USERFAULTFD_IOC_NEW, flags));
    }
    if (result.fd < 0) {
        result = opened((int)syscall(SYS_userfaultfd, flags));
    }
    if (result.fd < 0 && user_mode_will_do) {
        result = opened((int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY));
    }
    return result;
}

/* One packet, with one descriptor where fd is not -1. */
static bool send_packet(const void* packet, size_t length, int fd) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec data = {.iov_base = (void*)(uintptr_t)packet, .iov_len = length};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (fd >= 0) {
        memset(&control, 0, sizeof control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        message.msg_control = &control;
        message.msg_controllen = sizeof control.bytes;
    }
    ssize_t sent;
    do {
        sent = sendmsg(agent.socket, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)length;
}

static struct pf_agent_header header_of(uint64_t sequence, enum pf_agent_item_kind kind, int error) {
    return (struct pf_agent_header){
        .magic = PF_AGENT_MAGIC, .version = PF_AGENT_VERSION, .kind = (uint16_t)kind, .sequence = sequence, .error = error};
}

static bool send_handle(uint64_t sequence, enum pf_agent_handle_kind what, uint32_t index, struct handle handle) {
    const struct pf_agent_handle item = {
        .header = header_of(sequence, PF_AGENT_HANDLE, handle.error), .what = (uint32_t)what, .index = index};
    return send_packet(&item, sizeof item, handle.fd);
}

static bool send_handles(uint64_t sequence) {
    bool sent = send_handle(sequence, PF_AGENT_HANDLE_TRACKING, 0, agent.tracking);
    for (uint32_t i = 0; i < PF_AGENT_FAULT_HANDLES; ++i) {
        sent = sent && send_handle(sequence, PF_AGENT_HANDLE_FAULT, i, agent.faults[i]);
    }
    return sent && send_handle(sequence, PF_AGENT_HANDLE_PAGEMAP, 0, agent.pagemap) &&
           send_handle(sequence, PF_AGENT_HANDLE_CLEAR_REFS, 0, agent.clear_refs) &&
           send_handle(sequence, PF_AGENT_HANDLE_DISCARDS, 0, agent.discards);
}

/* Reads one line of /proc/self/maps at a time, without the heap. */
struct maps_reader {
    size_t at, filled;
    char bytes[2 * PF_AGENT_PATH_BYTES];
};

static char* next_line(struct maps_reader* reader) {
    for (;;) {
        char* begin = reader->bytes + reader->at;
        char* newline = memchr(begin, '\n', reader->filled - reader->at);
        if (newline != NULL) {
            *newline = '\0';
            reader->at = (size_t)(newline + 1 - reader->bytes);
            return begin;
        }
        memmove(reader->bytes, begin, reader->filled - reader->at);
        reader->filled -= reader->at;
        reader->at = 0;
        const ssize_t got = read(agent.maps, reader->bytes + reader->filled, sizeof reader->bytes - reader->filled);
        if (got <= 0) {
            return NULL;
        }
        reader->filled += (size_t)got;
    }
}

/* The next shared mapping of a file, with its continuations; false at the end. `pending` carries the first line of the one after.
 */
static bool next_mapping(struct maps_reader* reader, struct pf_agent_mapping* pending, struct pf_agent_mapping* mapping) {
    *mapping = *pending;
    pending->length = 0;
    for (char* line; (line = next_line(reader)) != NULL;) {
        uint64_t begin, end, offset, inode;
        unsigned int major_number, minor_number;
        char rights[5];
        int path = 0;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &begin, &end, rights, &offset,
                   &major_number, &minor_number, &inode, &path) < 7 ||
            rights[3] != 's' || inode == 0 || begin == (uintptr_t)discards_counted()) {
            continue;
        }
        const uint64_t device = makedev(major_number, minor_number);
        if (mapping->length != 0 && mapping->device == device && mapping->inode == inode &&
            mapping->address + mapping->length == begin && mapping->file_offset + mapping->length == offset) {
            mapping->length += end - begin;
            continue;
        }
        struct pf_agent_mapping* const found = mapping->length == 0 ? mapping : pending;
        *found = (struct pf_agent_mapping){
            .address = begin, .length = end - begin, .file_offset = offset, .device = device, .inode = inode};
        (void)snprintf(found->path, sizeof found->path, "%s", path > 0 ? line + path : "");
        if (found == pending) {
            return true;
        }
    }
    return mapping->length != 0;
}

static struct {
    struct maps_reader reader;
    struct pf_agent_mapping pending, mapping;
} scratch; /* of the agent's thread: too large for a small stack */

static void rewind_maps(void) {
    (void)lseek(agent.maps, 0, SEEK_SET);
    memset(&scratch, 0, sizeof scratch);
}

static bool send_mappings(uint64_t sequence) {
    bool sent = true;
    rewind_maps();
    while (sent && next_mapping(&scratch.reader, &scratch.pending, &scratch.mapping)) {
        const struct handle file = find_file(agent.fd_folder, scratch.mapping.device, scratch.mapping.inode);
        struct statfs about;
        if (file.fd >= 0 && fstatfs(file.fd, &about) == 0) {
            scratch.mapping.file_system = (uint64_t)about.f_type;
            scratch.mapping.page_size =
                about.f_type == HUGETLBFS_TYPE ? (uint64_t)about.f_bsize : (uint64_t)sysconf(_SC_PAGESIZE);
        }
        scratch.mapping.header = header_of(sequence, PF_AGENT_MAPPING, file.error);
        sent = send_packet(&scratch.mapping, sizeof scratch.mapping, file.fd);
        if (file.fd >= 0) {
            (void)close(file.fd);
        }
    }
    return sent;
}

/* Only within one shared mapping of a file: there, what is dropped comes back from the file. */
static int zap(uint64_t address, uint64_t length) {
    rewind_maps();
    while (next_mapping(&scratch.reader, &scratch.pending, &scratch.mapping)) {
        const struct pf_agent_mapping* m = &scratch.mapping;
        if (length > 0 && address >= m->address && length <= m->length && address - m->address <= m->length - length) {
            return madvise((void*)(uintptr_t)address, length, MADV_DONTNEED) == 0 ? 0 : errno;
        }
    }
    return EINVAL;
}

static bool send_disk(int fd, void* sequence) {
    char link[32];
    memset(&scratch.mapping, 0, sizeof scratch.mapping);
    scratch.mapping.header = header_of(*(const uint64_t*)sequence, PF_AGENT_DISK, 0);
    (void)snprintf(link, sizeof link, "%d", fd);
    if (readlinkat(agent.fd_folder, link, scratch.mapping.path, sizeof scratch.mapping.path - 1) < 0) {
        (void)snprintf(scratch.mapping.path, sizeof scratch.mapping.path, "descriptor %d", fd);
    }
    return send_packet(&scratch.mapping, sizeof scratch.mapping, -1);
}

static void release_faults(void) {
    for (uint32_t i = 0; i < PF_AGENT_FAULT_HANDLES; ++i) {
        if (agent.faults[i].fd >= 0) {
            (void)close(agent.faults[i].fd);
        }
        agent.faults[i] = (struct handle){.fd = -1, .error = EBADF};
    }
}

static bool answer(const struct pf_agent_request* request) {
    bool sent = true;
    int error = 0;
    switch (request->type) {
    case PF_AGENT_HANDLES: sent = send_handles(request->sequence); break;
    case PF_AGENT_MAPPINGS: sent = send_mappings(request->sequence); break;
    case PF_AGENT_ZAP: error = zap(request->address, request->length); break;
    case PF_AGENT_RELEASE: release_faults(); break;
    case PF_AGENT_BUFFERED: error = make_buffered(agent.fd_folder, send_disk, &(uint64_t){request->sequence}); break;
    case PF_AGENT_DIRECT: make_direct_again(); break;
    case PF_AGENT_USERFAULTFD: {
        const struct handle fresh = new_userfaultfd(true);
        sent = send_handle(request->sequence, PF_AGENT_HANDLE_TRACKING, 1, fresh);
        if (fresh.fd >= 0) {
            (void)close(fresh.fd);
        }
        break;
    }
    default: error = ENOSYS;
    }
    const struct pf_agent_header end = header_of(request->sequence, PF_AGENT_END, error);
    return sent && send_packet(&end, sizeof end, -1);
}

static void* serve(void* unused) {
    struct pf_agent_request request;
    for (;;) {
        const ssize_t got = recv(agent.socket, &request, sizeof request, MSG_TRUNC);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got != (ssize_t)sizeof request || request.magic != PF_AGENT_MAGIC || request.version != PF_AGENT_VERSION ||
            !answer(&request)) {
            break;
        }
    }
    make_direct_again();                     /* nobody is left who would ask for it */
    (void)shutdown(agent.socket, SHUT_RDWR); /* the number stays ours: another thread of QEMU may be using its neighbours */
    return unused;
}

static void start_thread(void) {
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_t attributes;
    (void)sigfillset(&all);
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&thread, &attributes, serve, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    if (error == 0) {
        (void)pthread_setname_np(thread, "pageferry-agent");
    } else {
        (void)shutdown(agent.socket, SHUT_RDWR); /* the monitor process sees the end and says so */
        if (getenv(PF_AGENT_ENV_VERBOSE) != NULL) {
            (void)fprintf(stderr, "pageferry: the agent could not start its thread: %s\n", strerrordesc_np(error));
        }
    }
}

__attribute__((constructor)) static void start(void) {
    agent.socket = number_in_environment(PF_AGENT_ENV_FD);
    if (agent.socket < 0 || !in_qemu()) {
        return;
    }
    const int saved = errno;
    close_on_exec(agent.socket);
    agent.userfaultfd_device = number_in_environment(PF_AGENT_ENV_USERFAULTFD);
    close_on_exec(agent.userfaultfd_device);
    close_list_on_exec(getenv(PF_AGENT_ENV_CLOSE_ON_EXEC));
    agent.tracking = new_userfaultfd(true);
    for (uint32_t i = 0; i < PF_AGENT_FAULT_HANDLES; ++i) {
        agent.faults[i] = new_userfaultfd(false);
    }
    agent.pagemap = opened(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    agent.clear_refs = opened(open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC));
    agent.discards = count_discards();
    agent.maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    agent.fd_folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    start_thread();
    clean_environment();
    errno = saved;
}
