rfseg_add_test(image SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/image_decode_test.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_broken_test.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_exif_test.cpp
  ${CMAKE_CURRENT_LIST_DIR}/image_encode_test.cpp
  ${CMAKE_CURRENT_LIST_DIR}/http_fetch_test.cpp
  DEPENDS rfseg_media)
rfseg_add_fuzz(image SOURCE ${CMAKE_CURRENT_LIST_DIR}/fuzz_image.cpp
               SEEDS ${CMAKE_CURRENT_LIST_DIR}/images DEPENDS rfseg_media)
