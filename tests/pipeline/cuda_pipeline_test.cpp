// The pipeline on a GPU: the same bytes however frames come and however many are in flight.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>

#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "output/results.h"
#include "pipeline/cuda_batch_runner.h"
#include "pipeline/loaded_model.h"
#include "pipeline/pipeline.h"

namespace rfseg {
namespace {

using cuda::Buffer;
using cuda::check;
using Place = HeldPixels::Place;

const std::string kAssets = std::string(RFSEG_SOURCE_DIR) + "/assets/demo/";

/// Bundled photographs cut to size by repetition, each with its number's own noise.
class Pictures {
 public:
  Pictures() {
    for (const char* name : {"000000005001", "000000030213", "000000055299", "000000119828"}) {
      photographs_.push_back(decode_image(kAssets + "images/" + name + ".jpg"));
    }
  }
  Image make(int number, int width, int height) const {
    const Image& from = photographs_[static_cast<std::size_t>(number) % photographs_.size()];
    Image image(width, height);
    std::mt19937 random(static_cast<unsigned>(number));
    const int shift = static_cast<int>(random() % 64);
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width * 3; ++x) {
        const int column = (x + 3 * shift) % (from.width * 3);
        image.pixels[static_cast<std::size_t>(y) * width * 3 + x] =
            from.pixels[static_cast<std::size_t>(y % from.height) * from.width * 3 + column];
      }
    }
    return image;
  }

 private:
  std::vector<Image> photographs_;
};

const Pictures& pictures() {
  static const Pictures all;
  return all;
}

struct Size {
  int width, height;
};
Size size_of(int number, bool mixed) {
  constexpr Size kSizes[] = {{640, 480}, {1280, 720},  {61, 47},
                             {480, 640}, {1919, 1080}, {333, 77}};
  return mixed ? kSizes[static_cast<std::size_t>(number) % std::size(kSizes)] : Size{640, 480};
}

/// I420 or NV12 of a picture, without care for colours: any bytes are a picture.
struct Yuv {
  std::vector<uint8_t> bytes;
  ImageView view;
};
Yuv yuv_of(const Image& image, PixelFormat format) {
  Yuv yuv;
  const int width = image.width, height = image.height;
  const auto half = static_cast<std::size_t>((width + 1) / 2);
  const auto half_rows = static_cast<std::size_t>((height + 1) / 2);
  const std::size_t luma = static_cast<std::size_t>(width) * height;
  yuv.bytes.assign(luma + 2 * half * half_rows, 128);
  for (std::size_t i = 0; i < luma; ++i) yuv.bytes[i] = image.pixels[3 * i + 1];
  yuv.view.width = width;
  yuv.view.height = height;
  yuv.view.format = format;
  yuv.view.planes[0] = yuv.bytes.data();
  yuv.view.strides[0] = width;
  yuv.view.planes[1] = yuv.bytes.data() + luma;
  yuv.view.strides[1] = static_cast<std::ptrdiff_t>(format == PixelFormat::kNv12 ? 2 * half : half);
  if (format == PixelFormat::kI420) {
    yuv.view.planes[2] = yuv.bytes.data() + luma + half * half_rows;
    yuv.view.strides[2] = yuv.view.strides[1];
  }
  return yuv;
}

/// How a source hands its frames over.
struct Handing {
  Place place = Place::kHost;
  bool mixed_sizes = true;
  PixelFormat format = PixelFormat::kRgb8;
  bool late = false;       ///< device: filled after a delay on another stream, told by an event
  bool overwrite = false;  ///< whoever gets the memory back writes nonsense over it at once
  bool every_third_host = false;
};

class Source : public FrameSource {
 public:
  Source(int count, Handing handing) : count_(count), handing_(handing) {
    if (handing.late) delay_.reserve(std::size_t{256} << 20);
  }
  bool next(SourceFrame& frame) override {
    if (at_ == count_) return false;
    const Size size = size_of(at_, handing_.mixed_sizes);
    image_ = pictures().make(at_, size.width, size.height);
    frame.file = "f";
    frame.frame = at_;
    frame.view = image_.view();
    if (handing_.format != PixelFormat::kRgb8) {
      yuv_ = yuv_of(image_, handing_.format);
      frame.view = yuv_.view;
    }
    frame.held = {};
    const bool host = handing_.every_third_host && at_ % 3 == 0;
    if (handing_.place != Place::kHost && !host) hold(frame);
    ++at_;
    return true;
  }

  std::atomic<int> alive{0}, most_alive{0};

 private:
  void hold(SourceFrame& frame) {
    const uint8_t* from =
        handing_.format == PixelFormat::kRgb8 ? image_.pixels.data() : yuv_.bytes.data();
    const std::size_t bytes =
        handing_.format == PixelFormat::kRgb8 ? image_.pixels.size() : yuv_.bytes.size();
    const bool device = handing_.place == Place::kDevice;
    struct Memory {
      Buffer buffer;
      cuda::Event ready;
      std::vector<uint8_t> source;
    };
    auto* memory = new Memory{
        Buffer(device ? Buffer::Kind::kDevice : Buffer::Kind::kPinned), cuda::Event(), {}};
    memory->buffer.reserve(bytes);
    if (!device) {
      std::memcpy(memory->buffer.data(), from, bytes);
    } else if (!handing_.late) {
      cuda::upload(memory->buffer.data(), from, bytes, "copying");
    } else {
      check(cudaMemsetAsync(memory->buffer.data(), 0x5a, bytes, stream_), "clearing");
      stream_.synchronize("clearing");
      memory->source.assign(from, from + bytes);
      check(cudaHostRegister(memory->source.data(), bytes, cudaHostRegisterDefault), "pinning");
      // Some milliseconds of other work first.
      for (int i = 0; i < 40; ++i) {
        check(cudaMemsetAsync(delay_.data(), i, delay_.size(), stream_), "delaying");
      }
      check(cudaMemcpyAsync(memory->buffer.data(), memory->source.data(), bytes,
                            cudaMemcpyHostToDevice, stream_),
            "copying");
      check(cudaEventRecord(memory->ready, stream_), "recording an event");
      frame.held.ready = memory->ready;
    }
    for (int p = 0; p < 3; ++p) {
      if (frame.view.planes[p] == nullptr) continue;
      frame.view.planes[p] =
          reinterpret_cast<const uint8_t*>(memory->buffer.data()) + (frame.view.planes[p] - from);
    }
    frame.held.place = handing_.place;
    const int now = ++alive;
    if (now > most_alive) most_alive = now;
    frame.held.owner = std::shared_ptr<const void>(memory, [this, bytes, device](Memory* m) {
      if (handing_.overwrite) {
        if (device) {
          cudaMemset(m->buffer.data(), 0xff, bytes);
        } else {
          std::memset(m->buffer.data(), 0xff, bytes);
        }
      }
      if (!m->source.empty()) cudaHostUnregister(m->source.data());
      delete m;
      --alive;
    });
  }

  int count_, at_ = 0;
  Handing handing_;
  Image image_;
  Yuv yuv_;
  cuda::Stream stream_;
  Buffer delay_{Buffer::Kind::kDevice};
};

class CudaPipeline : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (!cuda::usable(&why)) GTEST_SKIP() << why;
    resolved_ = resolve(0.3f);
  }
  static LoadedModel& model() {
    static LoadedModel* loaded = [] {
      auto* m = new LoadedModel;
      ModelOptions options;
      options.device = "cuda";
      load_model(kAssets + "model.safetensors", options, *m);
      return m;
    }();
    return *loaded;
  }
  static ResolvedOptions resolve(float threshold) {
    PredictOptions predict;
    predict.threshold = threshold;
    return resolve_options(predict, model().config);
  }

  std::vector<std::string> lines(Source& source, const PipelineOptions& options,
                                 PipelineStats* stats = nullptr) {
    std::vector<ResultRecord> records;  // all are held to the end
    const PipelineStats run =
        run_pipeline(*model().engine, source, resolved_, options, [&](PipelineFrame& frame) {
          EXPECT_EQ(frame.error, "");
          EXPECT_EQ(*frame.record.frame, static_cast<int64_t>(records.size()));
          records.push_back(std::move(frame.record));
        });
    if (stats != nullptr) *stats = run;
    EXPECT_EQ(run.failed, 0);
    std::vector<std::string> text;
    for (const ResultRecord& record : records) {
      text.push_back(to_json_line(record, resolved_.class_names, MaskFormat::kRle));
    }
    return text;
  }
  std::vector<std::string> run(int count, Handing handing, int batch, int depth,
                               PipelineStats* stats = nullptr) {
    Source source(count, handing);
    PipelineOptions options;
    options.batch = batch;
    options.depth = depth;
    const std::vector<std::string> text = lines(source, options, stats);
    EXPECT_EQ(source.alive, 0);
    // Two queues, one batch being filled, one being finished, and the frame that was just read.
    EXPECT_LE(source.most_alive, batch * (depth == 1 ? 1 : depth + 2) + 1);
    return text;
  }

  ResolvedOptions resolved_;
};

TEST_F(CudaPipeline, EveryDepthGivesTheBytesOfOneFrameAtATime) {
  for (const float threshold :
       {0.3f, 0.0f}) {  // with 0, more candidates than one kernel takes alone
    resolved_ = resolve(threshold);
    for (const int batch : {1, 3}) {
      const std::vector<std::string> expected = run(40, {}, batch, 1);
      ASSERT_EQ(expected.size(), 40u);
      EXPECT_NE(expected[1].find("\"counts\""), std::string::npos) << expected[1];
      for (const int depth : {2, 4}) {
        EXPECT_EQ(run(40, {}, batch, depth), expected) << "batch " << batch << ", depth " << depth;
      }
    }
  }
}

TEST_F(CudaPipeline, PinnedAndDeviceFramesGiveTheBytesOfOrdinaryOnes) {
  for (const PixelFormat format : {PixelFormat::kRgb8, PixelFormat::kNv12, PixelFormat::kI420}) {
    Handing handing;
    handing.format = format;
    const std::vector<std::string> expected = run(18, handing, 2, 1);
    for (const Place place : {Place::kPinned, Place::kDevice}) {
      for (const bool some_host : {false, true}) {
        for (const int depth : {1, 3}) {
          handing.place = place;
          handing.every_third_host = some_host;
          handing.overwrite = true;
          EXPECT_EQ(run(18, handing, 2, depth), expected)
              << "format " << static_cast<int>(format) << ", place " << static_cast<int>(place)
              << ", depth " << depth << (some_host ? ", some on the host" : "");
        }
      }
    }
  }
}

TEST_F(CudaPipeline, FramesAreReadNoEarlierThanTheirEventTells) {
  Handing handing;
  const std::vector<std::string> expected = run(12, handing, 1, 1);
  handing.place = Place::kDevice;
  handing.late = true;
  for (const int depth : {1, 2}) EXPECT_EQ(run(12, handing, 1, depth), expected);
}

// Batches of changing sizes use buffers and graphs of one runner in turn, more sizes than it keeps.
TEST_F(CudaPipeline, BatchSizesMayChangeFromBatchToBatch) {
  auto& engine = dynamic_cast<CudaEngine&>(*model().engine);
  RunnerOptions options;
  options.batch = 7;
  const auto run_batch = [&](BatchRunner& runner, int size, int first) {
    std::vector<std::string> text;
    for (int i = 0; i < size; ++i) {
      const Size s = size_of(first + i, true);
      runner.add(pictures().make(first + i, s.width, s.height).view(), {});
    }
    runner.seal();
    runner.infer();
    runner.finish();
    for (int i = 0; i < size; ++i) {
      ResultRecord record;
      record.detections = runner.detections(static_cast<std::size_t>(i));
      text.push_back(to_json_line(record, resolved_.class_names, MaskFormat::kRle));
    }
    runner.clear();
    return text;
  };
  auto kept = std::move(make_cuda_batch_runners(engine, resolved_, options).front());
  for (const int size : {7, 1, 2, 3, 7, 4, 5, 6, 1, 7, 7, 2}) {
    auto fresh = std::move(make_cuda_batch_runners(engine, resolved_, options).front());
    EXPECT_EQ(run_batch(*kept, size, size), run_batch(*fresh, size, size)) << "batch of " << size;
  }
}

TEST_F(CudaPipeline, CompanionsOfABatchDoNotChangeAFrame) {
  RunnerOptions options;
  options.batch = 3;
  auto runner = std::move(make_batch_runners(*model().engine, resolved_, options).front());
  std::string first;
  for (const int companion : {1, 2, 4, 7}) {
    for (const int number : {companion, 5, companion + 1}) {
      const Size s = size_of(number, true);
      runner->add(pictures().make(number, s.width, s.height).view(), {});
    }
    runner->infer();
    runner->finish();
    ResultRecord record;
    record.detections = runner->detections(1);
    runner->clear();
    const std::string line = to_json_line(record, resolved_.class_names, MaskFormat::kRle);
    if (first.empty()) first = line;
    EXPECT_EQ(line, first) << "beside picture " << companion;
  }
}

TEST_F(CudaPipeline, RunsSideBySideKeepTheirOwnSettings) {
  const ResolvedOptions low = resolve(0.05f);
  std::vector<std::string> expected[2], found[2];
  for (int which = 0; which < 2; ++which) {
    resolved_ = which == 0 ? resolve(0.3f) : low;
    expected[which] = run(20, {}, 2, 2);
  }
  EXPECT_NE(expected[0], expected[1]);
  std::vector<std::thread> threads;
  const ResolvedOptions high = resolve(0.3f);
  for (int which = 0; which < 2; ++which) {
    threads.emplace_back([&, which] {
      const ResolvedOptions& mine = which == 0 ? high : low;
      Source source(20, {});
      PipelineOptions options;
      options.batch = 2;
      run_pipeline(*model().engine, source, mine, options, [&](PipelineFrame& frame) {
        found[which].push_back(to_json_line(frame.record, mine.class_names, MaskFormat::kRle));
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(found[0], expected[0]);
  EXPECT_EQ(found[1], expected[1]);
}

TEST_F(CudaPipeline, AFrameIsOneLaunchAndNothingIsUploadedBesidePixels) {
  auto& engine = dynamic_cast<CudaEngine&>(*model().engine);
  auto runner = std::move(make_cuda_batch_runners(engine, resolved_, {}).front());
  CudaBatchRunner::Counters settled;
  for (int i = 0; i < 12; ++i) {
    runner->add(pictures().make(i, 640, 480).view(), {});
    runner->infer();
    runner->finish();
    runner->clear();
    if (i == 3) settled = runner->counters();
  }
  EXPECT_EQ(settled.alone, 1u);
  EXPECT_EQ(runner->counters().alone, 1u);
  EXPECT_EQ(runner->counters().captures, settled.captures);
  EXPECT_EQ(runner->counters().uploads, settled.uploads);
  EXPECT_EQ(runner->counters().launches, 11u);
}

TEST_F(CudaPipeline, TheClockTellsStagesAndWhatIsIdle) {
  Source source(30, Handing{Place::kPinned, false});
  PipelineOptions options;
  options.stage_times = true;
  PipelineStats stats;
  lines(source, options, &stats);
  EXPECT_GT(stats.busy.preprocess_ms, 0);
  EXPECT_GT(stats.busy.network_ms, 0);
  EXPECT_GT(stats.busy.postprocess_ms, 0);
  EXPECT_EQ(stats.gpu.gaps_us.size(), 29u);
  EXPECT_GT(stats.gpu.busy_ms, 0.5 * stats.busy.network_ms / 4);  // at most 4 at once
  EXPECT_LT(stats.gpu.busy_ms, stats.wall_ms);
  EXPECT_GT(gpu_clock_step_ns(0), 0u);
  EXPECT_LT(gpu_clock_step_ns(0), 5000u);
}

TEST_F(CudaPipeline, DeviceMemoryIsFlat) {
  PipelineOptions options;
  options.batch = 2;
  options.memory = true;
  std::size_t growth = 0;
  // The GPU tells what all programs use: another one may have come in between.
  for (int attempt = 0; attempt < 3; ++attempt) {
    Source source(600, Handing{});
    PipelineStats stats;
    lines(source, options, &stats);
    ASSERT_GT(stats.memory.size(), 16u);
    const std::size_t early = stats.memory[stats.memory.size() / 4].device_bytes;
    const std::size_t late = stats.memory.back().device_bytes;
    growth = late > early ? late - early : 0;
    if (growth <= std::size_t{2} << 20) break;
  }
  EXPECT_LE(growth, std::size_t{2} << 20);
}

TEST_F(CudaPipeline, ADeviceFrameBecomesAPictureOnTheHost) {
  Handing handing{Place::kDevice, true, PixelFormat::kNv12};
  Source on_device(3, handing);
  handing.place = Place::kHost;
  Source on_host(3, handing);
  SourceFrame a, b;
  while (on_device.next(a)) {
    ASSERT_TRUE(on_host.next(b));
    EXPECT_EQ(to_rgb(a.view, a.held).pixels, to_rgb(b.view, b.held).pixels);
  }
}

}  // namespace
}  // namespace rfseg
