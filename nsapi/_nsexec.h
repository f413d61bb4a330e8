/* SPDX-License-Identifier: MIT */
/* What _nsexec.c can do for those who want more, or less, than runc's protocol. */
#ifndef NSAPI_NSEXEC_H
#define NSAPI_NSEXEC_H

#include <stdbool.h>
#include <stddef.h>

/* How far a bootstrap has come when it returns; in each of the three processes it does so once. */
typedef enum {
    NSEXEC_FAILED = -1, /* and has said why: exit 1 */
    NSEXEC_INSIDE,      /* stage 2: go on with the program */
    NSEXEC_DONE,        /* stage 0 or 1: exit 0 */
} nsexec_end;

/* A namespace to be joined that is open already. */
typedef struct {
    int flag; /* CLONE_NEW* */
    int fd;   /* given away */
    const char *words; /* what it is of, for errors */
} nsexec_join;

typedef struct {
    /* What belongs to runc's protocol but not to everybody who wants namespaces made. */
    bool become_root; /* of a user namespace joined or made; and in stage 2, always */
    bool new_session;

    bool own_stages; /* stages are children of stage 0, which then does not end: see _boot.c */

    /* What a launcher wants, who is no speaker of the protocol. */
    bool root_if_mapped; /* of a user namespace joined or made: uid and gid 0 where there is one, else as they were */
    bool sets_uid, sets_gid; /* the program is not executed with those that it has then */
    bool deny_setgroups; /* whoever writes the maps */
    bool orphan;         /* stage 2 is a child of who makes it and ends then, not of the speaker */
    bool errnos;         /* fatal lines also have "errno": a number, 0 where no system call is to blame */
    bool watched;        /* each pid is reported at its birth, with a pidfd; and all ends if the init pipe hangs up */
    const char *name;    /* of all stages, and the reaper: by it is found who was killed before it was reported; or NULL */
    const nsexec_join *joins; /* beside those of the message */
    size_t join_count;
    int together; /* -1, or a pidfd (given away): these types of its process are among joins; first try them in one call */
    int together_types;
    int (*between)(void *argument); /* in stage 1: all is joined, nothing is made yet. -1: it has failed and said so */
    int (*reaper)(int channel, void *argument); /* the body of pid 1, beside stage 2, which is then pid 2 */
    void *argument;
} nsexec_rules;

/*
 * The bootstrap that the environment asks for. Returns in up to three processes, once in each. The environment, and what
 * the speaker lends us (init pipe, log pipe, all other descriptors), stays as it is.
 */
__attribute__((visibility("hidden"))) nsexec_end nsexec_bootstrap(nsexec_rules rules);

#endif
