#!/usr/bin/env bash
# Brings the IPsec products that Adit is tested against, and the system of the machine in which its services are tested. Nothing is
# installed: every one is unpacked into a folder of its own.
#
#   deploy/interop-peers.sh [DIRECTORY]
#
# DIRECTORY is $ADIT_INTEROP_PEERS, else ~/.cache/adit/interop. What comes into it, by apt from the Debian mirror of this machine:
#   strongswan-5.9   a root directory with strongSwan 5.9.8 of Debian 12
#   strongswan-6     a root directory with the strongSwan of Debian's testing suite, which has ML-KEM
#   uml              a Linux kernel that runs as a program (User Mode Linux), for ESP in a kernel; amd64 only
#   machine          a root directory with the systemd of Debian 12, and a Linux kernel for virtual machines; amd64 only
# Each has a file `packages` with the versions, written last. A folder that this very script made is left as it is; delete it
# to fetch newer packages. Needs no root. About 150 MB are fetched and 380 MB used.
set -euo pipefail

case "${1:-}" in
-*)
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
recipe=$(sha256sum <"$0" | cut -c1-16)
dir=${1:-${ADIT_INTEROP_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/adit/interop}}
mkdir -p "$dir"
dir=$(realpath "$dir")

swan=(charon-systemd strongswan-swanctl libstrongswan-standard-plugins libstrongswan-extra-plugins
    libcharon-extra-plugins libcharon-extauth-plugins)
# What a root directory needs besides, to be the userland of a kernel: libc, shell, tools; perl-base can open a raw socket.
userland=(libc6 dash coreutils mount grep sed kmod iproute2 iputils-ping perl-base)
# What boots by itself: systemd, and what a test of services looks with.
system=(systemd systemd-sysv libc6 dash coreutils mount grep sed gawk kmod procps iproute2 iputils-ping)
# Of the kernel's modules: these only. What else a virtual machine needs is built in.
modules=(tun veth)

is_complete() { [ "$(cat "$dir/$1/.recipe" 2>/dev/null)" = "$recipe" ]; }

# apt with nothing but one suite and no idea of what is installed here: it names the whole closure of the packages.
private_apt() {
    local suite=$1 state=$dir/.apt-$1 mirror
    shift
    if [ ! -e "$state/updated" ]; then
        mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(RELEASE)' | awk '/Debian/ && !/security/ { print $1; exit }')
        mkdir -p "$state/lists/partial" "$state/archives/partial"
        : >"$state/status"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} $suite main" >"$state/sources.list"
        cat >"$state/apt.conf" <<END
Dir::State "$state";
Dir::State::Lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Etc::SourceList "$state/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "";
APT::Install-Recommends "no";
Acquire::Languages "none";
Acquire::Retries "3";
END
        APT_CONFIG=$state/apt.conf apt-get -qq update
        touch "$state/updated"
    fi
    APT_CONFIG=$state/apt.conf apt-get -qq "$@"
}

# Where the files of a folder are put together; it takes the folder's name when all is there.
begin() {
    echo "fetching $1 (packages of Debian's $2) into $dir/$1"
    new=$dir/.new-$1
    rm -rf --one-file-system "$new"
    mkdir -p "$new"
}
finish() {
    echo "$recipe" >"$new/.recipe"
    rm -rf --one-file-system "${dir:?}/$1"
    mv "$new" "$dir/$1"
    echo "$(grep -E "^($2) " "$dir/$1/packages" | tr '\n' ' ')is in $dir/$1"
}

# Unpacks packages over one another into $new, as `dpkg` would, but runs none of their scripts.
unpack() {
    local package
    for package in "$@"; do
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$new" --keep-directory-symlink --no-same-owner \
            --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/lib/udev/hwdb.d/*'
        dpkg-deb --show --showformat '${Package} ${Version}\n' "$package" >>"$new/packages"
    done
}

# /usr is merged (bin, lib and so on are links into it), which some packages still count on being done by others.
merged_usr() {
    mkdir -p "$new"/{dev,etc,lab,proc,run,sys,tmp} "$new"/usr/{bin,sbin,lib/modules,lib64}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$new"
}

root_directory() {
    local name=$1 suite=$2 state=$dir/.apt-$2
    is_complete "$name" && return 0
    begin "$name" "$suite"
    merged_usr
    private_apt "$suite" -y --download-only install "${swan[@]}" "${userland[@]}" >/dev/null
    unpack "$state"/archives/*.deb
    # The first program of a guest kernel: /lab is the folder of the host that the word lab= of its command line names.
    cat >"$new/init" <<'END'
#!/bin/sh
mount -n -t proc proc /proc
mount -n -t hostfs lab /lab -o "$lab"
exec sh /lab/init.sh
END
    chmod 755 "$new/init"
    finish "$name" charon-systemd
    rm -rf "$state"
}

kernel() {
    is_complete uml && return 0
    if [ "$(dpkg --print-architecture)" != amd64 ]; then
        echo "User Mode Linux exists for amd64 only: going on without a kernel's ESP" >&2
        return 0
    fi
    begin uml bookworm

    (cd "$new" && private_apt bookworm download user-mode-linux)
    unpack "$new"/*.deb
    rm "$new"/*.deb
    finish uml user-mode-linux
}

machine() {
    local state=$dir/.apt-bookworm release module
    is_complete machine && return 0
    if [ "$(dpkg --print-architecture)" != amd64 ]; then
        echo "the virtual machine for the tests of services is there for amd64 only: going on without it" >&2
        return 0
    fi
    begin machine bookworm
    merged_usr
    private_apt bookworm -y --download-only install "${system[@]}" >/dev/null
    unpack "$state"/archives/*.deb
    # Of the kernel only its own files: the package wants programs that make an initial RAM disk.
    release=$(APT_CONFIG=$state/apt.conf apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ && !found++ { print $2 }')
    mkdir "$state/kernel"
    (cd "$state/kernel" && private_apt bookworm download "$release" && dpkg-deb -x ./*.deb .)
    mv "$state"/kernel/boot/vmlinuz-* "$new/vmlinuz"
    mkdir "$new/modules"
    for module in "${modules[@]}"; do
        find "$state/kernel/lib/modules" -name "$module.ko" -exec mv {} "$new/modules" \;
    done
    dpkg-deb --show --showformat '${Package} ${Version}\n' "$state"/kernel/*.deb >>"$new/packages"
    finish machine "systemd|$release"
    rm -rf "$state"
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "the peers come as Debian packages, and this system has no apt: they cannot be fetched" >&2
    exit 1
fi
exec 9>"$dir/.lock"
flock 9
kernel
machine
root_directory strongswan-5.9 bookworm
root_directory strongswan-6 forky
