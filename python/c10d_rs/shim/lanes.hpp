// Threads that complete works.
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

// Threads (lanes) that complete works which have a future or a callback. The library's own threads do not complete such
// works, because callbacks may take the GIL, wait, or start other works. Works that a callback on one lane starts are
// completed by the next lane, so the callback may wait for them.
class Lanes {
 public:
  // The lanes of this process. A forked child has no threads of its parent, so it gets its own lanes.
  static Lanes& here() {
    static std::atomic<Lanes*> lanes{nullptr};
    Lanes* found = lanes.load();
    while (!found || found->owner_ != getpid()) {
      auto* fresh = new Lanes;  // it is never freed
      if (lanes.compare_exchange_strong(found, fresh)) return *fresh;
      delete fresh;
    }
    return *found;
  }

  static size_t depth() { return depth_; }

  void push(size_t lane, std::function<void()> job) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (over_) {
      // The interpreter ends, so the job does not run. It is never freed, because that may need the GIL.
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

  // Starts no more jobs, and waits up to `limit` for those that are running.
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
