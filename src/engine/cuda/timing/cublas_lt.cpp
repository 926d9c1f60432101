#include "engine/cuda/timing/cublas_lt.h"

#if __has_include(<cublasLt.h>)

#include <cublasLt.h>
#include <dlfcn.h>

#include <map>
#include <tuple>
#include <vector>

namespace rfseg::cuda {

struct CublasLt::Library {
  void* handle = nullptr;  ///< stays open: the library does not like to be closed
  cublasLtHandle_t lt = nullptr;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmul) matmul;
  Buffer workspace{Buffer::Kind::kDevice};
  static constexpr std::size_t kWorkspace = 32 << 20;

  struct Plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    std::vector<cublasLtMatmulHeuristicResult_t> algorithms;
  };
  std::map<std::tuple<int, int, int, int>, Plan> plans;
};

CublasLt::CublasLt() : library_(std::make_unique<Library>()) {
  Library& l = *library_;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so",
                           "/usr/local/cuda/lib64/libcublasLt.so"}) {
    l.handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (l.handle != nullptr) break;
  }
  if (l.handle == nullptr) {
    missing_ = "libcublasLt not found; LD_LIBRARY_PATH tells where it lies";
    return;
  }
  const auto take = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(l.handle, name));
    if (function == nullptr) missing_ = std::string("libcublasLt has no ") + name;
  };
  take(l.create, "cublasLtCreate");
  take(l.desc_create, "cublasLtMatmulDescCreate");
  take(l.desc_set, "cublasLtMatmulDescSetAttribute");
  take(l.layout_create, "cublasLtMatrixLayoutCreate");
  take(l.layout_set, "cublasLtMatrixLayoutSetAttribute");
  take(l.preference_create, "cublasLtMatmulPreferenceCreate");
  take(l.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  take(l.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  take(l.matmul, "cublasLtMatmul");
  if (!missing_.empty()) return;
  if (l.create(&l.lt) != CUBLAS_STATUS_SUCCESS) missing_ = "cublasLtCreate failed";
  l.workspace.reserve(Library::kWorkspace);
}

CublasLt::~CublasLt() = default;

bool CublasLt::multiply(cudaStream_t stream, int m, int n, int k, const void* a, const void* b,
                        void* out, int algorithm, int batch) {
  if (!missing_.empty()) return false;
  Library& l = *library_;
  const auto [found, fresh] = l.plans.try_emplace({m, n, k, batch});
  Library::Plan& p = found->second;
  if (fresh) {
    // Column by column the same memory is out^T = (b^T)^T a^T.
    const cublasOperation_t transpose = CUBLAS_OP_T;
    l.desc_create(&p.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    l.desc_set(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose);
    const auto size = [](int v) { return static_cast<uint64_t>(v); };
    l.layout_create(&p.a, CUDA_R_16F, size(k), size(n), k);
    l.layout_create(&p.b, CUDA_R_16F, size(k), size(m), k);
    l.layout_create(&p.c, CUDA_R_16F, size(n), size(m), n);
    const auto repeat = [&](cublasLtMatrixLayout_t layout, int64_t step) {
      l.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
      l.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step);
    };
    repeat(p.a, int64_t{n} * k);
    repeat(p.b, int64_t{m} * k);
    repeat(p.c, int64_t{m} * n);
    cublasLtMatmulPreference_t preference;
    l.preference_create(&preference);
    const std::size_t workspace = Library::kWorkspace;
    l.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                     sizeof workspace);
    constexpr int kMost = 4;
    p.algorithms.resize(kMost);
    int count = 0;
    l.heuristic(l.lt, p.desc, p.a, p.b, p.c, p.c, preference, kMost, p.algorithms.data(), &count);
    p.algorithms.resize(static_cast<std::size_t>(count));
  }
  if (algorithm >= static_cast<int>(p.algorithms.size())) return false;
  const float one = 1, zero = 0;
  return l.matmul(l.lt, p.desc, &one, b, p.a, a, p.b, &zero, out, p.c, out, p.c,
                  &p.algorithms[static_cast<std::size_t>(algorithm)].algo, l.workspace.data(),
                  Library::kWorkspace, stream) == CUBLAS_STATUS_SUCCESS;
}

}  // namespace rfseg::cuda

#else

namespace rfseg::cuda {

struct CublasLt::Library {};
CublasLt::CublasLt() : missing_("this program was built without cublasLt.h") {}
CublasLt::~CublasLt() = default;
bool CublasLt::multiply(cudaStream_t, int, int, int, const void*, const void*, void*, int, int) {
  return false;
}

}  // namespace rfseg::cuda

#endif
