# Hopper's products and attention: skipped where there is no such GPU.
rfseg_add_test(engine_cuda_hopper
  SOURCES cuda_hopper_gemm_test.cu cuda_hopper_norms_test.cu cuda_hopper_mask_block_test.cu
          cuda_hopper_attention_test.cu
  DEPENDS rfseg_engine CUDA::cudart_static)
rfseg_add_test(engine_cuda_hopper_block SOURCES cuda_hopper_block_test.cu
  DEPENDS rfseg_engine CUDA::cudart_static)
# What other GPUs would skip need not be compiled for them.
set(hopper_architectures ${CMAKE_CUDA_ARCHITECTURES})
list(FILTER hopper_architectures INCLUDE REGEX "^90a")
if(hopper_architectures)
  set_target_properties(test_engine_cuda_hopper test_engine_cuda_hopper_block PROPERTIES
                        CUDA_ARCHITECTURES "${hopper_architectures}")
endif()
