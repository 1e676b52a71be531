// One client on one of the user's monitors, from its connection to its end: greeting, negotiation, commands in order, events.
// What is not Pageferry's to answer goes to QEMU as it came in, but for white space, and comes back as the bytes that QEMU sends.
//
// Order: commands are carried out one at a time; an answer of our own never overtakes one of QEMU's. Out-of-band commands, once
// the client has enabled them, do not wait. Threads: the io_context's one thread.
#pragma once

#include "base/fd.h"
#include "monitor/channel.h"
#include "monitor/json_stream.h"
#include "monitor/migration_commands.h"
#include "monitor/passed_sockets.h"

#include <nlohmann/json_fwd.hpp>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::monitor {

// A command in flight to QEMU on a client's behalf: what its server needs to find whose the answer is.
struct Forward {
    std::string text;
    std::vector<Fd> fds;
    std::unique_ptr<nlohmann::json> id; // null: none
    bool out_of_band = false;
    bool begins_native = false; // an error in the answer is to be told to MigrationCommands
    bool for_nobody = false;    // the answer is not the client's
};

class QmpSession : public std::enable_shared_from_this<QmpSession> {
public:
    struct Surroundings {
        boost::asio::io_context& io;
        MigrationCommands& commands;
        bool pretty = false;
        // QEMU's own offer: "oob" is in its greeting.
        bool oob_offered = false;
        std::function<void(Forward)> forward; // to QEMU
        // False while QEMU has enough to read; told_room() will follow.
        std::function<bool()> has_room;
        // Once: the client is gone, or was put out (why then says so). Not from inside start() or any other call.
        std::function<void(const std::string& why)> over;
    };

    QmpSession(std::unique_ptr<Channel> channel, Surroundings surroundings);
    ~QmpSession();
    QmpSession(const QmpSession&) = delete;
    QmpSession& operator=(const QmpSession&) = delete;

    void start(const std::string& greeting);
    // QEMU's answer to what was forwarded, to be shown as it is.
    void show_reply(std::string raw, bool out_of_band);
    // An event, QEMU's or ours, with its line end. Shown in command mode only.
    void show_event(std::string_view line);
    void told_room();
    // QEMU is gone: the connection is closed.
    void finish();

private:
    struct Item;
    struct Command;

    void received(std::string_view bytes, std::vector<Fd> fds);
    void ended(bool gone);
    void pump();
    void pump_later();
    bool take_next();
    void run(Item item);
    void run_command(Item item, const Command& command);
    void intercept(Item item, const Command& command);
    void forward(Item item, bool out_of_band, bool begins_native = false);
    void note_descriptor(const Command& command);
    void close_at_qemu(const std::string& name);
    QmpResult negotiate(const nlohmann::json& arguments);
    void answer(const QmpResult& result, const nlohmann::json* id);
    void item_done();
    void write(std::string text);
    void close(const std::string& why);
    static std::optional<Command> read_command(const nlohmann::json& message);

    std::unique_ptr<Channel> channel_;
    Surroundings around_;
    PassedSockets sockets_;
    JsonStream stream_;
    std::vector<Fd> carried_; // descriptors for the next message that QEMU gets
    std::deque<Item> queue_;  // in-band commands waiting for their turn
    bool busy_ = false;       // one of them is being carried out
    bool pumping_ = false;
    bool pump_posted_ = false;
    int out_of_band_open_ = 0;
    bool negotiated_ = false;
    bool oob_ = false;
    bool at_end_ = false; // the client sends no more
    bool closed_ = false;
};

} // namespace pageferry::monitor
