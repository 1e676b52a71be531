#include "monitor/qmp_session.h"

#include "monitor/arguments.h"
#include "monitor/event_loop.h"
#include "monitor/plugged_memory.h"
#include "monitor/qmp_message.h"

#include <nlohmann/json.hpp>

#include <utility>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

constexpr std::size_t queue_length = 8;                    // QEMU's QMP_REQ_QUEUE_LEN_MAX, with out-of-band execution
constexpr int most_out_of_band = 8;                        // open at one time
constexpr std::size_t most_output = std::size_t{64} << 20; // bytes a client may leave unread
constexpr std::string_view oob_member = "QMP input member 'exec-oob' is unexpected";

bool wants_out_of_band(const json& message) {
    return message.is_object() && message.contains("exec-oob") && !message.contains("execute");
}

std::unique_ptr<json> id_of(const json& message) {
    if (!message.is_object() || !message.contains("id")) {
        return nullptr;
    }
    return std::make_unique<json>(json(message["id"]));
}

// "enable" of qmp_capabilities; whether it asks for "oob".
Result<bool> read_enable(const json& arguments) {
    Arguments reader{arguments};
    bool oob = false;
    if (const json* const list = reader.array("enable"); list != nullptr) {
        for (std::size_t i = 0; i < list->size(); ++i) {
            const json& name = (*list)[i];
            if (!name.is_string()) {
                reader.fail("Invalid parameter type for 'enable[" + std::to_string(i) + "]', expected: string");
            } else if (name != "oob") {
                // A list's element has no name of its own; this is what QEMU prints.
                reader.fail("Parameter 'null' does not accept value '" + name.get<std::string>() + "'");
            }
            oob = true;
        }
    }
    if (const auto done = reader.finish(); !done) {
        return std::unexpected{done.error()};
    }
    return oob;
}

QmpError command_not_found(std::string text) {
    return {.error_class = "CommandNotFound", .desc = std::move(text)};
}

} // namespace

struct QmpSession::Item {
    std::string text;
    std::string error; // QEMU's words: no message
    json message;
    std::unique_ptr<json> id;
};

// A message that QEMU would carry out. Anything else is QEMU's to refuse.
struct QmpSession::Command {
    std::string name;
    json arguments = json::object();
    bool out_of_band = false;
};

std::optional<QmpSession::Command> QmpSession::read_command(const json& message) {
    if (!message.is_object() || message.contains("execute") == message.contains("exec-oob")) {
        return std::nullopt;
    }
    Command command;
    for (const auto& [key, value] : message.items()) {
        if ((key == "execute" || key == "exec-oob") && value.is_string()) {
            command.name = value.get<std::string>();
            command.out_of_band = key == "exec-oob";
        } else if (key == "arguments" && value.is_object()) {
            command.arguments = json(value);
        } else if (key != "id") {
            return std::nullopt;
        }
    }
    return command;
}

QmpSession::QmpSession(std::unique_ptr<Channel> channel, Surroundings surroundings)
    : channel_(std::move(channel)), around_(std::move(surroundings)),
      sockets_([this](const std::string& name) { close_at_qemu(name); }) {}

QmpSession::~QmpSession() = default;

void QmpSession::start(const std::string& greeting) {
    write(greeting + "\r\n");
    const std::weak_ptr<QmpSession> self = weak_from_this();
    channel_->start({.received =
                         [self](std::string_view bytes, std::vector<Fd> fds) {
                             if (const auto alive = self.lock()) {
                                 alive->received(bytes, std::move(fds));
                             }
                         },
                     .ended =
                         [self](bool gone) {
                             if (const auto alive = self.lock()) {
                                 alive->ended(gone);
                             }
                         },
                     .flushed =
                         [self] {
                             if (const auto alive = self.lock()) {
                                 alive->pump();
                             }
                         }});
}

void QmpSession::received(std::string_view bytes, std::vector<Fd> fds) {
    stream_.feed(bytes, std::move(fds));
    pump();
}

void QmpSession::ended(bool gone) {
    if (gone) {
        close("");
        return;
    }
    // It may still read: what it has asked for is answered, as QEMU does. Half a message is dropped.
    at_end_ = true;
    pump();
}

bool QmpSession::take_next() {
    const bool room = oob_ ? queue_.size() < queue_length && out_of_band_open_ < most_out_of_band : queue_.empty() && !busy_;
    if (!room || !around_.has_room()) {
        return false;
    }
    auto frame = stream_.next();
    if (!frame) {
        return false;
    }
    if (!frame->fds.empty()) {
        carried_ = std::move(frame->fds); // as in QEMU, those that nobody took are closed
    }
    Item item{.text = std::move(frame->text), .error = std::move(frame->error), .message = {}, .id = nullptr};
    if (item.error.empty()) {
        if (auto message = parse_request(item.text); message) {
            item.message = std::move(*message);
            item.id = id_of(item.message);
        } else {
            item.error = std::move(message).error();
        }
    }
    if (oob_ && item.error.empty() && wants_out_of_band(item.message)) {
        run(std::move(item));
    } else {
        queue_.push_back(std::move(item));
    }
    return true;
}

void QmpSession::pump() {
    if (pumping_) {
        return;
    }
    const auto self = shared_from_this();
    pumping_ = true;
    bool more = true;
    while (more && !closed_) {
        more = take_next();
        if (!busy_ && !queue_.empty() && !closed_) {
            Item item = std::move(queue_.front());
            queue_.pop_front();
            busy_ = true;
            run(std::move(item));
            more = true;
        }
    }
    pumping_ = false;
    if (closed_) {
        return;
    }
    channel_->pause_reading(stream_.has_next());
    const bool idle = !busy_ && out_of_band_open_ == 0 && queue_.empty() && !stream_.has_next();
    if (at_end_ && idle && channel_->queued_bytes() == 0) {
        close("");
    }
}

// From where the caller's caller may be in the middle of something: a command must not start inside an event's delivery.
void QmpSession::pump_later() {
    if (pump_posted_) {
        return;
    }
    pump_posted_ = true;
    post(around_.io, [self = weak_from_this()] {
        if (const auto alive = self.lock()) {
            alive->pump_posted_ = false;
            if (!alive->closed_) {
                alive->pump();
            }
        }
    });
}

void QmpSession::run(Item item) {
    if (!item.error.empty()) {
        answer(std::unexpected{QmpError{.desc = std::move(item.error)}}, nullptr);
        item_done();
        return;
    }
    const bool oob_member_refused = !oob_ && item.message.is_object() && item.message.contains("exec-oob");
    if (oob_member_refused) {
        answer(std::unexpected{QmpError{.desc = std::string{oob_member}}}, item.id.get());
        item_done();
        return;
    }
    if (auto command = read_command(item.message); command) {
        run_command(std::move(item), *command);
        return;
    }
    const bool out_of_band = wants_out_of_band(item.message);
    forward(std::move(item), out_of_band);
}

QmpResult QmpSession::negotiate(const json& arguments) {
    const auto enable = read_enable(arguments);
    if (!enable) {
        return std::unexpected{qmp_error(enable.error())};
    }
    if (negotiated_) {
        return std::unexpected{command_not_found("Capabilities negotiation is already complete, command ignored")};
    }
    if (*enable && !around_.oob_offered) {
        return std::unexpected{QmpError{.desc = "Capability oob not available"}};
    }
    negotiated_ = true;
    oob_ = *enable;
    return json::object();
}

void QmpSession::run_command(Item item, const Command& command) {
    if (command.name == "qmp_capabilities" && !command.out_of_band) {
        answer(negotiate(command.arguments), item.id.get());
        item_done();
    } else if (!negotiated_) {
        answer(std::unexpected{command_not_found("Expecting capabilities negotiation with 'qmp_capabilities'")}, item.id.get());
        item_done();
    } else if (MigrationCommands::knows(command.name, command.out_of_band)) {
        intercept(std::move(item), command);
    } else {
        note_descriptor(command);
        if (command.name == "object-add") {
            item.text = on_shared_file(item.message).value_or(std::move(item.text));
        }
        forward(std::move(item), command.out_of_band);
    }
}

void QmpSession::intercept(Item item, const Command& command) {
    struct Pending {
        Item item;
        bool out_of_band = false;
        bool done = false;
    };
    const auto pending = std::make_shared<Pending>(Pending{.item = std::move(item), .out_of_band = command.out_of_band});
    const std::weak_ptr<QmpSession> self = weak_from_this();
    if (command.out_of_band) {
        ++out_of_band_open_;
    }
    const auto once = [self, pending]() -> std::shared_ptr<QmpSession> {
        auto alive = self.lock();
        if (!alive || alive->closed_ || std::exchange(pending->done, true)) {
            return nullptr;
        }
        if (pending->out_of_band) {
            --alive->out_of_band_open_;
        }
        return alive;
    };
    around_.commands.handle(
        command.name, command.arguments,
        [once, pending](const QmpResult& result) {
            if (const auto alive = once()) {
                alive->answer(result, pending->item.id.get());
                if (pending->out_of_band) {
                    alive->pump_later();
                } else {
                    alive->item_done();
                }
            }
        },
        [once, pending](bool begins_native) {
            if (const auto alive = once()) {
                alive->forward(std::move(pending->item), pending->out_of_band, begins_native);
            }
        },
        sockets_);
}

// What a client hands to QEMU, and takes back, may turn out to be the way to a migration's destination.
void QmpSession::note_descriptor(const Command& command) {
    const auto name = command.arguments.find("fdname");
    if (name == command.arguments.end() || !name->is_string()) {
        return;
    }
    if (command.name == "getfd") {
        sockets_.passed(name->get<std::string>(), carried_);
    } else if (command.name == "closefd") {
        sockets_.closed(name->get<std::string>());
    }
}

void QmpSession::close_at_qemu(const std::string& name) {
    const json id = "pf-closefd";
    Forward message;
    message.text = json{{"execute", "closefd"}, {"arguments", {{"fdname", name}}}, {"id", id}}.dump();
    message.id = std::make_unique<json>(id);
    message.for_nobody = true;
    around_.forward(std::move(message));
}

void QmpSession::forward(Item item, bool out_of_band, bool begins_native) {
    if (out_of_band) {
        ++out_of_band_open_;
    }
    around_.forward({.text = without_space(item.text),
                     .fds = std::exchange(carried_, {}),
                     .id = std::move(item.id),
                     .out_of_band = out_of_band,
                     .begins_native = begins_native});
}

void QmpSession::show_reply(std::string raw, bool out_of_band) {
    if (closed_) {
        return;
    }
    raw += "\r\n";
    write(std::move(raw));
    if (out_of_band) {
        --out_of_band_open_;
        pump_later();
    } else {
        item_done();
    }
}

void QmpSession::item_done() {
    busy_ = false;
    if (!pumping_) {
        pump_later();
    }
}

void QmpSession::show_event(std::string_view line) {
    if (negotiated_ && !closed_) {
        write(std::string{line});
    }
}

void QmpSession::told_room() {
    if (!closed_) {
        pump_later();
    }
}

void QmpSession::answer(const QmpResult& result, const json* id) {
    write(answer_line(result, id, around_.pretty));
}

void QmpSession::write(std::string text) {
    if (closed_) {
        return;
    }
    channel_->send(std::move(text));
    if (channel_->queued_bytes() > most_output) {
        close("it left more than " + std::to_string(most_output >> 20U) + " MiB unread");
    }
}

void QmpSession::finish() {
    close(""); // what the client's socket did not take by now would keep a dead guest's monitor open
}

void QmpSession::close(const std::string& why) {
    if (std::exchange(closed_, true)) {
        return;
    }
    channel_->close();
    queue_.clear();
    carried_.clear();
    post(around_.io, [over = around_.over, why] { over(why); });
}

} // namespace pageferry::monitor
