#define _GNU_SOURCE /* O_PATH, CLONE_THREAD */
#include "ingest/extract/extract_sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#define WALLS 0
#else
#define WALLS 1
#endif

/* ---- Landlock --------------------------------------------------------------- */

/* The kernel's interface, of which Debian's headers know only the beginning. */
#define ABI_KNOWN 7
#define ACCESS_READ_FILE (1ull << 2)
#define ACCESS_READ_DIR (1ull << 3)
struct ruleset {
    uint64_t files, network, scopes;
};
struct path_rule {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

/* All that libraries read after the zygote has warmed them up. Missing ones are
 * passed over. */
static const char *const readable[] = {
    "/usr/share/poppler", "/usr/share/fonts", "/usr/local/share/fonts", "/usr/share/fontconfig",
    "/usr/share/ghostscript/fonts", "/etc/fonts", "/var/cache/fontconfig",
    "/usr/share/tesseract-ocr", "/usr/share/tessdata", "/usr/lib/gconv", "/usr/lib64/gconv", "/usr/lib/*-linux-gnu*/gconv",
    "/usr/share/icu", "/usr/share/misc", "/usr/share/i18n", "/usr/lib/locale", "/usr/share/zoneinfo",
    "/etc/localtime", "/etc/ld.so.cache",
};

static void allow_path(int ruleset, const char *path)
{
    struct stat st;
    struct path_rule rule = {ACCESS_READ_FILE, open(path, O_PATH | O_CLOEXEC)};
    if (rule.parent < 0)
        return;
    if (fstat(rule.parent, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            rule.allowed |= ACCESS_READ_DIR;
        syscall(SYS_landlock_add_rule, ruleset, 1, &rule, 0);
    }
    close(rule.parent);
}

void msa_sandbox_prepare(msa_sandbox *s)
{
    *s = (msa_sandbox){.landlock = -1};
    long abi = WALLS ? syscall(SYS_landlock_create_ruleset, NULL, 0, 1) : -1;
    if (abi < 1)
        return;
    s->landlock_abi = abi < ABI_KNOWN ? (int)abi : ABI_KNOWN;
    /* everything that this version can handle is handled, so forbidden unless allowed */
    static const int n_files[] = {0, 13, 14, 15, 15, 16, 16, 16};
    struct ruleset rules = {(1ull << n_files[s->landlock_abi]) - 1, abi >= 4 ? 3 : 0, abi >= 6 ? 3 : 0};
    size_t size = abi >= 6 ? sizeof rules : abi >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
    s->landlock = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0);
    if (s->landlock < 0)
        return;
    for (size_t i = 0; i < sizeof readable / sizeof *readable; i++) {
        glob_t found;
        if (glob(readable[i], 0, NULL, &found) == 0)
            for (size_t k = 0; k < found.gl_pathc; k++)
                allow_path(s->landlock, found.gl_pathv[k]);
        globfree(&found);
    }
}

/* ---- system calls ----------------------------------------------------------- */

/* Allowed whatever the arguments. Names, so that a call that an architecture or
 * this libseccomp does not have is passed over. */
static const char *const allowed[] = {
    /* descriptors it has */
    "read", "pread64", "readv", "preadv", "write", "writev", "lseek", "_llseek", "close", "close_range",
    "fstat", "fstat64", "fadvise64", "dup", "dup2", "dup3", "fcntl", "fcntl64", "poll", "ppoll", "select", "pselect6",
    "recvfrom", "recvmsg", "recv", "sendto", "send", "getdents64", "pipe2", "eventfd2",
    /* looking at paths, which Landlock bounds where it matters: at opening */
    "newfstatat", "fstatat64", "stat", "stat64", "lstat", "lstat64", "statx", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getcwd", "statfs", "fstatfs",
    /* memory; files in memory only */
    "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "brk", "memfd_create", "ftruncate", "membarrier",
    /* itself */
    "getpid", "getppid", "gettid", "getpgrp", "getuid", "geteuid", "getgid", "getegid", "getuid32", "geteuid32", "getgid32",
    "getegid32", "getrlimit", "ugetrlimit", "getrusage", "times", "sysinfo", "uname", "sched_getaffinity", "sched_yield",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigreturn", "sigaltstack", "futex", "futex_time64",
    "set_robust_list", "rseq", "restart_syscall", "exit", "exit_group",
    /* clocks and chance */
    "clock_gettime", "clock_gettime64", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "getrandom",
};

/* Nothing that reads a file does any of these; what does has been taken over. */
static const char *const deadly[] = {
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "socket", "socketpair",
    "socketcall", "connect", "bind", "listen", "accept", "accept4", "unshare", "setns", "mount", "umount2", "pivot_root",
    "chroot", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "io_uring_setup", "init_module",
    "finit_module", "kexec_load", "open_by_handle_at", "pidfd_getfd", "pidfd_open",
};

typedef struct filter {
    scmp_filter_ctx ctx;
    bool bad;
} filter;

static void rule(filter *f, const char *name, uint32_t action, unsigned n, const struct scmp_arg_cmp *args)
{
    int nr = seccomp_syscall_resolve_name(name);
    if (nr != __NR_SCMP_ERROR && seccomp_rule_add_array(f->ctx, action, nr, n, args) != 0)
        f->bad = f->bad || nr >= 0; /* a call of another architecture cannot be ruled on */
}

#define RULE(f, name, action, ...)                                                                  \
    rule(f, name, action, sizeof((struct scmp_arg_cmp[]){__VA_ARGS__}) / sizeof(struct scmp_arg_cmp), \
         (const struct scmp_arg_cmp[]){__VA_ARGS__})

static bool load_filter(void)
{
    const scmp_datum_t writes = O_ACCMODE | O_CREAT | O_TRUNC;
    filter f = {.ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM))};
    if (!f.ctx)
        return false;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        rule(&f, allowed[i], SCMP_ACT_ALLOW, 0, NULL);
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
        rule(&f, deadly[i], SCMP_ACT_KILL_PROCESS, 0, NULL);
    RULE(&f, "open", SCMP_ACT_ALLOW, SCMP_A1(SCMP_CMP_MASKED_EQ, writes, O_RDONLY));
    RULE(&f, "openat", SCMP_ACT_ALLOW, SCMP_A2(SCMP_CMP_MASKED_EQ, writes, O_RDONLY));
    /* a new process ends it, a new thread is refused: libraries live without.
     * clone3 hides its flags: as if the kernel had none, then the C library takes clone */
    RULE(&f, "clone", SCMP_ACT_KILL_PROCESS, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    rule(&f, "clone3", SCMP_ACT_ERRNO(ENOSYS), 0, NULL);
    /* limits may be asked, not moved; signals only to itself */
    RULE(&f, "prlimit64", SCMP_ACT_ALLOW, SCMP_A2(SCMP_CMP_EQ, 0));
    RULE(&f, "tgkill", SCMP_ACT_ALLOW, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    static const int harmless[] = {PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME};
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        RULE(&f, "prctl", SCMP_ACT_ALLOW, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)harmless[i]));
    bool ok = !f.bad && seccomp_attr_set(f.ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) == 0 && seccomp_load(f.ctx) == 0;
    seccomp_release(f.ctx);
    return ok;
}

/* ---- entering, and trying --------------------------------------------------- */

static bool limited(void)
{
    struct rlimit core, size, memory;
    return getrlimit(RLIMIT_CORE, &core) == 0 && getrlimit(RLIMIT_FSIZE, &size) == 0 &&
           getrlimit(RLIMIT_AS, &memory) == 0 && core.rlim_max == 0 && size.rlim_max == 0 &&
           (!WALLS || memory.rlim_max != RLIM_INFINITY) && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
}

static bool refused(int fd, int with)
{
    int e = errno;
    if (fd >= 0)
        close(fd);
    return fd < 0 && e == with;
}

const char *msa_sandbox_enter(msa_sandbox *s)
{
    bool landlock = s->landlock >= 0 && syscall(SYS_landlock_restrict_self, s->landlock, 0) == 0;
    if (s->landlock >= 0)
        close(s->landlock);
    s->landlock = -1;
    /* "/" exists: without walls the answers would be a descriptor and EEXIST */
    landlock = landlock && refused(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), EACCES);
    bool filtered = WALLS && load_filter() && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER &&
                    refused(mkdir("/", 0700), EPERM) && refused(open("/dev/null", O_RDWR | O_CLOEXEC), EPERM);
    snprintf(s->level, sizeof s->level, "%s%s", limited() ? "rlimit" : "none", filtered ? "+seccomp" : "");
    if (landlock)
        snprintf(s->level + strlen(s->level), sizeof s->level - strlen(s->level), "+landlock%d", s->landlock_abi);
    return s->level;
}
