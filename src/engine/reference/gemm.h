#pragma once

#include <cstdint>

namespace rfseg::reference {

/// Whether the second factor is used as it lies in memory, or transposed.
enum class Second { kPlain, kTransposed };

/// c[m, n] = a[m, k] * b, row-major, with row strides lda, ldb, ldc in elements: b is [k, n], or
/// [n, k] where it is transposed. c is overwritten and overlaps neither factor. `threads` > 0.
/// Every sum is fp32. The same input gives the same bytes for the same number of threads.
void gemm(Second second, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
          const float* b, int64_t ldb, float* c, int64_t ldc, int threads);

/// The same without any library, on one thread.
void plain_gemm(Second second, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
                const float* b, int64_t ldb, float* c, int64_t ldc);

}  // namespace rfseg::reference
