#pragma once

// What blocks of a cluster tell each other: stores into another block's shared memory that count
// on a barrier there, for which that block waits. A barrier of the whole cluster would first wait
// for everything that each thread has under way in any memory; this waits for what is sent alone.
//
// A box receives once. One thread opens the block's boxes, saying how many bytes will come; then
// every thread calls greet_cluster(), and meet_cluster() before it sends. That a place may be
// written again is the sender's business: whoever has sent something has read all that he had to
// read before.

#include "core/cuda/tensor_core.h"

namespace rfseg::cuda {

using MailBox = uint64_t;

struct Pair {
  float x, y;
};

#if !defined(RFSEG_SIMT_EMULATION) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

RFSEG_DEVICE void open_box(MailBox* box, int bytes) {
  const SharedAddress at = shared_address(box);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
               : "memory");
  // Without it compute-sanitizer's racecheck takes the two for a race.
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/// Tells the cluster that this thread has begun; meet_cluster() waits for all.
RFSEG_DEVICE void greet_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
RFSEG_DEVICE void meet_cluster() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }

RFSEG_DEVICE SharedAddress address_of_peer(SharedAddress at, int rank) {
  SharedAddress remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(at), "r"(rank));
  return remote;
}
/// Stores `v` to where block `rank` has `to`, and counts it on its `box`.
RFSEG_DEVICE void send(void* to, MailBox* box, int rank, const Quad& v) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(address_of_peer(shared_address(to), rank)),
      "r"(v.word[0]), "r"(v.word[1]), "r"(v.word[2]), "r"(v.word[3]),
      "r"(address_of_peer(shared_address(box), rank))
      : "memory");
}
RFSEG_DEVICE void send(void* to, MailBox* box, int rank, const Pair& v) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
          address_of_peer(shared_address(to), rank)),
      "f"(v.x), "f"(v.y), "r"(address_of_peer(shared_address(box), rank))
      : "memory");
}
/// Waits until all bytes have come.
RFSEG_DEVICE void await_mail(MailBox* box) {
  const SharedAddress at = shared_address(box);
  uint32_t all = 0;
  while (all == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(all)
        : "r"(at)
        : "memory");
  }
}

/// Waits until what `v` has been computed from is loaded from shared memory. A load that is merely
/// issued may still wait for its turn when a barrier has been passed, of the block or of the
/// cluster, and mail that comes to its place overtakes it.
RFSEG_DEVICE void await_loads(uint32_t v) {
  // Needs the value, and does nothing whatever it is.
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.eq.u32 p, %0, 0xffffffff;\n"
      "@p nanosleep.u32 0;\n}\n" ::"r"(v)
      : "memory");
}

#else  // every wait is one for the whole cluster; without clusters for the block

RFSEG_DEVICE void open_box(MailBox*, int) {}
RFSEG_DEVICE void greet_cluster() {}
RFSEG_DEVICE void meet_cluster() { cluster_sync(); }
template <class T>
RFSEG_DEVICE void send(void* to, MailBox*, int rank, const T& v) {
  *cluster_peer(static_cast<T*>(to), rank) = v;
}
RFSEG_DEVICE void await_mail(MailBox*) { cluster_sync(); }
RFSEG_DEVICE void await_loads(uint32_t) {}

#endif

}  // namespace rfseg::cuda
