// Threads that say that works are over.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using Millis = std::chrono::milliseconds;

// Works for whose end somebody left word are completed on these threads, never on the library's own: callbacks may take
// the GIL, wait, or start other works. A callback's own works are completed by the next thread, so it may wait for them.
class Lanes {
 public:
  // A forked child has none of its parent's threads, and begins anew.
  static Lanes& here() {
    static std::atomic<Lanes*> lanes{nullptr};
    Lanes* found = lanes.load();
    while (!found || found->owner_ != getpid()) {
      auto* fresh = new Lanes;  // stays as long as the process
      if (lanes.compare_exchange_strong(found, fresh)) return *fresh;
      delete fresh;
    }
    return *found;
  }

  static size_t depth() { return depth_; }

  void push(size_t lane, std::function<void()> job) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (over_) {
      // The interpreter goes away, and nobody is to be told any more. The job keeps what it has for ever.
      new std::function<void()>(std::move(job));
      return;
    }
    while (queues_.size() <= lane) queues_.push_back(std::make_unique<Queue>());
    auto& queue = *queues_[lane];
    queue.jobs.push_back(std::move(job));
    if (!queue.running) {
      queue.running = true;
      std::thread([this, lane, &queue] { serve(lane, queue); }).detach();
    }
    queue.changed.notify_one();
  }

  // No job is begun any more; waits a little for those that run.
  void end(Millis limit) {
    std::unique_lock<std::mutex> lock(mutex_);
    over_ = true;
    idle_.wait_for(lock, limit, [this] { return busy_ == 0; });
  }

 private:
  struct Queue {
    std::deque<std::function<void()>> jobs;
    std::condition_variable changed;
    bool running = false;
  };

  void serve(size_t lane, Queue& queue) {
    depth_ = lane + 1;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      queue.changed.wait(lock, [&] { return !queue.jobs.empty() && !over_; });
      auto job = std::move(queue.jobs.front());
      queue.jobs.pop_front();
      ++busy_;
      lock.unlock();
      job();
      job = nullptr;
      lock.lock();
      if (--busy_ == 0) idle_.notify_all();
    }
  }

  const pid_t owner_ = getpid();
  std::mutex mutex_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::condition_variable idle_;
  size_t busy_ = 0;
  bool over_ = false;
  static thread_local size_t depth_;
};

thread_local size_t Lanes::depth_ = 0;

}  // namespace
