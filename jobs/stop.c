#define _GNU_SOURCE
#include "jobs/stop.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"

static atomic_int stop;
static _Atomic int64_t stopped_at; /* seconds of the monotonic clock */

static int64_t now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

/* Everything called here is async-signal-safe. */
static void on_signal(int signo)
{
    int expected = 0;
    if (atomic_compare_exchange_strong(&stop, &expected, signo)) {
        atomic_store(&stopped_at, now_s());
        alarm(MSA_STOP_GRACE_S);
    } else if (signo == SIGALRM || (signo == SIGINT && expected == SIGINT)) {
        _exit(MSA_E_TEMPFAIL);
    }
}

void msa_stop_install(void)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGALRM};
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_signal;
    sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &sa, NULL);
}

atomic_int *msa_stop_flag(void)
{
    return &stop;
}

void msa_stop_deadline(int64_t seconds)
{
    if (!atomic_load(&stop))
        alarm(seconds > 1000000000 ? 1000000000U : (unsigned)seconds);
}

bool msa_stop_hurry(void)
{
    return atomic_load(&stop) && now_s() - atomic_load(&stopped_at) >= MSA_STOP_GRACE_S / 2;
}
