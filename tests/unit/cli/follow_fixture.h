// Following a fake monitor: what the tests of follow() share.
#pragma once

#include "cli/follow.h"

#include "fake_monitor.h"

#include <csignal>
#include <optional>
#include <string>
#include <unistd.h>
#include <vector>

namespace pageferry::cli {

class Recorder : public Reporter {
public:
    void state(const StateChange& change) override { states.push_back(change.status); }
    void progress(const ProgressView& view) override {
        seen.push_back(view);
        if (on_progress) {
            on_progress();
        }
    }
    void note(const std::string& text) override { notes.push_back(text); }
    void finish(const Summary& /*summary*/, int /*exit_code*/) override {}
    [[nodiscard]] std::chrono::milliseconds interval() const override { return std::chrono::milliseconds{20}; }

    std::vector<std::string> states;
    std::vector<std::string> notes;
    std::vector<ProgressView> seen;
    std::function<void()> on_progress;
};

inline nlohmann::json figures(const std::string& status) {
    return {{"status", status}, {"total-time", 10}, {"ram", {{"total", 1000}, {"remaining", 500}, {"transferred", 500}}}};
}

// Answers every command with `reply` until the client is gone.
using Replies = std::function<nlohmann::json(Peer&, const std::string& command)>;
inline void serve(Peer& peer, const Replies& reply) {
    peer.greet();
    for (;;) {
        const nlohmann::json command = peer.hear();
        if (!command.is_object()) {
            return;
        }
        const nlohmann::json value = reply(peer, command["execute"].get<std::string>());
        if (value.is_string()) {
            peer.refuse(command, value.get<std::string>());
        } else {
            peer.answer(command, value);
        }
    }
}

inline Result<Outcome> follow_fake(Recorder& recorder, const FollowOptions& options, const Replies& reply) {
    auto signals = Signals::take(); // before the monitor's thread, which inherits the mask
    EXPECT_TRUE(signals);
    const FakeMonitor fake{[&](Peer& peer) { serve(peer, reply); }};
    auto client = monitor::QmpClient::connect(fake.address(), soon());
    EXPECT_TRUE(client);
    client->interrupt_on(signals->descriptor());
    return follow(*client, *signals, recorder, options);
}

} // namespace pageferry::cli
