#!/bin/sh
# Install the Autobahn test suite, whose code is of the Python 2 age, into a CPython 2.7 environment of its own.
#   install_autobahn.sh VENV DIRECTORY
# The environment is made by a virtualenv that still knows Python 2; a python2.7 is looked for on the PATH and among
# the versions of pyenv. Nothing is done, and no network is used, when it is there.
set -eu

venv=$1
home=$2
[ -x "$home/bin/wstest" ] && exit 0

python2=$(command -v python2.7 || ls "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7 2>/dev/null | tail -n 1 || true)
if [ -z "$python2" ]; then
    echo "The Autobahn test suite needs CPython 2.7, and there is none: install one, for example 'pyenv install 2.7.18'." >&2
    exit 1
fi
echo "Installing the Autobahn test suite into $home"
"$venv/bin/python" -m venv "$home/.maker"
"$home/.maker/bin/python" -m pip install --quiet --disable-pip-version-check 'virtualenv<20.22'
"$home/.maker/bin/virtualenv" --quiet --python "$python2" "$home"
"$home/bin/pip" install --quiet autobahntestsuite==0.8.2
