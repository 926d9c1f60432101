if(RFSEG_VIDEO)
  set(video_tests ${CMAKE_CURRENT_LIST_DIR}/live_reader_test.cpp
                  ${CMAKE_CURRENT_LIST_DIR}/rtsp_test.cpp
                  ${CMAKE_CURRENT_LIST_DIR}/video_reader_test.cpp
                  ${CMAKE_CURRENT_LIST_DIR}/video_start_test.cpp
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
if(RFSEG_VIDEO)
  # Parts of the module, whose functions the module does not export.
  set(libav_sources ${PROJECT_SOURCE_DIR}/src/media/libav)
  rfseg_add_test(decoder_lanes SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/decoder_lanes_test.cpp ${CMAKE_CURRENT_LIST_DIR}/group_starts_test.cpp
    ${CMAKE_CURRENT_LIST_DIR}/h264_sps_test.cpp
    ${libav_sources}/decoder_lanes.cpp ${libav_sources}/group_starts.cpp ${libav_sources}/h264_sps.cpp
    ${libav_sources}/compat.cpp
    DEPENDS rfseg_media rfseg_ffmpeg ${CMAKE_DL_LIBS})
  rfseg_add_fuzz(group_starts
    SOURCE ${CMAKE_CURRENT_LIST_DIR}/fuzz_group_starts.cpp
           ${libav_sources}/group_starts.cpp ${libav_sources}/h264_sps.cpp
           ${libav_sources}/recovery_point.cpp
    SEEDS ${CMAKE_CURRENT_LIST_DIR}/group_starts_seeds DEPENDS rfseg_ffmpeg rfseg_core)
  rfseg_add_fuzz(whole_file
    SOURCE ${CMAKE_CURRENT_LIST_DIR}/fuzz_whole_file.cpp ${libav_sources}/whole_file.cpp
    SEEDS ${CMAKE_CURRENT_LIST_DIR}/video/lengths DEPENDS rfseg_ffmpeg rfseg_core)
endif()
