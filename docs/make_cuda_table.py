#!/usr/bin/env python3
"""make_cuda_table.py: writes the table of docs/cuda.md between its marks: of every kernel of kernels/cuda the registers and spilled
bytes that ptxas reports, architecture by architecture, the threads and shared memory that it is launched with, and the occupancy
that follows. Run from the repository's root where nvcc is, after ./dev test has built the simulator: threads and shared memory are
what the simulator saw in test_conformance_ops, so a kernel that no test launches stands out.

Occupancy: resident threads over the most that a multiprocessor holds. Blocks are limited by threads, by registers (given out to
warps in units of 256), by shared memory (1 KiB more a block for the system) and by their number: CUDA programming guide, compute
capabilities."""
import concurrent.futures, glob, os, re, subprocess, sys, tempfile

# threads, blocks, KiB of shared memory of a multiprocessor
LIMITS = {"80": (2048, 32, 164), "86": (1536, 16, 100), "89": (1536, 24, 100), "90": (2048, 32, 228), "100": (2048, 32, 228), "120": (1536, 24, 100)}
BUILD = os.environ.get("TL_BUILD_DIR", "build")

def demangled(names):
    return subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True).stdout.split("\n")

def short(name):
    """fwd<bf16, 16, 128, true> of a demangled kernel, and all of it, which tells apart kernels of one name"""
    whole = re.sub(r"\((int|bool)\)", "", re.sub(r"^void ", "", name)).replace("__nv_bfloat16", "bf16").replace("__half", "fp16").replace("(anonymous namespace)::", "")
    whole = re.sub(r"_INTERNAL_\w+::", "", whole)
    return re.sub(r"\(.*", "", whole), whole

def compiled(arch, source):
    r = subprocess.run(["nvcc", "-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-Wall", "-Xptxas=-v", f"-gencode=arch=compute_{arch},code=sm_{arch}",
                        "-c", source, "-o", os.path.join(tempfile.gettempdir(), f"tl_cuda_{arch}_{os.path.basename(source)}.o")], capture_output=True, text=True)
    log = r.stdout + r.stderr
    if r.returncode or "warning" in log.lower(): raise SystemExit(log)
    found = re.findall(r"Compiling entry function '(\S+)'.*?\n.*?Function properties.*?\n\s*\d+ bytes stack frame, (\d+) bytes spill stores.*?\n.*?Used (\d+) registers", log)
    return {short(name): (int(regs), int(spill)) for name, (_, spill, regs) in zip(demangled([f[0] for f in found]), found)}

def launches():
    """{demangled kernel: (threads, shared bytes)}, the largest seen"""
    with tempfile.TemporaryDirectory() as d:
        log = os.path.join(d, "launches")
        env = dict(os.environ, CUSIM_LAUNCHES=log, TL_MODULES=os.path.join(BUILD, "cusim"))
        if subprocess.run([os.path.join(BUILD, "test_conformance_ops")], env=env, capture_output=True).returncode: sys.exit("test_conformance_ops fails")
        seen = [line.split() for line in open(log)]
    at = {}
    for module in ("tl_cusim.so", "tl_cusimcheck.so"):
        symbols = subprocess.run(["nm", os.path.join(BUILD, "cusim", module)], capture_output=True, text=True).stdout.split("\n")
        symbols = [s.split() for s in symbols if re.match(r"[0-9a-f]+ [tTwW] ", s)]
        at[module] = dict(zip([int(s[0], 16) for s in symbols], demangled([s[2] for s in symbols])))
    most = {}
    for offset, threads, shared in seen:
        for module in at:
            name = at[module].get(int(offset, 16))
            if name and "(" in name: most[short(name)] = max(most.get(short(name), (0, 0)), (int(threads), int(shared)))
    if not most: sys.exit("no kernel of the launches was found in build/cusim/*.so: were they built anew meanwhile?")
    return most

def occupancy(arch, regs, threads, shared):
    most_threads, most_blocks, kib = LIMITS[arch]
    warps = (threads + 31) // 32
    by_regs = 65536 // 256 // ((regs * 32 + 255) // 256) // warps
    blocks = min(most_threads // (warps * 32), most_blocks, by_regs, (kib << 10) // (shared + 1024))
    return 100 * blocks * warps * 32 // most_threads

sources, rows, totals = sorted(glob.glob("kernels/cuda/*.cu")), {}, {a: [0, 0, 0, 0] for a in LIMITS}
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    jobs = {(arch, source): pool.submit(compiled, arch, source) for arch in LIMITS for source in sources}
    seen = launches()
for source in sources:
    for arch in LIMITS:
        for (name, whole), (regs, spill) in jobs[arch, source].result().items():
            t = totals[arch]
            t[0], t[1], t[2], t[3] = t[0] + 1, max(t[1], regs), t[2] + (spill > 0), t[3] + (spill > 0 and "float" not in name)
            threads, shared = seen.get((name, whole), (0, 0))
            row = rows.setdefault((os.path.basename(source), name), [threads, shared, {}])
            row[2][arch] = f"{regs}" + (f", {occupancy(arch, regs, threads, shared)}%" if threads else "") + (f", spills {spill}" if spill else "")
text = "| architecture | kernels | most registers | kernels that spill | of those not in fp32 |\n|---|---|---|---|---|\n"
text += "".join(f"| sm_{a} | {t[0]} | {t[1]} | {t[2]} | {t[3]} |\n" for a, t in totals.items())
text += "\nRegisters and occupancy (of the largest launch of `test_conformance_ops`, whose threads and bytes of shared memory stand first):\n\n"
text += "| file | kernel | threads | shared |" + "".join(f" sm_{a} |" for a in LIMITS) + "\n|---|---|---|---|" + "---|" * len(LIMITS) + "\n"
for (source, name), (threads, shared, by_arch) in rows.items():
    text += f"| {source} | `{name}` | {threads or 'not launched'} | {shared if threads else ''} |" + "".join(f" {by_arch.get(a, '')} |" for a in LIMITS) + "\n"
page = open("docs/cuda.md").read()
open("docs/cuda.md", "w").write(re.sub(r"(<!-- table -->\n).*(<!-- end of table -->)", lambda m: m.group(1) + text + m.group(2), page, flags=re.S))
