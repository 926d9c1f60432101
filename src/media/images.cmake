# Images: decoders, encoders and EXIF.
target_sources(rfseg_media PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/image_io.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_exif.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_jpeg.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_png.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_webp.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_tiff.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_bmp.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_ppm.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_encode.cpp
  ${CMAKE_CURRENT_LIST_DIR}/http_fetch.cpp)
find_package(CURL REQUIRED)
find_package(JPEG REQUIRED)
pkg_check_modules(PNG REQUIRED IMPORTED_TARGET libpng)
pkg_check_modules(WEBP REQUIRED IMPORTED_TARGET libwebp libwebpdemux)
pkg_check_modules(TIFF REQUIRED IMPORTED_TARGET libtiff-4)
target_link_libraries(rfseg_media PRIVATE CURL::libcurl JPEG::JPEG PkgConfig::PNG
                                          PkgConfig::WEBP PkgConfig::TIFF)
