#include "engine/cuda/small/boxes.h"
#include "engine/cuda/small/elements.h"
#include "engine/cuda/small/query_cluster.h"
#include "engine/cuda/small/query_layer.h"

// The decoder's start: boxes of the chosen cells, their sine embedding, positions of the queries,
// and the first layer's queries, keys and values. All weights of a block, 139 KB, are on their way
// before the previous kernel has ended.

namespace rfseg::cuda {
namespace query {
namespace {

constexpr int kSine = 2 * kWidth, kSinePitch = kSine * 2 + 16;

constexpr int kBox0At = 0, kBox1At = kOwn * kPitch, kBox2At = 2 * kOwn * kPitch;
constexpr int kPosition0At = kBox2At + 8 * kPitch;
constexpr int kPosition1At = kPosition0At + kOwn * kSinePitch;
constexpr int kNextWeightsAt = kPosition1At + kOwn * kPitch;
constexpr int kStartTeamAt = kNextWeightsAt + kNextBytes;
// Of a team, from there on. The last product's sums lie where the embedding was.
constexpr int kFirstRowsAt = 0, kMoreRowsAt = kRowBytes, kContentAt = 2 * kRowBytes;
constexpr int kSineAt = kContentAt + kRowBytes;
constexpr int kSumsAt = kSineAt + kRows * kSinePitch;
constexpr int kStartBoxesAt = kSumsAt + kWarps * 512;
constexpr int kStartBoxes = 5, kStartTeamBytes = kStartBoxesAt + 48;
constexpr int start_bytes(int teams) { return kStartTeamAt + teams * kStartTeamBytes; }
static_assert(start_bytes(2) <= kMostShared && kNextSumBytes <= kRows * kSinePitch);

template <int kTeams>
RFSEG_DEVICE void start_body(const QueryStartArguments& a, void* shared) {
  const int rank = cluster_rank(), thread = team_thread<kTeams>(), local = thread / 16;
  std::byte* own =
      static_cast<std::byte*>(shared) + kStartTeamAt + team_index<kTeams>() * kStartTeamBytes;
  auto* boxes = reinterpret_cast<MailBox*>(own + kStartBoxesAt);
  if (thread == 0) {
    RFSEG_UNROLL
    for (int i = 0; i < kStartBoxes; ++i) {
      open_box(boxes + i, handed_bytes(i == 2 ? kSine : kWidth));
    }
  }
  warp_sync();
  greet_cluster();
  release_next_kernel();
  const SharedAddress start = shared_address(shared), of_team = shared_address(own);
  auto* sums = reinterpret_cast<float*>(own + kSumsAt);
  std::byte* rows = own + kFirstRowsAt;
  std::byte* more_rows = own + kMoreRowsAt;
  const auto copy_own = [&](int to, const QueryProduct& p, int columns) {
    copy_rows<kTeams>(start + static_cast<uint32_t>(to), columns * 2 + 16,
                      static_cast<const std::byte*>(p.weight) + int64_t{rank} * kOwn * columns * 2,
                      columns * 2, kOwn, columns / 8);
  };
  copy_own(kBox0At, a.box[0], kWidth);
  copy_own(kBox1At, a.box[1], kWidth);
  copy_rows<kTeams>(start + kBox2At, kPitch, a.box[2].weight, kWidth * 2, 4, 32);
  copy_own(kPosition0At, a.position[0], kSine);
  copy_own(kPosition1At, a.position[1], kWidth);
  copy_next<kTeams>(start + kNextWeightsAt, a.next.weight);
  const int col = rank * kOwn + thread_index() % 16 * 2;
  const Pair bias0 = load_pair(a.box[0].bias + col), bias1 = load_pair(a.box[1].bias + col);
  const Pair bias2 = load_pair(a.position[0].bias + col);
  const Pair bias3 = load_pair(a.position[1].bias + col);
  Pair next_bias[3];
  load_next_bias(next_bias, a.next.bias);
  const int count = a.batch * a.queries,
            first_row = (block_x() / kBlocks * kTeams + team_index<kTeams>()) * kRows;
  const auto known = [&](int r) { return first_row + r < count ? first_row + r : count - 1; };
  const int row = known(local);
  const bool active = first_row + local < count;
  const int query = row % a.queries;
  // A thread has 16 columns of a row of the learned queries, as halves for the values.
  RFSEG_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int at = thread_index() % 16 * 16 + i * 8;
    float v[8];
    read8(a.content + int64_t{query} * kWidth + at, v);
    write8(reinterpret_cast<__half*>(own + kContentAt + local * kPitch) + at, v);
  }
  const Pair content = load_pair(a.content + int64_t{query} * kWidth + col);
  // Two pairs of the embedding: 64 of its columns are this block's.
  const int pair = rank % 2 * 32 + thread_index() % 16 * 2;
  const float periods[2] = {period_of(pair, kWidth), period_of(pair + 1, kWidth)};
  const Box learned = box_at(a.learned + int64_t{query} * 4);
  float delta[4];
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) delta[i] = a.box[2].bias[i];
  meet_cluster();
  await_previous_kernel();

  RFSEG_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int r = thread / 32 + 8 * i, chunk = thread % 32;
    copy_async_16(of_team + static_cast<uint32_t>(kFirstRowsAt + r * kPitch + chunk * 16),
                  static_cast<const std::byte*>(a.cells) + int64_t{a.rows[known(r)]} * kWidth * 2 +
                      chunk * 16);
  }
  copy_async_commit();
  const int cell = a.chosen[row];
  const Box proposal = box_at(a.proposals + int64_t{cell < 0 ? 0 : cell} * 4);
  copy_async_wait<0>();
  block_sync();

  const auto hand_on = [&](std::byte* to, MailBox* box, const Pair& bias) {
    const Pair v = own_sums<kTeams>(sums, kOwn / 8, 2);
    hand_over<kTeams>(to, box, {relu(v.x + bias.x), relu(v.y + bias.y)});
    await_mail(box);
  };
  multiply_tiles<kTeams>(of_team + kFirstRowsAt, start + kBox0At, kOwn / 8, sums);
  hand_on(more_rows, boxes, bias0);
  multiply_tiles<kTeams>(of_team + kMoreRowsAt, start + kBox1At, kOwn / 8, sums);
  hand_on(rows, boxes + 1, bias1);
  // The boxes' four columns: every block computes all of them.
  multiply_tiles<kTeams>(of_team + kFirstRowsAt, start + kBox2At, 1, sums);
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) {
    RFSEG_UNROLL
    for (int part = 0; part < 4; ++part) {
      delta[i] += sums[part * 128 + place_in_tile(local, i / 2 * 2) + i % 2];
    }
  }
  const Box box = reference_of(learned, delta, cell < 0, proposal);
  if (rank == 0 && active && thread_index() % 16 < 4) {
    a.references[int64_t{row} * 4 + thread_index() % 16] = pick(box, thread_index() % 16);
  }
  {
    const float number = embedded(box, rank / 2);
    uint32_t sines[2];
    RFSEG_UNROLL
    for (int i = 0; i < 2; ++i) {
      const float angle = angle_of(number, periods[i]);
      sines[i] = pack_halves(sinf(angle), cosf(angle));
    }
    hand_over_words<kTeams>(own + kSineAt, boxes + 2, sines);
  }
  await_mail(boxes + 2);
  multiply_tiles<kTeams, kSine>(of_team + kSineAt, start + kPosition0At, kOwn / 8, sums);
  hand_on(more_rows, boxes + 3, bias2);
  multiply_tiles<kTeams>(of_team + kMoreRowsAt, start + kPosition1At, kOwn / 8, sums);
  Pair position = own_sums<kTeams>(sums, kOwn / 8, 2);
  position = {position.x + bias3.x, position.y + bias3.y};
  hand_over<kTeams>(rows, boxes + 4, {content.x + position.x, content.y + position.y});
  if (active) {
    *reinterpret_cast<Pair*>(a.position_out + int64_t{row} * kWidth + col) = position;
    *reinterpret_cast<Pair*>(a.x + int64_t{row} * kWidth + col) = content;
  }
  await_mail(boxes + 4);
  project_next<kTeams>(of_team + kFirstRowsAt, of_team + kContentAt, start + kNextWeightsAt,
                       next_bias, reinterpret_cast<float*>(own + kSineAt), a.qkv, row, active);
}

}  // namespace
}  // namespace query

void query_start(const Queue& queue, Math, const QueryStartArguments& a) {
  const int rows = a.batch * a.queries;
  query::with_teams(rows, [&](auto teams) {
    constexpr int kTeams = teams.value;
    launch_cluster<query::start_body<kTeams>, kTeams * query::kThreads>(
        queue, {query::blocks_for(rows, kTeams), 1}, query::kBlocks, query::start_bytes(kTeams), a);
  });
}

}  // namespace rfseg::cuda
