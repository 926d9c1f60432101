#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define RFSEG_KERNEL_ISA avx2
#define RFSEG_KERNEL_TARGET __attribute__((target("avx2,fma,bmi,bmi2")))
#define RFSEG_KERNEL_NAME "avx2"
#include "postprocess/kernels.inc"
#endif
