#!/bin/sh
# Make the Python environment that the Makefile uses, or leave it as it is when nothing has changed:
#     tools/environment.sh FOLDER [VERSION...]
#     tools/environment.sh --find [VERSION...]     only print the Python that would be taken
# VERSION: which Python versions will do, best first. PYTHON=/path/to/python overrides the search.
# STACK=engine leaves Scipion out and takes the newest numpy: engine, io, jobs and the command line need no more.
# STACK=cryodrgn holds the program cryodrgn and nothing of this project: tests call it as a process.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
venv=${1:-.venv}
[ $# -gt 0 ] && shift
versions=${*:-3.10 3.9 3.8 3.11 3.12}
stack=${STACK:-scipion}

say() { printf '%s\n' "$*" >&2; }

case $stack$root in
    scipion*[[:space:]]*) say "Scipion cannot run from a folder with a space in its path: move $root."; exit 1 ;;
esac

# Print the version (3.10) of a Python that starts; nothing for one that does not (a pyenv shim without that version).
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

# Print what a Python lacks: venv, tk.
lacks() { "$1" -c '
import importlib.util as u, sys
missing = []
if not (u.find_spec("ensurepip") and u.find_spec("venv")):
    missing.append("venv")
if sys.argv[1] == "scipion" and not (u.find_spec("_tkinter") and u.find_spec("tkinter")):
    missing.append("tk")
print(" ".join(missing))' "$stack" 2>/dev/null || echo broken; }

# Print the Pythons of one version, one per line.
candidates() {
    command -v "python$1" 2>/dev/null || true
    for path in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python "/usr/bin/python$1" "/usr/local/bin/python$1"; do
        [ -x "$path" ] && echo "$path"
    done
    for path in $(command -v python3) /usr/bin/python3 /usr/local/bin/python3; do
        [ "$(version_of "$path")" = "$1" ] && echo "$path"
    done
    return 0
}

# Name the packages that bring what the Python lacks.
remedy() {
    if [ "$(version_of /usr/bin/python3)" = "$2" ]; then prefix=python3; else prefix=python$2; fi
    packages=
    for part in $3; do packages="$packages $prefix-$part"; done
    case $1 in
        "${PYENV_ROOT:-$HOME/.pyenv}"/*) say "  sudo apt-get install tk-dev && pyenv install --force $2" ;;
        *) say "  sudo apt-get install$packages" ;;
    esac
}

find_python() {
    found=
    for version in $versions; do
        for path in $(candidates "$version"); do
            [ "$(version_of "$path")" = "$version" ] || continue
            missing=$(lacks "$path")
            [ "$missing" = broken ] && continue
            if [ -z "$missing" ]; then
                python=$path
                return
            fi
            [ -n "$found" ] || { found=$path found_version=$version found_missing=$missing; }
        done
    done
    if [ -n "$found" ]; then
        say "$found (Python $found_version) is there, but without: $found_missing (Scipion needs tk even without a screen)."
        say "Install what is missing, then run make again:"
        remedy "$found" "$found_version" "$found_missing"
    else
        say "No Python $(echo "$versions" | sed 's/ /, /g') was found (Scipion runs on 3.8 to 3.12, best on 3.10)."
        say "Install one, or name one with PYTHON=/path/to/python:"
        say "  sudo apt-get install python3 python3-venv python3-tk"
        say "or, where the system's Python is too new, with pyenv (https://github.com/pyenv/pyenv):"
        say "  sudo apt-get install tk-dev && pyenv install 3.10"
    fi
    exit 1
}

if [ "$venv" = --find ]; then
    find_python
    echo "$python"
    exit
fi

# Print the file of versions.
versions_of() { if [ "$stack" = cryodrgn ]; then echo requirements/cryodrgn.txt; else echo "requirements/py$1.txt"; fi; }

# One line says what an environment was made from: same line, nothing to do.
stamp_of() {
    printf '%s %s %s ' "$root" "$stack" "$1"
    { [ "$stack" = cryodrgn ] || cat setup.py pyproject.toml; cat tools/environment.sh "$(versions_of "$1")"; } | cksum
}

if [ -z "${PYTHON:-}" ] && [ -x "$venv/bin/python" ] && [ -f "$venv/.stamp" ]; then
    version=$(version_of "$venv/bin/python")
    case " $versions " in
        *" $version "*) [ "$(cat "$venv/.stamp")" = "$(stamp_of "$version")" ] && exit 0 ;;
    esac
fi

if [ -n "${PYTHON:-}" ]; then
    python=$(command -v "$PYTHON") || { say "PYTHON=$PYTHON is no program."; exit 1; }
    version=$(version_of "$python")
    case " 3.8 3.9 3.10 3.11 3.12 " in
        *" $version "*) ;;
        *) say "PYTHON=$PYTHON is Python ${version:-unknown}; Scipion runs on 3.8 to 3.12."; exit 1 ;;
    esac
    missing=$(lacks "$python")
    if [ -n "$missing" ]; then
        say "$python (Python $version) lacks: $missing. Install it, then run make again:"
        remedy "$python" "$version" "$missing"
        exit 1
    fi
    if [ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$(stamp_of "$version")" ]; then exit 0; fi
else
    find_python
fi
version=$(version_of "$python")
constraints=$(versions_of "$version")

size=1.2
[ "$stack" = cryodrgn ] && size=2.5
say "Making $venv with $python (Python $version): a minute or two, up to $size GB."
"$python" -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install -qq -c "$constraints" pip setuptools wheel
if [ "$stack" = engine ]; then
    pip install -qq "numpy>=2" scipy ducc0 mrcfile emtable numba matplotlib pytest pytest-xdist
    pip install -qq --no-build-isolation --no-deps -e .
elif [ "$stack" = cryodrgn ]; then
    # torch first and alone: its build for the CPU where pip is told of one (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL).
    pip install -qq -c "$constraints" torch
    pip install -qq -c "$constraints" cryodrgn
else
    pip install -qq -c "$constraints" scipion-app
    pip install -qq -c "$constraints" --no-build-isolation -e ".[test,dev]"
fi
stamp_of "$version" > "$venv/.stamp"
say "$venv is ready."
