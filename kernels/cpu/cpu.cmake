# The CPU backend: compiled once per instruction set with its flags; kernels/cpu/dispatch.c chooses a table at run time.
# Sets TL_CPU_OBJECTS (for the library) and TL_CPU_LIBRARIES.
# They are GCC's C (vector builtins). Another compiler, which ./dev fuzz needs, is given GCC's archive of them (target tl_cpu) as
# TL_CPU_ARCHIVE.
# -ffp-contract=off: fused multiply-adds are written out (vec.h), so that an element's bits do not depend on inlining.
set(TL_CPU_ARCHIVE "" CACHE FILEPATH "the CPU backend, already compiled")
if(TL_CPU_ARCHIVE)
  set(TL_CPU_OBJECTS "")
  set(TL_CPU_LIBRARIES ${TL_CPU_ARCHIVE} Threads::Threads m)
  return()
endif()
set(CPU_KERNEL_SOURCES gemm int8 panels packed linear linear_bwd lowrank attention attention_bwd rmsnorm rope swiglu embed head
    head_bwd sample optim table)
list(TRANSFORM CPU_KERNEL_SOURCES PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/)
list(TRANSFORM CPU_KERNEL_SOURCES APPEND .c)

add_library(tl_cpu_common OBJECT kernels/cpu/blocks.c kernels/cpu/dispatch.c kernels/cpu/pool.c kernels/cpu/scratch.c)
set(TL_CPU_OBJECTS $<TARGET_OBJECTS:tl_cpu_common>)
set(TL_CPU_LIBRARIES Threads::Threads m)

function(tl_cpu_variant isa)
  add_library(tl_cpu_${isa} OBJECT ${CPU_KERNEL_SOURCES})
  target_compile_definitions(tl_cpu_${isa} PRIVATE TLK_ISA=${isa})
  target_compile_options(tl_cpu_${isa} PRIVATE -ffp-contract=off ${ARGN})
endfunction()

tl_cpu_variant(portable)
list(APPEND TL_CPU_OBJECTS $<TARGET_OBJECTS:tl_cpu_portable>)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  tl_cpu_variant(avx2 -mavx2 -mfma -mf16c)
  tl_cpu_variant(avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mavx2 -mf16c)
  tl_cpu_variant(avx512bf16 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mavx512vnni -mfma -mavx2 -mf16c)
  list(APPEND TL_CPU_OBJECTS $<TARGET_OBJECTS:tl_cpu_avx2> $<TARGET_OBJECTS:tl_cpu_avx512> $<TARGET_OBJECTS:tl_cpu_avx512bf16>)
  target_compile_definitions(tl_cpu_common PRIVATE TLK_X86)
endif()

add_library(tl_cpu STATIC EXCLUDE_FROM_ALL ${TL_CPU_OBJECTS})

# prints GFLOP/s and times of the ops beside this machine's peak: ninja bench_kernels && build/bench_kernels
if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/tests/bench_kernels.c)
  add_executable(bench_kernels EXCLUDE_FROM_ALL tests/bench_kernels.c ${TL_CPU_OBJECTS})
  target_compile_definitions(bench_kernels PRIVATE _GNU_SOURCE)
  target_link_libraries(bench_kernels PRIVATE ${TL_CPU_LIBRARIES})
endif()
