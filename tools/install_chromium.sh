#!/bin/sh
# Sees to it that there is a chromium to look at pages with: the one that is there, else Debian's.
set -eu
if command -v chromium >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "install_chromium: there is neither a program named chromium nor apt-get: install Chromium, then run this again" >&2
    exit 2
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install_chromium: installing chromium needs root: run 'apt-get install chromium' as root" >&2
        exit 2
    fi
    sudo=sudo
fi
$sudo apt-get update -qq
# Chromium's own fonts lack the signs and letters of a page; a package's questions would wait for an answer for ever.
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core </dev/null
command -v chromium >/dev/null || { echo "install_chromium: apt-get installed no program named chromium" >&2; exit 2; }
