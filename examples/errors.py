"""Provoke failures, and print what each tells: the step, the errno, the cause. Works as root and as an ordinary user."""

import os
import pickle
from collections.abc import Callable

import nsapi


def fails(words: str, call: Callable[[], object]) -> BaseException:
    """Call what must fail; print how it does."""
    try:
        call()
    except (OSError, ValueError) as error:
        classes = dict.fromkeys(each.__name__ for each in type(error).__mro__ if each not in Exception.__mro__)
        print(f"\n{words}\n  {', '.join(classes)}\n  {error}")
        return error
    raise AssertionError(f"{words}: did not fail")


def main() -> None:
    """Show five kinds of failure, from the first that is noticed to the last."""
    fails(
        "A Config that means nothing: ValueError, before any system call",
        lambda: nsapi.run(["true"], config=nsapi.Config.new("user", hostname="mine")),
    )
    fails(
        "What the kernel would refuse, or do and not undo: refused before, step 'check'",
        lambda: nsapi.enter(os.getpid(), "user"),
    )
    fails(
        "A target that is not there",
        lambda: nsapi.open("no-such-name"),
    )
    fails(
        "What this version cannot do yet",
        lambda: nsapi.run(["true"], config=nsapi.Config.new("user", "mnt", root="/srv")),
    )
    error = fails(
        "A step that fails: which of how many",
        lambda: nsapi.run(["/no/such/program"], config=nsapi.Config.new("user")),
    )
    assert isinstance(error, nsapi.NamespaceError)
    assert isinstance(error, FileNotFoundError)
    print("\nThe last one in parts:")
    for name in ("errno", "strerror", "step", "index", "total", "type", "path", "hint"):
        print(f"  {name:9} {getattr(error, name)!r}")
    print(f"  pickled   {str(pickle.loads(pickle.dumps(error))) == str(error)}")


if __name__ == "__main__":
    main()
