// table.c: the table of one instruction set.
#include "cpu.h"

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define ENTRY(op) .op = OP(op),

static const tlk_ops table = {.name = "cpu", .isa = TEXT(TLK_ISA), .set_threads = tlk_cpu_set_threads, TLK_CPU_OPS(ENTRY)};

const tlk_ops *OP(cpu_table)(void);
const tlk_ops *OP(cpu_table)(void) { return &table; }
