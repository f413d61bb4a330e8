# SPDX-License-Identifier: MIT
"""call: a function in an interpreter of its own, inside, or in a fork of this one."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import Any

from nsapi import _channel, _clone, _native, _plan, _worker
from nsapi._interpreter import Interpreter, InterpreterDied, Line, Recipe, request, words_of
from nsapi._native import Program, State
from nsapi._process import _caller_cwd, _config_of
from nsapi._types import NamespaceType
from nsapi._world import Lent, check_types, facts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, TypeVar

    from nsapi._config import Config
    from nsapi._interpreter import Answer

    Value = TypeVar("Value")


def call(
    func: Callable[..., Value],
    /,
    *args: Any,
    config: Config | None = None,
    target: Any = None,
    types: Sequence[NamespaceType | str] = (),
    timeout: float | None = None,
    method: str = "spawn",
    **keywords: Any,
) -> Value:
    """Call a function in an interpreter of its own, in other namespaces: gives what it returns, or raises what it raises.

    *config*, or *target* and *types*, are those of :class:`Popen`; *args* and all other keywords are the function's. The
    caller stays where it is. The interpreter is a new process, started as subprocess would; standard streams, environment
    and working directory are the caller's. It ends when the function has returned, and ``call`` waits for that.

    Function, arguments and result are pickled; functions of a script are found as multiprocessing finds them, so that what
    the script does belongs below ``if __name__ == "__main__":``. Sockets, :class:`NamespaceHandle` and multiprocessing's
    connections can be passed both ways: the open file goes, and each side closes its own.

    Joining a mount namespace is the last thing before the function runs: the interpreter, nsapi and the function's module
    are loaded outside of it, and the ids, capabilities and ``no_new_privs`` of the Config are taken on inside. No module is
    imported from a file there: what the function imports late is a ModuleNotFoundError. The same is done with the user
    namespace of others where the caller has CAP_SYS_ADMIN. Elsewhere all is as for Popen, and Python must be a program that
    the ids inside may execute.

    *timeout* in seconds, from now; then the interpreter is killed, once it has started. *method* ``"fork"`` is for closures
    in a program of a single thread: nothing of the call is pickled but its result. It performs what one fork can: nothing
    that takes the launcher.

    Raises, beside what the function raises, whose ``__cause__`` is the remote traceback: NamespaceError for a step that
    failed, the function not having run. TypeError: a part of the call, named, or the result cannot be pickled. RuntimeError:
    an exception that cannot be. subprocess.TimeoutExpired. subprocess.CalledProcessError: the interpreter was killed or
    ended itself, by os._exit or SystemExit. In each case no process and no file is left.

    The result is unpickled, so that who takes the interpreter over can run code in the caller. It is not dumpable where a
    user, pid or mnt namespace is joined; see SECURITY.md for whom that keeps out.
    """
    _native.require()
    config = _config_of(config, target, types)
    config.validate()
    if method not in ("spawn", "fork"):
        raise ValueError(f"method: {method!r} is neither 'spawn' nor 'fork'")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise TypeError(f"timeout: {timeout!r} is no number of seconds")
    words = words_of(func)
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        if method == "fork":
            answer = _by_fork(config, words, func, args, keywords, deadline)
        else:
            answer = _by_spawn(config, words, request(func, args, keywords), deadline)
    except _clone.Overdue:
        assert timeout is not None
        raise subprocess.TimeoutExpired(words, timeout) from None
    return answer.value()  # type: ignore[no-any-return]


def _by_spawn(config: Config, words: str, asked: tuple[Any, list[int]], deadline: float | None) -> Answer:
    answer = None
    with Recipe(config) as recipe:
        interpreter = Interpreter()
        try:
            interpreter.start(recipe)
            interpreter.until(deadline)
            answer = interpreter.ask(words, *asked)
            interpreter.end()
        except BaseException:
            interpreter.kill()
            if answer is not None:
                _channel.close_all(answer.fds)
            raise
    return answer


# ---- in a fork ----


def _by_fork(
    config: Config, words: str, func: Any, args: tuple[Any, ...], keywords: dict[str, Any], deadline: float | None
) -> Answer:
    if not callable(func):
        raise TypeError(f"func: {func!r} cannot be called")
    _clone.refuse_threads("call(…, method='fork')", "method='spawn' starts an interpreter of its own")
    facts = facts_of(config)
    check_types(config)
    _plan.check(config, facts)
    answer = None
    with Lent() as lent:
        moves = lent.joins(config)
        steps = _plan.forked_steps(config, moves, facts, _caller_cwd())
        program, state = Program(steps[1:]), State()
        state.fill([*lent.descriptors(config, launched=False), *(move.fd for move in moves)])
        ids = any(each is not None for each in (config.uid, config.gid, config.groups))
        joins_mnt = any(NamespaceType.MNT in move.types for move in moves)
        ours, theirs = socket.socketpair()
        ours.setblocking(True)  # see Interpreter
        theirs.setblocking(True)

        def inside() -> NoReturn:
            ours.close()
            end = _channel.Channel(theirs)
            answer = _worker.forked_answer(program, state, func, args, keywords, ids=ids, closed=joins_mnt)
            end.send(*answer[:3])
            raise SystemExit

        with ours, theirs:
            child = _clone.Child()
            try:
                child._begin(steps[0], inside, ())
                theirs.close()
                line = Line(ours, child.pidfd)
                line.deadline = deadline
                answer = line.hear(words)
                status = child._wait_until(deadline)
            except BaseException:
                child._end_now()
                if answer is not None:
                    _channel.close_all(answer.fds)
                raise
    if answer is None:
        raise InterpreterDied(status, words)
    return answer
