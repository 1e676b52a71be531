#include "cli/probe_dialog.h"

#include "cli/probe_scratch.h"
#include "transport/session/channel.h"
#include "transport/session/messages.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace pageferry::cli {

namespace {

namespace session = transport::session;
using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr const char* software = "pageferry " PAGEFERRY_VERSION;
constexpr unsigned round_trips = 20;
constexpr std::uint64_t one_push = std::uint64_t{1} << 20; // bytes
constexpr milliseconds last_word{1000};
constexpr milliseconds slice{200};
constexpr milliseconds silent_prober{30'000}; // it sends no heartbeats while it pushes

Error unexpected(const session::Message& message, const char* during) {
    return make_error(ErrorCode::protocol, during, std::string{session::name_of(message)}, "the peer sent it out of turn");
}

// --- the prober

class Prober {
public:
    Prober(transport::Connection& connection, const transport::SessionId& id, milliseconds timeout)
        : connection_(connection), session_(id), timeout_(timeout), channel_(connection, timeout) {}

    Result<session::HelloReply> hello() {
        PAGEFERRY_TRY(channel_.send(session::Hello{.session = session_,
                                                   .epoch = 0,
                                                   .role = session::Role::source,
                                                   .features = session::feature_probe,
                                                   .software = software}));
        auto reply = expect<session::HelloReply>("hello");
        if (!reply && reply.error().code == ErrorCode::timed_out) {
            reply.error().remedy = "the port is open, but what listens there is neither a destination of Pageferry's nor "
                                   "`pageferry probe --listen`, or it is busy with another peer";
        }
        return reply;
    }

    // Until it has turned us away, so that our closing is not what it sees first.
    void leave() {
        std::ignore = channel_.send_within(
            session::Failure{.code = ErrorCode::cancelled, .text = "a probe: the connection works, and no migration is meant"},
            last_word);
        const auto end = steady_clock::now() + last_word;
        while (steady_clock::now() < end) {
            if (!channel_.receive(slice)) {
                return;
            }
        }
    }

    Result<RoundTrips> measure_round_trips() {
        std::vector<microseconds> times;
        for (unsigned i = 0; i < round_trips; ++i) {
            const auto begin = steady_clock::now();
            PAGEFERRY_TRY(echoed(session::RoundEnd{.round = i, .bytes = 0}));
            times.push_back(duration_cast<microseconds>(steady_clock::now() - begin));
        }
        std::ranges::sort(times);
        return RoundTrips{.count = round_trips, .least = times.front(), .median = times[times.size() / 2], .most = times.back()};
    }

    Result<void> share(const Scratch& memory) {
        PAGEFERRY_TRY(channel_.send(session::RamTable{
            .blocks = {{.block = 0, .name = Scratch::name, .length = memory.size(), .page_size = Scratch::page_size}}}));
        if (const auto ready = expect<session::DataExtents>("share memory"); !ready) {
            return std::unexpected(ready.error());
        }
        return connection_.add_memory(std::vector{memory.block(PF_MEMORY_PUSH_SOURCE)});
    }

    // All of it, fenced, and looked at by the peer; the time is until the fence.
    Result<microseconds> push(Scratch& memory, std::uint64_t round) {
        memory.fill(session_, round);
        std::vector<pf_extent> extents;
        for (std::uint64_t at = 0; at < memory.size(); at += one_push) {
            extents.push_back(pf_extent{
                .block = 0, .reserved = 0, .offset = at, .length = std::min(one_push, memory.size() - at), .cookie = at});
        }
        const auto begin = steady_clock::now();
        PAGEFERRY_TRY(connection_.prepare(extents));
        PAGEFERRY_TRY(push_all(extents, begin + timeout_));
        PAGEFERRY_TRY(connection_.fence(timeout_));
        const auto took = duration_cast<microseconds>(steady_clock::now() - begin);
        PAGEFERRY_TRY(echoed(session::RoundEnd{.round = round, .bytes = memory.size()}));
        return took;
    }

    void goodbye() { std::ignore = channel_.send_within(session::Goodbye{}, last_word); }

private:
    template <class T>
    Result<T> expect(const char* during) {
        auto message = channel_.receive(timeout_);
        if (!message) {
            return std::unexpected(std::move(message.error()));
        }
        if (!*message) {
            return std::unexpected(make_error(ErrorCode::timed_out, during, channel_.peer(),
                                              "the peer did not answer within " + std::to_string(timeout_.count()) + " ms"));
        }
        if (auto* wanted = std::get_if<T>(&**message)) {
            return std::move(*wanted);
        }
        return std::unexpected(unexpected(**message, during));
    }

    Result<void> echoed(const session::RoundEnd& sent) {
        PAGEFERRY_TRY(channel_.send(sent));
        const auto answer = expect<session::RoundEnd>("round trip");
        if (!answer) {
            return std::unexpected(answer.error());
        }
        return *answer == sent ? Result<void>{} : std::unexpected(unexpected(*answer, "round trip"));
    }

    Result<void> push_all(const std::vector<pf_extent>& extents, steady_clock::time_point end) {
        std::size_t begun = 0;
        std::size_t finished = 0;
        std::array<pf_completion, 64> completions{};
        while (finished < extents.size()) {
            if (steady_clock::now() > end) {
                return std::unexpected(make_error(ErrorCode::timed_out, "push", channel_.peer(),
                                                  std::to_string(finished) + " of " + std::to_string(extents.size()) +
                                                      " MiB were pushed within " + std::to_string(timeout_.count()) + " ms"));
            }
            const auto taken = connection_.push(std::span{extents}.subspan(begun));
            if (!taken) {
                return std::unexpected(taken.error());
            }
            begun += *taken;
            const auto count = connection_.poll(completions, slice);
            if (!count) {
                return std::unexpected(count.error());
            }
            for (std::size_t i = 0; i < *count; ++i) {
                if (completions[i].status != PF_OK) {
                    return std::unexpected(
                        make_error(static_cast<ErrorCode>(completions[i].status), "push", channel_.peer(), "a push failed"));
                }
            }
            finished += *count;
        }
        return {};
    }

    transport::Connection& connection_;
    const transport::SessionId session_;
    const milliseconds timeout_;
    session::Channel channel_;
};

// Runs one phase and keeps what it failed with.
template <class T>
std::optional<T> phase(ProbeReport& report, const char* name, Result<T> result) {
    if (!result) {
        report.failed_in = name;
        report.error = std::move(result.error());
        return std::nullopt;
    }
    return std::move(*result);
}

void measure(Prober& prober, Scratch& memory, ProbeReport& report) {
    report.round_trips = phase(report, "round trip", prober.measure_round_trips());
    if (!report.round_trips) {
        return;
    }
    if (auto shared = prober.share(memory); !shared) {
        report.failed_in = "memory";
        report.error = std::move(shared.error());
        return;
    }
    const auto first = phase(report, "push", prober.push(memory, 1));
    const auto again = first ? phase(report, "push", prober.push(memory, 2)) : std::nullopt;
    if (again) {
        report.push = PushFigures{.bytes = memory.size(), .first = *first, .again = *again};
        prober.goodbye();
    }
}

// --- the listener

class Answerer {
public:
    Answerer(transport::Connection& connection, std::optional<Scratch>& memory, const std::function<bool()>& stop)
        : connection_(connection), memory_(memory), stop_(stop), channel_(connection, silent_prober) {
        answered_.peer = connection.describe();
    }

    Result<Answered> run() {
        auto done = greet();
        while (done && !goodbye_) {
            auto message = next();
            done = message ? answer(*message) : std::unexpected(std::move(message.error()));
        }
        if (done) {
            return std::move(answered_);
        }
        if (!channel_.peer_failed()) {
            std::ignore = channel_.send_within(
                session::Failure{.code = done.error().code, .text = "probe: " + done.error().to_string()}, last_word);
        }
        return std::unexpected(std::move(done.error()));
    }

private:
    Result<session::Message> next() {
        while (!stop_()) {
            auto message = channel_.receive(slice);
            if (!message) {
                return std::unexpected(std::move(message.error()));
            }
            if (*message) {
                return std::move(**message);
            }
        }
        return std::unexpected(make_error(ErrorCode::cancelled, "answer", answered_.peer, "stopped"));
    }

    Result<void> greet() {
        const auto first = next();
        if (!first) {
            return std::unexpected(first.error());
        }
        const auto* hello = std::get_if<session::Hello>(&*first);
        if (hello == nullptr || hello->role != session::Role::source) {
            return std::unexpected(unexpected(*first, "hello"));
        }
        const auto version = session::agree_version(*hello);
        if (!version) {
            return std::unexpected(version.error());
        }
        if ((hello->features & session::feature_probe) == 0) {
            return std::unexpected(make_error(ErrorCode::refused, "hello", answered_.peer,
                                              "`pageferry probe --listen` waits here, and no guest",
                                              "start the destination, or use `pageferry probe`"));
        }
        session_ = hello->session;
        answered_.software = hello->software;
        return channel_.send(session::HelloReply{.version = *version,
                                                 .session = hello->session,
                                                 .epoch = hello->epoch,
                                                 .role = session::Role::destination,
                                                 .features = session::feature_probe,
                                                 .software = software});
    }

    Result<void> answer(const session::Message& message) {
        if (const auto* round = std::get_if<session::RoundEnd>(&message)) {
            return round->bytes == 0 ? echo(*round) : look(*round);
        }
        if (const auto* table = std::get_if<session::RamTable>(&message)) {
            return share(*table);
        }
        goodbye_ = std::holds_alternative<session::Goodbye>(message);
        return goodbye_ ? Result<void>{} : std::unexpected(unexpected(message, "answer"));
    }

    Result<void> echo(const session::RoundEnd& round) {
        ++answered_.round_trips;
        return channel_.send(round);
    }

    Result<void> share(const session::RamTable& table) {
        const bool fits = table.blocks.size() == 1 && table.blocks[0].block == 0 && !memory_ && table.blocks[0].length > 0 &&
                          table.blocks[0].length <= most_scratch && table.blocks[0].length % Scratch::page_size == 0;
        if (!fits) {
            return std::unexpected(
                make_error(ErrorCode::protocol, "share memory", answered_.peer, "one block of at most 64 MiB can be probed"));
        }
        auto made = Scratch::make(table.blocks[0].length);
        if (!made) {
            return std::unexpected(std::move(made.error()));
        }
        memory_.emplace(std::move(*made));
        PAGEFERRY_TRY(connection_.add_memory(std::vector{memory_->block(PF_MEMORY_PUSH_TARGET)}));
        return channel_.send(session::DataExtents{.block = 0, .last = true, .ranges = {}});
    }

    Result<void> look(const session::RoundEnd& round) {
        if (!memory_ || round.bytes != memory_->size() || !memory_->holds(session_, round.round)) {
            return std::unexpected(make_error(ErrorCode::io, "look at", "what was pushed", "it is not what was sent",
                                              "the transport or its hardware loses data: do not migrate by it"));
        }
        answered_.bytes += round.bytes;
        return channel_.send(round);
    }

    transport::Connection& connection_;
    std::optional<Scratch>& memory_;
    const std::function<bool()>& stop_;
    session::Channel channel_;
    transport::SessionId session_{};
    Answered answered_;
    bool goodbye_ = false;
};

} // namespace

void ask_peer(transport::Connection connection, const transport::SessionId& session_id, std::uint64_t scratch_bytes,
              milliseconds timeout, ProbeReport& report) {
    auto memory = phase(report, "memory", Scratch::make(scratch_bytes));
    if (!memory) {
        return;
    }
    transport::Connection used = std::move(connection); // goes before the memory it may reach
    Prober prober{used, session_id, timeout};
    const auto begin = steady_clock::now();
    const auto reply = phase(report, "hello", prober.hello());
    if (!reply) {
        return;
    }
    report.phases.push_back(
        ProbePhase{.name = "hello", .detail = reply->software, .took = duration_cast<microseconds>(steady_clock::now() - begin)});
    report.software = reply->software;
    if ((reply->features & session::feature_probe) == 0) {
        report.peer = ProbeReport::Peer::destination;
        prober.leave();
        return;
    }
    report.peer = ProbeReport::Peer::listener;
    measure(prober, *memory, report);
}

Result<Answered> answer_peer(transport::Connection connection, const std::function<bool()>& stop) {
    std::optional<Scratch> memory;
    transport::Connection used = std::move(connection); // goes before the memory it may reach
    return Answerer{used, memory, stop}.run();
}

} // namespace pageferry::cli
