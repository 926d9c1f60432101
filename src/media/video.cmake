# Video: the part of the media stage that knows no FFmpeg, and the module that does.
target_sources(rfseg_media PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/video_io.cpp
  ${CMAKE_CURRENT_LIST_DIR}/video_module.cpp
  ${CMAKE_CURRENT_LIST_DIR}/video_encoder_thread.cpp)
target_link_libraries(rfseg_media PRIVATE ${CMAKE_DL_LIBS} Threads::Threads)
target_compile_definitions(rfseg_media PRIVATE RFSEG_VIDEO=$<BOOL:${RFSEG_VIDEO}>)

if(RFSEG_VIDEO)
  pkg_check_modules(LIBAV REQUIRED IMPORTED_TARGET libavformat libavcodec libavutil libswscale)
  # Loaded when the first video is opened; lies beside the program in the build folder.
  add_library(rfseg_libav MODULE
    ${CMAKE_CURRENT_LIST_DIR}/libav/compat.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/frame_converter.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/module.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/reader.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/support.cpp
    ${CMAKE_CURRENT_LIST_DIR}/libav/writer.cpp)
  set_target_properties(rfseg_libav PROPERTIES PREFIX "" OUTPUT_NAME rfseg_libav SUFFIX ".so"
                        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  target_include_directories(rfseg_libav PRIVATE ${PROJECT_SOURCE_DIR}/src
                                                 ${PROJECT_SOURCE_DIR}/include)
  target_compile_definitions(rfseg_libav PRIVATE RFSEG_STATIC)
  target_link_libraries(rfseg_libav PRIVATE rfseg_flags PkgConfig::LIBAV ${CMAKE_DL_LIBS})
  # Whoever links the stage gets the module built too.
  add_dependencies(rfseg_media rfseg_libav)
  include(GNUInstallDirs)
  install(TARGETS rfseg_libav LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/rfseg)
endif()
