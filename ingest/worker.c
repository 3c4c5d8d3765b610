/* Invariants:
 *  1. A job's `events` hold whole frames that were parsed, decoded and taken by
 *     the job's event order: delivery only decodes them again.
 *  2. Events leave in order of jobs; those of later jobs wait. What waits is at
 *     most QUEUE_MAX a worker, and a worker's unparsed bytes at most one frame:
 *     beyond, we stop reading and the worker waits in its write.
 *  3. A worker has a job from the sending of the job frame to DONE or its death.
 *  4. A job's descriptor stays open until its END_FILE, for another attempt.
 *  5. Clocks run only while we listen: time in which the caller keeps us, or in
 *     which a worker's queue is full, is nobody's fault. */
#define _GNU_SOURCE /* memmem */
#include "ingest/worker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ingest/worker_internal.h"

#define QUEUE_MAX ((int64_t)16 << 20)
#define READ_STEP ((int64_t)256 << 10)
#define PUMP_BYTES ((int64_t)1 << 20) /* delivered between two looks at the workers */
#define JOBS_A_WORKER 4
#define ATTEMPTS 2            /* of a file before the member that was open is left out */
#define SKIPS_MAX 16          /* members left out of one file */
#define FILES_A_WORKER 1000   /* leaks of libraries end with the process */
#define RSS_A_WORKER ((int64_t)512 << 20)
#define START_SECONDS 60      /* from exec to HELLO, on a machine that is busy */
#define STARTS_MAX 3          /* workers in a row that die before they say HELLO */
#define WALL_PER_CPU 10       /* listening time of one file, in cpu_seconds */
#define CPU_SPARE 5           /* seconds that the kernel waits longer than we do */
#define TICK_MS 200
#define ERRORS_KEPT 4096

typedef enum job_state { JOB_WAITING, JOB_RUNNING, JOB_COMPLETE, JOB_LOST } job_state;

typedef struct job {
    struct job *next;
    int64_t file;
    int fd;
    char *name, *display;
    msa_source_format format;
    job_state state;
    msa_buf events;      /* checked frames not yet delivered, from `given` on */
    int64_t given;
    msa_event_order order;
    int attempts, skips;
    int64_t patience;    /* times the usual limits of time: 2 for another attempt */
    msa_buf skip;        /* members that killed workers */
    char *names[MSA_EVENT_DEPTH_MAX + 2]; /* display names of the open members, from depth 1 */
    msa_loss losses[SKIPS_MAX + 1];
    int64_t n_losses;
    bool restart;        /* the caller must forget before it sees more */
    char code[64];       /* why the worker was lost */
    msa_buf message;
} job;

typedef struct worker {
    msa_child child;     /* pid -1: none running */
    bool ready;          /* HELLO came */
    job *job;
    msa_buf in;          /* bytes of a frame that is not whole yet */
    uint32_t seq_in, seq_out;
    int64_t files;
    double cpu_start;
    int64_t heard_ms, wall_ms; /* listening time since the last frame; of the job */
    char errors[ERRORS_KEPT];
    int64_t n_errors;
} worker;

struct msa_workers {
    char *path;
    int64_t n;
    msa_ingest_limits limits;
    bool isolation_required;
    bool isolation_told;
    char isolation[MSA_ISOLATION_MAX]; /* the least of all workers so far */
    msa_child zygote;
    worker *workers;
    struct pollfd *polls;
    job *head, *tail, *spent; /* spent: ended, freed at the next call */
    int64_t n_jobs, files, queued;
    int64_t since_pump;
    int starts_failed;
    int64_t now_ms, cpu_checked_ms;
    msa_err fatal;
    msa_rc fatal_rc;
};

/* ---- life ------------------------------------------------------------------- */

static int64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void job_free(job *j)
{
    if (!j)
        return;
    if (j->fd >= 0)
        close(j->fd);
    free(j->name);
    free(j->display);
    msa_buf_free(&j->events);
    msa_buf_free(&j->skip);
    msa_buf_free(&j->message);
    for (size_t i = 0; i < sizeof j->names / sizeof *j->names; i++)
        free(j->names[i]);
    for (int64_t i = 0; i < j->n_losses; i++) {
        free((char *)j->losses[i].member);
        free((char *)j->losses[i].code);
        free((char *)j->losses[i].how);
        free((char *)j->losses[i].errors);
    }
    free(j);
}

msa_rc msa_workers_new(const msa_workers_opts *opts, msa_workers **out, msa_err *err)
{
    *out = NULL;
    if (access(opts->extract_path, X_OK) != 0)
        return msa_err_sys(err, MSA_FATAL, MSA_E_CONFIG, errno, "extraction program %s", opts->extract_path);
    if (opts->n_workers < 1 || opts->n_workers > 4096)
        return msa_err_set(err, MSA_FATAL, MSA_E_CONFIG, "%lld workers", (long long)opts->n_workers);
    msa_workers *w = msa_calloc(1, sizeof *w);
    if (!w)
        return msa_err_nomem(err, "workers");
    w->n = opts->n_workers;
    w->limits = opts->limits;
    w->isolation_required = opts->isolation_required;
    w->zygote = (msa_child){-1, -1, -1};
    w->path = msa_strdup(opts->extract_path);
    w->workers = msa_calloc(w->n, sizeof *w->workers);
    w->polls = msa_calloc(2 * w->n, sizeof *w->polls);
    if (!w->path || !w->workers || !w->polls) {
        msa_workers_free(w);
        return msa_err_nomem(err, "workers");
    }
    for (int64_t i = 0; i < w->n; i++)
        w->workers[i].child = (msa_child){-1, -1, -1};
    *out = w;
    return MSA_OK;
}

static void worker_stop(worker *k, int *status)
{
    msa_child_stop(&k->child, status);
    msa_buf_free(&k->in);
    k->ready = false;
    k->seq_in = k->seq_out = 0;
    k->files = 0;
}

void msa_workers_free(msa_workers *w)
{
    if (!w)
        return;
    for (int64_t i = 0; w->workers && i < w->n; i++)
        worker_stop(&w->workers[i], NULL);
    msa_child_stop(&w->zygote, NULL);
    for (job *j = w->head, *next; j; j = next) {
        next = j->next;
        job_free(j);
    }
    job_free(w->spent);
    free(w->workers);
    free(w->polls);
    free(w->path);
    free(w);
}

static msa_rc dead(msa_workers *w, msa_err *err)
{
    if (err && err->code == MSA_E_NONE)
        *err = w->fatal;
    return w->fatal_rc;
}

static void kill_pool(msa_workers *w, msa_rc rc)
{
    if (w->fatal_rc == MSA_OK)
        w->fatal_rc = rc;
}

/* ---- jobs and their workers ------------------------------------------------- */

bool msa_workers_room(const msa_workers *w)
{
    return w->n_jobs < JOBS_A_WORKER * w->n;
}

static void job_drop_events(msa_workers *w, job *j)
{
    w->queued -= j->events.len - j->given;
    msa_buf_free(&j->events);
    j->given = 0;
}

/* Whether the member is left out already, and still it is where workers end. */
static bool skipped(const job *j, const char *path)
{
    size_t n = strlen(path);
    for (const char *p = j->skip.data; p && *p; p = strchr(p, ';') + 1)
        if (!strncmp(p, path, n) && p[n] == '=')
            return true;
    return false;
}

/* Keeps what is known of a worker's end, with the members that were open then. */
static void note_loss(job *j, msa_loss loss)
{
    msa_buf chain = {0};
    for (int64_t d = 1; d < j->order.open; d++)
        msa_buf_printf(&chain, "%s%s", d > 1 ? "!/" : "", j->names[d] ? j->names[d] : "?");
    msa_buf_put(&chain, "", 0);
    loss.page = j->order.open > 0 ? j->order.at[j->order.open - 1].page : 0;
    loss.member = chain.data;
    loss.code = msa_strdup(loss.code);
    loss.how = msa_strdup(loss.how);
    loss.errors = msa_strndup(loss.errors, loss.n_errors);
    j->losses[j->n_losses++] = loss;
}

/* Another attempt, or the end of the file. The member that was open when the
 * last attempt ended is left out of the next one: an archive loses it and nothing
 * else, and each further bad member costs one worker. */
static void job_again(msa_workers *w, job *j, bool may_repeat, msa_loss loss)
{
    msa_buf path = {0};
    msa_event_order_path(&j->order, &path);
    j->attempts++;
    if (may_repeat && j->attempts < ATTEMPTS)
        j->state = JOB_WAITING;
    else if (path.len > 0 && !path.oom && j->skips < SKIPS_MAX && !skipped(j, path.data)) {
        msa_buf_printf(&j->skip, "%s=%s;", path.data, j->code);
        j->skips++;
        j->attempts = ATTEMPTS - 1;
        j->state = JOB_WAITING;
        loss.left_out = true;
        note_loss(j, loss);
    } else {
        j->state = JOB_LOST;
        note_loss(j, loss);
    }
    msa_buf_free(&path);
    if (j->state == JOB_WAITING) {
        j->restart = true;
        j->patience = 2;
        job_drop_events(w, j);
        msa_event_order_init(&j->order, &w->limits);
    }
}

/* "; it said: ..." with the head of what came over stderr, or "". */
static void errors_head(const char *errors, int64_t n, char *out, size_t cap)
{
    out[0] = 0;
    if (n == 0)
        return;
    char *shown = msa_display_name(errors, n < 400 ? n : 400);
    snprintf(out, cap, "; it said: %s", shown ? shown : "?");
    free(shown);
}

static void hear_errors(msa_child *c, char *kept, int64_t *n_kept)
{
    char scratch[4096];
    for (int i = 0; i < 64; i++) { /* a flood waits in the pipe for the next round */
        ssize_t n = read(c->errors, scratch, sizeof scratch);
        if (n <= 0) {
            if (n < 0 && errno == EINTR)
                continue;
            if (n == 0) { /* closed by the worker: a poll on it would never sleep again */
                close(c->errors);
                c->errors = -1;
            }
            return;
        }
        int64_t keep = n < ERRORS_KEPT - *n_kept ? n : ERRORS_KEPT - *n_kept;
        memcpy(kept + *n_kept, scratch, (size_t)keep);
        *n_kept += keep;
    }
}

static void how_ended(int status, char *out, size_t cap)
{
    if (WIFSIGNALED(status))
        snprintf(out, cap, "the parser ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(out, cap, "the parser ended with status %d", WEXITSTATUS(status));
}

static msa_rc does_not_work(msa_workers *w, const char *how, const char *said)
{
    msa_err_set(&w->fatal, MSA_FATAL, MSA_E_CONFIG, "%s does not work: %s%s", w->path, how, said);
    kill_pool(w, MSA_FATAL);
    return MSA_FATAL;
}

static bool said_no_memory(const worker *k)
{
    static const char *const words[] = {"ut of memory", "No memory", "bad_alloc", "failed to allocate", "annot allocate memory"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (memmem(k->errors, (size_t)k->n_errors, words[i], strlen(words[i])))
            return true;
    return false;
}

/* The worker is dead or has to die. code NULL: find out why from its status. */
static void worker_lost(msa_workers *w, worker *k, const char *code, const char *why)
{
    int status;
    char said[1400], how[256];
    job *j = k->job;
    bool ready = k->ready;
    hear_errors(&k->child, k->errors, &k->n_errors);
    worker_stop(k, &status);
    k->job = NULL;
    errors_head(k->errors, k->n_errors, said, sizeof said);
    if (why)
        snprintf(how, sizeof how, "%s", why);
    else
        how_ended(status, how, sizeof how);
    if (!ready) { /* it never took the job */
        if (j)
            j->state = JOB_WAITING;
        if (++w->starts_failed >= STARTS_MAX)
            does_not_work(w, how, said);
        return;
    }
    if (!j)
        return;
    if (!code)
        code = said_no_memory(k)                                           ? "limit_memory"
               : WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU         ? "limit_cpu"
               : WIFSIGNALED(status)                                       ? "crash_signal"
                                                                           : "crash_exit";
    snprintf(j->code, sizeof j->code, "%s", code);
    msa_buf_free(&j->message);
    msa_buf_printf(&j->message, "%s%s", how, said);
    msa_log('w', "%s: %s: %s", j->display, code, j->message.data ? j->message.data : "");
    /* what took minutes once is not tried again */
    msa_loss loss = {.code = code, .how = how, .errors = k->errors, .n_errors = k->n_errors};
    if (!why && WIFSIGNALED(status))
        loss.signal = WTERMSIG(status);
    else if (!why)
        loss.status = WEXITSTATUS(status);
    job_again(w, j, strcmp(code, "limit_cpu") && strcmp(code, "limit_wall"), loss);
}

static bool worker_give(msa_workers *w, worker *k, job *j)
{
    msa_buf out = {0};
    msa_job order = {w->limits, j->format, j->name, j->skip.data ? j->skip.data : ""};
    bool sent = msa_frame_put_job(&out, k->seq_out, &order) &&
                msa_child_send(&k->child, out.data, out.len, j->fd);
    msa_buf_free(&out);
    if (!sent)
        return false;
    k->seq_out++;
    k->n_errors = 0;
    k->cpu_start = msa_child_cpu(&k->child);
    msa_child_cpu_limit(&k->child, (int64_t)k->cpu_start + j->patience * w->limits.cpu_seconds + CPU_SPARE);
    k->heard_ms = k->wall_ms = 0;
    return true;
}

/* Starts a worker, and before the first one, or when it is gone, the zygote. */
static bool worker_start(msa_workers *w, worker *k)
{
    for (int i = 0; i < STARTS_MAX; i++) {
        msa_rc rc = MSA_OK;
        if (w->zygote.pid < 0)
            rc = msa_zygote_start(&w->zygote, w->path, w->limits.memory_bytes, &w->fatal);
        if (rc == MSA_OK)
            rc = msa_child_start(&k->child, &w->zygote, &w->fatal);
        if (rc == MSA_OK) {
            k->n_errors = k->heard_ms = 0;
            return true;
        }
        char errors[ERRORS_KEPT], said[1400], how[256];
        int64_t n = 0;
        int status;
        hear_errors(&w->zygote, errors, &n);
        msa_child_stop(&w->zygote, &status);
        if (rc == MSA_FATAL) {
            msa_err_prefix(&w->fatal, MSA_FATAL, "%s does not work", w->path);
            kill_pool(w, MSA_FATAL);
            return false;
        }
        if (i + 1 == STARTS_MAX) {
            errors_head(errors, n, said, sizeof said);
            how_ended(status, how, sizeof how);
            does_not_work(w, how, said);
        }
    }
    return false;
}

/* Every waiting job gets a worker, as long as there are workers without one. */
static void assign(msa_workers *w)
{
    job *j = w->head;
    for (int64_t i = 0; i < w->n && w->fatal_rc == MSA_OK; i++) {
        worker *k = &w->workers[i];
        if (k->job)
            continue;
        while (j && j->state != JOB_WAITING)
            j = j->next;
        if (!j)
            return;
        if (k->child.pid > 0 && (k->files >= FILES_A_WORKER || msa_child_rss(&k->child) > RSS_A_WORKER))
            worker_stop(k, NULL);
        if (k->child.pid < 0 && !worker_start(w, k))
            return;
        k->job = j;
        j->state = JOB_RUNNING;
        if (k->ready && !worker_give(w, k, j)) { /* it died while idle: not the file's fault */
            worker_stop(k, NULL);
            k->job = NULL;
            j->state = JOB_WAITING;
            i--;
        }
    }
}

msa_rc msa_workers_submit(msa_workers *w, int fd, const char *name, msa_source_format format,
                          msa_err *err)
{
    job *j = w->fatal_rc == MSA_OK ? msa_calloc(1, sizeof *j) : NULL;
    if (j) {
        j->name = msa_strndup(name, (int64_t)strnlen(name, MSA_FRAME_NAME_MAX));
        j->display = msa_display_name(name, (int64_t)strlen(name));
        j->fd = -1;
    }
    if (!j || !j->name || !j->display) {
        close(fd);
        job_free(j);
        return w->fatal_rc == MSA_OK ? msa_err_nomem(err, "workers") : dead(w, err);
    }
    j->fd = fd;
    j->format = format;
    j->patience = 1;
    j->file = w->files++;
    msa_event_order_init(&j->order, &w->limits);
    if (w->tail)
        w->tail->next = j;
    else
        w->head = j;
    w->tail = j;
    w->n_jobs++;
    assign(w);
    return MSA_OK;
}

/* ---- listening -------------------------------------------------------------- */

/* A worker says how far it is locked in; it has seen no file yet. */
static msa_rc note_isolation(msa_workers *w, const msa_frame *f, msa_err *err)
{
    char level[MSA_ISOLATION_MAX];
    msa_rc rc = msa_frame_get_hello(f, level, err);
    if (rc == MSA_OK && (!w->isolation[0] || strlen(level) < strlen(w->isolation)))
        memcpy(w->isolation, level, sizeof level);
    if (rc == MSA_OK && !w->isolation_told)
        msa_log('i', "isolation of parsers: %s", level);
    w->isolation_told = true;
    if (rc == MSA_OK && w->isolation_required && !strstr(level, "seccomp")) {
        msa_err_set(&w->fatal, MSA_FATAL, MSA_E_UNAVAILABLE, "the job requires isolation by a system call filter "
                    "(seccomp), and this machine gives workers no more than: %s", level);
        kill_pool(w, MSA_FATAL);
    }
    return rc;
}

/* Takes the whole frames at the front of k->in; false when the worker broke the
 * protocol (and is gone). */
static bool take_frames(msa_workers *w, worker *k)
{
    int64_t at = 0;
    while (k->child.pid > 0) {
        msa_frame f;
        msa_err err;
        msa_err_init(&err);
        msa_rc rc = msa_frame_parse(k->in.data + at, k->in.len - at, k->seq_in, &f, &err);
        if (rc == MSA_END)
            break;
        job *j = k->ready ? k->job : NULL;
        msa_event ev;
        if (rc == MSA_OK && f.type == MSA_FRAME_HELLO && !k->ready) {
            rc = note_isolation(w, &f, &err);
            k->ready = rc == MSA_OK;
            w->starts_failed = k->ready ? 0 : w->starts_failed;
            if (k->ready && k->job && !worker_give(w, k, k->job)) {
                worker_lost(w, k, "protocol", "the worker took no job");
                return false;
            }
        } else if (rc == MSA_OK && j && f.type == MSA_FRAME_DONE && j->order.closed) {
            j->state = JOB_COMPLETE;
            k->job = NULL;
            k->files++;
        } else if (rc == MSA_OK && j && f.type == MSA_FRAME_BEAT) {
            ;
        } else if (rc == MSA_OK && j && f.type >= MSA_FRAME_EVENT) {
            rc = msa_frame_get_event(&f, &ev, &err);
            if (rc == MSA_OK)
                rc = msa_event_order_take(&j->order, &ev, &err);
            if (rc == MSA_OK) {
                if (ev.kind == MSA_EV_MEMBER_BEGIN && ev.depth > 0) {
                    free(j->names[ev.depth]);
                    j->names[ev.depth] = msa_strdup(ev.name);
                }
                msa_buf_put(&j->events, k->in.data + at, f.total);
                w->queued += f.total;
                if (j->events.oom) {
                    msa_err_nomem(&w->fatal, "events of a worker");
                    kill_pool(w, MSA_FATAL);
                    return false;
                }
            }
        } else if (rc == MSA_OK)
            rc = msa_err_set(&err, MSA_FAILED, MSA_E_DATA, "a frame of type %d at the wrong time", f.type);
        if (rc < 0) {
            worker_lost(w, k, "protocol", err.msg);
            return false;
        }
        k->seq_in++;
        k->heard_ms = 0;
        at += f.total;
    }
    if (at > 0) {
        memmove(k->in.data, k->in.data + at, (size_t)(k->in.len - at));
        k->in.len -= at;
    }
    return true;
}

static void hear(msa_workers *w, worker *k)
{
    if (!msa_buf_reserve(&k->in, READ_STEP)) {
        msa_err_nomem(&w->fatal, "frames of a worker");
        kill_pool(w, MSA_FATAL);
        return;
    }
    ssize_t n = recv(k->child.sock, k->in.data + k->in.len, (size_t)READ_STEP, 0);
    if (n > 0) {
        k->in.len += n;
        take_frames(w, k);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        worker_lost(w, k, NULL, NULL);
}

static bool may_hear(const msa_workers *w, const worker *k)
{
    if (!k->job || !k->ready || k->job == w->head)
        return true; /* the head's events leave as they come */
    return k->job->events.len - k->job->given < QUEUE_MAX && w->queued < w->n * QUEUE_MAX;
}

/* One round: waits up to timeout_ms for any worker and takes what it sent. */
static void pump(msa_workers *w, int timeout_ms)
{
    int64_t before = clock_ms();
    for (int64_t i = 0; i < w->n; i++) {
        worker *k = &w->workers[i];
        bool alive = k->child.pid > 0;
        w->polls[2 * i] = (struct pollfd){alive && may_hear(w, k) ? k->child.sock : -1, POLLIN, 0};
        w->polls[2 * i + 1] = (struct pollfd){alive ? k->child.errors : -1, POLLIN, 0};
    }
    int n = poll(w->polls, (nfds_t)(2 * w->n), timeout_ms);
    int64_t now = clock_ms();
    bool look_at_cpu = now - w->cpu_checked_ms >= 500;
    if (look_at_cpu)
        w->cpu_checked_ms = now;
    for (int64_t i = 0; i < w->n && w->fatal_rc == MSA_OK; i++) {
        worker *k = &w->workers[i];
        struct pollfd *p = &w->polls[2 * i];
        if (k->child.pid < 0)
            continue;
        if (n > 0 && p[1].revents)
            hear_errors(&k->child, k->errors, &k->n_errors);
        if (p[0].fd >= 0) {
            k->heard_ms += now - before;
            k->wall_ms += now - before;
        }
        if (n > 0 && p[0].revents)
            hear(w, k);
        if (k->child.pid < 0 || !k->job)
            continue;
        char why[128];
        int64_t silence = k->ready ? k->job->patience * w->limits.stall_seconds : START_SECONDS;
        int64_t cpu = k->job->patience * w->limits.cpu_seconds;
        if (k->heard_ms > silence * 1000) {
            snprintf(why, sizeof why, "the parser was silent for %lld s", (long long)silence);
            worker_lost(w, k, "stall", why);
        } else if (k->ready && k->wall_ms / 1000 > cpu * WALL_PER_CPU) {
            snprintf(why, sizeof why, "the parser took more than %lld s", (long long)cpu * WALL_PER_CPU);
            worker_lost(w, k, "limit_wall", why);
        } else if (k->ready && look_at_cpu && k->cpu_start >= 0 &&
                   msa_child_cpu(&k->child) - k->cpu_start > (double)cpu) {
            snprintf(why, sizeof why, "the parser used more than %lld s of processor time", (long long)cpu);
            worker_lost(w, k, "limit_cpu", why);
        }
    }
    w->since_pump = 0;
    assign(w);
}

/* ---- delivery --------------------------------------------------------------- */

static void end_file(msa_workers *w, msa_event *ev)
{
    job *j = w->head;
    memset(ev, 0, sizeof *ev);
    ev->kind = MSA_EV_END_FILE;
    ev->byte = -1;
    ev->file = j->file;
    ev->outcome = MSA_EXTRACT_OK;
    if (j->state == JOB_LOST) {
        ev->outcome = MSA_EXTRACT_FAILED;
        ev->code = j->code;
        ev->text = j->message.data;
        ev->n = j->message.len;
    }
    w->head = j->next;
    if (!w->head)
        w->tail = NULL;
    w->n_jobs--;
    w->spent = j;
}

msa_rc msa_workers_next(msa_workers *w, msa_event *ev, msa_err *err)
{
    job_free(w->spent);
    w->spent = NULL;
    while (w->fatal_rc == MSA_OK) {
        if (w->since_pump >= PUMP_BYTES)
            pump(w, 0);
        job *j = w->head;
        if (!j)
            return MSA_END;
        if (j->restart) {
            j->restart = false;
            memset(ev, 0, sizeof *ev);
            ev->kind = MSA_EV_RESTART;
            ev->byte = -1;
            ev->file = j->file;
            return MSA_OK;
        }
        if (j->given < j->events.len) {
            msa_frame f;
            msa_frame_again(j->events.data + j->given, &f);
            if (msa_frame_get_event(&f, ev, err) < 0)
                return MSA_FATAL; /* invariant 1 */
            ev->file = j->file;
            if (ev->kind == MSA_EV_MEMBER_BEGIN && ev->depth == 0)
                ev->name = j->display; /* our own word for it */
            j->given += f.total;
            w->queued -= f.total;
            w->since_pump += f.total + 256;
            return MSA_OK;
        }
        j->events.len = j->given = 0;
        if (j->state == JOB_COMPLETE || j->state == JOB_LOST) {
            end_file(w, ev);
            return MSA_OK;
        }
        pump(w, TICK_MS);
    }
    return dead(w, err);
}

int64_t msa_workers_losses(const msa_workers *w, const msa_loss **out)
{
    *out = w->spent ? w->spent->losses : NULL;
    return w->spent ? w->spent->n_losses : 0;
}

/* ---- isolation -------------------------------------------------------------- */

const char *msa_workers_isolation(const msa_workers *w)
{
    return w->isolation;
}

msa_rc msa_workers_probe(const char *extract_path, char level[MSA_ISOLATION_MAX], msa_err *err)
{
    msa_workers_opts o = {.extract_path = extract_path, .n_workers = 1};
    msa_workers *w = NULL;
    msa_ingest_limits_default(&o.limits);
    msa_rc rc = msa_workers_new(&o, &w, err);
    if (rc == MSA_OK && !worker_start(w, &w->workers[0]))
        rc = dead(w, err);
    while (rc == MSA_OK && w->fatal_rc == MSA_OK && !w->isolation[0] && w->workers[0].child.pid > 0)
        pump(w, TICK_MS);
    if (rc == MSA_OK && !w->isolation[0])
        rc = msa_err_set(err, MSA_FATAL, MSA_E_CONFIG, "%s does not work: its worker ended at once", extract_path);
    if (rc == MSA_OK)
        memcpy(level, w->isolation, MSA_ISOLATION_MAX);
    msa_workers_free(w);
    return rc;
}
