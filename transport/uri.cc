#include "transport/uri.h"

#include <arpa/inet.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace pageferry::transport {

namespace {

constexpr std::size_t max_uri = 1024;                                     // bytes; a host name has at most 253, a path far less
constexpr std::size_t max_unix_path = sizeof(sockaddr_un{}.sun_path) - 1; // bytes, without the closing NUL

// The locale must not change what a URI is, so none of <cctype>.
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_control(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
}

// What a person's terminal may be shown of a text that anybody may have sent.
std::string shown(std::string_view text) {
    constexpr std::size_t enough = 120;
    std::string out;
    for (const char c : text.substr(0, enough)) {
        out += is_control(c) ? '?' : c;
    }
    return text.size() > enough ? out + "..." : out;
}

std::unexpected<Error> refuse(std::string_view text, std::string reason, std::string remedy) {
    return std::unexpected{
        make_error(ErrorCode::invalid_argument, "parse URI", "\"" + shown(text) + "\"", std::move(reason), std::move(remedy))};
}

std::string form(std::string_view scheme) {
    return std::string{scheme} + ":HOST:PORT";
}

// In brackets: an IPv6 address, with a zone where it is link-local ("fe80::1%eth0").
bool is_ipv6(std::string_view host) {
    const std::size_t percent = host.find('%');
    const std::string address{host.substr(0, percent)};
    if (percent != std::string_view::npos && host.size() == percent + 1) {
        return false;
    }
    std::array<unsigned char, sizeof(in6_addr)> bytes{};
    return inet_pton(AF_INET6, address.c_str(), bytes.data()) == 1;
}

bool is_host_character(char c) {
    // Bytes beyond ASCII are left to the resolver: host names in other scripts exist.
    return is_letter(c) || is_digit(c) || c == '-' || c == '.' || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}

Result<Uri> parse_unix(std::string_view text, std::string_view path) {
    if (path.empty()) {
        return refuse(text, "the path after \"unix:\" is missing", "write unix:/run/NAME.sock");
    }
    if (path.find('\0') != std::string_view::npos) {
        return refuse(text, "the path holds a NUL byte", "write unix:/run/NAME.sock");
    }
    if (path.size() > max_unix_path) {
        return refuse(text,
                      "the path has " + std::to_string(path.size()) + " bytes, the kernel takes " +
                          std::to_string(max_unix_path) + " for a socket",
                      "use a shorter path");
    }
    Uri uri;
    uri.scheme = "unix";
    uri.path = std::string{path};
    uri.text = std::string{text};
    return uri;
}

Result<std::uint16_t> parse_port(std::string_view text, std::string_view scheme, std::string_view port) {
    if (port.empty()) {
        return refuse(text, "the port is empty", "write " + form(scheme) + " with a port from 0 to 65535");
    }
    if (const std::size_t comma = port.find(','); comma != std::string_view::npos) {
        return refuse(text, "options after the port (\"" + shown(port.substr(comma)) + "\") are not supported",
                      "write " + form(scheme) + " alone");
    }
    if (!std::ranges::all_of(port, is_digit)) {
        return refuse(text, "the port \"" + shown(port) + "\" is not a number", "write digits alone, from 0 to 65535");
    }
    std::uint16_t number = 0;
    const auto [end, failed] = std::from_chars(port.data(), port.data() + port.size(), number);
    if (failed != std::errc{}) {
        return refuse(text, "the port " + shown(port) + " is out of range", "use a port from 0 to 65535");
    }
    return number;
}

// The host, and what follows its colon.
Result<std::pair<std::string_view, std::string_view>> split_host(std::string_view text, std::string_view scheme,
                                                                 std::string_view rest) {
    if (rest.starts_with('[')) {
        const std::size_t close = rest.find(']');
        if (close == std::string_view::npos) {
            return refuse(text, "the bracket before the IPv6 address is not closed",
                          "write " + std::string{scheme} + ":[ADDRESS]:PORT");
        }
        const std::string_view host = rest.substr(1, close - 1);
        if (std::ranges::any_of(host, is_control) || !is_ipv6(host)) {
            return refuse(text, "\"" + shown(host) + "\" in brackets is not an IPv6 address",
                          "write an address such as [2001:db8::1] or [fe80::1%eth0]; brackets are for nothing else");
        }
        if (close + 1 >= rest.size() || rest[close + 1] != ':') {
            return refuse(text, "the port after the IPv6 address is missing", "write " + std::string{scheme} + ":[ADDRESS]:PORT");
        }
        return std::pair{host, rest.substr(close + 2)};
    }
    const std::size_t colon = rest.find(':');
    if (colon == std::string_view::npos) {
        // "localhost:4444": what was meant as the host reads as the scheme.
        const bool host_as_scheme = !rest.empty() && std::ranges::all_of(rest, is_digit);
        return refuse(
            text, "the port is missing",
            "write " + (host_as_scheme ? "tcp:" + shown(text) + " if \"" + std::string{scheme} + "\" is the host, else " : "") +
                form(scheme));
    }
    const std::string_view host = rest.substr(0, colon);
    if (const auto bad = std::ranges::find_if_not(host, is_host_character); bad != host.end()) {
        return refuse(text, "the host \"" + shown(host) + "\" holds the character \"" + shown({&*bad, 1}) + "\"",
                      "use a host name or an address");
    }
    if (rest.find(':', colon + 1) != std::string_view::npos) {
        return refuse(text, "there is more than one colon after the scheme",
                      "put an IPv6 address in brackets: " + std::string{scheme} + ":[ADDRESS]:PORT");
    }
    return std::pair{host, rest.substr(colon + 1)};
}

} // namespace

std::string_view scheme_of(std::string_view text) {
    const std::string_view scheme = text.substr(0, text.find(':'));
    if (scheme.size() == text.size() || scheme.empty() || !is_letter(scheme.front())) {
        return {};
    }
    const bool clean =
        std::ranges::all_of(scheme, [](char c) { return is_letter(c) || is_digit(c) || c == '+' || c == '-' || c == '.'; });
    return clean ? scheme : std::string_view{};
}

Result<Uri> parse_uri(std::string_view text) {
    if (text.size() > max_uri) {
        return refuse(text, "it has " + std::to_string(text.size()) + " bytes", "use at most " + std::to_string(max_uri));
    }
    const std::string_view scheme = scheme_of(text);
    if (scheme.empty()) {
        return refuse(text, text.empty() ? "it is empty" : "there is no scheme such as \"tcp:\" at its start",
                      "write tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH");
    }
    std::string_view rest = text.substr(scheme.size() + 1);
    if (scheme == "unix") {
        return parse_unix(text, rest);
    }
    if (rest.starts_with("//")) {
        rest.remove_prefix(2);
    }
    const auto parts = split_host(text, scheme, rest);
    if (!parts) {
        return std::unexpected{parts.error()};
    }
    const auto port = parse_port(text, scheme, parts->second);
    if (!port) {
        return std::unexpected{port.error()};
    }
    Uri uri;
    uri.scheme = std::string{scheme};
    uri.host = std::string{parts->first};
    uri.port = *port;
    uri.text = std::string{text};
    return uri;
}

std::string Uri::to_string() const {
    if (scheme == "unix") {
        return "unix:" + path;
    }
    const bool brackets = host.find(':') != std::string::npos;
    return scheme + ":" + (brackets ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

} // namespace pageferry::transport
