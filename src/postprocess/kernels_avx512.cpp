#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define RFSEG_KERNEL_ISA avx512
#if defined(__clang__)
#define RFSEG_KERNEL_TARGET \
  __attribute__((target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl")))
#else
#define RFSEG_KERNEL_TARGET \
  __attribute__((           \
      target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#endif
#define RFSEG_KERNEL_NAME "avx512"
#include "postprocess/kernels.inc"
#endif
