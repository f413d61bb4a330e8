/* SPDX-License-Identifier: MIT */
/*
 * A program that is started by way of nsexec(), as `runc init` is: it tells its tests, in one line of JSON on stdout,
 * what it is when its main() begins, and then lives until stdin ends.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void nsexec(void);

__attribute__((constructor)) static void before_main(void)
{
    errno = 77;
    nsexec();
}

extern char **environ;

static void print_string(const char *string)
{
    putchar('"');
    for (; *string; string++)
        if (*string == '"' || *string == '\\' || (unsigned char)*string < 0x20)
            printf("\\u%04x", (unsigned)*string);
        else
            putchar(*string);
    putchar('"');
}

static void print_link(const char *comma, const char *folder, const char *name)
{
    char path[300], target[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    ssize_t length = readlink(path, target, sizeof target - 1);
    target[length < 0 ? 0 : length] = '\0';
    printf("%s\"%s\":", comma, name);
    print_string(target);
}

/* By name: who is not dumpable may look up what is in its own folder, but not list it. */
static void print_namespaces(void)
{
    static const char *const names[] = { "user", "ipc", "uts", "net", "pid", "mnt", "cgroup", "time" };
    printf("\"ns\":{");
    for (size_t index = 0; index < sizeof names / sizeof *names; index++)
        print_link(index ? "," : "", "/proc/self/ns", names[index]);
    printf("},");
}

/* All but the fd that reads them. */
static void print_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    const char *comma = "";
    printf("\"fds\":{");
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(dir))
            continue;
        print_link(comma, "/proc/self/fd", entry->d_name);
        comma = ",";
    }
    printf("},");
    if (dir)
        closedir(dir);
}

static void print_file(const char *key, const char *path)
{
    char content[32768]; /* 340 extents, as the kernel pads them */
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(content, 1, sizeof content - 1, file) : 0;
    content[length] = '\0';
    printf("\"%s\":", key);
    print_string(content);
    printf(",");
    if (file)
        fclose(file);
}

static int count_threads(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/task");
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        count += entry->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return count;
}

static void print_environment(void)
{
    printf("\"environment\":[");
    for (char **each = environ; *each; each++) {
        printf(each == environ ? "" : ",");
        print_string(*each);
    }
    printf("],");
}

/* What the init pipe still holds, in hexadecimal; nothing may have been read of it but the message. */
static void print_rest(void)
{
    const char *fd = getenv("_LIBCONTAINER_INITPIPE");
    unsigned char rest[4096];
    ssize_t length = fd && *fd ? recv(atoi(fd), rest, sizeof rest, MSG_DONTWAIT | MSG_PEEK) : 0;
    printf("\"rest\":\"");
    for (ssize_t index = 0; index < length; index++)
        printf("%02x", rest[index]);
    printf("\",");
}

int main(void)
{
    int first_errno = errno;
    uid_t uid[3];
    gid_t gid[3], groups[64];
    char comm[16] = "";
    clockid_t clock;
    struct timespec boottime = { 0, 0 }, cpu;
    sigset_t blocked;
    int thread_id_known = pthread_getcpuclockid(pthread_self(), &clock) == 0 && clock_gettime(clock, &cpu) == 0;

    getresuid(&uid[0], &uid[1], &uid[2]);
    getresgid(&gid[0], &gid[1], &gid[2]);
    int group_count = getgroups(64, groups);
    prctl(PR_GET_NAME, comm);
    clock_gettime(CLOCK_BOOTTIME, &boottime);
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    printf("{\"errno\":%d,\"pid\":%d,\"sid\":%d,\"pgid\":%d,", first_errno, getpid(), getsid(0), getpgid(0));
    printf("\"threads\":%d,\"dumpable\":%d,\"thread_id_known\":%d,", count_threads(), prctl(PR_GET_DUMPABLE),
           thread_id_known);
    printf("\"uid\":[%u,%u,%u],\"gid\":[%u,%u,%u],\"group_count\":%d,", uid[0], uid[1], uid[2], gid[0], gid[1], gid[2],
           group_count);
    printf("\"boottime\":%lld,\"sigpipe_blocked\":%d,\"comm\":\"%s\",", (long long)boottime.tv_sec,
           sigismember(&blocked, SIGPIPE), comm);
    print_namespaces();
    print_descriptors();
    print_file("uid_map", "/proc/self/uid_map");
    print_file("gid_map", "/proc/self/gid_map");
    print_file("setgroups", "/proc/self/setgroups");
    print_file("oom_score_adj", "/proc/self/oom_score_adj");
    print_environment();
    print_rest();
    printf("\"end\":0}\n");
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    return 7;
}
