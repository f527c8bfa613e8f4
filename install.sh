#!/bin/sh
# Makes .venv with everything in it: sh install.sh [PYTHON [CONSTRAINTS]]. `make` calls it where .venv is not up to
# date. What is known to fail is said before pip begins; exit code 2: mend that first, 1: pip failed.
set -u
cd "$(dirname "$0")" || exit 1
python=${1:-python3}
constraints=${2-constraints/cpu.txt}
here=$(pwd -P)

say() { printf 'install: %s\n' "$*" >&2; }
refuse() { say "$@"; exit 2; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1; }

command -v "$python" > /dev/null ||
    refuse "PYTHON='$python' is not found: install Python 3.11 or newer, or name another one: make PYTHON=python3.12"
version=$(version_of "$python") || refuse "PYTHON='$python' does not run: $version"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "PYTHON='$python' is Python $version, needed is 3.11 or newer: name another one: make PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2> /dev/null ||
    refuse "PYTHON='$python' lacks the module venv or ensurepip: install python$version-venv (Debian, Ubuntu)"
for module in ssl sqlite3 ctypes zlib; do
    "$python" -c "import $module" 2> /dev/null ||
        refuse "PYTHON='$python' was built without the module $module: take another one (PYTHON=/usr/bin/python3), or" \
            "build it again with the headers of OpenSSL, SQLite, libffi and zlib installed"
done
[ -z "$constraints" ] || [ -f "$constraints" ] ||
    refuse "CONSTRAINTS='$constraints' is no file: allowed are constraints/cpu.txt, a file of yours, or nothing"
[ -w . ] || refuse "'$here' cannot be written by $(id -un), and .venv is made there: make it writable"
[ -d .venv ] || [ ! -e .venv ] || refuse "'$here/.venv' is no folder: move it away"

made_in=$(cat .venv/installed 2> /dev/null)
if [ -e .venv/unfinished ]; then
    say "an earlier install did not finish: .venv is made anew"
    rm -rf .venv
elif [ -n "$made_in" ] && [ "$made_in" != "$here" ]; then
    say ".venv was made in '$made_in': it is made anew here"
    rm -rf .venv
elif [ -d .venv ]; then
    has=$(version_of .venv/bin/python) ||
        refuse "'$here/.venv/bin/python' does not run (was its Python removed?): rm -r .venv, then try again"
    [ "$has" = "$version" ] ||
        refuse "'$here/.venv' is of Python $has, PYTHON='$python' is $version: rm -r .venv, or name that Python"
fi

[ -d .venv ] || { mkdir .venv && : > .venv/unfinished; } || exit 1
"$python" -m venv .venv || exit 1
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
if ! .venv/bin/python -c 'import annoy' 2> /dev/null; then
    if ! problem=$("$python" -m pipelines.commands.compiler 2>&1) &&
        ! pip --retries 0 install --quiet --only-binary :all: 'annoy>=1.17.3' > /dev/null 2>&1; then
        [ ! -e .venv/unfinished ] || rm -rf .venv
        refuse "annoy has no ready-made wheel here and cannot be compiled: $problem. See docs/install.md, also for" \
            "serving without annoy"
    fi
fi

say "into .venv: two minutes or so, annoy is compiled"
set -- install --quiet -e '.[train,serve,demo,dev,bench]'
if ! pip "$@" ${constraints:+-c "$constraints"} 2> .venv/pip.log; then
    cat .venv/pip.log >&2
    if grep -q -e 'connection broken by' -e 'setuptools.*(from versions: none)' .venv/pip.log; then
        refuse "pip reached no package index: is there a network? Behind a proxy set HTTPS_PROXY, for a mirror" \
            "PIP_INDEX_URL"
    fi
    say "pip failed, its words are above; the next try starts with a new .venv if this one was new"
    exit 1
fi
printf '%s\n' "$here" > .venv/installed
rm -f .venv/unfinished
