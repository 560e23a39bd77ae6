"""Machines as their kernels show them: memory, its split between system and GPU, a GPU or none, the wall clock. PURE"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Carveout:
    """A split that the firmware offers. Only few have a name."""

    size_bytes: int
    name: str = ""

    def __str__(self) -> str:
        """As amdgpu prints it: ``%s (%u GB)``, or MB below one."""
        gib = self.size_bytes // GIB
        return f"{self.name} ({gib} GB)" if gib else f"{self.name} ({self.size_bytes // MIB} MB)"


@dataclass(frozen=True)
class Machine:
    """With ``gpu``, an AMD APU: ``vram_bytes`` of its RAM are the GPU's, and lost to the system."""

    name: str
    ram_bytes: int  # as built in, the carve-out with it
    gpu: str | None = None
    vram_bytes: int = 0
    carveout_options: tuple[Carveout, ...] | None = None  # None: the firmware lets the system change nothing
    cpu: str = "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S"

    def __post_init__(self) -> None:
        if self.gpu is None and (self.vram_bytes or self.carveout_options):
            raise ValueError(f"{self.name}: VRAM without a GPU")
        if self.carveout_options and self.vram_bytes not in self._sizes:
            raise ValueError(f"{self.name}: the split now is none of those that the firmware offers")

    @property
    def _sizes(self) -> list[int]:
        return [option.size_bytes for option in self.carveout_options or ()]

    @property
    def system_bytes(self) -> int:
        """What MemTotal says."""
        return self.ram_bytes - self.vram_bytes

    def booted_with(self, carveout: str) -> Machine:
        """The machine after a boot, with this text in ``uma/carveout``."""
        index = int(carveout) if carveout.strip().isdecimal() else -1
        if index not in range(len(self._sizes)):
            raise ValueError(f"{carveout!r} in uma/carveout: a kernel refuses to take that (EINVAL)")
        return replace(self, vram_bytes=self._sizes[index])

    def meminfo(self) -> str:
        """``/proc/meminfo``; it stands still."""
        free = self.system_bytes // 16 * 15
        cached = self.system_bytes // 32
        zero = "Buffers SwapCached Active Inactive SwapTotal SwapFree Shmem Slab SReclaimable SUnreclaim"
        amounts = {"MemTotal": self.system_bytes, "MemFree": free - cached, "MemAvailable": free, "Cached": cached}
        amounts |= dict.fromkeys(zero.split(), 0)
        return "".join(f"{name + ':':<16}{amount // 1024:>9} kB\n" for name, amount in amounts.items())

    def cpuinfo(self, real: str) -> str:
        """``/proc/cpuinfo``: the cores that are really there, under this machine's name."""
        return re.sub(r"(?m)^(model name\s*:).*$", lambda found: f"{found[1]} {self.cpu}", real)

    def drm(self) -> dict[str, str]:
        """Files of ``/sys/class/drm``, by their paths in it."""
        if self.gpu is None:
            return {}
        device = {
            "vendor": "0x1002",
            "device": "0x1586",
            "product_name": self.gpu,
            "gpu_busy_percent": "0",
            "mem_info_vram_total": str(self.vram_bytes),
            "mem_info_vram_used": str(min(self.vram_bytes, 190 * MIB)),
            "mem_info_gtt_total": str(self.system_bytes // 2),
            "mem_info_gtt_used": str(16 * MIB),
            "hwmon/hwmon0/name": "amdgpu",
            "hwmon/hwmon0/power1_average": str(9_000_000),
            "hwmon/hwmon0/power1_cap": str(120_000_000),
            "hwmon/hwmon0/power1_cap_min": str(0),
            "hwmon/hwmon0/power1_cap_max": str(140_000_000),
            "hwmon/hwmon0/temp1_input": str(38_000),
        }
        if self.carveout_options:
            device["uma/carveout"] = str(self._sizes.index(self.vram_bytes))
            device["uma/carveout_options"] = "\n".join(f"{i}: {each}" for i, each in enumerate(self.carveout_options))
        return {f"card0/device/{path}": f"{text}\n" for path, text in device.items()} | {
            "card0-eDP-1/status": "connected\n"
        }


_OPTIONS = (
    Carveout(512 * MIB, "Minimum"),
    *(Carveout(gib * GIB) for gib in (1, 2, 4, 6, 8, 12)),
    Carveout(16 * GIB, "Medium"),
    Carveout(24 * GIB),
    Carveout(32 * GIB, "High"),
)
_GPU = "AMD Radeon 8060S Graphics"
AIMAX_64 = Machine("aimax-64", 64 * GIB, _GPU, 512 * MIB, (*_OPTIONS, Carveout(48 * GIB)))
AIMAX_128 = Machine("aimax-128", 128 * GIB, _GPU, 32 * GIB, (*_OPTIONS, *(Carveout(gib * GIB) for gib in (48, 64, 96))))
OLD_FIRMWARE = Machine(
    "old-firmware", 32 * GIB, "AMD Radeon 780M", 4 * GIB, cpu="AMD Ryzen 7 7840U w/ Radeon 780M Graphics"
)
NO_GPU = Machine("no-gpu", 16 * GIB, cpu="Intel(R) Xeon(R) E-2124")

# A library to preload: it moves CLOCK_REALTIME by the nanoseconds in a mapped file, and deadlines in that clock back.
# Those are after 2001; no monotonic clock gets there. A wait that has begun does not notice a jump. (libfaketime will
# not do: it breaks clock_nanosleep(MONOTONIC, ABSTIME), which is Python's sleep.)
CLOCK_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))find(#name)

static const long long still, *ahead_ns = &still;

__attribute__((constructor)) static void open_clock(void) {
  const char *path = getenv("ORCHESTRATE_TEST_LAN_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *page = mmap(0, sizeof *ahead_ns, PROT_READ, MAP_SHARED, file, 0);
  if (page != MAP_FAILED) ahead_ns = page;
  if (file >= 0) close(file);
}

static void *find(const char *name) {
  void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");  /* x86 has an older pthread_cond_timedwait too */
  return found ? found : dlsym(RTLD_NEXT, name);
}

static struct timespec moved(struct timespec at, long long ns) {
  long long all = at.tv_nsec + ns % 1000000000;
  long carry = all < 0 ? -1 : all >= 1000000000 ? 1 : 0;
  return (struct timespec){at.tv_sec + ns / 1000000000 + carry, all - carry * 1000000000};
}

static struct timespec back(const struct timespec *at) {
  return at->tv_sec > 1000000000 ? moved(*at, -*ahead_ns) : *at;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  int failed = real(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) *now = moved(*now, *ahead_ns);
  return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  *now = (struct timeval){at.tv_sec, at.tv_nsec / 1000};
  return 0;
}

time_t time(time_t *now) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (now) *now = at.tv_sec;
  return at.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *rest) {
  REAL(clock_nanosleep);
  struct timespec at = flags & TIMER_ABSTIME ? back(until) : *until;
  return real(clock, flags, &at, rest);
}

int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until) {
  REAL(pthread_cond_timedwait);
  struct timespec at = back(until);
  return real(c, m, &at);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until) {
  REAL(pthread_mutex_timedlock);
  struct timespec at = back(until);
  return real(mutex, &at);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
  REAL(sem_timedwait);
  struct timespec at = back(until);
  return real(semaphore, &at);
}

long syscall(long number, ...) {
  REAL(syscall);
  va_list list;
  va_start(list, number);
  long a[6];
  for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
  va_end(list);
  struct timespec at;
  if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
    at = back((const struct timespec *)a[3]);
    a[3] = (long)&at;
  }
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"""
