# The CPU backend: to be compiled once per instruction set; the table is chosen at run time.
set(TL_CPU_OBJECTS)
set(TL_CPU_LIBRARIES)
