/* SPDX-License-Identifier: MIT */
/*
 * The machine: one small function per step, one loop, and nsapi_spawn, which runs the loop in a vfork child.
 *
 * There is no policy here: Python decides which steps and in which order (_plan.py, _switch.py), and what failed goes
 * back as the index of a step and an errno.
 *
 * The steps run in two places. In the calling thread, nothing is special. In the vfork child we share the memory of a
 * running, threaded Python: all that we may touch is our own stack, the state that we were given, and errno, which is
 * that of the calling thread, asleep meanwhile (nsapi_spawn puts it back). Hence only raw system calls: the C library's
 * wrappers for ids signal the threads of our parent, those for signals hide 32 and 33, and some may be cancelled.
 * Nothing is allocated after the clone, and no statics are writable.
 */
#include "_kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "_native.h"

#define SYS(name, ...) syscall(SYS_##name, ##__VA_ARGS__)

enum { STACK_SIZE = 64 * 1024, GUARD_SIZE = 64 * 1024, SIGNALS = 64, CAPABILITIES = 64 };
enum { WAIT_PIDFD = 3 }; /* P_PIDFD: an enumerator in new C libraries, absent in old ones */

/* Closes at the end of the scope and keeps errno, so that a failure is one line. */
static void close_owned(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        SYS(close, *fd);
        errno = saved;
    }
}
#define cleanup_close __attribute__((cleanup(close_owned)))

static int take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

static int fd_of(const nsapi_step *step, const nsapi_state *state)
{
    if (step->fd >= 0 || step->slot < 0)
        return step->fd;
    return state->fd[step->slot];
}

static int open_at(int dir, const char *path, int flags)
{
    return (int)SYS(openat, dir, path, flags | O_CLOEXEC, 0);
}

long nsapi_fs_magic(int fd)
{
    struct statfs fs; /* the C library's: it knows which call fills it in, and the call is all that it does */
    return fstatfs(fd, &fs) < 0 ? -errno : (long)fs.f_type;
}

/* ---- files and descriptors ---- */

static int step_open(const nsapi_step *step, nsapi_state *state)
{
    int fd = open_at(step->fd >= 0 ? step->fd : AT_FDCWD, step->path, (int)step->flags);
    if (fd < 0)
        return -1;
    state->fd[step->slot] = fd;
    return 0;
}

void nsapi_close(int *fd)
{
    close_owned(fd);
    *fd = -1;
}

void nsapi_close_all(nsapi_state *state)
{
    for (int slot = 0; slot < NSAPI_SLOTS; slot++)
        nsapi_close(&state->fd[slot]);
}

static int step_close(const nsapi_step *step, nsapi_state *state)
{
    nsapi_close(&state->fd[step->slot]);
    return 0;
}

/*
 * /proc may be one that the container made whose mount namespace we are in. It must be a procfs, nothing may be mounted
 * over the way, and our own thread must be visible in it; else this fails. (pidfds, which cannot be faked, come first.)
 */
static int open_own_in_proc(const char *name)
{
    cleanup_close int proc = open_at(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY);
    if (proc < 0)
        return -1;
    if (nsapi_fs_magic(proc) != PROC_SUPER_MAGIC) {
        errno = EXDEV;
        return -1;
    }
    nsapi_open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH,
    };
    cleanup_close int dir = (int)SYS(openat2, proc, "thread-self/ns", &how, sizeof how);
    if (dir < 0)
        return -1;
    return open_at(dir, name, O_RDONLY);
}

/*
 * A pidfd of the calling thread, not of its process: /proc/self shows the leader's namespaces. PIDFD_THREAD is Linux
 * 6.9, the ioctl 6.11; before, or where a seccomp filter knows neither, /proc/thread-self.
 */
static int step_open_own(const nsapi_step *step, nsapi_state *state)
{
    pid_t thread = (pid_t)SYS(gettid);
    cleanup_close int self = (int)SYS(pidfd_open, thread, PIDFD_THREAD);
    cleanup_close int ns = self < 0 ? -1 : (int)SYS(ioctl, self, step->value, 0L);
    if (ns < 0 && self >= 0 && errno != EINVAL && errno != ENOTTY && errno != ENOSYS)
        return -1;
    if (ns < 0) {
        ns = open_own_in_proc(step->path);
        if (ns < 0)
            return -1;
        if ((uint64_t)SYS(ioctl, ns, NS_GET_NSTYPE, 0L) != step->flags) {
            errno = EINVAL;
            return -1;
        }
    }
    state->fd[step->slot] = take_fd(&ns);
    return 0;
}

static int step_write(const nsapi_step *step, nsapi_state *state)
{
    /* Beneath, on one mount: `self` of a false /proc could lead to the real file of another process. */
    nsapi_open_how how = {
        .flags = O_WRONLY | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH,
    };
    cleanup_close int fd = (int)SYS(openat2, fd_of(step, state), step->path, &how, sizeof how);
    if (fd < 0)
        return -1;
    /* Never write where a stranger has put another file system in the way. */
    if (step->flags && nsapi_fs_magic(fd) != (long)step->flags) {
        errno = EXDEV;
        return -1;
    }
    /* One write(2): the kernel takes a map, or the offsets, in a single call only. */
    long written = SYS(write, fd, step->data, (size_t)step->length);
    if (written >= 0 && (uint64_t)written != step->length)
        errno = EIO;
    return written == (long)step->length ? 0 : -1;
}

/* Linux before 5.11, or a filter that does not know close_range(2): mark what /proc lists. */
static int close_on_exec_by_proc(void)
{
    cleanup_close int dir = open_at(AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY);
    if (dir < 0)
        return -1;
    if (nsapi_fs_magic(dir) != PROC_SUPER_MAGIC) {
        errno = EXDEV;
        return -1;
    }
    _Alignas(uint64_t) char buffer[2048];
    long size;
    while ((size = SYS(getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < size;) {
            unsigned short length;
            memcpy(&length, buffer + at + 16, sizeof length);
            int fd = 0;
            for (const char *digit = buffer + at + 19; *digit >= '0' && *digit <= '9'; digit++)
                fd = fd * 10 + (*digit - '0');
            if (fd > 2 && SYS(fcntl, fd, F_SETFD, FD_CLOEXEC) < 0)
                return -1;
            at += length;
        }
    return size < 0 ? -1 : 0;
}

static int step_close_on_exec(const nsapi_step *step, nsapi_state *state)
{
    (void)step, (void)state;
    if (SYS(close_range, 3U, UINT_MAX, CLOSE_RANGE_CLOEXEC) == 0)
        return 0;
    return errno == ENOSYS || errno == EINVAL ? close_on_exec_by_proc() : -1;
}

static int step_keep(const nsapi_step *step, nsapi_state *state)
{
    return (int)SYS(fcntl, fd_of(step, state), F_SETFD, 0L);
}

static int step_dup2(const nsapi_step *step, nsapi_state *state)
{
    int fd = fd_of(step, state), to = (int)step->value;
    /* dup3 refuses equal numbers; all that is wanted then is that it survives exec. */
    return fd == to ? (int)SYS(fcntl, fd, F_SETFD, 0L) : (int)SYS(dup3, fd, to, 0);
}

/* ---- namespaces ---- */

/*
 * While the fs_struct is shared, setns(NEWNS) alone is EINVAL, but together with another type it succeeds and gives
 * *every* thread the target's root and cwd. So it is never shared here: where the thread is alone this changes nothing,
 * elsewhere the caller has agreed to it (unshare_fs=True).
 */
static int set_ns(int fd, uint64_t types)
{
    if (types & CLONE_NEWNS && SYS(unshare, CLONE_FS) < 0)
        return -1;
    return (int)SYS(setns, fd, (int)types);
}

static int step_setns(const nsapi_step *step, nsapi_state *state)
{
    if (set_ns(fd_of(step, state), step->flags) < 0)
        return -1;
    state->moved |= step->flags;
    return 0;
}

/* Nothing moves, but for root and cwd with mnt: those are then to be returned to. */
static int step_check_return(const nsapi_step *step, nsapi_state *state)
{
    if (set_ns(fd_of(step, state), step->flags) < 0)
        return -1;
    state->moved |= step->flags & CLONE_NEWNS;
    return 0;
}

/* `moved` keeps what has been left in its lower half, what has been returned to in its upper half. */
static int step_return(const nsapi_step *step, nsapi_state *state)
{
    if (!(state->moved & step->flags))
        return 0;
    if (set_ns(fd_of(step, state), step->flags) < 0)
        return -1;
    state->moved = (state->moved & ~step->flags) | step->flags << 32;
    return 0;
}

/* cwd first: if it cannot be entered again, nothing has changed yet. */
static int step_check_fs(const nsapi_step *step, nsapi_state *state)
{
    int root = state->fd[step->slot], cwd = state->fd[step->value];
    if (SYS(fchdir, cwd) < 0 || SYS(fchdir, root) < 0)
        return -1;
    return (int)SYS(fchdir, cwd);
}

/* setns(NEWNS) has put root and cwd at the root of the namespace: a chroot would be escaped, a cwd lost. */
static int step_return_fs(const nsapi_step *step, nsapi_state *state)
{
    if (!(state->moved >> 32 & CLONE_NEWNS))
        return 0;
    int root = state->fd[step->slot], cwd = state->fd[step->value];
    if (SYS(fchdir, root) < 0 || SYS(chroot, ".") < 0)
        return -1;
    return (int)SYS(fchdir, cwd);
}

static int step_unshare(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    return (int)SYS(unshare, (int)step->flags);
}

static int step_sethostname(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    return (int)SYS(sethostname, step->data, (size_t)step->length);
}

static int step_setdomainname(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    return (int)SYS(setdomainname, step->data, (size_t)step->length);
}

/* The kernel adds 127.0.0.1 and ::1 by itself when "lo" comes up. */
static int step_loopback(const nsapi_step *step, nsapi_state *state)
{
    (void)step, (void)state;
    cleanup_close int fd = (int)SYS(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct ifreq request = { .ifr_name = "lo" };
    if (SYS(ioctl, fd, SIOCGIFFLAGS, &request) < 0)
        return -1;
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    return (int)SYS(ioctl, fd, SIOCSIFFLAGS, &request);
}

/* The casts: int is what these two take, and what Python has put in. */
static int step_socket(const nsapi_step *step, nsapi_state *state)
{
    int fd = (int)SYS(socket, (int)step->value, (int)step->flags | SOCK_CLOEXEC, (int)step->length);
    if (fd < 0)
        return -1;
    state->fd[step->slot] = fd;
    return 0;
}

static int step_socketpair(const nsapi_step *step, nsapi_state *state)
{
    /* The kernel writes the numbers before it knows whether there will be sockets: not into slots, which are closed. */
    int pair[2];
    if (step->slot + 1 >= NSAPI_SLOTS) {
        errno = EINVAL;
        return -1;
    }
    if (SYS(socketpair, (int)step->value, (int)step->flags | SOCK_CLOEXEC, (int)step->length, pair) < 0)
        return -1;
    memcpy(&state->fd[step->slot], pair, sizeof pair);
    return 0;
}

static int step_mount(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    return (int)SYS(mount, step->data, step->path, step->data, (unsigned long)step->flags, NULL);
}

/* It may only be made here: never one that was there, nor what a link of that name leads to. */
static int step_make_file(const nsapi_step *step, nsapi_state *state)
{
    int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd = (int)SYS(openat, step->fd, step->path, flags, (mode_t)step->value);
    if (fd < 0)
        return -1;
    state->fd[step->slot] = fd;
    return 0;
}

/* Belongs to no mount namespace, and is gone with its fd, until it is attached. */
static int step_clone_mount(const nsapi_step *step, nsapi_state *state)
{
    unsigned flags = OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH | (unsigned)step->flags;
    int fd = (int)SYS(open_tree, fd_of(step, state), "", flags);
    if (fd < 0)
        return -1;
    state->fd[step->value] = fd;
    return 0;
}

/* By fds alone, so that it is on the very file that was made, whatever has happened to its name. */
static int step_attach(const nsapi_step *step, nsapi_state *state)
{
    unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    return (int)SYS(move_mount, state->fd[step->value], "", fd_of(step, state), "", flags);
}

static int step_umount(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    return (int)SYS(umount2, step->path, (int)step->flags);
}

/* ---- the process ---- */

static int step_prlimit(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    struct {
        uint64_t soft, hard;
    } limit = { step->value, step->length };
    return (int)SYS(prlimit64, 0, (int)step->flags, &limit, NULL);
}

static int step_setsid(const nsapi_step *step, nsapi_state *state)
{
    (void)step, (void)state;
    return SYS(setsid) < 0 ? -1 : 0;
}

static int step_setpgid(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    return (int)SYS(setpgid, 0, (pid_t)step->value);
}

static int step_umask(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    SYS(umask, (mode_t)step->value);
    return 0;
}

/* The kernel's own struct; only its first word, the handler, is ever looked at or set. */
typedef union {
    void (*handler)(int);
    char room[64];
} kernel_sigaction;

enum { KERNEL_SIGSET = 8 };

static int default_action(int number)
{
    kernel_sigaction action;
    memset(&action, 0, sizeof action);
    return (int)SYS(rt_sigaction, number, &action, NULL, (size_t)KERNEL_SIGSET);
}

static int step_sigdefault(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    for (int number = 1; number <= SIGNALS; number++)
        if (step->value >> (number - 1) & 1 && default_action(number) < 0)
            return -1;
    return 0;
}

/*
 * In a joined mount namespace a link can lead out of it, through /proc/PID/root, cwd or fd (CVE-2024-21626). The kernel
 * says so: such a directory has no path from our root.
 */
static int is_reachable(void)
{
    char path[PATH_MAX];
    long length = SYS(getcwd, path, sizeof path);
    if (length >= 0 && path[0] == '/')
        return 0;
    if (length >= 0)
        errno = EXDEV;
    return -1;
}

static int step_chdir(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    if (SYS(chdir, step->path) == 0 && (!step->value || is_reachable() == 0))
        return 0;
    return step->flags ? (int)SYS(chdir, "/") : -1;
}

/* Drop only what is there: dropping needs CAP_SETPCAP, having nothing to drop does not. EINVAL: past the last one. */
static int step_cap_bound(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    for (unsigned long cap = 0; cap < CAPABILITIES; cap++) {
        long has = SYS(prctl, PR_CAPBSET_READ, cap, 0L, 0L, 0L);
        if (has < 0)
            return errno == EINVAL ? 0 : -1;
        if (has && !(step->value >> cap & 1) && SYS(prctl, PR_CAPBSET_DROP, cap, 0L, 0L, 0L) < 0)
            return -1;
    }
    return 0;
}

static int step_capset(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2];
    for (int half = 0; half < 2; half++)
        data[half] = (struct __user_cap_data_struct){
            .effective = (uint32_t)(step->flags >> 32 * half),
            .permitted = (uint32_t)(step->value >> 32 * half),
            .inheritable = (uint32_t)(step->length >> 32 * half),
        };
    return (int)SYS(capset, &header, data);
}

static int step_cap_ambient(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    if (SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0L, 0L, 0L) < 0)
        return -1;
    for (unsigned long cap = 0; cap < CAPABILITIES; cap++)
        if (step->value >> cap & 1 && SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0L, 0L) < 0)
            return -1;
    return 0;
}

static int step_no_new_privs(const nsapi_step *step, nsapi_state *state)
{
    (void)step, (void)state;
    return (int)SYS(prctl, PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L);
}

static int step_dumpable(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    return (int)SYS(prctl, PR_SET_DUMPABLE, (unsigned long)step->value, 0L, 0L, 0L);
}

static int step_setgroups(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    return (int)SYS(setgroups32, (size_t)step->length, step->data);
}

static int step_setresgid(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    gid_t id = (gid_t)step->value;
    return (int)SYS(setresgid32, id, id, id);
}

static int step_setresuid(const nsapi_step *step, nsapi_state *state)
{
    (void)state;
    uid_t id = (uid_t)step->value;
    return (int)SYS(setresuid32, id, id, id);
}

static int step_keep_caps(const nsapi_step *step, nsapi_state *state)
{
    (void)step, (void)state;
    return (int)SYS(prctl, PR_SET_KEEPCAPS, 1L, 0L, 0L, 0L);
}

/* After the request, look whether the parent has died before it: its signal would never come. */
static int step_pdeathsig(const nsapi_step *step, nsapi_state *state)
{
    if (SYS(prctl, PR_SET_PDEATHSIG, (unsigned long)step->value, 0L, 0L, 0L) < 0)
        return -1;
    struct pollfd parent = { .fd = fd_of(step, state), .events = POLLIN };
    struct {
        int64_t seconds, nanoseconds;
    } now = { 0, 0 };
    long ready = SYS(ppoll, &parent, 1UL, &now, NULL, (size_t)0);
    if (ready > 0)
        errno = ESRCH;
    return ready == 0 ? 0 : -1;
}

static int step_sigmask(const nsapi_step *step, nsapi_state *state)
{
    (void)step;
    return (int)SYS(rt_sigprocmask, SIG_SETMASK, &state->sigmask, NULL, (size_t)KERNEL_SIGSET);
}

/* As execvp and subprocess: go on over directories that lack the program, but report a better reason if there was one. */
static int step_exec(const nsapi_step *step, nsapi_state *state)
{
    const nsapi_exec *program = state->exec;
    int reason = 0, file = fd_of(step, state);
    if (file >= 0)
        return (int)SYS(execveat, file, "", program->argv, program->envp, AT_EMPTY_PATH);
    for (const char *const *path = program->paths; *path; path++) {
        SYS(execve, *path, program->argv, program->envp);
        if (errno != ENOENT && errno != ENOTDIR && reason == 0)
            reason = errno;
    }
    if (reason)
        errno = reason;
    return -1;
}

/* nsapi_spawn is the only one to perform it. */
static int step_clone(const nsapi_step *step, nsapi_state *state)
{
    (void)step, (void)state;
    errno = EINVAL;
    return -1;
}

static int (*const perform[NSAPI_OPS])(const nsapi_step *, nsapi_state *) = {
    [NSAPI_CLONE] = step_clone,
    [NSAPI_OPEN] = step_open,
    [NSAPI_OPEN_OWN] = step_open_own,
    [NSAPI_CLOSE] = step_close,
    [NSAPI_SETNS] = step_setns,
    [NSAPI_CHECK_RETURN] = step_check_return,
    [NSAPI_RETURN] = step_return,
    [NSAPI_CHECK_FS] = step_check_fs,
    [NSAPI_RETURN_FS] = step_return_fs,
    [NSAPI_UNSHARE] = step_unshare,
    [NSAPI_WRITE] = step_write,
    [NSAPI_SETHOSTNAME] = step_sethostname,
    [NSAPI_SETDOMAINNAME] = step_setdomainname,
    [NSAPI_LOOPBACK] = step_loopback,
    [NSAPI_SOCKET] = step_socket,
    [NSAPI_SOCKETPAIR] = step_socketpair,
    [NSAPI_MOUNT] = step_mount,
    [NSAPI_MAKE_FILE] = step_make_file,
    [NSAPI_CLONE_MOUNT] = step_clone_mount,
    [NSAPI_ATTACH] = step_attach,
    [NSAPI_UMOUNT] = step_umount,
    [NSAPI_CLOSE_ON_EXEC] = step_close_on_exec,
    [NSAPI_KEEP] = step_keep,
    [NSAPI_DUP2] = step_dup2,
    [NSAPI_PRLIMIT] = step_prlimit,
    [NSAPI_SETSID] = step_setsid,
    [NSAPI_SETPGID] = step_setpgid,
    [NSAPI_UMASK] = step_umask,
    [NSAPI_SIGDEFAULT] = step_sigdefault,
    [NSAPI_CHDIR] = step_chdir,
    [NSAPI_CAP_BOUND] = step_cap_bound,
    [NSAPI_CAPSET] = step_capset,
    [NSAPI_CAP_AMBIENT] = step_cap_ambient,
    [NSAPI_NO_NEW_PRIVS] = step_no_new_privs,
    [NSAPI_DUMPABLE] = step_dumpable,
    [NSAPI_SETGROUPS] = step_setgroups,
    [NSAPI_SETRESGID] = step_setresgid,
    [NSAPI_SETRESUID] = step_setresuid,
    [NSAPI_KEEP_CAPS] = step_keep_caps,
    [NSAPI_PDEATHSIG] = step_pdeathsig,
    [NSAPI_SIGMASK] = step_sigmask,
    [NSAPI_EXEC] = step_exec,
};

/* ---- the loop ---- */

static int run_from(const nsapi_program *program, int first, nsapi_state *state)
{
    for (int index = first; index < program->count; index++)
        if (perform[program->steps[index].op](&program->steps[index], state) < 0) {
            state->errnum = errno;
            state->step = index;
            return -1;
        }
    return 0;
}

int nsapi_run(const nsapi_program *program, nsapi_state *state)
{
    return run_from(program, 0, state);
}

/* Every step is tried, whatever became of those before it; the first failure is the one that is told. */
int nsapi_leave(const nsapi_program *back, nsapi_state *state)
{
    state->step = -1;
    state->errnum = 0;
    for (int index = 0; index < back->count; index++)
        if (perform[back->steps[index].op](&back->steps[index], state) < 0 && !state->errnum) {
            state->errnum = errno;
            state->step = index;
        }
    return state->errnum ? -1 : 0;
}

/* Each thread that lives has its errno elsewhere, and this costs no system call. */
static const void *this_thread(void)
{
    return &errno;
}

static void make_new(nsapi_state *state)
{
    *state = (nsapi_state){ .step = -1, .pid = -1, .pidfd = -1, .thread = this_thread() };
    for (int slot = 0; slot < NSAPI_SLOTS; slot++)
        state->fd[slot] = -1;
}

/* In one call, so that no byte of Python, and no signal handler of it, runs between a failure and the way back. */
static int run_or_go_back(const nsapi_program *there, const nsapi_program *back, nsapi_state *state)
{
    if (nsapi_run(there, state) == 0)
        return 0;
    int step = state->step, errnum = state->errnum;
    if (nsapi_leave(back, state) < 0)
        state->lost = state->errnum;
    state->step = step;
    state->errnum = errnum;
    return -1;
}

int nsapi_enter(const nsapi_program *there, const nsapi_program *back, nsapi_state *state)
{
    make_new(state);
    return run_or_go_back(there, back, state);
}

/* Look before opening: a FIFO would wait, a device might do something. */
static int open_namespace(const char *path)
{
    struct statfs fs;
    if (statfs(path, &fs) < 0)
        return -1;
    if (fs.f_type != NSFS_MAGIC) {
        errno = EINVAL;
        return -1;
    }
    return open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
}

int nsapi_errand(const nsapi_program *errand, const nsapi_program *back, nsapi_state *state, int fd, const char *path)
{
    make_new(state);
    cleanup_close int own = path ? open_namespace(path) : -1;
    if (path && own < 0) {
        state->errnum = errno;
        return -1;
    }
    state->fd[NSAPI_LENT] = path ? own : fd;
    int result = run_or_go_back(errand, back, state);
    state->fd[NSAPI_LENT] = -1;
    return result;
}

/* No step, which would have to be made anew for each fd. */
int nsapi_go_on(const nsapi_round *round, int fd)
{
    nsapi_state *state = round->state;
    if (state->thread != this_thread())
        return 1;
    if (set_ns(fd, round->types) == 0) {
        state->moved |= round->types;
        return 0;
    }
    int errnum = errno;
    if (nsapi_leave(round->home, state) < 0)
        state->lost = state->errnum;
    state->step = 0;
    state->errnum = errnum;
    return -1;
}

/* ---- the vfork child ---- */

typedef struct {
    const nsapi_program *program;
    nsapi_state *state;
    bool old_clone; /* made by clone(2): what clone3(2) would have done is left to the child */
} birth;

/* clone(2) has no bits for these two; time is a step of its own anyway. */
static int catch_up(const nsapi_step *clone_step, const nsapi_state *state)
{
    int cgroup = fd_of(clone_step, state);
    for (int number = 1; number <= SIGNALS; number++) {
        kernel_sigaction action;
        memset(&action, 0, sizeof action);
        if (SYS(rt_sigaction, number, NULL, &action, (size_t)KERNEL_SIGSET) < 0)
            return -1;
        if (action.handler != SIG_DFL && action.handler != SIG_IGN && default_action(number) < 0)
            return -1;
    }
    if (cgroup < 0)
        return 0;
    cleanup_close int procs = open_at(cgroup, "cgroup.procs", O_WRONLY);
    if (procs < 0 || SYS(write, procs, "0", (size_t)1) < 0)
        return -1;
    /* Only now: a cgroup namespace is rooted where its maker is. */
    return clone_step->flags & CLONE_NEWCGROUP ? (int)SYS(unshare, CLONE_NEWCGROUP) : 0;
}

static __attribute__((noreturn)) int be_born(void *argument)
{
    const birth *self = argument;
    if (self->old_clone && catch_up(&self->program->steps[0], self->state) < 0) {
        self->state->errnum = errno;
        self->state->step = 0;
    } else {
        run_from(self->program, 1, self->state);
    }
    for (;;)
        SYS(exit_group, 127);
}

#if defined(__x86_64__)
#define HAVE_CLONE3 1
/* The child must not return through the frame of its sleeping parent: it calls be_born on its own stack and ends there. */
static long clone3_onto_stack(nsapi_clone_args *args, int (*child)(void *), void *argument)
{
    long result = SYS_clone3;
    register int (*function)(void *) __asm__("r8") = child;
    register void *parameter __asm__("r9") = argument;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r9, %%rdi\n\t"
                     "call *%%r8\n\t"
                     "hlt\n"
                     "1:"
                     : "+a"(result)
                     : "D"(args), "S"(sizeof *args), "r"(function), "r"(parameter)
                     : "rcx", "r11", "memory", "cc");
    return result;
}
#elif defined(__aarch64__)
#define HAVE_CLONE3 1
static long clone3_onto_stack(nsapi_clone_args *args, int (*child)(void *), void *argument)
{
    register long x0 __asm__("x0") = (long)args;
    register long x1 __asm__("x1") = sizeof *args;
    register int (*x2)(void *) __asm__("x2") = child;
    register void *x3 __asm__("x3") = argument;
    register long x8 __asm__("x8") = SYS_clone3;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x30, xzr\n\t"
                     "mov x0, x3\n\t"
                     "blr x2\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x1), "r"(x2), "r"(x3), "r"(x8)
                     : "memory", "cc");
    return x0;
}
#else
#define HAVE_CLONE3 0
static long clone3_onto_stack(nsapi_clone_args *args, int (*child)(void *), void *argument)
{
    (void)args, (void)child, (void)argument;
    return -ENOSYS;
}
#endif

/*
 * clone3 first: one call makes the child, its namespaces and its pidfd, puts it into the cgroup and resets the handlers.
 * ENOSYS: an architecture without the assembler above, or a seccomp filter that cannot look into clone3's struct.
 */
static pid_t bear(birth *child, char *stack, int *ret_pidfd)
{
    const nsapi_step *step = &child->program->steps[0];
    int cgroup = fd_of(step, child->state);
    nsapi_clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | step->flags,
        .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = STACK_SIZE,
    };
    if (cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)cgroup;
    }
    long pid = clone3_onto_stack(&args, be_born, child);
    if (pid >= 0)
        return (pid_t)pid;
    if (pid != -ENOSYS) {
        errno = (int)-pid;
        return -1;
    }
    uint64_t flags = step->flags;
    if (cgroup >= 0)
        flags &= ~(uint64_t)CLONE_NEWCGROUP;
    child->old_clone = true;
    return clone(be_born, stack + STACK_SIZE, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | (int)flags, child,
                 ret_pidfd);
}

char *nsapi_stack_new(void)
{
    char *room = mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    if (mprotect(room, GUARD_SIZE, PROT_NONE) < 0) {
        int saved = errno;
        munmap(room, GUARD_SIZE + STACK_SIZE);
        errno = saved;
        return NULL;
    }
    return room + GUARD_SIZE;
}

void nsapi_stack_free(char *stack)
{
    munmap(stack - GUARD_SIZE, GUARD_SIZE + STACK_SIZE);
}

/*
 * What is kept whatever happens: errno and the signal mask of the caller. `dumpable`, a flag of the memory that the child
 * shares, is not touched by any step that may stand here: what would change it, new ids, is not a vfork child's to do.
 */
int nsapi_spawn(const nsapi_program *program, nsapi_state *state, char *stack)
{
    int saved = errno;
    state->pid = state->pidfd = -1;
    /* All 64, by number: the C library would leave its own two open, and a handler of theirs run in the child. */
    uint64_t all = UINT64_MAX;
    SYS(rt_sigprocmask, SIG_SETMASK, &all, &state->sigmask, (size_t)KERNEL_SIGSET);

    birth child = { .program = program, .state = state };
    int pidfd = -1;
    pid_t pid = bear(&child, stack, &pidfd);
    if (pid < 0) {
        state->step = 0;
        state->errnum = errno;
    } else if (state->errnum) {
        /* By pidfd: somebody's waitpid(-1) may have been here before, and the number be another's. */
        SYS(waitid, WAIT_PIDFD, pidfd, NULL, WEXITED | __WALL, NULL);
        SYS(close, pidfd);
    } else {
        state->pid = pid;
        state->pidfd = pidfd;
    }
    SYS(rt_sigprocmask, SIG_SETMASK, &state->sigmask, NULL, (size_t)KERNEL_SIGSET);
    errno = saved;
    return state->errnum ? -1 : 0;
}

/* ---- single calls ---- */

int nsapi_ioctl(int fd, unsigned long request, void *argument)
{
    int result = (int)SYS(ioctl, fd, request, argument);
    return result < 0 ? -errno : result;
}

int nsapi_pidfd_open(int pid, unsigned int flags)
{
    int fd = (int)SYS(pidfd_open, pid, flags);
    return fd < 0 ? -errno : fd;
}

int nsapi_fill_by_ioctl(int *ret_fd, int fd, unsigned long request)
{
    return *ret_fd = nsapi_ioctl(fd, request, NULL);
}

int nsapi_fill_with_pidfd(int *ret_fd, int pid)
{
    return *ret_fd = nsapi_pidfd_open(pid, 0);
}

/* Opens the namespace that *request* (PIDFD_GET_*) gives of *pidfd*; -EEXIST if *other* has the same one. */
int nsapi_open_other(int pidfd, unsigned long request, int other, unsigned long other_request)
{
    struct stat found, known;
    cleanup_close int theirs = (int)SYS(ioctl, pidfd, request, 0L);
    if (theirs < 0)
        return -errno;
    cleanup_close int ours = (int)SYS(ioctl, other, other_request, 0L);
    if (ours < 0 || fstat(theirs, &found) < 0 || fstat(ours, &known) < 0)
        return -errno;
    if (found.st_dev == known.st_dev && found.st_ino == known.st_ino)
        return -EEXIST;
    int result = theirs;
    theirs = -1;
    return result;
}

/*
 * The wait status of a child that somebody else has waited for; or -errno: the kernel does not keep it, or it is no child.
 * Between a zombie's being taken and its being gone it has no status yet, and waitid(2) no child any more: POLLHUP.
 */
int nsapi_exit_status(int pidfd)
{
    for (bool gone = false;;) {
        nsapi_pidfd_info info = { .mask = NSAPI_INFO_EXIT };
        int result = (int)SYS(ioctl, pidfd, NSAPI_GET_INFO, &info);
        if (result == 0 && info.mask & NSAPI_INFO_EXIT)
            return info.exit_code;
        if (gone || (result < 0 && errno != ESRCH))
            return result < 0 ? -errno : -ECHILD;
        if (result == 0 && (pid_t)info.ppid != (pid_t)SYS(getpid))
            return -ECHILD;
        struct pollfd end = { .fd = pidfd };
        while (result == 0 && poll(&end, 1, -1) < 0 && errno == EINTR)
            continue;
        gone = true;
    }
}

int nsapi_dumpable(void)
{
    return (int)SYS(prctl, PR_GET_DUMPABLE, 0L, 0L, 0L, 0L);
}

/* unshare(CLONE_THREAD) changes nothing in a process of one thread, and is EINVAL in any other. It needs no /proc. */
int nsapi_single_threaded(void)
{
    if (SYS(unshare, CLONE_THREAD) == 0)
        return 1;
    return errno == EINVAL ? 0 : -errno;
}

void nsapi_strings(const char *block, int count, const char **ret)
{
    for (int index = 0; index < count; index++) {
        ret[index] = block;
        block += strlen(block) + 1;
    }
}

int nsapi_environ_count(void)
{
    int count = 0;
    while (environ && environ[count])
        count++;
    return count;
}
