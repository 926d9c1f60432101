# Matrix products and attention on the GPU, and the same source on the emulator.
set(products_tests cuda_products_test.cpp product_cases.cpp)
rfseg_add_test(engine_cuda_products SOURCES ${products_tests}
  DEPENDS rfseg_engine CUDA::cudart_static)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND NOT RFSEG_SANITIZE)
  set(products_sources)
  foreach(name gemm fp16 float attention)
    list(APPEND products_sources ${PROJECT_SOURCE_DIR}/src/engine/cuda/portable/${name}.cu)
  endforeach()
  # In this folder they are C++: one thread of the GPU after the other.
  set_source_files_properties(${products_sources} PROPERTIES LANGUAGE CXX
                              COMPILE_OPTIONS "-x;c++;-fno-strict-aliasing")
  rfseg_add_test(engine_products_emulation
    SOURCES ${products_tests} ${products_sources} ../cuda/simt_emulator.cpp ../cuda/fake_runtime.cpp
    DEPENDS rfseg_core)
  target_compile_definitions(test_engine_products_emulation PRIVATE RFSEG_SIMT_EMULATION=1)
endif()
