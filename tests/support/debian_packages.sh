#!/bin/sh
# Debian packages that some tests drive: a browser, the Go log verifier, fonts for seven scripts.
# Installs what is missing when root; otherwise names it, and the tests that need it are skipped and counted.
# Only `make test` runs this: neither `make install` nor `make demo` touches the system.
set -eu

wanted="chromium golang-go golang-golang-x-mod-dev fonts-noto-core fonts-noto-cjk fonts-sil-padauk"

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "test: not a Debian system; tests that drive chromium or go need them on PATH" >&2
    exit 0
fi

missing=""
for package in $wanted; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = "installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "test: missing Debian packages:$missing" >&2
    echo "test: tests that need them are skipped; to run them: sudo apt-get install$missing" >&2
    exit 0
fi

echo "test: installing Debian packages:$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of names on purpose
if ! { apt-get -q -o Acquire::Retries=3 update &&
       apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 install --no-install-recommends $missing; } \
       >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    echo "test: apt-get could not install:$missing (see above); install them by hand and run make test again" >&2
    exit 1
fi
