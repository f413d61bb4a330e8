# SPDX-License-Identifier: MIT
"""The command ``nsapi``, also ``python -m nsapi``: which subcommand is meant, and how an error ends it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> int:
    """Perform the command line; the answer is the exit status. Ends by a signal where the program that was run did."""
    if sys.platform != "linux":
        return _fail("nsapi: Linux namespaces need Linux")
    try:
        return _perform(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt as error:
        from signal import SIGINT

        die(error.args[0] if error.args else SIGINT)


def _perform(words: list[str]) -> int:
    import signal

    debug = False
    while words[:1] == ["--debug"]:
        debug = bool(words.pop(0))
    if words[:1] in (["pin"], ["unpin"]):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _interrupt)
    elif signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what changes nothing is ended as a C program is
    if not words or words[0] not in ("run", "enter"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `nsapi ls | head`; a program that is run gets it back anyway

    from nsapi._command import Usage, parse

    try:
        perform, options = parse(words)
        debug = debug or options.debug
        status = perform(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except Usage as usage:
        return _fail(str(usage), 2)
    except Exception as error:
        if debug:
            from traceback import format_exc

            _complain(*format_exc().splitlines())
        if sys.stdout is not None and isinstance(error, OSError):
            _give_up_output()
        return _fail(f"nsapi: {_words(error)}", _status(error, words[:1]))


def _interrupt(number: int, _: object) -> NoReturn:
    """Take back what has been made, as after Ctrl-C, and end by this signal then."""
    raise KeyboardInterrupt(number)


def die(number: int) -> NoReturn:
    """End by this signal, as the program did: who waits for us shall see what happened to it. No second core is dumped."""
    import os
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # a pid 1 is not ended by its own signals


def _words(error: Exception) -> str:
    """Say it as other commands do, without "[Errno 2]"."""
    text = str(error) if error.args else type(error).__name__
    if isinstance(error, OSError):
        text = text.removeprefix(f"[Errno {error.errno}] ")
    elif not isinstance(error, (ValueError, TypeError, KeyError)):
        text = f"{type(error).__name__}: {text}"
    return text


def _status(error: Exception, command: Sequence[str]) -> int:
    """Tell the exit status: of env(1) and nsenter(1) for a program that cannot be started, 2 for bad words, else 1."""
    from errno import ENOENT

    step = getattr(error, "step", None) or ""
    if command not in (["run"], ["enter"]) or not step.startswith("exec ") or step == "exec the launcher":
        return 2 if isinstance(error, (ValueError, TypeError)) and not isinstance(error, UnicodeError) else 1
    return 127 if getattr(error, "errno", None) == ENOENT else 126


def _fail(text: str, status: int = 1) -> int:
    _complain(text)
    return status


def _complain(*lines: str) -> None:
    from nsapi._screen import escape

    if sys.stderr is not None:
        try:
            for line in lines:
                print(escape(line), file=sys.stderr)  # noqa: T201
        except OSError:
            pass  # nobody is left to be told


def _give_up_output() -> None:
    """What could not be written would be tried once more at the interpreter's end, and complained about."""
    import os

    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


if __name__ == "__main__":
    sys.exit(main())
