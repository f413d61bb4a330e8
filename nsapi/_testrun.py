# SPDX-License-Identifier: MIT
"""A marked test in a fresh pytest inside namespaces; what it reports there is reported here. Both ends.

There the test is collected anew, by its file, and only it is run: set-up, call and teardown, with all its fixtures. An
interpreter of its own, since nsapi never forks one: this one may have threads.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from typing import IO, Any

import pytest

from nsapi import _marks, _native
from nsapi._errors import NamespaceError
from nsapi._process import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nsapi._config import Config

_PHASES = ("setup", "call", "teardown")

# ---- this end ----


def run_inside(item: pytest.Item, nextitem: pytest.Item | None, path: list[str]) -> bool | None:
    """Do for a marked test what pytest's ``pytest_runtest_protocol`` does for others; *path* is where modules are found.

    Where this is inside already, None: pytest shall do it.
    """
    if _marks.INSIDE in item.config.stash:
        return None
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    phases: list[str] = []
    run = pytest.CallInfo.from_call(lambda: _run(item, path, phases), "setup", reraise=_STOPS)
    if run.excinfo is not None:
        run.when = _next_phase(phases)
        _report(item, run)
    # Nothing of this test is set up here, but what the tests before have left, for those that may come after.
    end = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(nextitem), "teardown", _STOPS)
    if end.excinfo is not None:
        _report(item, end)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


_STOPS = (KeyboardInterrupt, pytest.exit.Exception)


def _report(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    report = item.ihook.pytest_runtest_makereport(item=item, call=call)
    item.ihook.pytest_runtest_logreport(report=report)


def _next_phase(phases: list[str]) -> Any:
    return _PHASES[min(_PHASES.index(phases[-1]) + 1, 2)] if phases else "setup"


def _run(item: pytest.Item, path: list[str], phases: list[str]) -> None:
    """Run it; log the reports that come, *phases* telling of which. Raises what pytest makes a report of."""
    if reason := _why_never(item):
        raise pytest.skip.Exception(reason, _use_item_location=True)
    if item.get_closest_marker("requires_namespace") is not None:
        _marks.skip_without(item)
    config = _marks.config_of(item, "namespace")
    live = item.config.getoption("capture", "no") == "no"
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as heard, tempfile.TemporaryFile() as output:
        pickle.dump(_orders(item, heard.fileno()), told)
        told.seek(0)
        try:
            code = _CODE.format(path=path, told=told.fileno())
            status = _start(item, config, code, (told, heard), None if live else output)
        finally:  # a timeout, for one, is raised in the middle
            heard.seek(0)
            problems = list(_hear(item, heard, phases))
        if phases[-1:] == ["teardown"] and not problems and status in range(6):  # pytest.ExitCode
            return
        output.seek(0)
        text = output.read().decode(errors="replace")
    if text:
        item.add_report_section(_next_phase(phases), "output", text)
    pytest.fail("\n".join([_how_it_ended(config, status, phases), *problems]), pytrace=False)


def _why_never(item: pytest.Item) -> str | None:
    """Say why nothing needs to be started for it. What ``skipif`` says may differ inside; it is looked at there."""
    skip = item.get_closest_marker("skip")
    if skip is not None:
        return skip.kwargs.get("reason") or "".join(skip.args[:1]) or "unconditional skip"
    only = item.config.getoption("setuponly", False) or item.config.getoption("setupplan", False)
    return "runs inside namespaces, where --setup-only and --setup-plan do not go" if only else None


def _start(item: pytest.Item, config: Config, code: str, lent: Sequence[IO[bytes]], output: IO[bytes] | None) -> int:
    """Run Python inside to its end; whatever happens here, none is left."""
    command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", code]  # type: ignore[attr-defined]
    remedy = "\nrequires_namespace with the same arguments skips the test instead"
    with _marks.failing("pytest.mark.namespace", NamespaceError, remedy=remedy):
        _native.require()
        main_thread = threading.current_thread() is threading.main_thread()
        if main_thread and not config.init and config.parent_death_signal is None:
            config.parent_death_signal = signal.SIGKILL  # this process may be killed
        sys.stdout.flush()
        sys.stderr.flush()
        return run(
            command,
            config=config,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            pass_fds=[file.fileno() for file in lent],
            cwd=item.config.invocation_params.dir,
        ).returncode


def _how_it_ended(config: Config, status: int, phases: list[str]) -> str:
    types = ",".join(each.type.proc_name for each in config.namespaces)
    end = f"ended with exit status {status}"
    if status < 0:
        known = -status in set(signal.Signals)
        end = f"was ended by {signal.Signals(-status).name if known else f'signal {-status}'}"
    when = f"after {phases[-1]}" if phases else "before setup"
    return f"the pytest inside the namespaces ({types}) {end}, {when} of the test"


class _Plain(pickle.Unpickler):
    """Reads values that have no class: a test can write what it wants, and nothing of it is run here."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def _hear(item: pytest.Item, heard: IO[bytes], phases: list[str]) -> Iterator[str]:
    """Log what has been told; the answers are the problems, for a report that is made here."""
    hook = item.ihook
    while True:
        try:
            kind, value = _Plain(heard).load()
        except EOFError:
            return
        except Exception as error:  # cut off in the middle, or overwritten
            yield f"what it has told cannot be read: {error}"
            return
        if kind == "report":
            report = hook.pytest_report_from_serializable(config=item.config, data=value)
            if type(report) is pytest.TestReport and report.when in _PHASES:  # not of a subtest
                phases.append(report.when)
            if report.nodeid == _nodeid(item) != item.nodeid:
                report.nodeid = item.nodeid
            hook.pytest_runtest_logreport(report=report)
        elif kind == "warning":
            _warn(item, *value)
        elif kind == "interrupt":
            raise KeyboardInterrupt
        elif kind == "exit":
            pytest.exit(value)
        else:
            yield value


def _warn(item: pytest.Item, category: tuple[str, str], text: str, file: str, line: int, keywords: Any) -> None:
    found = getattr(sys.modules.get(category[0]), category[1], None)
    known: type[Warning] = found if isinstance(found, type) and issubclass(found, Warning) else Warning
    try:
        message = known(text)
    except Exception:  # it wants other arguments
        message, known = Warning(text), Warning
    recorded = warnings.WarningMessage(message, known, file, line)
    item.ihook.pytest_warning_recorded.call_historic(kwargs={"warning_message": recorded, **keywords})


# ---- what goes there ----

#: pytest comes first, so that it can rewrite what others import; then this module again, at the other end.
_CODE = """
import sys
sys.path[:] = {path!r}
import pickle, pytest
with open({told}, "rb") as told:
    orders = pickle.load(told)
config = pytest.Config.fromdictargs(orders.pop("options"), orders.pop("args"))
from nsapi import _testrun
sys.exit(_testrun.inside(config, **orders))
"""

#: What is done here and not there: choosing tests, stopping, and writing files that would be written over.
_NOT_THERE: dict[str, Any] = {
    **dict.fromkeys(("keyword", "markexpr"), ""),
    **dict.fromkeys(("lf", "failedfirst", "newfirst", "stepwise", "stepwise_skip", "cacheclear", "looponfail"), False),
    **dict.fromkeys(("usepdb", "trace", "collectonly", "setupshow", "traceconfig", "pyargs"), False),
    **dict.fromkeys(("deselect", "xmlpath", "pastebin", "debug", "numprocesses"), None),
    **dict.fromkeys(("htmlpath", "report_log", "allure_report_dir"), None),  # of plugins in wide use
    "maxfail": 0,
    "log_file": os.devnull,
    "dist": "no",
    "tx": [],
    "no_cov": True,  # of pytest-cov, which would look for its other end
    "plugins": [],
}


def _orders(item: pytest.Item, heard: int) -> dict[str, Any]:
    """Say what the pytest there shall do: this one's options, as xdist's workers get them, and one test."""
    config = item.config
    options = {name: value for name, value in vars(config.option).items() if _picklable(value)}
    options.pop("file_or_dir", None)  # argparse warns where a positional is there
    args = [word for plugin in options.get("plugins", ()) for word in ("-p", plugin)]
    top = config.inipath.parent if config.inipath is not None else config.rootpath
    options.update(
        _NOT_THERE,
        rootdir=str(config.rootpath),
        inifilename=str(config.inipath or os.devnull),
        confcutdir=config.getoption("confcutdir", None) or str(top),
    )
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if factory is not None:  # its own would be numbered, and remove those of others
        options["basetemp"] = str(factory.mktemp("inside"))
    file = item.getparent(pytest.File)  # type: ignore[type-abstract]
    assert file is not None
    path = str(file.path)
    exact = "[" not in path and "::" not in path  # else it says nothing but the file
    worker = getattr(config, "workerinput", {})  # of pytest-xdist
    return {
        "options": options,
        "args": [*args, path + _nodeid(item)[len(file.nodeid) :] if exact else path],
        "nodeid": _nodeid(item),
        "worker": {name: value for name, value in worker.items() if _picklable(value)},
        "heard": heard,
    }


def _nodeid(item: pytest.Item) -> str:
    """Tell its nodeid as collected: a worker of pytest-xdist may have added the group's name."""
    assert item.parent is not None
    return f"{item.parent.nodeid}::{item.name}"


def _picklable(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


# ---- that end ----


def inside(config: pytest.Config, nodeid: str, worker: dict[str, Any], heard: int) -> int:
    """Run that one test and tell what comes of it, in place of ``pytest.main``."""
    os.set_inheritable(heard, False)
    config.stash[_marks.INSIDE] = True
    with open(heard, "wb") as file:
        teller = _Teller(config, nodeid, worker, file)
        config.pluginmanager.register(teller, "nsapi-inside")
        try:
            return int(config.hook.pytest_cmdline_main(config=config))
        except pytest.UsageError as error:
            teller.tell("problem", str(error))
            return pytest.ExitCode.USAGE_ERROR


class _Silent:
    """The terminal's reporter without its hooks: it says nothing by itself, and is there for who asks for it."""

    def __init__(self, reporter: object) -> None:
        self._reporter = reporter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter, name)


class _Teller:
    """A plugin that tells the other end what happens, in place of the terminal."""

    def __init__(self, config: pytest.Config, nodeid: str, worker: dict[str, Any], file: IO[bytes]) -> None:
        self._config, self._nodeid, self._worker, self._file = config, nodeid, worker, file

    def tell(self, kind: str, value: object) -> None:
        pickle.dump((kind, value), self._file)
        self._file.flush()  # the next line of the test may be its last

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: Any) -> None:
        if self._worker:
            # For fixtures that tell workers apart. Late: there is no controller here for plugins to connect to.
            config.workerinput = self._worker
        plugins = config.pluginmanager
        reporter, *caches = map(plugins.get_plugin, ("terminalreporter", "lfplugin", "nfplugin"))
        if reporter is not None:
            plugins.unregister(reporter)
            plugins.register(_Silent(reporter), "terminalreporter")
        for each in caches:  # of what has failed, and of what is new: the other end keeps them
            if each is not None:
                plugins.unregister(each)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [each for each in items if each.nodeid == self._nodeid][:1]
        if not items:
            self.tell("problem", f"{self._nodeid} is not collected there")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tell("problem", report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # The terminal would ask, and the answer may change the report: of a test that has failed subtests, for one.
        self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self.tell("report", _plain(data))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any
    ) -> None:
        if when == "runtest":  # others have been seen at the other end
            category = (warning_message.category.__module__, warning_message.category.__qualname__)
            where = (warning_message.filename, warning_message.lineno)
            keywords = {"when": when, "nodeid": nodeid, "location": location}
            self.tell("warning", (category, str(warning_message.message), *where, keywords))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        stop = isinstance(excinfo.value, pytest.exit.Exception)
        self.tell("exit" if stop else "interrupt", str(excinfo.value))

    def pytest_internalerror(self, excrepr: object) -> None:
        self.tell("problem", str(excrepr))


def _plain(value: Any) -> Any:
    """Make it of values that have no class; for others, as in ``record_property``, stands what they look like."""
    if isinstance(value, dict):
        return {_plain(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(_plain, value)] if isinstance(value, list) else (*map(_plain, value),)
    return value if value is None or type(value) in (bool, int, float, str, bytes) else str(value)
