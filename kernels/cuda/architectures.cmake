# The compute capabilities that the module has device code for, unless CMAKE_CUDA_ARCHITECTURES is given: what nvcc of this version knows.
function(tl_cuda_architectures version out)
  set(list 80 86 89 90)
  if(version VERSION_GREATER_EQUAL 12.8)  # Blackwell
    list(APPEND list 100 120)
  endif()
  set(${out} ${list} PARENT_SCOPE)
endfunction()
