/* SPDX-License-Identifier: MIT */
/*
 * What os.fork is to fork(2), this is to clone3(2): the interpreter is told before and after. See _clone.h.
 *
 * The C library is not told, which is why the process must have one thread: nobody holds a lock of its that would be
 * copied. One thing it keeps that differs in the child, the thread's id, which raise() and abort() aim at: the kernel
 * writes it where the library has said that it is kept.
 */
#include <pyconfig.h>
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030a0000
#endif
#include <Python.h>

#include "_kernel.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "_clone.h"

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

#define ROW(flag) { flag, #flag }

const char *nsapi_take_flag(uint64_t *flags)
{
    static const struct {
        uint64_t flag;
        const char *name;
    } known[] = {
        ROW(CLONE_VM),           ROW(CLONE_FS),             ROW(CLONE_FILES),         ROW(CLONE_SIGHAND),
        ROW(CLONE_PIDFD),        ROW(CLONE_PTRACE),         ROW(CLONE_VFORK),         ROW(CLONE_PARENT),
        ROW(CLONE_THREAD),       ROW(CLONE_SYSVSEM),        ROW(CLONE_SETTLS),        ROW(CLONE_PARENT_SETTID),
        ROW(CLONE_CHILD_CLEARTID), ROW(CLONE_UNTRACED),     ROW(CLONE_CHILD_SETTID),  ROW(CLONE_IO),
        ROW(CLONE_CLEAR_SIGHAND), ROW(CLONE_INTO_CGROUP),
    };
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        if (*flags & known[index].flag) {
            *flags &= ~known[index].flag;
            return known[index].name;
        }
    return NULL;
}

/* NULL: a C library that keeps it elsewhere, or a kernel without CONFIG_CHECKPOINT_RESTORE. */
static pid_t *kept_thread_id(void)
{
    pid_t *kept = NULL;
    if (prctl(PR_GET_TID_ADDRESS, &kept, 0L, 0L, 0L) < 0 || !kept || *kept != (pid_t)syscall(SYS_gettid))
        return NULL;
    return kept;
}

/* Before Linux 5.3, or where a seccomp filter cannot look into clone3's struct. It has no bit for time. */
static long old_clone(const nsapi_clone_args *args)
{
    if (args->flags & CLONE_NEWTIME)
        return -ENOSYS;
    unsigned long flags = (unsigned long)args->flags | SIGCHLD;
#if defined(__x86_64__)
    long pid = syscall(SYS_clone, flags, NULL, args->pidfd, args->child_tid, 0L);
#elif defined(__aarch64__) || defined(__arm__) || defined(__i386__) || defined(__powerpc64__)
    long pid = syscall(SYS_clone, flags, NULL, args->pidfd, 0L, args->child_tid);
#elif defined(__riscv)
    long pid = syscall(SYS_clone, flags, NULL, args->pidfd, 0L, args->child_tid);
#else
    long pid = -1; /* whose arguments have another order */
    errno = ENOSYS;
#endif
    return pid < 0 ? -errno : pid;
}

static long bear(uint64_t flags, int *ret_pidfd)
{
    pid_t *kept = kept_thread_id();
    nsapi_clone_args args = {
        .flags = flags | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
        .exit_signal = SIGCHLD,
    };
    if (kept) {
        args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        args.child_tid = (uint64_t)(uintptr_t)kept;
    }
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0 && errno == ENOSYS)
        return old_clone(&args);
    return pid < 0 ? -errno : pid;
}

int nsapi_fork(uint64_t flags, int *ret_pid, int *ret_pidfd)
{
    /* cffi has let go of the interpreter around this call; the hooks, and the child, must hold it. */
    PyGILState_STATE held = PyGILState_Ensure();
    PyOS_BeforeFork();
    long pid = bear(flags, ret_pidfd);
    if (pid == 0) {
        *ret_pid = 0;
        PyOS_AfterFork_Child();
    } else {
        if (pid > 0)
            *ret_pid = (int)pid;
        PyOS_AfterFork_Parent();
    }
    PyGILState_Release(held);
    return pid < 0 ? (int)pid : 0;
}
