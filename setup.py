"""What pyproject.toml cannot say: the C core and the launcher, on Linux."""

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
STABLE_ABI = not FREE_THREADED or sys.version_info >= (3, 15)
WHEEL = {"py_limited_api": "cp315" if FREE_THREADED else "cp310"} if STABLE_ABI else {}
# The compiler knows their values; Python asks it.
CONSTANTS = """
    CLONE_NEWCGROUP CLONE_NEWIPC CLONE_NEWNET CLONE_NEWNS CLONE_NEWPID CLONE_NEWTIME CLONE_NEWUSER CLONE_NEWUTS CLONE_FS
    NS_GET_USERNS NS_GET_PARENT NS_GET_NSTYPE NS_GET_OWNER_UID NS_GET_MNTNS_ID NS_GET_ID SIOCGSKNS
    NS_GET_TGID_FROM_PIDNS
    PIDFD_GET_CGROUP_NAMESPACE PIDFD_GET_IPC_NAMESPACE PIDFD_GET_MNT_NAMESPACE PIDFD_GET_NET_NAMESPACE
    PIDFD_GET_PID_NAMESPACE PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE PIDFD_GET_TIME_NAMESPACE PIDFD_GET_USER_NAMESPACE
    PIDFD_GET_UTS_NAMESPACE PIDFD_THREAD
    NSFS_MAGIC PROC_SUPER_MAGIC CGROUP_SUPER_MAGIC CGROUP2_SUPER_MAGIC
    MS_NOSUID MS_NODEV MS_NOEXEC MS_REC MS_PRIVATE MS_SLAVE MS_SHARED MNT_DETACH UMOUNT_NOFOLLOW AT_RECURSIVE
""".split()


def options(*depends: str) -> dict[str, object]:
    """A fresh dict each time: cffi appends to define_macros."""
    return {
        "include_dirs": ["nsapi"],
        "depends": ["nsapi/_kernel.h", *depends],
        "define_macros": [("_GNU_SOURCE", None)],
        "extra_compile_args": ["-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden"],
    }


if sys.platform == "linux":
    from cffi import FFI

    ffi = FFI()
    headers = ("_native.h", "_clone.h", "_scan.h")
    for header in headers:
        ffi.cdef(Path("nsapi", header).read_text())
    ffi.cdef("\n".join(f"#define {name} ..." for name in CONSTANTS))
    ffi.set_source(
        "nsapi._ffi",
        "\n".join(f"#include {each}" for each in ('"_kernel.h"', "<sys/mount.h>", *(f'"{each}"' for each in headers))),
        sources=["nsapi/_native.c", "nsapi/_clone.c", "nsapi/_scan.c"],
        **options(*(f"nsapi/{each}" for each in headers)),
    )

# Where _start.c knows the assembler, it takes the place of the C library.
OWN_START = sysconfig.get_platform().endswith(("-x86_64", "-aarch64")) and sys.maxsize > 2**32
FREESTANDING = "-ffreestanding -fno-stack-protector -U_FORTIFY_SOURCE -U_FILE_OFFSET_BITS -fno-pie -fno-lto".split()

LAUNCHER = Extension(
    "nsapi._launch",
    ["nsapi/_launch.c", "nsapi/_nsexec.c", "nsapi/_native.c", *(["nsapi/_start.c"] if OWN_START else [])],
    include_dirs=["nsapi"],
    depends=["nsapi/_native.h", "nsapi/_nsexec.h", "nsapi/_kernel.h"],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=[
        *"-std=c11 -O2 -Wall -Wextra -ffunction-sections -fdata-sections".split(),
        *(FREESTANDING if OWN_START else []),
    ],
    extra_link_args=["-static", "-s", "-Wl,--gc-sections", *(["-nostdlib", "-no-pie"] if OWN_START else [])],
)


class build_ext_and_launcher(build_ext):  # noqa: N801  # setuptools' own style
    """The launcher is a program: static, with no Python in it, and executable."""

    def get_ext_filename(self, fullname):  # noqa: D102
        return fullname.replace(".", "/") if fullname.endswith("_launch") else super().get_ext_filename(fullname)

    def build_extension(self, ext):  # noqa: D102
        if ext is not LAUNCHER:
            return super().build_extension(ext)
        path = Path(self.get_ext_fullpath(ext.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        objects = self.compiler.compile(
            ext.sources, self.build_temp + "/launch", ext.define_macros, ext.include_dirs,
            extra_postargs=ext.extra_compile_args, depends=ext.depends,
        )  # fmt: skip
        self.compiler.link_executable(objects, str(path), extra_postargs=ext.extra_link_args)
        return path.chmod(0o755)


if __name__ == "__main__":  # cffi executes this file a second time, under another name
    if sys.platform == "linux":
        # Free of Python, to be preloaded into any program; -z defs: nothing is left for that program to resolve.
        boot = Extension(
            "nsapi._boot",
            ["nsapi/_boot.c"],
            extra_link_args=["-Wl,-z,defs"],
            py_limited_api=STABLE_ABI,
            **options("nsapi/_nsexec.c", "nsapi/_nsexec.h"),
        )
        setup(
            cffi_modules=["setup.py:ffi"],
            ext_modules=[boot, LAUNCHER],
            cmdclass={"build_ext": build_ext_and_launcher},
            options={"bdist_wheel": WHEEL},
        )
    else:
        setup()  # without the core: the model works, every verb raises Unsupported
