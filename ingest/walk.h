/* Which files do the sources of a corpus hold?
 *
 *   msa_walk_run(sources, n, &walk, err);
 *   for (i = 0; i < walk->n; i++) use(&walk->entries[i]);
 *   msa_walk_free(walk);
 *
 * The list is ordered by the bytes of `key`, so it does not depend on the order
 * in which a file system lists its folders. Names are bytes: `key` holds them as
 * they are, `display` in a form that may be printed. Hidden files count like any
 * other; symbolic links below a source are listed and never followed (a source
 * itself may be a link: whoever wrote the job named it). */
#ifndef MSA_INGEST_WALK_H
#define MSA_INGEST_WALK_H

#include "ingest/ingest.h"

typedef enum msa_walk_kind {
    MSA_WALK_FILE,     /* a regular file to ingest */
    MSA_WALK_EXCLUDED, /* a file that the globs leave out */
    MSA_WALK_SPECIAL,  /* a link, FIFO, socket or device: never opened */
    MSA_WALK_ERROR     /* a folder or file that cannot be read: sys_errno */
} msa_walk_kind;

typedef struct msa_walk_entry {
    msa_walk_kind kind;
    int64_t source;          /* index of the source it was found in */
    const char *key;         /* source.path and the path below it: raw bytes */
    const char *display;     /* key as msa_display_name writes it */
    const char *open_path;   /* what open(2) takes */
    bool folder;             /* ERROR: all that lies below is unknown */
    bool is_source;          /* the source itself, which may be a link */
    int64_t size, mtime_ns;  /* FILE */
    int sys_errno;           /* ERROR */
    const char *what;        /* SPECIAL: "symbolic link", "FIFO", ... */
} msa_walk_entry;

typedef struct msa_walk {
    msa_walk_entry *entries;
    int64_t n;
    struct msa_arena *arena; /* owns the strings */
} msa_walk;

/* A source whose own path does not exist is MSA_FAILED, MSA_E_NOINPUT; anything
 * else that goes wrong is an entry. A key that two sources reach stands once:
 * as a file when one of them includes it, under the first such source. */
msa_rc msa_walk_run(const msa_source *sources, int64_t n_sources, msa_walk **out, msa_err *err);
void msa_walk_free(msa_walk *w);

/* Does a path match a glob? Case-sensitive, over code points (bytes that are not
 * UTF-8 count one each).
 *   *      any run of characters within one folder name
 *   **     as a whole path component: any number of folders, none too; as the
 *          last component: everything below
 *   ?      one character, never '/'
 *   [a-z]  one of these, [!a-z] or [^a-z] none of these, never '/'
 *   \c     c itself
 * A leading '.' needs no special treatment. Time is O(|glob| * |path|^2) at worst. */
bool msa_glob_match(const char *glob, const char *path);

#endif
