/* SPDX-License-Identifier: MIT */
/*
 * How the launcher begins, and what it needs of a C library: system calls, and a few loops.
 *
 * That of the system would do, and does where this file has no assembler (see setup.py). But before main glibc asks the
 * CPU what it can, and in a virtual machine each such question is one to the host: in a static program this takes twice
 * as long as all that the kernel does to execute it (docs/explanation/performance.rst).
 *
 * No thread is ever started and no lock taken: errno is one variable. Structures are the kernel's where, on these 64-bit
 * machines, those of the headers are; where they are not, the call says so.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>

/* A compiler that knows what memcpy is would make it of itself. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif

/* Not from their headers, where old ones have inline functions of these names. */
int main(int argc, char **argv);
long syscall(long number, ...);
_Noreturn void _exit(int status);

int *__errno_location(void);
char **environ;
static const unsigned long *auxiliary;
static int error_number;

int *__errno_location(void)
{
    return &error_number;
}

/* ---- from the kernel to main, and back ---- */

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n" /* the outermost frame */
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call nsapi_start\n"
        "    hlt\n");

static long call_kernel(long number, const long *a)
{
    long result;
    register long fourth __asm__("r10") = a[3];
    register long fifth __asm__("r8") = a[4];
    register long sixth __asm__("r9") = a[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl _start\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    bl nsapi_start\n"
        "    brk #0\n");

static long call_kernel(long number, const long *a)
{
    register long which __asm__("x8") = number;
    register long first __asm__("x0") = a[0];
    register long second __asm__("x1") = a[1];
    register long third __asm__("x2") = a[2];
    register long fourth __asm__("x3") = a[3];
    register long fifth __asm__("x4") = a[4];
    register long sixth __asm__("x5") = a[5];
    __asm__ volatile("svc #0"
                     : "+r"(first)
                     : "r"(which), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "memory");
    return first;
}
#else
#error "no assembler for this machine: link with its C library instead"
#endif

/* What lies on the stack at the start: argc, argv, NULL, the environment, NULL, the auxiliary vector. */
_Noreturn __attribute__((used)) void nsapi_start(long *stack);

_Noreturn void nsapi_start(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    environ = argv + argc + 1;
    char **end = environ;
    while (*end)
        end++;
    auxiliary = (const unsigned long *)(end + 1);
    _exit(main(argc, argv));
}

long syscall(long number, ...)
{
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int index = 0; index < 6; index++)
        arguments[index] = va_arg(list, long); /* those that were not given are not looked at */
    va_end(list);
    long result = call_kernel(number, arguments);
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

_Noreturn void _exit(int status)
{
    for (;;)
        syscall(SYS_exit_group, status);
}

unsigned long getauxval(unsigned long type)
{
    for (const unsigned long *pair = auxiliary; pair[0] != AT_NULL; pair += 2)
        if (pair[0] == type)
            return pair[1];
    errno = ENOENT;
    return 0;
}

/* ---- memory and strings: also the compiler calls the first four, for structures ---- */

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    for (size_t index = 0; index < size; index++)
        ((char *)to)[index] = ((const char *)from)[index];
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    if ((uintptr_t)to <= (uintptr_t)from) {
        for (size_t index = 0; index < size; index++)
            ((char *)to)[index] = ((const char *)from)[index];
        return to;
    }
    while (size-- > 0)
        ((char *)to)[size] = ((const char *)from)[size];
    return to;
}

void *memset(void *memory, int byte, size_t size)
{
    for (size_t index = 0; index < size; index++)
        ((char *)memory)[index] = (char)byte;
    return memory;
}

int memcmp(const void *one, const void *other, size_t size)
{
    const unsigned char *left = one, *right = other;
    for (size_t index = 0; index < size; index++)
        if (left[index] != right[index])
            return left[index] - right[index];
    return 0;
}

void *memchr(const void *memory, int byte, size_t size)
{
    for (const unsigned char *at = memory; size > 0; at++, size--)
        if (*at == (unsigned char)byte)
            return (void *)(uintptr_t)at;
    return NULL;
}

size_t strlen(const char *string)
{
    const char *end = string;
    while (*end)
        end++;
    return (size_t)(end - string);
}

int strcmp(const char *one, const char *other)
{
    for (; *one && *one == *other; one++)
        other++;
    return (unsigned char)*one - (unsigned char)*other;
}

char *strchr(const char *string, int wanted)
{
    for (; *string != (char)wanted; string++)
        if (!*string)
            return NULL;
    return (char *)(uintptr_t)string;
}

size_t strspn(const char *string, const char *accepted)
{
    size_t count = 0;
    while (string[count] && strchr(accepted, string[count]))
        count++;
    return count;
}

size_t strcspn(const char *string, const char *rejected)
{
    size_t count = 0;
    while (string[count] && !strchr(rejected, string[count]))
        count++;
    return count;
}

/* Who started us has the number, and better words than fit here. */
char *strerror(int number)
{
    static char text[] = "error";
    (void)number;
    return text;
}

char *getenv(const char *name)
{
    size_t length = strlen(name);
    for (char **each = environ; *each; each++)
        if (memcmp(*each, name, length) == 0 && (*each)[length] == '=')
            return *each + length + 1;
    return NULL;
}

/* ---- files ---- */

int open(const char *path, int flags, ...)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0); /* none is made */
}

int openat(int directory, const char *path, int flags, ...)
{
    return (int)syscall(SYS_openat, directory, path, flags, 0);
}

int close(int fd)
{
    return (int)syscall(SYS_close, fd);
}

ssize_t read(int fd, void *buffer, size_t size)
{
    return syscall(SYS_read, fd, buffer, size);
}

ssize_t write(int fd, const void *buffer, size_t size)
{
    return syscall(SYS_write, fd, buffer, size);
}

int fcntl(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    long argument = va_arg(list, long);
    va_end(list);
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    return (int)syscall(SYS_ioctl, fd, request, argument);
}

int dup2(int fd, int to)
{
    if (fd == to)
        return (int)syscall(SYS_fcntl, fd, F_GETFD) < 0 ? -1 : to;
    return (int)syscall(SYS_dup3, fd, to, 0);
}

int fstat(int fd, void *ret)
{
    return (int)syscall(SYS_fstat, fd, ret);
}

/* That of glibc before 2.33. */
int __fxstat(int version, int fd, void *ret)
{
    (void)version;
    return fstat(fd, ret);
}

int fstatfs(int fd, void *ret)
{
    return (int)syscall(SYS_fstatfs, fd, ret);
}

ssize_t readlinkat(int directory, const char *path, char *ret, size_t size)
{
    return syscall(SYS_readlinkat, directory, path, ret, size);
}

int chdir(const char *path)
{
    return (int)syscall(SYS_chdir, path);
}

int poll(struct pollfd *fds, nfds_t count, int milliseconds)
{
    struct timespec timeout = { milliseconds / 1000, milliseconds % 1000 * 1000000L };
    return (int)syscall(SYS_ppoll, fds, count, milliseconds < 0 ? NULL : &timeout, 0L, 0L);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    /* MAP_FAILED is -1 too. */
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}

int munmap(void *address, size_t size)
{
    return (int)syscall(SYS_munmap, address, size);
}

/* ---- sockets ---- */

int socketpair(int domain, int type, int protocol, int ret[2])
{
    return (int)syscall(SYS_socketpair, domain, type, protocol, ret);
}

ssize_t recv(int fd, void *buffer, size_t size, int flags)
{
    return syscall(SYS_recvfrom, fd, buffer, size, flags, 0L, 0L);
}

ssize_t send(int fd, const void *buffer, size_t size, int flags)
{
    return syscall(SYS_sendto, fd, buffer, size, flags, 0L, 0L);
}

ssize_t sendmsg(int fd, const void *message, int flags)
{
    return syscall(SYS_sendmsg, fd, message, flags);
}

/* ---- signals: the kernel's set is the first 64 bits of the headers' ---- */

enum { KERNEL_SET = 8 };

static unsigned long *bits(sigset_t *set)
{
    return (unsigned long *)set;
}

int sigemptyset(sigset_t *set)
{
    *bits(set) = 0;
    return 0;
}

int sigaddset(sigset_t *set, int number)
{
    *bits(set) |= 1UL << (number - 1);
    return 0;
}

int sigismember(const sigset_t *set, int number)
{
    return (int)(*(const unsigned long *)set >> (number - 1) & 1);
}

int sigprocmask(int how, const sigset_t *restrict set, sigset_t *restrict ret_before)
{
    return (int)syscall(SYS_rt_sigprocmask, how, set, ret_before, (size_t)KERNEL_SET);
}

int sigpending(sigset_t *ret)
{
    return (int)syscall(SYS_rt_sigpending, ret, (size_t)KERNEL_SET);
}

int sigtimedwait(const sigset_t *restrict set, siginfo_t *restrict info, const struct timespec *restrict timeout)
{
    return (int)syscall(SYS_rt_sigtimedwait, set, info, timeout, (size_t)KERNEL_SET);
}

int signalfd(int fd, const sigset_t *set, int flags)
{
    return (int)syscall(SYS_signalfd4, fd, set, (size_t)KERNEL_SET, flags);
}

/* Only to ignore, or no longer to: a handler would need a way back from it. */
sighandler_t signal(int number, sighandler_t handler)
{
    struct {
        sighandler_t handler;
        unsigned long flags;
        void *restorer;
        unsigned long mask;
    } action = { handler, 0, NULL, 0 };
    return syscall(SYS_rt_sigaction, number, &action, 0L, (size_t)KERNEL_SET) < 0 ? SIG_ERR : SIG_DFL;
}

int kill(pid_t pid, int number)
{
    return (int)syscall(SYS_kill, pid, number);
}

/* ---- processes ---- */

pid_t getpid(void)
{
    return (pid_t)syscall(SYS_getpid);
}

pid_t waitpid(pid_t pid, int *ret_status, int options)
{
    return (pid_t)syscall(SYS_wait4, pid, ret_status, options, 0L);
}

int execve(const char *path, char *const *argv, char *const *envp)
{
    return (int)syscall(SYS_execve, path, argv, envp);
}

int prctl(int option, ...)
{
    unsigned long arguments[4];
    va_list list;
    va_start(list, option);
    for (int index = 0; index < 4; index++)
        arguments[index] = va_arg(list, unsigned long);
    va_end(list);
    return (int)syscall(SYS_prctl, option, arguments[0], arguments[1], arguments[2], arguments[3]);
}

int getrlimit(unsigned resource, void *ret)
{
    return (int)syscall(SYS_prlimit64, 0, resource, 0L, ret);
}

pid_t setsid(void)
{
    return (pid_t)syscall(SYS_setsid);
}

uid_t geteuid(void)
{
    return (uid_t)syscall(SYS_geteuid);
}

gid_t getegid(void)
{
    return (gid_t)syscall(SYS_getegid);
}

int setuid(uid_t uid)
{
    return (int)syscall(SYS_setuid, uid);
}

int setgid(gid_t gid)
{
    return (int)syscall(SYS_setgid, gid);
}

int setresuid(uid_t real, uid_t effective, uid_t saved)
{
    return (int)syscall(SYS_setresuid, real, effective, saved);
}

int setresgid(gid_t real, gid_t effective, gid_t saved)
{
    return (int)syscall(SYS_setresgid, real, effective, saved);
}

int setgroups(size_t count, const gid_t *groups)
{
    return (int)syscall(SYS_setgroups, count, groups);
}

/* ---- namespaces ---- */

int setns(int fd, int type)
{
    return (int)syscall(SYS_setns, fd, type);
}

int unshare(int flags)
{
    return (int)syscall(SYS_unshare, flags);
}
