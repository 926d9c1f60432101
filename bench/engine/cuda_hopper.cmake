# Hopper's products and attention beside cuBLASLt, which only this program links.
if(TARGET CUDA::cublasLt)
  add_executable(bench_engine_cuda_hopper cuda_hopper_bench.cu)
  target_link_libraries(bench_engine_cuda_hopper PRIVATE rfseg_engine rfseg_flags
                                                         CUDA::cudart_static CUDA::cublasLt)
  set_target_properties(bench_engine_cuda_hopper PROPERTIES
                        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
endif()
