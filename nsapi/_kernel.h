/* SPDX-License-Identifier: MIT */
/*
 * Kernel numbers and structs that the headers of the oldest build image (glibc 2.17, Linux 3.10) lack. They are ABI and
 * never change. This is the one place for #ifndef: cffi reads _native.h verbatim and takes no conditionals.
 */
#ifndef NSAPI_KERNEL_H
#define NSAPI_KERNEL_H

#include <linux/ioctl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
/* Above 32 bits: for clone3(2) alone. */
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#ifndef SYS_execveat /* Linux 3.19 */
#if defined(__x86_64__)
enum { OLD_HEADERS_EXECVEAT = 322 };
#elif defined(__aarch64__)
enum { OLD_HEADERS_EXECVEAT = 281 };
#else
enum { OLD_HEADERS_EXECVEAT = -1 }; /* ENOSYS */
#endif
#define SYS_execveat OLD_HEADERS_EXECVEAT
#endif
/* Where ids were once of 16 bits, the old numbers still mean those. */
#ifndef SYS_setresuid32
#define SYS_setresuid32 SYS_setresuid
#define SYS_setresgid32 SYS_setresgid
#define SYS_setgroups32 SYS_setgroups
#endif
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

/* Calls since Linux 5.0 have one number on every architecture. */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_statmount
#define SYS_statmount 457
#define SYS_listmount 458
#endif
#ifndef SYS_listns
#define SYS_listns 470
#endif
#ifndef SYS_statx /* Linux 4.11 */
#if defined(__x86_64__)
enum { OLD_HEADERS_STATX = 332 };
#elif defined(__aarch64__)
enum { OLD_HEADERS_STATX = 291 };
#else
enum { OLD_HEADERS_STATX = -1 }; /* ENOSYS */
#endif
#define SYS_statx OLD_HEADERS_STATX
#endif

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif
#ifndef PIDFD_THREAD
#define PIDFD_THREAD 00000200 /* O_EXCL; generic and x86, Linux 6.9 */
#endif

#ifndef NSFS_MAGIC
#define NSFS_MAGIC 0x6e736673
#endif
#ifndef CGROUP2_SUPER_MAGIC
#define CGROUP2_SUPER_MAGIC 0x63677270
#endif
#ifndef CGROUP_SUPER_MAGIC
#define CGROUP_SUPER_MAGIC 0x27e0eb
#endif
#ifndef PROC_SUPER_MAGIC
#define PROC_SUPER_MAGIC 0x9fa0
#endif

#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_RAISE 2
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif

/* ioctl_nsfs(2) */
#ifndef NS_GET_USERNS
#define NS_GET_USERNS _IO(0xb7, 0x1)
#endif
#ifndef NS_GET_PARENT
#define NS_GET_PARENT _IO(0xb7, 0x2)
#endif
#ifndef NS_GET_NSTYPE
#define NS_GET_NSTYPE _IO(0xb7, 0x3)
#endif
#ifndef NS_GET_OWNER_UID
#define NS_GET_OWNER_UID _IO(0xb7, 0x4)
#endif
#ifndef NS_GET_MNTNS_ID
#define NS_GET_MNTNS_ID _IOR(0xb7, 0x5, uint64_t)
#endif
#ifndef NS_GET_TGID_FROM_PIDNS
#define NS_GET_TGID_FROM_PIDNS _IOR(0xb7, 0x7, int)
#endif
#ifndef NS_GET_ID
#define NS_GET_ID _IOR(0xb7, 13, uint64_t)
#endif
/* The first version of its struct: 16 bytes, of which nothing is asked. Linux 6.13. */
typedef struct {
    uint32_t size;
    uint32_t nr_mounts;
    uint64_t mnt_ns_id;
} nsapi_mnt_ns_info;
#define NSAPI_MNT_GET_NEXT _IOR(0xb7, 11, nsapi_mnt_ns_info)
#define NSAPI_MNT_GET_PREV _IOR(0xb7, 12, nsapi_mnt_ns_info)
#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif

/* pidfd ioctls, Linux 6.11 */
#ifndef PIDFD_GET_CGROUP_NAMESPACE
#define PIDFD_GET_CGROUP_NAMESPACE _IO(0xff, 1)
#define PIDFD_GET_IPC_NAMESPACE _IO(0xff, 2)
#define PIDFD_GET_MNT_NAMESPACE _IO(0xff, 3)
#define PIDFD_GET_NET_NAMESPACE _IO(0xff, 4)
#define PIDFD_GET_PID_NAMESPACE _IO(0xff, 5)
#define PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE _IO(0xff, 6)
#define PIDFD_GET_TIME_NAMESPACE _IO(0xff, 7)
#define PIDFD_GET_TIME_FOR_CHILDREN_NAMESPACE _IO(0xff, 8)
#define PIDFD_GET_USER_NAMESPACE _IO(0xff, 9)
#define PIDFD_GET_UTS_NAMESPACE _IO(0xff, 10)
#endif

/* PIDFD_GET_INFO, Linux 6.13, as of its first version; a name of our own, since newer headers have theirs. */
typedef struct {
    uint64_t mask;
    uint64_t cgroup;
    uint32_t pid, tgid, ppid;
    uint32_t ids[8];
    int32_t exit_code;
} nsapi_pidfd_info;
enum { NSAPI_INFO_EXIT = 1 << 3 /* Linux 6.15 */ };
#define NSAPI_GET_INFO _IOWR(0xff, 11, nsapi_pidfd_info)

/* openat2(2); names of our own, since newer headers have theirs in a header that clashes with fcntl.h. */
typedef struct {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
} nsapi_open_how;
#ifndef RESOLVE_NO_XDEV
#define RESOLVE_NO_XDEV 0x01
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_BENEATH 0x08
#endif

#ifndef RESOLVE_IN_ROOT
#define RESOLVE_IN_ROOT 0x10
#endif
#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20 /* Linux 5.12 */
#endif

/* A file handle of nsfs, Linux 6.18; what it is of need not be looked up first. */
typedef struct {
    uint32_t handle_bytes;
    int32_t handle_type;
    uint64_t ns_id;
    uint32_t ns_type;
    uint32_t ns_inum;
} nsapi_nsfs_handle;
enum { NSAPI_FILEID_NSFS = 0xf1, NSAPI_FD_NSFS_ROOT = -10003 };

/* listns(2), Linux 6.19. */
typedef struct {
    uint32_t size;
    uint32_t spare;
    uint64_t ns_id;
    uint32_t ns_type;
    uint32_t spare2;
    uint64_t user_ns_id;
} nsapi_ns_id_req;

/* statmount(2) and listmount(2), as of Linux 6.11; what is asked of the answer. */
typedef struct {
    uint32_t size;
    uint32_t spare;
    uint64_t mnt_id;
    uint64_t param;
    uint64_t mnt_ns_id;
} nsapi_mnt_id_req;
typedef struct {
    uint32_t size;
    uint32_t mnt_opts;
    uint64_t mask;
    uint32_t sb_dev_major, sb_dev_minor;
    uint64_t sb_magic;
    uint32_t sb_flags;
    uint32_t fs_type;
    uint64_t mnt_id, mnt_parent_id;
    uint32_t mnt_id_old, mnt_parent_id_old;
    uint64_t mnt_attr, mnt_propagation, mnt_peer_group, mnt_master, propagate_from;
    uint32_t mnt_root; /* these two: where in str */
    uint32_t mnt_point;
    uint64_t rest[50];
    char str[];
} nsapi_statmount;
enum { NSAPI_STATMOUNT_SB_BASIC = 1, NSAPI_STATMOUNT_MNT_ROOT = 8, NSAPI_STATMOUNT_MNT_POINT = 16 };
#define NSAPI_LSMT_ROOT UINT64_MAX

/* rtnetlink(7): which number a net namespace has here. Names of our own: the header came with Linux 4.0. */
enum { NSAPI_RTM_NEWNSID = 88, NSAPI_RTM_GETNSID = 90, NSAPI_NETNSA_NSID = 1, NSAPI_NETNSA_FD = 3 };

/* statx(2). */
typedef struct {
    uint32_t before[8];
    uint64_t ino;
    uint64_t middle[11];
    uint32_t rdev_major, rdev_minor;
    uint32_t dev_major, dev_minor;
    uint64_t after[14];
} nsapi_statx;
enum { NSAPI_AT_STATX_DONT_SYNC = 0x4000, NSAPI_STATX_INO = 0x100 };

/* clone3(2), as of Linux 5.7; a name of our own, since newer headers have theirs. */
typedef struct {
    uint64_t flags;
    uint64_t pidfd;
    uint64_t child_tid;
    uint64_t parent_tid;
    uint64_t exit_signal;
    uint64_t stack;
    uint64_t stack_size;
    uint64_t tls;
    uint64_t set_tid;
    uint64_t set_tid_size;
    uint64_t cgroup;
} nsapi_clone_args;

#endif
