#!/usr/bin/env python3
"""make_cuda_table.py [ARCH ...]: compiles kernels/cuda with nvcc for each architecture (default 80 86 89 90 100 120) and writes
the table of docs/cuda.md between its marks: registers and spilled bytes per kernel as ptxas reports them for sm_90, and a line
for every architecture. Run from the repository's root where nvcc is."""
import re, subprocess, sys, tempfile, os, glob

archs = sys.argv[1:] or ["80", "86", "89", "90", "100", "120"]

def compile(arch, source, out):
    r = subprocess.run(["nvcc", "-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-Wall", "-Xptxas=-v", f"-gencode=arch=compute_{arch},code=sm_{arch}",
                        "-c", source, "-o", out], capture_output=True, text=True)
    if r.returncode: sys.exit(r.stderr)
    return r.stdout + r.stderr

def kernels(log):
    for entry, spill, regs in re.findall(r"Compiling entry function '(\S+)'.*?\n.*?Function properties.*?\n\s*\d+ bytes stack frame, (\d+) bytes spill stores.*?\n.*?Used (\d+) registers", log):
        name = subprocess.run(["c++filt", entry], capture_output=True, text=True).stdout.strip()
        name = re.sub(r"^void ", "", name).replace("__nv_bfloat16", "bf16")
        yield re.sub(r"\((?!int\)|bool\)).*", "", name).replace("(int)", "").replace("(bool)", ""), int(regs), int(spill)

rows, lines = [], []
for arch in archs:
    most = spilled = spilled_bf16 = n = 0
    for source in sorted(glob.glob("kernels/cuda/*.cu")):
        log = compile(arch, source, os.path.join(tempfile.gettempdir(), "tl_cuda_table.o"))
        if "warning" in log.lower(): sys.exit(log)
        for name, regs, spill in kernels(log):
            n, most, spilled, spilled_bf16 = n + 1, max(most, regs), spilled + (spill > 0), spilled_bf16 + (spill > 0 and "bf16" in name)
            if arch == "90" or len(archs) == 1: rows.append((os.path.basename(source), name, regs, spill))
    lines.append(f"| sm_{arch} | {n} | {most} | {spilled} | {spilled_bf16} |")
text = "| architecture | kernels | most registers | kernels that spill | of those in bf16 |\n|---|---|---|---|---|\n" + "\n".join(lines) + "\n\n"
text += "sm_90, kernel by kernel:\n\n| file | kernel | registers | spilled bytes |\n|---|---|---|---|\n"
text += "".join(f"| {f} | `{k}` | {r} | {s} |\n" for f, k, r, s in rows)
page = open("docs/cuda.md").read()
open("docs/cuda.md", "w").write(re.sub(r"(<!-- table -->\n).*(<!-- end of table -->)", lambda m: m.group(1) + text + m.group(2), page, flags=re.S))
