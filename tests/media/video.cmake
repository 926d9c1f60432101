if(RFSEG_VIDEO)
  set(video_tests ${CMAKE_CURRENT_LIST_DIR}/live_reader_test.cpp
                  ${CMAKE_CURRENT_LIST_DIR}/video_reader_test.cpp
                  ${CMAKE_CURRENT_LIST_DIR}/video_writer_test.cpp)
else()
  set(video_tests ${CMAKE_CURRENT_LIST_DIR}/video_off_test.cpp)
endif()
rfseg_add_test(video SOURCES
  ${video_tests} ${CMAKE_CURRENT_LIST_DIR}/video_encoder_thread_test.cpp
  DEPENDS rfseg_media)
if(RFSEG_VIDEO AND RFSEG_CUDA_BUILT)
  rfseg_add_test(nvdec SOURCES ${CMAKE_CURRENT_LIST_DIR}/nvdec_test.cpp
                 DEPENDS rfseg_media rfseg_core)
endif()
