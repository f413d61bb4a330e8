/* SPDX-License-Identifier: MIT */
/*
 * The preloaded object: LD_PRELOAD brings it into any dynamic program, and it runs before main, in one thread.
 *
 * Without _NSAPI_BOOT it does as nsexec(), for a speaker of runc's protocol (runc mode). With it, it serves boot_env()
 * (proxy mode): whoever starts the program, by whatever means, waits for and signals the pid that he started. So that
 * process is the program, where nothing but it has to be made. A new or joined pid or time namespace holds only
 * children: then it stays as the program's parent, and does whatever the program does. Who fails exits 1.
 *
 * The program has the log and the answer in one socket: lines of JSON. It is inside when it says so itself.
 */
#include "_nsexec.c"

#include <link.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/uio.h>

/* What _NSAPI_BOOT says, which runc's message cannot. */
typedef struct {
    unsigned long inode;
    unsigned long propagation; /* MS_*, 0: as it is */
    unsigned long new_proc;    /* 0: no; 1: yes; 2: yes, after having made the old one private */
    unsigned long deny_setgroups;
} orders;

/* As it was when the program was executed, and shall be when its main begins. */
typedef struct {
    char comm[16];
    uint64_t mask;
    int dumpable;
    int self; /* pidfd of what was started */
} before;

static const uint64_t all_signals = UINT64_MAX; /* the C library's own two, too, which its functions leave out */

static void set_mask(uint64_t mask, uint64_t *ret_old)
{
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, ret_old, sizeof mask);
}

/* ---- orders ---- */

static int read_orders(const journal *log, const char *text, orders *ret)
{
    unsigned long *const numbers[] = { &ret->inode, &ret->propagation, &ret->new_proc, &ret->deny_setgroups };
    for (size_t index = 0; index < LENGTH(numbers); index++) {
        char *end;
        *numbers[index] = strtoul(text, &end, 10);
        if (end == text || *end != (index + 1 < LENGTH(numbers) ? ':' : '\0'))
            return refuse(log, "_NSAPI_BOOT is not what boot_env has made");
        text = end + 1;
    }
    return 0;
}

/* Before a byte is read from it or written to it: if fds were not passed on, the number is a stranger's. */
static int check_pipe(bootstrap *boot, const orders *asked)
{
    const char *value = getenv("_LIBCONTAINER_INITPIPE");
    long fd;
    struct stat found;
    if (!value || parse_int(value, 0, INT_MAX, &fd) < 0)
        return refuse(&boot->log, "_LIBCONTAINER_INITPIPE is no number from 0 on");
    if (fstat((int)fd, &found) < 0)
        return fail(&boot->log, "look at the init pipe, fd %d (is it in pass_fds?)", (int)fd);
    if (!S_ISSOCK(found.st_mode) || found.st_ino != asked->inode)
        return refuse(&boot->log, "fd %d is not the init pipe (is it in pass_fds?)", (int)fd);
    boot->init_pipe = (int)fd;
    boot->log.fd = (int)fd;
    boot->log.level = LEVEL_FATAL;
    return 0;
}

static int answer(const bootstrap *boot, const char *line)
{
    ssize_t sent;
    while ((sent = send(boot->init_pipe, line, strlen(line), MSG_NOSIGNAL)) < 0)
        if (!worth_retrying(boot->init_pipe, POLLOUT))
            return fail(&boot->log, "answer on the init pipe");
    return 0;
}

/* The linker's name for the object in which this variable lies. */
static int take_own_name(struct dl_phdr_info *info, size_t size, void *ret)
{
    (void)size;
    uintptr_t here = (uintptr_t)&all_signals;
    for (size_t index = 0; index < info->dlpi_phnum; index++) {
        uintptr_t start = (uintptr_t)info->dlpi_addr + info->dlpi_phdr[index].p_vaddr;
        if (info->dlpi_phdr[index].p_type != PT_LOAD || here < start || here - start >= info->dlpi_phdr[index].p_memsz)
            continue;
        *(const char **)ret = info->dlpi_name;
        return 1;
    }
    return 0;
}

/* An entry without a slash is what the linker has searched for. */
static bool is_own_entry(const char *entry, size_t length, const char *name)
{
    const char *base = strrchr(name, '/');
    if (base && !memchr(entry, '/', length))
        name = base + 1;
    return strlen(name) == length && memcmp(entry, name, length) == 0;
}

/* Cuts our entry out of LD_PRELOAD, and leaves what else is there as it is. */
static void leave_preload(void)
{
    static const char between[] = ": ";
    char *list = getenv("LD_PRELOAD");
    const char *name = NULL;
    if (!list || !dl_iterate_phdr(take_own_name, &name))
        return;
    for (char *at = list; *at;) {
        size_t length = strcspn(at, between);
        char *end = at + length;
        if (!is_own_entry(at, length, name)) {
            at = end + (*end != '\0');
            continue;
        }
        if (*end)
            end++;
        else if (at > list)
            at--;
        memmove(at, end, strlen(end) + 1);
        break;
    }
    if (!*list)
        unsetenv("LD_PRELOAD");
}

/* No child of the program is to be booted, too. */
static int leave_environment(const bootstrap *boot)
{
    leave_preload();
    unsetenv("_LIBCONTAINER_INITPIPE");
    unsetenv("_LIBCONTAINER_LOGPIPE");
    unsetenv("_LIBCONTAINER_LOGLEVEL");
    if (setenv("_LIBCONTAINER_INITTYPE", boot->wanted.new_types ? "standard" : "setns", 1) < 0)
        return fail(&boot->log, "set the environment");
    return 0;
}

static int set_environment(const bootstrap *boot, const orders *asked)
{
    char value[48];
    snprintf(value, sizeof value, "%d:%lu", boot->init_pipe, asked->inode);
    unsetenv("_NSAPI_BOOT");
    if (setenv("_NSAPI_READY", value, 1) < 0)
        return fail(&boot->log, "set the environment");
    return leave_environment(boot);
}

/* ---- the program, inside ---- */

static int set_mounts(const bootstrap *boot, const orders *asked)
{
    if (asked->propagation && mount("none", "/", NULL, MS_REC | asked->propagation, NULL) < 0)
        return fail(&boot->log, "set the propagation of all mounts");
    if (asked->new_proc == 2 && mount("none", "/proc", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return fail(&boot->log, "make /proc private");
    if (asked->new_proc && mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return fail(&boot->log, "mount /proc");
    return 0;
}

/* Root of a user namespace that was made or joined, where one is mapped. */
static int become_its_root(const bootstrap *boot)
{
    if (!(((int)boot->wanted.new_types | boot->wanted.joined_types) & CLONE_NEWUSER))
        return 0;
    return be_root_if_mapped(boot);
}

/* After whatever changes ids, which would clear it. That he may have died just before is seen by his pidfd. */
static int die_with_parent(const bootstrap *boot, int parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0L, 0L, 0L) < 0)
        return fail(&boot->log, "set the parent death signal");
    struct pollfd end = { .fd = parent, .events = POLLIN };
    if (poll(&end, 1, 0) != 0)
        return refuse(&boot->log, "what was started has died");
    return 0;
}

static int settle(bootstrap *boot, const orders *asked, before *was, bool has_proxy)
{
    if (set_mounts(boot, asked) < 0 || become_its_root(boot) < 0)
        return -1;
    if (has_proxy && die_with_parent(boot, was->self) < 0)
        return -1;
    close_owned(&was->self);
    /* What was only made is its maker's to look into; where something is joined, strangers are. */
    if (boot->wanted.join_count == 0 && was->dumpable == 1 && set_dumpable(boot, true) < 0)
        return -1;
    prctl(PR_SET_NAME, was->comm);
    if (set_environment(boot, asked) < 0)
        return -1;
    return answer(boot, "{\"inside\":true}\n");
}

/* ---- where no fork is needed ---- */

/* A child that stays outside, where it may write our maps. */
static int start_mapper(bootstrap *boot, pid_t *ret_pid)
{
    pid_t self = getpid();
    if (pair(boot, &boot->child) < 0)
        return -1;
    *ret_pid = clone_copy(0, &boot->child.pidfd);
    if (*ret_pid < 0)
        return fail(&boot->log, "start stage 0");
    if (*ret_pid > 0) {
        close_owned(&boot->child.ours);
        return 0;
    }
    close_owned(&boot->child.theirs);
    boot->child.pid = self;
    const note failed = { FAILED, 0 };
    int result = serve_stage_1(boot);
    if (result < 0)
        send(boot->child.ours, &failed, sizeof failed, MSG_NOSIGNAL);
    _exit(result < 0);
}

static void reap(pid_t pid)
{
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    /* That a child has died is our business, and nobody else's. */
    uint64_t child_ended = 1ULL << (SIGCHLD - 1);
    const struct timespec now = { 0, 0 };
    syscall(SYS_rt_sigtimedwait, &child_ended, NULL, &now, sizeof child_ended);
}

static int move_in_place(bootstrap *boot)
{
    pid_t mapper = 0;
    if (boot->wanted.new_types & CLONE_NEWUSER && start_mapper(boot, &mapper) < 0)
        return -1;
    int result = move(boot);
    if (result == 0 && mapper)
        result = tell(boot, to_stage_0(&boot->child), FINISHED, 0);
    close_owned(&boot->child.theirs); /* its end of file, if we have failed */
    reap(mapper);
    return result;
}

/* ---- the proxy ---- */

static _Noreturn void die_as(int signal_number)
{
    /* The program has left a core, if any. */
    const struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
    signal(signal_number, SIG_DFL);
    kill(getpid(), signal_number);
    set_mask(0, NULL);
    _exit(128 + signal_number); /* as pid 1 we cannot */
}

static void stop_as(int signal_number)
{
    uint64_t others = ~(1ULL << (signal_number - 1));
    if (signal_number != SIGSTOP)
        signal(signal_number, SIG_DFL);
    kill(getpid(), signal_number);
    set_mask(others, NULL); /* here we stop, until somebody lets us go on */
    set_mask(all_signals, NULL);
}

typedef struct {
    pid_t pid;
    int pidfd;
    bool is_init;
    int ended_by; /* the signal in whose place we had to kill it; 0 */
} program;

static void send_program(const program *of, int signal_number, siginfo_t *info)
{
    if (of->pidfd < 0)
        kill(of->pid, signal_number); /* nobody but us can reap it: it is still this */
    else
        syscall(SYS_pidfd_send_signal, of->pidfd, signal_number, info, 0U);
}

/* The length, with a NUL behind; 0 where it cannot be read. */
static size_t read_its_file(const program *of, const char *file, char *content, size_t size)
{
    char name[32];
    snprintf(name, sizeof name, "/proc/%d/%s", of->pid, file);
    cleanup_close int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fs_magic(fd) != PROC_SUPER_MAGIC)
        return 0;
    ssize_t length = read(fd, content, size - 1);
    content[length < 0 ? 0 : length] = '\0';
    return length < 0 ? 0 : (size_t)length;
}

/* Blocked, ignored and caught signals are its own business: those of /proc/PID/status, or all if we cannot know. */
static uint64_t signals_it_handles(const program *of)
{
    static const char *const keys[] = { "\nSigBlk:", "\nSigIgn:", "\nSigCgt:" };
    char content[4096];
    uint64_t handled = 0;
    if (read_its_file(of, "status", content, sizeof content) == 0)
        return all_signals;
    for (size_t index = 0; index < LENGTH(keys); index++) {
        const char *line = strstr(content, keys[index]);
        if (!line)
            return all_signals;
        handled |= strtoull(line + strlen(keys[index]), NULL, 16);
    }
    return handled;
}

/* As inits do by sigwait(3). The kernel shows them as not blocked then; but the system call it is in, with arguments. */
static uint64_t signals_it_waits_for(const program *of)
{
    char content[256], *arguments;
    uint64_t waited_for = 0;
    if (read_its_file(of, "syscall", content, sizeof content) == 0)
        return 0;
    if (strtol(content, &arguments, 10) != SYS_rt_sigtimedwait || arguments == content)
        return 0;
    struct iovec ours = { &waited_for, sizeof waited_for };
    struct iovec theirs = { (void *)(uintptr_t)strtoull(arguments, NULL, 16), sizeof waited_for };
    syscall(SYS_process_vm_readv, of->pid, &ours, 1UL, &theirs, 1UL, 0UL);
    return waited_for;
}

/* It may begin or end to wait between two looks at it. */
static bool takes(const program *of, int signal_number)
{
    uint64_t taken = 0;
    for (int look = 0; look < 3; look++)
        taken |= signals_it_handles(of) | signals_it_waits_for(of);
    return taken & 1ULL << (signal_number - 1);
}

/*
 * The kernel drops what pid 1 of a pid namespace has no handler for. But it is not pid 1 for who has started us, and
 * expects of terminate() that it ends a program that does not care.
 */
static bool act_for_init(program *of, int signal_number)
{
    if (!of->is_init || takes(of, signal_number))
        return false;
    switch (signal_number) {
    case SIGCHLD:
    case SIGCONT:
    case SIGURG:
    case SIGWINCH:
        return false;
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
        send_program(of, SIGSTOP, NULL);
        return true;
    default:
        of->ended_by = signal_number;
        send_program(of, SIGKILL, NULL);
        return true;
    }
}

/*
 * A terminal sends to its whole process group: the program has it already. Not that it hangs up: the session's leader
 * alone is told. (What else the kernel sends, as at the end of an alarm from before exec, is for us alone.)
 */
static bool has_it_already(const program *of, const siginfo_t *info)
{
    static const int of_a_terminal[] = { SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH, SIGHUP, SIGCONT };
    if (info->si_code != SI_KERNEL || getpgid(of->pid) != getpgrp())
        return false;
    if ((info->si_signo == SIGHUP || info->si_signo == SIGCONT) && getsid(0) == getpid())
        return false;
    for (size_t index = 0; index < LENGTH(of_a_terminal); index++)
        if (of_a_terminal[index] == info->si_signo)
            return true;
    return false;
}

static void pass_on(program *of, siginfo_t *info)
{
    int signal_number = info->si_signo;
    if (signal_number == SIGCHLD && info->si_code > 0)
        return; /* our own */
    if (act_for_init(of, signal_number) || has_it_already(of, info))
        return;
    send_program(of, signal_number, info->si_code == SI_QUEUE ? info : NULL);
}

static void follow(const program *of)
{
    siginfo_t is = { 0 };
    while (waitid(P_PID, (id_t)of->pid, &is, WEXITED | WSTOPPED | WNOHANG) == 0 && is.si_pid != 0) {
        if (is.si_code == CLD_EXITED)
            _exit(is.si_status);
        if (is.si_code == CLD_STOPPED)
            stop_as(is.si_status);
        else
            die_as(of->ended_by && is.si_status == SIGKILL ? of->ended_by : is.si_status);
        is.si_pid = 0;
    }
}

static void close_all_but(int kept)
{
    if (kept > 0)
        syscall(SYS_close_range, 0U, (unsigned)kept - 1, 0U);
    if (syscall(SYS_close_range, (unsigned)kept + 1, UINT_MAX, 0U) == 0)
        return;
    struct rlimit most = { 1024, 1024 }; /* a seccomp filter may not know close_range */
    getrlimit(RLIMIT_NOFILE, &most);
    for (int fd = 0; (rlim_t)fd < most.rlim_cur && fd < INT_MAX; fd++)
        if (fd != kept)
            close(fd);
}

/*
 * Until the program has its own signal mask, all are blocked: what came now would be kept, and then dropped, as it is
 * pid 1. Then it closes its end of the socket; or it has died.
 */
static void wait_until_settled(const bootstrap *boot)
{
    note none;
    while (receive(boot->init.ours, &none, 0) > 0)
        continue;
}

static _Noreturn void be_proxy(bootstrap *boot, const before *was)
{
    program of = {
        .pid = boot->init.pid,
        .pidfd = boot->init.pidfd,
        .is_init = boot->wanted.new_types & CLONE_NEWPID,
    };
    prctl(PR_SET_NAME, was->comm);
    reap(boot->child.pid); /* it has a copy of the socket */
    wait_until_settled(boot);
    close_all_but(of.pidfd); /* -1: all */
    if (chdir("/") < 0)
        errno = 0; /* then its working directory stays in use: no harm */
    for (;;) {
        siginfo_t info;
        follow(&of);
        if (syscall(SYS_rt_sigtimedwait, &all_signals, &info, NULL, sizeof all_signals) > 0)
            pass_on(&of, &info);
    }
}

/* ---- all of it ---- */

static bool needs_fork(const message *wanted)
{
    return ((int)wanted->new_types | wanted->joined_types) & (CLONE_NEWPID | CLONE_NEWTIME);
}

static int boot_stages(bootstrap *boot, const orders *asked, before *was)
{
    was->self = (int)syscall(SYS_pidfd_open, getpid(), 0U);
    if (was->self < 0)
        return fail(&boot->log, "pidfd_open");
    int end = run_stages(boot);
    if (end == NSEXEC_INSIDE)
        return settle(boot, asked, was, true);
    if (end == NSEXEC_DONE && boot->log.stage == 0)
        be_proxy(boot, was);
    if (end == NSEXEC_DONE)
        _exit(0); /* stage 1 */
    end_others(boot);
    if (boot->log.stage == 0) {
        reap(boot->init.pid);
        reap(boot->child.pid);
    }
    return -1;
}

static int boot_here(bootstrap *boot, const orders *asked, before *was)
{
    return move_in_place(boot) < 0 ? -1 : settle(boot, asked, was, false);
}

static int boot_as_ordered(const char *text)
{
    bootstrap boot = new_bootstrap((nsexec_rules){ .own_stages = true, .together = -1 });
    before was = { .dumpable = prctl(PR_GET_DUMPABLE, 0L, 0L, 0L, 0L), .self = -1 };
    orders asked = { 0 };
    if (getauxval(AT_SECURE))
        return refuse(&boot.log, "a program with more rights than its caller takes no bootstrap");
    if (read_orders(&boot.log, text, &asked) < 0 || check_pipe(&boot, &asked) < 0)
        return -1;
    boot.rules.deny_setgroups = asked.deny_setgroups != 0;
    prctl(PR_GET_NAME, was.comm);
    set_mask(all_signals, &was.mask);
    struct sigaction of_children, fresh = { .sa_handler = SIG_DFL };
    sigaction(SIGCHLD, &fresh, &of_children); /* where it is ignored, statuses are lost */
    if (answer(&boot, "{\"started\":true}\n") < 0 || prepare(&boot) < 0)
        return -1;
    int result = (needs_fork(&boot.wanted) ? boot_stages : boot_here)(&boot, &asked, &was);
    sigaction(SIGCHLD, &of_children, NULL);
    set_mask(was.mask, NULL);
    release(&boot); /* last: see wait_until_settled */
    return result;
}

static void boot_for_speaker(void)
{
    bootstrap boot = new_bootstrap(of_runc);
    int end = perform(&boot);
    if (end == NSEXEC_INSIDE && leave_environment(&boot) < 0)
        end = NSEXEC_FAILED;
    release(&boot);
    if (end != NSEXEC_INSIDE)
        _exit(end == NSEXEC_FAILED);
}

__attribute__((constructor)) static void before_main(void)
{
    int saved = errno;
    const char *text = getenv("_NSAPI_BOOT");
    if (text && *text) {
        if (boot_as_ordered(text) < 0)
            _exit(1);
    } else if (is_asked_for()) {
        boot_for_speaker();
    }
    errno = saved;
}
