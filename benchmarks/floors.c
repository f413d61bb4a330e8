/* SPDX-License-Identifier: MIT */
/*
 * The floors: each job as the kernel offers it, with nothing around it.
 *
 * One line in, "OPERATION COUNT"; one line out, the nanoseconds that one of COUNT in a row took. So neither the start of
 * this process nor the pipes are measured. A new floor is a function and a row of the table at the end.
 *
 * "floors crowd N COMMAND..." is another program: it runs COMMAND among N processes, with a /proc that shows no others.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STACK_SIZE = 64 * 1024 };
enum { NEW_SIX = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS };

static __attribute__((noreturn)) void die(const char *what)
{
    fprintf(stderr, "floors: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long check(long result, const char *what)
{
    if (result < 0)
        die(what);
    return result;
}

static int execute_true(void)
{
    static char *argv[] = { "/bin/true", NULL };
    execve(argv[0], argv, environ);
    return 127;
}

static void wait_for(pid_t pid)
{
    int status;
    check(waitpid(pid, &status, 0), "waitpid");
    if (status != 0) {
        errno = EIO;
        die("the child");
    }
}

/* ---- spawn: six new namespaces, /bin/true, wait ---- */

static char stack[STACK_SIZE] __attribute__((aligned(16)));

static int strict_child(void *argument)
{
    (void)argument;
    return execute_true();
}

/* clone(2) and clone3(2) are one function in the kernel; the C library's clone() knows how to switch the stack. */
static void spawn(void)
{
    int flags = CLONE_VM | CLONE_VFORK | SIGCHLD | NEW_SIX;
    wait_for((pid_t)check(clone(strict_child, stack + STACK_SIZE, flags, NULL), "clone"));
}

/*
 * The same, with what nsapi.run does beyond it: the maps of `unshare -r`, no other fds, signals as subprocess leaves
 * them, private mounts, a fresh /proc, and a child that is held by a pidfd.
 */
typedef struct {
    int proc;
    uid_t uid;
    gid_t gid;
    sigset_t mask;
} job;

static int write_file(int dir, const char *path, const char *text)
{
    int fd = openat(dir, path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -1;
    return close(fd);
}

static int write_map(int dir, const char *path, unsigned id)
{
    char map[32];
    snprintf(map, sizeof map, "0 %u 1\n", id);
    return write_file(dir, path, map);
}

static int full_child(void *argument)
{
    const job *self = argument;
    if (syscall(SYS_close_range, 3U, UINT_MAX, CLOSE_RANGE_CLOEXEC) < 0 ||
        write_file(self->proc, "self/setgroups", "deny") < 0 ||
        write_map(self->proc, "self/uid_map", self->uid) < 0 ||
        write_map(self->proc, "self/gid_map", self->gid) < 0 ||
        mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return 126;
    struct sigaction action = { .sa_handler = SIG_DFL };
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
    sigprocmask(SIG_SETMASK, &self->mask, NULL);
    return execute_true();
}

static void spawn_same_steps(void)
{
    job self = { .uid = geteuid(), .gid = getegid() };
    self.proc = (int)check(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), "open /proc");
    int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK;
    char *room = mmap(NULL, 2 * STACK_SIZE, PROT_READ | PROT_WRITE, kind, -1, 0);
    if (room == MAP_FAILED)
        die("mmap");
    check(mprotect(room, STACK_SIZE, PROT_NONE), "mprotect");
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &self.mask);
    int pidfd = -1, flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | NEW_SIX;
    check(clone(full_child, room + 2 * STACK_SIZE, flags, &self, &pidfd), "clone");
    sigprocmask(SIG_SETMASK, &self.mask, NULL);
    munmap(room, 2 * STACK_SIZE);
    close(self.proc);
    siginfo_t info;
    check(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED), "waitid");
    if (info.si_code != CLD_EXITED || info.si_status != 0) {
        errno = EIO;
        die("the child");
    }
    close(pidfd);
}

/* ---- enter: there and back ---- */

static int open_own_net(void)
{
    return (int)check(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), "open thread-self");
}

static int make_elsewhere(void)
{
    int home = open_own_net();
    check(unshare(CLONE_NEWNET), "unshare net");
    int elsewhere = open_own_net();
    check(setns(home, CLONE_NEWNET), "setns home");
    close(home);
    return elsewhere;
}

static void enter(void)
{
    static int elsewhere = -1;
    if (elsewhere < 0) /* in the warm-up */
        elsewhere = make_elsewhere();
    int home = open_own_net();
    check(setns(elsewhere, CLONE_NEWNET), "setns there");
    check(setns(home, CLONE_NEWNET), "setns back");
    close(home);
}

/* ---- discover: read the links below /proc/PID/ns ---- */

static void scan(void)
{
    static const char *const names[] = { "user", "ipc", "uts", "net", "pid", "mnt", "cgroup", "time" };
    DIR *proc = opendir("/proc");
    if (!proc)
        die("opendir /proc");
    struct dirent *entry;
    while ((entry = readdir(proc)) != NULL) {
        char path[sizeof entry->d_name + 4], text[64];
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof path, "%s/ns", entry->d_name);
        int ns = openat(dirfd(proc), path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (ns < 0)
            continue;
        for (size_t each = 0; each < sizeof names / sizeof *names; each++)
            if (readlinkat(ns, names[each], text, sizeof text) < 0 && errno != ENOENT)
                die("readlinkat");
        close(ns);
    }
    closedir(proc);
}

/* ---- a crowd ---- */

enum { SMALL_STACK = 4096 };

static __attribute__((noreturn)) int idle(void *argument)
{
    (void)argument;
    for (;;)
        syscall(SYS_rt_sigsuspend, &(uint64_t){ 0 }, sizeof(uint64_t));
}

/* They share the memory of pid 1, and end with it, which ends with COMMAND: N processes for the price of their stacks. */
static __attribute__((noreturn)) void crowd(long count, char **command)
{
    int status;
    check(unshare(CLONE_NEWPID | CLONE_NEWNS), "unshare");
    pid_t first = (pid_t)check(fork(), "fork");
    if (first) {
        check(waitpid(first, &status, 0), "waitpid");
        exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    check(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "make / private");
    check(mount("proc", "/proc", "proc", 0, NULL), "mount /proc");
    char *stacks = mmap(NULL, (size_t)count * SMALL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED)
        die("mmap");
    for (long each = 1; each <= count; each++)
        check(clone(idle, stacks + each * SMALL_STACK, CLONE_VM | SIGCHLD, NULL), "clone");
    pid_t child = (pid_t)check(vfork(), "vfork");
    if (child == 0) {
        execvp(command[0], command);
        _exit(127);
    }
    check(waitpid(child, &status, 0), "waitpid");
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

/* ---- socket: made there, used here ---- */

static void socket_at(int elsewhere)
{
    int home = open_own_net();
    check(setns(elsewhere, CLONE_NEWNET), "setns there");
    int made = (int)check(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    check(setns(home, CLONE_NEWNET), "setns back");
    close(home);
    close(made);
}

static void socket_elsewhere(void)
{
    static int elsewhere = -1;
    if (elsewhere < 0)
        elsewhere = make_elsewhere();
    socket_at(elsewhere);
}

/* As `ip netns add` names it, in a mount namespace that nobody else sees. */
static void name_elsewhere(const char *path)
{
    char source[64];
    int elsewhere = make_elsewhere();
    check(unshare(CLONE_NEWNS), "unshare mnt");
    check(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "make mounts private");
    check(mount("none", "/run", "tmpfs", 0, NULL), "mount /run");
    check(mkdir("/run/netns", 0755), "mkdir");
    close((int)check(open(path, O_CREAT | O_RDONLY | O_CLOEXEC, 0400), path));
    snprintf(source, sizeof source, "/proc/self/fd/%d", elsewhere);
    check(mount(source, path, NULL, MS_BIND, NULL), "bind");
    close(elsewhere);
}

static void socket_named(void)
{
    static const char path[] = "/run/netns/elsewhere";
    static int named;
    if (!named++)
        name_elsewhere(path);
    int elsewhere = (int)check(open(path, O_RDONLY | O_CLOEXEC), path);
    socket_at(elsewhere);
    close(elsewhere);
}

/* ---- visit: from each of many straight to the next, then home ---- */

enum { MANY = 300 };

static void visit(void)
{
    static int there[MANY];
    int home = open_own_net();
    if (!there[0]) { /* in the warm-up */
        for (int each = 0; each < MANY; each++) {
            check(unshare(CLONE_NEWNET), "unshare net");
            there[each] = open_own_net();
        }
    }
    for (int each = 0; each < MANY; each++)
        check(setns(there[each], CLONE_NEWNET), "setns on");
    check(setns(home, CLONE_NEWNET), "setns home");
    close(home);
}

static const struct {
    const char *name;
    void (*perform)(void);
} operations[] = {
    { "spawn", spawn },
    { "spawn_same_steps", spawn_same_steps },
    { "enter", enter },
    { "scan", scan },
    { "socket_elsewhere", socket_elsewhere },
    { "socket_named", socket_named },
    { "visit", visit },
};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc > 3 && strcmp(argv[1], "crowd") == 0)
        crowd(atol(argv[2]), argv + 3);
    char name[64];
    long count;
    while (scanf("%63s %ld", name, &count) == 2) {
        void (*perform)(void) = NULL;
        for (size_t each = 0; each < sizeof operations / sizeof *operations; each++)
            if (strcmp(name, operations[each].name) == 0)
                perform = operations[each].perform;
        if (!perform) {
            errno = EINVAL;
            die(name);
        }
        int64_t start = now();
        for (long each = 0; each < count; each++)
            perform();
        printf("%" PRId64 "\n", (now() - start) / count);
        fflush(stdout);
    }
    return 0;
}
