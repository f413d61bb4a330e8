# SPDX-License-Identifier: MIT
"""Linux namespaces for Python: correct in threads, never failing open, telling which step failed and why.

The modules, from the words to the kernel:

============== =============================================================================
``_types``     NamespaceType: the table of the eight types
``_fields``    what one field of a Config may hold
``_maps``      IDMap, IDMaps: which id inside is which outside
``_rules``     what the fields of a Config mean for each other
``_members``   what becomes of each member of a runtime's configuration file
``_json``      JSON files, read and checked, each fault with its place
``_config``    Namespace, Namespaces, Config: values and their rules
``_mapping``   who writes the maps of a new user namespace; pure
``_idmap``     what that depends on: subids, helpers, capabilities; id_maps
``_plan``      Config to an ordered list of steps, and why in that order; pure
``_native``    the list to the C core (``_native.c``), which performs it
``_switch``    the calling thread to other namespaces and back
``_bind``      a file that keeps a namespace: made, and taken away
``_handle``    NamespaceHandle: owns an fd on a namespace; current
``_target``    what a verb may be pointed at, and how that is pinned; open
``_enter``     enter, visit, setns, unshare
``_elsewhere`` sockets made where an fd or a path leads, by one call of the C core
``_sockets``   socket, socketpair
``_tasks``     which process is in which namespaces; what /proc tells of processes
``_reference`` by what a namespace that was found is opened again
``_snapshot``  Snapshot and NamespaceInfo: what was found, from every side
``_discover``  discover: every namespace that can be reached (``_scan.c``)
``_futures``   ThreadPoolExecutor, whose threads live inside
``_arguments`` subprocess's arguments, made into what the kernel takes
``_pin``       create, unpin, named: a namespace without a process, and the file that keeps it
``_boot_env``  boot_env: any spawner starts a program inside (``_boot.c``); start_initialization
``_process``   Popen, run
``_asyncio``   create_subprocess_exec: Popen on an asyncio loop
``_call``      call: a function in an interpreter of its own, inside, or in a fork
``_clone``     clone, Child: a copy of this process (``_clone.c``), which the rest never makes
``_interpreter`` starts such interpreters and asks them
``_process_pool`` ProcessPoolExecutor: such interpreters, kept warm
``_worker``    what that interpreter does: load, enter, call, answer
``_channel``   what goes between the two: messages, values, open files
``_world``     what a plan needs to know of the caller, and the fds lent to one spawn
``_launcher``  the program that makes what a vfork child cannot; told and heard
``_bootstrap`` the message that it is sent, which is runc's; bootstrap_data
``oci``        Config from and to the files of container runtimes; load, dump
``testing``    the pytest plugin: netns, sandbox, two markers
``_marks``     what the markers say, and whether it can be had here
``_testrun``   a marked test in a pytest inside, reported outside
``_command``   the command ``nsapi``: subcommands, options, help
``_listing``   ls, tree, show
``_payload``   run, enter, pin, unpin
``_scan``      the same for ``_scan.c``: what discover reads of all namespaces at once
``_screen``    tables, colours, hostile strings made harmless
``_errors``    NamespaceError: the step, the errno, the usual remedy
============== =============================================================================

Names are loaded when they are first used (PEP 562), so that ``import nsapi`` costs next to nothing.

To pytest, which rewrites the assertions of packages that have a plugin, and warns where one is imported already:
PYTEST_DONT_REWRITE.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsapi import oci as oci
    from nsapi import testing as testing
    from nsapi._asyncio import create_subprocess_exec as create_subprocess_exec
    from nsapi._boot_env import boot_env as boot_env
    from nsapi._boot_env import start_initialization as start_initialization
    from nsapi._bootstrap import bootstrap_data as bootstrap_data
    from nsapi._call import call as call
    from nsapi._clone import Child as Child
    from nsapi._clone import clone as clone
    from nsapi._config import Config as Config
    from nsapi._config import Namespace as Namespace
    from nsapi._config import Namespaces as Namespaces
    from nsapi._discover import discover as discover
    from nsapi._enter import enter as enter
    from nsapi._enter import setns as setns
    from nsapi._enter import unshare as unshare
    from nsapi._enter import visit as visit
    from nsapi._errors import NamespaceError as NamespaceError
    from nsapi._errors import NamespaceRestoreError as NamespaceRestoreError
    from nsapi._errors import Unsupported as Unsupported
    from nsapi._futures import ThreadPoolExecutor as ThreadPoolExecutor
    from nsapi._handle import NamespaceHandle as NamespaceHandle
    from nsapi._handle import current as current
    from nsapi._idmap import id_maps as id_maps
    from nsapi._maps import IDMap as IDMap
    from nsapi._maps import IDMaps as IDMaps
    from nsapi._pin import create as create
    from nsapi._pin import named as named
    from nsapi._pin import unpin as unpin
    from nsapi._process import Popen as Popen
    from nsapi._process import run as run
    from nsapi._process_pool import ProcessPoolExecutor as ProcessPoolExecutor
    from nsapi._snapshot import NamespaceInfo as NamespaceInfo
    from nsapi._snapshot import Snapshot as Snapshot
    from nsapi._sockets import socket as socket
    from nsapi._sockets import socketpair as socketpair
    from nsapi._target import open as open
    from nsapi._types import NamespaceType as NamespaceType
    from nsapi._types import is_namespace_supported as is_namespace_supported
    from nsapi._types import namespace_types as namespace_types
    from nsapi._types import ns_name as ns_name

_HOMES = {
    "_types": ("NamespaceType", "namespace_types", "ns_name", "is_namespace_supported"),
    "_errors": ("NamespaceError", "NamespaceRestoreError", "Unsupported"),
    "_maps": ("IDMap", "IDMaps"),
    "_config": ("Namespace", "Namespaces", "Config"),
    "_idmap": ("id_maps",),
    "_handle": ("NamespaceHandle", "current"),
    "_target": ("open",),
    "_enter": ("enter", "visit", "setns", "unshare"),
    "_snapshot": ("NamespaceInfo", "Snapshot"),
    "_discover": ("discover",),
    "_futures": ("ThreadPoolExecutor",),
    "_boot_env": ("boot_env", "start_initialization"),
    "_process": ("Popen", "run"),
    "_asyncio": ("create_subprocess_exec",),
    "_pin": ("create", "named", "unpin"),
    "_sockets": ("socket", "socketpair"),
    "_bootstrap": ("bootstrap_data",),
    "_call": ("call",),
    "_clone": ("Child", "clone"),
    "_interpreter": (),
    "_worker": (),
    "_process_pool": ("ProcessPoolExecutor",),
    "_bind": (),
    "_launcher": (),
}
_MODULES = ("oci", "testing")
_LATE = ("testing",)  # it imports pytest, which need not be here
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

#: Star-import leaves out ``open`` and ``socket``, which would hide the built-in and the module, and ``testing``, which
#: needs pytest.
__all__ = [
    "Child",
    "Config",
    "IDMap",
    "IDMaps",
    "Namespace",
    "NamespaceError",
    "NamespaceHandle",
    "NamespaceInfo",
    "NamespaceRestoreError",
    "NamespaceType",
    "Namespaces",
    "Popen",
    "Snapshot",
    "ThreadPoolExecutor",
    "ProcessPoolExecutor",
    "Unsupported",
    "boot_env",
    "bootstrap_data",
    "call",
    "clone",
    "create",
    "create_subprocess_exec",
    "current",
    "discover",
    "enter",
    "id_maps",
    "is_namespace_supported",
    "named",
    "namespace_types",
    "ns_name",
    "oci",
    "run",
    "setns",
    "socketpair",
    "start_initialization",
    "unpin",
    "unshare",
    "visit",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module, once."""
    if name not in _HOME_OF and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"nsapi.{name}")
    value = getattr(import_module(f"nsapi.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def _load_all() -> None:
    """Load at once what is loaded at first use, before a thread goes where a file of that name is a stranger's."""
    from importlib import import_module
    from sys import modules

    for name in (*_HOMES, *_MODULES):
        if name in _LATE:
            continue
        try:
            import_module(f"nsapi.{name}")
        except RuntimeError as error:
            # concurrent.futures, once the main thread has ended. Then there is none; and none inside, of all places.
            if type(error) is not RuntimeError:
                raise
            modules[f"nsapi.{name}"] = None  # type: ignore[assignment]
    for name in ("encodings.ascii", "fcntl", "resource", "select", "signal", "warnings"):
        import_module(name)


def __dir__() -> list[str]:
    """List the public names, loaded or not, but what not everybody can load: ``help(nsapi)`` loads all."""
    return sorted({*globals(), *_HOME_OF, *_MODULES} - {name for name in _LATE if name not in globals()})
