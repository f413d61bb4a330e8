# SPDX-License-Identifier: MIT
"""The pytest plugin: fixtures ``netns`` and ``sandbox``, markers ``namespace`` and ``requires_namespace``.

pytest loads it by its entry point, so it imports nothing of nsapi before a test asks for something.
"""

from __future__ import annotations

import sys

try:
    import pytest
except ImportError as error:
    raise ImportError("nsapi.testing is a plugin of pytest, which is not here: pip install pytest") from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nsapi._config import Config
    from nsapi._handle import NamespaceHandle
    from nsapi._process import Popen
    from nsapi._types import NamespaceType

__all__ = ["Sandbox", "requires_namespace"]

#: Where modules are found, before pytest and its plugins add to it: what a fresh pytest begins with.
_PATH = list(sys.path)

MARKERS = """
namespace(*types, **fields): run the test in a fresh pytest inside new namespaces; arguments as for nsapi.Config.new
requires_namespace(*types, **fields): skip the test, with the reason, where such namespaces cannot be made; as namespace
"""


def pytest_configure(config: pytest.Config) -> None:
    for line in MARKERS.strip().splitlines():
        config.addinivalue_line("markers", line)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if item.get_closest_marker("namespace") is None:
        return None
    try:
        from nsapi import _testrun
    except ImportError:  # of the C core, for one: an error of this test, at its set-up below
        return None
    return _testrun.run_inside(item, nextitem, _PATH)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("namespace") is not None:
        from nsapi import _marks

        _marks.refuse_outside(item)
    if item.get_closest_marker("requires_namespace") is not None:
        from nsapi import _marks

        _marks.skip_without(item)


# ---- markers ----


def requires_namespace(*types: NamespaceType | str, **fields: Any) -> pytest.MarkDecorator:
    """Mark a test, or a class of tests, to be skipped where namespaces of these types cannot be made.

    Arguments are those of ``Config.new``. What can be made is found out by making it, when the first such test is set up:
    a Python is started there, once for all tests of a session that ask for the same. The reason of the skip is the
    NamespaceError's text, with its hint. Short for ``pytest.mark.requires_namespace(…)``.
    """
    return pytest.mark.requires_namespace.with_args(*types, **fields)


# ---- fixtures ----


@pytest.fixture
def netns() -> Iterator[NamespaceHandle]:
    """A net namespace of this test's own, with lo up: its thread is inside until the test and what it has set up end.

    Gives the NamespaceHandle. Needs CAP_SYS_ADMIN; the test is an error without.
    """
    from nsapi import _marks, _native, _switch
    from nsapi._errors import NamespaceError, NamespaceRestoreError
    from nsapi._pin import create

    depth = len(_switch.thread.me.entered)
    remedy = "\n@pytest.mark.namespace('user', 'net') runs a test inside without; requires_namespace('net') skips it"
    with _marks.failing("netns", NamespaceError, remedy=remedy):
        _native.require()
        handle = create("net", loopback=True)
        try:
            handle.__enter__()
        except BaseException:
            handle.close()
            raise
    try:
        yield handle
    finally:
        forgotten = len(_switch.thread.me.entered) > depth + 1
        try:
            _go_home(depth)
        except NamespaceRestoreError as error:
            pytest.exit(f"netns: the thread that runs the tests cannot go home: {error}", returncode=3)
        except KeyboardInterrupt:
            _go_home(depth)
            raise
        finally:
            handle.close()
    if forgotten:
        pytest.fail("netns: the test has entered something and not left it", pytrace=False)


def _go_home(depth: int) -> None:
    """Leave all that this thread has entered since, the last first."""
    from nsapi import _switch

    _switch.leave_down_to(depth)


class Sandbox:
    """What the fixture ``sandbox`` gives: a maker of programs in namespaces that end with the test."""

    def __init__(self) -> None:
        self._started: list[Popen] = []

    def config(self, *types: NamespaceType | str, **fields: Any) -> Config:
        """Make a Config, as ``Config.new``; a created pid namespace gets ``init=True``, unless *fields* say otherwise.

        So all that a program has started there ends with it.
        """
        from nsapi import _marks

        return _marks.new_config(types, fields)

    def popen(self, args: Any, **keywords: Any) -> Popen:
        """Start a program, as :class:`Popen` does and with its arguments; at the end of the test it is killed and reaped.

        Its pipes are closed then, too. What it has started itself ends with it only in a pid namespace of its own.
        """
        from nsapi._process import Popen

        process = Popen(args, **keywords)
        self._started.append(process)
        return process

    def close(self) -> None:
        """End all that has been started, the last first. The fixture does it; more than once is no error."""
        while self._started:
            process = self._started[-1]
            process.kill()
            process.wait()  # Ctrl-C leaves it in the list
            self._started.pop()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:  # what the test has written and nobody has read; it is closed even so
                        pass


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Starts programs in namespaces, which end with the test: a :class:`Sandbox`."""
    made = Sandbox()
    try:
        yield made
    finally:
        made.close()
