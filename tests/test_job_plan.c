/* Plans: what cannot fit is refused, naming the tier. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "jobs/job_plan.h"

#define GB 1000000000LL

static msa_job_plan roomy(bool host_device)
{
    return (msa_job_plan){
        .docs = 10, .chunks = 100, .tokens = 5000, .backend = "test", .device = "none",
        .need = {.weights_bytes = 8 * GB, .router_key_bytes = 20 * GB, .content_bytes = 40 * GB,
                 .bank_file_bytes = 60 * GB, .scratch_bytes = 2 * GB,
                 .tiers = host_device ? (msa_tiers){0}
                                      : (msa_tiers){.keys = MSA_KEYS_I8_EXACT, .content = MSA_CONTENT_PINNED,
                                                    .key_bytes = 20 * GB, .content_bytes = 40 * GB,
                                                    .device_bytes = 20 * GB, .host_bytes = 40 * GB}},
        .host_free = 64 * GB, .device_free = host_device ? 64 * GB : 100 * GB, .disk_free = 100 * GB,
        .host_device = host_device};
}

static void refused(const msa_job_plan *p, const char *why)
{
    msa_err err = {0};
    assert_int_equal(msa_job_plan_check(p, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_CONFIG);
    assert_string_equal(err.msg, why);
}

static void what_fits_is_accepted(void **state)
{
    (void)state;
    for (int host = 0; host < 2; host++) {
        msa_job_plan p = roomy(host);
        assert_int_equal(msa_job_plan_check(&p, NULL), MSA_OK);
        p.host_free = p.device_free = p.disk_free = -1; /* nothing is known */
        assert_int_equal(msa_job_plan_check(&p, NULL), MSA_OK);
    }
}

static void what_does_not_fit_is_named(void **state)
{
    (void)state;
    msa_job_plan p = roomy(true);
    p.device_free = 9 * GB;
    refused(&p, "does not fit: memory: 10.0 GB needed, 9.0 GB free");
    p = roomy(false);
    p.device_free = 29 * GB; /* router keys count on a device of its own */
    refused(&p, "does not fit: device memory: 30.0 GB needed, 29.0 GB free");
    p = roomy(false);
    p.host_free = 30 * GB; /* and so does what is pinned for it */
    refused(&p, "does not fit: memory: 40.0 GB needed, 30.0 GB free");
    p = roomy(false);
    p.disk_free = 50 * GB;
    refused(&p, "does not fit: disk of the store: 60.0 GB needed, 50.0 GB free");
    p.bank_bytes_now = 20 * GB; /* a part of it is there */
    assert_int_equal(msa_job_plan_check(&p, NULL), MSA_OK);
    p.bank_bytes_now = 0;
    p.estimated = true; /* a guess never refuses */
    assert_int_equal(msa_job_plan_check(&p, NULL), MSA_OK);
}

/* Where the bank's rows are to be is said of both kinds of device. */
static void places_are_printed(void **state)
{
    (void)state;
    static const char *const lines[2][2] = {
        {"router keys           20.0 GB     device, 8 bits and exact\n", "content K and V       40.0 GB     pinned memory\n"},
        {"router keys           20.0 GB     mapped file\n", "content K and V       40.0 GB     mapped file\n"}};
    for (int host = 0; host < 2; host++) {
        msa_buf text = {0};
        const msa_job_plan p = roomy(host);
        msa_job_plan_print(&p, &text);
        for (int i = 0; i < 2; i++)
            if (!strstr(text.data, lines[host][i]))
                fail_msg("not in the plan: %s%s", lines[host][i], text.data);
        msa_buf_free(&text);
    }
}

static void bytes_for_people(void **state)
{
    static const struct {
        int64_t bytes;
        const char *text;
    } cases[] = {{0, "0 B"}, {999, "999 B"}, {1000, "1.0 kB"}, {999499, "999 kB"}, {999500, "1.0 MB"},
                 {57600000000, "57.6 GB"}, {141000000000, "141 GB"}, {INT64_MAX, "9223372 TB"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_buf b = {0};
        msa_print_bytes(cases[i].bytes, &b);
        assert_string_equal(b.data, cases[i].text);
        msa_buf_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_fits_is_accepted),
        cmocka_unit_test(what_does_not_fit_is_named),
        cmocka_unit_test(places_are_printed),
        cmocka_unit_test(bytes_for_people),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
