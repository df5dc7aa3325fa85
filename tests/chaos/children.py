"""Children of this process that do one job and may be killed over it: forked, so that nothing is imported anew."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from arbench import cli

Job = Callable[[], object]


@dataclass
class Child:
    """A process that does `job` as the command line would: one line and exit code 2 for a user's mistake."""

    pid: int
    told: Path

    @classmethod
    def start(cls, job: Job, told: Path, environment: Mapping[str, str] | None = None) -> Child:
        pid = os.fork()
        if pid:
            return cls(pid, told)
        code = 1
        try:
            os.environ.update(environment or {})
            with open(told, "w", buffering=1, encoding="utf-8") as file:
                for stream in (1, 2):
                    os.dup2(file.fileno(), stream)
                sys.stdout = sys.stderr = file  # past what the tests put in their place
                code = as_command(job)
        except BaseException:  # noqa: BLE001 - told to the parent
            traceback.print_exc()
        finally:
            os._exit(code)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code; -9 for a killed one."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def as_command(job: Job) -> int:
    """The exit code of `job`; a mistake is told on standard error."""
    try:
        result = job()
    except cli.USER_ERRORS as error:
        return cli.fail(cli.describe(error))
    return result if isinstance(result, int) else 0


def killed(job: Job, told: Path, chance: random.Random, longest: float) -> float:
    """Start `job` and kill it after at most `longest` seconds; when that was."""
    child, after = Child.start(job, told), chance.uniform(0, longest)
    time.sleep(after)
    child.kill()
    child.wait()
    return after
