# The shared library librfseg with its public headers and a CMake package, and the program.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The public classes live in these stages; their objects are taken whole, so that all of the API is
# exported. The other stages are linked as archives and stay hidden.
# The target is not called rfseg: the program of that name lies in the same folder.
add_library(librfseg SHARED $<TARGET_OBJECTS:rfseg_pipeline> $<TARGET_OBJECTS:rfseg_postprocess>
                         $<TARGET_OBJECTS:rfseg_core>)
add_library(rfseg::rfseg ALIAS librfseg)
target_link_libraries(librfseg PRIVATE rfseg_core rfseg_checkpoint rfseg_media rfseg_preprocess
                                    rfseg_engine rfseg_postprocess rfseg_output rfseg_flags)
target_include_directories(librfseg INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(librfseg INTERFACE cxx_std_20)
set_target_properties(librfseg PROPERTIES OUTPUT_NAME rfseg EXPORT_NAME rfseg VERSION ${PROJECT_VERSION}
                                       SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

install(TARGETS librfseg EXPORT rfsegTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS rfseg_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET rfseg_libav)
  install(TARGETS rfseg_libav LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/rfseg)
endif()
install(DIRECTORY include/rfseg ${PROJECT_BINARY_DIR}/include/rfseg
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(EXPORT rfsegTargets NAMESPACE rfseg:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/rfseg)
configure_package_config_file(cmake/rfsegConfig.cmake.in ${PROJECT_BINARY_DIR}/rfsegConfig.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/rfseg)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/rfsegConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/rfsegConfig.cmake ${PROJECT_BINARY_DIR}/rfsegConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/rfseg)
# The library contains the font.
install(FILES LICENSE assets/fonts/LICENSE-DejaVu.txt DESTINATION ${CMAKE_INSTALL_DOCDIR})
