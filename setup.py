"""What pyproject.toml cannot say: the C core and the launcher, on Linux."""

import copy
import shutil
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
    PIDFD_GET_CGROUP_NAMESPACE PIDFD_GET_IPC_NAMESPACE PIDFD_GET_MNT_NAMESPACE PIDFD_GET_NET_NAMESPACE
    PIDFD_GET_PID_NAMESPACE PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE PIDFD_GET_TIME_NAMESPACE PIDFD_GET_USER_NAMESPACE
    PIDFD_GET_UTS_NAMESPACE
    NSFS_MAGIC PROC_SUPER_MAGIC CGROUP_SUPER_MAGIC CGROUP2_SUPER_MAGIC
    MS_NOSUID MS_NODEV MS_NOEXEC MS_REC MS_PRIVATE MS_SLAVE MS_SHARED
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
    ffi.cdef(Path("nsapi/_native.h").read_text())
    ffi.cdef("\n".join(f"#define {name} ..." for name in CONSTANTS))
    ffi.set_source(
        "nsapi._ffi",
        '#include "_kernel.h"\n#include <sys/mount.h>\n#include "_native.h"',
        sources=["nsapi/_native.c"],
        **options("nsapi/_native.h"),
    )

LAUNCHER = Extension(
    "nsapi._launch",
    ["nsapi/_launch.c", "nsapi/_nsexec.c", "nsapi/_native.c"],
    include_dirs=["nsapi"],
    depends=["nsapi/_native.h", "nsapi/_nsexec.h", "nsapi/_kernel.h"],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-ffunction-sections", "-fdata-sections"],
    extra_link_args=["-static", "-s", "-Wl,--gc-sections"],
)


class build_ext_and_launcher(build_ext):  # noqa: N801  # setuptools' own style
    """The launcher is a program: static, with no Python in it, and executable.

    By musl-gcc where there is one: what glibc does before main (it asks the CPU what it is, which a virtual machine
    answers slowly) takes longer than the launcher itself.
    """

    def get_ext_filename(self, fullname):  # noqa: D102
        return fullname.replace(".", "/") if fullname.endswith("_launch") else super().get_ext_filename(fullname)

    def build_extension(self, ext):  # noqa: D102
        if ext is not LAUNCHER:
            return super().build_extension(ext)
        path = Path(self.get_ext_fullpath(ext.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        compiler, flags = self.compiler, list(ext.extra_compile_args)
        if musl := shutil.which("musl-gcc"):
            compiler = copy.copy(compiler)
            compiler.set_executables(compiler_so=musl, linker_exe=musl)
            compiler.set_library_dirs([])  # of a Python with a shared library: they hold another libc.a
            kernel = [
                "/usr/include",
                f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}",
            ]  # musl brings no linux/*.h
            flags += ["-O2", *(word for folder in kernel for word in ("-idirafter", folder))]
        objects = compiler.compile(
            ext.sources, self.build_temp + "/launch", ext.define_macros, ext.include_dirs,
            extra_postargs=flags, depends=ext.depends,
        )  # fmt: skip
        compiler.link_executable(objects, str(path), extra_postargs=ext.extra_link_args)
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
