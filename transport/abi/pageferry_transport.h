/* SPDX-License-Identifier: Apache-2.0
 *
 * The seam between Pageferry and what carries its pages: the transport plugin ABI, version 1.
 *
 * A transport is a shared object named  pageferry-transport-SCHEME.so  that exports one function,
 * pageferry_transport_entry(). It can be written in C from this header alone; it needs nothing else of Pageferry. It is found by
 * the scheme of a URI ("tcp:host:port" -> pageferry-transport-tcp.so) and loaded with dlopen(3).
 *
 * WHAT IT CARRIES
 *   A connection joins two processes that hold the same list of RAM blocks. It has
 *     - a control lane: ordered, reliable messages of at most PF_CONTROL_MAX bytes, never stuck behind pages;
 *     - bulk lanes: pushes (this side's RAM into the peer's RAM, at the same block and offset) and pulls (the other way);
 *     - an urgent lane: pulls that bulk work must not delay (page faults).
 *   An error in one lane ends the whole connection; every later call answers that first error again.
 *
 * THREADS
 *   listener:   one thread at a time in accept(); cancel_listener() from any thread.
 *   connection: connect() by the one who opened it. Then send(), receive(), push(), pull(urgent), pull(bulk), poll() and fence()
 * may be called at the same time by different threads, each function by one thread at a time. send() may be called by any number
 * of threads. cancel() by any thread at any time, also during connect(). close() and close_listener(): when no other call is
 * under way.
 *
 * TIME
 *   All timeouts are milliseconds, >= 0; 0 asks and does not wait. There is no "for ever". cancel() makes every call under way
 *   and every later one answer PF_CANCELLED within 100 ms.
 *
 * ERRORS
 *   Functions answer PF_OK or another enum pf_status. Where there is a pf_error*, it may be NULL; it is filled on anything but
 * PF_OK and PF_AGAIN. A call that fails before it has done anything leaves everything as it was.
 *
 * GROWTH
 *   Structures open with their size. A caller sets it to sizeof; a plugin reads no member beyond it. New members come at the end.
 *   Integers are in host order: nothing here goes on the wire.
 */
#ifndef PAGEFERRY_TRANSPORT_H
#define PAGEFERRY_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>

/* NOLINTBEGIN(modernize-use-using,modernize-macro-to-enum): C */

#ifdef __cplusplus
extern "C" {
#endif

#define PF_TRANSPORT_ABI_VERSION 1u
#define PF_CONTROL_MAX 65536u /* bytes, largest control message */
#define PF_SESSION_BYTES 16u  /* bytes, a session id */

enum pf_status {
    PF_OK = 0,
    PF_AGAIN = 1,   /* queue full, or nothing there yet: not a failure */
    PF_INVALID = 2, /* bad argument or URI */
    PF_NOT_FOUND = 3,
    PF_REFUSED = 4,
    PF_UNREACHABLE = 5,
    PF_TIMED_OUT = 6,
    PF_CANCELLED = 7,
    PF_CLOSED = 8,   /* the peer went away */
    PF_PROTOCOL = 9, /* the peer does not speak this transport's protocol */
    PF_VERSION = 10, /* it does, but no version that we know */
    PF_PERMISSION = 11,
    PF_RESOURCES = 12,
    PF_IN_USE = 13,
    PF_UNSUPPORTED = 14,
    PF_STATE = 15,
    PF_IO = 16,
    PF_INTERNAL = 17
};

/* How far a connection being set up has come. Phases come in this order; a transport leaves out those it has not. */
enum pf_phase {
    PF_PHASE_RESOLVING_ADDRESS = 1,
    PF_PHASE_RESOLVING_ROUTE = 2,
    PF_PHASE_CONNECTING = 3,
    PF_PHASE_HANDSHAKE = 4, /* connected; version, session and lanes are being agreed */
    PF_PHASE_ESTABLISHED = 5
};

#define PF_LANE_NONE 0xffffffffu

typedef struct pf_error {
    uint32_t size;      /* sizeof(pf_error), set by the caller */
    int32_t status;     /* enum pf_status */
    int32_t native;     /* errno or the library's code, 0 where there is none */
    uint32_t lane;      /* lane it happened on, 0 is control, or PF_LANE_NONE */
    uint32_t phase;     /* enum pf_phase during connect(), else 0 */
    char operation[64]; /* all strings are NUL-terminated, cut where too long */
    char object[160];
    char peer[128];
    char reason[256];
    char remedy[192];
} pf_error;

typedef struct pf_options {
    uint32_t size;
    uint32_t lanes;                    /* bulk lanes, 1..64 */
    uint32_t dead_peer_ms;             /* a peer that answers nothing for so long is gone */
    uint32_t handshake_ms;             /* longest time an accepted peer may take to finish its handshake */
    uint32_t queue_depth;              /* pushes or pulls that may be under way at once, 0: the transport's own choice */
    uint32_t epoch;                    /* number of this connection within its session; a listener accepts this one or later */
    uint8_t session[PF_SESSION_BYTES]; /* all zero on a listener: any session */
    uint64_t memory_bytes;             /* RAM this side is going to share, 0: not known. Limits are checked against it at once */
} pf_options;

/* What the peer, and this side, may do with a block's memory. */
#define PF_MEMORY_PUSH_SOURCE 0x1u /* this side pushes from it */
#define PF_MEMORY_PUSH_TARGET 0x2u /* the peer may push into it */
#define PF_MEMORY_PULL_SOURCE 0x4u /* the peer may pull from it */
#define PF_MEMORY_PULL_TARGET 0x8u /* this side pulls into it */

typedef struct pf_memory_block {
    uint32_t size;
    uint32_t block;     /* the same number on both sides */
    const char* name;   /* for messages; copied */
    void* address;      /* start of the alias mapping; stays mapped until close() */
    uint64_t length;    /* bytes, a multiple of page_size */
    uint64_t page_size; /* bytes: 4096, 2 MiB, ... */
    uint32_t access;    /* PF_MEMORY_* */
    uint32_t reserved;  /* 0 */
} pf_memory_block;

typedef struct pf_extent {
    uint32_t block;
    uint32_t reserved; /* 0 */
    uint64_t offset;   /* bytes */
    uint64_t length;   /* bytes, > 0 */
    uint64_t cookie;   /* comes back in the completion */
} pf_extent;

typedef struct pf_completion {
    uint64_t cookie;
    int32_t status; /* enum pf_status */
    uint32_t reserved;
} pf_completion;

typedef struct pf_counters {
    uint32_t size;
    uint32_t lanes;        /* bulk lanes in use */
    uint64_t bytes_pushed; /* page bytes, without framing */
    uint64_t bytes_pulled;
    uint64_t control_bytes; /* sent */
    uint64_t wire_bytes;    /* all that was sent, with framing, as far as the transport can know */
} pf_counters;

typedef struct pf_connection pf_connection; /* the plugin's own */
typedef struct pf_listener pf_listener;

/* Told by connect(), on its own thread; detail is for people ("192.0.2.7:4444"), never NULL. */
typedef void (*pf_progress)(void* context, enum pf_phase phase, const char* detail);

#define PF_PULL_BULK 0u
#define PF_PULL_URGENT 1u

/* Pages are read where they were when the transport registered them, not where they are mapped when they are pushed: whoever
 * replaces pages (punches holes into the file) must be watched, see memory_replaced(). */
#define PF_TRAIT_PINS_MEMORY 0x1u

typedef struct pf_transport {
    uint32_t size;
    uint32_t abi_version;       /* PF_TRANSPORT_ABI_VERSION */
    const char* name;           /* "tcp" */
    const char* description;    /* one line, for people */
    const char* const* schemes; /* NULL-terminated */
    uint32_t traits;            /* PF_TRAIT_* */
    uint32_t reserved;          /* 0 */

    /* Can this host use it? PF_OK, or why not and what to install or set. uri may be NULL; with one, the address is looked at
     * too. */
    int (*probe)(const char* uri, pf_error* error);

    /* Binds and listens. Answers before any peer has come. PF_IN_USE: the port is taken. */
    int (*listen)(const char* uri, const pf_options* options, pf_listener** listener, pf_error* error);
    /* The URI a peer can connect to (port 0 replaced by the real one); NUL-terminated, cut at capacity. */
    int (*listener_uri)(pf_listener* listener, char* buffer, size_t capacity);
    /* The next peer that completed its handshake. Strangers and wrong sessions are turned away inside and never show, other than
     *in rejected (may be NULL), which is filled with the latest of them when PF_AGAIN (timeout) is answered. */
    int (*accept)(pf_listener* listener, int64_t timeout_ms, pf_connection** connection, pf_error* rejected, pf_error* error);
    void (*cancel_listener)(pf_listener* listener);
    void (*close_listener)(pf_listener* listener);

    /* Makes a connection object; no input or output yet, so that cancel() has something to act on. */
    int (*open)(const char* uri, const pf_options* options, pf_connection** connection, pf_error* error);
    /* All phases up to PF_PHASE_ESTABLISHED within timeout_ms. progress may be NULL. */
    int (*connect)(pf_connection* connection, int64_t timeout_ms, pf_progress progress, void* context, pf_error* error);
    void (*cancel)(pf_connection* connection);
    /* Ends it: after the return nothing of it can write this side's memory, or read it. It waits for no network: while the
       connection still stands, a second at most for the peer to take the last messages; then as long as the host needs to take
       the memory back. What can hold up the host itself (queues of a device whose port is down) is given back behind it, on a
       thread of the plugin, and holds up neither another connection nor, more than the kernel does, the end of the process. */
    void (*close)(pf_connection* connection);
    /* "tcp 192.0.2.1:50312 -> 192.0.2.7:4444, 2 lanes" */
    int (*describe)(pf_connection* connection, char* buffer, size_t capacity);

    /* Tells which memory the connection may touch, once, before the first push or pull, with all blocks at once. */
    int (*add_memory)(pf_connection* connection, const pf_memory_block* blocks, size_t count, pf_error* error);
    /* A hint: pushes or pulls of these ranges are to come, roughly in this order (cookies are not used). A transport that needs
       memory registered begins with it, in the background; others have nothing to do. What was never named works as well.
       Holes are filled at most within the 2 MiB, counted from the block's start, that something named or moved is in. */
    int (*prepare)(pf_connection* connection, const pf_extent* extents, size_t count, pf_error* error);
    /* Pages that this side pushes from (or pulls into) may have been replaced by others (holes were punched): what was registered
       of them is registered again before the next push. What the peer may reach is not touched by it. PF_STATE, with nothing
       done: a push or pull is under way, or its completion was not fetched. */
    int (*memory_replaced)(pf_connection* connection, pf_error* error);
    /* Ends what the peer may do to this side's memory: pushes into it, and pulls from it. After PF_OK nothing that the peer has
       sent or will send changes this side's memory, other than the answers to this side's own pulls. What this side does itself
       goes on, what is under way included: pushes, pulls, prepare(), and control. */
    int (*revoke_memory)(pf_connection* connection, int64_t timeout_ms, pf_error* error);

    /* One control message, 1..PF_CONTROL_MAX bytes; copied. */
    int (*send)(pf_connection* connection, const void* message, size_t length, int64_t timeout_ms, pf_error* error);
    /* PF_AGAIN when none came in time. capacity must be PF_CONTROL_MAX or more. */
    int (*receive)(pf_connection* connection, void* buffer, size_t capacity, size_t* length, int64_t timeout_ms, pf_error* error);

    /* Starts pushes. *accepted tells how many of them, from the first, were taken; PF_AGAIN when none was, for the queue is full.
       The memory is read at any time until the completion: a page the guest writes meanwhile is dirty again and must be sent
       again. */
    int (*push)(pf_connection* connection, const pf_extent* extents, size_t count, size_t* accepted, pf_error* error);
    /* Starts pulls, lane PF_PULL_BULK or PF_PULL_URGENT; otherwise as push. On completion the data is in this side's memory. */
    int (*pull)(pf_connection* connection, uint32_t lane, const pf_extent* extents, size_t count, size_t* accepted,
                pf_error* error);
    /* Completions of pushes and pulls. PF_AGAIN when none came in time. A completed push has left this side's memory; that it
       has landed is what fence() says. */
    int (*poll)(pf_connection* connection, pf_completion* completions, size_t capacity, size_t* count, int64_t timeout_ms,
                pf_error* error);
    /* Everything pushed before this call has landed in the peer's memory and is visible there. */
    int (*fence)(pf_connection* connection, int64_t timeout_ms, pf_error* error);

    int (*counters)(pf_connection* connection, pf_counters* counters);

    /* Optional: NULL, or a table that ends before it, where there is nothing to tell. What this host has for this transport, as
       one JSON object in UTF-8, for people and tools, any thread, no NUL at the end. *length is always set to what is needed;
       PF_AGAIN when that is more than capacity, and then buffer (which may be NULL with capacity 0) is as it was. Its member
       "findings" is an array of lines for people: {"what": "rxe0 port 1", "value": "active, Ethernet", "ok": false, "reason":
       "...", "remedy": "..."}; "ok" is left out where there is nothing to judge, the last two where it is true. All other members
       are the transport's own. */
    int (*inspect)(char* buffer, size_t capacity, size_t* length);
} pf_transport;

/* Size of the smallest table of version 1: all that a caller may count on. */
#define PF_TRANSPORT_SIZE_MIN offsetof(pf_transport, inspect)

/* The one symbol a plugin exports. host_abi_version is the version of the host's header; a plugin that cannot serve it answers
 * NULL. */
#define PF_TRANSPORT_ENTRY "pageferry_transport_entry"
typedef const pf_transport* (*pf_transport_entry_fn)(uint32_t host_abi_version);

#ifdef __cplusplus
}
#endif
/* NOLINTEND(modernize-use-using,modernize-macro-to-enum) */
#endif
