/* SPDX-License-Identifier: MIT */
/*
 * The eyes of discover: walks procfs, asks nsfs. Nothing here moves a thread or changes anything.
 *
 * What is cheapest was measured: the text of a link below /proc/PID/ns ("net:[4026531840]") has type and inode number, at
 * two thirds of the price of a stat, which has to find the inode. The device is the same for all: nsfs is one file system.
 * A directory fd for each process costs less than to walk to it for each of its links, and keeps a reused pid out of its row.
 */
#include "_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "_scan.h"

enum { LISTING = 32 * 1024, MOUNTS_AT_ONCE = 512, SMALLEST_MOUNT = 16 * 1024, LARGEST_MOUNT = 16 * 1024 * 1024 };
#define BIT(source) (1 << (source))

/* Closes at the end of the scope and keeps errno, so that a failure is one line. */
static void close_owned(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
    }
}
#define cleanup_close __attribute__((cleanup(close_owned)))

/* ---- growing arrays, counted omissions ---- */

static int append(nsapi_array *array, const void *row, size_t size)
{
    if (array->count == array->room) {
        uint64_t room = array->room ? 2 * array->room : 256;
        void *rows = realloc(array->rows, room * size);
        if (!rows)
            return -1;
        array->rows = rows;
        array->room = room;
    }
    memcpy((char *)array->rows + size * array->count++, row, size);
    return 0;
}

void nsapi_scan_free(nsapi_scan *scan)
{
    free(scan->processes.rows);
    free(scan->threads.rows);
    free(scan->links.rows);
}

/* What errno says of one task or fd is counted; what it says of ourselves is the end: -1. */
static int skip(nsapi_scan *scan, int source)
{
    switch (errno) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
        return -1;
    case ENOENT:
    case ESRCH:
    case EBADF:
        scan->gone[source]++;
        return 0;
    case EACCES:
    case EPERM:
        scan->denied[source]++;
        return 0;
    default:
        scan->failed[source]++;
        return 0;
    }
}

/* ---- directories whose entries are numbers ---- */

struct entry {
    uint64_t ino;
    int64_t off;
    unsigned short length;
    unsigned char type;
    char name[];
};

typedef struct {
    int fd;
    int error;                          /* why it ended, or 0 */
    long length, at;
    char *buffer;                       /* of LISTING bytes */
} listing;

/* The next entry that is a number, as its text; NULL at the end. */
static const char *next_number(listing *self)
{
    for (;;) {
        if (self->at >= self->length) {
            self->at = 0;
            self->length = syscall(SYS_getdents64, self->fd, self->buffer, LISTING);
            if (self->length <= 0) {
                self->error = self->length < 0 ? errno : 0;
                return NULL;
            }
        }
        const struct entry *entry = (const void *)(self->buffer + self->at);
        self->at += entry->length;
        if (entry->name[0] >= '0' && entry->name[0] <= '9')
            return entry->name;
    }
}

static uint32_t number(const char *text)
{
    uint32_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (uint32_t)(*text - '0');
    return value;
}

/* ---- one task ---- */

typedef struct {
    int proc;
    const char *const *names;
    size_t lengths[NSAPI_COLUMNS];
    uint64_t device;
    int sources;
    nsapi_scan *scan;
    char *buffers;                      /* one of LISTING for /proc, one for what is below */
} walk;

/* 1: *row has what could be read; 0: nothing could, which has been counted, and errno says why; -1. */
static int read_row(walk *self, int dir, const char *path, int source, nsapi_task *row)
{
    cleanup_close int ns = openat(dir, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (ns < 0)
        return skip(self->scan, source);
    bool some = false;
    for (int column = 0; column < NSAPI_COLUMNS; column++) {
        char text[64];
        if (!self->names[column])
            continue;
        ssize_t length = readlinkat(ns, self->names[column], text, sizeof text - 1);
        if (length < 0) {
            if (errno == EACCES) /* the answer would be the same for each type */
                return skip(self->scan, source) < 0 ? -1 : some;
            continue; /* a zombie has lost most of them, an old kernel never had time */
        }
        text[length] = '\0';
        const char *bracket = strchr(text, '[');
        if (bracket)
            row->ns[column] = number(bracket + 1);
        some = true;
    }
    return some ? 1 : skip(self->scan, source);
}

/* Keeps of a thread's row what is not its process's. Whether that is anything. */
static bool keep_other(nsapi_task *thread, const nsapi_task *process)
{
    bool other = false;
    for (int column = 0; column < NSAPI_COLUMNS; column++) {
        if (thread->ns[column] == process->ns[column])
            thread->ns[column] = 0;
        other |= thread->ns[column] != 0;
    }
    return other;
}

static int scan_threads(walk *self, int process, const nsapi_task *first)
{
    struct stat status;
    /* Two links for "." and "..", one for each thread. */
    if (fstatat(process, "task", &status, 0) == 0 && status.st_nlink <= 3)
        return 0;
    cleanup_close int fd = openat(process, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return skip(self->scan, NSAPI_THREADS);
    listing tasks = { .fd = fd, .buffer = self->buffers + LISTING };
    const char *name;
    while ((name = next_number(&tasks)) != NULL) {
        char path[32];
        nsapi_task row = { .pid = first->pid, .tid = number(name) };
        if (row.tid == row.pid)
            continue;
        snprintf(path, sizeof path, "%.16s/ns", name);
        int read = read_row(self, fd, path, NSAPI_THREADS, &row);
        if (read < 0)
            return -1;
        if (read == 0 || !keep_other(&row, first))
            continue;
        if (append(&self->scan->threads, &row, sizeof row) < 0)
            return -1;
    }
    errno = tasks.error;
    return tasks.error ? skip(self->scan, NSAPI_THREADS) : 0;
}

/* ---- open fds ---- */

/* Which column a link's text is of: "net:[4026531840]"; -1 for other texts. */
static int column_of(const walk *self, const char *text)
{
    for (int column = 0; column < NSAPI_COLUMNS; column++) {
        size_t length = self->lengths[column];
        if (length && strncmp(text, self->names[column], length) == 0 && strncmp(text + length, ":[", 2) == 0)
            return column;
    }
    return -1;
}

static uint32_t inode_on(uint64_t device, int dir, const char *name, int flags)
{
    nsapi_statx status;
    if (syscall(SYS_statx, dir, name, flags | NSAPI_AT_STATX_DONT_SYNC, NSAPI_STATX_INO, &status) < 0)
        return 0;
    return makedev(status.dev_major, status.dev_minor) == device ? (uint32_t)status.ino : 0;
}

uint32_t nsapi_inode_on(uint64_t device, int fd)
{
    return inode_on(device, fd, "", AT_EMPTY_PATH);
}

static uint32_t namespace_of_socket(int pidfd, unsigned int fd)
{
    struct stat status;
    cleanup_close int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0U);
    if (copy < 0)
        return 0;
    cleanup_close int ns = ioctl(copy, SIOCGSKNS);
    if (ns < 0 || fstat(ns, &status) < 0)
        return 0;
    return (uint32_t)status.st_ino;
}

static int add_link(walk *self, nsapi_link found)
{
    return append(&self->scan->links, &found, sizeof found);
}

static int scan_socket(walk *self, uint32_t pid, uint32_t fd, int *pidfd)
{
    if (*pidfd < 0)
        *pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    uint32_t ns = *pidfd < 0 ? 0 : namespace_of_socket(*pidfd, fd);
    if (!ns)
        return skip(self->scan, NSAPI_SOCKETS);
    return add_link(self, (nsapi_link){ pid, fd, ns, NSAPI_SOCKETS });
}

static int scan_fds(walk *self, int process, uint32_t pid)
{
    int source = self->sources & BIT(NSAPI_FDS) ? NSAPI_FDS : NSAPI_SOCKETS;
    cleanup_close int pidfd = -1;
    cleanup_close int fd = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return skip(self->scan, source);
    listing fds = { .fd = fd, .buffer = self->buffers + LISTING };
    const char *name;
    while ((name = next_number(&fds)) != NULL) {
        char text[64];
        ssize_t length = readlinkat(fd, name, text, sizeof text - 1);
        if (length < 0)
            continue; /* closed meanwhile */
        text[length] = '\0';
        if (strncmp(text, "socket:[", 8) == 0) {
            if (self->sources & BIT(NSAPI_SOCKETS) && scan_socket(self, pid, number(name), &pidfd) < 0)
                return -1;
            continue;
        }
        if (!(self->sources & BIT(NSAPI_FDS)))
            continue;
        int column = column_of(self, text);
        uint32_t ns = 0;
        if (column >= 0)
            ns = number(text + self->lengths[column] + 2);
        else if (text[0] == '/') /* it may have been opened where it is mounted */
            ns = inode_on(self->device, fd, name, 0);
        if (ns && add_link(self, (nsapi_link){ pid, number(name), ns, NSAPI_FDS }) < 0)
            return -1;
    }
    errno = fds.error;
    return fds.error ? skip(self->scan, source) : 0;
}

/* ---- all processes ---- */

static int scan_process(walk *self, const char *name)
{
    enum { ROWS = BIT(NSAPI_PROCESSES) | BIT(NSAPI_THREADS) | BIT(NSAPI_CHILDREN) };
    enum { BELOW = BIT(NSAPI_THREADS) | BIT(NSAPI_FDS) | BIT(NSAPI_SOCKETS) };
    char path[32];
    nsapi_task row = { .pid = number(name), .tid = number(name) };
    cleanup_close int process = -1;
    int dir = self->proc;
    snprintf(path, sizeof path, "%.16s/ns", name);
    const char *rest = path;
    if (self->sources & BELOW) {
        path[strlen(path) - strlen("/ns")] = '\0';
        process = openat(self->proc, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (process < 0)
            return skip(self->scan, NSAPI_PROCESSES);
        dir = process;
        rest = "ns";
    }
    if (self->sources & ROWS) {
        int read = read_row(self, dir, rest, NSAPI_PROCESSES, &row);
        if (read < 0)
            return -1;
        if (!read && (errno == EACCES || errno == EPERM))
            return 0; /* who hides this hides its threads and fds too */
        bool kept = read && self->sources & (BIT(NSAPI_PROCESSES) | BIT(NSAPI_CHILDREN));
        if (kept && append(&self->scan->processes, &row, sizeof row) < 0)
            return -1;
        /* Also where there is no row: the first thread may have ended, and the others live on. */
        if (self->sources & BIT(NSAPI_THREADS) && scan_threads(self, process, &row) < 0)
            return -1;
    }
    if (self->sources & (BIT(NSAPI_FDS) | BIT(NSAPI_SOCKETS)))
        return scan_fds(self, process, row.pid);
    return 0;
}

int nsapi_scan_proc(int proc, const char *const *names, int sources, uint64_t device, nsapi_scan *scan)
{
    walk self = { .proc = proc, .names = names, .device = device, .sources = sources, .scan = scan };
    for (int column = 0; column < NSAPI_COLUMNS; column++)
        self.lengths[column] = names[column] ? strlen(names[column]) : 0;
    cleanup_close int fd = openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    self.buffers = malloc((size_t)2 * LISTING);
    if (!self.buffers)
        return -ENOMEM;
    listing processes = { .fd = fd, .buffer = self.buffers };
    const char *name;
    int result = 0;
    while (result == 0 && (name = next_number(&processes)) != NULL)
        result = scan_process(&self, name) < 0 ? -errno : 0;
    free(self.buffers);
    return result ? result : -processes.error;
}

/* ---- one file ---- */

int nsapi_open_at(int dir, const char *path, int flags)
{
    int fd = openat(dir, path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int64_t nsapi_read_file(int dir, const char *path, char *ret, int64_t room)
{
    int64_t used = 0;
    cleanup_close int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while (used < room) {
        ssize_t count = read(fd, ret + used, (size_t)(room - used));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        if (count == 0)
            break;
        used += count;
    }
    return used;
}

/* ---- one namespace ---- */

static int64_t ask_nsid(int route, int fd)
{
    struct {
        struct nlmsghdr head;
        struct rtgenmsg general;
        char pad[NLMSG_ALIGN(sizeof(struct rtgenmsg)) - sizeof(struct rtgenmsg)];
        struct rtattr attribute;
        int32_t fd;
    } question = {
        .head = { .nlmsg_len = sizeof question, .nlmsg_type = NSAPI_RTM_GETNSID, .nlmsg_flags = NLM_F_REQUEST },
        .general = { .rtgen_family = AF_UNSPEC },
        .attribute = { .rta_len = RTA_LENGTH(sizeof(int32_t)), .rta_type = NSAPI_NETNSA_FD },
        .fd = fd,
    };
    union {
        struct nlmsghdr head;
        char bytes[512];
    } answer;
    if (route < 0 || send(route, &question, sizeof question, 0) < 0)
        return -1;
    ssize_t length = recv(route, &answer, sizeof answer, 0);
    size_t skipped = NLMSG_LENGTH(NLMSG_ALIGN(sizeof(struct rtgenmsg)));
    if (length < (ssize_t)skipped || answer.head.nlmsg_type != NSAPI_RTM_NEWNSID)
        return -1;
    struct rtattr attribute;
    for (size_t at = skipped; at + sizeof attribute <= (size_t)length; at += RTA_ALIGN(attribute.rta_len)) {
        int32_t nsid;
        memcpy(&attribute, answer.bytes + at, sizeof attribute);
        if (attribute.rta_len < sizeof attribute)
            break;
        if (attribute.rta_type == NSAPI_NETNSA_NSID && at + sizeof attribute + sizeof nsid <= (size_t)length) {
            memcpy(&nsid, answer.bytes + at + sizeof attribute, sizeof nsid);
            return nsid < 0 ? -1 : nsid;
        }
    }
    return -1;
}

int nsapi_netlink_socket(int protocol)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    return fd < 0 ? -errno : fd;
}

/*
 * The inode number of a relative, in *ret, and the uid that made it, if it is a user namespace, in *ret_uid: both are left
 * as they are where there is none, or it is hidden. 0, or -1: no fds.
 */
static int relative(int fd, unsigned long request, uint64_t *ret, int64_t *ret_uid)
{
    struct stat status;
    uint32_t uid;
    cleanup_close int kin = ioctl(fd, request);
    if (kin < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? -1 : 0;
    if (fstat(kin, &status) == 0)
        *ret = status.st_ino;
    if (ret_uid && ioctl(kin, NS_GET_OWNER_UID, &uid) == 0)
        *ret_uid = uid;
    return 0;
}

int nsapi_describe(int fd, int route, nsapi_facts *ret)
{
    struct stat status;
    uint32_t uid;
    uint64_t id;
    nsapi_facts facts = { .owner_uid = -1, .nsid = -1 };
    int type = ioctl(fd, NS_GET_NSTYPE);
    if (type < 0 || fstat(fd, &status) < 0)
        return -errno;
    facts.type = (uint64_t)type;
    facts.device = status.st_dev;
    facts.inode = status.st_ino;
    if (ioctl(fd, NS_GET_ID, &id) == 0 || (type == CLONE_NEWNS && ioctl(fd, NS_GET_MNTNS_ID, &id) == 0))
        facts.id = id;
    if (relative(fd, NS_GET_USERNS, &facts.owner, type == CLONE_NEWUSER ? NULL : &facts.owner_uid) < 0)
        return -errno;
    if (type == CLONE_NEWUSER)
        facts.parent = facts.owner;
    if (type == CLONE_NEWPID && relative(fd, NS_GET_PARENT, &facts.parent, NULL) < 0)
        return -errno;
    if (type == CLONE_NEWUSER && ioctl(fd, NS_GET_OWNER_UID, &uid) == 0)
        facts.owner_uid = uid;
    if (type == CLONE_NEWNET)
        facts.nsid = ask_nsid(route, fd);
    *ret = facts;
    return 0;
}

int nsapi_open_by_id(uint64_t id, uint64_t type, uint64_t inode)
{
    nsapi_nsfs_handle handle = {
        .handle_bytes = 16,
        .handle_type = NSAPI_FILEID_NSFS,
        .ns_id = id,
        .ns_type = (uint32_t)type,
        .ns_inum = (uint32_t)inode,
    };
    long fd = syscall(SYS_open_by_handle_at, NSAPI_FD_NSFS_ROOT, &handle, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : (int)fd;
}

int nsapi_list_ids(uint64_t last, uint64_t types, uint64_t *ret, int count)
{
    nsapi_ns_id_req request = { .size = sizeof request, .ns_id = last, .ns_type = (uint32_t)types };
    long found = syscall(SYS_listns, &request, ret, (size_t)count, 0U);
    return found < 0 ? -errno : (int)found;
}

int nsapi_mount_namespace_beside(int fd, int previous)
{
    int found = previous ? ioctl(fd, NSAPI_MNT_GET_PREV, NULL) : ioctl(fd, NSAPI_MNT_GET_NEXT, NULL);
    return found < 0 ? -errno : found;
}

int nsapi_pidfd_getfd(int pidfd, int fd)
{
    long copy = syscall(SYS_pidfd_getfd, pidfd, (unsigned int)fd, 0U);
    return copy < 0 ? -errno : (int)copy;
}

int nsapi_open_mount_point(int dir, const char *path, uint64_t device)
{
    enum { TRIES = 10 };
    nsapi_open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
    how.resolve |= RESOLVE_CACHED; /* what is a mount point is in the cache, with all above it */
    long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
    if (fd < 0 && errno == EINVAL) {
        how.resolve &= ~(uint64_t)RESOLVE_CACHED;
        fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
    }
    /* It may also have been busy: something was renamed or mounted meanwhile. */
    for (int tries = 0; fd < 0 && errno == EAGAIN && tries < TRIES; tries++)
        fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
    if (fd < 0)
        return -errno;
    if (!nsapi_inode_on(device, (int)fd)) {
        close((int)fd);
        return -ENOENT;
    }
    return (int)fd;
}

/* ---- mounts of nsfs ---- */

static int64_t put(char *ret, int64_t room, int64_t used, const char *text)
{
    int64_t length = (int64_t)strlen(text) + 1;
    if (used + length > room) {
        errno = ERANGE;
        return -1;
    }
    memcpy(ret + used, text, (size_t)length);
    return used + length;
}

static void free_owned(nsapi_statmount **mount)
{
    free(*mount);
}

/*
 * Ask for one mount in *found, of *size bytes, which grow: a mount point may be deeper than any path that is opened at once.
 * 1; 0: it was unmounted meanwhile; -1, also where a seccomp filter knows listmount(2) and not this.
 */
static int ask_mount(const nsapi_mnt_id_req *request, nsapi_statmount **found, size_t *size)
{
    while (syscall(SYS_statmount, request, *found, *size, 0U) < 0) {
        if (errno != EOVERFLOW || *size >= LARGEST_MOUNT)
            return errno == ENOMEM || errno == ENOSYS || errno == EPERM ? -1 : 0;
        void *more = realloc(*found, 2 * *size);
        if (!more)
            return -1;
        *found = more;
        *size *= 2;
    }
    return 1;
}

int64_t nsapi_nsfs_mounts(uint64_t id, char *ret, int64_t room)
{
    size_t size = SMALLEST_MOUNT;
    __attribute__((cleanup(free_owned))) nsapi_statmount *found = malloc(size);
    if (!found)
        return -ENOMEM;
    uint64_t mounts[MOUNTS_AT_ONCE];
    nsapi_mnt_id_req list = { .size = sizeof list, .mnt_id = NSAPI_LSMT_ROOT, .mnt_ns_id = id };
    int64_t used = 0;
    long count;
    do {
        count = syscall(SYS_listmount, &list, mounts, (size_t)MOUNTS_AT_ONCE, 0U);
        if (count < 0)
            return -errno;
        for (long each = 0; each < count; each++) {
            nsapi_mnt_id_req one = { .size = sizeof one, .mnt_id = mounts[each], .mnt_ns_id = id };
            one.param = NSAPI_STATMOUNT_SB_BASIC;
            int there = ask_mount(&one, &found, &size);
            if (there > 0 && found->sb_magic == NSFS_MAGIC) {
                one.param |= NSAPI_STATMOUNT_MNT_ROOT | NSAPI_STATMOUNT_MNT_POINT;
                there = ask_mount(&one, &found, &size);
            } else if (there > 0) {
                continue; /* something else */
            }
            if (there < 0)
                return -errno;
            if (!there || !(found->mask & NSAPI_STATMOUNT_MNT_POINT))
                continue; /* or it is not below our root */
            used = put(ret, room, used, found->str + found->mnt_root);
            used = used < 0 ? used : put(ret, room, used, found->str + found->mnt_point);
            if (used < 0)
                return -errno;
        }
        list.param = count ? mounts[count - 1] : 0;
    } while (count == MOUNTS_AT_ONCE);
    return used;
}
