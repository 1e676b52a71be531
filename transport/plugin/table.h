// The transport ABI's table of functions over a plugin's own classes: what is the same for every plugin written in C++.
//
//   Connection  open(uri, options), connect, cancel, describe, add_memory, prepare, memory_replaced, revoke_memory, send,
//   receive,
//               submit, poll, fence, counters; its destructor closes
//   Listener    listen(uri, options), uri, accept, cancel; its destructor closes
//   look        is this host able, and with a URI (or nullptr): is that address usable?
//
// Threads, times and errors: as transport/abi/pageferry_transport.h says. Nothing crosses it but C: what the standard library
// throws becomes a status.
#pragma once

#include "transport/abi/pageferry_transport.h"
#include "transport/plugin/answers.h"
#include "transport/plugin/deadline.h"
#include "transport/plugin/fault.h"
#include "transport/plugin/op_kind.h"
#include "transport/plugin/options.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace pageferry::plugin {

template <class Connection, class Listener, Outcome<void> (*look)(const char* uri)>
struct Table {
    // The ABI's opaque types are ours.
    static Connection& own(pf_connection* connection) { return *reinterpret_cast<Connection*>(connection); }
    static Listener& own(pf_listener* listener) { return *reinterpret_cast<Listener*>(listener); }

    static int probe(const char* uri, pf_error* error) {
        return guarded(error, "probe", [&] { return done(error, look(uri)); });
    }

    static int listen(const char* uri, const pf_options* options, pf_listener** listener, pf_error* error) {
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
            *listener = reinterpret_cast<pf_listener*>(made->release());
            return int{PF_OK};
        });
    }

    static int listener_uri(pf_listener* listener, char* buffer, size_t capacity) {
        return guarded(nullptr, "listener_uri", [&] { return copy_out(own(listener).uri(), buffer, capacity); });
    }

    static int accept(pf_listener* listener, int64_t timeout_ms, pf_connection** connection, pf_error* rejected,
                      pf_error* error) {
        return guarded(error, "accept", [&] {
            if (connection == nullptr) {
                return missing(error, "accept");
            }
            std::optional<Fault> stranger;
            auto made = own(listener).accept(Deadline::in(timeout_ms), stranger);
            if (!made) {
                return answer(error, made.error());
            }
            if (*made) {
                *connection = reinterpret_cast<pf_connection*>(made->release());
                return int{PF_OK};
            }
            clear(rejected);
            if (stranger) {
                (void)answer(rejected, *stranger);
            }
            return int{PF_AGAIN};
        });
    }

    static void cancel_listener(pf_listener* listener) { own(listener).cancel(); }

    static void close_listener(pf_listener* listener) { delete &own(listener); }

    static int open(const char* uri, const pf_options* options, pf_connection** connection, pf_error* error) {
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
            *connection = reinterpret_cast<pf_connection*>(made->release());
            return int{PF_OK};
        });
    }

    static int connect(pf_connection* connection, int64_t timeout_ms, pf_progress progress, void* context, pf_error* error) {
        return guarded(error, "connect",
                       [&] { return done(error, own(connection).connect(Deadline::in(timeout_ms), progress, context)); });
    }

    static void cancel(pf_connection* connection) {
        (void)guarded(nullptr, "cancel", [&] {
            own(connection).cancel();
            return int{PF_OK};
        });
    }

    static void close(pf_connection* connection) { delete &own(connection); }

    static int describe(pf_connection* connection, char* buffer, size_t capacity) {
        return guarded(nullptr, "describe", [&] { return copy_out(own(connection).describe(), buffer, capacity); });
    }

    static int add_memory(pf_connection* connection, const pf_memory_block* blocks, size_t count, pf_error* error) {
        return guarded(error, "add memory", [&] {
            if (blocks == nullptr && count > 0) {
                return missing(error, "add memory");
            }
            return done(error, own(connection).add_memory({blocks, count}));
        });
    }

    static int prepare(pf_connection* connection, const pf_extent* extents, size_t count, pf_error* error) {
        return guarded(error, "prepare", [&] {
            if (extents == nullptr && count > 0) {
                return missing(error, "prepare");
            }
            return done(error, own(connection).prepare({extents, count}));
        });
    }

    static int memory_replaced(pf_connection* connection, pf_error* error) {
        return guarded(error, "register memory again", [&] { return done(error, own(connection).memory_replaced()); });
    }

    static int revoke_memory(pf_connection* connection, int64_t timeout_ms, pf_error* error) {
        return guarded(error, "revoke memory",
                       [&] { return done(error, own(connection).revoke_memory(Deadline::in(timeout_ms))); });
    }

    static int send(pf_connection* connection, const void* message, size_t length, int64_t timeout_ms, pf_error* error) {
        return guarded(error, "send", [&] {
            if (message == nullptr) {
                return missing(error, "send");
            }
            return done(error, own(connection).send({static_cast<const std::byte*>(message), length}, Deadline::in(timeout_ms)));
        });
    }

    static int receive(pf_connection* connection, void* buffer, size_t capacity, size_t* length, int64_t timeout_ms,
                       pf_error* error) {
        return guarded(error, "receive", [&] {
            if (buffer == nullptr || length == nullptr) {
                return missing(error, "receive");
            }
            return counted(error, own(connection).receive({static_cast<std::byte*>(buffer), capacity}, Deadline::in(timeout_ms)),
                           length);
        });
    }

    static int submit(OpKind kind, pf_connection* connection, const pf_extent* extents, size_t count, size_t* accepted,
                      pf_error* error) {
        return guarded(error, "submit", [&] {
            if (accepted == nullptr || (extents == nullptr && count > 0)) {
                return missing(error, "submit");
            }
            const int status = counted(error, own(connection).submit(kind, {extents, count}), accepted);
            return status == PF_AGAIN && count == 0 ? int{PF_OK} : status;
        });
    }

    static int push(pf_connection* connection, const pf_extent* extents, size_t count, size_t* accepted, pf_error* error) {
        return submit(OpKind::push, connection, extents, count, accepted, error);
    }

    static int pull(pf_connection* connection, uint32_t lane, const pf_extent* extents, size_t count, size_t* accepted,
                    pf_error* error) {
        if (lane != PF_PULL_BULK && lane != PF_PULL_URGENT) {
            return guarded(error, "pull", [&] {
                return answer(error, Fault{.error = make_error(ErrorCode::invalid_argument, "pull",
                                                               "lane " + std::to_string(lane), "there is no such lane")});
            });
        }
        return submit(lane == PF_PULL_URGENT ? OpKind::pull_urgent : OpKind::pull, connection, extents, count, accepted, error);
    }

    static int poll(pf_connection* connection, pf_completion* completions, size_t capacity, size_t* count, int64_t timeout_ms,
                    pf_error* error) {
        return guarded(error, "poll", [&] {
            if (completions == nullptr || capacity == 0 || count == nullptr) {
                return missing(error, "poll");
            }
            return counted(error, own(connection).poll({completions, capacity}, Deadline::in(timeout_ms)), count);
        });
    }

    static int fence(pf_connection* connection, int64_t timeout_ms, pf_error* error) {
        return guarded(error, "fence", [&] { return done(error, own(connection).fence(Deadline::in(timeout_ms))); });
    }

    static int counters(pf_connection* connection, pf_counters* counters) {
        return guarded(nullptr, "counters", [&] {
            if (counters == nullptr) {
                return int{PF_INVALID};
            }
            pf_counters full{};
            own(connection).counters(full);
            full.size = counters->size;
            std::memcpy(counters, &full, std::min<std::size_t>(full.size, sizeof full));
            return int{PF_OK};
        });
    }

    // traits: PF_TRAIT_*. inspect is the ABI's own, where there is one.
    static constexpr pf_transport make(const char* name, const char* description, const char* const* schemes,
                                       std::uint32_t traits = 0, int (*inspect)(char*, size_t, size_t*) = nullptr) {
        return pf_transport{
            .size = sizeof(pf_transport),
            .abi_version = PF_TRANSPORT_ABI_VERSION,
            .name = name,
            .description = description,
            .schemes = schemes,
            .traits = traits,
            .reserved = 0,
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
            .prepare = prepare,
            .memory_replaced = memory_replaced,
            .revoke_memory = revoke_memory,
            .send = send,
            .receive = receive,
            .push = push,
            .pull = pull,
            .poll = poll,
            .fence = fence,
            .counters = counters,
            .inspect = inspect,
        };
    }
};

} // namespace pageferry::plugin
