#!/bin/sh
# Install what the integration and fault tests need besides Python, where it is absent: nginx, node with the npm
# package ws, iproute2, iptables, four proxies. As root on Debian by apt-get, else it says what is missing and the tests that need
# it are skipped with their reason. Nothing is done, and no network is used, when everything is there.
set -eu

servers=$(dirname "$0")/../tests/integration/servers
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=

want() {  # program, Debian package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

want nginx nginx-light
want node nodejs
want npm npm
want ip iproute2
want iptables iptables
want setpriv util-linux
want tinyproxy tinyproxy-bin
want privoxy privoxy
want squid squid
want microsocks microsocks

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "Installing for the tests:$missing"
        # RUNLEVEL=1: nginx is wanted as a program, not as a service that starts at once.
        # shellcheck disable=SC2086
        { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null; } ||
            echo "WARNING: could not install:$missing. The tests that need them will be skipped (CI=true: fail)." >&2
    else
        echo "WARNING: not installed:$missing. The tests that need them will be skipped (CI=true: fail)." >&2
    fi
fi

wanted=$(sed -n 's/.*"ws": "\(.*\)".*/\1/p' "$servers/package.json")
present=$(sed -n 's/.*"version": "\(.*\)".*/\1/p' "$servers/node_modules/ws/package.json" 2>/dev/null || true)
if [ "$wanted" != "$present" ]; then
    if command -v npm >/dev/null 2>&1; then
        echo "Installing the npm package ws $wanted for the tests"
        (cd "$servers" && npm install --silent --no-audit --no-fund --no-package-lock </dev/null) ||
            echo "WARNING: npm could not install ws $wanted. The tests that need it will be skipped (CI=true: fail)." >&2
    else
        echo "WARNING: no npm, so no ws $wanted. The tests that need it will be skipped (CI=true: fail)." >&2
    fi
fi
