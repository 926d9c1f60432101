#pragma once

// Functions for newer x86 processors are compiled beside the plain ones and chosen at run time.
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define RFSEG_X86_DISPATCH 1
#define RFSEG_AVX2 __attribute__((target("avx2,fma")))
#define RFSEG_AVX512 \
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#else
#define RFSEG_X86_DISPATCH 0
#endif
