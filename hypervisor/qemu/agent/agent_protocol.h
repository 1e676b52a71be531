/* What the agent inside QEMU and its one client say to each other: fixed-size packets on a Unix SOCK_SEQPACKET socket.
 *
 * Both ends are on one machine and come from one build, so numbers are in host byte order; magic and version catch a mix-up.
 * A request is one packet. Its answer is any number of items (one packet each, at most one descriptor each, by SCM_RIGHTS),
 * then one end packet. Every packet of an answer carries the request's sequence number: a client that gave up waiting tells
 * late answers from its own by it. The client closing the socket ends the agent's thread.
 */
#ifndef PAGEFERRY_AGENT_PROTOCOL_H
#define PAGEFERRY_AGENT_PROTOCOL_H

#include <stdint.h>

/* NOLINTBEGIN(modernize-macro-to-enum): C */
#define PF_AGENT_MAGIC 0x41474650u /* "PFGA" */
#define PF_AGENT_VERSION 3u
#define PF_AGENT_FAULT_HANDLES 8u
#define PF_AGENT_PATH_BYTES 4096u
/* NOLINTEND(modernize-macro-to-enum) */

/* Environment of the agent. Without PAGEFERRY_AGENT_FD it does nothing at all. */
#define PF_AGENT_ENV_FD "PAGEFERRY_AGENT_FD"             /* number of the socket */
#define PF_AGENT_ENV_USERFAULTFD "PAGEFERRY_USERFAULTFD" /* number of an open /dev/userfaultfd, optional */
#define PF_AGENT_ENV_CLOSE_ON_EXEC                                                                                               \
    "PAGEFERRY_CLOSE_ON_EXEC"                          /* "7,9": descriptors QEMU's children shall not inherit, optional         \
                                                        */
#define PF_AGENT_ENV_VERBOSE "PAGEFERRY_AGENT_VERBOSE" /* one line on stderr when it cannot start, optional */

enum pf_agent_request_type {
    PF_AGENT_HANDLES = 1, /* every handle made at start, as handle items; the agent keeps its own copies */
    PF_AGENT_MAPPINGS =
        2,            /* every shared mapping, as mapping items; without descriptor where it is of no regular file that is open */
    PF_AGENT_ZAP = 3, /* MADV_DONTNEED on address, length: only page table entries go, the file keeps its pages */
    PF_AGENT_USERFAULTFD = 4, /* one more userfaultfd, as one handle item: a userfaultfd takes UFFDIO_API only once */
    PF_AGENT_RELEASE = 5,     /* closes the agent's copies of the fault userfaultfds; a later HANDLES gives EBADF for them */
    PF_AGENT_BUFFERED = 6,    /* disks with direct I/O go through the page cache; those switched by this request as disk items */
    PF_AGENT_DIRECT = 7       /* back to direct I/O; also when the client is gone */
};

enum pf_agent_item_kind { PF_AGENT_END = 0, PF_AGENT_HANDLE = 1, PF_AGENT_MAPPING = 2, PF_AGENT_DISK = 3 };

enum pf_agent_handle_kind {
    PF_AGENT_HANDLE_TRACKING = 1,   /* userfaultfd for dirty tracking; without UFFDIO_API */
    PF_AGENT_HANDLE_FAULT = 2,      /* userfaultfd for faults, numbered by index; without UFFDIO_API */
    PF_AGENT_HANDLE_PAGEMAP = 3,    /* /proc/self/pagemap, read only */
    PF_AGENT_HANDLE_CLEAR_REFS = 4, /* /proc/self/clear_refs, write only */
    PF_AGENT_HANDLE_DISCARDS = 5    /* memory that begins with a pf_agent_discards; to be mapped for reading */
};

/* How often QEMU has punched a hole into shared memory (or tried to) since it was started. Read `ended` before `begun`: where
 * they are equal, none was under way at that moment; where both are as they were, there was none in between either. */
struct pf_agent_discards {
    uint64_t begun; /* goes up before the first page goes */
    uint64_t ended; /* goes up after the last */
};

struct pf_agent_request {
    uint32_t magic;
    uint16_t version;
    uint16_t type; /* enum pf_agent_request_type */
    uint64_t sequence;
    uint64_t address; /* ZAP only, otherwise 0 */
    uint64_t length;  /* ZAP only, otherwise 0 */
};

struct pf_agent_header {
    uint32_t magic;
    uint16_t version;
    uint16_t kind; /* enum pf_agent_item_kind */
    uint64_t sequence;
    int32_t error; /* END: errno of the request, 0 for success. Items: errno why the descriptor is missing, 0 when it is there */
    uint32_t reserved;
};

struct pf_agent_handle {
    struct pf_agent_header header;
    uint32_t what; /* enum pf_agent_handle_kind */
    uint32_t index;
};

/* Neighbouring mappings of one file with matching offsets are given as one. A disk item has this shape too, and only its path. */
struct pf_agent_mapping {
    struct pf_agent_header header;
    uint64_t address;
    uint64_t length;
    uint64_t file_offset;
    uint64_t device;                /* st_dev */
    uint64_t inode;                 /* st_ino */
    uint64_t page_size;             /* bytes, of the file system; 0 where the descriptor is missing */
    uint64_t file_system;           /* statfs f_type; 0 where the descriptor is missing */
    char path[PF_AGENT_PATH_BYTES]; /* as in /proc/PID/maps, cut at the end where longer; always terminated */
};

#endif
