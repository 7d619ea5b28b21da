"""Exit codes, once: the help of `labelgen`, the docs and the tests read this table."""

from __future__ import annotations

import errno

OK = 0
NO = 1
USAGE = 2
DISK = 6
UNEXPECTED = 70
INTERRUPTED = 130
READER_GONE = 141

EXIT_CODES: dict[int, str] = {
    OK: "done: built, verified without a problem, equal content",
    NO: "a check failed: verify or doctor found a problem, diff a difference, --strict a quarantined item; "
    "or a worker process died",
    USAGE: "an option, recipe or spec is wrong",
    3: "the data set is not what its adapter expects",
    4: "a teacher cannot be loaded or returns unusable rows",
    5: "the store: missing, unfinished, of another format or recipe, in use, damaged; or unknown ids",
    DISK: "the disk is full, read-only, or writing is not permitted",
    7: "an optional package is not installed; the message ends with the line that installs it",
    UNEXPECTED: "an unexpected error: a bug; --debug shows where",
    INTERRUPTED: "interrupted (Ctrl-C or SIGTERM); what was finished is kept",
    READER_GONE: "the reader of the output closed it (labelgen ... | head)",
}

#: What the operating system says when the disk is at fault and not labelgen.
DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO})

#: What it says of a path that can be none: too long, through a file, around in circles, a folder where a file belongs.
PATH_ERRNOS = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EEXIST})
