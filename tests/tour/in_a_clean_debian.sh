#!/bin/sh
# Takes the README's tour in a fresh Debian that has only the packages the README names.
#
#     sh tests/tour/in_a_clean_debian.sh                  # the last commit, as `git clone` gives it
#     sh tests/tour/in_a_clean_debian.sh --working-tree   # what stands here now, ignored files left out
#
# Needs root, debootstrap, git, and a network that reaches a Debian mirror and PyPI; takes about three minutes, so CI
# does not run it. The new system is a directory with a `chroot`, in mount and process namespaces of its own: when the
# script ends, nothing of it runs on. The network is the machine's, so ports 8400 to 8402 have to be free. A proxy's
# settings and a certificate of its own are passed on, where this environment has them, and nothing else is.
# Rejected: a container image (its tools would have to be there first, and it is no more stock than this).
set -eu

suite=bookworm
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
tree=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)

fail() {
    printf 'tour: %s\n' "$*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail 'only root can make a system and enter it'
for tool in debootstrap git unshare chroot; do
    command -v "$tool" >/dev/null || fail "$tool is not here; install it with apt-get install $tool"
done

packages=$(sed -n 's/.*`apt-get install \([a-z0-9 -]*\)`.*/\1/p' "$tree/README.md" | tr ' ' ,)
[ -n "$packages" ] || fail 'the README does not say what to install'

work=$(mktemp -d /var/tmp/hooktide-tour.XXXXXX)
system=$work/debian
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

echo "tour: a minimal Debian $suite with $packages"
debootstrap --variant=minbase --include="$packages" "$suite" "$system" "$mirror" >"$work/debootstrap.log" 2>&1 ||
    { tail -5 "$work/debootstrap.log" >&2 && fail 'debootstrap failed'; }

clone=$system/home/guest/hooktide
chroot "$system" useradd --create-home --shell /bin/bash guest
if [ "${1-}" = --working-tree ]; then
    mkdir "$clone"
    (cd "$tree" && git ls-files -coz --exclude-standard | xargs -0 sh -c 'for name; do [ ! -e "$name" ] || printf "%s\0" "$name"; done' - |
        tar -c --null -T - -f -) | tar -x -f - -C "$clone"
else
    git clone --quiet --no-hardlinks "$tree" "$clone"
fi
chroot "$system" chown -R guest:guest /home/guest/hooktide

set -- HOME=/home/guest USER=guest LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin
for name in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy PIP_INDEX_URL UV_DEFAULT_INDEX; do
    eval "value=\${$name-}"
    [ -z "$value" ] || set -- "$@" "$name=$value"
done
if [ -n "${SSL_CERT_FILE-}" ]; then
    cp "$SSL_CERT_FILE" "$system/etc/ssl/certs/the-network.crt"
    set -- "$@" SSL_CERT_FILE=/etc/ssl/certs/the-network.crt PIP_CERT=/etc/ssl/certs/the-network.crt
fi
for file in /etc/resolv.conf /etc/hosts; do
    cp "$file" "$system$file"
done

export system
unshare --mount --pid --fork --kill-child sh -eu -c '
    mount -t proc proc "$system/proc"
    mkdir -p "$system/dev/shm"
    mount -t tmpfs -o mode=1777 tmpfs "$system/dev/shm"
    exec chroot "$system" setpriv --reuid=guest --regid=guest --init-groups env -i "$@" sh -eu -c "
        cd /home/guest/hooktide
        echo \"tour: \$(. /etc/os-release && echo \$PRETTY_NAME), \$(python3 --version), as \$(id -un)\"
        for tool in uv pip pip3 git node gcc; do ! command -v \$tool || { echo \"tour: \$tool is here\"; exit 1; }; done
        python3 tests/tour/take.py README.md --patience 900
    "
' - "$@"
