#!/usr/bin/env bash
# Brings the systems that `adit-bench tunnel` compares Adit with.
#
#   deploy/bench-peers.sh [--cargo] [DIRECTORY]
#
# By apt, when missing: openvpn, wireguard-tools, iperf3, openssl (needs root; otherwise it says what to install).
# Into DIRECTORY (default: $ADIT_BENCH_PEERS, else ~/.cache/adit-bench/peers), without installing them: the wireguard-go and
# nebula of Debian's testing suite, since those of the stable suite are years old. Both are single static programs. A folder that is
# there is left as it is; delete it to fetch a newer one.
# With --cargo: also gotatun and boringtun from crates.io, which compile for some minutes.
set -euo pipefail

suite=forky
unpacked=(wireguard-go nebula)
tools=(openvpn:openvpn wg:wireguard-tools iperf3:iperf3 openssl:openssl)

with_cargo=no
dir=${ADIT_BENCH_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/adit-bench/peers}
for argument in "$@"; do
    case $argument in
    --cargo) with_cargo=yes ;;
    -*)
        sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    *) dir=$argument ;;
    esac
done
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
mkdir -p "$dir"
dir=$(realpath "$dir")

install_tools() {
    local entry missing=()
    for entry in "${tools[@]}"; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
        echo "missing: ${missing[*]} (Debian packages); install them as root, or go without" >&2
        return 0
    fi
    echo "installing by apt, because they are missing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -y install --no-install-recommends "${missing[@]}" ||
        { apt-get -qq update && apt-get -qq -y install --no-install-recommends "${missing[@]}"; }
}

# An apt of its own, with nothing but the other suite, so that the system's lists and pins stay as they are.
private_apt() {
    local state=$dir/.apt mirror
    if [ ! -e "$state/apt.conf" ]; then
        mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(RELEASE)' | awk '/Debian/ && !/security/ { print $1; exit }')
        mkdir -p "$state/lists/partial" "$state/archives/partial"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} $suite main" >"$state/sources.list"
        cat >"$state/apt.conf" <<END
Dir::Etc::SourceList "$state/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$state/lists";
Dir::Cache "$state";
APT::Sandbox::User "";
END
    fi
    APT_CONFIG=$state/apt.conf apt-get -qq "$@"
}

unpack() {
    local package scratch missing=()
    for package in "${unpacked[@]}"; do
        [ -d "$dir/$package" ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    private_apt update || return 1
    for package in "${missing[@]}"; do
        scratch=$(mktemp -d "$dir/.unpack.XXXXXX")
        (cd "$scratch" && private_apt download "$package" && dpkg-deb -x ./*.deb files) || return 1
        echo "$package $(dpkg-deb -f "$scratch"/*.deb Version) is in $dir/$package"
        rm -rf "${dir:?}/$package"
        mv "$scratch/files" "$dir/$package"
        rm -rf "$scratch"
    done
}

install_tools || echo "not all tools could be installed; going on without" >&2
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    unpack || echo "wireguard-go and nebula could not be fetched (no network, or no mirror with $suite); going on without" >&2
else
    echo "no apt here: put wireguard-go and nebula into PATH yourself" >&2
fi
if [ $with_cargo = yes ]; then
    for crate in gotatun-cli boringtun-cli; do
        cargo install --quiet --locked --root "$dir" "$crate" && echo "$crate is in $dir/bin"
    done
fi
