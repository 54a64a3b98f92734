// dlfcn.h (cusim): the system's, except that opening one of NVIDIA's libraries gives the simulator's stand-in for it
// (tests/cusim/libraries.cc).
#ifndef CUSIM_DLFCN_H
#define CUSIM_DLFCN_H
#include_next <dlfcn.h>
void *cusim_dlopen(const char *file, int flags);
#define dlopen cusim_dlopen
#endif
