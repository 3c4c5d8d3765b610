/* Frames and the order of events: what is right passes unchanged, anything else
 * is refused and nothing is read outside of the bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ingest/frame.h"
#include "ingest/worker_internal.h"
#include "tests/support_extract.h"

/* The bytes in a block of exactly their size, where sanitizers see any excess. */
static msa_rc parse(const msa_buf *b, int64_t n, uint32_t seq, msa_event *ev)
{
    char *exact = malloc((size_t)n + (n == 0));
    memcpy(exact, b->data, (size_t)n);
    msa_frame f;
    msa_rc rc = msa_frame_parse(exact, n, seq, &f, NULL);
    if (rc == MSA_OK && f.type >= MSA_FRAME_EVENT)
        rc = msa_frame_get_event(&f, ev, NULL);
    free(exact);
    return rc;
}

static msa_buf frame_of(const msa_event *ev)
{
    msa_buf b = {0};
    assert_true(msa_frame_put_event(&b, 7, ev));
    return b;
}

static const msa_event samples[] = {
    {.kind = MSA_EV_MEMBER_BEGIN, .depth = 3, .ordinal = 12, .name = "a/\xc3\xa9 b.txt", .type = "text"},
    {.kind = MSA_EV_PAGE, .page = 4, .label = "iv", .byte = -1},
    {.kind = MSA_EV_RECORD, .line = 9, .label = "id", .title = "", .byte = -1},
    {.kind = MSA_EV_HEADING, .byte = -1},
    {.kind = MSA_EV_TEXT, .text = "one\ntwo", .n = 7, .byte = -1},
    {.kind = MSA_EV_WARN, .code = "bad_bytes", .text = "first at 5", .n = 10, .line = 2, .byte = 5},
    {.kind = MSA_EV_MEMBER_END, .outcome = MSA_EXTRACT_PARTIAL, .code = "x", .text = "y", .n = 1, .bytes = (int64_t)1 << 40,
     .byte = 3, .sha256 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"},
};
#define N_SAMPLES (sizeof samples / sizeof *samples)

static void events_come_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        msa_buf b = frame_of(&samples[i]), want = {0}, got = {0};
        msa_frame f;
        msa_event ev;
        assert_int_equal(msa_frame_parse(b.data, b.len, 7, &f, NULL), MSA_OK);
        assert_int_equal(f.total, b.len);
        assert_int_equal(msa_frame_get_event(&f, &ev, NULL), MSA_OK);
        msa_test_event_line(&want, &samples[i]);
        msa_test_event_line(&got, &ev);
        assert_string_equal(got.data, want.data);
        assert_string_equal(ev.sha256, samples[i].sha256);
        msa_buf_free(&b);
        msa_buf_free(&want);
        msa_buf_free(&got);
    }
}

static void parts_ask_for_more(void **state)
{
    (void)state;
    msa_buf b = frame_of(&samples[0]);
    msa_event ev;
    for (int64_t n = 0; n < b.len; n++)
        assert_int_equal(parse(&b, n, 7, &ev), MSA_END);
    assert_int_equal(parse(&b, b.len, 7, &ev), MSA_OK);
    assert_int_equal(parse(&b, b.len, 8, &ev), MSA_FAILED); /* a number that is not due */
    msa_buf_free(&b);
}

/* Every changed byte is noticed, or is a length that asks for more. */
static void damage_is_noticed(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        msa_buf b = frame_of(&samples[i]);
        for (int64_t at = 0; at < b.len; at++)
            for (int bit = 0; bit < 8; bit++) {
                msa_event ev;
                b.data[at] = (char)(b.data[at] ^ 1 << bit);
                msa_rc rc = parse(&b, b.len, 7, &ev);
                if (rc != MSA_FAILED && !(rc == MSA_END && at >= 12 && at < 16))
                    fail_msg("sample %zu, byte %lld, bit %d: %d", i, (long long)at, bit, (int)rc);
                b.data[at] = (char)(b.data[at] ^ 1 << bit);
            }
        msa_buf_free(&b);
    }
}

/* The same with a right checksum: whatever is accepted keeps the promises. */
static void lies_are_harmless(void **state)
{
    (void)state;
    int64_t accepted = 0;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        msa_buf b = frame_of(&samples[i]);
        char *payload = b.data + MSA_FRAME_HEADER;
        int64_t n = b.len - MSA_FRAME_OVERHEAD;
        for (int64_t at = 0; at < n; at++)
            for (int value = 0; value < 256; value += 5) {
                char was = payload[at];
                payload[at] = (char)value;
                msa_buf c = {0};
                assert_true(msa_frame_put(&c, MSA_FRAME_EVENT + (int)samples[i].kind, 7, payload, n));
                payload[at] = was;
                msa_event ev;
                msa_frame f;
                char *exact = malloc((size_t)c.len);
                memcpy(exact, c.data, (size_t)c.len);
                if (msa_frame_parse(exact, c.len, 7, &f, NULL) == MSA_OK && msa_frame_get_event(&f, &ev, NULL) == MSA_OK) {
                    accepted++;
                    if (ev.text) {
                        assert_int_equal(strlen(ev.text), ev.n);
                        assert_int_equal(msa_utf8_prefix(ev.text, ev.n), ev.n);
                    }
                    assert_true(ev.byte >= -1 && ev.page >= 0 && ev.line >= 0 && ev.depth >= 0 && ev.bytes >= 0);
                    assert_true(!ev.name || !strpbrk(ev.name, "\n\r\x1b"));
                }
                free(exact);
                msa_buf_free(&c);
            }
        msa_buf_free(&b);
    }
    assert_true(accepted > 100); /* many lies are possible truths: other letters */
}

static void strings_have_bounds(void **state)
{
    (void)state;
    char *name = malloc(MSA_FRAME_NAME_MAX + 2);
    memset(name, 'n', MSA_FRAME_NAME_MAX + 1);
    name[MSA_FRAME_NAME_MAX + 1] = 0;
    msa_event ev = {.kind = MSA_EV_MEMBER_BEGIN, .name = name, .type = "text"};
    msa_buf b = {0};
    assert_false(msa_frame_put_event(&b, 0, &ev));
    name[MSA_FRAME_NAME_MAX] = 0;
    assert_true(msa_frame_put_event(&b, 0, &ev));
    msa_buf_free(&b);
    free(name);
    char *large = malloc(MSA_FRAME_MAX + 1);
    memset(large, 'x', MSA_FRAME_MAX + 1);
    assert_false(msa_frame_put(&b, MSA_FRAME_BEAT, 0, large, MSA_FRAME_MAX + 1));
    assert_int_equal(b.len, 0);
    assert_true(msa_frame_put(&b, MSA_FRAME_BEAT, 0, large, MSA_FRAME_MAX));
    msa_buf_free(&b);
    free(large);
}

static void jobs_come_back(void **state)
{
    (void)state;
    msa_job job = {msa_test_limits(), MSA_SOURCE_JSONL, "n\xff/a", "3/0=stall;"}, got;
    job.limits.pages = INT64_MAX;
    msa_buf b = {0};
    msa_frame f;
    assert_true(msa_frame_put_job(&b, 0, &job));
    assert_int_equal(msa_frame_parse(b.data, b.len, 0, &f, NULL), MSA_OK);
    assert_int_equal(msa_frame_get_job(&f, &got, NULL), MSA_OK);
    assert_memory_equal(&got.limits, &job.limits, sizeof job.limits);
    assert_int_equal(got.format, MSA_SOURCE_JSONL);
    assert_string_equal(got.name, job.name);
    assert_string_equal(got.skip, job.skip);
    msa_buf_free(&b);
}

/* ---- order ------------------------------------------------------------------ */

/* One letter an event: b(egin deeper) B(egin, next ordinal) e(nd) p(age) r(ecord)
 * h(eading) t(ext) w(arn) P(age again) R(ecord again). Returns how many were taken. */
static int64_t taken(const char *events, const msa_ingest_limits *limits)
{
    msa_event_order o;
    msa_event_order_init(&o, limits);
    int64_t depth = 0, page = 0, line = 0, ordinals[16] = {0}, n = 0;
    for (const char *p = events; *p; p++, n++) {
        msa_event ev = {.byte = -1};
        switch (*p) {
        case 'b': ordinals[depth] = 0; /* fall through */
        case 'B':
            ev = (msa_event){.kind = MSA_EV_MEMBER_BEGIN, .depth = depth, .ordinal = ordinals[depth]};
            ordinals[depth++]++;
            break;
        case 'e': ev.kind = MSA_EV_MEMBER_END; depth--; break;
        case 'p': page++; /* fall through */
        case 'P': ev.kind = MSA_EV_PAGE; ev.page = page; break;
        case 'r': line++; /* fall through */
        case 'R': ev.kind = MSA_EV_RECORD; ev.line = line; break;
        case 'h': ev.kind = MSA_EV_HEADING; break;
        case 't': ev.kind = MSA_EV_TEXT; ev.n = 5; break;
        case 'w': ev.kind = MSA_EV_WARN; break;
        default: fail();
        }
        if (msa_event_order_take(&o, &ev, NULL) != MSA_OK)
            return n;
    }
    return n;
}

static void order_of_events(void **state)
{
    (void)state;
    msa_ingest_limits l = msa_test_limits();
    assert_int_equal(taken("be", &l), 2);
    assert_int_equal(taken("bptpwthte", &l), 9);
    assert_int_equal(taken("brhtrte", &l), 7);
    assert_int_equal(taken("bbteBbeBeee", &l), 11);
    assert_int_equal(taken("bbteBbeb", &l), 7); /* ordinal 0 again */
    assert_int_equal(taken("bteb", &l), 3);  /* behind the end of the file */
    assert_int_equal(taken("t", &l), 0);
    assert_int_equal(taken("e", &l), 0);
    assert_int_equal(taken("bpe", &l), 2);   /* a page owes text */
    assert_int_equal(taken("bpp", &l), 2);
    assert_int_equal(taken("bhht", &l), 2);
    assert_int_equal(taken("brb", &l), 2);
    assert_int_equal(taken("bptPt", &l), 3); /* pages and lines rise */
    assert_int_equal(taken("brtRt", &l), 3);
}

static void counts_have_limits(void **state)
{
    (void)state;
    msa_ingest_limits l = msa_test_limits();
    l.text_bytes = 12;
    assert_int_equal(taken("bttt", &l), 3);
    l = msa_test_limits();
    l.depth = 2;
    assert_int_equal(taken("bbbb", &l), 3);
    l.depth = 1000; /* more than the table has room for is never taken */
    msa_event_order o;
    msa_event_order_init(&o, &l);
    for (int64_t d = 0; d <= MSA_EVENT_DEPTH_MAX + 1; d++) {
        msa_event ev = {.kind = MSA_EV_MEMBER_BEGIN, .depth = d};
        assert_int_equal(msa_event_order_take(&o, &ev, NULL), d <= MSA_EVENT_DEPTH_MAX ? MSA_OK : MSA_FAILED);
    }
    l = msa_test_limits();
    l.members = 2;
    assert_int_equal(taken("bBeBeBe", &l), 5);
    l.pages = 1;
    assert_int_equal(taken("bptpt", &l), 3);
}

static void hello_is_one_word(void **state)
{
    (void)state;
    static const struct {
        const char *word;
        int64_t n;
        bool good;
    } cases[] = {
        {"rlimit+seccomp+landlock7", 24, true}, {"", 0, false}, {"two words", 9, false}, {"a\0b", 3, false}, {"A", 1, false},
        {"0123456789012345678901234567890123456789012345678901234567890123", 64, false},
        {"012345678901234567890123456789012345678901234567890123456789012", 63, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_buf b = {0};
        msa_frame f;
        char level[MSA_ISOLATION_MAX];
        assert_true(msa_frame_put(&b, MSA_FRAME_HELLO, 0, cases[i].word, cases[i].n));
        assert_int_equal(msa_frame_parse(b.data, b.len, 0, &f, NULL), MSA_OK);
        assert_int_equal(msa_frame_get_hello(&f, level, NULL), cases[i].good ? MSA_OK : MSA_FAILED);
        if (cases[i].good)
            assert_string_equal(level, cases[i].word);
        msa_buf_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_come_back), cmocka_unit_test(parts_ask_for_more), cmocka_unit_test(damage_is_noticed),
        cmocka_unit_test(lies_are_harmless), cmocka_unit_test(strings_have_bounds), cmocka_unit_test(jobs_come_back),
        cmocka_unit_test(order_of_events), cmocka_unit_test(counts_have_limits), cmocka_unit_test(hello_is_one_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
