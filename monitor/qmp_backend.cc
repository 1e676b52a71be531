#include "monitor/qmp_backend.h"

#include "monitor/event_loop.h"
#include "monitor/json_stream.h"
#include "monitor/qmp_message.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <utility>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

constexpr std::string_view negotiate = "qmp_capabilities";

struct Open {
    std::string command;
    QmpBackend::Done done;
};

// A client that passes messages through cannot know it, and so cannot take our answers for its own.
std::string random_prefix() {
    constexpr std::string_view letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    std::random_device device;
    std::uniform_int_distribution<std::size_t> one{0, letters.size() - 1};
    std::string text = "pf.";
    for (int i = 0; i < 12; ++i) { // short, for QEMU reads it byte by byte
        text += letters[one(device)];
    }
    return text + ".";
}

Error closed_error(const std::string& command) {
    return make_error(ErrorCode::closed, command, "QEMU", "QEMU closed its monitor");
}

} // namespace

struct QmpBackend::Implementation : std::enable_shared_from_this<Implementation> {
    enum class State { greeting, negotiating, ready, closed };

    Implementation(boost::asio::io_context& loop, std::unique_ptr<Channel> stream_channel)
        : io(loop), channel(std::move(stream_channel)) {}

    void received(std::string_view bytes, std::vector<Fd> fds) {
        stream.feed(bytes, std::move(fds));
        // From the stream, not from a list of our own: a callback may drain, and the messages still leave in order.
        while (state != State::closed) {
            auto frame = stream.next();
            if (!frame) {
                return;
            }
            if (state != State::greeting && take_answer(frame->text)) {
                continue;
            }
            if (auto message = frame->error.empty() ? parse_json(frame->text) : std::nullopt; message && message->is_object()) {
                take(*message, frame->text);
            } else {
                take_strange(frame->text);
            }
        }
    }

    // An answer that is not ours, passed on unread but for its id. False: it is something else, and text is as it was.
    bool take_answer(std::string& text) const {
        const auto members = members_of(text);
        if (!members) {
            return false;
        }
        std::optional<json> id;
        bool is_error = false;
        bool is_answer = false;
        for (const auto& [key, value] : *members) {
            if (key == R"("id")") {
                id = value.substr(0, 1) == "\"" && value.substr(1).starts_with(prefix) ? std::nullopt : parse_json(value);
                if (!id) {
                    return false; // ours, or not to be read
                }
            }
            is_error = is_error || key == R"("error")";
            is_answer = is_answer || is_error || key == R"("return")";
        }
        if (!is_answer) {
            return false;
        }
        const auto keep = handlers;
        if (keep->reply) {
            keep->reply({.id = id ? &*id : nullptr, .is_error = is_error, .raw = std::move(text)});
        }
        return true;
    }

    void take(const json& message, std::string& raw) {
        const auto keep = handlers;
        if (state == State::greeting) {
            if (message.contains("QMP")) {
                take_greeting(message["QMP"], raw);
            }
            return;
        }
        if (const auto event = message.find("event"); event != message.end() && event->is_string()) {
            if (keep->event) {
                keep->event(event->get<std::string>(), message, raw);
            }
            return;
        }
        const auto id = message.find("id");
        if (id != message.end() && id->is_string()) {
            const auto found = open.find(id->get_ref<const std::string&>());
            if (found != open.end()) {
                const Open mine = std::move(found->second);
                open.erase(found);
                finish(mine, message);
                return;
            }
        }
        if (keep->reply) {
            keep->reply(
                {.id = id != message.end() ? &*id : nullptr, .is_error = message.contains("error"), .raw = std::move(raw)});
        }
    }

    // No JSON object. Before the greeting: this is no QMP. Later, QEMU has put something into an answer that JSON cannot say: for
    // whoever asked to deal with.
    void take_strange(std::string& raw) {
        if (state == State::greeting) {
            post(io, [self = weak_from_this()] {
                if (const auto alive = self.lock()) {
                    alive->end();
                }
            });
            return;
        }
        const auto keep = handlers;
        if (!raw.empty() && keep->reply) {
            keep->reply({.id = nullptr, .is_error = false, .raw = std::move(raw)});
        }
    }

    void take_greeting(const json& hello, std::string& raw) {
        greeting = std::move(raw);
        json arguments = json::object();
        if (hello.is_object() && hello.contains("capabilities") && hello["capabilities"].is_array()) {
            const json& offered = hello["capabilities"];
            oob = std::ranges::find(offered, json("oob")) != offered.end();
        }
        if (oob) {
            arguments["enable"] = json::array({"oob"});
        }
        state = State::negotiating;
        send_command(std::string{negotiate}, arguments, {}, [this](const Result<json>& result) {
            if (result) {
                become_ready();
            } else {
                end();
            }
        });
    }

    void become_ready() {
        state = State::ready;
        for (auto& [text, fds] : std::exchange(waiting, {})) {
            channel->send(std::move(text), std::move(fds));
        }
        const auto keep = handlers;
        if (keep->ready) {
            keep->ready();
        }
    }

    void finish(const Open& mine, const json& message) const {
        if (!mine.done) {
            return;
        }
        if (const auto value = message.find("return"); value != message.end()) {
            mine.done(*value);
            return;
        }
        std::string reason = "QEMU refused without a reason";
        if (const auto error = message.find("error"); error != message.end() && error->is_object()) {
            reason = error->value("desc", reason);
        }
        mine.done(std::unexpected{make_error(ErrorCode::refused, mine.command, "QEMU", std::move(reason))});
    }

    void send_command(std::string command, const json& arguments, std::vector<Fd> fds, Done done) {
        const std::string id = prefix + std::to_string(++count);
        json message = {{"execute", command}, {"id", id}};
        if (!arguments.is_null() && !arguments.empty()) {
            message["arguments"] = arguments;
        }
        const bool now = state == State::ready || command == negotiate;
        open.emplace(id, Open{.command = std::move(command), .done = std::move(done)});
        std::string text = without_space(to_text(message));
        if (now) {
            channel->send(std::move(text), std::move(fds));
        } else {
            waiting.emplace_back(std::move(text), std::move(fds));
        }
    }

    void end() {
        if (state == State::closed) {
            return;
        }
        const auto self = shared_from_this();
        state = State::closed;
        channel->close();
        waiting.clear();
        for (auto& [id, one] : std::exchange(open, {})) {
            if (one.done && one.command != negotiate) {
                one.done(std::unexpected{closed_error(one.command)});
            }
        }
        const auto keep = handlers;
        if (!detached && keep->closed) {
            keep->closed();
        }
    }

    boost::asio::io_context& io;
    std::unique_ptr<Channel> channel;
    JsonStream stream;
    std::shared_ptr<Handlers> handlers = std::make_shared<Handlers>();
    State state = State::greeting;
    bool oob = false;
    bool detached = false;
    std::string greeting;
    std::string prefix = random_prefix();
    std::uint64_t count = 0;
    std::map<std::string, Open, std::less<>> open;                // by id
    std::vector<std::pair<std::string, std::vector<Fd>>> waiting; // commands from before the negotiation's end
};

Result<std::unique_ptr<QmpBackend>> QmpBackend::open(boost::asio::io_context& io, Fd socket) {
    auto channel = Channel::open(io, std::move(socket));
    if (!channel) {
        return std::unexpected{std::move(channel).error()};
    }
    return std::unique_ptr<QmpBackend>{new QmpBackend{std::make_shared<Implementation>(io, std::move(*channel))}};
}

QmpBackend::QmpBackend(std::shared_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}

QmpBackend::~QmpBackend() {
    implementation_->detached = true;
    implementation_->state = Implementation::State::closed;
    implementation_->channel->close();
    implementation_->open.clear();
    implementation_->handlers = std::make_shared<Handlers>();
}

void QmpBackend::start(Handlers handlers) {
    implementation_->handlers = std::make_shared<Handlers>(std::move(handlers));
    const std::weak_ptr<Implementation> self = implementation_;
    implementation_->channel->start({.received =
                                         [self](std::string_view bytes, std::vector<Fd> fds) {
                                             if (const auto alive = self.lock()) {
                                                 alive->received(bytes, std::move(fds));
                                             }
                                         },
                                     .ended =
                                         [self](bool) {
                                             if (const auto alive = self.lock()) {
                                                 alive->end();
                                             }
                                         }});
}

bool QmpBackend::ready() const {
    return implementation_->state == Implementation::State::ready;
}
bool QmpBackend::oob() const {
    return implementation_->oob;
}
const std::string& QmpBackend::greeting() const {
    return implementation_->greeting;
}
std::size_t QmpBackend::queued_bytes() const {
    return implementation_->channel->queued_bytes();
}

void QmpBackend::execute(std::string_view command, const nlohmann::json& arguments, Done done) {
    execute(command, arguments, {}, std::move(done));
}

void QmpBackend::execute(std::string_view command, const nlohmann::json& arguments, std::vector<Fd> fds, Done done) {
    if (implementation_->state == Implementation::State::closed) {
        if (done) {
            post(implementation_->io,
                 [call = std::move(done), name = std::string{command}] { call(std::unexpected{closed_error(name)}); });
        }
        return;
    }
    implementation_->send_command(std::string{command}, arguments, std::move(fds), std::move(done));
}

void QmpBackend::send_raw(std::string text, std::vector<Fd> fds) {
    implementation_->channel->send(std::move(text), std::move(fds));
}

void QmpBackend::drain() {
    const auto keep = implementation_;
    keep->channel->drain();
}

} // namespace pageferry::monitor
