// Reaching a peer: probe, listen, accept, open, connect.
#include "ends.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <vector>

extern "C" std::uint32_t pageferry_abi_seen_from_c(pf_transport_entry_fn entry);

namespace pageferry::conformance {
namespace {

const pf_transport* entry(std::uint32_t version) {
    return version == PF_TRANSPORT_ABI_VERSION ? &transport() : nullptr;
}

void expect_filled(const pf_error& error, int status) {
    EXPECT_EQ(error.status, status);
    EXPECT_STRNE(error.operation, "") << "an error says what was tried";
    EXPECT_STRNE(error.reason, "") << "an error says why";
    EXPECT_EQ(error.size, sizeof(pf_error)) << "the caller's size is left alone";
}

struct Attempt {
    int status = PF_OK;
    pf_error error = no_error();
    End end;
};
Attempt attempt(const std::string& uri, const pf_options& options, std::int64_t timeout_ms = patience) {
    Attempt result;
    result.end = End::open(uri, options);
    if (result.end) {
        result.status = transport().connect(result.end.get(), timeout_ms, nullptr, nullptr, &result.error);
    }
    return result;
}

TEST(Setup, TheTableIsWhatTheHeaderSays) {
    EXPECT_EQ(pageferry_abi_seen_from_c(&entry), PF_TRANSPORT_ABI_VERSION);
    EXPECT_STRNE(transport().name, "");
    EXPECT_STRNE(transport().description, "");
}

TEST(Setup, ProbeSaysYesWithAndWithoutAUri) {
    pf_error error = no_error();
    EXPECT_EQ(transport().probe(nullptr, &error), PF_OK) << text_of(error);
    EXPECT_EQ(transport().probe(settings().uri.c_str(), nullptr), PF_OK);
}

TEST(Setup, AListenerTellsAUriThatIsTakenThen) {
    const Listener listener = Listener::start();
    ASSERT_TRUE(listener);
    const std::string uri = listener.uri();
    EXPECT_TRUE(uri.starts_with(settings().uri.substr(0, settings().uri.find(':') + 1))) << uri;
    const pf_options options = test_options();
    pf_error error = no_error();
    pf_listener* second = nullptr;
    EXPECT_EQ(transport().listen(uri.c_str(), &options, &second, &error), PF_IN_USE);
    expect_filled(error, PF_IN_USE);
    EXPECT_STRNE(error.remedy, "");
}

TEST(Setup, AListenersUriIsCutAtTheCapacity) {
    const Listener listener = Listener::start();
    ASSERT_TRUE(listener);
    std::array<char, 8> buffer{};
    buffer.fill('x');
    transport().listener_uri(listener.get(), buffer.data(), 4);
    EXPECT_LE(::strnlen(buffer.data(), buffer.size()), 3U);
    EXPECT_EQ(buffer[4], 'x');
}

TEST(Setup, AClosedListenersAddressCanBeTakenAgain) {
    Listener first = Listener::start();
    ASSERT_TRUE(first);
    const std::string uri = first.uri();
    first.close();
    EXPECT_TRUE(Listener::start(test_options(), uri));
}

TEST(Setup, NobodyInTimeIsAgain) {
    const Listener listener = Listener::start();
    ASSERT_TRUE(listener);
    for (const std::int64_t timeout : {0, 50}) {
        pf_connection* connection = nullptr;
        pf_error rejected = no_error();
        EXPECT_EQ(transport().accept(listener.get(), timeout, &connection, &rejected, nullptr), PF_AGAIN);
        EXPECT_EQ(rejected.status, PF_OK) << "nobody was turned away: " << text_of(rejected);
    }
}

TEST(Setup, PhasesComeInOrderAndEndEstablished) {
    const pf_options options = test_options();
    const Listener listener = Listener::start(options);
    ASSERT_TRUE(listener);
    Background accepting{"accept", [&] {
                             pf_connection* connection = nullptr;
                             EXPECT_EQ(transport().accept(listener.get(), patience, &connection, nullptr, nullptr), PF_OK);
                             return connection;
                         }};
    const End end = End::open(listener.uri(), options);
    ASSERT_TRUE(end);
    std::vector<int> phases;
    const auto note = [](void* context, pf_phase phase, const char* detail) {
        EXPECT_NE(detail, nullptr);
        static_cast<std::vector<int>*>(context)->push_back(phase);
    };
    pf_error error = no_error();
    EXPECT_EQ(transport().connect(end.get(), patience, note, &phases, &error), PF_OK) << text_of(error);
    const End other{accepting.get()};
    ASSERT_FALSE(phases.empty());
    EXPECT_TRUE(std::ranges::is_sorted(phases)) << testing::PrintToString(phases);
    EXPECT_EQ(phases.back(), PF_PHASE_ESTABLISHED);
    EXPECT_EQ(std::ranges::count(phases, PF_PHASE_ESTABLISHED), 1);
    std::array<char, 256> text{};
    EXPECT_EQ(transport().describe(end.get(), text.data(), text.size()), PF_OK);
    EXPECT_STRNE(text.data(), "");
}

TEST(Setup, NobodyListeningIsSaid) {
    Listener listener = Listener::start();
    ASSERT_TRUE(listener);
    const std::string uri = listener.uri();
    listener.close();
    const Attempt result = attempt(uri, test_options());
    const std::vector<int> right{PF_REFUSED, PF_NOT_FOUND, PF_UNREACHABLE};
    EXPECT_TRUE(std::ranges::count(right, result.status) == 1) << text_of(result.error);
    expect_filled(result.error, result.status);
    EXPECT_STRNE(result.error.remedy, "");
    EXPECT_GE(result.error.phase, std::uint32_t{PF_PHASE_RESOLVING_ADDRESS});
    EXPECT_LT(result.error.phase, std::uint32_t{PF_PHASE_ESTABLISHED});
}

TEST(Setup, AMalformedUriIsInvalid) {
    const std::string scheme = settings().uri.substr(0, settings().uri.find(':'));
    const pf_options options = test_options();
    for (const std::string& uri : {scheme + ":", std::string{"no-such-scheme:x:1"}, std::string{}}) {
        pf_error error = no_error();
        pf_listener* listener = nullptr;
        EXPECT_EQ(transport().listen(uri.c_str(), &options, &listener, &error), PF_INVALID) << uri;
        expect_filled(error, PF_INVALID);
        pf_connection* connection = nullptr;
        error = no_error();
        EXPECT_EQ(transport().open(uri.c_str(), &options, &connection, &error), PF_INVALID) << uri;
        expect_filled(error, PF_INVALID);
        EXPECT_EQ(transport().open(uri.c_str(), &options, &connection, nullptr), PF_INVALID) << "with no place for the error";
    }
}

TEST(Setup, LanesOutOfRangeAreInvalid) {
    for (const std::uint32_t lanes : {0U, 65U}) {
        pf_options options = test_options();
        options.lanes = lanes;
        pf_listener* listener = nullptr;
        EXPECT_EQ(transport().listen(settings().uri.c_str(), &options, &listener, nullptr), PF_INVALID) << lanes;
    }
}

TEST(Setup, ConnectKeepsItsDeadline) {
    // Nobody calls accept(): a transport that shakes hands within it times out, one that has a thread for it may succeed.
    const Listener listener = Listener::start();
    ASSERT_TRUE(listener);
    const std::string uri = listener.uri();
    Background connecting{"connect", [&] { return attempt(uri, test_options(), 300).status; }};
    const int status = connecting.get();
    EXPECT_TRUE(status == PF_OK || status == PF_TIMED_OUT) << status;
}

TEST(Setup, WrongSessionsAndOldEpochsAreTurnedAwayAndTheListenerGoesOn) {
    pf_options right = test_options();
    right.epoch = 5;
    pf_options stranger = right;
    stranger.session[PF_SESSION_BYTES - 1] ^= 1U;
    pf_options old = right;
    old.epoch = 4;
    pf_options later = right;
    later.epoch = 6;
    const Listener listener = Listener::start(right);
    ASSERT_TRUE(listener);
    const std::string uri = listener.uri();

    // Turned away while somebody is in accept(), who is told when accept() has nothing else to tell.
    for (const pf_options& wrong : {stranger, old}) {
        std::atomic<bool> told = false;
        Background accepting{"accept", [&] {
                                 pf_error rejected = no_error();
                                 pf_connection* connection = nullptr;
                                 int status = PF_AGAIN;
                                 for (int i = 0; i < patience / 100 && status == PF_AGAIN && rejected.status == PF_OK; ++i) {
                                     status = transport().accept(listener.get(), 100, &connection, &rejected, nullptr);
                                 }
                                 told = rejected.status != PF_OK && std::strlen(rejected.reason) > 0;
                                 return status;
                             }};
        const Attempt result = attempt(uri, wrong);
        EXPECT_NE(result.status, PF_OK);
        EXPECT_NE(result.status, PF_AGAIN);
        EXPECT_NE(result.status, PF_TIMED_OUT) << "it is told, not left to wait";
        expect_filled(result.error, result.status);
        EXPECT_EQ(accepting.get(), PF_AGAIN) << "a stranger must not come out of accept()";
        EXPECT_TRUE(told);
    }
    for (const pf_options& good : {right, later}) {
        Background accepting{"accept", [&] {
                                 pf_connection* connection = nullptr;
                                 pf_error error = no_error();
                                 EXPECT_EQ(transport().accept(listener.get(), patience, &connection, nullptr, &error), PF_OK)
                                     << text_of(error);
                                 return connection;
                             }};
        const Attempt result = attempt(uri, good);
        EXPECT_EQ(result.status, PF_OK) << text_of(result.error);
        const End other{accepting.get()};
        EXPECT_TRUE(other);
    }
}

TEST(Setup, AListenerWithNoSessionTakesAny) {
    pf_options any = test_options();
    std::memset(any.session, 0, sizeof any.session);
    const Pair pair = connect_pair(test_options(), any);
    ASSERT_TRUE(pair);
    EXPECT_EQ(send(pair.source, "hello"), PF_OK);
    EXPECT_EQ(receive(pair.destination), "hello");
}

TEST(Setup, DifferentNumbersOfLanesAgree) {
    pf_options many = test_options();
    many.lanes = 5;
    pf_options one = test_options();
    one.lanes = 1;
    for (const auto& [ours, theirs] : {std::pair{many, one}, std::pair{one, many}}) {
        const Pair pair = connect_pair(ours, theirs);
        ASSERT_TRUE(pair);
        pf_counters counters{};
        counters.size = sizeof counters;
        EXPECT_EQ(transport().counters(pair.source.get(), &counters), PF_OK);
        EXPECT_GE(counters.lanes, 1U);
        EXPECT_EQ(send(pair.source, "hello"), PF_OK);
        EXPECT_EQ(receive(pair.destination), "hello");
    }
}

TEST(Setup, AConnectionOutlivesItsListener) {
    Pair pair = connect_pair();
    ASSERT_TRUE(pair);
    pair.listener.close();
    EXPECT_EQ(send(pair.destination, "still here"), PF_OK);
    EXPECT_EQ(receive(pair.source), "still here");
}

TEST(Setup, SeveralConnectionsOfOneListener) {
    const pf_options options = test_options();
    const Listener listener = Listener::start(options);
    ASSERT_TRUE(listener);
    const std::string uri = listener.uri();
    std::vector<std::pair<End, End>> pairs;
    for (int i = 0; i < 3; ++i) {
        Background accepting{"accept", [&] {
                                 pf_connection* connection = nullptr;
                                 EXPECT_EQ(transport().accept(listener.get(), patience, &connection, nullptr, nullptr), PF_OK);
                                 return connection;
                             }};
        Attempt result = attempt(uri, options);
        ASSERT_EQ(result.status, PF_OK) << text_of(result.error);
        pairs.emplace_back(std::move(result.end), End{accepting.get()});
    }
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        EXPECT_EQ(send(pairs[i].first, std::to_string(i)), PF_OK);
    }
    for (std::size_t i = pairs.size(); i-- > 0;) {
        EXPECT_EQ(receive(pairs[i].second), std::to_string(i));
    }
}

} // namespace
} // namespace pageferry::conformance
