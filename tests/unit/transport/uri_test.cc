#include "transport/uri.h"

#include <gtest/gtest.h>

#include <string>

namespace pageferry::transport {
namespace {

Uri good(std::string_view text) {
    const auto uri = parse_uri(text);
    EXPECT_TRUE(uri) << text << ": " << (uri ? "" : uri.error().to_string());
    return uri.value_or(Uri{});
}

Error bad(std::string_view text) {
    const auto uri = parse_uri(text);
    EXPECT_FALSE(uri) << text;
    if (uri) {
        return {};
    }
    EXPECT_EQ(uri.error().code, ErrorCode::invalid_argument) << text;
    EXPECT_FALSE(uri.error().remedy.empty()) << text;
    return uri.error();
}

TEST(Uri, HostAndPort) {
    const Uri uri = good("tcp:dst.example:4444");
    EXPECT_EQ(uri.scheme, "tcp");
    EXPECT_EQ(uri.host, "dst.example");
    EXPECT_EQ(uri.port, 4444);
    EXPECT_EQ(uri.text, "tcp:dst.example:4444");
    EXPECT_EQ(uri.to_string(), "tcp:dst.example:4444");
}

TEST(Uri, TwoSlashesAreTheSameThing) {
    EXPECT_EQ(good("tcp://dst:1").to_string(), "tcp:dst:1");
    EXPECT_EQ(good("rdma://[::1]:1").to_string(), "rdma:[::1]:1");
}

TEST(Uri, EmptyHostIsAnyAddress) {
    EXPECT_EQ(good("tcp::4444").host, "");
    EXPECT_EQ(good("tcp::4444").to_string(), "tcp::4444");
    EXPECT_EQ(good("rdma:0:4444").host, "0"); // QEMU's documentation writes it so
}

TEST(Uri, Ipv6InBrackets) {
    EXPECT_EQ(good("tcp:[2001:db8::1]:0").host, "2001:db8::1");
    EXPECT_EQ(good("tcp:[fe80::1%eth0]:5").to_string(), "tcp:[fe80::1%eth0]:5");
    EXPECT_NE(bad("tcp:[::1:4444").reason.find("not closed"), std::string::npos);
    EXPECT_NE(bad("tcp:[::1]4444").reason.find("port"), std::string::npos);
    EXPECT_NE(bad("tcp:[::1]").reason.find("port"), std::string::npos);
    EXPECT_NE(bad("tcp:[host]:1").reason.find("not an IPv6 address"), std::string::npos);
    EXPECT_NE(bad("tcp:[]:1").reason.find("not an IPv6 address"), std::string::npos);
    EXPECT_NE(bad("tcp:[::1%]:1").reason.find("not an IPv6 address"), std::string::npos);
    EXPECT_NE(bad("tcp:::1:4444").remedy.find("brackets"), std::string::npos);
}

TEST(Uri, PortRange) {
    EXPECT_EQ(good("tcp:h:0").port, 0);
    EXPECT_EQ(good("tcp:h:65535").port, 65535);
    EXPECT_EQ(good("tcp:h:04444").port, 4444);
    EXPECT_NE(bad("tcp:h:65536").reason.find("out of range"), std::string::npos);
    EXPECT_NE(bad("tcp:h:99999999999999999999999").reason.find("out of range"), std::string::npos);
    EXPECT_NE(bad("tcp:h:-1").reason.find("not a number"), std::string::npos);
    EXPECT_NE(bad("tcp:h:+1").reason.find("not a number"), std::string::npos);
    EXPECT_NE(bad("tcp:h: 1").reason.find("not a number"), std::string::npos);
    EXPECT_NE(bad("tcp:h:http").reason.find("not a number"), std::string::npos);
    EXPECT_NE(bad("tcp:h:").reason.find("empty"), std::string::npos);
    EXPECT_NE(bad("tcp:h:1,ipv4=on").reason.find("options"), std::string::npos);
}

TEST(Uri, MissingParts) {
    EXPECT_NE(bad("").reason.find("empty"), std::string::npos);
    EXPECT_NE(bad("host").reason.find("scheme"), std::string::npos);
    EXPECT_NE(bad("192.0.2.1:4444").reason.find("scheme"), std::string::npos);
    EXPECT_NE(bad(":h:1").reason.find("scheme"), std::string::npos);
    EXPECT_NE(bad("tcp:host").reason.find("port is missing"), std::string::npos);
    EXPECT_NE(bad("tcp:").reason.find("port is missing"), std::string::npos);
    EXPECT_NE(bad("localhost:4444").remedy.find("tcp:localhost:4444"), std::string::npos);
}

TEST(Uri, BadHosts) {
    for (const char* text : {"tcp:a b:1", "tcp:a/b:1", "tcp:user@h:1", "tcp:h\n:1", "tcp:*:1", "tcp:a[b]:1"}) {
        EXPECT_NE(bad(text).reason.find("the host"), std::string::npos) << text;
    }
    EXPECT_EQ(bad("tcp:\x1b[31m:1").to_string().find('\x1b'), std::string::npos) << "a terminal must not obey a URI";
    EXPECT_LT(bad("tcp:" + std::string(100'000, 'x')).to_string().size(), 600U);
}

TEST(Uri, UnixPaths) {
    EXPECT_EQ(good("unix:/run/vm.sock").path, "/run/vm.sock");
    EXPECT_EQ(good("unix:/run/vm.sock").to_string(), "unix:/run/vm.sock");
    EXPECT_EQ(good("unix:a:b").path, "a:b");
    EXPECT_EQ(good("unix:" + std::string(107, 'p')).path.size(), 107U);
    EXPECT_NE(bad("unix:" + std::string(108, 'p')).reason.find("108 bytes"), std::string::npos);
    EXPECT_NE(bad("unix:").reason.find("path"), std::string::npos);
    EXPECT_NE(bad(std::string_view{"unix:a\0b", 8}).reason.find("NUL"), std::string::npos);
}

TEST(Uri, AThirdPartysScheme) {
    const Uri uri = good("x-ucx+v2.1:node7:9");
    EXPECT_EQ(uri.scheme, "x-ucx+v2.1");
    EXPECT_EQ(uri.host, "node7");
}

TEST(SchemeOf, LettersDigitsAndThree) {
    EXPECT_EQ(scheme_of("tcp:h:1"), "tcp");
    EXPECT_EQ(scheme_of("fd:migrate"), "fd");
    EXPECT_EQ(scheme_of("exec:cat > x"), "exec");
    for (const char* text : {"", ":", "tcp", "1tcp:h", "t/c:h", "../x:h", "t c:h", "-t:h", ".:h"}) {
        EXPECT_EQ(scheme_of(text), "") << text;
    }
}

} // namespace
} // namespace pageferry::transport
