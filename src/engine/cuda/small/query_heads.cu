#include "engine/cuda/small/boxes.h"
#include "engine/cuda/small/query_cluster.h"
#include "engine/cuda/small/query_layer.h"

// Boxes and class logits of the decoder's last rows. Block i of a cluster has 32 columns of the
// boxes' first two products and 16 classes, whose product is done while rows are under way between
// the blocks; the boxes' four columns every block computes. All weights, 46 KB, are on their way
// before the previous kernel has ended.

namespace rfseg::cuda {
namespace query {
namespace {

constexpr int kClasses = kMostHeadClasses / kBlocks;  // of a block
constexpr int kHeadBox0At = 0, kHeadBox1At = kOwn * kPitch, kHeadBox2At = 2 * kOwn * kPitch;
constexpr int kHeadClassesAt = kHeadBox2At + 8 * kPitch;
constexpr int kHeadTeamAt = kHeadClassesAt + kClasses * kPitch;
// Of a team, from there on.
constexpr int kHeadSumsAt = 3 * kRowBytes;  // behind rows, three times
constexpr int kHeadBoxesAt = kHeadSumsAt + kWarps * 512;
constexpr int kHeadBoxes = 2, kHeadTeamBytes = kHeadBoxesAt + 16;
constexpr int head_bytes(int teams) { return kHeadTeamAt + teams * kHeadTeamBytes; }

template <int kTeams>
RFSEG_DEVICE void heads_body(const QueryHeadsArguments& a, void* shared) {
  const int rank = cluster_rank(), thread = team_thread<kTeams>(), local = thread / 16;
  std::byte* own =
      static_cast<std::byte*>(shared) + kHeadTeamAt + team_index<kTeams>() * kHeadTeamBytes;
  auto* boxes = reinterpret_cast<MailBox*>(own + kHeadBoxesAt);
  if (thread == 0) {
    RFSEG_UNROLL
    for (int i = 0; i < kHeadBoxes; ++i) open_box(boxes + i, handed_bytes());
  }
  warp_sync();
  greet_cluster();
  release_next_kernel();
  const SharedAddress start = shared_address(shared);
  const auto copy_own = [&](int to, const QueryProduct& p, int first, int rows) {
    copy_rows<kTeams>(start + static_cast<uint32_t>(to), kPitch,
                      static_cast<const std::byte*>(p.weight) + int64_t{first} * kWidth * 2,
                      kWidth * 2, rows, 32);
  };
  copy_own(kHeadBox0At, a.box[0], rank * kOwn, kOwn);
  copy_own(kHeadBox1At, a.box[1], rank * kOwn, kOwn);
  copy_own(kHeadBox2At, a.box[2], 0, 4);
  const int first_class = rank * kClasses, classes = a.count - first_class;
  if (classes > 0) {
    copy_own(kHeadClassesAt, a.classes, first_class, classes < kClasses ? classes : kClasses);
  }
  const int col = rank * kOwn + thread_index() % 16 * 2;
  const Pair bias0 = load_pair(a.box[0].bias + col), bias1 = load_pair(a.box[1].bias + col);
  float delta[4];
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) delta[i] = a.box[2].bias[i];
  const int own_class = thread_index() % 16;
  float logit = own_class < classes ? a.classes.bias[first_class + own_class] : 0.0f;
  const int first_row = (block_x() / kBlocks * kTeams + team_index<kTeams>()) * kRows;
  const auto known = [&](int r) { return first_row + r < a.rows ? first_row + r : a.rows - 1; };
  const int row = known(local);
  const bool active = first_row + local < a.rows;
  await_previous_kernel();

  RFSEG_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int r = thread / 32 + 8 * i, chunk = thread % 32;
    copy_async_16(
        shared_address(own) + static_cast<uint32_t>(r * kPitch + chunk * 16),
        static_cast<const std::byte*>(a.hs) + int64_t{known(r)} * kWidth * 2 + chunk * 16);
  }
  copy_async_commit();
  const Box reference = box_at(a.references + int64_t{row} * 4);
  copy_async_wait<0>();
  block_sync();
  meet_cluster();

  auto* sums = reinterpret_cast<float*>(own + kHeadSumsAt);
  const auto rows_at = [&](int i) { return own + i * kRowBytes; };
  const auto hand_on = [&](std::byte* to, MailBox* box, const Pair& bias) {
    const Pair v = own_sums<kTeams>(sums, kOwn / 8, 2);
    hand_over<kTeams>(to, box, {relu(v.x + bias.x), relu(v.y + bias.y)});
  };
  const auto weights = [&](int at) { return start + static_cast<uint32_t>(at); };
  multiply_tiles<kTeams>(shared_address(rows_at(0)), weights(kHeadBox0At), kOwn / 8, sums);
  hand_on(rows_at(1), boxes, bias0);
  constexpr int kTiles = kClasses / 8;
  multiply_tiles<kTeams>(shared_address(rows_at(0)), weights(kHeadClassesAt), kTiles, sums);
  {
    const float* from =
        sums + own_class / 8 * 128 + place_in_tile(local, own_class / 2 * 2) + own_class % 2;
    for (int part = 0; part < parts_of(kTiles); ++part) logit += from[part * kTiles * 128];
  }
  if (active && own_class < classes) {
    a.logits[int64_t{row} * a.count + first_class + own_class] = logit;
  }
  block_sync();  // sums are read
  await_mail(boxes);
  multiply_tiles<kTeams>(shared_address(rows_at(1)), weights(kHeadBox1At), kOwn / 8, sums);
  hand_on(rows_at(2), boxes + 1, bias1);
  await_mail(boxes + 1);
  multiply_tiles<kTeams>(shared_address(rows_at(2)), weights(kHeadBox2At), 1, sums);
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) {
    RFSEG_UNROLL
    for (int part = 0; part < 4; ++part) {
      delta[i] += sums[part * 128 + place_in_tile(local, i / 2 * 2) + i % 2];
    }
  }
  const Box box = refine(delta, reference);
  if (rank == 0 && active && thread_index() % 16 < 4) {
    a.boxes[int64_t{row} * 4 + thread_index() % 16] = pick(box, thread_index() % 16);
  }
}

}  // namespace
}  // namespace query

void query_heads(const Queue& queue, Math, const QueryHeadsArguments& a) {
  query::with_teams(a.rows, [&](auto teams) {
    constexpr int kTeams = teams.value;
    launch_cluster<query::heads_body<kTeams>, kTeams * query::kThreads, 2 / kTeams>(
        queue, {query::blocks_for(a.rows, kTeams), 1}, query::kBlocks, query::head_bytes(kTeams),
        a);
  });
}

}  // namespace rfseg::cuda
