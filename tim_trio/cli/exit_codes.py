"""Exit codes that several commands share."""

import signal
from typing import Final

INTERRUPTED: Final = 128 + signal.SIGINT
#: As a shell reports a process that SIGPIPE ended.
PIPE_CLOSED: Final = 128 + signal.SIGPIPE
