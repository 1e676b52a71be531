// What a peer may say of a postcopy, and what is nonsense: one side is real, the other says what the test wants.
#include "tests/unit/engine/postcopy_pair.h"

#include "engine/shared_ram.h"
#include "transport/session/channel.h"

#include <thread>

namespace pageferry::engine {
namespace {

using statemachine::Status;
using testing::PostcopyPair;
using testing::soon;
using testing::taken;
namespace session = transport::session;

constexpr std::chrono::minutes patience{1};

// One end of a session that does nothing by itself.
class Scripted {
public:
    Scripted(transport::Connection connection, std::chrono::milliseconds dead_peer)
        : connection_(std::move(connection)), channel_(connection_, dead_peer) {}
    void say(const session::Message& message) { EXPECT_TRUE(channel_.send(message)) << session::name_of(message); }
    // The next message, which is a T.
    template <class T>
    T hear() {
        auto message = channel_.receive(patience);
        if (!message || !*message || !std::holds_alternative<T>(**message)) {
            ADD_FAILURE() << "instead of " << session::name_of(session::Message{T{}}) << ": "
                          << (!message    ? message.error().to_string()
                              : !*message ? "nothing"
                                          : std::string{session::name_of(**message)});
            return {};
        }
        return std::get<T>(std::move(**message));
    }
    // The peer's last word, or how the connection ended.
    Error hear_the_end() {
        for (;;) {
            auto message = channel_.receive(patience);
            if (!message) {
                return message.error();
            }
            if (!*message) {
                ADD_FAILURE() << "it goes on";
                return {};
            }
        }
    }
    transport::Connection& connection() { return connection_; }

private:
    transport::Connection connection_;
    session::Channel channel_;
};

class PostcopyProtocol : public PostcopyPair {
protected:
    // A source, up to its switchover.
    std::unique_ptr<Scripted> source_before_switchover() {
        start_destination();
        auto connection = tcp_->open(uri_, options_);
        EXPECT_TRUE(connection && connection->connect(patience, {}));
        auto source = std::make_unique<Scripted>(std::move(*connection), options_.dead_peer);
        blocks_ = testing::again(*source_process_);
        EXPECT_TRUE(source->connection().add_memory(shared_blocks(blocks_, PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PULL_SOURCE)));
        source->say(session::Hello{.session = options_.session, .features = session::feature_postcopy, .software = "test"});
        EXPECT_EQ(source->hear<session::HelloReply>().features, session::feature_postcopy);
        source->say(ram_table(blocks_));
        while (!source->hear<session::DataExtents>().last && !HasFailure()) {
        }
        source->say(session::Discard{.block = 0, .last = true, .ranges = {}});
        source->hear<session::DiscardDone>();
        source->say(session::DeviceState{.bytes = std::vector<std::byte>(testing::device_state.size() / 4, std::byte{'d'})});
        return source;
    }
    std::unique_ptr<Scripted> source_at_switchover() {
        auto source = source_before_switchover();
        source->say(session::Switchover{});
        return source;
    }
    // It says so, and its guest has not run.
    void expect_refused(Scripted& source, const std::string& words) {
        const Error said = source.hear_the_end();
        EXPECT_EQ(said.code, ErrorCode::protocol) << said.to_string();
        EXPECT_NE(said.to_string().find(words), std::string::npos) << said.to_string();
        const auto done = destination_done_.get();
        ASSERT_FALSE(done);
        EXPECT_EQ(done.error().code, ErrorCode::protocol);
        EXPECT_EQ(destination_machine_.status(), Status::failed);
        EXPECT_EQ(runs_, 0);
        EXPECT_EQ(taken(destination_events_), (std::vector<std::string>{"setup", "active", "failed"}));
        const auto touch = destination_process_->touch(0, 3);
        EXPECT_TRUE(soon([&] { return word(touch).has_value(); })) << "nothing of it is armed";
    }

    std::vector<memory::RamBlock> blocks_;
};

struct NoPart {
    const char* name;
    session::Delivered message;
    std::string why;
};
class PostcopyProtocolOf : public PostcopyProtocol, public ::testing::WithParamInterface<NoPart> {};
// Blocks of 2048 and 300 pages: 300 is 4 words and 44 pages.
INSTANTIATE_TEST_SUITE_P(
    Messages, PostcopyProtocolOf,
    ::testing::Values(
        NoPart{"NoSuchBlock", {.block = 2, .first_page = 0, .pages = 64, .words = {1}}, "no such block"},
        NoPart{"APageBeyondTheEnd", {.block = 1, .first_page = 0, .pages = 300, .words = {1, 0, 0, 0, 1ULL << 44}}, "do not fit"},
        NoPart{"TooFewWords", {.block = 1, .first_page = 0, .pages = 300, .words = {1}}, "do not fit"},
        NoPart{"TooManyWords", {.block = 0, .first_page = 0, .pages = 64, .words = {1, 1}}, "do not fit"},
        NoPart{"MorePagesThanThereAre", {.block = 1, .first_page = 0, .pages = 301, .words = {}}, "the block has 300"},
        NoPart{"FarMorePagesThanThereAre", {.block = 1, .first_page = 0, .pages = ~0ULL, .words = {}}, "the block has 300"},
        NoPart{"NoPages", {.block = 0, .first_page = 0, .pages = 0, .words = {}}, "the block has 2048"},
        NoPart{"NoWholeWord", {.block = 0, .first_page = 0, .pages = 63, .words = {1}}, "the block has 2048"},
        NoPart{"AGap", {.block = 0, .first_page = 64, .pages = 64, .words = {1}}, "told before are 0"},
        NoPart{"FarBeyondTheEnd", {.block = 0, .first_page = 0ULL - 64, .pages = 128, .words = {}}, "told before are 0"}),
    [](const auto& tested) { return tested.param.name; });

TEST_P(PostcopyProtocolOf, WhatIsNoPartOfABlockIsRefused) {
    ASSERT_EQ(pages_of(0), 2048U);
    ASSERT_EQ(pages_of(1), 300U);
    const auto source = source_at_switchover();
    source->say(GetParam().message);
    expect_refused(*source, GetParam().why);
    EXPECT_EQ(missing_bytes(), 2348 * page_size()) << "no page was marked";
}

TEST_F(PostcopyProtocol, PagesAreNotNamedBeforeTheSwitchover) {
    const auto source = source_before_switchover();
    source->say(session::Delivered{.block = 0, .first_page = 0, .pages = 64, .words = {1}});
    expect_refused(*source, "out of turn");
}

TEST_F(PostcopyProtocol, WhatOnlyADestinationSaysIsRefused) {
    const auto source = source_at_switchover();
    source->say(session::Resume{.runs = true, .missing = 4096});
    expect_refused(*source, "out of turn");
}

TEST_F(PostcopyProtocol, PagesAreNamedOnceAlsoWhenTheyArePulled) {
    const auto source = source_at_switchover();
    source->say(session::Delivered{.block = 0, .first_page = 0, .pages = 64, .words = {~0ULL}});
    source->say(session::RamFinal{.device_state_bytes = testing::device_state.size() / 4, .postcopy = true});
    source->say(session::Delivered{.block = 0, .first_page = 64, .pages = 64, .words = {0}});
    source->say(session::Delivered{.block = 0, .first_page = 64, .pages = 64, .words = {~0ULL}});
    const Error said = source->hear_the_end();
    EXPECT_EQ(said.code, ErrorCode::protocol) << said.to_string();
    EXPECT_NE(said.to_string().find("told before are 128"), std::string::npos) << said.to_string();
    EXPECT_FALSE(destination_done_.get());
    EXPECT_EQ(destination_machine_.status(), Status::failed);
    EXPECT_GE(missing_bytes(), (pages_of(0) - 64 + pages_of(1) - 64) * page_size()) << "those may have come";
    EXPECT_EQ(runs_, 0);
}

// --- a source's recovery -----------------------------------------------------------------------------------------------------

class PostcopyResume : public PostcopyPair {
protected:
    // Up to the source's RAM table and limit, from a destination that then says what it is given.
    void expect_refused(const session::Message& instead, const std::string& words) {
        auto unbound = options_;
        unbound.session = {};
        auto listener = tcp_->listen("tcp:127.0.0.1:0", unbound);
        ASSERT_TRUE(listener);
        auto& attempt = make_recovery(listener->uri());
        source_done_ = std::async(std::launch::async, [&] { return attempt.run(); });
        std::optional<Scripted> destination;
        ASSERT_TRUE(soon([&] {
            auto accepted = listener->accept(std::chrono::milliseconds{100});
            EXPECT_TRUE(accepted);
            if (accepted && *accepted) {
                destination.emplace(std::move(**accepted), options_.dead_peer);
            }
            return destination || !accepted;
        }));
        const auto hello = destination->hear<session::Hello>();
        destination->say(session::HelloReply{.session = hello.session, .epoch = hello.epoch, .software = "test"});
        destination->hear<session::RamTable>();
        destination->hear<session::PullLimit>();
        destination->say(instead);
        const auto done = source_done_.get();
        expect_attempt_in_vain(done);
        EXPECT_EQ(done.error().code, ErrorCode::protocol) << done.error().to_string();
        EXPECT_NE(done.error().to_string().find(words), std::string::npos) << done.error().to_string();
    }
};

TEST_F(PostcopyResume, NonsenseIsRefusedAndChangesNothing) {
    start_slow_postcopy();
    pause_both();
    taken(source_events_);
    const std::uint64_t all = (pages_of(0) + pages_of(1)) * page_size();
    expect_refused(session::Resume{.runs = true, .missing = all + 1}, "misses more");
    expect_refused(session::Resume{.runs = true, .missing = ~0ULL}, "misses more");
    expect_refused(session::Delivered{.block = 0, .first_page = 0, .pages = 64, .words = {1}}, "out of turn");
    expect_refused(session::Received{}, "out of turn");
    expect_refused(session::DeviceLoaded{}, "out of turn");
    std::vector<std::string> in_vain;
    for (int i = 0; i < 5; ++i) {
        in_vain.insert(in_vain.end(), {"postcopy-recover-setup", "postcopy-recover", "postcopy-paused"});
    }
    EXPECT_EQ(taken(source_events_), in_vain);
    recover_to_the_end();
    expect_same_ram();
}

} // namespace
} // namespace pageferry::engine
