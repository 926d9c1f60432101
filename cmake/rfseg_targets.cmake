# Helpers that give every stage the same warnings, sanitizers and test registration.

add_library(rfseg_flags INTERFACE)
# nvcc takes host flags behind -Xcompiler, and none of the warnings about what it generates itself.
target_compile_options(rfseg_flags INTERFACE
  $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wall;-Wextra;-Wconversion;-Wno-sign-conversion>)
# Results are promised bit for bit against PyTorch's and Pillow's arithmetic: the compiler must not
# fuse a multiply and an add on its own. Fused products are written as std::fma or intrinsics.
target_compile_options(rfseg_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-ffp-contract=off>
  $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-ffp-contract=off>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(rfseg_flags INTERFACE
    $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wno-restrict>)  # false alarms in std::string
endif()
if(RFSEG_WERROR)
  target_compile_options(rfseg_flags INTERFACE $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Werror>)
endif()
if(RFSEG_SANITIZE)
  target_compile_options(rfseg_flags INTERFACE
    $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-fsanitize=${RFSEG_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>)
  target_link_options(rfseg_flags INTERFACE -fsanitize=${RFSEG_SANITIZE})
endif()

# rfseg_add_stage(NAME SOURCES ... DEPENDS ...): the static library rfseg_NAME.
# DEPENDS are linked publicly; what only this stage needs is added with target_link_libraries.
function(rfseg_add_stage name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(rfseg_${name} STATIC ${ARG_SOURCES})
  target_include_directories(rfseg_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src
                                                  ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(rfseg_${name} PUBLIC ${ARG_DEPENDS} PRIVATE $<BUILD_INTERFACE:rfseg_flags>)
endfunction()

# rfseg_add_cuda(STAGE [CONTRACT] SOURCES *.cu HOST_SOURCES *.cpp): the CUDA part of a stage. As on
# the host, no multiply and add are fused unless written as one, and division and subnormals are
# IEEE's; CONTRACT lets the compiler fuse them, for the network, whose bits are not promised.
function(rfseg_add_cuda stage)
  cmake_parse_arguments(ARG "CONTRACT" "" "SOURCES;HOST_SOURCES" ${ARGN})
  target_sources(rfseg_${stage} PRIVATE ${ARG_SOURCES} ${ARG_HOST_SOURCES})
  if(NOT ARG_CONTRACT)
    set_source_files_properties(${ARG_SOURCES} PROPERTIES COMPILE_OPTIONS "-fmad=false")
  endif()
  target_link_libraries(rfseg_${stage} PRIVATE CUDA::cudart_static)
  set_target_properties(rfseg_${stage} PROPERTIES CUDA_RUNTIME_LIBRARY Static)
endfunction()

# rfseg_add_test(STAGE SOURCES ... DEPENDS ...): the GoogleTest program test_STAGE, run by ctest.
# RFSEG_SOURCE_DIR and RFSEG_BINARY_DIR are defined for finding test data and the built program.
function(rfseg_add_test stage)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(test_${stage} ${ARG_SOURCES})
  target_link_libraries(test_${stage} PRIVATE ${ARG_DEPENDS} rfseg_flags GTest::gtest_main)
  target_include_directories(test_${stage} PRIVATE ${PROJECT_SOURCE_DIR}/tests
                                                   ${PROJECT_SOURCE_DIR}/src
                                                   ${PROJECT_SOURCE_DIR}/include)
  target_compile_definitions(test_${stage} PRIVATE RFSEG_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                                                   RFSEG_BINARY_DIR="${PROJECT_BINARY_DIR}")
  # Tests are compiled more often than they are run, and what they test is optimised. Emulated
  # kernels are in the tests themselves.
  if(NOT stage MATCHES "emulation")
    set(level -O1)
    if(RFSEG_SANITIZE)
      set(level -O0)
    endif()
    target_compile_options(test_${stage} PRIVATE
      $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<NOT:$<CONFIG:Debug>>>:${level}>)
  endif()
  include(GoogleTest)
  gtest_discover_tests(test_${stage} TEST_PREFIX "${stage}." DISCOVERY_MODE PRE_TEST NO_PRETTY_VALUES
                       PROPERTIES TIMEOUT 600)
endfunction()

# rfseg_add_fuzz(NAME SOURCE files SEEDS dir DEPENDS ...): a fuzz target, run by ctest with a fixed
# number of mutated inputs. SOURCE defines LLVMFuzzerTestOneInput, so libFuzzer can drive it too.
set(RFSEG_FUZZ_RUNS 2000 CACHE STRING "Mutated inputs per fuzz target under ctest")
function(rfseg_add_fuzz name)
  cmake_parse_arguments(ARG "" "SEEDS" "SOURCE;DEPENDS" ${ARGN})
  add_executable(fuzz_${name} ${ARG_SOURCE} ${PROJECT_SOURCE_DIR}/tests/fuzz/driver.cpp)
  target_link_libraries(fuzz_${name} PRIVATE ${ARG_DEPENDS} rfseg_flags)
  set_property(GLOBAL APPEND PROPERTY RFSEG_FUZZ_PROGRAMS fuzz_${name})
  add_test(NAME fuzz.${name} COMMAND fuzz_${name} --runs ${RFSEG_FUZZ_RUNS} --seeds ${ARG_SEEDS})
  set_tests_properties(fuzz.${name} PROPERTIES TIMEOUT 600)
endfunction()

# rfseg_add_benchmark(STAGE SOURCES ... DEPENDS ...): bench/bench_STAGE in the build folder.
function(rfseg_add_benchmark stage)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(bench_${stage} ${ARG_SOURCES})
  target_link_libraries(bench_${stage} PRIVATE ${ARG_DEPENDS} rfseg_flags
                                               benchmark::benchmark_main)
  target_include_directories(bench_${stage} PRIVATE ${PROJECT_SOURCE_DIR}/src
                                                    ${PROJECT_SOURCE_DIR}/include)
  target_compile_definitions(bench_${stage} PRIVATE RFSEG_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  set_target_properties(bench_${stage} PROPERTIES
                        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
endfunction()
