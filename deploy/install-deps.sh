#!/usr/bin/env bash
# Installs by apt the Debian packages that a make target needs and that are missing, and says which.
#
#   deploy/install-deps.sh build|quick|demo|test|interop|bench|fuzz|mutants
#
# Nothing is touched when nothing is missing. As another user than root it only says what to install. The IPsec products that `test`
# and `interop` want are not installed: deploy/interop-peers.sh unpacks them into a folder.
set -euo pipefail

usage() {
    echo "usage: $0 build|quick|demo|test|interop|bench|fuzz|mutants" >&2
    exit 2
}

# command:package, for each purpose; a purpose includes the ones before it.
build=(cc:gcc ld:binutils)
quick=("${build[@]}" promtool:prometheus)
demo=("${build[@]}" ip:iproute2 ping:iputils-ping iperf3:iperf3)
test=("${demo[@]}" curl:curl nft:nftables promtool:prometheus ethtool:ethtool tshark:tshark
    qemu-system-x86_64:qemu-system-x86 systemd-analyze:systemd turnutils_uclient:coturn)
interop=("${test[@]}")
bench=("${demo[@]}" ethtool:ethtool)
# libFuzzer is C++.
fuzz=("${build[@]}" c++:g++ xxd:xxd)
mutants=("${build[@]}" python3:python3)

case "${1:-}" in
build) wanted=("${build[@]}") ;;
quick) wanted=("${quick[@]}") ;;
demo) wanted=("${demo[@]}") ;;
test) wanted=("${test[@]}") ;;
interop) wanted=("${interop[@]}") ;;
bench) wanted=("${bench[@]}") ;;
fuzz) wanted=("${fuzz[@]}") ;;
mutants) wanted=("${mutants[@]}") ;;
*) usage ;;
esac

# Tools of the administrator are not in every user's path.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing=()
for entry in "${wanted[@]}"; do
    command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done
# A compiler without the headers of the C library compiles nothing.
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
# What is built without where it cannot be had: the faster AEAD library of CPUs with VAES and AVX-512.
optional=()
[ "$(uname -m)" != x86_64 ] || [ -e /usr/include/intel-ipsec-mb.h ] || optional+=(libipsec-mb-dev)

if ! command -v cargo >/dev/null; then
    echo "cargo is not in the path: install Rust 1.95 or later (https://rustup.rs), then run this again" >&2
    exit 1
fi

# The IPsec products come into a folder, whether or not anything else is missing.
bring_peers() {
    case $1 in
    test | interop) "$(dirname "$0")/interop-peers.sh" ;;
    esac
}
may_install() { command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; }
if [ ${#optional[@]} -gt 0 ] && ! may_install; then
    echo "going on without ${optional[*]} (names of Debian packages), which would make it faster"
    optional=()
fi
if [ ${#missing[@]} -eq 0 ] && [ ${#optional[@]} -eq 0 ]; then
    bring_peers "$1"
    exit
fi

if ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]} (names of Debian packages), and this system has no apt-get: install them by hand" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "missing: ${missing[*]}. As root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "installing by apt, because they are missing: ${missing[*]} ${optional[*]}"
export DEBIAN_FRONTEND=noninteractive
updated=no
update_once() {
    if [ $updated = no ]; then
        echo "refreshing the package lists (apt-get update)"
        # One broken foreign repository must not stop us; what matters is whether the packages come.
        apt-get -qq update || echo "apt-get update reported errors; going on" >&2
        updated=yes
    fi
}

# Of prometheus only the checker promtool is wanted, not the service that its package starts.
install_promtool() {
    local dir
    dir=$(mktemp -d)
    chmod 755 "$dir"
    (
        cd "$dir"
        apt-get -qq download prometheus || {
            update_once
            apt-get -qq download prometheus
        }
        dpkg-deb -x prometheus_*.deb unpacked
        install -m 755 unpacked/usr/bin/promtool /usr/local/bin/promtool
    )
    rm -rf "$dir"
    echo "promtool was taken from Debian's package prometheus and put into /usr/local/bin; the service was not installed"
}

packages=()
for package in "${missing[@]}"; do
    if [ "$package" = prometheus ]; then install_promtool; else packages+=("$package"); fi
done
install() {
    apt-get -qq -y install --no-install-recommends "$@" || {
        update_once
        apt-get -qq -y install --no-install-recommends "$@"
    }
}
[ ${#packages[@]} -eq 0 ] || install "${packages[@]}"
# Of coturn only the programs are wanted: as a service it would be there for everybody.
case " ${packages[*]} " in
*" coturn "*) ! command -v systemctl >/dev/null || systemctl disable --quiet --now coturn 2>/dev/null || true ;;
esac
[ ${#optional[@]} -eq 0 ] || install "${optional[@]}" || echo "going on without ${optional[*]}, which would make it faster"
bring_peers "$1"
