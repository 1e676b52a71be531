#include "hypervisor/monitor_process/qemu_driver.h"

#include "monitor/capabilities.h"
#include "monitor/parameters.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string_view>
#include <utility>

namespace pageferry::hypervisor {

using nlohmann::json;

namespace {
// QEMU's own stream is small and local: nothing of the user's limits is meant for it.
constexpr std::uint64_t unlimited_bandwidth = 1ULL << 40; // bytes per second
constexpr std::uint64_t stream_downtime_limit = 300;      // ms, QEMU's default

std::string_view text_at(const json& object, const char* key) {
    if (!object.is_object()) {
        return {};
    }
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? std::string_view{found->get_ref<const std::string&>()}
                                                       : std::string_view{};
}
} // namespace

void QemuDriver::in_order(std::vector<Command> commands, Done done) {
    if (commands.empty()) {
        return done({});
    }
    const Command first = std::move(commands.front());
    commands.erase(commands.begin());
    qmp_.execute(first.name, first.arguments,
                 [this, rest = std::move(commands), done = std::move(done)](Result<json> answer) mutable {
                     if (!answer) {
                         return done(std::unexpected(std::move(answer.error())));
                     }
                     in_order(std::move(rest), std::move(done));
                 });
}

void QemuDriver::with_listed_capabilities(Done done) {
    qmp_.execute("query-migrate-capabilities", json::object(), [this, done = std::move(done)](Result<json> answer) {
        if (!answer) {
            return done(std::unexpected(std::move(answer.error())));
        }
        listed_ = std::move(*answer);
        done({});
    });
}

QemuDriver::Command QemuDriver::capabilities_command(std::initializer_list<const char*> on) const {
    json list = json::array();
    for (const auto& one : listed_) {
        const std::string name{text_at(one, "capability")};
        // QEMU would refuse these together with what is on, or knows them no more: they are off anyway.
        const bool wanted = std::ranges::any_of(on, [&](const char* other) { return name == other; });
        const bool is_on = one.is_object() && one.contains("state") && one["state"] == true;
        if (wanted != is_on) {
            list.push_back({{"capability", name}, {"state", wanted}});
        }
    }
    return Command{.name = "migrate-set-capabilities", .arguments = {{"capabilities", std::move(list)}}};
}

Result<std::pair<Fd, Fd>> QemuDriver::stream_pair() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return std::unexpected(errno_error(errno, "socketpair", "device state stream"));
    }
    return std::pair{Fd{ends[0]}, Fd{ends[1]}};
}

void QemuDriver::give_stream(std::string name, Fd socket, Done done) {
    std::vector<Fd> fds;
    fds.push_back(std::move(socket));
    qmp_.execute("getfd", {{"fdname", std::move(name)}}, std::move(fds), [done = std::move(done)](Result<json> answer) {
        done(answer ? Result<void>{} : std::unexpected(std::move(answer.error())));
    });
}

void QemuDriver::start_save(std::function<void(Result<Fd>, bool)> done) {
    auto ends = stream_pair();
    if (!ends) {
        return done(std::unexpected(std::move(ends.error())), true);
    }
    struct Start {
        Fd ours;
        Fd theirs;
        bool running = true;
        std::function<void(Result<Fd>, bool)> done;
    };
    auto start = std::make_shared<Start>(
        Start{.ours = std::move(ends->first), .theirs = std::move(ends->second), .running = true, .done = std::move(done)});
    with_listed_capabilities([this, start](Result<void> listed) {
        if (!listed) {
            return start->done(std::unexpected(std::move(listed.error())), true);
        }
        qmp_.execute("query-status", json::object(), [start](const Result<json>& answer) {
            start->running = !answer || !answer->is_object() || answer->value("running", true);
        });
        const std::string name = "pageferry-" + std::to_string(++streams_);
        give_stream(name, std::move(start->theirs), [](const Result<void>&) {}); // where it fails, migrate finds no such name
        active_ = true;
        succeeded_ = false;
        // Without a return path QEMU completes as soon as all of its state is in the stream, and that is what has to be known. No
        // earlier word of it will do: `device` comes before anything is saved, and while it saves QEMU lets go of its big lock,
        // so an answer to a command proves nothing. Whether the state arrived and was loaded is our own protocol's to say.
        in_order({capabilities_command({"x-ignore-shared", "pause-before-switchover", "events"}),
                  Command{.name = "migrate-set-parameters",
                          .arguments = {{"max-bandwidth", unlimited_bandwidth}, {"downtime-limit", stream_downtime_limit}}},
                  Command{.name = "migrate", .arguments = {{"uri", "fd:" + name}}}},
                 [this, start](Result<void> started) {
                     if (!started) {
                         active_ = false;
                         return start->done(std::unexpected(std::move(started.error())), start->running);
                     }
                     start->done(std::move(start->ours), start->running);
                 });
    });
}

void QemuDriver::finish_save(Done done) {
    saved_ = std::move(done); // called when QEMU says that it has completed
    qmp_.execute("migrate-continue", {{"state", "pre-switchover"}}, [this](Result<json> answer) {
        if (!answer && saved_) {
            std::exchange(saved_, nullptr)(std::unexpected(std::move(answer.error())));
        }
    });
}

void QemuDriver::event(const std::string& name, const json& event) {
    if (name == "MIGRATION" && event.is_object() && event.contains("data")) {
        migration_event(std::string{text_at(event["data"], "status")});
    }
}

void QemuDriver::migration_event(const std::string& status) {
    if (!active_) {
        return;
    }
    if (status == "pre-switchover") {
        handlers_.stopped();
    } else if (status == "completed" || status == "failed" || status == "cancelled") {
        active_ = false;
        succeeded_ = status == "completed";
        if (!succeeded_) {
            const Error error = make_error(ErrorCode::io, loading_ ? "load" : "save", "device state",
                                           "QEMU's own migration of it ended as " + status, "QEMU's log says why");
            if (saved_) {
                std::exchange(saved_, nullptr)(std::unexpected(error));
            }
            handlers_.failed(error);
        }
        if (saved_) {
            std::exchange(saved_, nullptr)({});
        }
        handlers_.ended();
        if (restored_) {
            std::exchange(restored_, nullptr)({});
        }
    }
}

void QemuDriver::restore(bool was_running, Done done) {
    auto resume = [this, was_running, done = std::move(done)](const Result<void>& ended) {
        if (!ended) {
            return done(ended);
        }
        resume_stopped(was_running, done);
    };
    if (!active_) {
        return resume({});
    }
    restored_ = std::move(resume);
    qmp_.execute("migrate_cancel", json::object(), [](const Result<json>&) {}); // its end comes as an event
}

void QemuDriver::resume_stopped(bool was_running, const Done& done) {
    qmp_.execute("query-status", json::object(), [this, was_running, done](Result<json> answer) {
        if (!answer) {
            return done(std::unexpected(std::move(answer.error())));
        }
        const auto status = text_at(*answer, "status");
        // It has said `completed` and is about to be postmigrate; before that it refuses `cont`.
        if (status == "finish-migrate" && succeeded_) {
            return resume_stopped(was_running, done);
        }
        // Only what a migration leaves behind is undone; a guest that stands still for another reason stays so.
        if (was_running && (status == "finish-migrate" || status == "postmigrate")) {
            return run(done);
        }
        done({});
    });
}

void QemuDriver::start_load(std::function<void(Result<Fd>)> done) {
    auto ends = stream_pair();
    if (!ends) {
        return done(std::unexpected(std::move(ends.error())));
    }
    struct Start {
        Fd ours;
        Fd theirs;
        std::function<void(Result<Fd>)> done;
    };
    auto start = std::make_shared<Start>(
        Start{.ours = std::move(ends->first), .theirs = std::move(ends->second), .done = std::move(done)});
    with_listed_capabilities([this, start](Result<void> listed) {
        if (!listed) {
            return start->done(std::unexpected(std::move(listed.error())));
        }
        const std::string name = "pageferry-" + std::to_string(++streams_);
        give_stream(name, std::move(start->theirs), [](const Result<void>&) {});
        active_ = true;
        loading_ = true;
        succeeded_ = false;
        in_order(
            {capabilities_command({"x-ignore-shared", "late-block-activate", "events"}),
             // QEMU would announce the guest's network cards when it has loaded; the guest may still go on at the source then.
             Command{.name = "migrate-set-parameters", .arguments = {{"announce-rounds", 0}}},
             Command{.name = "migrate-incoming", .arguments = {{"uri", "fd:" + name}}}},
            [this, start](Result<void> started) {
                if (!started) {
                    active_ = false;
                    return start->done(std::unexpected(std::move(started.error())));
                }
                start->done(std::move(start->ours));
            });
    });
}

void QemuDriver::run(Done done) {
    in_order({Command{.name = "cont"}}, std::move(done));
}

void QemuDriver::announce(const monitor::Announce& announce) {
    // The guest runs, whatever becomes of this.
    in_order({Command{.name = "announce-self",
                      .arguments = {{"initial", announce.initial.count()},
                                    {"max", announce.max.count()},
                                    {"rounds", announce.rounds},
                                    {"step", announce.step.count()}}}},
             [](const Result<void>&) {});
}

void QemuDriver::fail_incoming() {
    if (loading_ && (active_ || !succeeded_)) {
        return; // its stream ends with the mover: QEMU sees that itself, or has seen it
    }
    if (loading_) {
        return in_order({Command{.name = "quit"}}, [](const Result<void>&) {}); // it has loaded everything and sees no error
    }
    auto ends = stream_pair();
    if (!ends) {
        return in_order({Command{.name = "quit"}}, [](const Result<void>&) {});
    }
    const std::string name = "pageferry-" + std::to_string(++streams_);
    give_stream(name, std::move(ends->second), [](const Result<void>&) {});
    in_order({Command{.name = "migrate-incoming", .arguments = {{"uri", "fd:" + name}}}}, [](const Result<void>&) {});
}

void QemuDriver::use_settings_of(const monitor::Capabilities& capabilities, const monitor::Parameters& parameters, Done done) {
    with_listed_capabilities([this, &capabilities, &parameters, done = std::move(done)](Result<void> listed) mutable {
        if (!listed) {
            return done(std::move(listed));
        }
        qmp_.execute("query-migrate-parameters", json::object(),
                     [this, &capabilities, &parameters, done = std::move(done)](Result<json> answer) mutable {
                         if (!answer) {
                             return done(std::unexpected(std::move(answer.error())));
                         }
                         in_order({Command{.name = "migrate-set-capabilities",
                                           .arguments = {{"capabilities", capabilities.for_qemu(listed_)}}},
                                   Command{.name = "migrate-set-parameters", .arguments = parameters.for_qemu(*answer)}},
                                  std::move(done));
                     });
    });
}

} // namespace pageferry::hypervisor
