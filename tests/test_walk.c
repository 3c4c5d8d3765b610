/* The files of sources: order, globs, what is never opened, names that are no
 * text. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "ingest/walk.h"
#include "tests/support_ingest.h"

static char *dir;

static int make_dir(void **state)
{
    (void)state;
    dir = msa_test_mkdir();
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    msa_test_rmdir(dir);
    return 0;
}

/* ---- globs -------------------------------------------------------------------- */

static void globs_match_as_they_say(void **state)
{
    (void)state;
    static const struct {
        const char *glob, *path;
        bool match;
    } cases[] = {
        {"*.pdf", "a.pdf", true},
        {"*.pdf", "a.PDF", false},
        {"*.pdf", "x/a.pdf", false},
        {"*", ".hidden", true},
        {"*", "", true},
        {"**", "x/y/z", true},
        {"**/*.pdf", "a.pdf", true},
        {"**/*.pdf", "x/a.pdf", true},
        {"**/*.pdf", "x/y/a.pdf", true},
        {"**/*.pdf", "x/y/a.pdf.zip", false},
        {"**/drafts/**", "drafts/a", true},
        {"**/drafts/**", "x/y/drafts/z/a", true},
        {"**/drafts/**", "x/drafts", false},
        {"**/drafts/**", "x/mydrafts/a", false},
        {"x/**", "x", false},
        {"x/**", "xy/a", false},
        {"a/**/b", "a/b", true},
        {"a/**/b", "a/x/y/b", true},
        {"a/**/b", "a/xb", false},
        {"a**b", "axxb", true},
        {"a**b", "ax/xb", false},
        {"**/a/**/b/*.c", "z/a/b/q/b/x.c", true},
        {"**/a/**/b/*.c", "z/a/b/q/x.c", false},
        {"*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false},
        {"?.txt", "\xc3\xa9.txt", true},
        {"?.txt", "/.txt", false},
        {"?", "ab", false},
        {"[a-c]x", "bx", true},
        {"[!a-c]x", "bx", false},
        {"[^a-c]x", "dx", true},
        {"[]x]", "]", true},
        {"[!/]", "/", false},
        {"[a", "[a", true},
        {"[\xc3\xa0-\xc3\xbf]", "\xc3\xa9", true},
        {"\\*", "*", true},
        {"\\*", "a", false},
        {"*.\xff", "a.\xff", true},
        {"2024/**", "2024/01/a.zip!/b.txt", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (msa_glob_match(cases[i].glob, cases[i].path) != cases[i].match)
            fail_msg("%s against %s is not %d", cases[i].glob, cases[i].path, cases[i].match);
}

/* A plain recursive matcher for star, two stars, '?' and letters. */
static bool naive(const char *g, const char *p, bool at_component)
{
    if (at_component && g[0] == '*' && g[1] == '*' && (!g[2] || g[2] == '/')) {
        if (!g[2])
            return *p != 0;
        for (const char *q = p;; q++) {
            if (naive(g + 3, q, true))
                return true;
            if (!(q = strchr(q, '/')))
                return false;
        }
    }
    if (*g == '*')
        return naive(g + 1, p, false) || (*p && *p != '/' && naive(g, p + 1, false));
    if (!*g || !*p)
        return !*g && !*p;
    if (*g == '?' ? *p == '/' : *g != *p)
        return false;
    return naive(g + 1, p + 1, *g == '/');
}

static void globs_agree_with_a_recursive_matcher(void **state)
{
    (void)state;
    uint64_t seed = 1;
    int64_t hits = 0;
    for (int i = 0; i < 200000; i++) {
        char g[12], p[12];
        for (int k = 0; k < 2; k++) {
            char *s = k ? p : g;
            const char *letters = k ? "aab//" : "aab/**?";
            size_t n = k ? 5 : 7;
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            int len = (int)(seed >> 33) % 11;
            for (int j = 0; j < len; j++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                s[j] = letters[(seed >> 33) % n];
            }
            s[len] = 0;
        }
        /* three stars in a row are a run of stars to one and "**" and '*' to the other */
        if (strstr(g, "***"))
            continue;
        bool want = naive(g, p, true);
        hits += want;
        if (msa_glob_match(g, p) != want)
            fail_msg("%s against %s is not %d", g, p, want);
    }
    assert_true(hits > 1000);
}

/* ---- folders ------------------------------------------------------------------ */

static const msa_walk_entry *find(const msa_walk *w, const char *key)
{
    for (int64_t i = 0; i < w->n; i++)
        if (strcmp(w->entries[i].key, key) == 0)
            return &w->entries[i];
    fail_msg("%s is not listed", key);
    return NULL;
}

static msa_walk *walk(const msa_source *s, int64_t n)
{
    msa_walk *w;
    msa_err err;
    msa_err_init(&err);
    if (msa_walk_run(s, n, &w, &err) != MSA_OK)
        fail_msg("%s", err.msg);
    for (int64_t i = 1; i < w->n; i++)
        assert_true(strcmp(w->entries[i - 1].key, w->entries[i].key) < 0);
    return w;
}

static void files_come_in_the_order_of_their_bytes(void **state)
{
    (void)state;
    const char *in = msa_test_path(dir, "order");
    static const char *const names[] = {"b.txt", "a/z", "a.txt", "B.txt", ".hidden", "a/.x/y", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        msa_test_put_text(msa_test_path(dir, "order/%s", names[i]), 5, names[i]);
    msa_source s = {.path = "src", .open_path = in};
    msa_walk *w = walk(&s, 1);
    static const char *const want[] = {"src/.hidden", "src/B.txt", "src/a.txt", "src/a/.x/y", "src/a/z",
                                       "src/b.txt", "src/\xc3\xa9"};
    assert_int_equal(w->n, 7);
    for (int i = 0; i < 7; i++) {
        assert_string_equal(w->entries[i].key, want[i]);
        assert_int_equal(w->entries[i].kind, MSA_WALK_FILE);
        assert_int_equal(w->entries[i].size, strlen(want[i]) - strlen("src/"));
        assert_int_equal(w->entries[i].mtime_ns, (int64_t)978307205 * 1000000000);
    }
    msa_walk_free(w);
}

static void globs_choose_and_what_they_leave_is_listed(void **state)
{
    (void)state;
    const char *in = msa_test_path(dir, "globs");
    static const char *const names[] = {"a.pdf", "x/b.pdf", "x/drafts/c.pdf", "d.txt"};
    for (int i = 0; i < 4; i++)
        msa_test_put_text(msa_test_path(dir, "globs/%s", names[i]), 5, "x");
    const char *include[] = {"**/*.pdf"}, *exclude[] = {"**/drafts/**"};
    msa_source s = {.path = "in", .open_path = in, .include = include, .n_include = 1,
                    .exclude = exclude, .n_exclude = 1};
    msa_walk *w = walk(&s, 1);
    assert_int_equal(w->n, 4);
    assert_int_equal(find(w, "in/a.pdf")->kind, MSA_WALK_FILE);
    assert_int_equal(find(w, "in/x/b.pdf")->kind, MSA_WALK_FILE);
    assert_int_equal(find(w, "in/x/drafts/c.pdf")->kind, MSA_WALK_EXCLUDED);
    assert_int_equal(find(w, "in/d.txt")->kind, MSA_WALK_EXCLUDED);
    msa_walk_free(w);

    /* what one source leaves out another may have; a file stands once */
    msa_source two[] = {s, {.path = "in", .open_path = in}};
    w = walk(two, 2);
    assert_int_equal(w->n, 4);
    assert_int_equal(find(w, "in/a.pdf")->source, 0);
    assert_int_equal(find(w, "in/d.txt")->kind, MSA_WALK_FILE);
    assert_int_equal(find(w, "in/d.txt")->source, 1);
    msa_walk_free(w);
}

static void links_and_devices_are_listed_and_not_followed(void **state)
{
    (void)state;
    const char *in = msa_test_path(dir, "special");
    msa_test_put_text(msa_test_path(dir, "special/sub/a.txt"), 5, "x");
    assert_int_equal(symlink(".", msa_test_path(dir, "special/loop")), 0);
    assert_int_equal(symlink("sub/a.txt", msa_test_path(dir, "special/link")), 0);
    assert_int_equal(symlink("nowhere", msa_test_path(dir, "special/dangling")), 0);
    assert_int_equal(mkfifo(msa_test_path(dir, "special/fifo"), 0600), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strcpy(name.sun_path, msa_test_path(dir, "special/sock"));
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof name), 0);
    close(fd);
    msa_source s = {.path = "in/", .open_path = in};
    msa_walk *w = walk(&s, 1);
    assert_int_equal(w->n, 6);
    static const char *const special[] = {"in/loop", "in/link", "in/dangling", "in/fifo", "in/sock"};
    for (int i = 0; i < 5; i++)
        assert_int_equal(find(w, special[i])->kind, MSA_WALK_SPECIAL);
    assert_string_equal(find(w, "in/fifo")->what, "FIFO");
    assert_int_equal(find(w, "in/sub/a.txt")->kind, MSA_WALK_FILE);
    msa_walk_free(w);
}

static void a_source_may_be_a_file_or_a_link_to_one(void **state)
{
    (void)state;
    msa_test_put_text(msa_test_path(dir, "one.txt"), 5, "x");
    assert_int_equal(symlink("one.txt", msa_test_path(dir, "to-one")), 0);
    const char *include[] = {"*.txt"};
    msa_source s[] = {{.path = "d/one.txt", .open_path = msa_test_path(dir, "one.txt"), .include = include, .n_include = 1},
                      {.path = "to-one", .open_path = msa_test_path(dir, "to-one")}};
    msa_walk *w = walk(s, 2);
    assert_int_equal(w->n, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(w->entries[i].kind, MSA_WALK_FILE);
        assert_true(w->entries[i].is_source);
    }
    msa_walk_free(w);
}

static void names_that_are_no_text_keep_their_bytes(void **state)
{
    (void)state;
    msa_test_put_text(msa_test_path(dir, "names/a\xff" "b"), 5, "x");
    msa_test_put_text(msa_test_path(dir, "names/new\nline"), 5, "x");
    msa_source s = {.path = "in", .open_path = msa_test_path(dir, "names")};
    msa_walk *w = walk(&s, 1);
    assert_int_equal(w->n, 2);
    assert_string_equal(find(w, "in/a\xff" "b")->display, "in/a%FFb");
    assert_null(strchr(find(w, "in/new\nline")->display, '\n'));
    msa_walk_free(w);
}

static void a_missing_source_is_an_error_that_names_it(void **state)
{
    (void)state;
    msa_source s = {.path = "in/none", .open_path = msa_test_path(dir, "none")};
    msa_walk *w;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_walk_run(&s, 1, &w, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOINPUT);
    assert_non_null(strstr(err.msg, "in/none"));
}

static void folders_that_cannot_be_read_are_entries(void **state)
{
    (void)state;
    /* deeper than one path may be long: the walk goes as far as it can, root or not */
    char name[202];
    memset(name, 'd', 200);
    name[200] = 0;
    assert_int_equal(msa_file_mkdirs(msa_test_path(dir, "deep"), NULL), MSA_OK);
    char *cwd = getcwd(NULL, 0);
    assert_int_equal(chdir(msa_test_path(dir, "deep")), 0);
    for (int i = 0; i < 25; i++)
        if (mkdir(name, 0700) < 0 || chdir(name) < 0)
            fail();
    assert_int_equal(chdir(cwd), 0);
    free(cwd);
    msa_source s = {.path = "in", .open_path = msa_test_path(dir, "deep")};
    msa_walk *w = walk(&s, 1);
    assert_int_equal(w->n, 1);
    assert_int_equal(w->entries[0].kind, MSA_WALK_ERROR);
    assert_true(w->entries[0].sys_errno != 0);
    msa_walk_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(globs_match_as_they_say),
        cmocka_unit_test(globs_agree_with_a_recursive_matcher),
        cmocka_unit_test(files_come_in_the_order_of_their_bytes),
        cmocka_unit_test(globs_choose_and_what_they_leave_is_listed),
        cmocka_unit_test(links_and_devices_are_listed_and_not_followed),
        cmocka_unit_test(a_source_may_be_a_file_or_a_link_to_one),
        cmocka_unit_test(names_that_are_no_text_keep_their_bytes),
        cmocka_unit_test(a_missing_source_is_an_error_that_names_it),
        cmocka_unit_test(folders_that_cannot_be_read_are_entries),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
