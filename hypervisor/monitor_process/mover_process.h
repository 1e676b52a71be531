// A mover process as the monitor process sees it: started, spoken to, ended, buried.
//
// Threads: the io_context's one thread. Handlers never run inside start() or send().
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "hypervisor/link/link.h"
#include "hypervisor/link/messages.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include <sys/types.h>

#include <functional>
#include <memory>
#include <span>
#include <string>

namespace pageferry::hypervisor {

class MoverProcess {
public:
    struct Handlers {
        std::function<void(LinkMessage&)> message;
        std::function<void(const std::string& how)> ended; // once: "exit status 0", "killed by signal 9 (Killed)"
    };

    // program: path of pageferry-mover.
    static Result<std::unique_ptr<MoverProcess>> start(boost::asio::io_context& io, const std::string& program,
                                                       Handlers handlers);
    ~MoverProcess(); // kills it, and waits for it
    MoverProcess(const MoverProcess&) = delete;
    MoverProcess& operator=(const MoverProcess&) = delete;

    Result<void> send(const nlohmann::json& message, std::span<const int> fds = {});
    void kill();
    [[nodiscard]] pid_t pid() const { return pid_; }

private:
    MoverProcess(boost::asio::io_context& io, pid_t pid, Fd pidfd, Link link, Handlers handlers);
    void wait_for_message();
    void take_messages();
    void wait_for_end();
    void bury();

    pid_t pid_;
    Link link_;
    boost::asio::posix::stream_descriptor link_ready_; // the link's descriptor, borrowed
    boost::asio::posix::stream_descriptor pidfd_;
    Handlers handlers_;
    std::shared_ptr<bool> alive_; // false once this object is gone: asio calls handlers of cancelled waits later
    bool buried_ = false;
};

} // namespace pageferry::hypervisor
