# Video: the part of the media stage that knows no FFmpeg, and the module that does.
target_sources(rfseg_media PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/live_reader.cpp
  ${CMAKE_CURRENT_LIST_DIR}/video_io.cpp
  ${CMAKE_CURRENT_LIST_DIR}/video_module.cpp
  ${CMAKE_CURRENT_LIST_DIR}/video_encoder_thread.cpp)
target_link_libraries(rfseg_media PRIVATE ${CMAKE_DL_LIBS} Threads::Threads)
target_compile_definitions(rfseg_media PRIVATE RFSEG_VIDEO=$<BOOL:${RFSEG_VIDEO}>)

if(RFSEG_CUDA_BUILT)
  target_sources(rfseg_media PRIVATE ${CMAKE_CURRENT_LIST_DIR}/gpu_frames.cpp)
else()
  target_sources(rfseg_media PRIVATE ${CMAKE_CURRENT_LIST_DIR}/gpu_frames_absent.cpp)
endif()

if(RFSEG_VIDEO)
  set(libav_libraries libavformat libavcodec libavutil libswscale)
  if(RFSEG_FFMPEG)
    set(ENV{PKG_CONFIG_PATH} ${RFSEG_FFMPEG}/lib/pkgconfig)
    pkg_check_modules(LIBAV_OWN REQUIRED ${libav_libraries})
    add_library(rfseg_ffmpeg INTERFACE)
    target_include_directories(rfseg_ffmpeg SYSTEM INTERFACE ${LIBAV_OWN_STATIC_INCLUDE_DIRS})
    # Its assembler addresses tables directly, so that nobody else may take their names.
    target_link_libraries(rfseg_ffmpeg INTERFACE ${LIBAV_OWN_STATIC_LDFLAGS} -Wl,-Bsymbolic
                                                 -Wl,--exclude-libs,ALL)
  else()
    pkg_check_modules(LIBAV REQUIRED IMPORTED_TARGET GLOBAL ${libav_libraries})
    add_library(rfseg_ffmpeg ALIAS PkgConfig::LIBAV)
  endif()
  # Loaded when the first video is opened; lies beside the program in the build folder.
  add_library(rfseg_libav MODULE
    ${CMAKE_CURRENT_LIST_DIR}/libav/compat.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/decoder_lanes.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/frame_converter.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/gpu_decoding.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/group_starts.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/h264_sps.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/module.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/reader.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/reader_gpu.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/reader_length.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/reader_open.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/reader_seek.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/recovery_point.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/support.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/watch.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/whole_file.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/writer.cpp)
  set_target_properties(rfseg_libav PROPERTIES PREFIX "" OUTPUT_NAME rfseg_libav SUFFIX ".so"
                        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  target_include_directories(rfseg_libav PRIVATE ${PROJECT_SOURCE_DIR}/src
                                                 ${PROJECT_SOURCE_DIR}/include)
  target_compile_definitions(rfseg_libav PRIVATE RFSEG_STATIC)
  target_link_libraries(rfseg_libav PRIVATE rfseg_flags rfseg_ffmpeg ${CMAKE_DL_LIBS})
  # Whoever links the stage gets the module built too.
  add_dependencies(rfseg_media rfseg_libav)
  include(GNUInstallDirs)
  install(TARGETS rfseg_libav LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/rfseg)
endif()
