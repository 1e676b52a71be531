/* Small plugins for the loader's tests: one good, the others each wrong in one way, chosen by the macro WRONG_... */
#include "transport/abi/pageferry_transport.h"

struct pf_listener {
    int unused;
};

#ifdef WRONG_UNRESOLVED
int pageferry_no_library_has_this(void);
#endif

static struct pf_listener the_listener;

static int probe(const char* uri, pf_error* error) {
    (void)uri, (void)error;
    return PF_OK;
}
static int listen(const char* uri, const pf_options* options, pf_listener** listener, pf_error* error) {
    (void)uri, (void)options, (void)error;
    *listener = &the_listener;
    return PF_OK;
}
static int listener_uri(pf_listener* listener, char* buffer, size_t capacity) {
    (void)listener;
    if (capacity > 0) {
        buffer[0] = '\0';
    }
    return PF_OK;
}
static int accept(pf_listener* listener, int64_t timeout_ms, pf_connection** connection, pf_error* rejected, pf_error* error) {
    (void)listener, (void)timeout_ms, (void)connection, (void)rejected, (void)error;
    return PF_AGAIN;
}
static void with_listener(pf_listener* listener) {
    (void)listener;
}
static int open(const char* uri, const pf_options* options, pf_connection** connection, pf_error* error) {
    (void)uri, (void)options, (void)connection, (void)error;
    return PF_UNSUPPORTED;
}
static int connect(pf_connection* connection, int64_t timeout_ms, pf_progress progress, void* context, pf_error* error) {
    (void)connection, (void)timeout_ms, (void)progress, (void)context, (void)error;
    return PF_UNSUPPORTED;
}
static void with_connection(pf_connection* connection) {
    (void)connection;
}
static int describe(pf_connection* connection, char* buffer, size_t capacity) {
    (void)connection, (void)buffer, (void)capacity;
    return PF_UNSUPPORTED;
}
static int add_memory(pf_connection* connection, const pf_memory_block* blocks, size_t count, pf_error* error) {
    (void)connection, (void)blocks, (void)count, (void)error;
    return PF_UNSUPPORTED;
}
static int wait(pf_connection* connection, int64_t timeout_ms, pf_error* error) {
    (void)connection, (void)timeout_ms, (void)error;
    return PF_UNSUPPORTED;
}
static int prepare(pf_connection* connection, const pf_extent* extents, size_t count, pf_error* error) {
    (void)connection, (void)extents, (void)count, (void)error;
    return PF_OK;
}

static int memory_replaced(pf_connection* connection, pf_error* error) {
    (void)connection, (void)error;
    return PF_OK;
}

static int send(pf_connection* connection, const void* message, size_t length, int64_t timeout_ms, pf_error* error) {
    (void)connection, (void)message, (void)length, (void)timeout_ms, (void)error;
    return PF_UNSUPPORTED;
}
static int receive(pf_connection* connection, void* buffer, size_t capacity, size_t* length, int64_t timeout_ms,
                   pf_error* error) {
    (void)connection, (void)buffer, (void)capacity, (void)length, (void)timeout_ms, (void)error;
    return PF_UNSUPPORTED;
}
static int push(pf_connection* connection, const pf_extent* extents, size_t count, size_t* accepted, pf_error* error) {
    (void)connection, (void)extents, (void)count, (void)accepted, (void)error;
    return PF_UNSUPPORTED;
}
static int pull(pf_connection* connection, uint32_t lane, const pf_extent* extents, size_t count, size_t* accepted,
                pf_error* error) {
    (void)connection, (void)lane, (void)extents, (void)count, (void)accepted, (void)error;
    return PF_UNSUPPORTED;
}
static int poll(pf_connection* connection, pf_completion* completions, size_t capacity, size_t* count, int64_t timeout_ms,
                pf_error* error) {
    (void)connection, (void)completions, (void)capacity, (void)count, (void)timeout_ms, (void)error;
    return PF_UNSUPPORTED;
}
static int counters(pf_connection* connection, pf_counters* counted) {
    (void)connection, (void)counted;
    return PF_UNSUPPORTED;
}

#ifndef WRONG_OLD
/* More than a first guess holds. */
static int inspect(char* buffer, size_t capacity, size_t* length) {
    *length = 40000;
    if (capacity < *length) {
        return PF_AGAIN;
    }
    for (size_t i = 0; i < *length; ++i) {
        buffer[i] = ' ';
    }
    buffer[0] = '{';
    buffer[*length - 1] = '}';
    return PF_OK;
}
#endif

static const char* const schemes[] = {
#ifdef WRONG_OLD
    "old",
#endif
#ifdef WRONG_SCHEME
    "another", "third",
#else
    "good", "other-good",
#endif
    NULL};

static const pf_transport transport = {
#ifdef WRONG_OLD
    .size = PF_TRANSPORT_SIZE_MIN, /* from before inspect: nothing behind it may be read */
#elif defined WRONG_SIZE
    .size = PF_TRANSPORT_SIZE_MIN - sizeof(void*),
#else
    .size = sizeof(pf_transport),
#endif
#ifdef WRONG_VERSION
    .abi_version = PF_TRANSPORT_ABI_VERSION + 41,
#else
    .abi_version = PF_TRANSPORT_ABI_VERSION,
#endif
#ifndef WRONG_NAME
    .name = "good",
#endif
    .description = "a plugin for tests",
    .schemes = schemes,
    .probe = probe,
    .listen = listen,
    .listener_uri = listener_uri,
    .accept = accept,
    .cancel_listener = with_listener,
    .close_listener = with_listener,
    .open = open,
    .connect = connect,
    .cancel = with_connection,
    .close = with_connection,
    .describe = describe,
    .add_memory = add_memory,
    .prepare = prepare,
    .memory_replaced = memory_replaced,
    .revoke_memory = wait,
    .send = send,
    .receive = receive,
    .push = push,
    .pull = pull,
    .poll = poll,
#ifndef WRONG_FUNCTION
    .fence = wait,
#endif
    .counters = counters,
#ifndef WRONG_OLD
    .inspect = inspect,
#endif
};

#ifdef WRONG_SYMBOL
const pf_transport* another_entry(uint32_t host_abi_version);
const pf_transport* another_entry(uint32_t host_abi_version) {
#else
const pf_transport* pageferry_transport_entry(uint32_t host_abi_version);
const pf_transport* pageferry_transport_entry(uint32_t host_abi_version) {
#endif
#ifdef WRONG_UNRESOLVED
    pageferry_no_library_has_this();
#endif
#ifdef WRONG_NULL
    (void)host_abi_version;
    (void)transport;
    return NULL;
#else
    return host_abi_version == PF_TRANSPORT_ABI_VERSION ? &transport : NULL;
#endif
}
