# The ROS 2 wheels export include folders of the machine that built them (/opt/python/...).
# CMake refuses imported targets whose include folders do not exist, so drop those here.
function(_wheelfix)
  get_property(_targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(_target IN LISTS _targets)
    get_target_property(_includes ${_target} INTERFACE_INCLUDE_DIRECTORIES)
    if(_includes MATCHES "/opt/python/")
      list(FILTER _includes EXCLUDE REGEX "^/opt/python/")
      set_target_properties(${_target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_includes}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL _wheelfix)
