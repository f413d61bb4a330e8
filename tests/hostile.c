/* SPDX-License-Identifier: MIT */
/*
 * A stranger, for test_security: root, with all capabilities, in namespaces that somebody joins. As fast as it can it
 * looks for every process that is born in its pid namespace, and does to it what its argument says:
 *
 *   hunt    reach into it, by every way of ptrace(2) and /proc/PID
 *   kill    SIGKILL, and reach for its descriptors while it ends
 *   stop    SIGSTOP
 *
 * It says "ready"; "enough" when it has seen many of ours, or has got something; at SIGTERM what that is, a line each.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST_FD = 40, LINES = 20, ENOUGH = 8 };

static volatile sig_atomic_t over;
static int seen, last_seen, last_touched, lines, said;
static char line[LINES][200];

static void end(int number)
{
    (void)number;
    over = 1;
}

static void got(int pid, const char *what, const char *detail)
{
    if (lines < LINES)
        snprintf(line[lines++], sizeof line[0], "%d %s %.150s", pid, what, detail);
}

/* Everybody may read it. Ours have this name until they execute the program. */
static int is_joiner(int pid)
{
    char path[64], comm[32];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, comm, sizeof comm);
    close(fd);
    /* The preloaded object's stages are called as runc's, the launcher's by the number of the launch. */
    return length > 7 && (memcmp(comm, "runc:[2", 7) == 0 || memcmp(comm, "nsapi:", 6) == 0);
}

static void look(int pid)
{
    static const char *const files[] = { "environ", "maps", "auxv", "mem", "smaps", "pagemap", "io", "syscall", "stack" };
    static const char *const links[] = { "exe", "root", "cwd", "ns/mnt", "ns/net", "ns/user" };
    static const char *const folders[] = { "fd", "fdinfo", "map_files" };
    char path[64], found[200];
    for (size_t index = 0; index < sizeof files / sizeof *files; index++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[index]);
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            continue;
        /* What has ended opens, and is empty. */
        if (strcmp(files[index], "mem") == 0 ? is_joiner(pid) : read(fd, found, sizeof found) > 0)
            got(pid, "read", files[index]);
        close(fd);
    }
    for (size_t index = 0; index < sizeof links / sizeof *links; index++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, links[index]);
        ssize_t length = readlink(path, found, sizeof found - 1);
        if (length >= 0) {
            found[length] = '\0';
            got(pid, links[index], found);
        }
        int fd = open(path, O_PATH);
        if (fd >= 0) {
            got(pid, "open", links[index]);
            close(fd);
        }
    }
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    int fd = open(path, O_WRONLY);
    if (fd >= 0 || errno == ETXTBSY)
        got(pid, "write", "exe");
    if (fd >= 0)
        close(fd);
    for (size_t index = 0; index < sizeof folders / sizeof *folders; index++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, folders[index]);
        DIR *folder = opendir(path);
        if (!folder)
            continue;
        for (struct dirent *each; (each = readdir(folder));) {
            /* The names are the owner's to read, who is root where he is; what they stand for is not. */
            char name[400];
            snprintf(name, sizeof name, "%s/%s", path, each->d_name);
            ssize_t length = readlink(name, found, sizeof found - 1);
            int fd = open(name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
            if (length >= 0)
                found[length] = '\0';
            if (length >= 0 || (fd >= 0 && each->d_name[0] != '.' && read(fd, found, 1) > 0))
                got(pid, folders[index], length >= 0 ? found : each->d_name);
            if (fd >= 0)
                close(fd);
        }
        closedir(folder);
    }
}

static void take_descriptors(int pid, int pidfd)
{
    for (int number = 0; number < LAST_FD; number++) {
        int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
        if (fd < 0)
            continue;
        char path[64], found[160] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (readlink(path, found, sizeof found - 1) > 0)
            got(pid, "pidfd_getfd", found);
        close(fd);
    }
}

static void reach_into(int pid)
{
    char byte;
    struct iovec here = { &byte, 1 }, there = { (void *)4096, 1 };
    look(pid);
    if (process_vm_readv(pid, &here, 1, &there, 1, 0) >= 0 || errno == EFAULT)
        got(pid, "process_vm_readv", "");
    if (syscall(SYS_kcmp, pid, pid, 2 /* KCMP_FILES */, 0, 0) >= 0)
        got(pid, "kcmp", "");
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd >= 0) {
        take_descriptors(pid, pidfd);
        close(pidfd);
    }
    static const enum __ptrace_request ways[] = { PTRACE_SEIZE, PTRACE_ATTACH };
    for (int index = 0; index < 2; index++)
        if (ptrace(ways[index], pid, NULL, NULL) == 0) {
            got(pid, "ptrace", index ? "attach" : "seize");
            if (!index)
                ptrace(PTRACE_INTERRUPT, pid, NULL, NULL);
            waitpid(pid, NULL, __WALL);
            ptrace(PTRACE_DETACH, pid, NULL, NULL);
        }
}

static void kill_and_take(int pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return;
    kill(pid, SIGKILL);
    /* While it ends it has no memory any more, and so nothing that would say it is not to be looked into. */
    for (int round = 0; round < 100 && kill(pid, 0) == 0; round++)
        take_descriptors(pid, pidfd);
    close(pidfd);
}

static void act(const char *what, int pid)
{
    if (pid <= 1 || pid == getpid() || kill(pid, 0) < 0)
        return;
    if (pid > last_seen && is_joiner(pid)) {
        last_seen = pid;
        seen++;
    }
    if (what[0] == 'h') {
        reach_into(pid);
    } else if (pid > last_touched) {
        last_touched = pid;
        if (what[0] == 'k')
            kill_and_take(pid);
        else
            kill(pid, SIGSTOP);
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "hunt";
    signal(SIGTERM, end);
    signal(SIGALRM, end);
    alarm(120); /* whoever has started it may have been killed */
    int last_pid = open("/proc/sys/kernel/ns_last_pid", O_RDONLY);
    if (last_pid < 0)
        return 1;
    puts("ready");
    fflush(stdout);
    while (!over) {
        char digits[16] = "";
        if (pread(last_pid, digits, sizeof digits - 1, 0) <= 0)
            return 1;
        int last = atoi(digits);
        for (int back = 0; back < 3; back++)
            act(what, last - back);
        if (!said && (seen >= ENOUGH || lines)) {
            said = 1;
            puts("enough");
            fflush(stdout);
        }
    }
    for (int index = 0; index < lines; index++)
        puts(line[index]);
    return 0;
}
