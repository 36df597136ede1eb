#!/usr/bin/env bash
# Run a command as root, since containers, namespaces and mounts need it: at once when root, else through sudo, if one agrees.
set -euo pipefail

if [ "$(id -u)" -eq 0 ]; then exec "$@"; fi
if ! command -v sudo >/dev/null; then
    echo "this needs root, and there is no sudo; as root: $*" >&2
    exit 1
fi
if [ ! -t 0 ]; then
    echo "this needs root, and there is no terminal to ask at; run: sudo $*" >&2
    exit 1
fi
read -r -p "Containers and network namespaces need root. Run 'sudo $*'? [Y/n] " answer
case "$answer" in
"" | [yY] | [yY][eE][sS]) exec sudo --preserve-env=CI,TERM,NO_COLOR "$@" ;;
*) exit 1 ;;
esac
