/* SPDX-License-Identifier: MIT */
/* What _start.c has in the place of a C library. The exit status is 0, or the line of what is not as the man page says. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST = 64 }; /* SIGRTMAX is a function of the library */

#define MUST(what)          \
    do                      \
        if (!(what))        \
            return __LINE__; \
    while (0)

static int memory(void)
{
    char text[] = "0123456789", *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(memmove(text + 2, text, 5) == text + 2 && strcmp(text, "0101234789") == 0);
    MUST(memmove(text, text + 2, 5) == text && strcmp(text, "0123434789") == 0);
    MUST(memchr(text, '4', 10) == text + 4 && !memchr(text, '4', 4) && memchr(text, 0, 11) == text + 10);
    MUST(memcmp("a\xff", "a\x01", 2) > 0 && memcmp("a", "b", 1) < 0 && memcmp("a", "b", 0) == 0);
    MUST(page != MAP_FAILED && memset(page, 7, 4096) == page && page[4095] == 7 && munmap(page, 4096) == 0);
    MUST(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
    return 0;
}

static int strings(void)
{
    const char *text = "key=value";
    MUST(strlen("") == 0 && strlen(text) == 9);
    MUST(strcmp("a", "a") == 0 && strcmp("a", "ab") < 0 && strcmp("\xff", "a") > 0);
    MUST(strchr(text, '=') == text + 3 && !strchr(text, '?') && strchr(text, 0) == text + 9);
    MUST(strspn("  x", " \t") == 2 && strspn("", "x") == 0 && strspn("xx", "x") == 2);
    MUST(strcspn("x \t", " \t") == 1 && strcspn("xx", " ") == 2);
    return 0;
}

static int files(int argc, char **argv)
{
    struct stat status;
    struct statfs fs;
    struct rlimit limit;
    char link[8] = "";
    int ends[2], proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), flags = fcntl(proc, F_GETFD);
    struct pollfd ready = { .events = POLLIN };
    MUST(argc == 3 && strcmp(argv[1], "one") == 0 && strcmp(argv[2], "two") == 0 && !argv[3]);
    MUST(strcmp(getenv("WANTED"), "found") == 0 && !getenv("WANT") && !getenv("ABSENT"));
    MUST(getauxval(AT_PAGESZ) >= 4096 && getauxval(AT_SECURE) == 0);
    MUST(getauxval(99999) == 0 && errno == ENOENT);
    MUST(flags == FD_CLOEXEC && fstat(proc, &status) == 0 && S_ISDIR(status.st_mode));
    MUST(fstatfs(proc, &fs) == 0 && fs.f_type == 0x9fa0);
    MUST(readlinkat(proc, "self", link, sizeof link) > 0 && link[0] >= '1' && link[0] <= '9');
    MUST(openat(proc, "no such file", O_RDONLY) == -1 && errno == ENOENT);
    MUST(dup2(proc, proc) == proc && dup2(999, 999) == -1 && dup2(proc, 77) == 77 && close(77) == 0 && close(77) < 0);
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
    ready.fd = ends[1];
    MUST(poll(&ready, 1, 0) == 0 && poll(&ready, 1, 1) == 0);
    MUST(send(ends[0], "hello", 5, MSG_NOSIGNAL) == 5 && poll(&ready, 1, -1) == 1);
    MUST(recv(ends[1], link, sizeof link, 0) == 5 && memcmp(link, "hello", 5) == 0);
    MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 2 && limit.rlim_cur <= limit.rlim_max);
    return 0;
}

static int signals(void)
{
    sigset_t set, before, pending;
    struct signalfd_siginfo info;
    const struct timespec now = { 0, 0 };
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, LAST);
    MUST(sigismember(&set, SIGUSR1) && sigismember(&set, LAST) && !sigismember(&set, SIGUSR2));
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && sigprocmask(SIG_BLOCK, NULL, &before) == 0);
    MUST(sigismember(&before, SIGUSR1) && kill(getpid(), SIGUSR1) == 0);
    MUST(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) && !sigismember(&pending, LAST));
    MUST(sigtimedwait(&set, NULL, &now) == SIGUSR1 && sigtimedwait(&set, NULL, &now) == -1 && errno == EAGAIN);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    MUST(fd >= 0 && read(fd, &info, sizeof info) == -1 && errno == EAGAIN && kill(getpid(), SIGUSR1) == 0);
    MUST(read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1);
    MUST(signal(SIGTERM, SIG_IGN) != SIG_ERR && kill(getpid(), SIGTERM) == 0 && signal(SIGTERM, SIG_DFL) != SIG_ERR);
    MUST(signal(SIGKILL, SIG_IGN) == SIG_ERR && errno == EINVAL);
    return 0;
}

static int processes(void)
{
    char *argv[] = { "/bin/sh", "-c", "exit $STATUS", NULL }, *env[] = { "STATUS=7", NULL };
    int status;
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) {
        execve(argv[0], argv, env);
        _exit(1);
    }
    MUST(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    MUST(waitpid(-1, &status, 0) == -1 && errno == ECHILD);
    MUST(prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L) == 0 && prctl(PR_GET_DUMPABLE, 0L, 0L, 0L, 0L) == 0);
    MUST(setresgid(getegid(), getegid(), getegid()) == 0 && setresuid(geteuid(), geteuid(), geteuid()) == 0);
    MUST(execve("/no/such/program", argv, env) == -1 && errno == ENOENT);
    return 0;
}

int main(int argc, char **argv)
{
    int (*const parts[])(void) = { memory, strings, signals, processes };
    int line = files(argc, argv);
    for (size_t index = 0; line == 0 && index < sizeof parts / sizeof *parts; index++)
        line = parts[index]();
    return line;
}
