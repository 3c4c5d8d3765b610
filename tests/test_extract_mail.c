/* What extraction makes of mail: whose words are the text, what is a member, and
 * what broken and hostile messages get. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support_extract.h"

/* The events of a message hold each of the lines, in this order. */
static void expect(const char *data, int64_t n, const char *name, const msa_ingest_limits *limits,
                   const char *const *lines)
{
    char *got = msa_test_extract(data, n, name, MSA_SOURCE_AUTO, limits);
    for (const char *at = got; *lines; lines++) {
        const char *found = strstr(at, *lines);
        if (!found)
            fail_msg("no \"%s\" (in this place) in\n%s", *lines, got);
        at = found + 1;
    }
    free(got);
}
#define EXPECT(bytes, name, ...) \
    expect(bytes, sizeof(bytes) - 1, name, NULL, (const char *const[]){__VA_ARGS__, NULL})
#define EXPECT_BUF(b, name, limits, ...) \
    do { \
        expect((b).data, (b).len, name, limits, (const char *const[]){__VA_ARGS__, NULL}); \
        msa_buf_free(&(b)); \
    } while (0)

#define HEAD "From: a@x.org\r\nSubject: s\r\nMIME-Version: 1.0\r\nMessage-ID: <1@x>\r\n"
#define HEAD_TEXT "From: a@x.org\\nSubject: s\\nMessage-ID: <1@x>\\n\\n"
#define TYPE(t) "Content-Type: " t "\r\n\r\n"

static void headers_and_body(void **state)
{
    (void)state;
    EXPECT("X-Mailer: m\nReceived: by y\nSubject: =?UTF-8?B?w6TDtsO8?= and\n =?iso-8859-1?Q?_=E9?=\nTo: b@x, c@y\n"
           "Date: Mon, 1 Jan 2001 00:00:00 +0000\nFrom: =?utf-8?q?J=C3=B8rn?= <a@x>\nCc: d@z\nBcc: e@z\n"
           "Message-ID: <1@x>\nIn-Reply-To: <0@x>\n\nHello\nthere\n", "a",
           "begin 0 0 mail a\ntext \"From: J\xc3\xb8rn <a@x>\\nTo: b@x, c@y\\nCc: d@z\\nBcc: e@z\\n"
           "Date: Mon, 1 Jan 2001 00:00:00 +0000\\nSubject: \xc3\xa4\xc3\xb6\xc3\xbc and  \xc3\xa9\\nMessage-ID: <1@x>\\n"
           "In-Reply-To: <0@x>\\n\\nHello\\nthere\\n\"\nend ok - ");
    EXPECT(HEAD "\r\n", "a.eml", "text \"" HEAD_TEXT "\"\nend ok");
    /* a name that promises mail makes one header enough; a text that is a letter stays text */
    EXPECT("Subject: s\n\nx", "a.eml", "begin 0 0 mail a.eml\n", "text \"Subject: s\\n\\nx\\n\"");
    EXPECT("Subject: s\n\nx", "a.txt", "begin 0 0 text a.txt\n", "text \"Subject: s\\n\\nx\"");
    EXPECT("\xff\xfe" "S\0:\0 \0s\0\n\0\n\0x\0", "a.eml", "begin 0 0 mail a.eml\n");
}

static void the_best_body(void **state)
{
    (void)state;
#define ALTERNATIVE(plain) \
    HEAD TYPE("multipart/alternative; boundary=b") "--b\r\n" TYPE("text/plain") plain "\r\n--b\r\n" TYPE("text/html") \
    "<html><body><p>rich</p></body></html>\r\n--b--\r\n"
    EXPECT(ALTERNATIVE("plain"), "a.eml", "text \"" HEAD_TEXT "plain\\n\"\nend ok");
    /* an alternative that another part of the message hides in is still looked into */
    EXPECT(HEAD TYPE("multipart/alternative; boundary=b") "--b\r\n" TYPE("text/plain") "plain\r\n--b\r\n"
           TYPE("multipart/mixed; boundary=c") "--c\r\n" TYPE("text/html") "<p>rich\r\n--c\r\n"
           "Content-Disposition: attachment; filename=n.txt\r\n" TYPE("text/plain") "attached\r\n--c--\r\n--b--\r\n",
           "a.eml", "text \"" HEAD_TEXT "plain\\n\"\nbegin 1 0 text n.txt\ntext \"attached\"\nend ok", "end ok");
    /* bodies in a row are all of it; a named text is a file */
    EXPECT(HEAD TYPE("multipart/mixed; boundary=b") "--b\r\n" TYPE("text/plain") "one\r\n--b\r\n"
           TYPE("text/plain; name=f.txt") "file\r\n--b\r\n" TYPE("text/plain") "two\r\n--b--\r\n", "a.eml",
           "text \"" HEAD_TEXT "one\\ntwo\\n\"\nbegin 1 0 text f.txt\ntext \"file\"\n", "end ok");
    EXPECT(HEAD "Content-Transfer-Encoding: base64\r\n" TYPE("text/plain; charset=utf-8") "w6TDtsO8\r\n", "a.eml",
           "text \"" HEAD_TEXT "\xc3\xa4\xc3\xb6\xc3\xbc\\n\"");
}

static void attachments(void **state)
{
    (void)state;
    EXPECT(HEAD TYPE("multipart/mixed; boundary=b") "--b\r\n" TYPE("text/plain") "see files\r\n"
           "--b\r\nContent-Disposition: attachment; filename*0*=utf-8''%C3%A4%20; filename*1=b.txt\r\n"
           "Content-Transfer-Encoding: base64\r\n" TYPE("application/octet-stream") "b25l\r\n"
           "--b\r\nContent-Disposition: attachment; filename=\"=?iso-8859-1?Q?=E9.txt?=\"\r\n" TYPE("text/plain") "two\r\n"
           "--b\r\nContent-Disposition: attachment; filename=\"../../etc/pass\twd\"\r\n" TYPE("text/plain") "three\r\n"
           "--b\r\n" TYPE("application/ms-tnef; name=winmail.dat") "\x78\x9f\x3e\x22\r\n"
           "--b\r\n" TYPE("message/rfc822") HEAD "\r\nforwarded\r\n"
           "--b\r\n" TYPE("application/pgp-signature") "-----BEGIN\r\n--b--\r\n", "a.eml",
           "text \"" HEAD_TEXT "see files\\n\"\n",
           "begin 1 0 text \xc3\xa4 b.txt\ntext \"one\"\nend ok - 3 ",
           "begin 1 1 text \xc3\xa9.txt\ntext \"two\"\nend ok",
           "begin 1 2 text ../../etc/pass", "text \"three\"\nend ok",
           "begin 1 3 tnef winmail.dat\nend failed unsupported_type 4",
           "begin 1 4 mail part-5.eml\ntext \"" HEAD_TEXT "forwarded\\n\"\nend ok",
           "begin 1 5 signature part-6.asc\nend skipped signature", "end ok - ");
}

static void messages_within_messages(void **state)
{
    (void)state;
    msa_buf b = {0};
    for (int i = 0; i < 20; i++)
        msa_buf_puts(&b, HEAD TYPE("message/rfc822"));
    msa_buf_puts(&b, HEAD "\r\ninnermost");
    EXPECT_BUF(b, "a.eml", NULL, "begin 8 0 mail part-1.eml\n", "warn limit_depth", "end partial limit_depth");
}

static void encrypted_messages(void **state)
{
    (void)state;
    EXPECT(HEAD TYPE("multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=b")
           "--b\r\n" TYPE("application/pgp-encrypted") "Version: 1\r\n--b\r\n" TYPE("application/octet-stream; name=e.asc")
           "-----BEGIN PGP MESSAGE-----\r\n--b--\r\n", "a.eml",
           "text \"" HEAD_TEXT "\"\n", "end skipped signature", "begin 1 1 encrypted e.asc\nend failed encrypted",
           "end partial encrypted");
    EXPECT(HEAD "Content-Transfer-Encoding: base64\r\n" TYPE("application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m")
           "MIIB\r\n", "a.eml", "begin 1 0 smime smime.p7m\nend failed encrypted", "end partial encrypted");
    EXPECT(HEAD "\r\nas agreed:\r\n-----BEGIN PGP MESSAGE-----\r\nabc\r\n", "a.eml", "as agreed", "end partial encrypted");
}

static void charsets_that_lie(void **state)
{
    (void)state;
    EXPECT(HEAD TYPE("text/plain; charset=iso-8859-1") "caf\xe9!", "a.eml", HEAD_TEXT "caf\xc3\xa9!\\n\"\nend ok");
    EXPECT(HEAD TYPE("text/plain; charset=us-ascii") "caf\xc3\xa9", "a.eml", "warn charset_mismatch", "caf\xc3\xa9\\n\"\nend ok");
    EXPECT(HEAD TYPE("text/plain; charset=iso-8859-1") "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82", "a.eml",
           "warn charset_mismatch", "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82\\n\"");
    EXPECT(HEAD TYPE("text/plain; charset=iso-2022-jp") "\x1b$B$+$-\x1b(B", "a.eml",
           "\xe3\x81\x8b\xe3\x81\x8d\\n\"\nend ok");
    EXPECT(HEAD TYPE("text/plain; charset=no-such") "caf\xe9 au lait", "a.eml", "warn charset_", "caf\xc3\xa9 au lait");
}

static void parts_without_end(void **state)
{
    (void)state;
    msa_buf many = {0}, deep = {0};
    msa_buf_puts(&many, HEAD TYPE("multipart/mixed; boundary=b") "--b\r\n" TYPE("text/plain") "first\r\n");
    for (int i = 0; i < 10100; i++)
        msa_buf_puts(&many, "--b\r\n" TYPE("text/plain") "x\r\n");
    EXPECT_BUF(many, "a.eml", NULL, HEAD_TEXT "first\\nx\\n", "end partial mime_limit");
    msa_buf_puts(&many, HEAD TYPE("multipart/mixed; boundary=b") "--b\r\n" TYPE("text/plain") "first\r\n");
    for (int i = 0; i < 30000; i++)
        msa_buf_puts(&many, "--b\r\n\r\ny\r\n");
    EXPECT_BUF(many, "a.eml", NULL, HEAD_TEXT "first\\ny\\n", "end partial mime_limit");
    /* rules in a text are no parts */
    msa_buf_puts(&many, HEAD "\r\n");
    for (int i = 0; i < 30000; i++)
        msa_buf_puts(&many, "\n--\n\n");
    EXPECT_BUF(many, "a.eml", NULL, "end ok");
    msa_buf_puts(&deep, HEAD);
    for (int i = 0; i < 200; i++)
        msa_buf_printf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i);
    msa_buf_puts(&deep, "\r\nhidden");
    EXPECT_BUF(deep, "a.eml", NULL, "text \"" HEAD_TEXT, "end partial mime_limit");
}

static void mailboxes(void **state)
{
    (void)state;
    EXPECT("From a@x Mon Jan  1 00:00:00 2001\nFrom: a@x\nSubject: one\n\n>From here on\nFrom what I hear, no\n\n"
           "From the start it was clear\nthat this is one message\n\n"
           "From b@y Tue Jan  2 00:00:00 2001\nFrom: b@y\nSubject: two\n\nlast\n", "a.mbox",
           "begin 0 0 mbox a.mbox\n",
           "begin 1 0 mail message-1.eml\ntext \"From: a@x\\nSubject: one\\n\\nFrom here on\\nFrom what I hear, no\\n\\n"
           "From the start it was clear\\nthat this is one message\\n\\n\"\nend ok",
           "begin 1 1 mail message-2.eml\ntext \"From: b@y\\nSubject: two\\n\\nlast\\n\"\nend ok", "end ok - ");
    /* one message with the line of a mailbox is a message */
    EXPECT("From a@x Mon Jan  1 00:00:00 2001\nFrom: a@x\nSubject: one\n\nx\n", "a.eml",
           "begin 0 0 mail a.eml\ntext \"From: a@x\\n");
    msa_ingest_limits l = msa_test_limits();
    l.members = 2;
    msa_buf b = {0};
    for (int i = 0; i < 5; i++)
        msa_buf_puts(&b, "From a@x Mon Jan  1 00:00:00 2001\nFrom: a@x\nSubject: one\n\nx\n\n");
    EXPECT_BUF(b, "a.mbox", &l, "begin 1 1 mail", "end partial limit_members");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_and_body), cmocka_unit_test(the_best_body), cmocka_unit_test(attachments),
        cmocka_unit_test(messages_within_messages), cmocka_unit_test(encrypted_messages),
        cmocka_unit_test(charsets_that_lie), cmocka_unit_test(parts_without_end), cmocka_unit_test(mailboxes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
