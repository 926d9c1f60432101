#include "pipeline/gpu_yardsticks.h"

#include <memory>
#include <utility>
#include <vector>

#include "core/cuda/device.h"
#include "core/statistics.h"
#include "pipeline/picture_planes.h"

namespace rfseg {

using cuda::Buffer;
using cuda::check;
using cuda::Event;
using cuda::Stream;

namespace {

template <class Work>
double median_us(int rounds, const Stream& stream, const Work& work) {
  const Event before(true), after(true);
  std::vector<double> times;
  for (int i = 0; i < rounds + 3; ++i) {
    check(cudaEventRecord(before, stream), "recording an event");
    work();
    check(cudaEventRecord(after, stream), "recording an event");
    stream.synchronize("timing");
    if (i >= 3) times.push_back(1000.0 * cuda::elapsed_ms(before, after));
  }
  return Distribution::of(std::move(times)).p50;
}

}  // namespace

double copy_us(int device, std::size_t bytes, int rounds) {
  check(cudaSetDevice(device), "choosing the device");
  Buffer from(Buffer::Kind::kPinned), to(Buffer::Kind::kDevice);
  from.reserve(bytes);
  to.reserve(bytes);
  const Stream stream;
  return median_us(rounds, stream, [&] {
    check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyHostToDevice, stream),
          "copying a frame");
  });
}

double network_us(const CudaEngine& engine, int rounds) {
  check(cudaSetDevice(engine.device()), "choosing the device");
  const std::unique_ptr<CudaEngine> own = engine.share();
  own->prepare(1);
  const Stream stream;
  return median_us(rounds, stream, [&] { own->enqueue(1, stream); });
}

void hold_on_device(ImageView& view, HeldPixels& held, int device) {
  check(cudaSetDevice(device), "choosing the device");
  const std::vector<Plane> planes = planes_of(view);
  std::vector<std::size_t> at{0};
  for (const Plane& plane : planes) {
    const std::size_t bytes = plane.row_bytes * static_cast<std::size_t>(plane.rows);
    at.push_back((at.back() + bytes + 255) / 256 * 256);
  }
  auto memory = std::make_shared<Buffer>(Buffer::Kind::kDevice);
  memory->reserve(at.back());
  for (std::size_t p = 0; p < planes.size(); ++p) {
    std::byte* const to = memory->data() + at[p];
    check(cudaMemcpy2D(to, planes[p].row_bytes, view.planes[p],
                       static_cast<std::size_t>(view.strides[p]), planes[p].row_bytes,
                       static_cast<std::size_t>(planes[p].rows), cudaMemcpyHostToDevice),
          "copying a frame");
    view.planes[p] = reinterpret_cast<const uint8_t*>(to);
    view.strides[p] = static_cast<std::ptrdiff_t>(planes[p].row_bytes);
  }
  // Runners' streams do not wait for the default stream, and small copies may be staged.
  check(cudaDeviceSynchronize(), "copying a frame");
  held = {HeldPixels::Place::kDevice, device, nullptr, std::move(memory)};
}

}  // namespace rfseg
