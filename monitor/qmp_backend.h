// The client side of one QMP monitor of QEMU: negotiates by itself (with "oob" where offered), runs commands with ids of its own,
// and passes raw messages through.
//
// Threads: the io_context's one thread. Callbacks run from the io_context or from drain(), never inside execute() or send_raw().
// A backend must not be destroyed from inside one of its own callbacks (post it).
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "monitor/channel.h"

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::monitor {

class QmpBackend {
public:
    // The "return" value, or an error: QEMU's refusal (operation: the command, object: "QEMU", reason: its desc), or closed when
    // QEMU is gone.
    using Done = std::function<void(Result<nlohmann::json>)>;

    // As QEMU sent it, without the line end. Only as much of it is read as tells whose it is.
    struct Answer {
        const nlohmann::json* id = nullptr; // null: none, or QEMU's text is no JSON object; lives during the call
        bool is_error = false;
        std::string raw;
    };

    struct Handlers {
        std::function<void()> ready; // greeting and negotiation are done
        // Events, whole: {"timestamp", "event", "data"}; raw is the text as QEMU sent it.
        std::function<void(const std::string& name, const nlohmann::json& event, std::string_view raw)> event;
        std::function<void(Answer answer)> reply; // to what was sent by send_raw()
        std::function<void()> closed; // QEMU has ended, or speaks no QMP; every execute() still open was answered before this
    };

    // socket: the connected end of the pair whose other end QEMU has.
    static Result<std::unique_ptr<QmpBackend>> open(boost::asio::io_context& io, Fd socket);
    QmpBackend(const QmpBackend&) = delete;
    QmpBackend& operator=(const QmpBackend&) = delete;
    ~QmpBackend(); // no callback runs any more; execute()s still open are not answered

    void start(Handlers handlers);

    [[nodiscard]] bool ready() const;
    [[nodiscard]] bool oob() const;                    // out-of-band execution is enabled on it
    [[nodiscard]] std::size_t queued_bytes() const;    // written and not yet taken by QEMU
    [[nodiscard]] const std::string& greeting() const; // QEMU's own bytes, without the line end

    // May be called before ready(): the command waits. done may be empty.
    void execute(std::string_view command, const nlohmann::json& arguments, Done done);
    void execute(std::string_view command, const nlohmann::json& arguments, std::vector<Fd> fds, Done done);
    // Not before ready().
    void send_raw(std::string text, std::vector<Fd> fds);
    // Reads and reports everything that is there now, without waiting.
    void drain();

private:
    struct Implementation;
    explicit QmpBackend(std::shared_ptr<Implementation> implementation);
    std::shared_ptr<Implementation> implementation_;
};

} // namespace pageferry::monitor
