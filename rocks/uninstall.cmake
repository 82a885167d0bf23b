# SPDX-License-Identifier: MIT
# Removes what the last `cmake --install` of a build wrote, and the folders that are empty then. The
# build has noted it: install_manifest.txt, and the prefix in install_prefix.txt.
#   cmake -D BUILD=build/release -P rocks/uninstall.cmake
foreach(note install_manifest install_prefix)
  if(NOT EXISTS "${BUILD}/${note}.txt")
    message(FATAL_ERROR "uninstall: ${BUILD}/${note}.txt: missing, so nothing is installed from there")
  endif()
endforeach()
file(STRINGS "${BUILD}/install_manifest.txt" files)
file(READ "${BUILD}/install_prefix.txt" prefix)

function(remove_empty_folders path)
  cmake_path(GET path PARENT_PATH folder)
  cmake_path(IS_PREFIX prefix "${folder}" NORMALIZE is_inside)
  file(GLOB left LIST_DIRECTORIES true "${folder}/*" "${folder}/.*")
  if(is_inside AND NOT left)
    file(REMOVE_RECURSE "${folder}")
    if(NOT folder STREQUAL prefix)
      remove_empty_folders("${folder}")
    endif()
  endif()
endfunction()

foreach(file IN LISTS files)
  file(REMOVE "${file}")
  if(EXISTS "${file}" OR IS_SYMLINK "${file}")
    message(FATAL_ERROR "uninstall: ${file}: cannot be removed")
  endif()
  # Folders of the system stay: others expect them.
  if(NOT prefix MATCHES "^/usr(/local)?/?$" OR file MATCHES "/moonscope/")
    remove_empty_folders("${file}")
  endif()
endforeach()
file(REMOVE "${BUILD}/install_manifest.txt" "${BUILD}/install_prefix.txt")
