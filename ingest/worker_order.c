#include "ingest/worker_internal.h"

#include <string.h>

enum { OWED_PAGE = 1, OWED_RECORD, OWED_HEADING };

void msa_event_order_init(msa_event_order *o, const msa_ingest_limits *limits)
{
    memset(o, 0, sizeof *o);
    o->limits = limits;
}

static msa_rc illegal(msa_err *err, const char *what)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "events out of order: %s", what);
}

static msa_rc begin(msa_event_order *o, const msa_event *ev, msa_err *err)
{
    int64_t depth_max = o->limits->depth < MSA_EVENT_DEPTH_MAX ? o->limits->depth : MSA_EVENT_DEPTH_MAX;
    if (ev->depth != o->open || ev->depth > depth_max || (ev->depth == 0 && ev->ordinal != 0))
        return illegal(err, "a member begins at a wrong depth");
    if (ev->depth > 0 && ev->ordinal <= o->at[ev->depth].ordinal)
        return illegal(err, "ordinals do not rise");
    if (ev->depth > 0 && ++o->members > o->limits->members)
        return illegal(err, "more members than allowed");
    o->at[ev->depth].ordinal = ev->ordinal;
    o->at[ev->depth].page = o->at[ev->depth].line = 0;
    o->at[ev->depth + 1].ordinal = -1;
    o->open++;
    return MSA_OK;
}

msa_rc msa_event_order_take(msa_event_order *o, const msa_event *ev, msa_err *err)
{
    if (o->closed)
        return illegal(err, "the file is complete");
    if (o->open == 0 && ev->kind != MSA_EV_MEMBER_BEGIN)
        return illegal(err, "no member is open");
    if (o->owed && ev->kind != MSA_EV_TEXT && ev->kind != MSA_EV_WARN &&
        (ev->kind != MSA_EV_HEADING || o->owed == OWED_HEADING))
        return illegal(err, "a page, record or heading without text");
    switch (ev->kind) {
    case MSA_EV_MEMBER_BEGIN:
        return begin(o, ev, err);
    case MSA_EV_PAGE:
        if (ev->page <= o->at[o->open - 1].page || ev->page > o->limits->pages)
            return illegal(err, "page numbers do not rise or pass the limit");
        o->at[o->open - 1].page = ev->page;
        o->owed = OWED_PAGE;
        return MSA_OK;
    case MSA_EV_RECORD:
        if (ev->line <= o->at[o->open - 1].line)
            return illegal(err, "record lines do not rise");
        o->at[o->open - 1].line = ev->line;
        o->owed = OWED_RECORD;
        return MSA_OK;
    case MSA_EV_HEADING:
        o->owed = OWED_HEADING;
        return MSA_OK;
    case MSA_EV_TEXT:
        o->owed = 0;
        o->text_bytes += ev->n;
        return o->text_bytes > o->limits->text_bytes ? illegal(err, "more text than allowed") : MSA_OK;
    case MSA_EV_WARN:
        return ++o->warnings > MSA_EVENT_WARNINGS_MAX ? illegal(err, "more warnings than allowed") : MSA_OK;
    case MSA_EV_MEMBER_END:
        o->open--;
        o->closed = o->open == 0;
        return MSA_OK;
    case MSA_EV_RESTART:
    case MSA_EV_END_FILE:
        break;
    }
    return illegal(err, "an event that workers do not send");
}

void msa_event_order_path(const msa_event_order *o, msa_buf *out)
{
    for (int64_t d = 1; d < o->open; d++)
        msa_buf_printf(out, "%s%lld", d > 1 ? "/" : "", (long long)o->at[d].ordinal);
}
