"""Test whether this machine can compile annoy, which is distributed as C++ source, by a small extension.

install.sh runs it before anything is installed (`python -m pipelines.commands.compiler`), so it uses only the
standard library.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

EXTENSION = "#include <Python.h>\n#include <vector>\nint main_size() { return std::vector<int>(3).size(); }\n"


def command() -> list[str]:
    """The C++ compiler that pip would call: CXX, or the one Python was built with."""
    return shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")


def find_problem() -> str | None:
    """Why annoy cannot be compiled here, and what to install; None if it can be."""
    include, compiler = Path(sysconfig.get_path("include")), command()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (include / "Python.h").is_file():
        return (
            f"the headers of Python {version} are missing ('{include / 'Python.h'}'): install "
            f"python{version}-dev (Debian, Ubuntu) or python3-devel (Fedora)"
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "extension.cc")
        source.write_text(EXTENSION, encoding="utf-8")
        linked = ["-shared"] if sys.platform == "linux" else ["-c"]
        build = [
            *compiler,
            "-fPIC",
            f"-I{include}",
            *linked,
            str(source),
            "-o",
            str(source.with_suffix(".so")),
        ]
        try:
            built = subprocess.run(build, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            return (
                f"there is no C++ compiler '{compiler[0]}' ({error.strerror}): install g++ (Debian, Ubuntu) "
                "or gcc-c++ (Fedora), or name another one in CXX"
            )
    if built.returncode == 0:
        return None
    messages = built.stderr.strip().splitlines() or [f"exit code {built.returncode}"]
    reason = next((line for line in messages if "error" in line), messages[0])
    return (
        f"the C++ compiler '{shlex.join(compiler)}' cannot build a Python extension ({reason.strip()}): "
        f"install g++ and python{version}-dev (Debian, Ubuntu) or gcc-c++ and python3-devel (Fedora)"
    )


if __name__ == "__main__":
    found = find_problem()
    if found is not None:
        sys.exit(found)
