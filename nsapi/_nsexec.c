/* SPDX-License-Identifier: MIT */
/*
 * The bootstrap: reads from a pipe what namespaces are wanted, makes and joins them, goes on inside, with one thread.
 *
 * It speaks the protocol of runc's libcontainer/nsenter, in whose place nsexec() can be linked: the speaker hands over
 * a socket in _LIBCONTAINER_INITPIPE, sends one message (in netlink's form), gets the pids back as a line of JSON.
 *
 *   stage 0   the process that was started. It keeps its ids and namespaces: only so can it write the maps. Exits 0.
 *   stage 1   joins and unshares. No new pid or time namespace can hold it, only its child. Exits 0.
 *   stage 2   is that child. It returns from nsexec() into the program.
 *
 * All three are children of the speaker (CLONE_PARENT), which reaps them. Each is a plain copy of its maker, and goes
 * on in the next line. They talk by two socket pairs, where the death of one is the end of file of the other.
 *
 * Who fails says so in one fatal line, returns -1 up to the top, and tells stage 0, which ends the others. Only
 * nsexec() exits. All that is written to is the stack and one mapping for the message: the program is a stranger's.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_kernel.h"
#include "_nsexec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <grp.h>
#include <linux/netlink.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

void nsexec(void);

/*
 * runc's log.c, which stays beside this file when it is in the place of runc's nsexec.c, reads this variable to say
 * what stage it logs for. Nobody calls it; only the linker asks.
 */
extern const int current_stage;
const int current_stage __attribute__((visibility("hidden"))) = -1;

/* ---- descriptors ---- */

/* Closes at the end of the scope and keeps errno, so that a failure is one line. */
static void close_owned(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
    }
    *fd = -1;
}
#define cleanup_close __attribute__((cleanup(close_owned)))

static long fs_magic(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) < 0 ? -1 : (long)fs.f_type;
}

/* A speaker may have left its socket non-blocking; we always wait. */
static bool worth_retrying(int fd, short events)
{
    if (errno == EINTR)
        return true;
    if (errno != EAGAIN)
        return false;
    struct pollfd ready = { .fd = fd, .events = events };
    return poll(&ready, 1, -1) >= 0 || errno == EINTR;
}

/* ---- text, without stdio or locale ---- */

enum { LINE_SIZE = 4096 }; /* PIPE_BUF: what is no longer is written as one, whoever else writes to the pipe */

typedef struct {
    char *at;
    char *end;
    bool json;
} text;

static void put_raw(text *out, const char *string)
{
    size_t length = strlen(string), room = (size_t)(out->end - out->at);
    if (length > room)
        length = room;
    memcpy(out->at, string, length);
    out->at += length;
}

/* What JSON forbids in a string, as its escape; NULL for what may stand as it is. */
static const char *json_escape(unsigned char c, char ret_unicode[7])
{
    static const char short_form[][3] = {
        ['"'] = "\\\"", ['\\'] = "\\\\", ['\b'] = "\\b", ['\f'] = "\\f", ['\n'] = "\\n", ['\r'] = "\\r", ['\t'] = "\\t",
    };
    static const char digits[] = "0123456789abcdef";
    if (c < LENGTH(short_form) && short_form[c][0])
        return short_form[c];
    if (c >= 0x20 && c != 0x7f)
        return NULL;
    memcpy(ret_unicode, "\\u00", 4);
    ret_unicode[4] = digits[c >> 4];
    ret_unicode[5] = digits[c & 15];
    ret_unicode[6] = '\0';
    return ret_unicode;
}

static void put(text *out, const char *string)
{
    if (!out->json) {
        put_raw(out, string);
        return;
    }
    for (; *string; string++) {
        char unicode[7], plain[2] = { *string, '\0' };
        const char *escape = json_escape((unsigned char)*string, unicode);
        if ((size_t)(out->end - out->at) < sizeof unicode) { /* no half escapes, and nothing after a gap */
            out->end = out->at;
            return;
        }
        put_raw(out, escape ? escape : plain);
    }
}

static void put_number(text *out, unsigned long long number, unsigned base)
{
    char digits[24], *at = digits + sizeof digits;
    *--at = '\0';
    do {
        *--at = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    put(out, at);
}

/* %s, %d, %u and %llx: all that is used here. */
static void put_format(text *out, const char *format, va_list arguments)
{
    for (; *format; format++) {
        char plain[2] = { *format, '\0' };
        if (*format != '%') {
            put(out, plain);
            continue;
        }
        int number;
        switch (*++format) {
        case 's':
            put(out, va_arg(arguments, const char *));
            break;
        case 'd':
            number = va_arg(arguments, int);
            if (number < 0)
                put(out, "-");
            put_number(out, number < 0 ? 0U - (unsigned)number : (unsigned)number, 10);
            break;
        case 'u':
            put_number(out, va_arg(arguments, unsigned), 10);
            break;
        default:
            format += 2;
            put_number(out, va_arg(arguments, unsigned long long), 16);
        }
    }
}

/* The whole of a decimal number from least to most; anything else, also a blank or a sign too many, is -1. */
static int parse_int(const char *digits, long least, long most, long *ret_number)
{
    bool negative = *digits == '-';
    const char *at = digits + negative;
    long number = 0;
    if (!*at)
        return -1;
    for (; *at; at++) {
        if (!(*at >= '0' && *at <= '9') || number > (LONG_MAX - 9) / 10)
            return -1;
        number = number * 10 + (*at - '0');
    }
    if (negative)
        number = -number;
    if (number < least || number > most)
        return -1;
    *ret_number = number;
    return 0;
}

/* ---- the log: lines of JSON for the speaker ---- */

enum { LEVEL_FATAL = 1, LEVEL_ERROR, LEVEL_DEBUG = 5 }; /* logrus' numbers; those that are used here */

typedef struct {
    int fd;       /* or -1 */
    int fallback; /* stderr, for fatal lines where there is no log; -1 if we were started without one */
    int level;
    int stage;    /* -1 before there are any */
    bool errnos;  /* see nsexec_rules */
} journal;

/*
 * The reader may have gone; that must not end us by SIGPIPE. What cannot be written is lost. A signal that was there
 * before stays.
 */
static void write_quietly(int fd, const char *line, size_t size)
{
    for (;;) {
        if (send(fd, line, size, MSG_NOSIGNAL) >= 0)
            return;
        if (errno == ENOTSOCK)
            break;
        if (!worth_retrying(fd, POLLOUT))
            return;
    }
    sigset_t broken_pipe, before, pending;
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    sigemptyset(&pending);
    sigpending(&pending);
    sigprocmask(SIG_BLOCK, &broken_pipe, &before);
    while (write(fd, line, size) < 0) {
        if (errno == EPIPE && !sigismember(&pending, SIGPIPE)) {
            const struct timespec now = { 0, 0 };
            sigtimedwait(&broken_pipe, NULL, &now);
        }
        if (!worth_retrying(fd, POLLOUT))
            break;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
}

static bool is_logged(const journal *log, int level)
{
    return log->fd >= 0 ? level <= log->level : level <= LEVEL_FATAL && log->fallback >= 0;
}

static void log_line(const journal *log, int level, int errnum, const char *format, va_list arguments)
{
    static const char *const names[] = { "panic", "fatal", "error", "warning", "info", "debug", "trace" };
    static const char tail[] = "}\n", number[] = ",\"errno\":2147483647";
    char line[LINE_SIZE];
    text out = { .at = line, .end = line + sizeof line - sizeof tail - sizeof number - 1 };
    bool json = log->fd >= 0;

    if (json) {
        put(&out, "{\"level\":\"");
        put(&out, names[level]);
        put(&out, "\", \"msg\": \"nsexec");
        if (log->stage >= 0) {
            put(&out, "-");
            put_number(&out, (unsigned)log->stage, 10);
        }
        put(&out, "[");
        put_number(&out, (unsigned)getpid(), 10);
        put(&out, "]: ");
    } else {
        put(&out, "FATAL: ");
    }
    out.json = json;
    put_format(&out, format, arguments);
    if (errnum && !log->errnos) {
        put(&out, ": ");
        put(&out, strerror(errnum));
    }
    out.json = false;
    out.end = line + sizeof line;
    put_raw(&out, json ? "\"" : "\n");
    if (json && log->errnos && level <= LEVEL_FATAL) {
        put(&out, ",\"errno\":");
        put_number(&out, (unsigned)errnum, 10);
    }
    if (json)
        put_raw(&out, tail);
    write_quietly(json ? log->fd : log->fallback, line, (size_t)(out.at - line));
}

#define PRINTF(text, first) __attribute__((format(printf, text, first)))

PRINTF(3, 4) static void say(const journal *log, int level, const char *format, ...)
{
    if (!is_logged(log, level))
        return;
    int saved = errno;
    va_list arguments;
    va_start(arguments, format);
    log_line(log, level, 0, format, arguments);
    va_end(arguments);
    errno = saved;
}

/* A system call has failed: says which, and why. Always -1, for `return fail(…)`. */
PRINTF(2, 3) static int fail(const journal *log, const char *format, ...)
{
    if (!is_logged(log, LEVEL_FATAL))
        return -1;
    va_list arguments;
    va_start(arguments, format);
    log_line(log, LEVEL_FATAL, errno, format, arguments);
    va_end(arguments);
    return -1;
}

/* We will not; no system call is to blame. */
PRINTF(2, 3) static int refuse(const journal *log, const char *format, ...)
{
    if (!is_logged(log, LEVEL_FATAL))
        return -1;
    va_list arguments;
    va_start(arguments, format);
    log_line(log, LEVEL_FATAL, 0, format, arguments);
    va_end(arguments);
    return -1;
}

/* ---- namespaces ---- */

static const struct {
    char name[7]; /* in the message, and in /proc/PID/ns */
    int flag;
} types[] = {
    { "mnt", CLONE_NEWNS },   { "net", CLONE_NEWNET },   { "pid", CLONE_NEWPID },       { "ipc", CLONE_NEWIPC },
    { "user", CLONE_NEWUSER }, { "uts", CLONE_NEWUTS }, { "cgroup", CLONE_NEWCGROUP }, { "time", CLONE_NEWTIME },
};

enum {
    TYPES = LENGTH(types),
    NEW_OF_ALL = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWUTS |
                 CLONE_NEWCGROUP | CLONE_NEWTIME,
};

static const char *name_of(int flag)
{
    for (size_t index = 0; index < TYPES; index++)
        if (types[index].flag == flag)
            return types[index].name;
    return "unknown";
}

typedef struct {
    int flag;
    const char *path;
    int fd; /* -1 before it is opened */
    bool joined;
} join;

/* ---- the message ---- */

enum { INIT_MESSAGE = 62000, MESSAGE_MAX = UINT16_MAX, FIRST_ATTRIBUTE = 27281 };

/* What is wanted. The strings lie in the payload that was parsed. */
typedef struct {
    uint32_t new_types; /* CLONE_NEW* */
    uint32_t setgroups;
    uint32_t rootless;
    char *paths; /* cut up: see joins */
    char *uid_map, *gid_map;
    char *uid_helper, *gid_helper;
    char *oom_score_adj;
    char *time_offsets;
    join joins[TYPES];
    size_t join_count;
    int joined_types;
} message;

static bool is_some_text(const char *text)
{
    return *text != '\0';
}

static bool is_absolute(const char *path)
{
    return *path == '/';
}

/*
 * Lines of three numbers below 2^32. What they may be is the kernel's business; but they become the arguments of a
 * setuid program, so they are numbers and nothing else.
 */
static bool is_map(const char *map)
{
    do {
        for (int field = 0; field < 3; field++) {
            uint64_t number = 0;
            map += strspn(map, " \t");
            if (!(*map >= '0' && *map <= '9'))
                return false;
            for (; *map >= '0' && *map <= '9'; map++) {
                number = number * 10 + (uint64_t)(*map - '0');
                if (number > UINT32_MAX)
                    return false;
            }
            if (*map != ' ' && *map != '\t' && field < 2)
                return false;
        }
        map += strspn(map, " \t");
        if (*map && *map++ != '\n')
            return false;
    } while (*map);
    return true;
}

typedef struct {
    const char *name;
    size_t offset;               /* in message: where a number or a string goes */
    uint32_t bits;               /* those a number may have; 0: it is a string */
    bool (*valid)(const char *); /* strings only */
} attribute;

#define NUMBER(name, member, bits) { name, offsetof(message, member), bits, NULL }
#define STRING(name, member, valid) { name, offsetof(message, member), 0, valid }

/* By number, from FIRST_ATTRIBUTE. */
static const attribute attributes[] = {
    NUMBER("CLONE_FLAGS", new_types, NEW_OF_ALL),
    STRING("NS_PATHS", paths, is_some_text),
    STRING("UIDMAP", uid_map, is_map),
    STRING("GIDMAP", gid_map, is_map),
    NUMBER("SETGROUP", setgroups, 1),
    STRING("OOM_SCORE_ADJ", oom_score_adj, is_some_text),
    NUMBER("ROOTLESS_EUID", rootless, 1),
    STRING("UIDMAPPATH", uid_helper, is_absolute),
    STRING("GIDMAPPATH", gid_helper, is_absolute),
    STRING("TIMENSOFFSET", time_offsets, is_some_text),
};

static int take_number(const journal *log, const attribute *is, const char *payload, size_t length, message *ret)
{
    uint32_t number;
    if (length != sizeof number)
        return refuse(log, "bad message: %s has %u bytes instead of 4", is->name, (unsigned)length);
    memcpy(&number, payload, sizeof number);
    if (number & ~is->bits)
        return refuse(log, "bad message: %s is 0x%llx", is->name, (unsigned long long)number);
    memcpy((char *)ret + is->offset, &number, sizeof number);
    return 0;
}

static int take_string(const journal *log, const attribute *is, char *payload, size_t length, message *ret)
{
    if (length == 0 || memchr(payload, '\0', length) != payload + length - 1)
        return refuse(log, "bad message: %s is no string that ends with its only NUL", is->name);
    if (!is->valid(payload))
        return refuse(log, "bad message: %s is not what it should be: %s", is->name, payload);
    memcpy((char *)ret + is->offset, &payload, sizeof payload);
    return 0;
}

static int take_join(const journal *log, char *item, message *ret)
{
    char *colon = strchr(item, ':');
    if (!colon || !colon[1])
        return refuse(log, "bad message: NS_PATHS has an item that is not type:path: %s", item);
    *colon = '\0';
    for (size_t index = 0; index < TYPES; index++) {
        if (strcmp(types[index].name, item) != 0)
            continue;
        if (ret->joined_types & types[index].flag)
            return refuse(log, "bad message: NS_PATHS has %s twice", item);
        ret->joined_types |= types[index].flag;
        ret->joins[ret->join_count++] = (join){ .flag = types[index].flag, .path = colon + 1, .fd = -1 };
        return 0;
    }
    return refuse(log, "bad message: NS_PATHS has a type that is none: %s", item);
}

static int take_joins(const journal *log, message *ret)
{
    for (char *item = ret->paths, *next; item; item = next) {
        next = strchr(item, ',');
        if (next)
            *next++ = '\0';
        if (take_join(log, item, ret) < 0)
            return -1;
    }
    return 0;
}

/* What is said must also make sense: anything that would be ignored silently is a misunderstanding. */
static int check_message(const journal *log, const message *wanted)
{
    int both = (int)wanted->new_types & wanted->joined_types;
    for (size_t index = 0; index < TYPES; index++)
        if (both & types[index].flag)
            return refuse(log, "bad message: %s is to be created and joined", types[index].name);
    if ((wanted->uid_map || wanted->gid_map) && !(wanted->new_types & CLONE_NEWUSER))
        return refuse(log, "bad message: id maps without a new user namespace");
    if (wanted->time_offsets && !(wanted->new_types & CLONE_NEWTIME))
        return refuse(log, "bad message: time offsets without a new time namespace");
    return 0;
}

/* The payload behind the header. It is cut up, and must live as long as *ret. */
static int parse_message(const journal *log, char *payload, size_t length, message *ret)
{
    uint32_t seen = 0;
    *ret = (message){ 0 };
    while (length > 0) {
        struct nlattr header;
        if (length < sizeof header)
            return refuse(log, "bad message: %u bytes behind the last attribute", (unsigned)length);
        memcpy(&header, payload, sizeof header);
        size_t number = (size_t)header.nla_type - FIRST_ATTRIBUTE; /* wraps to a large one below the first */
        if (number >= LENGTH(attributes))
            return refuse(log, "bad message: unknown attribute %u", (unsigned)header.nla_type);
        const attribute *is = &attributes[number];
        if (seen & 1U << number)
            return refuse(log, "bad message: %s twice", is->name);
        seen |= 1U << number;
        if (header.nla_len < sizeof header || header.nla_len > length)
            return refuse(log, "bad message: %s says it has %u bytes of %u", is->name, (unsigned)header.nla_len,
                          (unsigned)length);
        char *body = payload + sizeof header;
        size_t size = header.nla_len - sizeof header;
        if ((is->bits ? take_number(log, is, body, size, ret) : take_string(log, is, body, size, ret)) < 0)
            return -1;
        /* The last may lack its padding, as everywhere in netlink. */
        size_t padded = NLMSG_ALIGN((size_t)header.nla_len);
        if (padded > length && header.nla_len != length)
            return refuse(log, "bad message: the padding of %s is cut", is->name);
        payload += padded < length ? padded : length;
        length -= padded < length ? padded : length;
    }
    if (!(seen & 1U))
        return refuse(log, "bad message: no %s", attributes[0].name);
    if (take_joins(log, ret) < 0)
        return -1;
    return check_message(log, ret);
}

/* ---- one bootstrap ---- */

/* Another stage. */
typedef struct {
    const char *name;
    int theirs; /* its end of the socket pair, ... */
    int ours;   /* ... and that of stage 0 */
    pid_t pid;  /* as we see it; 0 before there is one */
    int pidfd;  /* -1 where pid must do */
    int speaker; /* the init pipe, if all ends with it; else -1 */
} peer;

typedef struct {
    nsexec_rules rules;
    journal log;
    int init_pipe; /* lent by the speaker, and the program's afterwards */
    message wanted;
    void *memory; /* the payload, and room for the arguments of a helper */
    size_t memory_size;
    char **arguments;
    int proc; /* our /proc, opened before any foreign one could be in its place; -1 if it is not needed */
    peer child, init, reaper;
} bootstrap;

/* ---- reading it ---- */

/* An int of the environment that must be a descriptor or a level. 1: it is there; 0: it is not; -1: it is bad. */
static int read_variable(const journal *log, const char *name, int *ret)
{
    const char *value = getenv(name);
    long number;
    if (!value || !*value)
        return 0;
    if (parse_int(value, 0, INT_MAX, &number) < 0)
        return refuse(log, "%s is no number from 0 on: %s", name, value);
    *ret = (int)number;
    return 1;
}

static int read_environment(bootstrap *boot)
{
    journal *log = &boot->log;
    if (read_variable(log, "_LIBCONTAINER_LOGPIPE", &log->fd) < 0)
        return -1;
    if (read_variable(log, "_LIBCONTAINER_LOGLEVEL", &log->level) < 0)
        return -1;
    return read_variable(log, "_LIBCONTAINER_INITPIPE", &boot->init_pipe) < 0 ? -1 : 0;
}

/* Never a byte more: what follows in the pipe is for the program. */
static int read_exactly(const bootstrap *boot, void *buffer, size_t size, const char *what)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = read(boot->init_pipe, (char *)buffer + done, size - done);
        if (got == 0)
            return refuse(&boot->log, "the init pipe ended after %u of the %u bytes of the %s", (unsigned)done,
                          (unsigned)size, what);
        if (got > 0)
            done += (size_t)got;
        else if (!worth_retrying(boot->init_pipe, POLLIN))
            return fail(&boot->log, "read the %s from the init pipe", what);
    }
    return 0;
}

/* One mapping for all that the message can need: arguments have a byte and a blank at least; name, pid, NULL. */
static char *allocate(bootstrap *boot, size_t length)
{
    size_t slots = length / 2 + 4;
    boot->memory_size = slots * sizeof *boot->arguments + length;
    void *memory = mmap(NULL, boot->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fail(&boot->log, "allocate %u bytes for the message", (unsigned)boot->memory_size);
        return NULL;
    }
    boot->memory = memory;
    boot->arguments = memory;
    return (char *)memory + slots * sizeof *boot->arguments;
}

static int read_message(bootstrap *boot)
{
    struct stat pipe;
    struct nlmsghdr header;
    if (fstat(boot->init_pipe, &pipe) < 0)
        return fail(&boot->log, "look at the init pipe, fd %d", boot->init_pipe);
    /* A wrong number must not make us read, or wait for, what is meant for somebody else. */
    if (!S_ISSOCK(pipe.st_mode))
        return refuse(&boot->log, "the init pipe, fd %d, is no socket", boot->init_pipe);
    if (read_exactly(boot, &header, sizeof header, "header") < 0)
        return -1;
    if (header.nlmsg_type != INIT_MESSAGE)
        return refuse(&boot->log, "bad message: its type is %u, not %d", (unsigned)header.nlmsg_type, INIT_MESSAGE);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > MESSAGE_MAX)
        return refuse(&boot->log, "bad message: it says it has %u bytes", (unsigned)header.nlmsg_len);
    size_t length = header.nlmsg_len - sizeof header;
    char *payload = allocate(boot, length);
    if (!payload)
        return -1;
    if (read_exactly(boot, payload, length, "message") < 0)
        return -1;
    return parse_message(&boot->log, payload, length, &boot->wanted);
}

/* ---- /proc ---- */

static int open_proc(bootstrap *boot)
{
    const message *wanted = &boot->wanted;
    if (!wanted->oom_score_adj && !wanted->uid_map && !wanted->gid_map && !wanted->time_offsets &&
        !boot->rules.deny_setgroups)
        return 0;
    boot->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (boot->proc < 0)
        return fail(&boot->log, "open /proc");
    if (fs_magic(boot->proc) != PROC_SUPER_MAGIC)
        return refuse(&boot->log, "what is mounted on /proc is no procfs");
    return 0;
}

/*
 * Beneath, on one mount: our caller may himself be in a stranger's mount namespace, where over /proc/self, a link, or a
 * file there could lie that of another process. Where a seccomp filter does not know openat2, the magic must do.
 */
static int open_beneath(int dir, const char *name, int flags)
{
    nsapi_open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC),
        .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH,
    };
    int fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof how);
    return fd < 0 && errno == ENOSYS ? openat(dir, name, flags | O_CLOEXEC) : fd;
}

static int open_for_writing(const bootstrap *boot, int dir, const char *name)
{
    int fd = open_beneath(dir, name, O_WRONLY | O_NOFOLLOW);
    if (fd >= 0 && fs_magic(fd) != PROC_SUPER_MAGIC) {
        close(fd);
        fd = -1;
        errno = EXDEV;
    }
    if (fd < 0 && errno == EXDEV)
        say(&boot->log, LEVEL_ERROR, "something is mounted over /proc/…/%s", name);
    return fd;
}

/* One write(2): the kernel takes a map, or the offsets, in a single call only. */
static int write_once(int fd, const char *content)
{
    size_t length = strlen(content);
    ssize_t written;
    while ((written = write(fd, content, length)) < 0 && errno == EINTR)
        continue;
    if (written >= 0 && (size_t)written != length) {
        errno = EIO;
        return -1;
    }
    return written < 0 ? -1 : 0;
}

static int write_file(const bootstrap *boot, int dir, const char *name, const char *content)
{
    cleanup_close int fd = open_for_writing(boot, dir, name);
    return fd < 0 ? -1 : write_once(fd, content);
}

/* Before anything makes us non-dumpable: then our files in /proc belong to root. The stages inherit it. */
static int set_oom_score(const bootstrap *boot)
{
    const char *score = boot->wanted.oom_score_adj;
    if (score && write_file(boot, boot->proc, "self/oom_score_adj", score) < 0)
        return fail(&boot->log, "write %s to oom_score_adj", score);
    return 0;
}

/* ---- stages, and what they say to one another ---- */

/*
 * The C library keeps the id of a thread in memory, and takes it from there; fork(3) would bring it up to date. The
 * kernel knows where it is, since the library has asked that it be cleared at exit. (musl has given another address,
 * that of a lock: no id is in it.)
 */
static pid_t *thread_id_of_library(void)
{
#ifdef PR_GET_TID_ADDRESS
    pid_t *address = NULL;
    if (prctl(PR_GET_TID_ADDRESS, &address, 0L, 0L, 0L) == 0 && address && *address == (pid_t)syscall(SYS_gettid))
        return address;
#endif
    return NULL;
}

/*
 * A copy of this process, as fork makes; with CLONE_PARENT a child of our parent's: it is the speaker that reaps all
 * stages. Never with CLONE_NEW*: those are stage 1's to unshare.
 */
static pid_t clone_copy(unsigned long flags, int *ret_pidfd)
{
    pid_t *id = thread_id_of_library();
    flags |= CLONE_PIDFD | SIGCHLD;
    if (id)
        flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    /* Architectures differ in where the address of the id stands; the other place is that of a TLS we do not set. */
#if defined(__s390__)
    pid_t pid = (pid_t)syscall(SYS_clone, NULL, flags, ret_pidfd, id, id);
#else
    pid_t pid = (pid_t)syscall(SYS_clone, flags, NULL, ret_pidfd, id, id);
#endif
    if (pid == 0)
        *ret_pidfd = -1; /* it is its maker's */
    return pid;
}

static void enter_stage(bootstrap *boot, int stage)
{
    static const char names[][16] = { "runc:[0:PARENT]", "runc:[1:CHILD]", "runc:[2:INIT]" };
    boot->log.stage = stage;
    prctl(PR_SET_NAME, boot->rules.name ? boot->rules.name : names[stage]);
}

static void kill_peer(const peer *other)
{
    if (other->pidfd >= 0 && syscall(SYS_pidfd_send_signal, other->pidfd, SIGKILL, NULL, 0U) == 0)
        return;
    /* A seccomp filter may not know pidfds. With one, the number is not used: the speaker may have reaped it. */
    if (other->pidfd < 0 && other->pid > 0)
        kill(other->pid, SIGKILL);
}

typedef enum {
    WRITE_MAPS = 0x40, /* 1 -> 0: I am in the new user namespace, write its maps */
    MAPS_WRITTEN,      /* 0 -> 1 */
    PID_OF_INIT,       /* 1 -> 0: here is stage 2 */
    PID_OF_REAPER,     /* 1 -> 0: here is pid 1, before that */
    PID_REPORTED,      /* 0 -> 1: the speaker knows it */
    RUN,               /* 0 -> 2: you may go on */
    FINISHED,          /* 1 -> 0, 2 -> 0 */
    EXIT,              /* 0 -> 1: all is done; until then, it is you who reports it if I die */
    FAILED,            /* 1 -> 0, 2 -> 0: and I have said why */
} word;

typedef struct {
    word word;
    pid_t pid;
} note;

/* 1: a note; 0: the other has died (ECONNRESET: without having read all we said); -1 */
static int receive(int fd, note *ret, int flags)
{
    ssize_t got;
    while ((got = recv(fd, ret, sizeof *ret, flags)) < 0 && errno == EINTR)
        continue;
    if (got == 0 || (got < 0 && errno == ECONNRESET))
        return 0;
    if (got >= 0 && got != sizeof *ret)
        errno = EPROTO;
    return got == sizeof *ret ? 1 : -1;
}

/* One end of a socket pair, for who talks there. */
typedef struct {
    const char *who;
    int fd;
    int pidfd; /* of the other, or -1 */
    int speaker; /* as in peer */
} wire;

static wire to(const peer *other)
{
    return (wire){ other->name, other->ours, other->pidfd, other->speaker };
}

static wire to_stage_0(const peer *self)
{
    return (wire){ "stage 0", self->theirs, -1, -1 };
}

/*
 * As receive, but waits. End of file is not enough to see that stage 1 has died: stage 2 is born with a copy of its
 * end, and could be stopped before it has closed that.
 */
static int wait_for_note(wire from, note *ret)
{
    for (bool dead = false;;) {
        int got = receive(from.fd, ret, MSG_DONTWAIT);
        if (got >= 0 || errno != EAGAIN)
            return got;
        if (dead)
            return 0;
        struct pollfd either[] = { { .fd = from.fd, .events = POLLIN },
                                   { .fd = from.pidfd, .events = POLLIN },
                                   { .fd = from.speaker, .events = POLLRDHUP } };
        if (poll(either, LENGTH(either), -1) < 0 && errno != EINTR)
            return -1;
        if (either[2].revents) {
            errno = ECANCELED;
            return -1;
        }
        dead = either[1].revents != 0; /* but what it said before is there to be heard */
    }
}

static bool has_died(wire other)
{
    struct pollfd end = { .fd = other.pidfd, .events = POLLIN };
    return poll(&end, 1, 0) > 0;
}

/* It has gone. If it has failed, it has said why itself. */
static int report_death(const bootstrap *boot, wire from)
{
    note last;
    while (receive(from.fd, &last, MSG_DONTWAIT) > 0)
        if (last.word == FAILED)
            return -1;
    return refuse(&boot->log, "%s has died", from.who);
}

static int tell(const bootstrap *boot, wire other, word what, pid_t pid)
{
    note note = { what, pid };
    ssize_t sent;
    while ((sent = send(other.fd, &note, sizeof note, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        continue;
    if (sent == sizeof note)
        return 0;
    if (errno == EPIPE || errno == ECONNRESET)
        return report_death(boot, other);
    return fail(&boot->log, "tell %s to go on", other.who);
}

static int hear(const bootstrap *boot, wire other, note *ret)
{
    int got = wait_for_note(other, ret);
    if (got < 0)
        return fail(&boot->log, "hear from %s", other.who);
    if (got == 0)
        return report_death(boot, other);
    return ret->word == FAILED ? -1 : 0;
}

static int bad_word(const bootstrap *boot, wire other, const note *heard)
{
    return refuse(&boot->log, "%s says 0x%llx", other.who, (unsigned long long)heard->word);
}

static int expect(const bootstrap *boot, wire other, word what)
{
    note heard;
    if (hear(boot, other, &heard) < 0)
        return -1;
    return heard.word == what ? 0 : bad_word(boot, other, &heard);
}

static int ask(const bootstrap *boot, wire other, word question, pid_t pid, word answer)
{
    return tell(boot, other, question, pid) < 0 ? -1 : expect(boot, other, answer);
}

/* ---- stage 0 ---- */

/* Cuts the map into the arguments of newuidmap: pid, and all its numbers. */
static void fill_arguments(char **arguments, const char *helper, char *pid, char *map)
{
    static const char blanks[] = " \t\n";
    *arguments++ = (char *)(uintptr_t)helper; /* execve takes no const, and changes nothing */
    *arguments++ = pid;
    for (map += strspn(map, blanks); *map; map += strspn(map, blanks)) {
        *arguments++ = map;
        map += strcspn(map, blanks);
        if (*map)
            *map++ = '\0';
    }
    *arguments = NULL;
}

/* A helper that hangs does not outlive a speaker that hangs up. */
static void end_with_speaker(const bootstrap *boot, pid_t helper, int pidfd)
{
    if (!boot->rules.watched)
        return;
    struct pollfd either[] = { { .fd = pidfd, .events = POLLIN }, { .fd = boot->init_pipe, .events = POLLRDHUP } };
    while (poll(either, LENGTH(either), -1) < 0 && errno == EINTR)
        continue;
    if (either[1].revents)
        kill(helper, SIGKILL); /* our child, which nobody has waited for: the number is still its own */
}

/* No descriptor above stdio, and no signal blocked or ignored, which exec would pass on: it could not be interrupted. */
static void be_plain(void)
{
    struct rlimit files = { 0, 0 };
    for (int number = 1; number <= 64; number++)
        signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL);
    /* Linux before 5.11, or a filter, may not know it. */
    if (syscall(SYS_close_range, 3U, UINT_MAX, CLOSE_RANGE_CLOEXEC) < 0)
        getrlimit(RLIMIT_NOFILE, &files);
    for (unsigned fd = 3; fd < files.rlim_max && fd < 1U << 20; fd++)
        fcntl((int)fd, F_SETFD, FD_CLOEXEC);
}

/* It is setuid: it gets our stdio and nothing else. Returns its wait status, or -1. */
static int run_helper(const bootstrap *boot, const char *helper)
{
    char *empty[] = { NULL };
    /* Where SIGCHLD is ignored there is no status to wait for. Stage 0 does not go on: no need to put it back. */
    signal(SIGCHLD, SIG_DFL);
    cleanup_close int pidfd = -1;
    pid_t pid = clone_copy(0, &pidfd);
    if (pid < 0)
        return fail(&boot->log, "start %s", helper);
    if (pid == 0) {
        be_plain();
        execve(helper, boot->arguments, empty);
        say(&boot->log, LEVEL_ERROR, "execute %s: %s", helper, strerror(errno));
        for (;;)
            syscall(SYS_exit_group, 127);
    }
    end_with_speaker(boot, pid, pidfd);
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return fail(&boot->log, "wait for %s", helper);
    if (WIFSIGNALED(status))
        return refuse(&boot->log, "%s was killed by signal %d", helper, WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return refuse(&boot->log, "%s exited with status %d", helper, WEXITSTATUS(status));
    return 0;
}

/* Ourselves if we may, else by the setuid helper, whose path the speaker has resolved. */
static int write_map(bootstrap *boot, int dir, const char *name, char *map, const char *helper)
{
    if (!map)
        return 0;
    if (write_file(boot, dir, name, map) == 0)
        return 0;
    if (errno != EPERM || !helper)
        return fail(&boot->log, "write %s", name);
    say(&boot->log, LEVEL_DEBUG, "may not write %s, run %s", name, helper);
    char pid[12];
    text out = { .at = pid, .end = pid + sizeof pid - 1 };
    put_number(&out, (unsigned)boot->child.pid, 10);
    *out.at = '\0';
    fill_arguments(boot->arguments, helper, pid, map);
    return run_helper(boot, helper);
}

/* The numbers in /proc are those of the pid namespace it was mounted in: in another, 7 is somebody else. */
static int open_own_kind_of_proc(const bootstrap *boot, pid_t pid)
{
    char name[12];
    long self;
    ssize_t length = readlinkat(boot->proc, "self", name, sizeof name - 1);
    if (length < 0)
        return fail(&boot->log, "read /proc/self");
    name[length] = '\0';
    if (parse_int(name, 1, INT_MAX, &self) < 0 || self != getpid())
        return refuse(&boot->log, "/proc is that of another pid namespace");
    text out = { .at = name, .end = name + sizeof name - 1 };
    put_number(&out, (unsigned)pid, 10);
    *out.at = '\0';
    int dir = open_beneath(boot->proc, name, O_PATH | O_DIRECTORY | O_NOFOLLOW);
    return dir < 0 ? fail(&boot->log, "open /proc/%s", name) : dir;
}

/* "deny" comes before the map of an ordinary user, or the kernel refuses that. (ENOENT: no such file to deny in.) */
static int write_maps(bootstrap *boot)
{
    message *wanted = &boot->wanted;
    if (!wanted->uid_map && !wanted->gid_map && !boot->rules.deny_setgroups)
        return 0;
    bool deny = boot->rules.deny_setgroups || (wanted->rootless && !wanted->setgroups);
    cleanup_close int dir = open_own_kind_of_proc(boot, boot->child.pid);
    if (dir < 0)
        return -1;
    if (deny && write_file(boot, dir, "setgroups", "deny") < 0 && errno != ENOENT)
        return fail(&boot->log, "write setgroups");
    if (write_map(boot, dir, "uid_map", wanted->uid_map, wanted->uid_helper) < 0)
        return -1;
    return write_map(boot, dir, "gid_map", wanted->gid_map, wanted->gid_helper);
}

/* One process, as soon as it is there, with a pidfd: so its number is never needed to reach it. */
static int report_process(const bootstrap *boot, const char *key, const peer *who)
{
    char line[80];
    text out = { .at = line, .end = line + sizeof line };
    put(&out, "{\"");
    put(&out, key);
    put(&out, "\":");
    put_number(&out, (unsigned)who->pid, 10);
    put(&out, "}\n");
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = { .header = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) } };
    memcpy(CMSG_DATA(&control.header), &who->pidfd, sizeof(int));
    struct iovec data = { line, (size_t)(out.at - line) };
    struct msghdr note = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    while (sendmsg(boot->init_pipe, &note, MSG_NOSIGNAL) < 0)
        if (!worth_retrying(boot->init_pipe, POLLOUT))
            return fail(&boot->log, "send a pidfd to the init pipe");
    return 0;
}

static int report_pids(const bootstrap *boot)
{
    if (boot->rules.watched)
        return report_process(boot, "stage2_pid", &boot->init);
    char line[80];
    text out = { .at = line, .end = line + sizeof line };
    put(&out, "{\"stage1_pid\":");
    put_number(&out, (unsigned)boot->child.pid, 10);
    put(&out, ",\"stage2_pid\":");
    put_number(&out, (unsigned)boot->init.pid, 10);
    put(&out, "}\n");
    for (const char *at = line; at < out.at;) {
        ssize_t sent = send(boot->init_pipe, at, (size_t)(out.at - at), MSG_NOSIGNAL);
        if (sent >= 0)
            at += sent;
        else if (!worth_retrying(boot->init_pipe, POLLOUT))
            return fail(&boot->log, "send the pids to the init pipe");
    }
    return 0;
}

static int answer_maps(bootstrap *boot, pid_t pid)
{
    (void)pid;
    say(&boot->log, LEVEL_DEBUG, "write the id maps of stage 1");
    if (write_maps(boot) < 0)
        return -1;
    return tell(boot, to(&boot->child), MAPS_WRITTEN, 0);
}

/* It waits for us, so that this is it. */
static int pin(const bootstrap *boot, peer *who, pid_t pid)
{
    who->pid = pid;
    who->pidfd = (int)syscall(SYS_pidfd_open, pid, 0U);
    return who->pidfd < 0 && boot->rules.watched ? fail(&boot->log, "pidfd_open of %s", who->name) : 0;
}

static int answer_reaper(bootstrap *boot, pid_t pid)
{
    if (pin(boot, &boot->reaper, pid) < 0 || report_process(boot, "reaper_pid", &boot->reaper) < 0)
        return -1;
    return tell(boot, to(&boot->child), PID_REPORTED, 0);
}

static int answer_pid(bootstrap *boot, pid_t pid)
{
    if (pin(boot, &boot->init, pid) < 0)
        return -1;
    say(&boot->log, LEVEL_DEBUG, "report the pids %d and %d", boot->child.pid, pid);
    if (report_pids(boot) < 0)
        return -1;
    return tell(boot, to(&boot->child), PID_REPORTED, 0);
}

static int serve_stage_1(bootstrap *boot)
{
    wire child = to(&boot->child);
    for (;;) {
        note heard;
        if (hear(boot, child, &heard) < 0)
            return -1;
        switch (heard.word) {
        case WRITE_MAPS:
            if (answer_maps(boot, heard.pid) < 0)
                return -1;
            break;
        case PID_OF_REAPER:
            if (answer_reaper(boot, heard.pid) < 0)
                return -1;
            break;
        case PID_OF_INIT:
            if (answer_pid(boot, heard.pid) < 0)
                return -1;
            break;
        case FINISHED:
            return 0;
        default:
            return bad_word(boot, child, &heard);
        }
    }
}

static int stage_0(bootstrap *boot)
{
    say(&boot->log, LEVEL_DEBUG, "stage 1 is %d", boot->child.pid);
    if (boot->rules.watched && report_process(boot, "stage1_pid", &boot->child) < 0)
        return -1;
    if (serve_stage_1(boot) < 0)
        return -1;
    say(&boot->log, LEVEL_DEBUG, "let stage 2 go on");
    if (has_died(to(&boot->child)))
        return report_death(boot, to(&boot->child));
    if (ask(boot, to(&boot->init), RUN, 0, FINISHED) < 0)
        return -1;
    /* The program is on its way: that its helper has been killed meanwhile no longer matters. */
    const note done = { EXIT, 0 };
    send(boot->child.ours, &done, sizeof done, MSG_NOSIGNAL);
    say(&boot->log, LEVEL_DEBUG, "<= nsexec container setup");
    return NSEXEC_DONE;
}

/* ---- stage 2 ---- */

/*
 * Without a new user namespace there is nothing that only stage 0 may do: it does stage 1's work itself, which saves a
 * process. Not for runc's speakers, who wait for all three.
 */
static bool is_alone(const bootstrap *boot)
{
    return boot->rules.watched && !(boot->wanted.new_types & CLONE_NEWUSER);
}

static int start_session(const bootstrap *boot)
{
    return boot->rules.new_session && setsid() < 0 ? fail(&boot->log, "setsid") : 0;
}

/* An ordinary user may not change its groups, and where setgroups is denied nobody may. */
static int become_root(const bootstrap *boot)
{
    if (!boot->rules.become_root)
        return 0;
    if (setuid(0) < 0)
        return fail(&boot->log, "setuid 0");
    if (setgid(0) < 0)
        return fail(&boot->log, "setgid 0");
    if (!boot->wanted.rootless && boot->wanted.setgroups && setgroups(0, NULL) < 0)
        return fail(&boot->log, "setgroups");
    return 0;
}

/* Not fatal, which is said once: stage 0 has said why it ended, or stage 1 says that it was killed, if there is one. */
static int lost_stage_0(const bootstrap *boot)
{
    if (is_alone(boot))
        return refuse(&boot->log, "stage 0 has died");
    say(&boot->log, LEVEL_ERROR, "stage 0 has ended");
    return -1;
}

static int stage_2(bootstrap *boot)
{
    const peer *self = &boot->init;
    enter_stage(boot, 2);
    /* A parent that is killed cannot end us, and we, if a stranger inside stops us, not ourselves. */
    if (boot->rules.own_stages)
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0L, 0L, 0L);
    close_owned(&boot->child.theirs);
    close_owned(&boot->reaper.ours);
    close_owned(&boot->init.ours);
    say(&boot->log, LEVEL_DEBUG, "wait to go on");
    note heard;
    if (receive(self->theirs, &heard, 0) != 1 || heard.word != RUN)
        return lost_stage_0(boot);
    if (start_session(boot) < 0 || become_root(boot) < 0)
        return -1;
    say(&boot->log, LEVEL_DEBUG, "inside");
    if (is_alone(boot))
        return NSEXEC_INSIDE; /* nobody waits for more */
    const note finished = { FINISHED, 0 };
    if (send(self->theirs, &finished, sizeof finished, MSG_NOSIGNAL) < 0)
        return lost_stage_0(boot);
    return NSEXEC_INSIDE;
}

/* ---- stage 1 ---- */

/*
 * The groups of outside mean nothing in a joined user namespace, and its root, who may trace the program, shall not have
 * them from us. Who may drop them does so before it joins: setgroups may be denied inside. An ordinary user tries it there.
 * Who speaks runc's protocol says it himself.
 */
static void drop_groups(const bootstrap *boot)
{
    if (!boot->rules.become_root && boot->wanted.joined_types & CLONE_NEWUSER)
        (void)setgroups(0, NULL);
}

/*
 * EINVAL: there is none. Whoever has all capabilities in a joined user namespace may trace the program, and would have an
 * id of ours that is not mapped there, and that he can get in no other way: root's, perhaps.
 */
static int be_root_if_mapped(const bootstrap *boot)
{
    bool exposed = boot->wanted.joined_types & CLONE_NEWUSER;
    drop_groups(boot);
    if (setresgid(0, 0, 0) < 0) {
        gid_t own = getegid();
        if (errno != EINVAL)
            return fail(&boot->log, "become group 0 in the user namespace");
        if (exposed && !boot->rules.sets_gid && setresgid(own, own, own) < 0)
            return fail(&boot->log, "keep a gid that the joined user namespace does not map");
    }
    if (setresuid(0, 0, 0) < 0) {
        uid_t own = geteuid();
        if (errno != EINVAL)
            return fail(&boot->log, "become root in the user namespace");
        if (exposed && !boot->rules.sets_uid && setresuid(own, own, own) < 0)
            return fail(&boot->log, "keep a uid that the joined user namespace does not map");
    }
    return 0;
}

static int be_root_of_user_namespace(const bootstrap *boot)
{
    if (boot->rules.root_if_mapped)
        return be_root_if_mapped(boot);
    if (boot->rules.become_root && setresuid(0, 0, 0) < 0)
        return fail(&boot->log, "become root in the user namespace");
    return 0;
}

/* All before the first is joined: afterwards the paths may lead elsewhere, or nowhere. */
static int open_joins(bootstrap *boot)
{
    for (size_t index = 0; index < boot->wanted.join_count; index++) {
        join *each = &boot->wanted.joins[index];
        if (each->fd >= 0)
            continue;
        /* Not to hang at a fifo, nor to get a terminal. */
        each->fd = open(each->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (each->fd < 0)
            return fail(&boot->log, "open the %s namespace %s", name_of(each->flag), each->path);
        if (fs_magic(each->fd) != NSFS_MAGIC)
            return refuse(&boot->log, "%s is no namespace", each->path);
        int flag = ioctl(each->fd, NS_GET_NSTYPE);
        if (flag < 0)
            return fail(&boot->log, "ask for the type of %s", each->path);
        if (flag != each->flag)
            return refuse(&boot->log, "%s is a %s namespace, not %s", each->path, name_of(flag), name_of(each->flag));
    }
    return 0;
}

static void close_joins(bootstrap *boot)
{
    for (size_t index = 0; index < boot->wanted.join_count; index++)
        close_owned(&boot->wanted.joins[index].fd);
    close_owned(&boot->rules.together);
}

/* Those of these types that are left. What may not be joined yet (EPERM) stays. */
static int join_those(bootstrap *boot, int flags)
{
    for (size_t index = 0; index < boot->wanted.join_count; index++) {
        join *each = &boot->wanted.joins[index];
        if (each->joined || !(each->flag & flags))
            continue;
        say(&boot->log, LEVEL_DEBUG, "join %s %s", name_of(each->flag), each->path);
        if (setns(each->fd, each->flag) == 0)
            each->joined = true;
        else if (errno != EPERM || each->flag == CLONE_NEWUSER)
            return fail(&boot->log, "join the %s namespace %s", name_of(each->flag), each->path);
    }
    return 0;
}

static int check_joined(const bootstrap *boot)
{
    char list[LINE_SIZE / 2];
    text out = { .at = list, .end = list + sizeof list - 1 };
    for (size_t index = 0; index < boot->wanted.join_count; index++) {
        const join *each = &boot->wanted.joins[index];
        if (each->joined)
            continue;
        put(&out, out.at == list ? "" : ", ");
        put(&out, name_of(each->flag));
        put(&out, " ");
        put(&out, each->path);
    }
    *out.at = '\0';
    errno = EPERM;
    return out.at == list ? 0 : fail(&boot->log, "join %s", list);
}

static void note_joined(bootstrap *boot, int flags)
{
    for (size_t index = 0; index < boot->wanted.join_count; index++)
        if (boot->wanted.joins[index].flag & flags)
            boot->wanted.joins[index].joined = true;
}

/* All of one process in one call, which works or changes nothing. If not, one after the other may. */
static int join_together(bootstrap *boot)
{
    int flags = boot->rules.together_types;
    if (!flags)
        return 0;
    if (setns(boot->rules.together, flags) < 0)
        return errno == EPERM || errno == EINVAL ? 0 : fail(&boot->log, "join 0x%llx", (unsigned long long)flags);
    note_joined(boot, flags);
    return flags & CLONE_NEWUSER ? be_root_of_user_namespace(boot) : 0;
}

static bool has_joined(const bootstrap *boot, int flag)
{
    for (size_t index = 0; index < boot->wanted.join_count; index++)
        if (boot->wanted.joins[index].flag == flag)
            return boot->wanted.joins[index].joined;
    return false;
}

/*
 * The user namespace neither first nor last. Some namespaces are the caller's, who loses all rights over them there;
 * some belong to it, and only inside it may they be joined.
 */
static int join_all(bootstrap *boot)
{
    if (join_together(boot) < 0 || join_those(boot, NEW_OF_ALL & ~CLONE_NEWUSER) < 0)
        return -1;
    bool other_user = boot->wanted.joined_types & CLONE_NEWUSER && !has_joined(boot, CLONE_NEWUSER);
    if (other_user && (join_those(boot, CLONE_NEWUSER) < 0 || be_root_of_user_namespace(boot) < 0))
        return -1;
    if (join_those(boot, NEW_OF_ALL & ~CLONE_NEWUSER) < 0)
        return -1;
    close_joins(boot);
    return check_joined(boot);
}

static int set_dumpable(const bootstrap *boot, bool dumpable)
{
    return prctl(PR_SET_DUMPABLE, (unsigned long)dumpable, 0L, 0L, 0L) < 0 ? fail(&boot->log, "set dumpable") : 0;
}

/*
 * An ordinary user, and the helpers, may write only to the /proc files of a dumpable process. But one that has joined a
 * stranger's namespaces can be seen from there (CVE-2016-9962): it is so only while it is being mapped, and only for
 * whom it must.
 */
static int be_mapped(bootstrap *boot)
{
    bool expose = boot->wanted.rootless && boot->wanted.join_count > 0;
    if (expose && set_dumpable(boot, true) < 0)
        return -1;
    say(&boot->log, LEVEL_DEBUG, "ask stage 0 for the id maps");
    if (ask(boot, to_stage_0(&boot->child), WRITE_MAPS, 0, MAPS_WRITTEN) < 0)
        return -1;
    return expose ? set_dumpable(boot, false) : 0;
}

/* Alone, and mapped before the rest: what is made by an id that is not mapped belongs to nobody. */
static int unshare_user(bootstrap *boot)
{
    if (!(boot->wanted.new_types & CLONE_NEWUSER))
        return 0;
    say(&boot->log, LEVEL_DEBUG, "unshare user");
    if (unshare(CLONE_NEWUSER) < 0)
        return fail(&boot->log, "unshare the user namespace");
    if (be_mapped(boot) < 0)
        return -1;
    return be_root_of_user_namespace(boot);
}

static int unshare_others(const bootstrap *boot, int offsets)
{
    int flags = (int)boot->wanted.new_types & ~CLONE_NEWUSER;
    if (!flags)
        return 0;
    say(&boot->log, LEVEL_DEBUG, "unshare the other namespaces: 0x%llx", (unsigned long long)flags);
    if (unshare(flags) < 0)
        return fail(&boot->log, "unshare 0x%llx", (unsigned long long)flags);
    /* Before stage 2 is the first inside: then they are fixed. */
    if (offsets >= 0 && write_once(offsets, boot->wanted.time_offsets) < 0)
        return fail(&boot->log, "write the time offsets");
    return 0;
}

/*
 * The offsets are written by us to our own file; but with the rights, which are those of the opener, that we have now.
 * Later our ids may be others and our files in /proc root's, so that even stage 0 could not open it.
 */
static int open_offsets(const bootstrap *boot, int *ret_fd)
{
    if (!boot->wanted.time_offsets)
        return 0;
    *ret_fd = open_for_writing(boot, boot->proc, "self/timens_offsets");
    return *ret_fd < 0 ? fail(&boot->log, "open timens_offsets") : 0;
}

static int move(bootstrap *boot)
{
    cleanup_close int offsets = -1;
    if (open_offsets(boot, &offsets) < 0)
        return -1;
    /* A directory of ours is a way out for whoever gets hold of it: none goes where strangers are (CVE-2024-21626). */
    close_owned(&boot->proc);
    drop_groups(boot);
    if (boot->wanted.join_count > 0 && (set_dumpable(boot, false) < 0 || join_all(boot) < 0))
        return -1;
    if (boot->rules.between && boot->rules.between(boot->rules.argument) < 0)
        return -1;
    if (unshare_user(boot) < 0)
        return -1;
    return unshare_others(boot, offsets);
}

static int pair(const bootstrap *boot, peer *ret)
{
    int ends[2];
    /* Notes, not a stream: one is never half there. */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return fail(&boot->log, "make a socket pair");
    ret->ours = ends[0];
    ret->theirs = ends[1];
    return 0;
}

static void release(bootstrap *boot);

/* The first process of the new pid namespace, and so its init. What it is to watch it is told when that is there. */
static int start_reaper(bootstrap *boot)
{
    if (!boot->rules.reaper)
        return 0;
    peer *reaper = &boot->reaper;
    if (pair(boot, reaper) < 0)
        return -1;
    reaper->pid = clone_copy(CLONE_PARENT, &reaper->pidfd);
    if (reaper->pid < 0)
        return fail(&boot->log, "start the reaper");
    if (reaper->pid == 0) {
        int channel = reaper->theirs;
        reaper->theirs = -1;
        release(boot);
        _exit(boot->rules.reaper(channel, boot->rules.argument));
    }
    close_owned(&reaper->theirs);
    if (is_alone(boot))
        return report_process(boot, "reaper_pid", reaper);
    return ask(boot, to_stage_0(&boot->child), PID_OF_REAPER, reaper->pid, PID_REPORTED);
}

/* Stage 2 is there. When it answers, the reaper holds nothing of ours any more. */
static int release_reaper(bootstrap *boot)
{
    char byte = 0;
    if (!boot->rules.reaper)
        return 0;
    if (send(boot->reaper.ours, &byte, 1, MSG_NOSIGNAL) < 0 || recv(boot->reaper.ours, &byte, 1, 0) != 1)
        return refuse(&boot->log, "the reaper has died");
    close_owned(&boot->reaper.ours);
    return 0;
}

static int start_stage_2(bootstrap *boot)
{
    /* The child gets a copy from before it was born: it does not know its own pid, nor need to. */
    boot->init.pid = clone_copy(boot->rules.orphan ? 0 : CLONE_PARENT, &boot->init.pidfd);
    if (boot->init.pid >= 0)
        return 0;
    if (errno == ENOMEM && (boot->wanted.joined_types & CLONE_NEWPID))
        return fail(&boot->log, "start stage 2 (the init of the pid namespace has died)");
    if (errno == EINVAL && getpid() == 1)
        return fail(&boot->log, "start stage 2 (pid 1 has no parent to give it to)");
    return fail(&boot->log, "start stage 2");
}

static int stage_1(bootstrap *boot)
{
    const peer *self = &boot->child;
    enter_stage(boot, 1);
    close_owned(&boot->child.ours);
    close_owned(&boot->init.ours);
    if (move(boot) < 0)
        return -1;
    say(&boot->log, LEVEL_DEBUG, "start stage 2");
    if (start_reaper(boot) < 0 || start_stage_2(boot) < 0)
        return -1;
    if (boot->init.pid == 0)
        return stage_2(boot);
    close_owned(&boot->init.theirs);
    say(&boot->log, LEVEL_DEBUG, "stage 2 is %d", boot->init.pid);
    if (release_reaper(boot) < 0)
        return -1;
    if (ask(boot, to_stage_0(self), PID_OF_INIT, boot->init.pid, PID_REPORTED) < 0)
        return -1;
    say(&boot->log, LEVEL_DEBUG, "finished");
    if (ask(boot, to_stage_0(self), FINISHED, 0, EXIT) < 0)
        return -1;
    return NSEXEC_DONE;
}

/* ---- all of it ---- */

/* The first 64 CPUs of the affinity that we inherit. */
static void log_affinity(const journal *log)
{
    uint64_t cpus[128]; /* the kernel wants room for all there can be */
    if (!is_logged(log, LEVEL_DEBUG) || syscall(SYS_sched_getaffinity, 0, sizeof cpus, cpus) < 0)
        return;
    say(log, LEVEL_DEBUG, "affinity: 0x%llx", (unsigned long long)cpus[0]);
}

static int stage_alone(bootstrap *boot)
{
    if (pair(boot, &boot->init) < 0)
        return -1;
    enter_stage(boot, 1);
    if (move(boot) < 0 || start_reaper(boot) < 0 || start_stage_2(boot) < 0)
        return -1;
    if (boot->init.pid == 0)
        return stage_2(boot);
    close_owned(&boot->init.theirs);
    if (release_reaper(boot) < 0 || report_process(boot, "stage2_pid", &boot->init) < 0)
        return -1;
    return tell(boot, to(&boot->init), RUN, 0) < 0 ? -1 : NSEXEC_DONE;
}

static int run_stages(bootstrap *boot)
{
    if (is_alone(boot))
        return stage_alone(boot);
    if (pair(boot, &boot->child) < 0 || pair(boot, &boot->init) < 0)
        return -1;
    enter_stage(boot, 0);
    boot->child.pid = clone_copy(boot->rules.own_stages ? 0 : CLONE_PARENT, &boot->child.pidfd);
    if (boot->child.pid < 0 && errno == EINVAL && getpid() == 1)
        return fail(&boot->log, "start stage 1 (pid 1 has no parent to give it to)");
    if (boot->child.pid < 0)
        return fail(&boot->log, "start stage 1");
    if (boot->child.pid == 0)
        return stage_1(boot);
    close_owned(&boot->child.theirs);
    close_owned(&boot->init.theirs);
    close_joins(boot);
    return stage_0(boot);
}

/* Nobody who can still act is left behind by one who has failed. */
static void end_others(const bootstrap *boot)
{
    const note failed = { FAILED, 0 };
    const peer *self = boot->log.stage == 1 ? &boot->child : &boot->init;
    if (boot->log.stage > 0)
        send(self->theirs, &failed, sizeof failed, MSG_NOSIGNAL);
    /* Each has only those that it has made, and stage 0 stage 2. */
    kill_peer(&boot->reaper);
    kill_peer(&boot->init);
    kill_peer(&boot->child);
}

/* What the program must not find of ours. (/proc/self/comm stays runc's, as its speakers expect.) */
static void release(bootstrap *boot)
{
    close_joins(boot);
    close_owned(&boot->proc);
    close_owned(&boot->child.ours);
    close_owned(&boot->child.theirs);
    close_owned(&boot->init.ours);
    close_owned(&boot->init.theirs);
    close_owned(&boot->child.pidfd);
    close_owned(&boot->init.pidfd);
    close_owned(&boot->reaper.ours);
    close_owned(&boot->reaper.theirs);
    close_owned(&boot->reaper.pidfd);
    if (boot->memory)
        munmap(boot->memory, boot->memory_size);
}

/* Those that were opened for us. */
static int take_open_joins(bootstrap *boot)
{
    message *wanted = &boot->wanted;
    for (size_t index = 0; index < boot->rules.join_count; index++) {
        const nsexec_join *given = &boot->rules.joins[index];
        if (((int)wanted->new_types | wanted->joined_types) & given->flag || wanted->join_count >= TYPES)
            return refuse(&boot->log, "%s is to be joined, and already is to be joined or created", name_of(given->flag));
        wanted->joined_types |= given->flag;
        wanted->joins[wanted->join_count++] = (join){ .flag = given->flag, .path = given->words, .fd = given->fd };
    }
    return 0;
}

/* All that comes before there are stages. */
static int prepare(bootstrap *boot)
{
    say(&boot->log, LEVEL_DEBUG, "=> nsexec container setup");
    log_affinity(&boot->log);
    if (read_message(boot) < 0 || take_open_joins(boot) < 0)
        return -1;
    if (open_proc(boot) < 0 || set_oom_score(boot) < 0 || open_joins(boot) < 0)
        return -1;
    if (boot->rules.watched)
        boot->child.speaker = boot->init.speaker = boot->init_pipe;
    return 0;
}

static bootstrap new_bootstrap(nsexec_rules rules)
{
    bool has_stderr = fcntl(STDERR_FILENO, F_GETFD) >= 0;
    return (bootstrap){
        .rules = rules,
        .log = { .fd = -1, .fallback = has_stderr ? STDERR_FILENO : -1, .level = LEVEL_DEBUG, .stage = -1,
                 .errnos = rules.errnos },
        .init_pipe = -1,
        .proc = -1,
        .child = { .name = "stage 1", .theirs = -1, .ours = -1, .pidfd = -1, .speaker = -1 },
        .init = { .name = "stage 2", .theirs = -1, .ours = -1, .pidfd = -1, .speaker = -1 },
        .reaper = { .name = "the reaper", .theirs = -1, .ours = -1, .pidfd = -1, .speaker = -1 },
    };
}

/* Of the environment. Who has failed has said so, and leaves nobody behind. */
static int perform(bootstrap *boot)
{
    int end = NSEXEC_FAILED;
    /* Set by whoever may not do what a setuid program may: no descriptor of theirs is written to, either. */
    if (getauxval(AT_SECURE))
        refuse(&boot->log, "a program with more rights than its caller takes no bootstrap");
    else if (read_environment(boot) == 0)
        end = prepare(boot) < 0 ? NSEXEC_FAILED : run_stages(boot);
    if (end == NSEXEC_FAILED)
        end_others(boot);
    return end;
}

nsexec_end nsexec_bootstrap(nsexec_rules rules)
{
    bootstrap boot = new_bootstrap(rules);
    int end = perform(&boot);
    release(&boot);
    return (nsexec_end)end;
}

/* As runc's stages are. */
static const nsexec_rules of_runc = { .become_root = true, .new_session = true, .together = -1 };

static bool is_asked_for(void)
{
    const char *init_pipe = getenv("_LIBCONTAINER_INITPIPE");
    return init_pipe && *init_pipe;
}

void nsexec(void)
{
    if (!is_asked_for())
        return;
    int saved = errno;
    switch (nsexec_bootstrap(of_runc)) {
    case NSEXEC_INSIDE:
        errno = saved;
        return;
    case NSEXEC_DONE:
        _exit(0);
    default:
        _exit(1);
    }
}
