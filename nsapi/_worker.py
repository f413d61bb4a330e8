# SPDX-License-Identifier: MIT
"""An interpreter that runs functions for another one, inside: it loads first, enters what it has to, and then calls.

It is started by ``_call``, with the other end of its channel. What is imported here is paid for at every start.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import sys
from errno import EINVAL

from nsapi import _channel
from nsapi._channel import CALL, RAISED, REFUSED, UNUSABLE, VALUE, Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nsapi._native import Step


class Late:
    """What the interpreter does to itself when the function is loaded: its files may be out of reach afterwards."""

    __slots__ = ("closed", "first", "joins", "privileges", "root_if_mapped")

    def __init__(
        self,
        joins: list[Step],
        privileges: list[Step],
        first: int,  # slot of the fds that come beside this
        *,
        root_if_mapped: tuple[bool, bool] | None,  # None: no user namespace is joined; else: are uid, gid set later?
        closed: bool,  # no file is imported any more
    ) -> None:
        self.joins, self.privileges, self.first = joins, privileges, first
        self.root_if_mapped, self.closed = root_if_mapped, closed


class Preparation:
    """How the caller's interpreter is, as far as this one shall be the same, and what it is to do to itself."""

    __slots__ = ("argv", "dumpable", "late", "load_main", "main_name", "main_path")

    def __init__(self, argv: list[str], main_name: str | None, main_path: str | None) -> None:
        self.argv, self.main_name, self.main_path = argv, main_name, main_path
        self.dumpable, self.load_main = True, False
        self.late: Late | None = None


# ---- __main__ ----

_prepared: Preparation | None = None
_runs_main = False


def _main(name: str) -> str:
    """Run the caller's script, as multiprocessing does, when something of it is asked for; say what it is called here."""
    prepared = _prepared
    assert prepared is not None
    if "__mp_main__" not in sys.modules:
        if prepared.main_name is None and prepared.main_path is None:
            raise AttributeError(f"{name} is of the caller's __main__, which is no file: put it into a module")
        global _runs_main
        import runpy

        _runs_main = True
        module = type(sys)("__mp_main__")
        if prepared.main_name is not None:
            content = runpy.run_module(prepared.main_name, run_name="__mp_main__", alter_sys=True)
        else:
            assert prepared.main_path is not None
            content = runpy.run_path(prepared.main_path, run_name="__mp_main__")
        module.__dict__.update(content)
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
        _runs_main = False
    return "__mp_main__"


def refuse_endless_start() -> None:
    """Refuse to start interpreters while the caller's script is run for a function of it: each would start another."""
    if _runs_main:
        raise RuntimeError(
            "the script that called is being run again, for a function of it, and would call again without end:"
            ' what a script does belongs below `if __name__ == "__main__":`'
        )


def _prepare(prepared: Preparation) -> None:
    global _prepared
    _prepared = prepared
    sys.argv = prepared.argv
    main: Any = sys.modules["__main__"]
    main.__file__ = prepared.main_path  # for who starts interpreters from here
    if not prepared.dumpable:
        from nsapi._native import Program, State, Step, run

        run(Program([Step("dumpable", "become non-dumpable", value=0)]), State())
    if prepared.load_main and (prepared.main_name or prepared.main_path):
        _main("")


# ---- going inside ----


class _Closed:
    """The last of sys.meta_path: files are those of the mount namespace that was joined, and none of ours."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        raise ModuleNotFoundError(
            f"{name}: not imported before the mount namespace was joined, and inside it a file of that name is a"
            " stranger's: import it at the top of the function's module",
            name=name,
        )


def close_imports() -> None:
    """See that no module is taken from a file any more; load what Python itself loads late."""
    import encodings.ascii
    import encodings.idna
    import encodings.latin_1
    import encodings.utf_8
    import linecache
    import signal
    import traceback
    from importlib.machinery import BuiltinImporter, FrozenImporter

    from nsapi import _switch

    _switch.load_all()
    assert encodings
    assert signal
    assert traceback
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, _Closed()]
    # A traceback would show the lines of a stranger's files, or wait for his FIFO.
    linecache.updatecache = lambda *unused, **unused_too: []


def _be_root_if_mapped(*, sets_uid: bool, sets_gid: bool) -> None:
    """Be 0 in a joined user namespace, as the launcher does; who is not mapped in it does not stay what he was outside."""
    for change, own, later in ((os.setresgid, os.getegid(), sets_gid), (os.setresuid, os.geteuid(), sets_uid)):
        try:
            change(0, 0, 0)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            if not later:
                change(own, own, own)


def go(late: Late, fds: list[int]) -> None:
    """Enter what is entered last, by these fds."""
    from nsapi import _native
    from nsapi._errors import NamespaceError

    if late.closed:
        close_imports()
    state = _native.State()
    try:
        state.fill(fds, late.first)
        if late.root_if_mapped is not None:
            os.setgroups([])  # the caller's own; inside, it may be denied
        _native.run(_native.Program(late.joins), state)
        if late.root_if_mapped is not None:
            sets_uid, sets_gid = late.root_if_mapped
            try:
                _be_root_if_mapped(sets_uid=sets_uid, sets_gid=sets_gid)
            except OSError as error:
                why = "neither 0 nor the caller's ids are mapped there: say uid and gid in the Config"
                step = "take ids in the joined user namespace"
                raise NamespaceError(error.errno or EINVAL, None, None, step=step, hint=why) from None
        _native.run(_native.Program(late.privileges), state)
    finally:
        _channel.close_all(fds)


# ---- calls ----


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def trace_of(error: BaseException) -> str:
    """Format the traceback as it would be printed here."""
    from traceback import format_exception

    return "".join(format_exception(type(error), error, error.__traceback__))


def _raised(error: BaseException) -> tuple[int, Any, list[int]]:
    try:
        pickled, fds = _channel.dump(error)
        content: bytes | None = pickled
    except Exception:
        content, fds = None, []
    payload, _ = _channel.dump((content, _summary(error), trace_of(error)))
    return RAISED, payload, fds


def _unusable(what: str, error: BaseException) -> tuple[int, Any, list[int]]:
    payload, fds = _channel.dump((what, _summary(error), trace_of(error)))
    return UNUSABLE, payload, fds


def answer_of(func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[int, Any, list[int], Any]:
    """Call, and make a message of what comes of it; the last is what must live until that is sent.

    SystemExit is no answer: it ends the interpreter, and its status is one.
    """
    try:
        value = func(*args, **keywords)
    except SystemExit:
        raise
    except BaseException as error:
        return (*_raised(error), error)
    try:
        return (VALUE, *_channel.dump(value), value)
    except Exception as error:
        return (*_unusable("the result cannot be pickled", error), error)


def _answer(payload: Any, fds: list[int], late: tuple[Late, list[int]] | None) -> tuple[int, Any, list[int], Any]:
    try:
        func, args, keywords = _channel.load(payload, fds, _main)
    except Exception as error:
        return (*_unusable("func or its arguments cannot be loaded in the new interpreter", error), error)
    if late is not None:
        try:
            go(*late)
        except Exception as error:
            return (REFUSED, *_channel.dump(error), error)
    return answer_of(func, args, keywords)


def ready(initializer: Any = None, initargs: tuple[Any, ...] = ()) -> None:
    """Begin to work for a pool: that this is answered says that the worker is inside."""
    if initializer is not None:
        initializer(*initargs)


def forked_answer(
    program: Any, state: Any, func: Any, args: tuple[Any, ...], keywords: dict[str, Any], *, closed: bool
) -> tuple[int, Any, list[int], Any]:
    """Go inside by these steps, and call."""
    from nsapi import _native

    try:
        if closed:
            close_imports()
        _native.run(program, state)
    except Exception as error:
        return (REFUSED, *_channel.dump(error), error)
    return answer_of(func, args, keywords)


def call_each(func: Any, chunk: list[tuple[Any, ...]]) -> list[Any]:
    """Call *func* with each of these arguments: a chunk of a pool's map."""
    return [func(*args) for args in chunk]


def _serve(channel: Channel) -> None:
    _, payload, fds = channel.receive()
    late = None
    prepared: Preparation = _channel.load(payload, [])
    _prepare(prepared)
    if prepared.late is not None:
        late = prepared.late, fds
    handler = None
    while True:
        try:
            kind, payload, fds = channel.receive()
        except EOFError:
            return
        assert kind == CALL
        if handler is not None:
            _signal.signal(_signal.SIGINT, handler)
        answer = _answer(payload, fds, late)
        late = None
        del payload
        # Between two calls Ctrl-C is the caller's alone.
        handler = _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        channel.send(*answer[:3])
        if answer[2]:  # sockets and handles: they have been given away, and here nobody need close them
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del answer
        else:
            del answer


def main(fd: int) -> None:
    """Serve the other end of *fd* until it is closed."""
    os.set_inheritable(fd, False)
    end = _socket.socket(fileno=fd)
    try:
        _serve(Channel(end))
    except (BrokenPipeError, ConnectionResetError):
        pass  # nobody wants to know any more
    except KeyboardInterrupt:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGINT)
        os._exit(128 + _signal.SIGINT)  # pid 1 does not die of its own signal
    finally:
        end.close()
