/* SPDX-License-Identifier: MIT */
/*
 * clone(2) for an interpreter: one call makes a child with a copy of this process, in new namespaces.
 *
 * cffi reads this file verbatim, as _native.h. It is of the extension only: the launcher has no interpreter.
 */

/*
 * As os.fork: the interpreter's own hooks run before and after. *flags* are CLONE_NEW*. In the parent ret_pid has the pid
 * and ret_pidfd its pidfd; in the child ret_pid has 0. Returns 0, or -errno, and then nothing has been born.
 */
int nsapi_fork(uint64_t flags, int *ret_pid, int *ret_pidfd);

/* Names the lowest flag of clone(2) in *flags* that is none of CLONE_NEW* and takes it out; NULL: there is none that we know. */
const char *nsapi_take_flag(uint64_t *flags);
