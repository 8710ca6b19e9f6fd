#!/bin/sh
# Runs the Containerfile's steps where no container engine runs: in a chroot of the same Debian.
#
#   try_image.sh ROOT [-- COMMAND...]
#
# ROOT: folder of the root file system; made by debootstrap unless it is there. COMMAND: what the
# image's entry point gets (default: --help). Needs root, for the chroot; the command itself runs as
# uid 10001, without capabilities to gain, without a terminal, with a read-only root file system, a
# writable /state (ROOT.state beside the root) and an empty /tmp, as in compose.yml.
#
# SITE: a folder of installed libraries, in place of downloads. KEEP: variables of this shell to hand
# on, by name. TORCH_INDEX: as in the Containerfile. WALLETS: a folder shown as /wallets.
set -eu
root=$1
shift
[ "${1-}" != "--" ] || shift
source=$(cd "$(dirname "$0")/../.." && pwd)
state=$root.state

if [ ! -d "$root/usr" ]; then
    debootstrap --variant=minbase \
        --include=python3,python3-venv,ca-certificates,build-essential \
        bookworm "$root" http://deb.debian.org/debian
fi
if [ ! -x "$root/opt/tessera/bin/tessera" ]; then
    rm -rf "$root/source" "$root/opt/tessera"
    mkdir -p "$root/source" "$root/site" "$root/wallets" "$root/state"
    (cd "$source" && git ls-files -z | tar --null -T - -cf -) | tar -xf - -C "$root/source"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    unshare -m sh -eu -c '
        [ -z "${SITE-}" ] || mount --bind "$SITE" "$1/site"
        mount -t proc proc "$1/proc"
        exec chroot "$1" env -i PATH=/usr/bin:/bin HOME=/root ${SITE:+SITE=/site} \
            sh /source/contrib/deploy/install.sh /opt/tessera /source "${2-}"
    ' - "$root" "${TORCH_INDEX-https://download.pytorch.org/whl/cpu}"
    cp "$source/contrib/deploy/entry.sh" "$root/opt/tessera/bin/entry.sh"
fi
mkdir -p "$state"
chown 10001:10001 "$state"
chmod 0700 "$state"

handed=$(for name in ${KEEP-}; do eval "printf '%s=%s\n' $name \"\${$name}\""; done)
exec unshare -m sh -eu -c '
    root=$1 state=$2 handed=$3
    shift 3
    mount --bind "$root" "$root"
    [ -z "${SITE-}" ] || mount --bind "$SITE" "$root/site"
    [ -z "${WALLETS-}" ] || mount --bind "$WALLETS" "$root/wallets"
    mount --bind "$state" "$root/state"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
    mount -t tmpfs -o mode=0755,nosuid tmpfs "$root/dev"
    for device in null zero urandom random; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    for part in "" /site /wallets; do
        mount -o remount,ro,bind "$root$part" 2> /dev/null || [ -n "$part" ]
    done
    exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
        env -i PATH=/opt/tessera/bin:/usr/bin:/bin HOME=/state \
        NUMBA_CACHE_DIR=/state/.numba HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 \
        PYTHONUNBUFFERED=1 $handed sh -c "cd /state && exec sh /opt/tessera/bin/entry.sh \"\$@\"" - "$@"
' - "$root" "$state" "$handed" "${@:---help}" < /dev/null
