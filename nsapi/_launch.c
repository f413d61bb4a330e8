/* SPDX-License-Identifier: MIT */
/*
 * The launcher: a static program that makes and joins namespaces (_nsexec.c), performs the steps that are left
 * (_native.c), and becomes the program that was asked for. With init, its stage 1 also leaves a reaper as pid 1.
 *
 * Everything it is to do lies in its cargo, a sealed memfd whose number is its only argument, beside runc's message on the
 * init pipe. It has no environment but the bootstrap's; all signals are blocked, until a step gives the caller's mask back.
 * What fails is told in one line on the log pipe, which closes when the program is executed.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "_native.h"
#include "_nsexec.h"

/* ---- the cargo: as _launcher.py packs it ---- */

enum {
    CARGO_MAGIC = 0x6e734c31,
    CARGO_MAX = 1 << 28,
    JOINS_MAX = 8,
    DENY_SETGROUPS = 1 << 0,
    WITH_REAPER = 1 << 1,
    REAPER_DUMPABLE = 1 << 2, /* it is in nobody's namespaces but ours */
    ORPHAN = 1 << 3,          /* the program is nobody's child */
};

/* Where so many things begin, counted from the start of the cargo. */
typedef struct {
    uint32_t at;
    uint32_t count;
} range;

typedef struct {
    uint32_t magic;
    uint32_t size;
    uint32_t flags;
    uint32_t sigmask[2];
    int32_t lent[NSAPI_SLOTS]; /* nsapi_state.fd */
    range between, inside;     /* steps */
    range paths, argv, env;    /* strings, one behind the other */
    int32_t together;
    uint32_t together_types;
    int32_t parent; /* a pidfd of the caller, for the reaper */
    uint32_t death_signal;
    uint32_t join_count;
    struct {
        uint32_t flag;
        int32_t fd;
        uint32_t words;
    } joins[JOINS_MAX];
} cargo_header;

/* nsapi_step; 0 is no path or no data. */
typedef struct {
    int32_t op;
    int32_t fd;
    int32_t slot;
    uint32_t unused;
    uint64_t flags;
    uint64_t value;
    uint64_t length;
    uint32_t path;
    uint32_t data;
} cargo_step;

typedef struct {
    const char *base;
    const cargo_header *header;
    size_t room; /* what is left of the memory for what is made of it */
    char *free;
    nsapi_program between, inside;
    nsapi_exec exec;
    nsapi_state state;
    nsexec_join joins[JOINS_MAX];
    int log;
} launch;

static int number_of(const char *digits)
{
    long number = 0;
    if (!digits || !*digits)
        return -1;
    for (; *digits >= '0' && *digits <= '9'; digits++) {
        number = number * 10 + (*digits - '0');
        if (number > INT_MAX)
            return -1;
    }
    return *digits ? -1 : (int)number;
}

static void *take_room(launch *self, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    if (size > self->room)
        return NULL;
    void *taken = self->free;
    self->free += size;
    self->room -= size;
    return taken;
}

/* The last byte of the cargo is NUL, so that whatever begins inside it ends there. */
static const char *string_at(const launch *self, uint32_t at)
{
    return at < self->header->size ? self->base + at : NULL;
}

static bool is_inside(const launch *self, range what, size_t size)
{
    return what.at <= self->header->size && what.count <= (self->header->size - what.at) / size;
}

static bool read_steps(launch *self, range what, nsapi_program *ret)
{
    if (!is_inside(self, what, sizeof(cargo_step)) || what.at % _Alignof(cargo_step))
        return false;
    const cargo_step *from = (const void *)(self->base + what.at);
    nsapi_step *steps = take_room(self, what.count * sizeof *steps);
    if (!steps)
        return false;
    for (uint32_t index = 0; index < what.count; index++) {
        const cargo_step *each = &from[index];
        const char *path = string_at(self, each->path), *data = string_at(self, each->data);
        if (each->op <= NSAPI_CLONE || each->op >= NSAPI_OPS || each->slot >= NSAPI_SLOTS || !path || !data)
            return false;
        if (each->data && each->length > self->header->size - each->data)
            return false;
        steps[index] = (nsapi_step){
            .op = each->op,
            .fd = each->fd,
            .slot = each->slot,
            .flags = each->flags,
            .value = each->value,
            .length = each->length,
            .path = each->path ? path : NULL,
            .data = each->data ? data : NULL,
        };
    }
    *ret = (nsapi_program){ .steps = steps, .count = (int)what.count };
    return true;
}

static bool read_strings(launch *self, range what, const char *const **ret)
{
    if (!is_inside(self, what, 1))
        return false;
    const char **strings = take_room(self, (what.count + 1) * sizeof *strings);
    if (!strings)
        return false;
    const char *at = self->base + what.at, *end = self->base + self->header->size;
    for (uint32_t index = 0; index < what.count; index++) {
        if (at >= end)
            return false;
        strings[index] = at;
        at += strlen(at) + 1;
    }
    strings[what.count] = NULL;
    *ret = strings;
    return true;
}

static bool read_joins(launch *self)
{
    const cargo_header *header = self->header;
    if (header->join_count > JOINS_MAX)
        return false;
    for (uint32_t index = 0; index < header->join_count; index++) {
        const char *words = string_at(self, header->joins[index].words);
        if (!words)
            return false;
        self->joins[index] = (nsexec_join){ (int)header->joins[index].flag, header->joins[index].fd, words };
    }
    return true;
}

static bool load(launch *self, int fd)
{
    struct stat file;
    if (fstat(fd, &file) < 0 || file.st_size < (off_t)sizeof(cargo_header) || file.st_size > CARGO_MAX)
        return false;
    size_t size = (size_t)file.st_size;
    self->base = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (self->base == MAP_FAILED)
        return false;
    self->header = (const void *)self->base;
    const cargo_header *header = self->header;
    if (header->magic != CARGO_MAGIC || header->size != size || self->base[size - 1] != '\0')
        return false;
    if ((size_t)header->between.count + header->inside.count > size / sizeof(cargo_step))
        return false;
    size_t strings = (size_t)header->paths.count + header->argv.count + header->env.count;
    if (strings > size)
        return false;
    self->room = (header->between.count + header->inside.count) * sizeof(nsapi_step) + (strings + 3) * sizeof(char *) + 80;
    self->free = mmap(NULL, self->room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (self->free == MAP_FAILED)
        return false;
    self->state = (nsapi_state){ .step = -1, .pid = -1, .pidfd = -1, .exec = &self->exec };
    self->state.sigmask = (uint64_t)header->sigmask[1] << 32 | header->sigmask[0];
    for (int slot = 0; slot < NSAPI_SLOTS; slot++)
        self->state.fd[slot] = header->lent[slot];
    return read_steps(self, header->between, &self->between) && read_steps(self, header->inside, &self->inside) &&
           read_strings(self, header->paths, &self->exec.paths) && read_strings(self, header->argv, &self->exec.argv) &&
           read_strings(self, header->env, &self->exec.envp) && read_joins(self);
}

/* Ours came over exec on purpose; none goes over the next. */
static void close_ours_on_exec(const launch *self)
{
    fcntl(number_of(getenv("_LIBCONTAINER_INITPIPE")), F_SETFD, FD_CLOEXEC);
    fcntl(self->log, F_SETFD, FD_CLOEXEC);
    fcntl(self->header->together, F_SETFD, FD_CLOEXEC);
    fcntl(self->header->parent, F_SETFD, FD_CLOEXEC);
    for (int slot = 0; slot < NSAPI_SLOTS; slot++)
        if (self->header->lent[slot] >= 0)
            fcntl(self->header->lent[slot], F_SETFD, FD_CLOEXEC);
    for (uint32_t index = 0; index < self->header->join_count; index++)
        fcntl(self->joins[index].fd, F_SETFD, FD_CLOEXEC);
}

/* ---- steps ---- */

static size_t put_digits(char *at, unsigned number)
{
    char digits[10];
    size_t count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    for (size_t index = 0; index < count; index++)
        at[index] = digits[count - 1 - index];
    return count;
}

static bool has_step(const nsapi_program *program, int op)
{
    for (int index = 0; index < program->count; index++)
        if (program->steps[index].op == op)
            return true;
    return false;
}

/* The caller knows the words for a step: its number will do. */
static void tell_step(const launch *self, int step, int errnum)
{
    static const char head[] = "{\"level\":\"fatal\",\"step\":", middle[] = ",\"errno\":", tail[] = "}\n";
    char line[sizeof head + sizeof middle + sizeof tail + 20], *at = line;
    memcpy(at, head, sizeof head - 1);
    at += sizeof head - 1;
    at += put_digits(at, (unsigned)step);
    memcpy(at, middle, sizeof middle - 1);
    at += sizeof middle - 1;
    at += put_digits(at, (unsigned)errnum);
    memcpy(at, tail, sizeof tail - 1);
    at += sizeof tail - 1;
    signal(SIGPIPE, SIG_IGN);
    while (write(self->log, line, (size_t)(at - line)) < 0 && errno == EINTR)
        continue;
}

static int between(void *argument)
{
    launch *self = argument;
    if (nsapi_run(&self->between, &self->state) == 0)
        return 0;
    tell_step(self, self->state.step, self->state.errnum);
    return -1;
}

/* ---- the reaper ---- */

static int close_from(unsigned first)
{
    if (syscall(SYS_close_range, first, UINT_MAX, 0) == 0)
        return 0;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return -1;
    for (unsigned fd = first; fd < files.rlim_cur && fd < 1U << 20; fd++)
        close((int)fd);
    return 0;
}

static void reap_orphans(int signals)
{
    struct signalfd_siginfo ignored;
    while (read(signals, &ignored, sizeof ignored) > 0)
        continue;
    while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
        continue;
}

/*
 * Pid 1. It lives as long as the program (which is pid 2, and its sibling: the caller waits for it) and as long as the
 * caller; with it ends, by the kernel, all that is in the namespace.
 */
static int reaper(int channel, void *argument)
{
    enum { PROGRAM, PARENT, SIGNALS, CHANNEL, FDS };
    const launch *self = argument;
    int parent = self->header->parent, death = (int)self->header->death_signal;
    bool dumpable = self->header->flags & REAPER_DUMPABLE;
    char byte;
    prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
    if (recv(channel, &byte, 1, 0) != 1)
        return 1;
    prctl(PR_SET_NAME, "nsapi-init");
    int program = (int)syscall(SYS_pidfd_open, 2, 0U);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    signal(SIGCHLD, SIG_DFL);
    int signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
    if (program < 0 || signals < 0)
        return 1;
    /* Above all that is dup'ed to, so that none is overwritten before it has moved. */
    int high[FDS] = { program, parent, signals, channel };
    for (int index = 0; index < FDS; index++)
        if ((high[index] = fcntl(high[index], F_DUPFD_CLOEXEC, FDS)) < 0)
            return 1;
    for (int index = 0; index < FDS; index++)
        if (dup2(high[index], index) < 0)
            return 1;
    if (close_from(FDS) < 0)
        return 1;
    munmap((void *)(uintptr_t)self->base, self->header->size);
    if (chdir("/") < 0)
        return 1;
    if (dumpable)
        prctl(PR_SET_DUMPABLE, 1L, 0L, 0L, 0L);
    if (send(CHANNEL, &byte, 1, MSG_NOSIGNAL) != 1)
        return 1;
    close(CHANNEL);
    struct pollfd watched[] = { { PROGRAM, POLLIN, 0 }, { PARENT, POLLIN, 0 }, { SIGNALS, POLLIN, 0 } };
    for (;;) {
        if (poll(watched, FDS - 1, -1) < 0 && errno != EINTR)
            return 1;
        reap_orphans(SIGNALS);
        if (watched[PROGRAM].revents)
            return 0;
        if (watched[PARENT].revents) {
            if (!death || death == SIGKILL || syscall(SYS_pidfd_send_signal, PROGRAM, death, NULL, 0U) < 0)
                return 0;
            watched[PARENT].fd = -1; /* it may take its time */
        }
    }
}

/* ---- all of it ---- */

/* Without any argument it holds the namespaces that it is in, until its standard input ends: see create in _pin.py. */
static int hold(void)
{
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0 || errno == EINTR)
        errno = 0;
    return 0;
}

/*
 * With a pidfd of the caller it is the pid 1 that create leaves. Its standard input is a socket: until something comes
 * there, it ends with the other end of it and with the caller; afterwards with nobody but by SIGKILL. It answers when it
 * is ready, and when it holds nothing any more but that; then the other end hears that it is closed. Who has told it to
 * stay may be gone by then, as after Ctrl-C: it stays nevertheless.
 */
static int stay(int parent)
{
    enum { CHANNEL, NOTHING, PARENT = 3 };
    char byte;
    prctl(PR_SET_NAME, "nsapi-init");
    signal(SIGCHLD, SIG_IGN); /* the kernel reaps all whose parents have ended */
    if ((parent != PARENT && dup2(parent, PARENT) < 0) || close_from(PARENT + 1) < 0)
        return 1;
    if (send(CHANNEL, "r", 1, MSG_NOSIGNAL) != 1)
        return 1;
    struct pollfd watched[] = { { CHANNEL, POLLIN, 0 }, { PARENT, POLLIN, 0 } };
    while (poll(watched, 2, -1) < 0)
        if (errno != EINTR)
            return 1;
    if (!watched[0].revents || read(CHANNEL, &byte, 1) != 1)
        return 0;
    if (close_from(PARENT) < 0)
        return 1;
    if ((send(CHANNEL, "s", 1, MSG_NOSIGNAL) != 1 && errno != EPIPE) || dup2(NOTHING, CHANNEL) < 0)
        return 1;
    for (;;)
        poll(NULL, 0, -1);
}

int main(int argc, char **argv)
{
    if (argc == 1)
        return hold();
    if (argc == 3)
        return stay(number_of(argv[2]));
    launch self = { .log = number_of(getenv("_LIBCONTAINER_LOGPIPE")) };
    if (argc != 2 || !load(&self, number_of(argv[1])))
        return 125;
    close_ours_on_exec(&self);
    const cargo_header *header = self.header;
    nsexec_rules rules = {
        .root_if_mapped = true,
        .sets_uid = has_step(&self.inside, NSAPI_SETRESUID),
        .sets_gid = has_step(&self.inside, NSAPI_SETRESGID),
        .deny_setgroups = header->flags & DENY_SETGROUPS,
        .orphan = header->flags & ORPHAN,
        .errnos = true,
        .watched = true,
        .name = argv[0],
        .joins = self.joins,
        .join_count = header->join_count,
        .together = header->together,
        .together_types = (int)header->together_types,
        .between = between,
        .reaper = header->flags & WITH_REAPER ? reaper : NULL,
        .argument = &self,
    };
    switch (nsexec_bootstrap(rules)) {
    case NSEXEC_INSIDE:
        break;
    case NSEXEC_DONE:
        _exit(0);
    default:
        _exit(1);
    }
    nsapi_run(&self.inside, &self.state);
    tell_step(&self, self.between.count + self.state.step, self.state.errnum);
    _exit(127);
}
