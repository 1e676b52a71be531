// A first-in-first-out queue of fixed capacity: all its memory is taken when it is made.
//
// Threads: one at a time; the owner locks.
#pragma once

#include <cstddef>
#include <vector>

namespace pageferry::plugin {

template <class T>
class Ring {
public:
    explicit Ring(std::size_t capacity) : items_(capacity) {}

    [[nodiscard]] bool empty() const { return size_ == 0; }
    [[nodiscard]] bool full() const { return size_ == items_.size(); }
    [[nodiscard]] std::size_t size() const { return size_; }
    // The i-th from the front; i < size().
    [[nodiscard]] T& at(std::size_t i) { return items_[(first_ + i) % items_.size()]; }
    [[nodiscard]] T& front() { return at(0); }
    // Not empty.
    [[nodiscard]] T& back() { return at(size_ - 1); }
    // Not full.
    void push(const T& item) {
        items_[(first_ + size_) % items_.size()] = item;
        ++size_;
    }
    // Not empty.
    T pop() {
        T item = items_[first_];
        first_ = (first_ + 1) % items_.size();
        --size_;
        return item;
    }
    void clear() { size_ = 0; }

private:
    std::vector<T> items_;
    std::size_t first_ = 0;
    std::size_t size_ = 0;
};

} // namespace pageferry::plugin
