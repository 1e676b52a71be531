#include "transport/connection.h"

#include "transport/error_view.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

namespace pageferry::transport {

namespace {

constexpr std::size_t inspect_first = 16UL * 1024; // bytes
constexpr std::size_t inspect_most = 16UL * 1024 * 1024;
constexpr int inspect_attempts = 8;

std::uint32_t to_u32(std::int64_t value) {
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(value, 0, std::numeric_limits<std::uint32_t>::max()));
}

std::int64_t to_timeout(Milliseconds timeout) {
    return std::max<std::int64_t>(timeout.count(), 0);
}

pf_options to_abi(const Options& options) {
    pf_options abi{};
    abi.size = sizeof abi;
    abi.lanes = options.lanes;
    abi.dead_peer_ms = to_u32(options.dead_peer.count());
    abi.handshake_ms = to_u32(options.handshake.count());
    abi.queue_depth = options.queue_depth;
    abi.epoch = options.epoch;
    std::ranges::copy(options.session, abi.session);
    abi.memory_bytes = options.memory_bytes;
    return abi;
}

// Only what connect() must carry across the C ABI.
struct ProgressContext {
    const Progress* progress;
};

extern "C" void tell_progress(void* context, pf_phase phase, const char* detail) {
    const Progress& progress = *static_cast<ProgressContext*>(context)->progress;
    progress(phase, detail != nullptr ? detail : "");
}

std::unexpected<Error> failed(int status, const pf_error& error, const char* operation, std::string object = {}) {
    return std::unexpected{error_from(status, error, operation, std::move(object))};
}

// A plugin that says PF_OK and gives nothing.
std::unexpected<Error> gave_nothing(const char* operation, std::string object) {
    return std::unexpected{
        make_error(ErrorCode::internal, operation, std::move(object), "the transport answered PF_OK without giving an object")};
}

template <class Call>
std::string text_of(Call call) {
    std::array<char, 512> buffer{};
    const int status = call(buffer.data(), buffer.size());
    buffer.back() = '\0';
    return status == PF_OK ? std::string{buffer.data()} : std::string{};
}

} // namespace

// --- Connection

Connection::Connection(std::shared_ptr<const pf_transport> plugin, pf_connection* connection)
    : plugin_(std::move(plugin)), connection_(connection) {}

Connection::Connection(Connection&& other) noexcept
    : plugin_(std::move(other.plugin_)), connection_(std::exchange(other.connection_, nullptr)) {}

Connection& Connection::operator=(Connection&& other) noexcept {
    if (this != &other) {
        // What other becomes closes what this one had, with the plugin still loaded.
        std::swap(plugin_, other.plugin_);
        std::swap(connection_, other.connection_);
        const Connection old{std::move(other)};
    }
    return *this;
}

Connection::~Connection() {
    if (connection_ != nullptr) {
        plugin_->close(connection_);
    }
}

Result<void> Connection::connect(Milliseconds timeout, const Progress& progress) {
    pf_error error = empty_error();
    ProgressContext context{.progress = &progress};
    const int status = plugin_->connect(connection_, to_timeout(timeout), progress ? &tell_progress : nullptr,
                                        progress ? &context : nullptr, &error);
    if (status != PF_OK) {
        return failed(status, error, "connect");
    }
    return {};
}

void Connection::cancel() {
    plugin_->cancel(connection_);
}

std::string Connection::describe() const {
    return text_of([&](char* buffer, std::size_t size) { return plugin_->describe(connection_, buffer, size); });
}

Result<void> Connection::add_memory(std::span<const MemoryBlock> blocks) {
    std::vector<pf_memory_block> abi;
    abi.reserve(blocks.size());
    for (const MemoryBlock& block : blocks) {
        abi.push_back({.size = sizeof(pf_memory_block),
                       .block = block.block,
                       .name = block.name.c_str(),
                       .address = block.address,
                       .length = block.length,
                       .page_size = block.page_size,
                       .access = block.access,
                       .reserved = 0});
    }
    pf_error error = empty_error();
    if (const int status = plugin_->add_memory(connection_, abi.data(), abi.size(), &error); status != PF_OK) {
        return failed(status, error, "add memory");
    }
    return {};
}

Result<void> Connection::prepare(std::span<const pf_extent> extents) {
    pf_error error = empty_error();
    if (const int status = plugin_->prepare(connection_, extents.data(), extents.size(), &error); status != PF_OK) {
        return failed(status, error, "prepare");
    }
    return {};
}

Result<void> Connection::memory_replaced() {
    pf_error error = empty_error();
    if (const int status = plugin_->memory_replaced(connection_, &error); status != PF_OK) {
        return failed(status, error, "register memory again");
    }
    return {};
}

Result<void> Connection::revoke_memory(Milliseconds timeout) {
    pf_error error = empty_error();
    if (const int status = plugin_->revoke_memory(connection_, to_timeout(timeout), &error); status != PF_OK) {
        return failed(status, error, "revoke memory");
    }
    return {};
}

Result<void> Connection::send(std::span<const std::byte> message, Milliseconds timeout) {
    pf_error error = empty_error();
    const int status = plugin_->send(connection_, message.data(), message.size(), to_timeout(timeout), &error);
    if (status != PF_OK) {
        return failed(status, error, "send a control message");
    }
    return {};
}

Result<std::span<std::byte>> Connection::receive(std::span<std::byte> buffer, Milliseconds timeout) {
    pf_error error = empty_error();
    std::size_t length = 0;
    const int status = plugin_->receive(connection_, buffer.data(), buffer.size(), &length, to_timeout(timeout), &error);
    if (status == PF_AGAIN) {
        return std::span<std::byte>{};
    }
    if (status != PF_OK) {
        return failed(status, error, "receive a control message");
    }
    if (length == 0 || length > buffer.size()) {
        return std::unexpected{make_error(ErrorCode::internal, "receive a control message", plugin_->name,
                                          "the transport gave a message of " + std::to_string(length) +
                                              " bytes for a buffer of " + std::to_string(buffer.size()))};
    }
    return buffer.first(length);
}

Result<std::size_t> Connection::push(std::span<const pf_extent> extents) {
    pf_error error = empty_error();
    std::size_t accepted = 0;
    const int status = plugin_->push(connection_, extents.data(), extents.size(), &accepted, &error);
    if (status != PF_OK && status != PF_AGAIN) {
        return failed(status, error, "push");
    }
    return status == PF_AGAIN ? 0 : accepted;
}

Result<std::size_t> Connection::pull(std::uint32_t lane, std::span<const pf_extent> extents) {
    pf_error error = empty_error();
    std::size_t accepted = 0;
    const int status = plugin_->pull(connection_, lane, extents.data(), extents.size(), &accepted, &error);
    if (status != PF_OK && status != PF_AGAIN) {
        return failed(status, error, "pull");
    }
    return status == PF_AGAIN ? 0 : accepted;
}

Result<std::size_t> Connection::poll(std::span<pf_completion> completions, Milliseconds timeout) {
    pf_error error = empty_error();
    std::size_t count = 0;
    const int status = plugin_->poll(connection_, completions.data(), completions.size(), &count, to_timeout(timeout), &error);
    if (status != PF_OK && status != PF_AGAIN) {
        return failed(status, error, "poll for completions");
    }
    return status == PF_AGAIN ? 0 : count;
}

Result<void> Connection::fence(Milliseconds timeout) {
    pf_error error = empty_error();
    if (const int status = plugin_->fence(connection_, to_timeout(timeout), &error); status != PF_OK) {
        return failed(status, error, "fence");
    }
    return {};
}

pf_counters Connection::counters() const {
    pf_counters counters{};
    counters.size = sizeof counters;
    if (plugin_->counters(connection_, &counters) != PF_OK) {
        counters = {};
        counters.size = sizeof counters;
    }
    return counters;
}

// --- Listener

Listener::Listener(std::shared_ptr<const pf_transport> plugin, pf_listener* listener)
    : plugin_(std::move(plugin)), listener_(listener) {}

Listener::Listener(Listener&& other) noexcept
    : plugin_(std::move(other.plugin_)), listener_(std::exchange(other.listener_, nullptr)) {}

Listener& Listener::operator=(Listener&& other) noexcept {
    if (this != &other) {
        std::swap(plugin_, other.plugin_);
        std::swap(listener_, other.listener_);
        const Listener old{std::move(other)};
    }
    return *this;
}

Listener::~Listener() {
    if (listener_ != nullptr) {
        plugin_->close_listener(listener_);
    }
}

std::string Listener::uri() const {
    return text_of([&](char* buffer, std::size_t size) { return plugin_->listener_uri(listener_, buffer, size); });
}

Result<std::optional<Connection>> Listener::accept(Milliseconds timeout, std::optional<Error>* rejected) {
    pf_error error = empty_error();
    pf_error stranger = empty_error();
    pf_connection* connection = nullptr;
    if (rejected != nullptr) {
        rejected->reset();
    }
    const int status = plugin_->accept(listener_, to_timeout(timeout), &connection, &stranger, &error);
    if (status == PF_AGAIN) {
        if (rejected != nullptr && stranger.status != PF_OK) {
            *rejected = error_from(stranger.status, stranger, "accept", {});
        }
        return std::optional<Connection>{};
    }
    if (status != PF_OK) {
        return failed(status, error, "accept");
    }
    if (connection == nullptr) {
        return gave_nothing("accept", plugin_->name);
    }
    return std::optional<Connection>{Connection{plugin_, connection}};
}

void Listener::cancel() {
    plugin_->cancel_listener(listener_);
}

// --- Transport

Result<void> Transport::probe(const std::optional<std::string>& uri) const {
    pf_error error = empty_error();
    if (const int status = plugin_->probe(uri ? uri->c_str() : nullptr, &error); status != PF_OK) {
        return failed(status, error, "probe", uri.value_or(plugin_->name));
    }
    return {};
}

Result<std::string> Transport::inspect() const {
    if (plugin_->size < offsetof(pf_transport, inspect) + sizeof plugin_->inspect || plugin_->inspect == nullptr) {
        return std::string{};
    }
    std::string text(inspect_first, '\0');
    for (int attempt = 0; attempt < inspect_attempts; ++attempt) { // a device may come between two calls
        std::size_t length = 0;
        const int status = plugin_->inspect(text.data(), text.size(), &length);
        if (status == PF_OK && length <= text.size()) {
            text.resize(length);
            return text;
        }
        if (status != PF_AGAIN || length <= text.size() || length > inspect_most) {
            return failed(status == PF_OK || status == PF_AGAIN ? int{PF_INTERNAL} : status, empty_error(), "inspect",
                          plugin_->name);
        }
        text.resize(length);
    }
    return failed(PF_INTERNAL, empty_error(), "inspect", plugin_->name);
}

Result<Listener> Transport::listen(const std::string& uri, const Options& options) const {
    pf_error error = empty_error();
    const pf_options abi = to_abi(options);
    pf_listener* listener = nullptr;
    if (const int status = plugin_->listen(uri.c_str(), &abi, &listener, &error); status != PF_OK) {
        return failed(status, error, "listen", uri);
    }
    if (listener == nullptr) {
        return gave_nothing("listen", uri);
    }
    return Listener{plugin_, listener};
}

Result<Connection> Transport::open(const std::string& uri, const Options& options) const {
    pf_error error = empty_error();
    const pf_options abi = to_abi(options);
    pf_connection* connection = nullptr;
    if (const int status = plugin_->open(uri.c_str(), &abi, &connection, &error); status != PF_OK) {
        return failed(status, error, "open", uri);
    }
    if (connection == nullptr) {
        return gave_nothing("open", uri);
    }
    return Connection{plugin_, connection};
}

} // namespace pageferry::transport
