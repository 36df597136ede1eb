#!/usr/bin/env bash
# Run a command as root, since containers, namespaces and mounts need it: at once when root, through sudo otherwise.
set -euo pipefail
if [ "$(id -u)" -eq 0 ]; then exec "$@"; fi
if ! command -v sudo >/dev/null; then echo "this needs root, and there is no sudo: run it as root" >&2; exit 1; fi
exec sudo --preserve-env=CI,TERM,NO_COLOR "$@"
