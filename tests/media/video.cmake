rfseg_add_test(video SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/video_io_test.cpp
  ${CMAKE_CURRENT_LIST_DIR}/video_encoder_thread_test.cpp
  DEPENDS rfseg_media)
