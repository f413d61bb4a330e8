"""What pyproject.toml cannot say: the C core, on Linux."""

import sys
import sysconfig
from pathlib import Path

from setuptools import setup

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
STABLE_ABI = not FREE_THREADED or sys.version_info >= (3, 15)
WHEEL = {"py_limited_api": "cp315" if FREE_THREADED else "cp310"} if STABLE_ABI else {}
# The compiler knows their values; Python asks it.
CONSTANTS = """
    CLONE_NEWCGROUP CLONE_NEWIPC CLONE_NEWNET CLONE_NEWNS CLONE_NEWPID CLONE_NEWTIME CLONE_NEWUSER CLONE_NEWUTS CLONE_FS
    NS_GET_USERNS NS_GET_PARENT NS_GET_NSTYPE NS_GET_OWNER_UID NS_GET_MNTNS_ID NS_GET_ID SIOCGSKNS
    PIDFD_GET_CGROUP_NAMESPACE PIDFD_GET_IPC_NAMESPACE PIDFD_GET_MNT_NAMESPACE PIDFD_GET_NET_NAMESPACE
    PIDFD_GET_PID_NAMESPACE PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE PIDFD_GET_TIME_NAMESPACE PIDFD_GET_USER_NAMESPACE
    PIDFD_GET_UTS_NAMESPACE
    NSFS_MAGIC PROC_SUPER_MAGIC CGROUP_SUPER_MAGIC CGROUP2_SUPER_MAGIC
    MS_NOSUID MS_NODEV MS_NOEXEC MS_REC MS_PRIVATE MS_SLAVE MS_SHARED
""".split()

if sys.platform == "linux":
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(Path("nsapi/_native.h").read_text())
    ffi.cdef("\n".join(f"#define {name} ..." for name in CONSTANTS))
    ffi.set_source(
        "nsapi._ffi",
        '#include "_kernel.h"\n#include <sys/mount.h>\n#include "_native.h"',
        sources=["nsapi/_native.c"],
        include_dirs=["nsapi"],
        depends=["nsapi/_native.h", "nsapi/_kernel.h"],
        define_macros=[("_GNU_SOURCE", None)],
        extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden"],
    )

if __name__ == "__main__":  # cffi executes this file a second time, under another name
    if sys.platform == "linux":
        setup(cffi_modules=["setup.py:ffi"], options={"bdist_wheel": WHEEL})
    else:
        setup()  # without the core: the model works, every verb raises Unsupported
