/* Ingest: files and archives -> documents with exact sources -> token streams,
 * kept in the corpus of a store.
 *
 *   msa_ingest_run("stores/x", sources, n, &opts, &counts, err);   // writes
 *   msa_corpus_open("stores/x", &corpus, err);                     // reads
 *   for (id = 1; id <= msa_corpus_last_doc(corpus); id++)
 *       if (msa_corpus_doc_get(corpus, id, &doc)) use(doc.tokens, doc.text, ...);
 *
 * A *document* is a passage: the unit of routing and of citation. Its file (or
 * archive member, or JSONL record) is its source. Ids are 1, 2, 3, ... in the
 * order of ingest, never change and are never given again. The caller holds the
 * store's lock while ingest runs; readers need none.
 *
 * On disk (formats to the byte in ingest/corpus_log.h):
 *   STORE/corpus.log      append-only records, one group a file, committed whole
 *   STORE/manifest.jsonl  every input file and member with its one outcome,
 *                         replaced atomically at the end of each ingest
 *   STORE/quarantine.jsonl  what ended parsers (ingest/quarantine.h): not read again by
 *                         the same program; a loss in more than 5 % of the files read,
 *                         20 at least, or in 50 in a row, ends the run (MSA_E_INTERNAL)
 *   STORE/sources.json    the sources of the last ingest, for msa_ingest_verify */
#ifndef MSA_INGEST_INGEST_H
#define MSA_INGEST_INGEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "ingest/tokenizer.h"
#include "ingest/view.h"

/* ---- writing ---------------------------------------------------------------- */

typedef enum msa_source_format { MSA_SOURCE_AUTO, MSA_SOURCE_JSONL } msa_source_format;

/* One entry of a job's corpus.sources. */
typedef struct msa_source {
    const char *path;       /* as written in the job: the head of every path in results */
    const char *open_path;  /* the same, made absolute or relative to the working directory */
    const char *const *include, *const *exclude; /* globs over the path below the source; ** crosses folders */
    int64_t n_include, n_exclude;  /* none included: everything */
    msa_source_format format;
} msa_source;

typedef enum msa_on_change { MSA_CHANGE_UPDATE, MSA_CHANGE_IGNORE, MSA_CHANGE_FAIL } msa_on_change;

/* Limits of one worker process and of one input file. */
typedef struct msa_ingest_limits {
    int64_t memory_bytes;      /* RLIMIT_AS of a worker; 2 GiB */
    int64_t cpu_seconds;       /* of one file; 600 */
    int64_t stall_seconds;     /* without a frame; 60 */
    int64_t text_bytes;        /* UTF-8 text out of one input file; 4 GiB */
    int64_t member_bytes;      /* one archive member, delivered; 4 GiB */
    int64_t total_bytes;       /* all members of one input file; 64 GiB */
    int64_t ratio;             /* delivered bytes : file bytes, beyond the first 64 MiB; 200 */
    int64_t members;           /* entries of one input file, nested ones included; 1,000,000 */
    int64_t depth;             /* archives in archives; 8 */
    int64_t pages;             /* of one PDF; 100,000 */
    int64_t ocr_pages;         /* scanned pages of one PDF that OCR reads; 0, none */
} msa_ingest_limits;
void msa_ingest_limits_default(msa_ingest_limits *l);

typedef struct msa_ingest_opts {
    const msa_tokenizer *tokenizer;
    const char *document_head, *document_tail; /* templates with {id} */
    int64_t passage_tokens;     /* target length; 0: 512 */
    int64_t n_workers;          /* 0: one a core */
    const char *extract_path;   /* the msa-extract program */
    msa_on_change on_change;
    msa_ingest_limits limits;
    bool isolation_required;    /* refuse (MSA_E_UNAVAILABLE) when workers cannot be locked in by a
                                   system call filter */
    bool retry_quarantined;     /* read what is in quarantine.jsonl once more */
    atomic_int *stop;           /* not 0: commit the file in flight, return MSA_END */
    void (*progress)(void *user, int64_t files_done, int64_t files_seen, int64_t docs);
    void *user;
} msa_ingest_opts;

/* Counts over the manifest after the run. Top-level files and archive members
 * are counted apart; in each, the outcomes add up to the total. */
typedef struct msa_outcome_counts {
    int64_t total, indexed, partial, duplicate, excluded, failed;
} msa_outcome_counts;
typedef struct msa_ingest_counts {
    msa_outcome_counts files, members;
    int64_t docs, docs_new, docs_withdrawn;   /* alive now; by this run */
    int64_t tokens;                           /* of alive documents, wrapped */
    int64_t files_unchanged;                  /* skipped: known by size and time */
    char isolation[64];                       /* of the workers: "rlimit+seccomp+landlock7"; "" when none ran */
} msa_ingest_counts;

/* Brings the store's corpus in line with the sources: new and changed files are
 * extracted in msa-extract workers, cut into passages, tokenised and committed
 * file by file; files that are gone are withdrawn (on_change UPDATE). One bad
 * file costs only itself and stands in the manifest. MSA_END: stopped, what is
 * committed stays. MSA_FAILED with MSA_E_REFUSED: the store was made with
 * another tokenizer, templates or passage length. MSA_FAILED with MSA_E_NOINPUT:
 * a source's path does not exist. */
msa_rc msa_ingest_run(const char *store, const msa_source *sources, int64_t n_sources,
                      const msa_ingest_opts *opts, msa_ingest_counts *counts, msa_err *err);

/* ---- verifying --------------------------------------------------------------- */

/* What was compared, and how often it differed. */
typedef struct msa_verified_counts {
    int64_t files, members, docs, hashed, differences;
} msa_verified_counts;
/* what: one line for people, of UTF-8, file names escaped as in the manifest. */
typedef void msa_difference(void *user, const char *what);

/* Does everything tie? The corpus against its checksums, the manifest against
 * itself and the corpus, both against the files of the sources as they are now:
 * by size and time, with hash by content too. Reads only. MSA_OK also when there
 * are differences; MSA_FAILED when there is no corpus or no manifest. */
msa_rc msa_ingest_verify(const char *store, bool hash, msa_difference *difference, void *user,
                         msa_verified_counts *counts, msa_err *err);

/* ---- reading ---------------------------------------------------------------- */

typedef struct msa_corpus msa_corpus;

/* Maps the corpus of a store; a store without one is MSA_FAILED, MSA_E_NOINPUT.
 * A torn tail (a killed ingest) is ignored. Sees what was committed at that time. */
msa_rc msa_corpus_open(const char *store, msa_corpus **out, msa_err *err);
void msa_corpus_close(msa_corpus *c);
int64_t msa_corpus_last_doc(const msa_corpus *c);  /* highest id ever given, 0: none */
int64_t msa_corpus_alive(const msa_corpus *c);     /* documents not withdrawn */
/* Sum over alive documents of ceil(tokens / P), for plans; and of tokens. */
void msa_corpus_size(const msa_corpus *c, int64_t P, int64_t *chunks, int64_t *tokens);

typedef struct msa_doc {
    int64_t id;
    bool alive;
    const char *text;        /* the passage, canonical UTF-8, not NUL-terminated; begins with title
                                and a line feed when there is a title */
    int64_t text_bytes;
    const int32_t *tokens;   /* of the view, wrapped: head, view, tail */
    int64_t n_tokens;
    const char *path;        /* display path: FILE or FILE!/MEMBER!/MEMBER */
    const char *sha256;      /* of the file or member that holds the text: 64 digits, or "" when a
                                member could not be read to its end */
    const char *file_sha256; /* of the top-level file */
    const char *record;      /* id of a JSONL record, or NULL */
    const char *title;       /* of a JSONL record, or NULL */
    int64_t page;            /* first page, from 1; 0: the format has none */
    const char *page_label;  /* of that page, or NULL */
    int64_t char_start, char_end; /* code points in the stored text of the file (of the record, its
                                title not counted) */
    msa_view_kind view;      /* NONE: the text is its own view */
    const msa_view_range *dropped; /* running heads and feet, in bytes of text */
    int64_t n_dropped;
} msa_doc;
/* false: no such id was ever given. Pointers live as long as the corpus. */
bool msa_corpus_doc_get(const msa_corpus *c, int64_t id, msa_doc *out);

/* What the model reads of a document; out is {0} or one made before. */
msa_rc msa_doc_view(const msa_doc *d, msa_view *out, msa_err *err);

/* The files with the most tokens, largest first: at most *n of them, *n is set. */
typedef struct msa_file_tokens {
    const char *path;        /* lives as long as the corpus */
    int64_t tokens;
} msa_file_tokens;
void msa_corpus_largest(const msa_corpus *c, msa_file_tokens *out, int64_t *n);

/* Under which other paths does the content of a document stand? Exact duplicates
 * of its file or member, or of an archive around it, in the order in which they
 * were ingested; the manifest has them all. Free with msa_corpus_paths_free. */
#define MSA_ALSO_MAX 100
typedef struct msa_corpus_paths {
    char *paths[MSA_ALSO_MAX];
    int64_t n;
} msa_corpus_paths;
msa_rc msa_corpus_also(const msa_corpus *c, int64_t id, msa_corpus_paths *out, msa_err *err);
void msa_corpus_paths_free(msa_corpus_paths *p);

/* One line a manifest entry, for `ls`: calls back in manifest order with the
 * JSON text of each line. */
msa_rc msa_corpus_manifest(const char *store, msa_rc (*line)(void *user, const char *json, int64_t n),
                           void *user, msa_err *err);

#endif
