#!/usr/bin/env bash
# Install, with apt, what the demo or the tests need and this machine has not; nothing else, and no daemon is started.
#
#   scripts/install-parts.sh [--for python|demo|demo-vm|test] [--list]
#
#   --for python   Python 3.11 or newer with venv
#   --for demo     (the default) an engine, a registry, HAProxy, network namespaces
#   --for demo-vm  the same, libvirt and QEMU
#   --for test     all of that, and a second engine
#   --list         only say which packages are missing
#
# For Debian 12, Ubuntu 22.04 and newer. Elsewhere it says which programs are missing.
set -euo pipefail

PYTHON=${PYTHON:-python3}
purpose=demo
list=no
packages=()
programs=()

fail() {
    echo "install-parts: $*" >&2
    exit 1
}

has() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

# need PROGRAM PACKAGE...: the packages, unless the program is there.
need() {
    local program=$1
    shift
    if ! has "$program"; then
        programs+=("$program")
        packages+=("$@")
    fi
}

# Whether apt knows a package in a version that can be installed.
offered() {
    [[ $(apt-cache policy "$1" 2>/dev/null) == *"Candidate: "[^\(]* ]]
}

has_netavark() {
    local folder
    for folder in /usr/lib/podman /usr/libexec/podman /usr/local/lib/podman /usr/local/libexec/podman; do
        if [ -x "$folder/netavark" ]; then return 0; fi
    done
    return 1
}

need_python() {
    # shellcheck disable=SC2016 # it is Python
    if "$PYTHON" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return; fi
    if has "$PYTHON" && ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        fail "$("$PYTHON" --version) is too old: install Python 3.11 or newer with venv, and say PYTHON=python3.11 make ..."
    fi
    programs+=("$PYTHON with venv")
    packages+=("$(basename "$PYTHON")" "$(basename "$PYTHON")-venv")
}

need_podman() {
    need podman podman
    need conmon conmon
    need iptables iptables
    # crun refuses machines that mix both versions of cgroups.
    need runc runc
    if ! has_netavark; then
        programs+=(netavark)
        packages+=(netavark)
    fi
}

need_docker() {
    need dockerd docker.io
    need containerd containerd
    need iptables iptables
}

# Virtual machines: libvirt with QEMU, and what their images are made with.
need_machines() {
    need qemu-system-x86_64 qemu-system-x86
    need qemu-img qemu-utils
    need libvirtd libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system
    need virsh libvirt-clients
    need mke2fs e2fsprogs
    need depmod kmod
}

need_parts() {
    need ip iproute2
    need nsenter util-linux
    need unshare util-linux
    need tini tini
    need busybox busybox-static
    need docker-registry docker-registry
    need haproxy haproxy
    if [ "$purpose" = demo-vm ] || { [ "$purpose" = test ] && [ "$(uname -m)" = x86_64 ]; }; then need_machines; fi
    if [ "$purpose" = test ]; then
        # Images as those of clouds are made from a mirror.
        need mmdebstrap mmdebstrap
        need curl curl
        need ps procps
        need buildah buildah
        need dig bind9-dnsutils
        need etcd etcd-server
        need etcdctl etcd-client
        need wg wireguard-tools
        need wireguard-go wireguard-go
        need faketime faketime
    fi
    # Podman before 4.0, as in Ubuntu 22.04, has no netavark; Docker then does its work.
    if has_netavark || offered netavark || ! has apt-get; then
        need_podman
        if [ "$purpose" = test ]; then need_docker; fi
    else
        need_docker
    fi
}

# With the lists of a machine freshly installed or built, apt knows nothing yet.
refresh_lists() {
    if [ -z "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null)" ]; then
        echo "install-parts: reading the lists of packages"
        apt-get -qq update || fail "apt-get update failed: is the network reachable?"
    fi
}

install_packages() {
    local policy=/usr/sbin/policy-rc.d log
    if [ ! -e "$policy" ]; then
        # Keeps daemons from being started while they are installed.
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    log=$(mktemp)
    echo "install-parts: installing ${packages[*]}"
    if ! DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends --no-remove \
        -o DPkg::Lock::Timeout=120 "${packages[@]}" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "apt-get failed; all of its output is in $log"
    fi
    rm -f "$log"
    keep_daemons_off
}

# Not at the next start of the machine either: the demo and the tests start their own.
keep_daemons_off() {
    local package
    if ! has systemctl; then return 0; fi
    for package in "${packages[@]}"; do
        case $package in
        etcd-server) systemctl --quiet disable etcd.service >/dev/null 2>&1 || true ;;
        libvirt-daemon-system) systemctl --quiet disable libvirtd.service libvirtd.socket >/dev/null 2>&1 || true ;;
        docker.io) systemctl --quiet disable docker.service docker.socket >/dev/null 2>&1 || true ;;
        containerd | haproxy | docker-registry) systemctl --quiet disable "$package.service" >/dev/null 2>&1 || true ;;
        esac
    done
}

become_root() {
    local command="sudo $0 --for $purpose"
    has sudo || fail "this needs root, and there is no sudo; as root: $0 --for $purpose"
    if [ ! -t 0 ] || [ ! -t 1 ]; then
        fail "missing: ${packages[*]}. Install them with: $command"
    fi
    echo "To be installed: ${packages[*]}"
    read -r -p "Run '$command'? [Y/n] " answer
    case $answer in
    "" | [yY] | [yY][eE][sS]) exec sudo PYTHON="$PYTHON" "$0" --for "$purpose" ;;
    *) fail "nothing installed" ;;
    esac
}

find_missing() {
    packages=()
    programs=()
    if [ "$purpose" = python ]; then need_python; else need_parts; fi
}

while [ $# -gt 0 ]; do
    case $1 in
    --for)
        purpose=${2:-}
        shift
        ;;
    --for=*) purpose=${1#--for=} ;;
    --list) list=yes ;;
    *)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        if [ "$1" = --help ]; then exit 0; fi
        exit 2
        ;;
    esac
    shift
done
case $purpose in
python | demo | demo-vm | test) ;;
*) fail "--for is python, demo, demo-vm or test, not '$purpose'" ;;
esac

find_missing
if [ ${#programs[@]} -eq 0 ]; then exit 0; fi
if ! has apt-get; then fail "missing: ${programs[*]}. This script knows apt only; install them by hand"; fi
if [ "$list" = yes ]; then
    printf '%s\n' "${packages[@]}" | sort -u
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then become_root; fi
refresh_lists
find_missing # now that it is known what apt offers
install_packages
find_missing
if [ ${#programs[@]} -gt 0 ]; then fail "still missing: ${programs[*]}"; fi
echo "install-parts: done"
