# The fast CPU engine. Its inner loops are compiled once per instruction set and chosen at run time.
set(engine_cpu_sources
    cpu/cpu_engine.cpp
    cpu/decoder.cpp
    cpu/encoder.cpp
    cpu/gemm.cpp
    cpu/kernels.cpp
    cpu/kernels_avx2.cpp
    cpu/kernels_avx512.cpp
    cpu/kernels_plain.cpp
    cpu/memory.cpp
    cpu/network.cpp
    cpu/projector.cpp
    cpu/segmentation.cpp
    cpu/thread_team.cpp)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set_source_files_properties(cpu/kernels_avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma")
  set_source_files_properties(cpu/kernels_avx512.cpp PROPERTIES COMPILE_OPTIONS
    "-mavx2;-mfma;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # GCC bug 105593: false alarms from its own AVX-512 header.
    set_property(SOURCE cpu/kernels_avx512.cpp APPEND PROPERTY COMPILE_OPTIONS
                 -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
endif()
