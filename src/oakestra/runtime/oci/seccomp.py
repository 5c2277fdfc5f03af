"""The system calls a container may make. Pure.

An allow list: what it does not name fails with EPERM, and what is newer than the list with ENOSYS (runc adds that),
so that programs fall back. Left out is what loads code into the kernel, mounts, makes or enters namespaces, looks
into other processes, keeps keys, sets clocks, or has a long record of holes (bpf, perf, userfaultfd, io_uring).
Checked by capabilities rather than here: everything that is harmless inside namespaces of its own.
"""

from __future__ import annotations

from typing import Any

_NATIVE = {
    "amd64": "SCMP_ARCH_X86_64",
    "386": "SCMP_ARCH_X86",
    "arm64": "SCMP_ARCH_AARCH64",
    "arm": "SCMP_ARCH_ARM",
    "riscv64": "SCMP_ARCH_RISCV64",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "s390x": "SCMP_ARCH_S390X",
}

_EPERM = 1
_ENOSYS = 38
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2))."""
_AF_ALG, _AF_VSOCK = 38, 40
"""The kernel's ciphers, with a record of holes, and the way to the hypervisor, around every network rule. Between
them is only near-field radio."""
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Plain Linux, 32-bit Linux, both with UNAME26, and the question which one it is; none weakens the address layout."""

_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek
_llseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat oldfstat oldlstat oldstat
open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv
removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64
statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2 arm_sync_file_range syncfs tee truncate
truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev chroot
"""
_MEMORY = """
brk cachestat get_mempolicy madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
process_madvise process_mrelease remap_file_pages riscv_flush_icache riscv_hwprobe set_mempolicy shmat shmctl shmdt
shmget cacheflush s390_runtime_instr
"""
_PROCESSES = """
_exit alarm arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu
getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority
getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set
kill modify_ldt nanosleep nice pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list
set_thread_area set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
setrlimit setsid setuid setuid32 sgetmask sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask
sigreturn sigsuspend ssetmask sysinfo tgkill time tkill ugetrlimit uname vfork wait4 waitid waitpid
landlock_add_rule landlock_create_ruleset landlock_restrict_self breakpoint swapcontext
"""
_WAITING = """
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 adjtimex
clock_adjtime clock_adjtime64 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getitimer
gettimeofday io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect
poll ppoll ppoll_time64 pselect6 pselect6_time64 select setitimer timer_create timer_delete timer_getoverrun
timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times
"""
_TALKING = """
accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd pipe
pipe2 recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send sendmmsg
sendmsg sendto setsockopt shutdown socketcall socketpair getrandom
"""

ALLOWED = tuple(sorted(set((_FILES + _MEMORY + _PROCESSES + _WAITING + _TALKING).split())))


def profile(machine: str, image: str) -> dict[str, Any]:
    """Return the `linux.seccomp` of a container on a `machine` of one architecture with an `image` of another.

    The second matters where a 64-bit kernel runs 32-bit programs; one more architecture costs 15 ms at each start,
    so it is there only when the image needs it.
    """
    architectures = [_NATIVE[name] for name in dict.fromkeys((machine, image)) if name in _NATIVE]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": architectures,
        "syscalls": [
            {"names": list(ALLOWED), "action": "SCMP_ACT_ALLOW"},
            _allow("clone", _argument(1 if machine == "s390x" else 0, "MASKED_EQ", _NEW_NAMESPACES, 0)),
            # clone3 has its flags in memory, where no filter sees them; libraries fall back to clone.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
            _allow("socket", _argument(0, "LT", _AF_ALG)),
            _allow("socket", _argument(0, "GT", _AF_VSOCK)),
            *(_allow("personality", _argument(0, "EQ", value)) for value in _PERSONALITIES),
        ],
    }


def _allow(name: str, argument: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]}


def _argument(index: int, comparison: str, value: int, value_two: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{comparison}", "value": value, "valueTwo": value_two}
