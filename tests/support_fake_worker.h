/* A parser worker that says what a test wants. A test program starts itself under
 * another name as msa-extract; there main calls msa_zygote_serve(serve), and serve
 * calls msa_fake_serve, which greets and hands over each file. */
#ifndef MSA_TESTS_SUPPORT_FAKE_WORKER_H
#define MSA_TESTS_SUPPORT_FAKE_WORKER_H

#include "ingest/frame.h"

/* What has been put together but not sent yet; msa_fake_speak sends it. Frames are
 * numbered by msa_fake_seq. */
extern msa_buf msa_fake_said;
extern uint32_t msa_fake_seq;
void msa_fake_speak(void);

void msa_fake_say(const msa_event *ev);
void msa_fake_say_frame(int type);
void msa_fake_begin(int64_t depth, int64_t ordinal, const char *name);
void msa_fake_text(const char *s);
void msa_fake_end(void);

/* Greets with the isolation level (NULL: without one), then calls file for every
 * job until the supervisor hangs up. Returns the exit status. */
int msa_fake_serve(const char *level, void (*file)(const msa_job *job));

#endif
