#include "tests/unit/engine/postcopy_pair.h"

#include "memory/fault_probe.h"
#include "memory/page_map_layout.h"

#include <nlohmann/json.hpp>

#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <numeric>
#include <thread>

namespace pageferry::engine::testing {

using memory::testing::HypervisorProcess;
using statemachine::Cause;
using statemachine::Status;

std::vector<std::string> taken(statemachine::EventQueue& events) {
    std::vector<std::string> names;
    while (auto event = events.take()) {
        names.emplace_back(statemachine::name_of(event->to));
    }
    return names;
}

bool soon(const std::function<bool()>& holds) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes{2};
    while (!holds()) {
        if (std::chrono::steady_clock::now() > limit) {
            return false;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
    return true;
}

std::vector<std::string> traced(const std::string& scenario, const std::string& side) {
    std::ifstream file{PAGEFERRY_SOURCE_DIR "/tests/data/qemu-11.1-traces.json"};
    const auto all = nlohmann::json::parse(file);
    std::vector<std::string> names;
    for (const auto& step : all.at(scenario).at(side)) {
        if (step.value("event", "") == "MIGRATION") {
            names.push_back(step.at("status"));
        }
    }
    return names;
}

std::vector<std::uint64_t> pages(std::uint64_t from, std::uint64_t count) {
    std::vector<std::uint64_t> numbers(count);
    std::iota(numbers.begin(), numbers.end(), from); // NOLINT(modernize-use-ranges): GCC 12 has no std::ranges::iota
    return numbers;
}

void PostcopyPair::SetUp() {
    const bool huge = kind().size != memory::testing::small_pages.size;
    const std::vector<memory::testing::BlockSpec> specs{{.name = "ram0", .pages = huge ? 16U : 2048U},
                                                        {.name = "ram1", .pages = huge ? 8U : 300U}};
    if (huge) {
        reserved_ = std::make_unique<memory::testing::HugePages>(2 * (specs[0].pages + specs[1].pages));
        if (!reserved_->available()) {
            GTEST_SKIP() << "no huge pages can be reserved here";
        }
    }
    const auto probe = huge ? memory::probe_faults_hugetlbfs() : memory::probe_faults_shmem();
    if (!probe || !probe->missing || !probe->minor) {
        GTEST_SKIP() << "this kernel has no such faults";
    }
    auto loaded = transport::load("tcp");
    ASSERT_TRUE(loaded) << loaded.error().to_string();
    tcp_ = source_tcp_ = destination_tcp_ = *loaded;
    options_.session.fill(session);
    options_.dead_peer = std::chrono::seconds{60};
    options_.handshake = std::chrono::seconds{60};
    source_process_ = std::make_unique<HypervisorProcess>(kind(), specs);
    destination_process_ = std::make_unique<HypervisorProcess>(kind(), specs, 2);
    source_guest_ = std::make_unique<FakeSourceGuest>(*source_process_);
    std::vector<memory::RamBlockInfo> infos;
    for (const auto* block : destination_process_->blocks()) {
        infos.push_back(block->info());
    }
    page_map_file_ = Fd{::memfd_create("pageferry-test-pages", MFD_CLOEXEC)};
    ASSERT_EQ(::ftruncate(page_map_file_.get(), static_cast<off_t>(memory::page_map_bytes(infos))), 0);
    destination_guest_.on_drop = [this] {
        for (std::size_t block = 0; block < 2; ++block) {
            destination_process_->drop(block, 0, pages_of(block));
        }
        missing_at_first_ = missing_bytes();
        return Result<void>{};
    };
    destination_guest_.on_run = [this] {
        ++runs_;
        if (on_run_) {
            on_run_();
        }
        return Result<void>{};
    };
    ASSERT_TRUE(source_machine_.transition(Status::setup, Cause::requested));
    ASSERT_TRUE(destination_machine_.transition(Status::setup, Cause::requested));
    make_destination();
}

void PostcopyPair::TearDown() {
    if (source_done_.valid()) {
        source_ ? source_->cancel() : void();
        recovery_ ? recovery_->cancel() : void();
        source_done_.wait();
    }
    if (destination_done_.valid()) {
        destination_->cancel();
        destination_done_.wait();
    }
    // Whoever waits for a page in there is killed with its process.
    destination_.reset();
}

void PostcopyPair::fill_source() {
    for (std::size_t block = 0; block < 2; ++block) {
        source_process_->write(block, pages(0, touched_of(block)));
    }
}

void PostcopyPair::leave_for_postcopy(std::vector<std::vector<std::uint64_t>> of_blocks) {
    source_guest_->on_start_save = [this, of_blocks = std::move(of_blocks)] {
        source_->start_postcopy();
        for (std::size_t block = 0; block < of_blocks.size(); ++block) {
            source_process_->write(block, of_blocks[block]);
        }
    };
}

void PostcopyPair::leave_all_for_postcopy() {
    leave_for_postcopy({pages(0, touched_of(0)), pages(0, touched_of(1))});
}

PostcopyMeans PostcopyPair::means(const std::vector<memory::RamBlock>& blocks) {
    std::vector<memory::RamBlockInfo> infos;
    infos.reserve(blocks.size());
    for (const auto& block : blocks) {
        infos.push_back(block.info());
    }
    auto map = memory::PageMap::map(infos, page_map_file_);
    EXPECT_TRUE(map) << map.error().to_string();
    auto faults = memory::FaultRegions::make(destination_process_->faults(), blocks);
    EXPECT_TRUE(faults) << faults.error().to_string();
    return {.pages = std::move(*map), .faults = std::move(*faults), .vcpu_threads = {}};
}

std::uint64_t PostcopyPair::missing_bytes() const {
    std::vector<memory::RamBlockInfo> infos;
    for (const auto* block : destination_process_->blocks()) {
        infos.push_back(block->info());
    }
    return memory::PageMap::map(infos, page_map_file_).value().missing_bytes();
}

void PostcopyPair::make_destination(bool postcopy, std::optional<Unsettled> unsettled) {
    auto blocks = again(*destination_process_);
    std::optional<PostcopyMeans> with;
    if (postcopy) {
        with = means(blocks);
    }
    auto options = options_;
    options.session = {};
    destination_ =
        std::make_unique<Destination>(DestinationConfig{.blocks = std::move(blocks),
                                                        .reception = {.candidates = by(*destination_tcp_, "tcp:127.0.0.1:0"),
                                                                      .options = options,
                                                                      .turned_away =
                                                                          [this](const Error& error) {
                                                                              const std::lock_guard lock{mutex_};
                                                                              turned_away_.push_back(error);
                                                                          }},
                                                        .page = &destination_page_,
                                                        .postcopy = std::move(with),
                                                        .unsettled = unsettled},
                                      destination_guest_, destination_machine_);
    const auto uris = destination_->listen();
    ASSERT_TRUE(uris) << uris.error().to_string();
    uri_ = uris->front();
    relay_ = std::make_unique<Relay>(uri_);
}

void PostcopyPair::start_destination() {
    destination_done_ = std::async(std::launch::async, [this] { return destination_->run(); });
}

void PostcopyPair::make_source(const std::string& uri, bool postcopy, bool pause_before_switchover) {
    auto tracker = memory::make_dirty_tracker(source_process_->handles());
    ASSERT_TRUE(tracker) << tracker.error().to_string();
    source_ = std::make_unique<Source>(SourceConfig{.blocks = again(*source_process_),
                                                    .tracker = std::move(*tracker),
                                                    .peer = {.candidates = by(*source_tcp_, uri), .options = options_},
                                                    .pause_before_switchover = pause_before_switchover,
                                                    .postcopy = postcopy,
                                                    .page = &source_page_,
                                                    .telling = telling_},
                                       *source_guest_, source_machine_);
}

void PostcopyPair::start_source() {
    source_done_ = std::async(std::launch::async, [this] { return source_->run(); });
}

void PostcopyPair::start_slow_postcopy() {
    fill_source();
    leave_all_for_postcopy();
    source_page_.limits.postcopy_bandwidth = 64 << 10;
    start_destination();
    make_source(relay_->uri());
    start_source();
    ASSERT_TRUE(soon([this] { return runs_ == 1 && source_machine_.status() == Status::postcopy_active; }));
}

Recovery& PostcopyPair::make_recovery(const std::string& uri) {
    EXPECT_TRUE(source_machine_.transition(Status::postcopy_recover_setup, Cause::requested));
    auto options = options_;
    options.epoch = ++epoch_;
    recovery_ = std::make_unique<Recovery>(
        RecoveryConfig{.blocks = again(*source_process_),
                       .peer = {.candidates = by(*source_tcp_, uri), .options = options, .connect_timeout = options_.handshake},
                       .page = &source_page_},
        source_machine_);
    return *recovery_;
}

void PostcopyPair::expect_attempt_in_vain(const Result<void>& attempt) {
    EXPECT_FALSE(attempt);
    EXPECT_EQ(source_machine_.status(), Status::postcopy_paused);
    EXPECT_FALSE(source_machine_.error().empty());
}

void PostcopyPair::pause_both() {
    source_->pause();
    EXPECT_FALSE(source_done_.get());
    EXPECT_TRUE(soon([this] { return both_paused(); }));
}

bool PostcopyPair::both_paused() const {
    return source_machine_.status() == Status::postcopy_paused && destination_machine_.status() == Status::postcopy_paused;
}

void PostcopyPair::recover_to_the_end() {
    source_page_.limits.postcopy_bandwidth = 0;
    const auto done = make_recovery(relay_->uri()).run();
    EXPECT_TRUE(done) << done.error().to_string();
    expect_done();
}

void PostcopyPair::expect_done() {
    if (source_done_.valid()) {
        const auto at_source = source_done_.get();
        EXPECT_TRUE(at_source) << at_source.error().to_string();
    }
    const auto at_destination = destination_done_.get();
    EXPECT_TRUE(at_destination) << at_destination.error().to_string();
    EXPECT_EQ(source_machine_.status(), Status::completed);
    EXPECT_EQ(destination_machine_.status(), Status::completed);
    EXPECT_EQ(runs_, 1) << "however often it was permitted";
    EXPECT_EQ(missing_bytes(), 0U);
    EXPECT_EQ(source_page_.progress.ram_remaining, 0U);
}

void PostcopyPair::expect_same_ram() {
    std::vector<std::uint64_t> expected(page_size() / sizeof(std::uint64_t));
    std::size_t wrong = 0;
    for (std::size_t block = 0; block < 2; ++block) {
        for (std::uint64_t page = 0; page < pages_of(block); ++page) {
            std::memcpy(expected.data(), source_process_->block(block).alias() + page * page_size(), page_size());
            if (const auto visit = destination_process_->visit(block, page)) {
                wrong += visit->read == expected[0] ? 0U : 1U;
                expected[1] = visit->wrote;
            }
            const auto* here = destination_process_->block(block).alias() + page * page_size();
            wrong += std::memcmp(expected.data(), here, page_size()) == 0 ? 0U : 1U;
        }
    }
    EXPECT_EQ(wrong, 0U);
}

std::vector<std::string> PostcopyPair::turned_away() {
    const std::lock_guard lock{mutex_};
    std::vector<std::string> texts;
    for (const Error& error : turned_away_) {
        texts.push_back(error.to_string());
    }
    return texts;
}

} // namespace pageferry::engine::testing
