#include "ends.h"

#include <array>
#include <vector>

namespace pageferry::conformance {

pf_error no_error() {
    pf_error error{};
    error.size = sizeof error;
    return error;
}

std::string text_of(const pf_error& error) {
    return "status " + std::to_string(error.status) + ", " + error.operation + " " + error.object + " (peer " + error.peer +
           "): " + error.reason + " (native " + std::to_string(error.native) + "); " + error.remedy;
}

pf_options test_options() {
    pf_options options{};
    options.size = sizeof options;
    options.lanes = 2;
    options.dead_peer_ms = patience;
    options.handshake_ms = patience;
    options.epoch = 1;
    for (unsigned char& byte : options.session) {
        byte = 0x5e;
    }
    return options;
}

Listener Listener::start(const pf_options& options, const std::string& uri) {
    pf_error error = no_error();
    pf_listener* listener = nullptr;
    const int status = transport().listen(uri.c_str(), &options, &listener, &error);
    EXPECT_EQ(status, PF_OK) << text_of(error);
    return status == PF_OK ? Listener{listener} : Listener{};
}

std::string Listener::uri() const {
    std::array<char, 512> buffer{};
    EXPECT_EQ(transport().listener_uri(listener_, buffer.data(), buffer.size()), PF_OK);
    return buffer.data();
}

End End::open(const std::string& uri, const pf_options& options) {
    pf_error error = no_error();
    pf_connection* connection = nullptr;
    const int status = transport().open(uri.c_str(), &options, &connection, &error);
    EXPECT_EQ(status, PF_OK) << text_of(error);
    return status == PF_OK ? End{connection} : End{};
}

Pair connect_pair(const pf_options& source, const std::optional<pf_options>& destination) {
    Pair pair;
    pair.listener = Listener::start(destination.value_or(source));
    if (!pair.listener) {
        return {};
    }
    pair.source = End::open(pair.listener.uri(), source);
    if (!pair.source) {
        return {};
    }
    Background accepting{"accept", [&] {
                             pf_error error = no_error();
                             pf_connection* connection = nullptr;
                             const int status = transport().accept(pair.listener.get(), patience, &connection, nullptr, &error);
                             EXPECT_EQ(status, PF_OK) << text_of(error);
                             return status == PF_OK ? connection : nullptr;
                         }};
    pf_error error = no_error();
    const int status = transport().connect(pair.source.get(), patience, nullptr, nullptr, &error);
    EXPECT_EQ(status, PF_OK) << text_of(error);
    if (status != PF_OK) {
        transport().cancel_listener(pair.listener.get());
    }
    pair.destination = End{accepting.get()};
    if (status != PF_OK) {
        pair.source.close();
    }
    return pair;
}

int send(const End& end, const std::string& message) {
    pf_error error = no_error();
    const int status = transport().send(end.get(), message.data(), message.size(), patience, &error);
    EXPECT_EQ(status, PF_OK) << text_of(error);
    return status;
}

std::string receive(const End& end) {
    pf_error error = no_error();
    std::vector<char> buffer(PF_CONTROL_MAX);
    std::size_t length = 0;
    const int status = transport().receive(end.get(), buffer.data(), buffer.size(), &length, patience, &error);
    EXPECT_EQ(status, PF_OK) << text_of(error);
    return status == PF_OK ? std::string{buffer.data(), length} : std::string{};
}

} // namespace pageferry::conformance
