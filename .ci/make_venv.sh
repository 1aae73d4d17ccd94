#!/bin/sh
# Make the virtual environment named by the argument, with the first Python >= 3.11 that is found.
# PYTHON=/path/to/python chooses another one.
set -eu

venv=$1

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-python3.11 python3 python3.15 python3.14 python3.13 python3.12 python}; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "PYTHON=$PYTHON is no Python 3.11 or newer." >&2
    else
        echo "No Python 3.11 or newer found (tried python3.11, python3, python3.15 to python3.12, python)." >&2
        echo "Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2
    fi
    exit 1
}

python=$(find_python)
echo "Making $venv with $("$python" --version)"
if "$python" -m venv --clear "$venv"; then
    exit 0
fi

# Debian ships the module that puts pip into a new environment as a package of its own.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "Installing python$version-venv"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "python$version-venv"
    exec "$python" -m venv --clear "$venv"
fi
rm -rf "$venv"
echo "$python cannot make virtual environments; on Debian and Ubuntu install its package python3-venv." >&2
exit 1
