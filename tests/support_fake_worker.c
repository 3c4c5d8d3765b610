#include "tests/support_fake_worker.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

msa_buf msa_fake_said;
uint32_t msa_fake_seq;

void msa_fake_speak(void)
{
    for (int64_t at = 0; at < msa_fake_said.len;) {
        ssize_t n = send(0, msa_fake_said.data + at, (size_t)(msa_fake_said.len - at), MSG_NOSIGNAL);
        if (n <= 0)
            _exit(9);
        at += n;
    }
    msa_fake_said.len = 0;
}

void msa_fake_say(const msa_event *ev)
{
    msa_frame_put_event(&msa_fake_said, msa_fake_seq++, ev);
    msa_fake_speak();
}

void msa_fake_say_frame(int type)
{
    msa_frame_put(&msa_fake_said, type, msa_fake_seq++, NULL, 0);
    msa_fake_speak();
}

void msa_fake_begin(int64_t depth, int64_t ordinal, const char *name)
{
    msa_fake_say(&(msa_event){.kind = MSA_EV_MEMBER_BEGIN, .depth = depth, .ordinal = ordinal, .name = name, .type = "text"});
}

void msa_fake_text(const char *s)
{
    msa_fake_say(&(msa_event){.kind = MSA_EV_TEXT, .text = s, .n = (int64_t)strlen(s)});
}

void msa_fake_end(void)
{
    msa_fake_say(&(msa_event){.kind = MSA_EV_MEMBER_END, .byte = -1});
}

int msa_fake_serve(const char *level, void (*file)(const msa_job *job))
{
    msa_buf in = {0};
    uint32_t seq = 0;
    msa_frame_put(&msa_fake_said, MSA_FRAME_HELLO, msa_fake_seq++, level ? level : "", level ? (int64_t)strlen(level) : 0);
    msa_fake_speak();
    for (;;) {
        msa_frame f;
        msa_job job;
        msa_rc rc = msa_frame_parse(in.data, in.len, seq, &f, NULL);
        if (rc == MSA_OK && msa_frame_get_job(&f, &job, NULL) == MSA_OK) {
            file(&job);
            in.len = 0;
            seq++;
            continue;
        }
        msa_buf_reserve(&in, 65536);
        ssize_t n = recv(0, in.data + in.len, 65536, 0); /* the descriptor that comes along is dropped */
        if (rc < 0 || n <= 0)
            return 0;
        in.len += n;
    }
}
