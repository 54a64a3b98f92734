// cores.c: how much of the processors a control group leaves to this process: docker --cpus, Kubernetes' limits.cpu, systemd's CPUQuota.
//
// A group that has used up its time of a period (0.1 s) stands still until the next one. With a thread for each core of a large host that
// happens within every op, so a process with a limit starts no more threads than it pays for.
//
//   cgroup v2   <mount>/<path>/cpu.max                                      "max 100000", or "200000 100000": 2 cores
//   cgroup v1   <mount>/cpu/<path>/cpu.cfs_quota_us, cpu.cfs_period_us      -1: no limit
// The path is the process's line of /proc/self/cgroup. A limit of a folder above counts too, and in a container the path may be the
// host's, of which the container's mount shows the end: so every folder from the path up to the mount is looked at, and the least counts.
// (kernel: Documentation/admin-guide/cgroup-v2.rst, scheduler/sched-bwc.rst)
#include "base.h"

// the numbers at the beginning of a file, 0: none
static int read_numbers(const char *path, double *a, double *b) {
  FILE *f = fopen(path, "re");
  int n = f ? fscanf(f, "%lf %lf", a, b) : 0;
  if (f) fclose(f);
  return n > 0 ? n : 0;
}

// cores that the group in a folder may use; 0: it says nothing
static double quota_of(const char *folder, bool v2) {
  char path[4200];
  double quota = 0, period = 0, other;
  if (v2) {
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (read_numbers(path, &quota, &period) < 2) return 0;
  } else {
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_numbers(path, &quota, &other)) return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!read_numbers(path, &period, &other)) return 0;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

// the least limit from a group's folder up to the mount
static double least_quota(const char *mount, const char *group, bool v2) {
  char folder[4096];
  double least = 0;
  size_t top = strlen(mount);
  if (snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder) return 0;
  for (;;) {
    double q = quota_of(folder, v2);
    if (q > 0 && (least == 0 || q < least)) least = q;
    char *slash = strrchr(folder + top, '/');
    if (!slash) return least;
    *slash = 0;
  }
}

// Is "cpu" one of the controllers "cpu,cpuacct"?
static bool has_cpu(const char *controllers) {
  size_t n;
  for (; *controllers; controllers += n + (controllers[n] == ',')) {
    n = strcspn(controllers, ",");
    if (n == 3 && !memcmp(controllers, "cpu", 3)) return true;
  }
  return false;
}

double tl_cpu_quota(const char *self, const char *mount) {
  char line[4096], v1[4096];
  double least = 0;
  FILE *f = fopen(self, "re");
  if (!f) return 0;
  while (fgets(line, sizeof line, f)) {  // "0::/path" of v2, "3:cpu,cpuacct:/path" of v1
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *group++ = 0, controllers++;
    if (*controllers && !has_cpu(controllers)) continue;
    snprintf(v1, sizeof v1, "%s/cpu", mount);
    double q = least_quota(*controllers ? v1 : mount, group, !*controllers);
    if (q > 0 && (least == 0 || q < least)) least = q;
  }
  fclose(f);
  return least;
}
