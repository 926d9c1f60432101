#include "pipeline/bounded_queue.h"

#include <gtest/gtest.h>

#include <thread>

namespace rfseg {
namespace {

TEST(BoundedQueue, KeepsOrderAndNeverHoldsMoreThanItsCapacity) {
  BoundedQueue<int> queue(3);
  std::thread producer([&] {
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(queue.push(i));
    queue.close();
  });
  int expected = 0;
  while (const auto item = queue.pop()) EXPECT_EQ(*item, expected++);
  producer.join();
  EXPECT_EQ(expected, 1000);
  EXPECT_LE(queue.max_depth(), 3u);
  EXPECT_GE(queue.max_depth(), 1u);
}

TEST(BoundedQueue, CloseLetsTheRestOutAndRefusesMore) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.push(1));
  queue.close();
  EXPECT_FALSE(queue.push(2));
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_EQ(queue.pop(), std::nullopt);
}

TEST(BoundedQueue, AbortWakesAWaitingProducer) {
  BoundedQueue<int> queue(1);
  EXPECT_TRUE(queue.push(1));
  bool taken = true;
  std::thread producer([&] { taken = queue.push(2); });
  queue.abort();
  producer.join();
  EXPECT_FALSE(taken);
  EXPECT_EQ(queue.pop(), std::nullopt);
}

TEST(BoundedQueue, PopUntilGivesUpAtTheDeadline) {
  BoundedQueue<int> queue(1);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  EXPECT_EQ(queue.pop_until(deadline), std::nullopt);
  EXPECT_GE(std::chrono::steady_clock::now(), deadline);
}

}  // namespace
}  // namespace rfseg
