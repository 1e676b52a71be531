#include "tcp_fallback/abi.h"

#include "tcp_fallback/address.h"
#include "tcp_fallback/connection.h"
#include "tcp_fallback/listener.h"
#include "tcp_fallback/sockets.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string_view>

// The ABI's opaque types.
struct pf_connection {
    std::unique_ptr<pageferry::tcp::Connection> own;
};
struct pf_listener {
    std::unique_ptr<pageferry::tcp::Listener> own;
};

namespace pageferry::tcp {

namespace {

constexpr std::int64_t probe_ms = 5000; // for a name server to answer

// Nothing crosses the ABI but C: what the standard library throws becomes a status.
template <class Body>
int guarded(pf_error* error, const char* operation, Body body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return answer(error, Fault{.error = make_error(ErrorCode::resources, operation, {}, "out of memory")});
    } catch (const std::exception& thrown) {
        return answer(error, Fault{.error = make_error(ErrorCode::internal, operation, {}, thrown.what())});
    }
}

int missing(pf_error* error, const char* operation) {
    return answer(error,
                  Fault{.error = make_error(ErrorCode::invalid_argument, operation, {}, "a null pointer where none may be")});
}

int done(pf_error* error, Outcome<void> outcome) {
    return outcome ? PF_OK : answer(error, outcome.error());
}

int copy_out(const std::string& text, char* buffer, std::size_t capacity) {
    if (buffer == nullptr || capacity == 0) {
        return PF_INVALID;
    }
    const std::size_t length = std::min(text.size(), capacity - 1);
    std::memcpy(buffer, text.data(), length);
    buffer[length] = '\0';
    return PF_OK;
}

Outcome<void> look_at_address(const std::string& text) {
    auto uri = parse_own_uri(text);
    if (!uri) {
        return failed(std::move(uri.error()));
    }
    if (uri->scheme == "tcp") {
        auto found = resolve(*uri, Purpose::connecting, Deadline::in(probe_ms), -1);
        return found ? Outcome<void>{} : std::unexpected{std::move(found.error())};
    }
    if (auto endpoint = unix_endpoint(*uri); !endpoint) {
        return failed(std::move(endpoint.error()));
    }
    const std::filesystem::path directory = std::filesystem::absolute(uri->path).parent_path();
    struct stat status{};
    if (::stat(directory.c_str(), &status) != 0) {
        return failed(errno_error(errno, "probe", directory, "create the directory of the socket first"));
    }
    if (!S_ISDIR(status.st_mode)) {
        return failed(errno_error(ENOTDIR, "probe", directory));
    }
    return {};
}

int probe(const char* uri, pf_error* error) {
    return guarded(error, "probe", [&] {
        const bool local = uri != nullptr && std::string_view{uri}.starts_with("unix");
        const auto can = [](int family) { return static_cast<bool>(Fd{::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)}); };
        if (!(local ? can(AF_UNIX) : can(AF_INET) || can(AF_INET6))) {
            return answer(error, Fault{.error = errno_error(errno, "socket", local ? "unix" : "tcp")});
        }
        return uri == nullptr ? int{PF_OK} : done(error, look_at_address(uri));
    });
}

int listen(const char* uri, const pf_options* options, pf_listener** listener, pf_error* error) {
    return guarded(error, "listen", [&] {
        if (uri == nullptr || listener == nullptr) {
            return missing(error, "listen");
        }
        auto read = read_options(options);
        if (!read) {
            return answer(error, Fault{.error = std::move(read.error())});
        }
        auto made = Listener::listen(uri, *read);
        if (!made) {
            return answer(error, made.error());
        }
        *listener = new pf_listener{std::move(*made)};
        return int{PF_OK};
    });
}

int listener_uri(pf_listener* listener, char* buffer, size_t capacity) {
    return guarded(nullptr, "listener_uri", [&] { return copy_out(listener->own->uri(), buffer, capacity); });
}

int accept(pf_listener* listener, int64_t timeout_ms, pf_connection** connection, pf_error* rejected, pf_error* error) {
    return guarded(error, "accept", [&] {
        if (connection == nullptr) {
            return missing(error, "accept");
        }
        std::optional<Fault> stranger;
        auto made = listener->own->accept(Deadline::in(timeout_ms), stranger);
        if (!made) {
            return answer(error, made.error());
        }
        if (*made) {
            *connection = new pf_connection{std::move(*made)};
            return int{PF_OK};
        }
        clear(rejected);
        if (stranger) {
            (void)answer(rejected, *stranger);
        }
        return int{PF_AGAIN};
    });
}

void cancel_listener(pf_listener* listener) {
    listener->own->cancel();
}

void close_listener(pf_listener* listener) {
    delete listener;
}

int open(const char* uri, const pf_options* options, pf_connection** connection, pf_error* error) {
    return guarded(error, "open", [&] {
        if (uri == nullptr || connection == nullptr) {
            return missing(error, "open");
        }
        auto read = read_options(options);
        if (!read) {
            return answer(error, Fault{.error = std::move(read.error())});
        }
        auto made = Connection::open(uri, *read);
        if (!made) {
            return answer(error, Fault{.error = std::move(made.error())});
        }
        *connection = new pf_connection{std::move(*made)};
        return int{PF_OK};
    });
}

int connect(pf_connection* connection, int64_t timeout_ms, pf_progress progress, void* context, pf_error* error) {
    return guarded(error, "connect",
                   [&] { return done(error, connection->own->connect(Deadline::in(timeout_ms), progress, context)); });
}

void cancel(pf_connection* connection) {
    (void)guarded(nullptr, "cancel", [&] {
        connection->own->cancel();
        return int{PF_OK};
    });
}

void close(pf_connection* connection) {
    delete connection;
}

int describe(pf_connection* connection, char* buffer, size_t capacity) {
    return guarded(nullptr, "describe", [&] { return copy_out(connection->own->describe(), buffer, capacity); });
}

int add_memory(pf_connection* connection, const pf_memory_block* blocks, size_t count, pf_error* error) {
    return guarded(error, "add memory", [&] {
        if (blocks == nullptr && count > 0) {
            return missing(error, "add memory");
        }
        return done(error, connection->own->add_memory({blocks, count}));
    });
}

int revoke_memory(pf_connection* connection, int64_t timeout_ms, pf_error* error) {
    return guarded(error, "revoke memory", [&] { return done(error, connection->own->revoke_memory(Deadline::in(timeout_ms))); });
}

int send(pf_connection* connection, const void* message, size_t length, int64_t timeout_ms, pf_error* error) {
    return guarded(error, "send", [&] {
        if (message == nullptr) {
            return missing(error, "send");
        }
        return done(error, connection->own->send({static_cast<const std::byte*>(message), length}, Deadline::in(timeout_ms)));
    });
}

// Answers of calls that count: a number, or PF_AGAIN for none.
int counted(pf_error* error, Outcome<std::size_t> outcome, size_t* count) {
    *count = outcome.value_or(0);
    if (!outcome) {
        return answer(error, outcome.error());
    }
    return *outcome > 0 ? PF_OK : PF_AGAIN;
}

int receive(pf_connection* connection, void* buffer, size_t capacity, size_t* length, int64_t timeout_ms, pf_error* error) {
    return guarded(error, "receive", [&] {
        if (buffer == nullptr || length == nullptr) {
            return missing(error, "receive");
        }
        return counted(error, connection->own->receive({static_cast<std::byte*>(buffer), capacity}, Deadline::in(timeout_ms)),
                       length);
    });
}

int submit(OpKind kind, pf_connection* connection, const pf_extent* extents, size_t count, size_t* accepted, pf_error* error) {
    return guarded(error, "submit", [&] {
        if (accepted == nullptr || (extents == nullptr && count > 0)) {
            return missing(error, "submit");
        }
        const int status = counted(error, connection->own->submit(kind, {extents, count}), accepted);
        return status == PF_AGAIN && count == 0 ? int{PF_OK} : status;
    });
}

int push(pf_connection* connection, const pf_extent* extents, size_t count, size_t* accepted, pf_error* error) {
    return submit(OpKind::push, connection, extents, count, accepted, error);
}

int pull(pf_connection* connection, uint32_t lane, const pf_extent* extents, size_t count, size_t* accepted, pf_error* error) {
    if (lane != PF_PULL_BULK && lane != PF_PULL_URGENT) {
        return guarded(error, "pull", [&] {
            return answer(error, Fault{.error = make_error(ErrorCode::invalid_argument, "pull", "lane " + std::to_string(lane),
                                                           "there is no such lane")});
        });
    }
    return submit(lane == PF_PULL_URGENT ? OpKind::pull_urgent : OpKind::pull, connection, extents, count, accepted, error);
}

int poll(pf_connection* connection, pf_completion* completions, size_t capacity, size_t* count, int64_t timeout_ms,
         pf_error* error) {
    return guarded(error, "poll", [&] {
        if (completions == nullptr || capacity == 0 || count == nullptr) {
            return missing(error, "poll");
        }
        return counted(error, connection->own->poll({completions, capacity}, Deadline::in(timeout_ms)), count);
    });
}

int fence(pf_connection* connection, int64_t timeout_ms, pf_error* error) {
    return guarded(error, "fence", [&] { return done(error, connection->own->fence(Deadline::in(timeout_ms))); });
}

int counters(pf_connection* connection, pf_counters* counters) {
    return guarded(nullptr, "counters", [&] {
        if (counters == nullptr) {
            return int{PF_INVALID};
        }
        pf_counters full{};
        connection->own->counters(full);
        full.size = counters->size;
        std::memcpy(counters, &full, std::min<std::size_t>(full.size, sizeof full));
        return int{PF_OK};
    });
}

constexpr const char* schemes[] = {"tcp", "unix", nullptr};

constexpr pf_transport table{
    .size = sizeof(pf_transport),
    .abi_version = PF_TRANSPORT_ABI_VERSION,
    .name = "tcp",
    .description = "TCP and unix sockets: any network, pages received at their final address",
    .schemes = schemes,
    .probe = probe,
    .listen = listen,
    .listener_uri = listener_uri,
    .accept = accept,
    .cancel_listener = cancel_listener,
    .close_listener = close_listener,
    .open = open,
    .connect = connect,
    .cancel = cancel,
    .close = close,
    .describe = describe,
    .add_memory = add_memory,
    .revoke_memory = revoke_memory,
    .send = send,
    .receive = receive,
    .push = push,
    .pull = pull,
    .poll = poll,
    .fence = fence,
    .counters = counters,
};

} // namespace

const pf_transport* transport_table(std::uint32_t host_abi_version) {
    return host_abi_version == PF_TRANSPORT_ABI_VERSION ? &table : nullptr;
}

} // namespace pageferry::tcp
