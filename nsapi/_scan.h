/* SPDX-License-Identifier: MIT */
/*
 * What discover asks the kernel: which tasks and fds refer to which namespaces, and what a namespace says of itself.
 *
 * Read verbatim by cffi, after _native.h, under the same rules.
 */

/* As many files as /proc/PID/ns may have: one for each type, and the two *_for_children. */
#define NSAPI_COLUMNS 10

enum nsapi_source {
    NSAPI_PROCESSES,        /* a row for each */
    NSAPI_THREADS,          /* a row for each that is elsewhere than its process, with what is not its process's */
    NSAPI_CHILDREN,         /* only a word for what is skipped: the columns come with the processes */
    NSAPI_FDS,              /* a link for each that is open on a namespace */
    NSAPI_SOCKETS,          /* a link for each socket, with its net namespace */
    NSAPI_SOURCES
};

typedef struct {
    uint32_t pid;
    uint32_t tid;
    uint32_t ns[NSAPI_COLUMNS];     /* inode numbers; 0: not asked for, or it could not be read */
} nsapi_task;

typedef struct {
    uint32_t pid;
    uint32_t fd;
    uint32_t ns;                    /* inode number */
    uint32_t source;                /* FDS or SOCKETS */
} nsapi_link;

typedef struct {
    void *rows;
    uint64_t count, room;
} nsapi_array;

typedef struct {
    nsapi_array processes, threads; /* of nsapi_task */
    nsapi_array links;              /* of nsapi_link */
    uint32_t gone[NSAPI_SOURCES], denied[NSAPI_SOURCES], failed[NSAPI_SOURCES];
} nsapi_scan;

/*
 * Fills *scan, zeroed before, with what *sources* (bits of nsapi_source) find in the procfs directory *proc*. *names* are
 * the files below /proc/PID/ns, NULL for each that is not wanted; *device* is that of nsfs. Who has ended meanwhile and who
 * may not be looked at is counted. 0, or -errno where no complete answer can be given: no memory, no fds, no /proc.
 */
int nsapi_scan_proc(int proc, const char *const *names, int sources, uint64_t device, nsapi_scan *scan);
void nsapi_scan_free(nsapi_scan *scan);

/* Open a file, close-on-exec. The fd, or -errno. */
int nsapi_open_at(int dir, const char *path, int flags);
/* Read a file of procfs: its first *room* bytes, in *ret*. How many, or -errno. */
int64_t nsapi_read_file(int dir, const char *path, char *ret, int64_t room);

typedef struct {
    uint64_t device, inode;
    uint64_t id;                    /* 0: the kernel tells none */
    uint64_t owner, parent;         /* inode numbers; 0: hidden, or none */
    int64_t owner_uid;              /* who made it, or its owner if it is no user namespace; -1: hidden */
    int64_t nsid;                   /* of net namespaces, as the caller's calls it; else -1 */
    uint64_t type;                  /* CLONE_NEW* */
} nsapi_facts;

/* *route*: a NETLINK_ROUTE socket in the caller's net namespace, or -1. 0, or -errno: it is no namespace, no fds. */
int nsapi_describe(int fd, int route, nsapi_facts *ret);
int nsapi_netlink_socket(int protocol);

/* Open a namespace by what it is (Linux 6.18; by id alone 6.19). The fd, or -errno. */
int nsapi_open_by_id(uint64_t id, uint64_t type, uint64_t inode);
/*
 * The ids of up to *count* namespaces of *types* after *last*, as listns(2) has them (Linux 6.19). How many, or -errno; where
 * none has a greater id than *last* that is ENOENT.
 */
int nsapi_list_ids(uint64_t last, uint64_t types, uint64_t *ret, int count);
/* The mount namespace beside that of *fd* in the kernel's list (Linux 6.13). The fd, or -errno; ENOENT at its end. */
int nsapi_mount_namespace_beside(int fd, int previous);
/* A copy of the fd of another process. The fd, or -errno. */
int nsapi_pidfd_getfd(int pidfd, int fd);
/* The inode number of what *fd* is on, if that is on *device*; else 0. No file server is asked: it might not answer. */
uint32_t nsapi_inode_on(uint64_t device, int fd);

/*
 * Open a mount point, O_PATH, with *dir* as "/", if what is mounted there is on *device*. The fd, or -errno; EAGAIN where a
 * file server would have to be asked, who may be a stranger's and never answer (Linux 5.12; before, it is asked).
 */
int nsapi_open_mount_point(int dir, const char *path, uint64_t device);

/*
 * Where namespaces are mounted in the mount namespace *id*: for each "net:[4026531840]", NUL, the mount point, NUL, in
 * *ret*, of *room* bytes. How many bytes, or -errno; ERANGE where they are more (statmount, listmount; Linux 6.11).
 */
int64_t nsapi_nsfs_mounts(uint64_t id, char *ret, int64_t room);
