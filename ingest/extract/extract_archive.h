/* Parts of the archive reader that tests reach alone. */
#ifndef MSA_INGEST_EXTRACT_EXTRACT_ARCHIVE_H
#define MSA_INGEST_EXTRACT_EXTRACT_ARCHIVE_H

#include "ingest/extract/extract.h"

/* The character set that a name which is no UTF-8 is most likely in, and the name in
 * UTF-8; NULL when it is UTF-8 or nothing can be said. dos: of a zip, where the old
 * set of PCs is the rule. */
const char *msa_archive_name_guess(const char *raw, int64_t n, bool dos, msa_buf *out);

/* Is the file named as a part of a set (x.part2.rar, x.r00, x.z01, x.7z.001)? */
bool msa_archive_part_name(const char *name);
/* Do its first bytes say so (RAR volumes, spanned zip)? */
bool msa_archive_is_part(const char *head, int64_t n);

#endif
