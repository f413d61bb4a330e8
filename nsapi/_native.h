/* SPDX-License-Identifier: MIT */
/*
 * The vocabulary of the C core: what a step is, what comes back.
 *
 * cffi reads this file verbatim, so it holds no conditionals and no include guard: each .c file includes it once, and
 * before it "_kernel.h", which brings <stdint.h> and the kernel numbers that old headers lack.
 */

#define NSAPI_SLOTS 20
#define NSAPI_LENT 19 /* the slot of where nsapi_errand goes */

/* Each is one small function in _native.c; what a step reads of its struct stands beside its name. */
enum nsapi_op {
    NSAPI_CLONE,            /* flags: CLONE_NEW*; fd or slot: a cgroup2 directory, or none. First step of nsapi_spawn only */
    NSAPI_OPEN,             /* fd: directory or -1 for AT_FDCWD; path; flags: O_*. -> slot */
    NSAPI_OPEN_OWN,         /* the calling thread's namespace. value: PIDFD_GET_*; path: below /proc; flags: its type -> slot */
    NSAPI_CLOSE,            /* slot; never fails */
    NSAPI_SETNS,            /* fd or slot; flags: one type or, for a pidfd, several */
    NSAPI_CHECK_RETURN,     /* fd or slot; flags: the one type. Sets what the thread is in already: may it? */
    NSAPI_RETURN,           /* as SETNS, but only what an earlier SETNS of this state has moved */
    NSAPI_CHECK_FS,         /* slot: root; value: slot of cwd. Can this thread come back to both? */
    NSAPI_RETURN_FS,        /* slot: root; value: slot of cwd. Only if the mount namespace was moved */
    NSAPI_UNSHARE,          /* flags: CLONE_NEW* or CLONE_FS */
    NSAPI_WRITE,            /* fd or slot: directory; path; data, length: one write(2). flags: filesystem magic that must hold */
    NSAPI_SETHOSTNAME,      /* data, length */
    NSAPI_SETDOMAINNAME,    /* data, length */
    NSAPI_LOOPBACK,         /* brings "lo" up */
    NSAPI_SOCKET,           /* value: family; flags: type; length: protocol. -> slot */
    NSAPI_SOCKETPAIR,       /* the same -> slot and the one after it */
    NSAPI_MOUNT,            /* data: source and type; path: target; flags: MS_* */
    NSAPI_MAKE_FILE,        /* fd: directory; path: one name in it, that is not there; value: its mode -> slot */
    NSAPI_CLONE_MOUNT,      /* fd or slot; flags: AT_RECURSIVE. What is mounted there, once more and nowhere yet -> value */
    NSAPI_ATTACH,           /* fd or slot: the file or directory to mount it on; value: slot of a CLONE_MOUNT */
    NSAPI_UMOUNT,           /* path; flags: MNT_DETACH, UMOUNT_NOFOLLOW */
    NSAPI_CLOSE_ON_EXEC,    /* every fd from 3 on */
    NSAPI_KEEP,             /* fd: inherited over exec */
    NSAPI_DUP2,             /* fd -> value */
    NSAPI_PRLIMIT,          /* flags: resource; value: soft; length: hard */
    NSAPI_SETSID,
    NSAPI_SETPGID,          /* value */
    NSAPI_UMASK,            /* value */
    NSAPI_SIGDEFAULT,       /* value: bit n-1 is signal n */
    NSAPI_CHDIR,            /* path; flags: 1 = go to "/" where path cannot be entered; value: 1 = only below our root */
    NSAPI_CAP_BOUND,        /* value: the capabilities that stay in the bounding set */
    NSAPI_CAPSET,           /* flags: effective; value: permitted; length: inheritable */
    NSAPI_CAP_AMBIENT,      /* value: exactly these */
    NSAPI_NO_NEW_PRIVS,
    NSAPI_DUMPABLE,         /* value: 0 or 1. Never in shared memory, as the next four */
    NSAPI_SETGROUPS,        /* data: gid_t[]; length: how many */
    NSAPI_SETRESGID,        /* value: all three */
    NSAPI_SETRESUID,        /* value: all three */
    NSAPI_KEEP_CAPS,        /* over the next SETRESUID */
    NSAPI_PDEATHSIG,        /* value: signal; fd or slot: pidfd of the parent */
    NSAPI_SIGMASK,          /* back to the mask of the caller of nsapi_spawn */
    NSAPI_EXEC,             /* what state->exec says; with fd or slot: that file, whatever its name */
    NSAPI_OPS
};

typedef struct {
    int op;
    int fd;                 /* lent: an open descriptor, or -1 */
    int slot;               /* where an OPEN leaves its fd; where the others find theirs when fd is -1; -1 is none */
    uint64_t flags;
    uint64_t value;
    uint64_t length;
    const char *path;
    const void *data;
} nsapi_step;

typedef struct {
    const nsapi_step *steps;
    int count;
} nsapi_program;

typedef struct {
    const char *const *paths;   /* tried in order, as execvp does; NULL ends it */
    const char *const *argv;
    const char *const *envp;
} nsapi_exec;

typedef struct {
    int step;               /* index of the step that failed, or -1 */
    int errnum;
    int lost;               /* errno with which going back failed, or 0 */
    int pid;
    int pidfd;              /* given away to the caller */
    uint64_t moved;         /* types that SETNS has moved, for RETURN */
    uint64_t sigmask;       /* of the caller, for SIGMASK */
    const void *thread;     /* whose, for nsapi_go_on */
    const nsapi_exec *exec; /* for EXEC */
    int fd[NSAPI_SLOTS];    /* -1 is empty */
} nsapi_state;

/*
 * All return 0, or -1 with what failed in *state. nsapi_enter and nsapi_errand make *state new; the others take its slots
 * as they are, so that steps need not be made again for other fds: nsapi_spawn finds in them what its caller lends it.
 *
 * nsapi_errand has in NSAPI_LENT the fd, or the namespace at path if that is not NULL, which it opens and closes. Where it
 * cannot be opened nothing has been done, and the step is -1.
 */
int nsapi_run(const nsapi_program *program, nsapi_state *state);
int nsapi_enter(const nsapi_program *there, const nsapi_program *back, nsapi_state *state);
int nsapi_errand(const nsapi_program *errand, const nsapi_program *back, nsapi_state *state, int fd,
                 const char *path);
int nsapi_leave(const nsapi_program *back, nsapi_state *state);
int nsapi_spawn(const nsapi_program *program, nsapi_state *state, char *stack);

/* From one namespace straight to the next. 1, and nothing has changed, in a thread that did not begin it. */
typedef struct {
    const nsapi_program *home;  /* performed where it fails */
    nsapi_state *state;         /* of an nsapi_enter */
    uint64_t types;
} nsapi_round;

int nsapi_go_on(const nsapi_round *round, int fd);

/*
 * The stack for the children of nsapi_spawn, one at a time, with a guard below it; NULL and errno where there is no memory.
 * Its caller keeps it for the next spawn: mapping and unmapping one takes longer than Python does to find the steps.
 */
char *nsapi_stack_new(void);
void nsapi_stack_free(char *stack);

/* Single system calls that Python needs as they are: the result, or -errno. */
int nsapi_ioctl(int fd, unsigned long request, void *argument);
int nsapi_pidfd_open(int pid, unsigned int flags);
int nsapi_open_other(int pidfd, unsigned long request, int other, unsigned long other_request);
int nsapi_exit_status(int pidfd);
long nsapi_fs_magic(int fd);
int nsapi_dumpable(void);
int nsapi_single_threaded(void);

/* Two of them that open an fd, and keep what they return in *ret_fd: Python could lose it. It is closed there, if it is one. */
int nsapi_fill_by_ioctl(int *ret_fd, int fd, unsigned long request);
int nsapi_fill_with_pidfd(int *ret_fd, int pid);
void nsapi_close(int *fd);

/* What is in the slots of *state. */
void nsapi_close_all(nsapi_state *state);

extern char **environ;
int nsapi_environ_count(void);

/* Points ret[0] … ret[count - 1] at the strings that stand in block one after another, each with its NUL. */
void nsapi_strings(const char *block, int count, const char **ret);
